"""Where a job stands, by the same tags and shares that ``plan`` serves by: how many go before it, and when it starts.

A position is what would happen if nobody else came: the tags of start-time fair queueing tell how many jobs of each
user of the tier start before this one, the shares how many of the other tiers meanwhile. Pure; numpy, because hundreds
of readers ask at once with thousands of users waiting.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from tessera.jobs import Tier
from tessera.policy.queue import Backlog, Lane, QueuedJob
from tessera.policy.state import Policy

Numbers = NDArray[np.float64]
KEPT_S = 1.0  # a picture of the queue is used for so long: hundreds of readers ask at once


@dataclass(frozen=True, kw_only=True)
class Standing:
    """``position`` 1 starts next. ``ahead``: jobs of each tier that start before; times in seconds from now."""

    position: int
    position_in_tier: int
    position_of_user: int
    ahead: Mapping[Tier, int]
    start_s: float
    own_s: float


@dataclass(frozen=True, slots=True)
class _Crowd:
    """The users of a tier who wait for the same devices: tag of the first job, ticket, jobs, mean cost and seconds."""

    tags: Numbers
    tickets: Numbers
    jobs: Numbers
    costs: Numbers
    seconds: Numbers

    def before(self, tag: float, ticket: float) -> tuple[int, float]:
        """How many jobs start before a tag, and the seconds that they take together."""
        if not len(self.tags):
            return 0, 0.0
        turns = (tag - self.tags) / self.costs
        whole = np.round(turns)
        tied = np.abs(turns - whole) < 1e-6  # the same tag: who stands before the other stays there, turn after turn
        reached = np.where(tied, whole + (self.tickets < ticket), np.ceil(turns))
        counts = np.clip(reached, 0, self.jobs)
        return int(counts.sum()), float((counts * self.seconds).sum())

    def all(self) -> tuple[int, float]:
        """All jobs, and the seconds that they take together."""
        return int(self.jobs.sum()), float((self.jobs * self.seconds).sum())


class Places:
    """Answers for one policy. ``slots`` of each worker and its device come from whoever knows the workers."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._crowds: dict[tuple[Tier, frozenset[str]], tuple[float, _Crowd]] = {}

    def standing(
        self, job: QueuedJob, models: frozenset[str], devices: frozenset[str], slots: int, now: float
    ) -> Standing:
        """The place of a waiting job.

        ``models``: all that compete for the devices of the job's model, ``devices`` those, ``slots`` theirs together.
        """
        policy = self._policy
        queue = policy.queue.tiers[job.tier]
        backlog = queue.lanes[job.model].users[job.user_id]
        own_ahead = max(0, job.order - backlog.jobs[0].order) if backlog.jobs else 0
        own_ahead = min(own_ahead, backlog.live - 1)
        first = _tag(queue.lanes[job.model], job.user_id, backlog)
        mean_cost = backlog.cost_mt / max(1, backlog.live)
        tag, ticket = first + own_ahead * mean_cost, float(backlog.ticket)
        in_tier, tier_s = self._crowd(job.tier, models, now).before(tag, ticket)
        in_tier = max(in_tier, own_ahead)
        own_s = policy.estimates.seconds(job.model, job.cost_mt)
        ahead, total_s = {job.tier: in_tier}, tier_s
        for other in Tier:
            if other is job.tier:
                continue
            count, seconds = self._meanwhile(job.tier, other, models, devices, tier_s, now)
            if count:
                ahead[other] = count
                total_s += seconds
        start_s = total_s / max(1, slots)
        cap = policy.queue.caps.get(job.user_id, 1)
        own_running = policy.queue.running.get(job.user_id, 0)
        if own_ahead + own_running >= cap:  # the user's own jobs follow one another, whatever is free
            start_s = max(start_s, (own_ahead + own_running - cap + 1) / cap * own_s)
        return Standing(
            position=sum(ahead.values()) + 1,
            position_in_tier=in_tier + 1,
            position_of_user=own_ahead + 1,
            ahead=ahead,
            start_s=start_s,
            own_s=own_s,
        )

    def _meanwhile(
        self, mine: Tier, other: Tier, models: frozenset[str], devices: frozenset[str], mine_s: float, now: float
    ) -> tuple[int, float]:
        """What another tier is served while mine is served ``mine_s``: its share of it, and what its pass is behind."""
        count, seconds = self._crowd(other, models, now).all()
        if not count:
            return 0, 0.0
        shares = self._policy.rules.shares
        behind = [
            (device.pass_of(mine) - device.pass_of(other)) * shares[other]
            for name, device in self._policy.devices.items()
            if name in devices
        ]
        due_s = mine_s * shares[other] / shares[mine] + max(0.0, sum(behind) / max(1, len(behind)))
        due_s = min(due_s, seconds)
        return min(count, int(due_s / (seconds / count) + 0.5)), due_s

    def _crowd(self, tier: Tier, models: frozenset[str], now: float) -> _Crowd:
        kept = self._crowds.get((tier, models))
        if kept is not None and 0 <= now - kept[0] < KEPT_S:
            return kept[1]
        crowd = self._look(tier, models)
        if len(self._crowds) > 256:
            self._crowds.clear()
        self._crowds[tier, models] = (now, crowd)
        return crowd

    def _look(self, tier: Tier, models: frozenset[str]) -> _Crowd:
        queue, estimates = self._policy.queue.tiers[tier], self._policy.estimates
        rows: list[tuple[float, float, float, float, float]] = []
        for model, lane in queue.lanes.items():
            if model not in models or not lane.live:
                continue
            per_mt = estimates.seconds(model, 1_000_000) / 1_000_000
            for user, backlog in lane.users.items():
                tag = _tag(lane, user, backlog)
                mean = backlog.cost_mt / max(1, backlog.live)
                rows.append((tag, float(backlog.ticket), float(backlog.live), max(mean, 1e-9), per_mt * mean))
        columns = np.array(rows, dtype=np.float64).reshape(-1, 5).T
        return _Crowd(*columns)


def _tag(lane: Lane, user: UUID, backlog: Backlog) -> float:
    """Where a user of a lane stands, from the virtual time of its pool on, as ``Queue.head`` has it."""
    pool = lane.pool
    listed = backlog.key if backlog.listed else pool.tag(user)
    return max(listed, pool.finish.get(user, 0.0)) - pool.virtual

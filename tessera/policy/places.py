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
from tessera.policy.rules import TIER_RANK
from tessera.policy.state import Policy

MAX_TURNS = 500  # of the tiers, followed one by one: the batch tier has one for 23 of the pro tier
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

    def before(self, first: float, ticket: float, turns: int, cost: float) -> tuple[int, float]:
        """How many jobs start before somebody's, and the seconds that they take together.

        He stands at the tag ``first``, and so many jobs of his own, of this cost, go before the one that is meant.
        """
        if not len(self.tags):
            return 0, 0.0
        reached = (first + turns * cost - self.tags) / self.costs
        whole = np.round(reached)
        tied = np.abs(reached - whole) < 1e-6
        # Of two with the same tag, who was listed with it first goes first: he who stands there now, then he whose job
        # before that started earlier.
        sooner = np.where(
            (whole == 0) | (turns == 0),
            (whole == 0) & ((turns > 0) | (self.tickets < ticket)),
            (self.costs > cost)
            | ((self.costs == cost) & ((whole < turns) | ((whole == turns) & (self.tickets < ticket)))),
        )
        counts = np.clip(np.where(tied, whole + sooner, np.ceil(reached)), 0, self.jobs)
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
        in_tier, tier_s = self._crowd(job.tier, models, now).before(
            first, float(backlog.ticket), own_ahead, max(mean_cost, 1e-9)
        )
        in_tier = max(in_tier, own_ahead)
        own_s = policy.estimates.seconds(job.model, job.cost_mt)
        tiers = self._ahead(job.tier, models, devices, (in_tier, tier_s), own_s, now)
        ahead = {tier: count for tier, (count, _) in tiers.items()}
        total_s = sum(seconds for _, seconds in tiers.values())
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

    def _ahead(
        self,
        mine: Tier,
        models: frozenset[str],
        devices: frozenset[str],
        in_tier: tuple[int, float],
        own_s: float,
        now: float,
    ) -> dict[Tier, tuple[int, float]]:
        """Of each tier the jobs, and their seconds, that start before a job of mine with ``in_tier`` before it.

        The tiers are served in turns, as ``plan`` does. All but the last turns are counted at once, by the shares: what
        each has by then depends on its pass alone.
        """
        shares = self._policy.rules.shares
        at = [device for name, device in self._policy.devices.items() if name in devices]
        passes = {tier: sum(each.pass_of(tier) for each in at) / max(1, len(at)) for tier in Tier}
        left = {tier: self._crowd(tier, models, now).all() for tier in Tier if tier is not mine}
        left = {tier: of for tier, of in left.items() if of[0]} | {mine: (in_tier[0] + 1, in_tier[1] + own_s)}
        each_s = {tier: max(seconds / count, 1e-9) for tier, (count, seconds) in left.items()}
        if in_tier[0]:
            each_s[mine] = max(in_tier[1] / in_tier[0], 1e-9)
        started = {mine: max(0, in_tier[0] - 1)}
        reached = passes[mine] + started[mine] * each_s[mine] / shares[mine]
        for tier, (count, _) in left.items():
            if tier is not mine:
                due = int((reached - passes[tier]) * shares[tier] / each_s[tier])
                started[tier] = min(count, max(0, due))
        for tier, count in started.items():
            passes[tier] += count * each_s[tier] / shares[tier]
        waiting = {tier for tier, (count, _) in left.items() if started[tier] < count}
        for _ in range(MAX_TURNS):
            virtual = sum(shares[tier] * passes[tier] for tier in waiting) / sum(shares[tier] for tier in waiting)
            turn = min(
                waiting,
                key=lambda tier: (
                    passes[tier] > virtual + 1e-6,
                    passes[tier] + each_s[tier] / shares[tier],
                    TIER_RANK[tier],
                ),
            )
            if turn is mine and started[mine] == in_tier[0]:
                break
            started[turn] += 1
            passes[turn] += each_s[turn] / shares[turn]
            if started[turn] == left[turn][0]:
                waiting.remove(turn)
        started[mine] = in_tier[0]
        return {tier: (count, count * each_s[tier]) for tier, count in started.items() if count or tier is mine}

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

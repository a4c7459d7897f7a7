"""The jobs that wait, in the order in which each tier serves its users: start-time fair queueing on cost.

A lane is (tier, model). Each user of a lane has a deque of jobs; a heap of the lane's users holds one tag each, so the
cost of finding who is next does not grow with the number of jobs. The tags are those of Goyal, Vin and Cheng,
"Start-time Fair Queueing" (https://doi.org/10.1109/90.649569), with one term added: each service moves the virtual time
on by cost / active users, or a stream of new accounts, each starting there, would starve everybody else.

Lanes that compete for the same slots are one pool, with one virtual time and one tag for each user. Across pools tags
say nothing: were there one virtual time for all, the fastest worker would drive it, and who comes new to a slow one
would stand behind all that its oldest user has queued there.

Pure: no clock, no I/O. Times are seconds since the epoch, costs millitokens.
"""

from __future__ import annotations

import heapq
from collections import Counter, deque
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from itertools import count
from uuid import UUID

from tessera.jobs import Kind, Tier

_NOT_LISTED = -1
_NEW = -(2**62)  # the order of a job that was in no deque yet
_KEPT_TAGS = 1024


@dataclass(slots=True, eq=False, kw_only=True)
class QueuedJob:
    """What the policy knows of a job. The fields after ``deadline`` are the queue's own."""

    id: UUID
    user_id: UUID
    tier: Tier
    kind: Kind
    model: str
    cost_mt: int
    queued_at: float
    deadline: float | None = None
    waiting: bool = False  # in the queue, and eligible but for its user's cap
    order: int = _NEW  # rises along a user's deque: the difference to its head is how many of his own go first
    skips: int = 0  # how often affinity has passed it over
    skipped_since: float = 0.0
    place: float | None = None  # the tag at which it was last served: a retry returns there


@dataclass(slots=True, eq=False)
class Backlog:
    """One user's jobs in a lane. ``ticket`` names its valid entry of the lane's heap, with the tag ``key``."""

    jobs: deque[QueuedJob] = field(default_factory=deque)
    live: int = 0
    cost_mt: int = 0
    key: float = 0.0
    ticket: int = _NOT_LISTED
    next_order: int = 0

    @property
    def listed(self) -> bool:
        """Whether the user stands in the lane's heap; not while he is parked at his cap."""
        return self.ticket != _NOT_LISTED


@dataclass(slots=True, eq=False)
class Pool:
    """Lanes of one tier that compete: the virtual time, and the finish tag of every user who was served lately."""

    virtual: float = 0.0
    finish: dict[UUID, float] = field(default_factory=dict)
    waiting_of: Counter[UUID] = field(default_factory=Counter)

    def tag(self, user: UUID) -> float:
        """Where a user starts who gets work now: nothing is banked, nothing is owed."""
        return max(self.virtual, self.finish.get(user, 0.0))

    def shift(self, by: float) -> None:
        """Move the origin: who is how far ahead of whom stays."""
        self.virtual += by
        self.finish = {user: tag + by for user, tag in self.finish.items()}

    def absorb(self, other: Pool) -> None:
        """Another pool, at the same virtual time, turns out to compete: a user's leads in both add up."""
        for user, tag in other.finish.items():
            own = self.finish.get(user)
            self.finish[user] = tag if own is None else max(own, own + tag - self.virtual)
        self.waiting_of.update(other.waiting_of)


@dataclass(slots=True, eq=False)
class Lane:
    """The jobs of one tier for one model."""

    kind: Kind
    pool: Pool
    users: dict[UUID, Backlog] = field(default_factory=dict)
    heap: list[tuple[float, int, UUID]] = field(default_factory=list)
    live: int = 0
    cost_mt: int = 0

    def shift(self, by: float) -> None:
        """Move the origin of the tags, with that of the pool."""
        self.heap = [(key + by, ticket, user) for key, ticket, user in self.heap]
        for backlog in self.users.values():
            backlog.key += by


@dataclass(slots=True, eq=False)
class TierQueue:
    """One tier: its lanes, and the pool of each model."""

    lanes: dict[str, Lane] = field(default_factory=dict)
    pools: dict[str, Pool] = field(default_factory=dict)

    def pool(self, model: str) -> Pool:
        """The pool of a model, its own until another turns out to compete with it."""
        found = self.pools.get(model)
        if found is None:
            found = self.pools[model] = Pool()
        return found

    def join(self, models: Collection[str]) -> None:
        """These models compete."""
        pools = list({id(pool): pool for pool in map(self.pool, sorted(models))}.values())
        if len(pools) < 2:
            return
        first, now = pools[0], max(pool.virtual for pool in pools)
        for pool in pools:
            by = now - pool.virtual
            pool.shift(by)
            for model in [model for model, each in self.pools.items() if each is pool]:
                self.pools[model] = first
                if model in self.lanes:
                    self.lanes[model].pool = first
                    self.lanes[model].shift(by)
        for other in pools[1:]:
            first.absorb(other)


class Queue:
    """All eligible jobs, and how many of each user run. Every change is one call; none looks at all jobs."""

    def __init__(self) -> None:
        self.tiers: dict[Tier, TierQueue] = {tier: TierQueue() for tier in Tier}
        self.running: Counter[UUID] = Counter()
        self.caps: dict[UUID, int] = {}
        self.waiting: Counter[tuple[Tier, Kind]] = Counter()
        self.overdue: list[QueuedJob] = []  # met at a head with its deadline over; whoever owns the queue takes them
        self._tickets = count()
        self._early = count(_NOT_LISTED - 1, -1)  # of those who return to a place: before all who have the same tag
        self._parked: dict[UUID, set[tuple[Tier, str]]] = {}
        self._joined: set[frozenset[str]] = set()

    # ------------------------------------------------------------------ changes

    def compete(self, models: frozenset[str]) -> None:
        """One worker serves these models: they are of one pool from now on. Cheap to repeat."""
        if models in self._joined:
            return
        if len(self._joined) > _KEPT_TAGS:
            self._joined.clear()
        self._joined.add(models)
        for tier in self.tiers.values():
            tier.join(models)

    def add(self, job: QueuedJob) -> None:
        """A job becomes eligible. A retry is older than what waits behind it and so returns to its place."""
        tier = self.tiers[job.tier]
        lane = tier.lanes.get(job.model)
        if lane is None:
            lane = tier.lanes[job.model] = Lane(job.kind, tier.pool(job.model))
        backlog = lane.users.get(job.user_id)
        if backlog is None:
            backlog = lane.users[job.user_id] = Backlog()
        _insert(backlog, job)
        self._count(lane, backlog, job, 1)
        job.waiting = True
        pool = lane.pool
        tag = pool.tag(job.user_id)
        if job.place is not None:
            tag = max(pool.finish.get(job.user_id, 0.0), min(pool.virtual, job.place))
        if backlog.ticket == _NOT_LISTED:
            if not self._is_parked(job):
                self._list(lane, job.user_id, backlog, tag, returning=job.place is not None)
        elif job.place is not None and tag < backlog.key:
            self._list(lane, job.user_id, backlog, tag, returning=True)

    def discard(self, job: QueuedJob) -> None:
        """The job is no longer eligible: cancelled, expired, delayed. No error when it is not in the queue."""
        if not job.waiting:
            return
        lane = self.tiers[job.tier].lanes[job.model]
        backlog = lane.users[job.user_id]
        job.waiting = False  # the deque drops it when it comes to the front
        self._count(lane, backlog, job, -1)
        self._tidy(lane, job.user_id, backlog)

    def take(self, job: QueuedJob, *, passing_over: Collection[QueuedJob] = (), now: float = 0.0) -> None:
        """The job is served: its user pays in virtual time, and those passed over for it remember that."""
        lane = self.tiers[job.tier].lanes[job.model]
        backlog, pool = lane.users[job.user_id], lane.pool
        start = max(backlog.key, pool.finish.get(job.user_id, 0.0))
        active = max(1, len(pool.waiting_of))
        if backlog.jobs and backlog.jobs[0] is job:
            backlog.jobs.popleft()
        job.waiting = False
        job.place = start
        self._count(lane, backlog, job, -1)
        _charge(pool, job.user_id, start, job.cost_mt, active)
        self.running[job.user_id] += 1
        if backlog.live:
            self._list(lane, job.user_id, backlog, pool.finish[job.user_id])
        self._tidy(lane, job.user_id, backlog)
        for other in passing_over:
            other.skipped_since = now if other.skips == 0 else other.skipped_since
            other.skips += 1

    def charge(self, tier: Tier, model: str, user: UUID, cost_mt: int, *, active: int = 1) -> None:
        """A user was served of whom the queue did not know: move his finish tag and the virtual time on."""
        pool = self.tiers[tier].pool(model)
        _charge(pool, user, pool.tag(user), cost_mt, active)

    def runs(self, job: QueuedJob) -> None:
        """A job runs that the queue did not serve, found at a rebuild: its user pays for it, and nobody else waits."""
        self.running[job.user_id] += 1
        pool = self.tiers[job.tier].pool(job.model)
        pool.finish[job.user_id] = pool.tag(job.user_id) + job.cost_mt

    def left(self, job: QueuedJob, *, unserved: bool = False) -> None:
        """A job of this user does not run any more; ``unserved``: it did not get what its user had paid for."""
        self.running[job.user_id] -= 1
        if self.running[job.user_id] <= 0:
            del self.running[job.user_id]
        if unserved:
            self._give_back(job)
        self._unpark(job.user_id)

    def set_cap(self, user: UUID, max_running: int) -> None:
        """How many jobs this user may run at once."""
        before = self.caps.get(user, 1)
        self.caps[user] = max_running
        if max_running > before:
            self._unpark(user)

    def at_cap(self, user: UUID) -> bool:
        """Whether the user runs as many jobs as he may."""
        return self.running.get(user, 0) >= self.caps.get(user, 1)

    # ------------------------------------------------------------------ looking

    def head(self, tier: Tier, model: str, now: float) -> tuple[float, int, QueuedJob] | None:
        """Who is next in a lane: (tag, ticket, job), to be compared with those of the tier's other lanes.

        The tag is told from the virtual time of the lane's pool on: below 0 he is owed, above he is ahead.
        """
        lane = self.tiers[tier].lanes.get(model)
        return self._peek(tier, model, lane, now) if lane is not None and lane.live else None

    def heads(self, tier: Tier, models: Collection[str], limit: int, now: float) -> list[QueuedJob]:
        """The first job of each of the first ``limit`` users in these lanes, in the order of their tags."""
        queue = self.tiers[tier]
        taken: list[tuple[Lane, tuple[float, int, UUID]]] = []
        tops: list[tuple[float, int, str, QueuedJob]] = []
        for model in models:
            self._push_top(tops, queue, tier, model, now)
        found: list[QueuedJob] = []
        while tops and len(found) < limit:
            _, _, model, job = heapq.heappop(tops)
            found.append(job)
            lane = queue.lanes[model]
            taken.append((lane, heapq.heappop(lane.heap)))
            self._push_top(tops, queue, tier, model, now)
        for lane, entry in taken:
            heapq.heappush(lane.heap, entry)
        return found

    def waiting_for(self, model: str) -> int:
        """How many jobs of all tiers wait for this model."""
        return sum(queue.lanes[model].live for queue in self.tiers.values() if model in queue.lanes)

    def cost_waiting_for(self, model: str) -> int:
        """What all that wait for this model cost together, in millitokens."""
        return sum(queue.lanes[model].cost_mt for queue in self.tiers.values() if model in queue.lanes)

    def has_work(self, model: str) -> bool:
        """Whether any tier has a job for this model, its user at the cap or not."""
        return any(model in queue.lanes and queue.lanes[model].live for queue in self.tiers.values())

    def lanes(self) -> Iterator[tuple[Tier, str, Lane]]:
        """All lanes that have jobs."""
        for tier, queue in self.tiers.items():
            for model, lane in queue.lanes.items():
                if lane.live:
                    yield tier, model, lane

    def __len__(self) -> int:
        return sum(self.waiting.values())

    # ------------------------------------------------------------------ inside

    def _push_top(
        self, tops: list[tuple[float, int, str, QueuedJob]], queue: TierQueue, tier: Tier, model: str, now: float
    ) -> None:
        lane = queue.lanes.get(model)
        if lane is not None and lane.live:
            top = self._peek(tier, model, lane, now)
            if top is not None:
                heapq.heappush(tops, (top[0], top[1], model, top[2]))

    def _peek(self, tier: Tier, model: str, lane: Lane, now: float) -> tuple[float, int, QueuedJob] | None:
        heap, pool = lane.heap, lane.pool
        while heap:
            key, ticket, user = heap[0]
            backlog = lane.users.get(user)
            if backlog is None or backlog.ticket != ticket:
                heapq.heappop(heap)  # listed anew since, or gone
                continue
            if self.at_cap(user):
                heapq.heappop(heap)
                backlog.ticket = _NOT_LISTED
                self._parked.setdefault(user, set()).add((tier, model))
                continue
            finish = pool.finish.get(user, 0.0)
            if finish > key:  # served in another lane meanwhile
                heapq.heapreplace(heap, (finish, ticket, user))
                backlog.key = finish
                continue
            job = self._front(lane, user, backlog, now)
            if job is None:
                continue
            return key - pool.virtual, ticket, job
        return None

    def _front(self, lane: Lane, user: UUID, backlog: Backlog, now: float) -> QueuedJob | None:
        jobs = backlog.jobs
        while jobs:
            job = jobs[0]
            if not job.waiting:
                jobs.popleft()
            elif job.deadline is not None and job.deadline <= now:
                jobs.popleft()
                job.waiting = False
                self._count(lane, backlog, job, -1)
                self.overdue.append(job)
            else:
                return job
        self._tidy(lane, user, backlog)
        return None

    def _give_back(self, job: QueuedJob) -> None:
        """Its user did not get what he paid for: his tag, and what of him is listed at that tag, go back."""
        tier = self.tiers[job.tier]
        pool = tier.pool(job.model)
        paid = pool.finish.get(job.user_id)
        if paid is None:
            return
        tag = pool.finish[job.user_id] = paid - job.cost_mt
        for model, lane in tier.lanes.items():
            backlog = lane.users.get(job.user_id)
            if tier.pools[model] is pool and backlog is not None and backlog.key == paid:
                if backlog.ticket == _NOT_LISTED:
                    backlog.key = tag
                else:
                    self._list(lane, job.user_id, backlog, tag, returning=True)

    def _count(self, lane: Lane, backlog: Backlog, job: QueuedJob, by: int) -> None:
        backlog.live += by
        backlog.cost_mt += by * job.cost_mt
        lane.live += by
        lane.cost_mt += by * job.cost_mt
        self.waiting[job.tier, job.kind] += by
        waiting_of = lane.pool.waiting_of
        waiting_of[job.user_id] += by
        if by < 0 and waiting_of[job.user_id] <= 0:
            del waiting_of[job.user_id]

    def _list(self, lane: Lane, user: UUID, backlog: Backlog, key: float, *, returning: bool = False) -> None:
        backlog.key, backlog.ticket = key, next(self._early if returning else self._tickets)
        heapq.heappush(lane.heap, (key, backlog.ticket, user))
        if len(lane.heap) > 64 + 4 * len(lane.users):  # stale entries of lanes that nobody looks at
            lane.heap = [(b.key, b.ticket, u) for u, b in lane.users.items() if b.ticket != _NOT_LISTED]
            heapq.heapify(lane.heap)

    @staticmethod
    def _tidy(lane: Lane, user: UUID, backlog: Backlog) -> None:
        if backlog.live == 0:
            lane.users.pop(user, None)
            backlog.ticket = _NOT_LISTED
        if lane.live == 0:
            lane.heap.clear()

    def _is_parked(self, job: QueuedJob) -> bool:
        return (job.tier, job.model) in self._parked.get(job.user_id, ())

    def _unpark(self, user: UUID) -> None:
        for tier, model in self._parked.pop(user, ()):
            lane = self.tiers[tier].lanes[model]
            backlog = lane.users.get(user)
            if backlog is not None and backlog.ticket == _NOT_LISTED:
                self._list(lane, user, backlog, lane.pool.tag(user))


def _charge(pool: Pool, user: UUID, start: float, cost_mt: int, active: int) -> None:
    pool.finish[user] = start + cost_mt
    pool.virtual = max(pool.virtual, start) + cost_mt / active
    if len(pool.finish) > _KEPT_TAGS + 2 * len(pool.waiting_of):
        # A tag that the virtual time has passed says nothing any more, but where its user still waits.
        pool.finish = {user: tag for user, tag in pool.finish.items() if tag > pool.virtual or user in pool.waiting_of}


def _insert(backlog: Backlog, job: QueuedJob) -> None:
    """Keep a user's jobs in the order of their age: nearly always at the end, a retry near the front.

    Jobs of one submission are of the same age: one that was here before goes where it was among them.
    """
    jobs = backlog.jobs
    new = job.order == _NEW
    last = jobs[-1] if jobs else None
    if last is None or (last.queued_at, 0 if new else last.order) <= (job.queued_at, 0 if new else job.order):
        job.order = backlog.next_order if new else max(job.order, last.order + 1 if last is not None else job.order)
        backlog.next_order = max(backlog.next_order, job.order + 1)
        jobs.append(job)
        return
    order = job.queued_at, job.order
    place = next(
        n
        for n, other in enumerate(jobs)
        if (other.queued_at > job.queued_at if new else (other.queued_at, other.order) >= order)
    )
    job.order = jobs[place].order - 1 if new else min(job.order, jobs[place].order - 1)
    jobs.insert(place, job)

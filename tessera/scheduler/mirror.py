"""The scheduler's in-memory copy of the jobs that wait and run: a cache, rebuilt from Postgres at any time.

It keeps the policy's queue in step with the database: rows of the feed and the answers of the scheduler's own
statements move it on. It never decides and never writes, and nothing here looks at all jobs, whatever their number. No
I/O, no clock.
"""

from __future__ import annotations

import heapq
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from tessera.jobs import JobState, Kind, Tier
from tessera.policy import Policy, QueuedJob
from tessera.runs import RunKey

_TIERS = {tier.value: tier for tier in Tier}
_KINDS = {kind.value: kind for kind in Kind}


@dataclass(slots=True, eq=False, kw_only=True)
class MirroredJob(QueuedJob):
    """What the scheduler knows of a live job. ``ready_at`` delays it: not_before or a backoff; None is now."""

    attempt: int = 0
    failures: int = 0
    ready_at: float | None = None
    worker: str | None = None
    started_at: float = 0.0
    cancel_asked: bool = False
    claiming: bool = False  # chosen, its claim not yet committed

    @property
    def running(self) -> bool:
        return self.worker is not None

    @property
    def key(self) -> RunKey:
        return (self.id, self.attempt)


class Mirror:
    """All live jobs, by id. ``policy`` holds the order in which those that wait are served."""

    def __init__(self, policy: Policy, device_of: Mapping[str, str]) -> None:
        """``device_of``: the device of each worker."""
        self.seq = 0  # the feed is applied up to here
        self.jobs: dict[UUID, MirroredJob] = {}
        self.running: dict[UUID, MirroredJob] = {}
        self.policy = policy
        self.delayed: Counter[tuple[Tier, Kind]] = Counter()
        self._device_of = device_of
        self._delayed: list[tuple[float, UUID]] = []
        self._deadlines: list[tuple[float, UUID]] = []
        self._users: dict[UUID, UUID] = {}  # one object for each user, however many jobs

    # ------------------------------------------------------------------ from Postgres

    def load(self, row: Mapping[str, Any], now: float) -> MirroredJob:
        """Put in, or replace, a live job as a row of live_jobs or feed_after has it."""
        self.remove(row["id"], now)
        user = self._users.setdefault(row["user_id"], row["user_id"])
        job = MirroredJob(
            id=row["id"],
            user_id=user,
            kind=_KINDS[row["kind"]],
            model=sys.intern(row["model"]),
            tier=_TIERS[row["tier"]],
            cost_mt=row["cost_mt"],
            queued_at=_seconds(row["queued_at"]),
            attempt=row["attempt"],
            failures=row["failures"],
            ready_at=_seconds_or_none(row["not_before"]),
            deadline=_seconds_or_none(row["deadline"]),
            cancel_asked=row["cancel_requested_at"] is not None,
        )
        self.policy.queue.set_cap(user, row["max_running"])
        self.jobs[job.id] = job
        if row["state"] == JobState.RUNNING:
            job.worker, job.started_at = row["worker"], _seconds(row["started_at"])
            self.running[job.id] = job
            self.policy.adopt(job, self._device_of.get(row["worker"]), job.started_at, row["worker"])
        else:
            self._wait(job, now)
        return job

    def apply(self, row: Mapping[str, Any], now: float) -> MirroredJob | None:
        """Follow one row of feed_after. Returns the job, as it was, when its run is to be cancelled: its user asked for
        it, or somebody else than this scheduler ended it or put it back.

        The row carries the job as it is now, which may be later than the event: the newest state wins, and what this
        scheduler itself has written changes nothing here.
        """
        self.seq = row["seq"]
        state = row["state"]
        job = self.jobs.get(row["job_id"])
        if state is None or state not in (JobState.QUEUED, JobState.RUNNING):
            if job is None or state == JobState.CREATED:
                return None
            ran = job.running
            self.remove(job.id, now)
            return job if ran else None
        if job is not None and (job.running or job.claiming) and job.user_id != row["user_id"]:
            self._hand_over(job, row["user_id"], row["max_running"])  # accounts were merged
        if job is not None and job.claiming:
            # The claim's own answer is on its way and newer than this row can be; only a cancel must not be missed.
            job.cancel_asked = job.cancel_asked or row["cancel_requested_at"] is not None
            return None
        requeued = job is not None and state == JobState.QUEUED and job.running and row["job_attempt"] >= job.attempt
        moved = (
            job is not None
            and not job.running
            # Its user's plan has changed, or its user is another one now.
            and (job.tier != row["tier"] or job.user_id != row["user_id"])
        )
        if job is None or requeued or moved:
            before = job
            job = self.load({**row, "id": row["job_id"], "attempt": row["job_attempt"]}, now)
            if requeued:
                return before
        self.policy.queue.set_cap(job.user_id, row["max_running"])
        if row["cancel_requested_at"] is not None and not job.cancel_asked:
            # The feed may tell of it before the claim's own answer is here: then whoever starts the run reads the mark.
            job.cancel_asked = True
            return job if job.running else None
        return None

    # ------------------------------------------------------------------ changes

    def claimed(self, job: MirroredJob, worker: str, attempt: int, now: float) -> None:
        """The claim of a job that the policy served is committed."""
        job.worker, job.attempt, job.started_at = worker, attempt, now
        job.claiming = False
        self.running[job.id] = job

    def not_claimed(self, job: MirroredJob, now: float) -> None:
        """A claim did not happen: whoever chose the job looks at it again."""
        job.claiming = False
        self.policy.ended(job, now, unserved=True)

    def remove(self, job_id: UUID, now: float) -> MirroredJob | None:
        """The job is final, or unknown. Heaps drop it lazily."""
        job = self.jobs.pop(job_id, None)
        if job is None:
            return None
        if job.running or job.claiming:
            self.running.pop(job_id, None)
            job.claiming = False
            self.policy.ended(job, now)
        elif job.waiting:
            self.policy.queue.discard(job)
        elif job.ready_at is not None:
            self._count_delayed(job, -1)
        return job

    def requeue(self, job: MirroredJob, ready_at: float | None, now: float, *, counted: bool) -> None:
        """A run is over and the job waits again; its age, and so its place, stays."""
        self.running.pop(job.id, None)
        self.policy.ended(job, now, unserved=True)
        job.worker = None
        job.ready_at = ready_at
        job.failures += int(counted)
        self._wait(job, now)

    def _hand_over(self, job: MirroredJob, user_id: UUID, max_running: int) -> None:
        """A job that runs, or is about to, counts for another user from now on."""
        user = self._users.setdefault(user_id, user_id)
        self.policy.queue.set_cap(user, max_running)
        self.policy.queue.left(job)
        job.user_id = user
        self.policy.queue.running[user] += 1

    def _wait(self, job: MirroredJob, now: float) -> None:
        if job.deadline is not None:
            heapq.heappush(self._deadlines, (job.deadline, job.id))
        if job.ready_at is not None and job.ready_at > now:
            heapq.heappush(self._delayed, (job.ready_at, job.id))
            self._count_delayed(job, 1)
            return
        job.ready_at = None
        self.policy.queue.add(job)

    def _count_delayed(self, job: MirroredJob, by: int) -> None:
        self.delayed[job.tier, job.kind] += by

    # ------------------------------------------------------------------ looking

    def wake_due(self, now: float) -> None:
        """Delayed jobs whose time has come take their place."""
        while self._delayed and self._delayed[0][0] <= now:
            _, job_id = heapq.heappop(self._delayed)
            job = self.jobs.get(job_id)
            if job is not None and not job.running and job.ready_at is not None and job.ready_at <= now:
                job.ready_at = None
                self._count_delayed(job, -1)
                self.policy.queue.add(job)

    def next_change(self) -> float | None:
        """When a delay or a deadline is next over, or None."""
        times = [heap[0][0] for heap in (self._delayed, self._deadlines) if heap]
        return min(times, default=None)

    def take_expired(self, now: float) -> list[MirroredJob]:
        """Waiting jobs whose deadline is over; each is returned once, and not served any more."""
        expired: dict[UUID, MirroredJob] = {}  # a job that was delayed or requeued stands in the heap more than once
        overdue, self.policy.queue.overdue = self.policy.queue.overdue, []
        for met in overdue:
            job = self.jobs.get(met.id)
            if job is met and not job.running:
                expired[job.id] = job
        while self._deadlines and self._deadlines[0][0] <= now:
            _, job_id = heapq.heappop(self._deadlines)
            job = self.jobs.get(job_id)
            if job is None or job.running or job.claiming or job.deadline is None or job.deadline > now:
                continue
            self.policy.queue.discard(job)
            if job.ready_at is not None:
                job.ready_at = None  # its time never comes
                self._count_delayed(job, -1)
            expired[job_id] = job
        return list(expired.values())

    def waiting(self) -> Counter[tuple[Tier, Kind]]:
        """How many jobs wait, delayed ones too."""
        return self.policy.queue.waiting + self.delayed

    def oldest_waiting(self) -> float | None:
        """When the oldest waiting job became queued: jobs are kept in the order in which they came."""
        return next((job.queued_at for job in self.jobs.values() if not job.running), None)

    def all(self) -> Iterator[MirroredJob]:
        """All live jobs: for tests and a rebuild, never for a decision."""
        return iter(self.jobs.values())


def _seconds(at: datetime) -> float:
    return at.replace(tzinfo=at.tzinfo or UTC).timestamp()


def _seconds_or_none(at: datetime | None) -> float | None:
    return None if at is None else _seconds(at)

"""The scheduler's in-memory copy of the jobs that wait and run: a cache, rebuilt from Postgres at any time.

It hands the policy only the heads of its lanes, so that a decision costs the same at any depth. It never decides and
never writes; rows of the feed and the answers of the scheduler's own statements move it on. No I/O, no clock.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from tessera.jobs import JobState, Kind, Tier
from tessera.policy import TIER_RANK, Candidate, FreeWorker, Snapshot
from tessera.runs import RunKey

Lane = tuple[Tier, str]  # tier and model


@dataclass(slots=True)
class MirroredJob:
    """What the scheduler knows of a live job. ``ready_at`` delays it: not_before or a backoff; None is now."""

    id: UUID
    user_id: UUID
    kind: Kind
    model: str
    tier: Tier
    cost_mt: int
    queued_at: datetime
    max_running: int
    attempt: int = 0
    failures: int = 0
    ready_at: datetime | None = None
    deadline: datetime | None = None
    worker: str | None = None
    started_at: datetime | None = None
    lease_expires_at: datetime | None = None
    cancel_asked: bool = False
    claiming: bool = False  # chosen, its claim not yet committed

    @property
    def running(self) -> bool:
        return self.worker is not None

    @property
    def key(self) -> RunKey:
        return (self.id, self.attempt)

    def candidate(self) -> Candidate:
        """The job as the policy sees it."""
        return Candidate(
            job_id=self.id,
            user_id=self.user_id,
            model=self.model,
            tier=self.tier,
            queued_at=self.queued_at,
            max_running=self.max_running,
            deadline=self.deadline,
        )


@dataclass
class Mirror:
    """All live jobs, by id, and the order in which they wait."""

    seq: int = 0  # the feed is applied up to here
    jobs: dict[UUID, MirroredJob] = field(default_factory=dict)
    running_by_user: Counter[UUID] = field(default_factory=Counter)
    _lanes: dict[Lane, list[tuple[datetime, UUID]]] = field(default_factory=dict)
    _parked: dict[UUID, list[tuple[Lane, tuple[datetime, UUID]]]] = field(default_factory=dict)
    _delayed: list[tuple[datetime, UUID]] = field(default_factory=list)
    _deadlines: list[tuple[datetime, UUID]] = field(default_factory=list)

    # ------------------------------------------------------------------ from Postgres

    def load(self, row: Mapping[str, Any]) -> None:
        """Put in, or replace, a live job as a row of live_jobs or feed_after has it."""
        self.remove(row["id"])
        running = row["state"] == JobState.RUNNING
        job = MirroredJob(
            id=row["id"],
            user_id=row["user_id"],
            kind=Kind(row["kind"]),
            model=row["model"],
            tier=Tier(row["tier"]),
            cost_mt=row["cost_mt"],
            queued_at=row["queued_at"],
            max_running=row["max_running"],
            attempt=row["attempt"],
            failures=row["failures"],
            ready_at=row["not_before"],
            deadline=row["deadline"],
            cancel_asked=row["cancel_requested_at"] is not None,
        )
        self.jobs[job.id] = job
        if running:
            self.set_running(job, row["worker"], row["attempt"], row["started_at"], row["lease_expires_at"])
        else:
            self._wait(job)

    def apply(self, row: Mapping[str, Any], now: datetime) -> MirroredJob | None:
        """Follow one row of feed_after. Returns the job when its cancel was asked for while it runs.

        The row carries the job as it is now, which may be later than the event: the newest state wins, and what this
        scheduler itself has written changes nothing here.
        """
        self.seq = row["seq"]
        state = row["state"]
        job = self.jobs.get(row["job_id"])
        if state is None or state not in (JobState.QUEUED, JobState.RUNNING):
            if job is not None and state != JobState.CREATED:
                self.remove(job.id)
            return None
        if job is None or (state == JobState.QUEUED and job.running and row["job_attempt"] >= job.attempt):
            self.load({**row, "id": row["job_id"], "attempt": row["job_attempt"]})
            job = self.jobs[row["job_id"]]
        if job.max_running != row["max_running"]:
            job.max_running = row["max_running"]
            self._unpark(job.user_id)
        if row["cancel_requested_at"] is not None and not job.cancel_asked:
            # The feed may tell of it before the claim's own answer is here: then whoever starts the run reads the mark.
            job.cancel_asked = True
            return job if job.running else None
        return None

    # ------------------------------------------------------------------ changes

    def set_running(
        self, job: MirroredJob, worker: str, attempt: int, started_at: datetime, lease_expires_at: datetime
    ) -> None:
        """A claim is committed."""
        if not job.running:
            self.running_by_user[job.user_id] += 1
        job.worker, job.attempt, job.started_at, job.lease_expires_at = worker, attempt, started_at, lease_expires_at
        job.claiming = False

    def release(self, job: MirroredJob) -> None:
        """A claim did not happen: the job waits again where it was."""
        job.claiming = False
        self._wait(job)

    def remove(self, job_id: UUID) -> MirroredJob | None:
        """The job is final, or unknown. Heaps drop it lazily."""
        job = self.jobs.pop(job_id, None)
        if job is not None and job.running:
            self._left(job.user_id)
        return job

    def requeue(self, job: MirroredJob, ready_at: datetime | None, *, counted: bool) -> None:
        """A run is over and the job waits again; its age, and so its place, stays."""
        self._left(job.user_id)
        job.worker = job.started_at = job.lease_expires_at = None
        job.ready_at = ready_at
        job.failures += int(counted)
        self._wait(job)

    def _left(self, user_id: UUID) -> None:
        self.running_by_user[user_id] -= 1
        if self.running_by_user[user_id] <= 0:
            del self.running_by_user[user_id]
        self._unpark(user_id)

    def _unpark(self, user_id: UUID) -> None:
        """The user may run more than a moment ago: the jobs that waited for that are looked at again."""
        for lane, entry in self._parked.pop(user_id, ()):
            heapq.heappush(self._lanes.setdefault(lane, []), entry)

    def _wait(self, job: MirroredJob) -> None:
        if job.ready_at is not None:
            heapq.heappush(self._delayed, (job.ready_at, job.id))
        else:
            heapq.heappush(self._lanes.setdefault((job.tier, job.model), []), (job.queued_at, job.id))
        if job.deadline is not None:
            heapq.heappush(self._deadlines, (job.deadline, job.id))

    # ------------------------------------------------------------------ looking

    def wake_due(self, now: datetime) -> None:
        """Delayed jobs whose time has come take their place."""
        while self._delayed and self._delayed[0][0] <= now:
            _, job_id = heapq.heappop(self._delayed)
            job = self.jobs.get(job_id)
            if job is not None and not job.running and job.ready_at is not None and job.ready_at <= now:
                job.ready_at = None
                self._wait(job)

    def next_change(self) -> datetime | None:
        """When a delay or a deadline is next over, or None."""
        times = [heap[0][0] for heap in (self._delayed, self._deadlines) if heap]
        return min(times, default=None)

    def take_expired(self, now: datetime) -> list[MirroredJob]:
        """Waiting jobs whose deadline is over; each is returned once."""
        expired: dict[UUID, MirroredJob] = {}  # a job that was delayed or requeued stands in the heap more than once
        while self._deadlines and self._deadlines[0][0] <= now:
            _, job_id = heapq.heappop(self._deadlines)
            job = self.jobs.get(job_id)
            if job is not None and not job.running and not job.claiming and job.deadline and job.deadline <= now:
                expired[job_id] = job
        return list(expired.values())

    def snapshot(self, workers: Iterable[FreeWorker]) -> Snapshot:
        """The heads of the lanes that these workers could take from, as many as there are free slots for."""
        workers = tuple(workers)
        free: Counter[str] = Counter()
        for worker in workers:
            for model in worker.models:
                free[model] += worker.free
        candidates: list[Candidate] = []
        for lane in list(self._lanes):
            wanted = free.get(lane[1], 0)
            if wanted > 0:
                candidates += [job.candidate() for job in self._heads(lane, wanted)]
        return Snapshot(
            candidates=tuple(candidates),
            workers=workers,
            running=self.running_by_user,
        )

    def _heads(self, lane: Lane, wanted: int) -> list[MirroredJob]:
        """The first ``wanted`` jobs of a lane whose users may run more; stale entries go, capped users are parked."""
        heap = self._lanes[lane]
        kept: list[tuple[datetime, UUID]] = []
        found: list[MirroredJob] = []
        taken: Counter[UUID] = Counter()
        seen: set[UUID] = set()
        while heap and len(found) < wanted:
            entry = heapq.heappop(heap)
            job = self.jobs.get(entry[1])
            if job is None or job.running or job.claiming or job.ready_at is not None or job.id in seen:
                continue
            seen.add(job.id)
            running = self.running_by_user.get(job.user_id, 0)
            if running >= job.max_running:
                self._parked.setdefault(job.user_id, []).append((lane, entry))
                continue
            kept.append(entry)
            if running + taken[job.user_id] < job.max_running:
                taken[job.user_id] += 1
                found.append(job)
            elif len(kept) > 64 + 4 * wanted:
                break  # a long row of one user's jobs: look again when one of them has started
        for entry in kept:
            heapq.heappush(heap, entry)
        if not heap:
            del self._lanes[lane]
        return found

    def waiting(self) -> Iterator[MirroredJob]:
        """All jobs that wait, in no order."""
        return (job for job in self.jobs.values() if not job.running)

    def ahead_of(self, job: MirroredJob) -> int:
        """How many waiting jobs of any model that shares its workers run before this one, by the policy's order."""
        mine = (TIER_RANK[job.tier], job.queued_at, job.id)
        return sum(
            1
            for other in self.jobs.values()
            if not other.running
            and other.model == job.model
            and (TIER_RANK[other.tier], other.queued_at, other.id) < mine
        )

"""Which job runs next, and where: ``plan(snapshot, now) -> assignments``. Pure: no clock, no I/O, no memory.

The order here is: tier, then age, each user within the running cap of the plan. The caller hands over only the heads of
its queue (``tessera/scheduler/mirror.py``), so the cost of a decision does not grow with the depth of the queue.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from tessera.jobs import Tier

TIER_RANK: Mapping[Tier, int] = {Tier.PRO: 0, Tier.STARTER: 1, Tier.FREE: 2, Tier.BATCH: 3}


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """A queued job at or near the head of its lane. ``max_running`` is its user's cap."""

    job_id: UUID
    user_id: UUID
    model: str
    tier: Tier
    queued_at: datetime
    max_running: int
    deadline: datetime | None = None

    @property
    def order(self) -> tuple[int, datetime, UUID]:
        """Sorts first what is to run first."""
        return (TIER_RANK[self.tier], self.queued_at, self.job_id)


@dataclass(frozen=True, kw_only=True, slots=True)
class FreeWorker:
    """A worker that is online and has ``free`` slots."""

    name: str
    models: frozenset[str]
    free: int
    slots: int


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """What a decision is made from. ``running`` counts the running jobs of each user that has any."""

    candidates: tuple[Candidate, ...]
    workers: tuple[FreeWorker, ...]
    running: Mapping[UUID, int]


@dataclass(frozen=True, kw_only=True, slots=True)
class Assignment:
    """This job is to be claimed for this worker."""

    job_id: UUID
    worker: str


def plan(snapshot: Snapshot, now: datetime) -> list[Assignment]:
    """The jobs to start now, in order, each with its worker: the capable one with the largest share of free slots.

    Never more jobs than a worker has free slots, never more of a user than the cap allows, never a dead deadline.
    """
    free = {worker.name: worker.free for worker in snapshot.workers}
    running = dict(snapshot.running)
    chosen: list[Assignment] = []
    for job in sorted(snapshot.candidates, key=lambda candidate: candidate.order):
        if not any(free.values()):
            break
        if job.deadline is not None and job.deadline <= now:
            continue
        if running.get(job.user_id, 0) >= job.max_running:
            continue
        capable = [worker for worker in snapshot.workers if job.model in worker.models and free[worker.name] > 0]
        if not capable:
            continue
        best = max(capable, key=lambda worker: (free[worker.name] / worker.slots, worker.name))
        free[best.name] -= 1
        running[job.user_id] = running.get(job.user_id, 0) + 1
        chosen.append(Assignment(job_id=job.job_id, worker=best.name))
    return chosen

"""What others ask of the scheduler: places and ETAs of jobs, its workers, its numbers. It changes nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

from tessera.ports import Place, WorkerStatus
from tessera.scheduler.board import Board


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """What the scheduler counts. ``waiting`` by (tier, kind); ``ended`` by final state, late outcomes and retries too,
    since this process began; ``oldest_s`` the age of the oldest waiting job."""

    leading: bool
    waiting: Mapping[tuple[str, str], int]
    oldest_s: float
    ended: Mapping[str, int]
    terms: int
    workers: Sequence[WorkerStatus]


def workers(board: Board) -> list[WorkerStatus]:
    """All configured workers."""
    return [link.status() for link in board.links.values()]


def places(board: Board, job_ids: Sequence[UUID]) -> dict[UUID, Place]:
    """The places of those of the jobs that wait or run here."""
    found: dict[UUID, Place] = {}
    now = datetime.now(UTC)
    slots = {model: sum(x.slots for x in board.links.values() if model in x.models) for model in _models(board)}
    for job_id in job_ids:
        job = board.mirror.jobs.get(job_id)
        if job is None:
            continue
        own_s = board.estimates.seconds(job.model, job.cost_mt)
        if job.running:
            elapsed = (now - job.started_at).total_seconds() if job.started_at else 0.0
            left = max(0.2, own_s - elapsed)
            found[job_id] = Place(position=0, eta_low_s=round(left * 0.7, 1), eta_high_s=round(left * 1.8, 1))
            continue
        ahead = board.mirror.ahead_of(job)
        waiting_s = ahead * own_s / max(1, slots.get(job.model, 1))
        total = waiting_s + own_s
        found[job_id] = Place(position=ahead + 1, eta_low_s=round(total * 0.6, 1), eta_high_s=round(total * 2 + 1, 1))
    return found


def statistics(board: Board, *, leading: bool) -> Statistics:
    """Numbers for the metrics: cheap, read every few seconds."""
    waiting: Counter[tuple[str, str]] = Counter()
    oldest: datetime | None = None
    for job in board.mirror.waiting():
        waiting[job.tier, job.kind] += 1
        oldest = job.queued_at if oldest is None else min(oldest, job.queued_at)
    return Statistics(
        leading=leading,
        waiting=dict(waiting),
        oldest_s=(datetime.now(UTC) - oldest).total_seconds() if oldest is not None else 0.0,
        ended=dict(board.ended),
        terms=board.terms,
        workers=workers(board),
    )


def _models(board: Board) -> set[str]:
    return {model for link in board.links.values() for model in link.models}

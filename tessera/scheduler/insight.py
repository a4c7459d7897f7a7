"""What others ask of the scheduler: places, explanations, its workers, its numbers. It changes nothing."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from tessera.policy.failures import Circuit
from tessera.policy.places import Standing
from tessera.ports import Place, WorkerStatus
from tessera.scheduler.board import Board
from tessera.scheduler.links import WorkerLink
from tessera.scheduler.mirror import MirroredJob


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """What the scheduler counts. ``waiting`` by (tier, kind); ``ended`` by final state, late outcomes and retries too,
    since this process began; ``oldest_s`` the age of the oldest waiting job; ``behind_s`` by (device, tier): how many
    device-seconds a tier with work is behind the one that was served the most for its share.
    """

    leading: bool
    waiting: Mapping[tuple[str, str], int]
    oldest_s: float
    ended: Mapping[str, int]
    terms: int
    workers: Sequence[WorkerStatus]
    behind_s: Mapping[tuple[str, str], float] = field(default_factory=dict)
    resident_mib: Mapping[str, int] = field(default_factory=dict)
    maintenance: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def workers(board: Board) -> list[WorkerStatus]:
    """All configured workers."""
    now = time.time()
    found = []
    for link in board.links.values():
        device = board.policy.devices.get(link.device)
        loading = device.loading if device is not None else None
        until = board.failures.circuit_until(link.name)
        found.append(
            replace(
                link.status(),
                circuit=board.failures.circuit(link.name, now).value,
                circuit_until=_time(until) if until is not None and until > now else None,
                excluded={model: _time(end) for model, end in board.failures.excluded(link.name, now).items()},
                loading=loading.model if loading is not None and loading.worker == link.name else None,
            )
        )
    return found


def places(board: Board, job_ids: Sequence[UUID]) -> dict[UUID, Place]:
    """The places of those of the jobs that wait or run here."""
    found: dict[UUID, Place] = {}
    now = time.time()
    for job_id in job_ids:
        job = board.mirror.jobs.get(job_id)
        if job is None:
            continue
        if job.running or job.claiming:
            low_s, high_s = running_eta(board, job, now)
            found[job_id] = Place(position=0, eta_low_s=low_s, eta_high_s=high_s)
        elif job.waiting:
            standing = standing_of(board, job, now)
            eta = waiting_eta(board, job, standing)
            found[job_id] = Place(
                position=standing.position,
                eta_low_s=None if eta is None else eta[0],
                eta_high_s=None if eta is None else eta[1],
            )
        else:
            wait_s = max(0.0, (job.ready_at or now) - now)
            span = board.estimates.span(job.model, job.cost_mt)
            low_s, high_s = round(wait_s + span.low_s, 1), round(2 * wait_s + span.high_s + 1, 1)
            found[job_id] = Place(position=1, eta_low_s=low_s, eta_high_s=high_s)
    return found


def links_for(board: Board, model: str) -> list[WorkerLink]:
    """The workers that have a model."""
    return [link for link in board.links.values() if model in link.models]


def standing_of(board: Board, job: MirroredJob, now: float) -> Standing:
    """Where a waiting job stands among all that compete for its devices."""
    able = links_for(board, job.model)
    devices = frozenset(link.device for link in able)
    rivals = frozenset(model for link in board.links.values() if link.device in devices for model in link.models)
    if not any(board.policy.models[model].vram_mib for model in rivals if model in board.policy.models):
        # On a pool of light models a worker's slots are its own: only what the same workers run competes.
        rivals = frozenset(model for link in able for model in link.models)
    slots = sum(link.slots for link in able if link.works) or 1
    return board.places.standing(job, rivals, devices, slots, now)


def waiting_eta(board: Board, job: MirroredJob, standing: Standing) -> tuple[float, float] | None:
    """The end of a waiting job in seconds from now, as a range: what runs now, what goes before, and its own run.

    None while nobody can say: its kind is paused, or no worker is there that could run it.
    """
    now = time.time()
    able = [link for link in links_for(board, job.model) if link.works and fits(board, link, job.model)]
    if not able or job.kind.value in board.pauses:
        return None
    slot_free_s = 0.0
    if all(link.busy >= link.slots for link in able):
        ends = [end for link in able for end in _ends(board, link.name)]
        slot_free_s = max(0.0, min(ends, default=now) - now)
    load_s = 0.0
    facts = board.policy.models.get(job.model)
    if facts is not None and facts.vram_mib:
        resident = any(job.model in board.policy.devices[link.device].resident for link in able)
        load_s = 0.0 if resident else facts.load_s
    span = board.estimates.span(job.model, job.cost_mt)
    wait_s = standing.start_s + slot_free_s + load_s
    held_s = min(held_up_s(board, link, job.model, now) for link in able)
    return round(held_s + wait_s * 0.6 + span.low_s, 1), round(held_s + wait_s * 1.8 + span.high_s + 1, 1)


def fits(board: Board, link: WorkerLink, model: str) -> bool:
    """Whether the model is no larger than the worker's device."""
    facts, device = board.policy.models.get(model), board.policy.devices.get(link.device)
    return facts is None or device is None or facts.vram_mib <= device.vram_mib


def held_up_s(board: Board, link: WorkerLink, model: str, now: float) -> float:
    """For how long a worker takes no job of this model, as far as is known: a drain, an open circuit, an exclusion."""
    until = [now, board.failures.excluded(link.name, now).get(model, now)]
    if link.draining_until is not None:
        until.append(link.draining_until.timestamp())
    if board.failures.circuit(link.name, now) is Circuit.OPEN:
        until.append(board.failures.circuit_until(link.name) or now)
    return max(until) - now


def running_eta(board: Board, job: MirroredJob, now: float) -> tuple[float, float]:
    """The end of a running job in seconds from now, as a range."""
    span = board.estimates.span(job.model, job.cost_mt)
    elapsed = now - job.started_at if job.running else 0.0
    return round(max(0.0, span.low_s - elapsed), 1), round(max(0.5, span.high_s - elapsed), 1)


def _ends(board: Board, worker: str) -> list[float]:
    return [
        job.started_at + board.estimates.seconds(job.model, job.cost_mt, worker)
        for job in board.mirror.running.values()
        if job.worker == worker
    ]


def statistics(
    board: Board, *, leading: bool, maintenance: Mapping[str, Mapping[str, Any]] | None = None
) -> Statistics:
    """Numbers for the metrics: cheap however many jobs wait, for they are read every few seconds."""
    waiting: Counter[tuple[str, str]] = Counter()
    for (tier, kind), count in board.mirror.waiting().items():
        waiting[tier.value, kind.value] = count
    oldest = board.mirror.oldest_waiting()
    return Statistics(
        leading=leading,
        waiting=dict(waiting),
        oldest_s=max(0.0, time.time() - oldest) if oldest is not None else 0.0,
        ended=dict(board.ended),
        terms=board.terms,
        workers=workers(board),
        behind_s={
            (device.name, tier.value): (max(device.passes[t] for t in device.active) - device.passes[tier])
            * board.rules.shares[tier]
            for device in board.policy.devices.values()
            for tier in device.active
        },
        resident_mib={device.name: device.taken_mib for device in board.policy.devices.values()},
        maintenance=maintenance or {},
    )


def _time(at: float) -> datetime:
    return datetime.fromtimestamp(at, UTC)

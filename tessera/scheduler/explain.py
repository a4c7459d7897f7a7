"""Why a job waits, in words and in data: read from the same state that the policy decides from. It changes nothing."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from uuid import UUID

from tessera.jobs import JobState, Kind
from tessera.policy.failures import Circuit
from tessera.ports import Explanation, WaitCode, WaitReason, WorkerView
from tessera.scheduler.board import Board
from tessera.scheduler.insight import fits, links_for, running_eta, standing_of, waiting_eta
from tessera.scheduler.links import WorkerLink
from tessera.scheduler.mirror import MirroredJob


def explain(board: Board, job_id: UUID) -> Explanation | None:
    """Why a live job waits, or where it runs; None for one that is not here."""
    job = board.mirror.jobs.get(job_id)
    if job is None:
        return None
    now = time.time()
    if job.running or job.claiming:
        return _of_running(board, job, now)
    return _of_waiting(board, job, now)


def _of_running(board: Board, job: MirroredJob, now: float) -> Explanation:
    low_s, high_s = running_eta(board, job, now)
    where = f" on {job.worker}" if job.worker else ""
    return _explanation(
        board,
        job,
        now,
        state=JobState.RUNNING,
        summary=f"It runs{where} since {max(0.0, now - job.started_at):.0f} s (attempt {job.attempt})."
        if job.running
        else "It is being started at this moment.",
        eta=(low_s, high_s),
    )


def _of_waiting(board: Board, job: MirroredJob, now: float) -> Explanation:
    if job.waiting:
        standing = standing_of(board, job, now)
        reasons = _reasons(board, job, now, ahead=standing.position - 1, own_ahead=standing.position_of_user - 1)
        return _explanation(
            board,
            job,
            now,
            state=JobState.QUEUED,
            summary=_summary(reasons, standing.position),
            eta=waiting_eta(board, job, standing),
            reasons=reasons,
            position=standing.position,
            position_in_tier=standing.position_in_tier,
            position_of_user=standing.position_of_user,
            ahead={tier.value: count for tier, count in standing.ahead.items() if count},
        )
    until = job.ready_at or now
    code = WaitCode.BACKOFF if job.failures or job.attempt else WaitCode.NOT_BEFORE
    message = (
        f"Its last run failed; it is tried again in {max(0.0, until - now):.0f} s and keeps its place."
        if code is WaitCode.BACKOFF
        else f"It was submitted for later: it is due in {max(0.0, until - now):.0f} s."
    )
    span = board.estimates.span(job.model, job.cost_mt)
    wait_s = max(0.0, until - now)
    return _explanation(
        board,
        job,
        now,
        state=JobState.QUEUED,
        summary=message,
        eta=(round(wait_s + span.low_s, 1), round(2 * wait_s + span.high_s + 1, 1)),
        reasons=[WaitReason(code=code, message=message, until=_time(until), data={"failures": job.failures})],
    )


def _explanation(
    board: Board,
    job: MirroredJob,
    now: float,
    *,
    state: JobState,
    summary: str,
    eta: tuple[float, float] | None,
    reasons: list[WaitReason] | None = None,
    position: int = 0,
    position_in_tier: int = 0,
    position_of_user: int = 0,
    ahead: dict[str, int] | None = None,
) -> Explanation:
    queue = board.policy.queue
    return Explanation(
        job_id=job.id,
        state=state.value,
        summary=summary,
        position=position,
        position_in_tier=position_in_tier,
        position_of_user=position_of_user,
        ahead=ahead or {},
        own_jobs_ahead=max(0, position_of_user - 1),
        running_of_user=queue.running.get(job.user_id, 0),
        max_running=queue.caps.get(job.user_id, 1),
        reasons=reasons or [],
        workers=[_view(board, link, job, now) for link in links_for(board, job.model)],
        eta_low_s=None if eta is None else eta[0],
        eta_high_s=None if eta is None else eta[1],
        own_s=round(board.estimates.seconds(job.model, job.cost_mt), 2),
    )


# ---------------------------------------------------------------------- the reasons, the first the most telling


def _reasons(board: Board, job: MirroredJob, now: float, *, ahead: int, own_ahead: int) -> list[WaitReason]:
    able = links_for(board, job.model)
    reasons: list[WaitReason] = []
    if job.kind.value in board.pauses:
        words = board.pauses[job.kind.value]
        reasons.append(
            WaitReason(
                code=WaitCode.PAUSED,
                message=f"Jobs of kind {job.kind.value} are paused by the operator{f': {words}' if words else '.'}",
            )
        )
    reasons += _no_worker(board, job, able, now)
    if any(reason.code is WaitCode.DOES_NOT_FIT for reason in reasons):
        return reasons  # it never starts, so nothing else holds it up
    queue = board.policy.queue
    if queue.at_cap(job.user_id):
        running, cap = queue.running.get(job.user_id, 0), queue.caps.get(job.user_id, 1)
        reasons.append(
            WaitReason(
                code=WaitCode.RUNNING_CAP,
                message=f"{running} of your jobs run and your plan allows {cap} at once: it starts when one ends.",
                data={"running": running, "max_running": cap},
            )
        )
    reasons += _memory(board, job, able, now)
    if job.kind is Kind.VIDEO and _video_has_had_its_share(board, able, now):
        reasons.append(
            WaitReason(
                code=WaitCode.VIDEO_SHARE,
                message="Video has used its share of this device lately, and other work waits: that goes first.",
                data={"share": board.rules.video_share, "window_s": board.rules.video_window_s},
            )
        )
    if ahead > 0:
        reasons.append(
            WaitReason(
                code=WaitCode.AHEAD,
                message=f"{ahead} job{'s start' if ahead > 1 else ' starts'} before it"
                + (f", {own_ahead} of them your own." if own_ahead else "."),
                data={"jobs": ahead, "own": own_ahead},
            )
        )
    takes = [worker for link in able if (worker := board.free_worker(link, now)) is not None]
    if takes and not any(worker.free for worker in takes):
        reasons.append(
            WaitReason(
                code=WaitCode.SLOTS_BUSY,
                message=f"All {sum(worker.slots for worker in takes)} slots of its workers are taken:"
                " it starts when one is free.",
                data={"slots": sum(worker.slots for worker in takes)},
            )
        )
    if not reasons:
        reasons.append(WaitReason(code=WaitCode.SLOTS_BUSY, message="It is next, and starts at once."))
    return reasons


def _no_worker(board: Board, job: MirroredJob, able: list[WorkerLink], now: float) -> list[WaitReason]:
    """What keeps every worker that has the model from taking it; nothing where one could."""
    facts = board.policy.models.get(job.model)
    why = {link.name: _why_not(board, link, job, now) for link in able}
    if able and any(code is None for code, _, _ in why.values()):
        return []
    if facts is not None and facts.vram_mib and all(code is WaitCode.DOES_NOT_FIT for code, _, _ in why.values()):
        return [
            WaitReason(
                code=WaitCode.DOES_NOT_FIT,
                message=f"{job.model} needs {facts.vram_mib} MiB, more than any of its devices has."
                " Cancel it: the tokens come back.",
                data={"vram_mib": facts.vram_mib},
            )
        ]
    if not able:
        return [
            WaitReason(
                code=WaitCode.WORKER_OFFLINE,
                message=f"No worker serves {job.model} any more. Cancel it, and the tokens come back.",
            )
        ]
    found: dict[WaitCode, WaitReason] = {}
    for link in able:
        code, message, until = why[link.name]
        if code is not None and code not in found:
            found[code] = WaitReason(code=code, message=message, until=until, data={"worker": link.name})
    return list(found.values())


def _why_not(
    board: Board, link: WorkerLink, job: MirroredJob, now: float
) -> tuple[WaitCode | None, str, datetime | None]:
    """Why a worker takes no job of this model, with the words for a person; None where it does."""
    where = f"{link.node or 'its node'}"
    if not link.online:
        since = f" since {link.offline_since:%H:%M} UTC" if link.offline_since is not None else ""
        return (
            WaitCode.WORKER_OFFLINE,
            f"{link.name} on {where} is offline{since}. The job keeps its place and starts when it is back.",
            None,
        )
    if link.engine_away:
        since = f" since {link.engine_away_since:%H:%M} UTC" if link.engine_away_since is not None else ""
        return (
            WaitCode.WORKER_OFFLINE,
            f"{link.name} on {where} cannot work{since}: what it drives does not answer. The job keeps its place and"
            " starts when it is back.",
            None,
        )
    if link.draining_until is not None:
        return (
            WaitCode.DRAINING,
            f"{link.name} on {where} takes no new jobs until {link.draining_until:%H:%M} UTC: its operator uses it.",
            link.draining_until,
        )
    if board.failures.circuit(link.name, now) is Circuit.OPEN:
        until = board.failures.circuit_until(link.name) or now
        return (
            WaitCode.CIRCUIT_OPEN,
            f"{link.name} failed several times in a row and is tried again in {max(0.0, until - now):.0f} s.",
            _time(until),
        )
    excluded = board.failures.excluded(link.name, now)
    if job.model in excluded:
        until = excluded[job.model]
        by_hand = board.failures.by_hand.get((link.name, job.model))
        if by_hand is not None and now < by_hand[0]:
            words = f": {by_hand[1]}" if by_hand[1] else ""
            return (
                WaitCode.EXCLUDED,
                f"The operator keeps {job.model} off {link.name} until {_time(until):%H:%M} UTC{words}.",
                _time(until),
            )
        return (
            WaitCode.EXCLUDED,
            f"{job.model} failed on {link.name} lately and is tried there again in {max(0.0, until - now):.0f} s.",
            _time(until),
        )
    if not fits(board, link, job.model):
        return WaitCode.DOES_NOT_FIT, f"{job.model} is larger than {link.device}.", None
    return None, "", None


def _memory(board: Board, job: MirroredJob, able: list[WorkerLink], now: float) -> list[WaitReason]:
    """Whether the job waits for its model to be loaded, or for room to load it."""
    facts = board.policy.models.get(job.model)
    if facts is None or not facts.vram_mib:
        return []
    devices = {link.device: board.policy.devices[link.device] for link in able if link.device in board.policy.devices}
    if not devices or any(job.model in device.resident for device in devices.values()):
        return []
    for device in devices.values():
        swap = device.loading
        if swap is not None and swap.model == job.model:
            left = max(0.0, swap.since + swap.seconds - now)
            return [
                WaitReason(
                    code=WaitCode.MODEL_LOAD,
                    message=f"{job.model} is being loaded, about {left:.0f} s.",
                    until=_time(now + left),
                    data={"device": device.name, "model": job.model},
                )
            ]
    device = next(iter(devices.values()))
    there = ", ".join(sorted(device.resident)) or "nothing"
    return [
        WaitReason(
            code=WaitCode.MODEL_LOAD,
            message=f"{job.model} is not loaded on {device.name}, where {there} is. It is swapped in when that pays or"
            f" its turn comes; loading takes about {facts.load_s:.0f} s.",
            data={"device": device.name, "resident": sorted(device.resident), "skips": job.skips},
        )
    ]


def _video_has_had_its_share(board: Board, able: list[WorkerLink], now: float) -> bool:
    devices = [board.policy.devices[link.device] for link in able if link.device in board.policy.devices]
    others = any(lane.kind is not Kind.VIDEO for _, _, lane in board.policy.queue.lanes())
    return others and any(device.window.video_share(now) > board.rules.video_share for device in devices)


def _view(board: Board, link: WorkerLink, job: MirroredJob, now: float) -> WorkerView:
    code, message, _ = _why_not(board, link, job, now)
    worker = board.free_worker(link, now)
    device = board.policy.devices.get(link.device)
    facts = board.policy.models.get(job.model)
    light = facts is None or facts.vram_mib == 0
    resident = light or (device is not None and job.model in device.resident)
    free = worker.free if worker is not None else 0
    if code is None and not free:
        message = "all of its slots are taken"
    elif code is None and not resident:
        message = "the model is not loaded there"
    return WorkerView(
        name=link.name,
        node=link.node,
        device=link.device,
        online=link.works,
        free_slots=free,
        slots=link.slots,
        resident=resident,
        can_run=code is None and free > 0 and resident,
        why_not=message,
    )


def _summary(reasons: list[WaitReason], position: int) -> str:
    first = reasons[0]
    if first.code in (WaitCode.AHEAD, WaitCode.SLOTS_BUSY):
        return f"Number {position} in line. {first.message}" if position > 1 else first.message
    return first.message


def _time(at: float) -> datetime:
    return datetime.fromtimestamp(at, UTC)

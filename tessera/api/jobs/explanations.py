"""Why a job waits, where it runs, or how it ended: an answer for every state, also while the scheduler is away.

Postgres says what is certain, the scheduler why. A user who is not an operator sees counts of others and nothing else
of them, and of a worker whether it could run the job, not how full it is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

import structlog
from fastapi import APIRouter, Request, Response

from tessera.api.auth import Reader
from tessera.api.jobs.answers import answer, error_answer, eta_range
from tessera.api.schemas import base as schemas
from tessera.api.schemas import explanations as explanation_schemas
from tessera.api.state import api_of
from tessera.errors import NotFound
from tessera.ids import Prefix, parse, show
from tessera.jobs import FINAL, JobState
from tessera.plans import tokens
from tessera.ports import Explanation, SchedulerPort, WaitCode, WaitReason, WorkerView
from tessera.store.database import Row

log = structlog.get_logger(__name__)

router = APIRouter(tags=["jobs"])

# Longer than for a position beside a job: here the scheduler's answer is what was asked for. It is there in
# milliseconds, or it restarts and is not there for seconds, which nobody should wait.
EXPLAIN_TIMEOUT_S = 1.5

# What of a reason's data belongs to the platform or to the job itself. Numbers and times are shown whatever they are
# called; anything else under another name could tell of somebody else, so only operators see it.
PUBLIC_DATA = frozenset(
    {"ahead", "code", "device", "kind", "loading", "model", "models", "node", "tier", "worker", "workers"}
)


@router.get(
    "/v1/jobs/{job_id}/explain",
    response_model=None,
    summary="Why a job waits",
    responses={200: {"model": explanation_schemas.JobExplanation}, **schemas.problems(401, 404, 429, 503)},
)
async def explain(request: Request, job_id: str, caller: Reader) -> Response:
    """What it waits for, in words and codes, its places, the workers that could run it, and an ETA as a range.

    A running job says where it runs, an ended one how it ended. While the scheduler restarts, the answer has what is
    certain and the code `scheduler_restarting`. `summary` is one sentence for people.
    """
    services = api_of(request).services
    identifier = parse(Prefix.JOB, job_id)
    row = await services.db.row("explain_job", id=identifier, user_id=caller.user_id)
    if row is None:
        raise NotFound(f"There is no job {job_id[:64]!r} of yours. GET /v1/jobs lists those that there are.")
    explanation: Explanation | None = None
    away = False
    if row["state"] in (JobState.QUEUED, JobState.RUNNING):
        explanation, away = await _ask(services.scheduler, identifier)
        if explanation is not None and explanation.state != row["state"]:
            # It moved on between the two questions. Where Postgres still says otherwise, Postgres is right; a job that
            # the scheduler calls running and Postgres queued is being started, and then the scheduler knows more.
            row = await services.db.row("explain_job", id=identifier, user_id=caller.user_id) or row
            if row["state"] != explanation.state and row["state"] != JobState.QUEUED:
                explanation = None
    return answer(explained(row, explanation, away=away, operator="admin" in caller.scopes))


async def _ask(scheduler: SchedulerPort, job_id: UUID) -> tuple[Explanation | None, bool]:
    """The scheduler's explanation, None when it does not know the job; and whether it did not answer at all."""
    try:
        async with asyncio.timeout(EXPLAIN_TIMEOUT_S):
            return await scheduler.explain(job_id), False
    except Exception as error:  # noqa: BLE001 (whatever it is: what Postgres knows is still an answer)
        log.info("explanation_missing", error=type(error).__name__)
        return None, True


def explained(row: Row, explanation: Explanation | None, *, away: bool, operator: bool) -> dict[str, Any]:
    """The answer. ``explanation`` None: the scheduler does not know the job, or (``away``) does not answer."""
    shown: dict[str, Any] = {
        "id": show(Prefix.JOB, row["id"]),
        "kind": row["kind"],
        "model": row["model"],
        "tier": row["tier"],
        "state": row["state"],
        "summary": "",
        "as_of": row["as_of"],
        "created_at": row["created_at"],
        "attempt": row["attempt"],
        "failures": row["failures"],
        "reasons": [],
        "workers": [],
    }
    for name in ("not_before", "deadline", "finished_at"):
        if row[name] is not None:
            shown[name] = row[name]
    if row["queued_at"] is not None:
        shown["queued_since"] = row["queued_at"]
    if row["failed_error"] is not None:
        shown["last_failure"] = {
            "attempt": row["failed_attempt"],
            "worker": row["failed_worker"],
            "at": row["failed_at"],
            "code": row["failed_error"].get("code", "internal_error"),
            "message": row["failed_error"].get("message", ""),
        }
    if row["state"] in FINAL:
        return {**shown, **_ended(row)}
    for name in ("queued_of_user", "max_queued", "running_of_user", "max_running"):
        shown[name] = row[name]
    if row["state"] == JobState.RUNNING:
        shown.update(worker=row["worker"], started_at=row["started_at"])
        if row["cancel_requested_at"] is not None:
            shown["cancel_requested_at"] = row["cancel_requested_at"]
    if explanation is not None:
        return {**shown, **_from_scheduler(explanation, operator=operator)}
    if row["state"] == JobState.RUNNING:
        return {**shown, "summary": _runs(row, away=away)}
    reasons = _certain_reasons(row, away=away)
    shown["reasons"] = [_reason(reason, operator=operator) for reason in reasons]
    shown["summary"] = reasons[0].message
    return shown


def _from_scheduler(explanation: Explanation, *, operator: bool) -> dict[str, Any]:
    return {
        "summary": explanation.summary,
        "position": explanation.position,
        "position_in_tier": explanation.position_in_tier,
        "position_of_user": explanation.position_of_user,
        "ahead": dict(explanation.ahead),
        "own_jobs_ahead": explanation.own_jobs_ahead,
        "running_of_user": explanation.running_of_user,
        "max_running": explanation.max_running,
        "reasons": [_reason(reason, operator=operator) for reason in explanation.reasons],
        "workers": [_worker(worker, operator=operator) for worker in explanation.workers],
        "eta": eta_range(explanation.eta_low_s, explanation.eta_high_s),
        "own_s": round(explanation.own_s, 1),
    }


# ------------------------------------------------------------------ what Postgres knows


def _ended(row: Row) -> dict[str, Any]:
    """How a job ended, when, and what came back."""
    refunded_mt = row["cost_mt"] - (row["charged_mt"] or 0)
    shown: dict[str, Any] = {
        "charged_tokens": tokens(row["charged_mt"] or 0),
        "refunded_tokens": tokens(refunded_mt),
    }
    if row["started_at"] is not None:
        shown["started_at"] = row["started_at"]
    if row["error"] is not None:
        shown["error"] = error_answer(row["error"], refunded_mt=refunded_mt)
    back = f"{_amount(refunded_mt)} came back" if refunded_mt else "nothing came back"
    at = _at(row["finished_at"])
    message = shown.get("error", {}).get("message") or ""
    match row["state"]:
        case JobState.COMPLETED:
            shown["summary"] = f"It completed at {at} and cost {_amount(row['charged_mt'] or 0)}."
        case JobState.CANCELLED:
            shown["summary"] = f"It was cancelled by its user at {at}; {back}."
        case JobState.EXPIRED:
            shown["summary"] = f"Its deadline passed before it started, so it expired at {at}; {back}."
        case _:
            tries = f" after {row['attempt']} attempts" if row["attempt"] > 1 else ""
            shown["summary"] = f"It failed{tries} at {at}; {back}. {message}".rstrip()
    return shown


def _runs(row: Row, *, away: bool) -> str:
    which = f", attempt {row['attempt']}" if row["attempt"] > 1 else ""
    said = f"It runs on {row['worker']} since {_at(row['started_at'])}{which}."
    if row["cancel_requested_at"] is not None:
        return f"{said} It is being cancelled."
    if away:
        return f"{said} The scheduler restarts, so when it is done is not known for some seconds; the run goes on."
    return said


def _certain_reasons(row: Row, *, away: bool) -> list[WaitReason]:
    """Why a waiting job waits, without the scheduler: never empty."""
    later = row["not_before"] if row["not_before"] is not None and row["not_before"] > row["as_of"] else None
    if row["state"] == JobState.CREATED and later is not None:
        message = f"It waits for the time that was asked for: {_at(later)}."
        return [WaitReason(code=WaitCode.NOT_BEFORE, message=message, until=later)]
    reasons = [WaitReason(code=WaitCode.SCHEDULER_RESTARTING, message=_unseen(row, away=away))]
    if later is not None:
        message = f"Its last run failed; the next try comes at {_at(later)}, in its old place."
        reasons.append(WaitReason(code=WaitCode.BACKOFF, message=message, until=later))
    if row["paused"]:
        why = f": {row['pause_message']}" if row["pause_message"] else "."
        message = f"An operator has paused jobs of kind {row['kind']}{why}"
        reasons.append(WaitReason(code=WaitCode.PAUSED, message=message, data={"kind": row["kind"]}))
    if row["running_of_user"] >= row["max_running"]:
        message = f"You run {row['running_of_user']} of {row['max_running']} jobs that your plan allows at once."
        data = {"running": row["running_of_user"], "max_running": row["max_running"]}
        reasons.append(WaitReason(code=WaitCode.RUNNING_CAP, message=message, data=data))
    return reasons


def _unseen(row: Row, *, away: bool) -> str:
    if away:
        return (
            "The scheduler restarts and starts no jobs for some seconds. The job is safe and keeps its place; "
            "nothing has to be done."
        )
    if row["state"] == JobState.CREATED:
        return "Its time has come; the scheduler takes it into the queue within moments."
    return "The scheduler has not read the job yet: it was just accepted, or the queue is read anew after a restart."


def _at(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M:%S} UTC"


def _amount(millitokens: int) -> str:
    amount = tokens(millitokens)
    return f"{amount} token" if amount == 1 else f"{amount} tokens"


# ------------------------------------------------------------------ what a user may see


def _reason(reason: WaitReason, *, operator: bool) -> dict[str, Any]:
    shown: dict[str, Any] = {"code": reason.code.value, "message": reason.message}
    if reason.until is not None:
        shown["until"] = reason.until
    shown["data"] = dict(reason.data) if operator else _public(reason.data)
    return shown


def _public(data: Mapping[str, Any]) -> dict[str, Any]:
    """Without what could tell of somebody else."""
    return {name: value for name, value in data.items() if name in PUBLIC_DATA or _is_plain(value)}


def _is_plain(value: object) -> bool:
    return value is None or isinstance(value, bool | int | float | datetime)


def _worker(worker: WorkerView, *, operator: bool) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "name": worker.name,
        "node": worker.node,
        "device": worker.device,
        "online": worker.online,
        "can_run": worker.can_run,
        "why_not": worker.why_not,
    }
    if operator:
        shown.update(free_slots=worker.free_slots, slots=worker.slots, resident=worker.resident)
    return shown

"""What an operator does with jobs: find anybody's, put a running one back, end one as failed with its tokens returned.

Prompts and results are not shown here: to see what a job says, its user has to show it. Every act leaves a row in
audit_log, in its own transaction.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from tessera.api.admin.workers import read_reason
from tessera.api.auth import Caller, Operator, Service
from tessera.api.jobs.answers import answer, error_answer, page
from tessera.api.jobs.filters import time_parameter
from tessera.api.jobs.routes import read_cursor
from tessera.api.jobs.submissions import read_object, refuse_parameter, refuse_unknown
from tessera.api.schemas import admin_jobs as admin_job_schemas
from tessera.api.schemas import base as schemas
from tessera.api.state import api_of
from tessera.errors import Conflict, NotFound
from tessera.ids import Prefix, parse, parse_beginning, show
from tessera.jobs import JobState, Kind
from tessera.plans import tokens

router = APIRouter(tags=["operator"])


@router.get(
    "/v1/admin/jobs",
    response_model=None,
    summary="Find jobs",
    responses={200: {"model": admin_job_schemas.OperatorJobPage}, **schemas.problems(401, 403, 422, 429, 503)},
)
async def find_jobs(
    request: Request,
    caller: Operator,
    id: Annotated[str, Query(max_length=64, description="what the id begins with", examples=["job_01k5h3"])] = "job_",
    user: Annotated[str | None, Query(max_length=200, description="id or name of a user")] = None,
    state: Annotated[list[JobState] | None, Query(description="in one of these")] = None,
    kind: Annotated[Kind | None, Query()] = None,
    worker: Annotated[str | None, Query(max_length=64, description="where it runs")] = None,
    created_after: Annotated[str | None, Query(max_length=40, examples=["2030-01-31T12:00:00Z"])] = None,
    created_before: Annotated[str | None, Query(max_length=40, examples=["2030-02-01T00:00:00Z"])] = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 50,
    cursor: Annotated[str | None, Query(max_length=64, description="`next_cursor` of the page before")] = None,
) -> Response:
    """Of all users, the newest first. Prompts and results are not shown."""
    try:
        low, high = parse_beginning(Prefix.JOB, id.lower())
    except NotFound:
        raise refuse_parameter("id", "is not the beginning of the id of a job, like job_01k…") from None
    rows = await api_of(request).services.db.rows(
        "find_jobs",
        low=low,
        high=high,
        before=read_cursor(Prefix.JOB, cursor),
        user_id=await _user(request, user),
        states=[each.value for each in state] if state else None,
        kind=kind.value if kind else None,
        worker=worker.replace("\x00", "") if worker is not None else None,
        created_after=time_parameter("created_after", created_after),
        created_before=time_parameter("created_before", created_before),
        limit=limit + 1,
    )
    data = [_job_answer(row) for row in rows[:limit]]
    return page(data, data[-1]["id"] if len(rows) > limit else None)


@router.post(
    "/v1/admin/jobs/{job_id}/requeue",
    response_model=None,
    summary="Put a running job back",
    responses={200: {"model": admin_job_schemas.JobActed}, **schemas.problems(400, 401, 403, 404, 409, 422, 429, 503)},
    openapi_extra={"requestBody": admin_job_schemas.REASON_BODY},
)
async def requeue(request: Request, job_id: str, caller: Operator) -> Response:
    """It waits again in its place, no failure is counted, and its run is ended. Where its user had asked for its
    cancel, it is cancelled instead. A job that does not run is refused (409)."""
    return await _requeue(request, job_id, caller)


@router.post(
    "/v1/internal/jobs/{job_id}/requeue",
    tags=["internal"],
    response_model=None,
    summary="Put a running job back",
    responses={200: {"model": admin_job_schemas.JobActed}, **schemas.problems(400, 401, 403, 404, 409, 422, 429, 503)},
    openapi_extra={"requestBody": admin_job_schemas.REASON_BODY},
)
async def requeue_internal(request: Request, job_id: str, caller: Service) -> Response:
    """The same as `POST /v1/admin/jobs/{job_id}/requeue`, for a service key too."""
    return await _requeue(request, job_id, caller)


@router.post(
    "/v1/admin/jobs/{job_id}/fail",
    response_model=None,
    summary="End a job as failed",
    responses={200: {"model": admin_job_schemas.JobActed}, **schemas.problems(400, 401, 403, 404, 409, 422, 429, 503)},
    openapi_extra={"requestBody": admin_job_schemas.REASON_BODY},
)
async def fail(request: Request, job_id: str, caller: Operator) -> Response:
    """With all of its tokens returned; its user reads the reason. A job that has ended, or is not due yet, is refused
    (409)."""
    reason = await _reason(request)
    row = await api_of(request).services.db.row(
        "fail_job", job_id=parse(Prefix.JOB, job_id), reason=reason, actor=show(Prefix.USER, caller.user_id)
    )
    if row is None:
        raise _no_job(job_id)
    if not row["done"]:
        raise Conflict(
            f"The job is {row['state']}, and nothing was changed: only what is queued or runs can be ended as failed."
        )
    return answer({"id": job_id, "state": row["state"], "refunded_tokens": tokens(row["refunded_mt"])})


async def _requeue(request: Request, job_id: str, caller: Caller) -> Response:
    reason = await _reason(request)
    row = await api_of(request).services.db.row(
        "requeue_job", job_id=parse(Prefix.JOB, job_id), reason=reason, actor=show(Prefix.USER, caller.user_id)
    )
    if row is None or row["state"] is None:
        raise _no_job(job_id)
    if row["state"] not in (JobState.QUEUED, JobState.CANCELLED):
        raise Conflict(f"The job is {row['state']}, and nothing was changed: only a running job can be put back.")
    return answer({"id": job_id, "state": row["state"]})


async def _reason(request: Request) -> str:
    body = read_object(await request.body() or b"{}")
    refuse_unknown(body, ("reason",))
    return read_reason(body)


async def _user(request: Request, given: str | None) -> Any:
    if given is None:
        return None
    if given.startswith(f"{Prefix.USER.value}_"):
        try:
            return parse(Prefix.USER, given)
        except NotFound:
            raise refuse_parameter("user", "is not the id of a user, like user_01k…") from None
    row = await api_of(request).services.db.row("user_by_name", name=given.replace("\x00", ""))
    if row is None:
        raise refuse_parameter("user", "is the name of nobody: GET /v1/admin/users lists those that there are")
    return row["id"]


def _job_answer(row: Mapping[str, Any]) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "id": show(Prefix.JOB, row["id"]),
        "user_id": show(Prefix.USER, row["user_id"]),
        "user_name": row["user_name"],
        "kind": row["kind"],
        "model": row["model"],
        "tier": row["tier"],
        "state": row["state"],
        "cost_tokens": tokens(row["cost_mt"]),
        "attempt": row["attempt"],
        "failures": row["failures"],
        "created_at": row["created_at"],
    }
    if row["charged_mt"] is not None:
        shown["charged_tokens"] = tokens(row["charged_mt"])
    for name in ("worker", "queued_at", "started_at", "finished_at", "cancel_requested_at"):
        if row[name] is not None:
            shown[name] = row[name]
    if row["error"] is not None:
        shown["error"] = error_answer(row["error"], refunded_mt=row["cost_mt"] - (row["charged_mt"] or 0))
    return shown


def _no_job(job_id: str) -> NotFound:
    return NotFound(f"There is no job {job_id[:64]!r}. GET /v1/admin/jobs finds those that there are.")

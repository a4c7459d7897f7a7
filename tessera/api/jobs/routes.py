"""Jobs: submit, look, cancel, do again."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response

from tessera.admission import Admitted, Submission
from tessera.api.auth import Caller, Reader, User
from tessera.api.context import context_of
from tessera.api.deliveries.fields import read_delivery, read_webhook
from tessera.api.events.feed import places_of
from tessera.api.events.streams import wait_for_end
from tessera.api.jobs.admitting import admit
from tessera.api.jobs.answers import admitted_answer, answer, artifact_answer, job_answer, job_urls, page
from tessera.api.jobs.filters import MAX_TEXT_CHARS, METADATA_PARAMETER, SCANNED, read_filter
from tessera.api.jobs.submissions import prepare, read_idempotency_key, read_submission, refuse, wanted_again
from tessera.api.plain_route import PlainRoute
from tessera.api.schemas import base as schemas
from tessera.api.schemas import bodies
from tessera.api.services import Services
from tessera.api.state import Api, api_of
from tessera.errors import Conflict, NotFound
from tessera.ids import Prefix, parse, show
from tessera.jobs import FINAL, JobState, Kind
from tessera.ports import Place
from tessera.store.database import Row

router = APIRouter(tags=["jobs"])

MAX_WAIT_S = 60
PLACES_TIMEOUT_S = 0.5
_WAIT = re.compile(r"(?:^|[,;\s])wait\s*=\s*\"?(\d{1,6})\"?(?:$|[,;\s])", re.IGNORECASE)


async def submit(request: Request) -> Response:
    """Hold the price, queue the job and answer at once; follow it at `urls.events`.

    With an `Idempotency-Key` the same request may be sent again for 24 hours: it answers with the same job and
    `Idempotency-Replayed: true`. `Prefer: wait=N` (at most 60) answers 200 with the ended job if it ends in time.
    """
    api = api_of(request)
    services = api.services
    caller = await api.authenticator.authorize(request, "jobs", counted=False)
    services.watermarks.check()
    key = read_idempotency_key(request.headers.get("idempotency-key"))
    wanted = read_submission(await request.body(), services.clock())
    context = context_of(request)
    webhook = read_webhook(wanted.body, services.outbound)
    delivery = read_delivery(wanted.body, caller)
    submission = await prepare(
        services,
        caller,
        wanted,
        idempotency_key=key,
        request_id=context.request_id,
        webhook=webhook,
        delivery=delivery,
    )
    return await _submit(api, request, caller, submission)


router.add_api_route(
    "/v1/jobs",
    submit,
    methods=["POST"],
    route_class_override=PlainRoute,
    status_code=202,
    response_model=None,
    summary="Submit a job",
    responses={
        200: {"model": schemas.Job, "description": "It ended within `Prefer: wait=N`."},
        202: {"model": schemas.Job, "description": "Accepted: durable, and its tokens held."},
        **schemas.problems(400, 401, 402, 403, 413, 422, 429, 503),
    },
    openapi_extra={
        "requestBody": bodies.SUBMISSION_BODY,
        "parameters": [bodies.IDEMPOTENCY_KEY, bodies.PREFER],
    },
)


async def _submit(api: Api, request: Request, caller: Caller, submission: Submission) -> Response:
    wait_s = _wait_s(request)
    if wait_s:
        return await _submit_and_wait(api, request, caller, submission, wait_s)
    return await _answer_admitted(api, request, caller, submission, await admit(api, context_of(request), submission))


async def _answer_admitted(
    api: Api, request: Request, caller: Caller, submission: Submission, admitted: Admitted
) -> Response:
    job_id = show(Prefix.JOB, admitted.job_id)
    headers = {"Location": job_urls(job_id)["self"]}
    if admitted.replayed:
        headers["Idempotency-Replayed"] = "true"
        row = await _row(api.services, caller, job_id)
        return answer(job_answer(row), 202, headers)
    return answer(admitted_answer(submission, admitted), 202, headers)


async def _submit_and_wait(api: Api, request: Request, caller: Caller, submission: Submission, wait_s: int) -> Response:
    """Subscribe first, then submit: no end can be missed."""
    async with api.services.feed.subscribe(submission.id) as subscription:
        admitted = await admit(api, context_of(request), submission)
        headers = {"Preference-Applied": f"wait={wait_s}"}
        job_id = show(Prefix.JOB, admitted.job_id)
        if admitted.replayed:
            headers["Idempotency-Replayed"] = "true"
            async with api.services.feed.subscribe(admitted.job_id) as other:
                row = await _row(api.services, caller, job_id)
                if row["state"] not in FINAL:
                    await wait_for_end(other, wait_s)
        else:
            await wait_for_end(subscription, wait_s)
    row = await _row(api.services, caller, job_id)
    status = 200 if row["state"] in FINAL else 202
    return answer(job_answer(row), status, {**headers, "Location": job_urls(job_id)["self"]})


def _wait_s(request: Request) -> int:
    """Seconds of ``Prefer: wait=N``, 0 without. https://www.rfc-editor.org/rfc/rfc7240#section-4.3"""
    match = _WAIT.search(request.headers.get("prefer", ""))
    return min(MAX_WAIT_S, int(match[1])) if match else 0


@router.get(
    "/v1/jobs",
    response_model=None,
    summary="List jobs, the newest first",
    responses={200: {"model": schemas.JobPage}, **schemas.problems(401, 403, 422, 429, 503)},
    openapi_extra={"parameters": [METADATA_PARAMETER]},
)
async def list_jobs(
    request: Request,
    caller: Reader,
    kind: Kind | None = None,
    state: Annotated[list[JobState] | None, Query(max_length=7, description="one or more, repeated")] = None,
    model: Annotated[str | None, Query(max_length=64)] = None,
    created_after: Annotated[str | None, Query(max_length=40, examples=["2030-01-31T12:00:00Z"])] = None,
    created_before: Annotated[str | None, Query(max_length=40, examples=["2030-02-01T00:00:00Z"])] = None,
    q: Annotated[
        str | None,
        Query(min_length=1, max_length=MAX_TEXT_CHARS, description="in the prompt, in any case", examples=["fox"]),
    ] = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    cursor: Annotated[str | None, Query(max_length=64, description="`next_cursor` of the page before")] = None,
) -> Response:
    """The user's jobs. `next_cursor` is null on the last page.

    Filters go together, and a cursor keeps its meaning with any of them. A search by `q` or `metadata.{key}` may answer
    with a short or empty page before the last one: go on while there is a `next_cursor`.
    """
    services = api_of(request).services
    named = services.catalog.by_id(model) if model else None
    wanted = read_filter(request, states=state, created_after=created_after, created_before=created_before, text=q)
    before = read_cursor(Prefix.JOB, cursor)
    down_to = None
    if wanted.is_search:
        end = await services.db.row("list_jobs_end", user_id=caller.user_id, before=before, scanned=SCANNED)
        down_to = end["id"] if end is not None else None
    rows = await services.db.rows(
        "list_jobs",
        user_id=caller.user_id,
        before=before,
        down_to=down_to,
        kind=kind.value if kind else None,
        states=wanted.states,
        model=(named.id if named else model.replace("\x00", "")) if model else None,
        created_after=wanted.after,
        created_before=wanted.before,
        metadata=wanted.metadata,
        text=wanted.text,
        limit=limit + 1,
    )
    shown, rest = rows[:limit], rows[limit:]
    next_id = shown[-1]["id"] if rest else down_to
    queued = [row["id"] for row in shown if row["state"] == JobState.QUEUED]
    places = await places_of(services.scheduler, queued, timeout_s=PLACES_TIMEOUT_S) if queued else {}
    data = [job_answer(row, places.get(row["id"])) for row in shown]
    return page(data, show(Prefix.JOB, next_id) if next_id is not None else None)


@router.get(
    "/v1/jobs/{job_id}",
    response_model=None,
    summary="A job as it is now",
    responses={200: {"model": schemas.Job}, **schemas.problems(401, 404, 429, 503)},
)
async def get_job(request: Request, job_id: str, caller: Reader) -> Response:
    """State, artifacts, output and error; while it is queued also its position and ETA."""
    services = api_of(request).services
    row = await _row(services, caller, job_id)
    return answer(await _with_place(services, row))


@router.post(
    "/v1/jobs/{job_id}/cancel",
    response_model=None,
    summary="Cancel a job",
    responses={
        200: {"model": schemas.Job, "description": "It has ended: cancelled, or before the wish came."},
        202: {"model": schemas.Job, "description": "It runs and is being stopped; its events tell when it is over."},
        **schemas.problems(401, 404, 429, 503),
    },
)
async def cancel(request: Request, job_id: str, caller: User) -> Response:
    """A waiting job is cancelled and refunded at once, a running one within seconds. Safe to repeat."""
    services = api_of(request).services
    found = await services.db.row("cancel_job", id=parse(Prefix.JOB, job_id), user_id=caller.user_id)
    if found is None or found["state"] is None:
        raise _no_job(job_id)
    row = await _row(services, caller, job_id)
    return answer(job_answer(row), 200 if row["state"] in FINAL else 202)


@router.post(
    "/v1/jobs/{job_id}/retry",
    status_code=202,
    response_model=None,
    summary="Do a job again",
    responses={
        200: {"model": schemas.Job, "description": "It ended within `Prefer: wait=N`."},
        202: {"model": schemas.Job, "description": "Accepted: a new job, with its own hold."},
        **schemas.problems(401, 402, 403, 404, 409, 422, 429, 503),
    },
    openapi_extra={"parameters": [bodies.IDEMPOTENCY_KEY, bodies.PREFER]},
)
async def retry(request: Request, job_id: str) -> Response:
    """A new job of the same kind, model, input, metadata and webhook as one that has ended, however it ended;
    `retried_from` names that one. It is priced, held and counted as any submission; the seed is the same. 409 while
    the job lives."""
    api = api_of(request)
    services = api.services
    caller = await api.authenticator.authorize(request, "jobs", counted=False)
    services.watermarks.check()
    key = read_idempotency_key(request.headers.get("idempotency-key"))
    row = await _row(services, caller, job_id)
    if row["state"] not in FINAL:
        raise Conflict(
            f"This job is {row['state']}, and only one that has ended can be done again. Nothing was submitted or"
            " charged; wait for its end, or cancel it first.",
            job_id=row["id"],
        )
    submission = await prepare(
        services,
        caller,
        wanted_again(row),
        idempotency_key=key,
        request_id=context_of(request).request_id,
        webhook=row["webhook"],
        retried_from=row["id"],
    )
    return await _submit(api, request, caller, submission)


@router.get(
    "/v1/jobs/{job_id}/artifacts",
    response_model=None,
    summary="The files that a job has made",
    responses={200: {"model": schemas.ArtifactPage}, **schemas.problems(401, 404, 429, 503)},
)
async def job_artifacts(request: Request, job_id: str, caller: Reader) -> Response:
    """The same as `artifacts` in the job."""
    row = await _row(api_of(request).services, caller, job_id)
    return page([artifact_answer(artifact) for artifact in row["artifacts"]])


async def _row(services: Services, caller: Caller, job_id: str) -> Row:
    """The user's job. Raises NotFound, also for somebody else's."""
    row = await services.db.row("get_job", id=parse(Prefix.JOB, job_id), user_id=caller.user_id)
    if row is None:
        raise _no_job(job_id)
    return row


async def _with_place(services: Services, row: Row) -> dict[str, Any]:
    places: Mapping[UUID, Place] = {}
    if row["state"] == JobState.QUEUED:
        places = await places_of(services.scheduler, [row["id"]], timeout_s=PLACES_TIMEOUT_S)
    return job_answer(row, places.get(row["id"]))


def _no_job(job_id: str) -> NotFound:
    return NotFound(f"There is no job {job_id[:64]!r} of yours. GET /v1/jobs lists those that there are.")


def read_cursor(prefix: Prefix, cursor: str | None) -> Any:
    """The id in a cursor, or None. Raises InvalidInput."""
    if cursor is None:
        return None
    try:
        return parse(prefix, cursor)
    except NotFound:
        raise refuse("cursor", "is not one of ours: take 'next_cursor' of the page before") from None

"""A job's events, or those of all of a user's jobs, as server-sent events."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated

from fastapi import APIRouter, Header, Query, Request, Response

from tessera.api.auth import Caller, Reader
from tessera.api.events.streams import EventStreamResponse, JobEvents
from tessera.api.events.user_events import UserEvents
from tessera.api.schemas import base as schemas
from tessera.api.schemas.events import ALL_EVENTS_EXAMPLE, EVENT_MESSAGE, EVENTS_EXAMPLE
from tessera.api.state import Api, api_of
from tessera.errors import Conflict, NotFound, RateLimited
from tessera.ids import Prefix, parse
from tessera.jobs import FINAL

router = APIRouter(tags=["jobs"])

MAX_STREAMS = (
    128  # open at once, per user and replica: twice as many as anybody needs, a sixteenth of what a replica takes
)
MAX_EVENT_ID = 2**31 - 1


@router.get(
    "/v1/jobs/{job_id}/events",
    response_model=None,
    summary="Follow a job",
    responses={
        200: {"content": {"text/event-stream": {"schema": EVENT_MESSAGE, "example": EVENTS_EXAMPLE}}},
        204: {"description": "The job has ended, and you have seen all of its events."},
        **schemas.problems(401, 404, 422, 429, 503),
    },
)
async def job_events(
    request: Request,
    job_id: str,
    caller: Reader,
    last_event_id: Annotated[
        str | None, Query(max_length=32, description="as the header, for who cannot set one")
    ] = None,
    last_event_id_header: Annotated[str | None, Header(alias="Last-Event-ID")] = None,
) -> Response:
    """State events carry an `id` and are replayed after `Last-Event-ID`; `progress`, `preview` and `chunk` are not.

    `data` is `{id, job_id, type, at, attempt, data}`. A `queued` event with a `reason` is a retry: it voids the chunks
    before it. The stream ends after `completed`, `failed`, `cancelled` or `expired`.
    """
    api = api_of(request)
    services = api.services
    job = await services.db.row("job_for_events", id=parse(Prefix.JOB, job_id), user_id=caller.user_id)
    if job is None:
        raise NotFound(f"There is no job {job_id[:64]!r} of yours. GET /v1/jobs lists those that there are.")
    after = _event_id(last_event_id if last_event_id is not None else last_event_id_header)
    if after and job["state"] in FINAL and not await services.db.rows("events_of_job", job_id=job["id"], after=after):
        return Response(status_code=204)
    _check_streams(api, caller)
    events = JobEvents(services.db, services.feed, job, after=after, heartbeat_s=services.heartbeat_s)
    return EventStreamResponse(_counted(api, caller, events.messages()))


@router.get(
    "/v1/events",
    response_model=None,
    summary="Follow all jobs",
    responses={
        200: {"content": {"text/event-stream": {"schema": EVENT_MESSAGE, "example": ALL_EVENTS_EXAMPLE}}},
        **schemas.problems(401, 403, 422, 429, 503),
    },
)
async def all_events(
    request: Request,
    caller: Reader,
    last_event_id: Annotated[
        str | None, Query(max_length=32, description="as the header, for who cannot set one; 0: from the oldest")
    ] = None,
    last_event_id_header: Annotated[str | None, Header(alias="Last-Event-ID")] = None,
) -> Response:
    """The durable events of all of the user's jobs, in the order in which they happened, in one stream without end.

    Each `id` is larger than the one before, with gaps; `Last-Event-ID` resumes after it, or at the oldest event that is
    still kept. Without one the stream begins now: its first `id` comes at once, without data. `progress`, `preview` and
    `chunk` come only in the stream of a single job.
    """
    api = api_of(request)
    services = api.services
    _check_streams(api, caller)
    given = last_event_id if last_event_id is not None else last_event_id_header
    after = int(given) if given is not None and given.isascii() and given.isdigit() and len(given) <= 32 else None
    events = UserEvents(
        services.db,
        services.feed,
        caller.user_id,
        after=after,
        heartbeat_s=services.heartbeat_s,
        check=lambda: _still(api, request, caller),
    )
    return EventStreamResponse(_counted(api, caller, events.messages()))


async def _still(api: Api, request: Request, caller: Caller) -> None:
    """Raises what ends a stream: the key is good no more, or it, or the identity, belongs to another user by now."""
    if (await api.authenticator.authenticate(request)).user_id != caller.user_id:
        raise Conflict("Two accounts were merged. Nothing is lost; follow the events again from the last one.")


def _check_streams(api: Api, caller: Caller) -> None:
    if api.streams[caller.user_id] >= MAX_STREAMS:
        raise RateLimited(
            f"{MAX_STREAMS} event streams are open already. Close one, or ask for the job by GET.", retry_after_s=5
        )


async def _counted(api: Api, caller: Caller, messages: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
    api.streams[caller.user_id] += 1
    api.metrics.streams.inc()
    try:
        async with aclosing(messages) as stream:
            async for message in stream:
                yield message
    finally:
        api.metrics.streams.dec()
        api.streams[caller.user_id] -= 1
        if not api.streams[caller.user_id]:
            del api.streams[caller.user_id]


def _event_id(given: str | None) -> int:
    """The last event that the client has seen. What is no number of ours means: none, and everything is sent again."""
    if given is None or not (given.isascii() and given.isdigit()):
        return 0
    return min(int(given[:32]), MAX_EVENT_ID)

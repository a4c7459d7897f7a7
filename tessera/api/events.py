"""A job's events as server-sent events."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated

from fastapi import APIRouter, Header, Query, Request, Response

from tessera.api import schemas
from tessera.api.auth import Caller, Reader
from tessera.api.state import Api, api_of
from tessera.api.streams import EventStreamResponse, JobEvents
from tessera.errors import NotFound, RateLimited
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
        200: {"content": {"text/event-stream": {"schema": {"type": "string"}, "example": schemas.EVENTS_EXAMPLE}}},
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
    if api.streams[caller.user_id] >= MAX_STREAMS:
        raise RateLimited(
            f"{MAX_STREAMS} event streams are open already. Close one, or ask for the job by GET.", retry_after_s=5
        )
    events = JobEvents(services.db, services.feed, job, after=after, heartbeat_s=services.heartbeat_s)
    return EventStreamResponse(_counted(api, caller, events.messages()))


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

"""One request of OpenAI's is one job, and its answer is the job's result: submit it, wait for its end, give it back.

Who goes away without having waited wants no result: the job is cancelled, and what was not executed is refunded. A
request with an ``Idempotency-Key`` lives on instead: the same request finds it again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import structlog
from fastapi import Request
from starlette.requests import ClientDisconnect

from tessera.admission import Admitted, Submission
from tessera.api.auth import Caller
from tessera.api.context import context_of
from tessera.api.events.feed import Subscription
from tessera.api.events.streams import left, wait_for_end
from tessera.api.jobs.admitting import admit
from tessera.api.jobs.submissions import Wanted, plainly, prepare, read_idempotency_key
from tessera.api.openai.errors import JobFailed
from tessera.api.problems import FrameworkError
from tessera.api.services import Services
from tessera.api.state import Api, api_of
from tessera.errors import Gone, NotFound, TesseraError, Unavailable
from tessera.ids import Prefix, show
from tessera.inputs import parse_input
from tessera.jobs import FINAL, JobState, Kind
from tessera.plans import tokens
from tessera.store.database import Row

log = structlog.get_logger(__name__)

MAX_WAIT_S = 3600.0  # OpenAI's own clients give up after 600 s, unless they are told otherwise
LOOK_EVERY_S = 15.0  # the feed tells of the end; a look at the row is the guarantee


@dataclass(frozen=True, kw_only=True)
class Asked:
    """One request on its way to a job."""

    api: Api
    request: Request
    caller: Caller

    @property
    def request_id(self) -> str:
        return context_of(self.request).request_id


async def asked(request: Request) -> Asked:
    """Who asks, if they may submit now. Raises Unauthorized, Forbidden or Unavailable."""
    api = api_of(request)
    caller = await api.authenticator.authorize(request, "jobs", counted=False)
    api.services.watermarks.check()
    return Asked(api=api, request=request, caller=caller)


def wanted(
    kind: Kind, model: str | None, data: Mapping[str, Any], body: Mapping[str, Any], metadata: Mapping[str, Any]
) -> Wanted:
    """What a request asks for, checked. ``body`` is what an Idempotency-Key is bound to. Raises InvalidInput."""
    return plainly(kind, model, parse_input(kind, data), body=body, metadata=metadata)


async def submission_of(asked: Asked, wish: Wanted) -> Submission:
    """The wish, complete and priced. Raises UnknownModel, InvalidInput or Unavailable."""
    key = read_idempotency_key(asked.request.headers.get("idempotency-key"))
    services = asked.api.services
    return await prepare(services, asked.caller, wish, idempotency_key=key, request_id=asked.request_id)


async def submitted(asked: Asked, submission: Submission) -> Admitted:
    """The durable job. Raises what admission raises."""
    return await admit(asked.api, context_of(asked.request), submission)


async def result_of(asked: Asked, submission: Submission) -> Row:
    """Submit and wait: the row of the completed job.

    Raises what admission raises, JobFailed when it does not complete, ClientDisconnect when the caller went away, or
    Unavailable when this replica stops; in both of these the job is cancelled, unless an Idempotency-Key names it.
    """
    feed = asked.api.services.feed
    async with feed.subscribe(submission.id) as own:
        admitted = await submitted(asked, submission)
        job_id = admitted.job_id
        try:
            if admitted.replayed:
                async with feed.subscribe(job_id) as other:
                    await _ended(asked, job_id, other, look=True)
            else:
                await _ended(asked, job_id, own, look=False)
            row = await row_of(asked, job_id)
        except BaseException:
            if submission.idempotency_key is None:
                cancel_soon(asked.api, asked.caller.user_id, job_id)
            raise
    if row["state"] != JobState.COMPLETED:
        raise JobFailed(row)
    return row


async def row_of(asked: Asked, job_id: UUID) -> Row:
    """The job as it is. It was admitted for this caller, so it is there."""
    row = await asked.api.services.db.row("get_job", id=job_id, user_id=asked.caller.user_id)
    if row is None:
        raise Unavailable("The job has been deleted meanwhile. Nothing more is charged; send it again.")
    return row


async def _ended(asked: Asked, job_id: UUID, subscription: Subscription, *, look: bool) -> None:
    """Returns when the job has ended. ``look``: it may have ended before."""
    leaving = asyncio.create_task(left(asked.request.receive))
    try:
        async with asyncio.timeout(MAX_WAIT_S):
            while True:
                if look and (await row_of(asked, job_id))["state"] in FINAL:
                    return
                waiting = asyncio.create_task(wait_for_end(subscription, LOOK_EVERY_S))
                try:
                    await asyncio.wait((waiting, leaving), return_when=asyncio.FIRST_COMPLETED)
                finally:
                    waiting.cancel()
                if leaving.done():
                    raise ClientDisconnect
                if subscription.closed:
                    raise Unavailable(retry_after_s=1.0)
                if waiting.result():
                    return
                subscription.lagging = False
                look = True
    except TimeoutError:
        raise FrameworkError(
            504,
            "timeout",
            f"The job did not end within {MAX_WAIT_S / 60:.0f} minutes and was cancelled. What was not executed of it"
            " is given back; submit it by POST /v1/jobs and follow its events instead.",
        ) from None
    finally:
        leaving.cancel()


def cancel_soon(api: Api, user_id: UUID, job_id: UUID) -> None:
    """Ask for a job's end without making anybody wait: whoever wanted it is gone."""

    async def cancel() -> None:
        try:
            await api.services.db.row("cancel_job", id=job_id, user_id=user_id)
        except TesseraError as error:
            log.warning("abandoned_job_not_cancelled", job_id=show(Prefix.JOB, job_id), code=error.code)

    task = asyncio.create_task(cancel())
    api.leaving.add(task)
    task.add_done_callback(api.leaving.discard)


async def bytes_of(services: Services, user_id: UUID, artifact_id: UUID | str) -> bytes:
    """The bytes of one of a user's artifacts. Raises Gone."""
    row = await services.db.row("get_artifact", id=UUID(str(artifact_id)), user_id=user_id)
    try:
        if row is not None and row["deleted_at"] is None and row["withheld_at"] is None:
            return await services.artifacts.get(row["sha256"])
    except NotFound:
        log.warning("artifact_missing", artifact_id=str(artifact_id))
    raise Gone("The job has ended well, but its file is gone already: deleted, or past its retention.")


def headers_of(row: Mapping[str, Any]) -> dict[str, str]:
    """What OpenAI's answers have no place for: which job it was, and what it has cost."""
    return {
        "Tessera-Job": show(Prefix.JOB, row["id"]),
        "Tessera-Charged-Tokens": str(tokens(row["charged_mt"] or 0)),
    }

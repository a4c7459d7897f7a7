"""Batches: JSON Lines in, a job for each line when there is room, JSON Lines out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Query, Request, Response

from tessera.api.artifacts.files import FileResponse
from tessera.api.artifacts.uploads import STORE_FULL_RETRY_S
from tessera.api.auth import Caller, Reader, User
from tessera.api.batches import making as batch_making
from tessera.api.batches.lines import Shape
from tessera.api.forms import received_form
from tessera.api.jobs.answers import answer, page
from tessera.api.jobs.routes import read_cursor
from tessera.api.jobs.submissions import read_idempotency_key, read_metadata, refuse, refuse_unknown
from tessera.api.middleware import MAX_UPLOAD_BYTES
from tessera.api.schemas import base as schemas
from tessera.api.schemas import batches as batch_schemas
from tessera.api.schemas import bodies
from tessera.api.services import Services
from tessera.api.state import api_of
from tessera.errors import Conflict, Gone, StorageFull, Unavailable
from tessera.ids import Prefix, parse, show
from tessera.plans import tokens
from tessera.store.database import Row

router = APIRouter(tags=["batches"])

DEFAULT_WINDOW = "7d"
MEDIA_TYPE = "application/jsonl"

_PAUSES = {
    "quota_exhausted": "Today's tokens are used up. The batch goes on at midnight UTC, or as soon as there are some.",
    "key_cap_exhausted": "The API key's daily cap is used up. The batch goes on at midnight UTC.",
    "too_many_queued": "Half of the plan's queue is taken. The batch goes on as its jobs end: the rest is for others.",
    "rate_limited": "Half of a minute's submissions are used up. The batch goes on soon: the rest is for others.",
}


@router.post(
    "/v1/batches",
    status_code=201,
    response_model=None,
    summary="Begin a batch",
    responses={
        201: {"model": batch_schemas.Batch, "description": "Begun. No line is a job yet, and nothing is held."},
        **schemas.problems(401, 403, 413, 422, 429, 503),
    },
    openapi_extra={"requestBody": batch_schemas.BATCH_BODY, "parameters": [bodies.IDEMPOTENCY_KEY]},
)
async def begin(request: Request, caller: User) -> Response:
    """At most 50,000 lines and 100 MiB. A line becomes a job, and its price is held, when there is room: at most half
    of the queue and of a minute's submissions, so that other work goes on. A quota that is used up pauses the batch
    until it starts anew. A line that is not valid is refused alone; the file as a whole must be JSON objects."""
    services = api_of(request).services
    key = read_idempotency_key(request.headers.get("idempotency-key"))
    async with received_form(request, files=("file",), max_bytes=MAX_UPLOAD_BYTES) as form:
        fields = form.data()
        refuse_unknown(fields, ("completion_window", "metadata"))
        metadata = _metadata(fields.get("metadata"))
        window = str(fields.get("completion_window", DEFAULT_WINDOW))
        batch_making.read_window(window)
        given = form.file("file")
        sha256 = await stored(services, given.path)
    file = await batch_making.keep_file(services, caller.user_id, sha256, given.size, given.filename)
    row, replayed = await batch_making.begin(
        services,
        caller,
        file,
        shape=Shape.NATIVE,
        endpoint="",
        window=window,
        metadata=metadata,
        idempotency_key=key,
        refuse_problems=True,
    )
    shown = await _shown(services, row)
    headers = {"Location": shown["urls"]["self"], **({"Idempotency-Replayed": "true"} if replayed else {})}
    return answer(shown, 201, headers)


async def stored(services: Services, path: Any) -> str:
    """Put a file into the store. Raises Unavailable when it is full."""
    services.watermarks.check()
    try:
        return await services.artifacts.put_file(path)
    except StorageFull as error:
        raise Unavailable(
            "The artifact store is full, so the file cannot be stored. Nothing was stored; try again later.",
            retry_after_s=STORE_FULL_RETRY_S,
        ) from error


def _metadata(text: object) -> Mapping[str, Any]:
    if text is None:
        return {}
    try:
        return read_metadata(orjson.loads(str(text)))
    except orjson.JSONDecodeError:
        raise refuse("metadata", "must be a JSON object, written as text") from None


@router.get(
    "/v1/batches",
    response_model=None,
    summary="List batches, the newest first",
    responses={200: {"model": batch_schemas.BatchPage}, **schemas.problems(401, 403, 422, 429, 503)},
)
async def list_batches(
    request: Request,
    caller: Reader,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    cursor: Annotated[str | None, Query(max_length=64, description="`next_cursor` of the page before")] = None,
) -> Response:
    """The user's batches, those of OpenAI's shape too."""
    services = api_of(request).services
    before = read_cursor(Prefix.BATCH, cursor)
    rows = await services.db.rows("list_batches", user_id=caller.user_id, before=before, shape=None, limit=limit + 1)
    data = [await _shown(services, row) for row in rows[:limit]]
    return page(data, data[-1]["id"] if len(rows) > limit else None)


@router.get(
    "/v1/batches/{batch_id}",
    response_model=None,
    summary="A batch as it is now",
    responses={200: {"model": batch_schemas.Batch}, **schemas.problems(401, 403, 404, 429, 503)},
)
async def get_batch(request: Request, batch_id: str, caller: Reader) -> Response:
    """Its state and counts; while no line becomes a job, why, and until when."""
    services = api_of(request).services
    return answer(await _shown(services, await _find(services, caller, batch_id)))


@router.post(
    "/v1/batches/{batch_id}/cancel",
    response_model=None,
    summary="Cancel a batch",
    responses={200: {"model": batch_schemas.Batch}, **schemas.problems(401, 403, 404, 429, 503)},
)
async def cancel(request: Request, batch_id: str, caller: User) -> Response:
    """No further line becomes a job, jobs that wait are cancelled and refunded, those that run are being stopped. What
    is done stays done, and its results come. Safe to repeat."""
    services = api_of(request).services
    row = await batch_making.give_up(services, caller, parse(Prefix.BATCH, batch_id))
    return answer(await _shown(services, row))


_FILE = {"content": {MEDIA_TYPE: {"schema": {"type": "string", "format": "binary"}}}}


@router.get(
    "/v1/batches/{batch_id}/output",
    response_model=None,
    summary="The results of a batch",
    responses={200: _FILE, **schemas.problems(401, 403, 404, 409, 410, 429, 503)},
)
async def output(request: Request, batch_id: str, caller: Reader) -> Response:
    """JSON Lines: `line`, `custom_id` and the completed `job`, in the file's order. 409 until the batch is over."""
    return await _file(request, caller, batch_id, "output_file_id")


@router.get(
    "/v1/batches/{batch_id}/errors",
    response_model=None,
    summary="What went wrong in a batch",
    responses={200: _FILE, **schemas.problems(401, 403, 404, 409, 410, 429, 503)},
)
async def errors(request: Request, batch_id: str, caller: Reader) -> Response:
    """JSON Lines: `line`, `custom_id`, and the `error` of a line that became no job, or the `job` that did not
    complete. 409 until the batch is over."""
    return await _file(request, caller, batch_id, "error_file_id")


async def _file(request: Request, caller: Caller, batch_id: str, column: str) -> Response:
    services = api_of(request).services
    batch = await _find(services, caller, batch_id)
    if batch["ended_at"] is None:
        raise Conflict(f"The batch is {batch['state']}, and its files come when it has ended. Ask again then.")
    headers = {"X-Content-Type-Options": "nosniff"}
    if batch[column] is None:
        return Response(b"", headers=headers, media_type=MEDIA_TYPE)
    row = await services.db.row("get_batch_file", id=batch[column], user_id=caller.user_id)
    if row is None:
        raise Gone("This file was deleted, or its time is over. The batch itself is still there.")
    return file_response(services, row)


def file_response(services: Services, row: Row) -> Response:
    """The bytes of a file of a batch."""
    headers = {
        "Content-Length": str(row["bytes"]),
        "Content-Disposition": f'attachment; filename="{show(Prefix.FILE, row["id"])}.jsonl"',
        "X-Content-Type-Options": "nosniff",
    }
    return FileResponse(services.artifacts.stream(row["sha256"], 0, row["bytes"]), 200, headers, MEDIA_TYPE)


async def _find(services: Services, caller: Caller, batch_id: str) -> Row:
    return await batch_making.find(services, caller, parse(Prefix.BATCH, batch_id))


async def _shown(services: Services, batch: Row) -> dict[str, Any]:
    counts = await batch_making.counts_of(services, batch)
    charged_mt = counts.pop("charged_mt")
    batch_id = show(Prefix.BATCH, batch["id"])
    path = f"/v1/batches/{batch_id}"
    shown: dict[str, Any] = {
        "id": batch_id,
        "state": batch["state"],
        "created_at": batch["created_at"],
        "expires_at": batch["expires_at"],
        "completion_window": batch["completion_window"],
        "counts": counts,
        "charged_tokens": tokens(charged_mt),
        "errors": batch["errors"],
        "metadata": batch["metadata"],
        "urls": {"self": path, "cancel": f"{path}/cancel", "output": f"{path}/output", "errors": f"{path}/errors"},
    }
    if batch["ended_at"] is not None:
        shown["ended_at"] = batch["ended_at"]
    if batch["pause_reason"] is not None:
        reason = batch["pause_reason"]
        shown["pause"] = {"reason": reason, "message": _PAUSES[reason], "until": batch["paused_until"]}
    return shown

"""``batches``: https://platform.openai.com/docs/api-reference/batch"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from fastapi import APIRouter, Query, Request, Response
from pydantic import Field

from tessera.api.auth import Reader, User
from tessera.api.batches import making as batch_making
from tessera.api.batches.lines import Endpoint, Shape
from tessera.api.jobs.answers import answer
from tessera.api.jobs.submissions import read_idempotency_key, read_object, refuse
from tessera.api.openai import schemas
from tessera.api.openai.bodies import Body
from tessera.api.services import Services
from tessera.api.state import api_of
from tessera.errors import NotFound
from tessera.ids import Prefix, parse, show
from tessera.plans import tokens
from tessera.store.database import Row

router = APIRouter(tags=["openai"])

_STATUS = {"expanding": "in_progress", "paused": "in_progress", "running": "in_progress"}


class BatchBody(Body):
    """A batch of a file that was uploaded."""

    IGNORED: ClassVar[frozenset[str]] = frozenset({"output_expires_after"})

    input_file_id: str = Field(max_length=64)
    endpoint: Endpoint
    completion_window: str = Field(max_length=8)


@router.post(
    "/openai/v1/batches",
    response_model=None,
    summary="Begin a batch in OpenAI's shape",
    responses={
        200: schemas.answers(schemas.OpenAIBatch, "Begun, or `failed` at once.", schemas.BATCH_EXAMPLE),
        **schemas.errors(400, 401, 403, 413, 429, 503),
    },
    openapi_extra={
        "requestBody": schemas.body(
            BatchBody,
            {
                "chat": {
                    "input_file_id": "file_01k0000000000000000000000c",
                    "endpoint": "/v1/chat/completions",
                    "completion_window": "24h",
                }
            },
        ),
        "parameters": [schemas.IDEMPOTENCY_KEY],
    },
)
async def create(request: Request, caller: User) -> Response:
    """Each line becomes a job when there is room for it, as with `POST /v1/batches`. A file that cannot be a batch
    makes one that is `failed`, with its `errors`."""
    services = api_of(request).services
    key = read_idempotency_key(request.headers.get("idempotency-key"))
    body = BatchBody.read(read_object(await request.body()))
    try:
        file = await batch_making.find_file(services, caller, body.input_file_id)
    except NotFound as error:
        raise refuse("input_file_id", error.message) from None
    row, _ = await batch_making.begin(
        services,
        caller,
        file,
        shape=Shape.OPENAI,
        endpoint=body.endpoint.value,
        window=body.completion_window,
        metadata=body.metadata,
        idempotency_key=key,
        refuse_problems=False,
    )
    return answer(await _shown(services, row))


@router.get(
    "/openai/v1/batches",
    response_model=None,
    summary="List batches in OpenAI's shape",
    responses={
        200: schemas.answers(
            schemas.OpenAIBatchList,
            "A page of them.",
            {"object": "list", "data": [schemas.BATCH_EXAMPLE], "has_more": False},
        ),
        **schemas.errors(400, 401, 403, 429, 503),
    },
)
async def list_batches(
    request: Request,
    caller: Reader,
    after: Annotated[str | None, Query(max_length=64, description="the id of the last one of the page before")] = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
) -> Response:
    """Those of OpenAI's shape, the newest first."""
    services = api_of(request).services
    try:
        before = None if after is None else parse(Prefix.BATCH, after)
    except NotFound:
        raise refuse("after", "is not the id of a batch") from None
    rows = await services.db.rows(
        "list_batches", user_id=caller.user_id, before=before, shape=Shape.OPENAI.value, limit=limit + 1
    )
    data = [await _shown(services, row) for row in rows[:limit]]
    edges = {"first_id": data[0]["id"] if data else None, "last_id": data[-1]["id"] if data else None}
    return answer({"object": "list", "data": data, **edges, "has_more": len(rows) > limit})


@router.get(
    "/openai/v1/batches/{batch_id}",
    response_model=None,
    summary="A batch in OpenAI's shape",
    responses={
        200: schemas.answers(schemas.OpenAIBatch, "The batch.", schemas.BATCH_EXAMPLE),
        **schemas.errors(401, 403, 404, 429, 503),
    },
)
async def retrieve(request: Request, batch_id: str, caller: Reader) -> Response:
    """`pause` says why no line becomes a job at the moment, and until when."""
    services = api_of(request).services
    row = await batch_making.find(services, caller, parse(Prefix.BATCH, batch_id))
    if row["shape"] != Shape.OPENAI:
        raise NotFound(f"There is no batch {batch_id[:64]!r} of OpenAI's shape: look at it under /v1/batches.")
    return answer(await _shown(services, row))


@router.post(
    "/openai/v1/batches/{batch_id}/cancel",
    response_model=None,
    summary="Cancel a batch in OpenAI's shape",
    responses={
        200: schemas.answers(schemas.OpenAIBatch, "It is being cancelled.", schemas.BATCH_EXAMPLE),
        **schemas.errors(401, 403, 404, 429, 503),
    },
)
async def cancel(request: Request, batch_id: str, caller: User) -> Response:
    """Jobs that wait are cancelled and refunded; what is done stays done, and its results come. Safe to repeat."""
    services = api_of(request).services
    return answer(await _shown(services, await batch_making.give_up(services, caller, parse(Prefix.BATCH, batch_id))))


async def _shown(services: Services, batch: Row) -> dict[str, Any]:
    return batch_answer(batch, await batch_making.counts_of(services, batch))


def batch_answer(batch: Mapping[str, Any], counts: Mapping[str, int]) -> dict[str, Any]:
    """A batch. OpenAI has no `paused`: `pause` is ours."""
    state, ended = batch["state"], batch["ended_at"]
    status = _STATUS.get(state, state)
    if state == "cancelling" and batch["ends_as"] != "cancelled":
        status = "finalizing"

    def at(wanted: str) -> int | None:
        return int(ended.timestamp()) if ended is not None and state == wanted else None

    def file(column: str) -> str | None:
        return show(Prefix.FILE, batch[column]) if batch[column] is not None else None

    created = int(batch["created_at"].timestamp())
    cancelling = batch["cancelling_at"] if batch["ends_as"] == "cancelled" else None
    shown: dict[str, Any] = {
        "id": show(Prefix.BATCH, batch["id"]),
        "object": "batch",
        "endpoint": batch["endpoint"],
        "errors": {"object": "list", "data": batch["errors"]} if batch["errors"] else None,
        "input_file_id": show(Prefix.FILE, batch["input"]),
        "completion_window": batch["completion_window"],
        "status": status,
        "output_file_id": file("output_file_id"),
        "error_file_id": file("error_file_id"),
        "created_at": created,
        "in_progress_at": created if state != "failed" else None,
        "expires_at": int(batch["expires_at"].timestamp()),
        "finalizing_at": int(ended.timestamp()) if ended is not None and state != "failed" else None,
        "completed_at": at("completed"),
        "failed_at": at("failed"),
        "expired_at": at("expired"),
        "cancelling_at": int(cancelling.timestamp()) if cancelling is not None else None,
        "cancelled_at": at("cancelled"),
        "request_counts": {
            "total": counts["total"],
            "completed": counts["completed"],
            "failed": counts["refused"] + counts["failed"] + counts["cancelled"],
        },
        "metadata": batch["metadata"] or None,
        "charged_tokens": tokens(counts["charged_mt"]),
    }
    if batch["pause_reason"] is not None:
        until = batch["paused_until"]
        shown["pause"] = {"reason": batch["pause_reason"], "until": int(until.timestamp()) if until else None}
    return shown

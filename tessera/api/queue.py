"""The queue as everybody may see it. Needs no key, and tells of nobody."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, Request, Response

from tessera.api.jobs.answers import answer
from tessera.api.schemas import base as schemas
from tessera.api.schemas import queue as queue_schemas
from tessera.api.state import api_of
from tessera.catalog import Model
from tessera.ports import WorkerStatus

router = APIRouter(tags=["catalogue"])


@router.get(
    "/v1/queue",
    response_model=None,
    summary="How long the queue is",
    responses={200: {"model": queue_schemas.Queue}, **schemas.problems(503)},
    openapi_extra={"security": []},
)
async def queue(request: Request) -> Response:
    """What waits and runs by kind and tier, how long the oldest waits, which models are loaded, and what is paused.

    Counted at most once a second, less often while very much waits: `as_of` says when.
    """
    api = api_of(request)
    depth = await api.depth.get()
    workers = await api.workers.get()
    banner = await api.services.standing.banner()
    lines = [_line(row) for row in depth.lines]
    return answer(
        {
            "as_of": depth.as_of,
            "queued": sum(line["queued"] for line in lines),
            "running": sum(line["running"] for line in lines),
            "lines": lines,
            "models": [
                {"id": model.id, "kind": model.kind.value, "state": model_state(model, workers)}
                for model in api.services.catalog.models
                if not model.hidden
            ],
            "pauses": [
                {"kind": row["kind"], "message": row["message"], "since": row["created_at"]} for row in depth.pauses
            ],
            **({"banner": banner.answer()} if banner is not None else {}),
        }
    )


def _line(row: dict[str, Any]) -> dict[str, Any]:
    shown = {name: row[name] for name in ("kind", "tier", "queued", "running")}
    if row["oldest_wait_s"] is not None:
        shown["oldest_wait_s"] = round(row["oldest_wait_s"])
    return shown


def model_state(model: Model, workers: Sequence[WorkerStatus] | None) -> str:
    """Whether a job of the model could start at once. ``workers``: None while nobody knows.

    A model that occupies no device memory is never loaded by us, so it is warm wherever a worker has it.
    """
    if workers is None:
        return "unknown"
    having = [worker for worker in workers if worker.online and model.id in worker.models]
    if not having:
        return "offline"
    warm = model.vram_mib == 0 or any(model.id in worker.resident for worker in having)
    return "warm" if warm else "cold"

"""Workers, for service keys as for operators: the acts of /v1/admin, and models that are kept off a worker by hand."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter, Request, Response

from tessera.api.admin import queue as admin_queue
from tessera.api.admin import workers as admin_workers
from tessera.api.admin.workers import audit, find_worker, read_for_s, read_reason
from tessera.api.auth import Service
from tessera.api.jobs.answers import answer, page
from tessera.api.jobs.submissions import read_object, refuse_unknown
from tessera.api.schemas import admin_jobs as admin_job_schemas
from tessera.api.schemas import base as schemas
from tessera.api.schemas import bodies
from tessera.api.state import api_of
from tessera.errors import NotFound
from tessera.ids import Prefix, show

router = APIRouter(tags=["internal"], prefix="/v1/internal")


@router.get(
    "/workers",
    response_model=None,
    summary="List the workers",
    responses={200: {"model": schemas.WorkerPage}, **schemas.problems(401, 403, 429, 503)},
)
async def list_workers(request: Request, caller: Service) -> Response:
    """As `GET /v1/admin/workers`: whether each is heard of, what it runs, its drain, its circuit, what is left out."""
    return await admin_workers.list_workers(request, caller)


@router.post(
    "/workers/{target}/drain",
    response_model=None,
    summary="Drain a worker or a node",
    responses={200: {"model": schemas.DrainAnswer}, **schemas.problems(400, 401, 403, 404, 422, 429, 503)},
    openapi_extra={"requestBody": bodies.DRAIN_BODY},
)
async def drain(request: Request, target: str, caller: Service) -> Response:
    """As `POST /v1/admin/workers/{target}/drain`."""
    return await admin_workers.drain(request, target, caller)


@router.post(
    "/workers/{target}/resume",
    response_model=None,
    summary="End a drain",
    responses={200: {"model": schemas.ResumeAnswer}, **schemas.problems(401, 403, 404, 429, 503)},
)
async def resume(request: Request, target: str, caller: Service) -> Response:
    """As `POST /v1/admin/workers/{target}/resume`."""
    return await admin_workers.resume(request, target, caller)


@router.post(
    "/queue/{kind}/pause",
    response_model=None,
    summary="Pause a kind",
    responses={200: {"model": schemas.PauseAnswer}, **schemas.problems(400, 401, 403, 404, 422, 429, 503)},
    openapi_extra={"requestBody": bodies.PAUSE_BODY},
)
async def pause(request: Request, kind: str, caller: Service) -> Response:
    """As `POST /v1/admin/queue/{kind}/pause`."""
    return await admin_queue.pause(request, kind, caller)


@router.post(
    "/queue/{kind}/resume",
    response_model=None,
    summary="End the pause of a kind",
    responses={200: {"model": schemas.UnpauseAnswer}, **schemas.problems(401, 403, 404, 429, 503)},
)
async def unpause(request: Request, kind: str, caller: Service) -> Response:
    """As `POST /v1/admin/queue/{kind}/resume`."""
    return await admin_queue.resume(request, kind, caller)


@router.get(
    "/exclusions",
    response_model=None,
    summary="List the exclusions",
    responses={200: {"model": admin_job_schemas.ExclusionPage}, **schemas.problems(401, 403, 429, 503)},
)
async def list_exclusions(request: Request, caller: Service) -> Response:
    """Models that are kept off a worker by hand; those that failed there lately are in the list of workers."""
    rows = await api_of(request).services.db.rows("live_exclusions")
    return page([_answer(row) for row in rows])


@router.put(
    "/workers/{worker}/exclusions/{model}",
    response_model=None,
    summary="Keep a model off a worker",
    responses={
        200: {"model": admin_job_schemas.ExclusionAnswer},
        **schemas.problems(400, 401, 403, 404, 422, 429, 503),
    },
    openapi_extra={"requestBody": admin_job_schemas.EXCLUSION_BODY},
)
async def exclude(request: Request, worker: str, model: str, caller: Service) -> Response:
    """For a while: jobs of the model wait, or go to another worker, and who asks why is shown the reason. What runs
    goes on. Works within a second. Repeated, it gets the new end."""
    body = read_object(await request.body())
    refuse_unknown(body, ("for_s", "reason"))
    for_s, reason = read_for_s(body), read_reason(body)
    _check(request, worker, model)
    async with api_of(request).services.db.transaction() as transaction:
        row = await transaction.row(
            "set_exclusion",
            worker=worker,
            model=model,
            for_s=for_s,
            reason=reason,
            actor=show(Prefix.USER, caller.user_id),
        )
        assert row is not None
        data = {"model": model, "until": row["until"].isoformat(), "reason": reason}
        await audit(transaction, caller, "exclude", worker, data)
    return answer(_answer(row))


@router.delete(
    "/workers/{worker}/exclusions/{model}",
    response_model=None,
    summary="End an exclusion",
    responses={200: {"model": admin_job_schemas.ExclusionEnded}, **schemas.problems(401, 403, 404, 429, 503)},
)
async def include(request: Request, worker: str, model: str, caller: Service) -> Response:
    """Before its time. Safe to repeat: `ended` says whether there was one."""
    _check(request, worker, model)
    async with api_of(request).services.db.transaction() as transaction:
        row = await transaction.row("clear_exclusion", worker=worker, model=model)
        if row is not None:
            await audit(transaction, caller, "include", worker, {"model": model})
    return answer({"worker": worker, "model": model, "ended": row is not None})


def _check(request: Request, worker: str, model: str) -> None:
    found = find_worker(api_of(request).services.settings.cluster, worker)
    if model not in found.models:
        raise NotFound(
            f"Worker {worker!r} has no model {model[:64]!r}, and nothing was changed."
            f" It has: {', '.join(found.models)}."
        )


def _answer(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "worker": row["worker"],
        "model": row["model"],
        "until": row["until"],
        "reason": row["reason"],
        "actor": row["actor"],
        "since": row["created_at"],
    }

"""What an operator does with workers: look at them, take one or a whole node out of service for a while, and back.

A drain is a row; the scheduler reads it within a second, woken by the same transaction. Every act leaves a row in
audit_log, in that transaction too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from fastapi import APIRouter, Request, Response

from tessera.api.auth import Caller, Operator
from tessera.api.jobs.answers import answer, page
from tessera.api.jobs.submissions import read_object, refuse, refuse_unknown
from tessera.api.schemas import base as schemas
from tessera.api.schemas import bodies
from tessera.api.state import api_of
from tessera.config import ClusterConfig, WorkerConfig
from tessera.errors import NotFound
from tessera.ids import Prefix, show
from tessera.ports import WorkerStatus
from tessera.store.database import Row, Transaction

router = APIRouter(tags=["operator"], prefix="/v1/admin")

MIN_DRAIN_S = 1
MAX_DRAIN_S = 30 * 86_400  # what should be away for longer is taken out of cluster.toml
MAX_REASON = 200


@router.get(
    "/workers",
    response_model=None,
    summary="List the workers",
    responses={200: {"model": schemas.WorkerPage}, **schemas.problems(401, 403, 429, 503)},
)
async def list_workers(request: Request, caller: Operator) -> Response:
    """All enabled workers of the cluster file, as the scheduler sees them. `state` is `unknown` while it is away."""
    api = api_of(request)
    cluster = api.services.settings.cluster
    statuses = {status.name: status for status in await api.workers.get() or ()}
    drains = await api.services.db.rows("live_drains")
    return page([_worker_answer(w, cluster, statuses.get(w.name), _ends(w, drains)) for w in cluster.enabled_workers()])


@router.post(
    "/workers/{target}/drain",
    response_model=None,
    summary="Drain a worker or a node",
    responses={200: {"model": schemas.DrainAnswer}, **schemas.problems(400, 401, 403, 404, 422, 429, 503)},
    openapi_extra={"requestBody": bodies.DRAIN_BODY},
)
async def drain(request: Request, target: str, caller: Operator) -> Response:
    """No new jobs for a while: those that run end, those that wait keep their place, and once it is idle its models are
    unloaded. Ends by itself. Repeated, it gets the new end."""
    body = read_object(await request.body())
    refuse_unknown(body, ("for_s", "reason"))
    for_s, reason = read_for_s(body), read_reason(body)
    cluster = api_of(request).services.settings.cluster
    kind, workers = _find(cluster, target)
    async with api_of(request).services.db.transaction() as transaction:
        actor = show(Prefix.USER, caller.user_id)
        row = await transaction.row("set_drain", target=target, kind=kind, for_s=for_s, actor=actor, reason=reason)
        assert row is not None
        data = {"kind": kind, "for_s": for_s, "until": row["until"].isoformat(), "reason": reason}
        await audit(transaction, caller, "drain", target, data)
        await transaction.execute("tell_drains_changed")
        drains = await transaction.rows("live_drains")
    return answer(
        {
            "target": target,
            "kind": kind,
            "until": row["until"],
            "reason": reason,
            "workers": _drained(workers, drains),
        }
    )


@router.post(
    "/workers/{target}/resume",
    response_model=None,
    summary="End a drain",
    responses={200: {"model": schemas.ResumeAnswer}, **schemas.problems(401, 403, 404, 429, 503)},
)
async def resume(request: Request, target: str, caller: Operator) -> Response:
    """Before its time. Safe to repeat: `resumed` says whether there was one. A worker goes on draining while its node
    does: `workers` says so."""
    kind, workers = _find(api_of(request).services.settings.cluster, target)
    async with api_of(request).services.db.transaction() as transaction:
        row = await transaction.row("clear_drain", target=target)
        if row is not None:
            await audit(transaction, caller, "resume", target, {"kind": kind, "until": row["until"].isoformat()})
            await transaction.execute("tell_drains_changed")
        drains = await transaction.rows("live_drains")
    return answer(
        {"target": target, "kind": kind, "resumed": row is not None, "workers": _drained(workers, drains)},
    )


def _find(cluster: ClusterConfig, target: str) -> tuple[str, Sequence[WorkerConfig]]:
    """What a target is, and its workers: a worker, else a node of that name. Raises NotFound with those there are."""
    workers = cluster.enabled_workers()
    named = [worker for worker in workers if worker.name == target]
    if named:
        return "worker", named
    if target in {node.name for node in cluster.nodes}:
        return "node", [worker for worker in workers if worker.node == target]
    raise NotFound(
        f"There is no worker or node {target[:64]!r}, and nothing was changed. "
        f"Workers: {', '.join(worker.name for worker in workers) or 'none'}. "
        f"Nodes: {', '.join(node.name for node in cluster.nodes)}."
    )


def find_worker(cluster: ClusterConfig, name: str) -> WorkerConfig:
    """An enabled worker. Raises NotFound with those that there are."""
    kind, workers = _find(cluster, name)
    if kind != "worker":
        raise NotFound(f"{name[:64]!r} is a node, and nothing was changed. Name one of its workers.")
    return workers[0]


def read_for_s(body: Mapping[str, Any]) -> float:
    """For how long. Raises InvalidInput."""
    value = body.get("for_s")
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise refuse("for_s", "must be a number of seconds" if "for_s" in body else "is missing")
    if not MIN_DRAIN_S <= value <= MAX_DRAIN_S:
        raise refuse("for_s", f"must be from {MIN_DRAIN_S} to {MAX_DRAIN_S} seconds (30 days)")
    return float(value)


def read_reason(body: Mapping[str, Any]) -> str:
    """Why, in a line; "" for none. Raises InvalidInput."""
    value = body.get("reason", "")
    if not isinstance(value, str) or len(value) > MAX_REASON or not value.isprintable():
        raise refuse("reason", f"must be a text of at most {MAX_REASON} characters on one line")
    return value


def _ends(worker: WorkerConfig, drains: Sequence[Row]) -> datetime | None:
    """Until when a worker is drained, by its own name or its node's."""
    return max(
        (d["until"] for d in drains if d["target"] == (worker.name if d["kind"] == "worker" else worker.node)),
        default=None,
    )


def _drained(workers: Sequence[WorkerConfig], drains: Sequence[Row]) -> list[dict[str, Any]]:
    return [{"name": worker.name, "draining_until": _ends(worker, drains)} for worker in workers]


def _worker_answer(
    worker: WorkerConfig, cluster: ClusterConfig, status: WorkerStatus | None, draining_until: datetime | None
) -> dict[str, Any]:
    """A worker as an operator sees one: what the file says of it, and what the scheduler does, where it answers."""
    shown: dict[str, Any] = {
        "name": worker.name,
        "state": "unknown" if status is None else "online" if status.online else "offline",
        "node": worker.node,
        "device": cluster.device_of(worker).name,
        "engine": worker.engine,
        "models": list(worker.models),
        "slots": worker.slots,
    }
    if draining_until is not None:
        shown["draining_until"] = draining_until
    if status is None:
        return shown
    shown |= {
        "running": status.running,
        "message": status.message,
        "circuit": status.circuit,
        "excluded": dict(status.excluded),
        "resident": list(status.resident),
    }
    for name in ("offline_since", "circuit_until", "loading"):
        if (value := getattr(status, name)) is not None:
            shown[name] = value
    return shown


async def audit(transaction: Transaction, caller: Caller, action: str, target: str, data: Mapping[str, Any]) -> None:
    """The row of an act in audit_log, in the act's own transaction."""
    await transaction.execute(
        "insert_audit", actor=show(Prefix.USER, caller.user_id), action=action, subject=target, data=dict(data)
    )

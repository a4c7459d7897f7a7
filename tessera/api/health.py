"""Whether this replica lives, whether the platform takes work, and its numbers."""

from __future__ import annotations

import asyncio
import ipaddress
from typing import Any

from fastapi import APIRouter, Request, Response

from tessera.api.jobs.answers import answer
from tessera.api.metrics import MEDIA_TYPE
from tessera.api.schemas import base as schemas
from tessera.api.state import Api, api_of
from tessera.errors import TesseraError, Unavailable

router = APIRouter(tags=["operations"])

DATABASE_TIMEOUT_S = 2.0
RETRY_AFTER_S = 2
_FORWARDED = ("x-forwarded-for", "x-forwarded-host", "x-real-ip", "forwarded", "via")
_LOCAL_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})


@router.get("/healthz", response_model=None, summary="Does this process live?", openapi_extra={"security": []})
async def healthz() -> Response:
    """200 whenever the process answers, whatever else is down."""
    return answer({"status": "ok"}, headers={"Cache-Control": "no-store"})


@router.get(
    "/readyz",
    response_model=None,
    summary="Are submissions accepted?",
    responses={200: {"model": schemas.Ready}, 503: {"model": schemas.Ready}},
    openapi_extra={"security": []},
)
async def readyz(request: Request) -> Response:
    """200 while Postgres takes writes and no watermark is passed: jobs are then accepted, and kept for workers that
    are offline.
    """
    api = api_of(request)
    database, workers = await asyncio.gather(_database_accepts(api), api.workers.get())
    accepting = database and not api.services.watermarks.over
    body: dict[str, Any] = {
        "status": "ready" if accepting else "unavailable",
        "database": "ok" if database else "unreachable",
        "scheduler": "ok" if workers is not None else "unreachable",
        "workers": [{"name": worker.name, "online": worker.online} for worker in workers or ()],
        "watermarks": sorted(api.services.watermarks.over),
        "offline": [worker.name for worker in workers or () if not worker.online],
    }
    headers = {"Cache-Control": "no-store"}
    if not accepting:
        headers["Retry-After"] = str(RETRY_AFTER_S)
    return answer(body, 200 if accepting else 503, headers)


@router.get(
    "/metrics",
    response_model=None,
    summary="Numbers for Prometheus",
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}, **schemas.problems(401, 403)},
    openapi_extra={"security": [{}, {"apiKey": []}], "x-scopes": ["admin"]},
)
async def metrics(request: Request) -> Response:
    """Needs a key of scope `admin`, or a client on this machine while the API listens on loopback only."""
    api = api_of(request)
    if not _is_local(request, api):
        await api.authenticator.authorize(request, "admin")
    db = api.services.db
    try:
        async with asyncio.timeout(DATABASE_TIMEOUT_S):
            jobs = await db.rows("jobs_for_metrics")
            queues = await db.rows("oldest_queued")
            overdue = await db.row("leases_overdue")
            used = await db.rows("usage_today")
            waiting = await db.rows("open_deliveries")
    except (Unavailable, TimeoutError):
        jobs, queues, overdue, used, waiting = [], [], None, [], []
    sent = api.services.sender.counts
    api.metrics.deliveries(sent.outcomes, sent.under_way, waiting)
    api.metrics.dropped(api.services.feed.dropped)
    body = api.metrics.render(jobs, queues, overdue["overdue"] if overdue else None, used)
    return Response(body, headers={"Content-Type": MEDIA_TYPE, "Cache-Control": "no-store"})


async def _database_accepts(api: Api) -> bool:
    try:
        async with asyncio.timeout(DATABASE_TIMEOUT_S):
            row = await api.services.db.row("ping")
    except (TesseraError, TimeoutError):
        return False
    return row is not None and bool(row["writable"])


def _is_local(request: Request, api: Api) -> bool:
    """Whether the client can only be on this machine.

    Serve's HAProxy hides the client: to a replica everybody comes from the node itself, and no X-Forwarded-For is added
    (ray/serve/_private/haproxy_templates.py). So the peer says nothing by itself; the frontend must be bound to
    loopback. A reverse proxy in front of it shows in its headers or in the Host it passes on; one that hides both needs
    a rule for /metrics of its own.
    """
    if not _is_loopback(api.services.settings.http_host):
        return False
    if any(name in request.headers for name in _FORWARDED) or request.url.hostname not in _LOCAL_NAMES:
        return False
    client, server = request.client, request.scope.get("server")
    return client is not None and (_is_loopback(client.host) or (server is not None and client.host == server[0]))


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False

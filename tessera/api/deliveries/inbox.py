"""The inbox of the bots: what a platform has sent is stored here before it is acknowledged there.

For service keys. A platform that sends an update again finds it stored, by its id, and a bot that was killed
between the two gets back what it had not finished. Of one lane (a chat) there is one update under way, in its order.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import orjson
from fastapi import APIRouter, Request, Response

from tessera.api.auth import Service
from tessera.api.deliveries.chats import (
    DEFAULT_LEASE_S,
    DEFAULT_MAX,
    MAX_LEASE_S,
    MAX_MAX,
    MAX_RETRY_AFTER_S,
    MAX_WAIT_S,
    MIN_LEASE_S,
    until_found,
)
from tessera.api.deliveries.fields import read_bot, read_error, read_items, read_number, read_token
from tessera.api.jobs.answers import answer
from tessera.api.jobs.submissions import check_json, read_object, refuse, refuse_unknown
from tessera.api.schemas import base as schemas
from tessera.api.schemas import deliveries as delivery_schemas
from tessera.api.services import Services
from tessera.api.state import api_of
from tessera.deliveries import MAX_TRIES
from tessera.store.database import Row

router = APIRouter(tags=["internal"], prefix="/v1/internal")

MAX_UPDATE_BYTES = 64 << 10
MAX_UPDATE_DEPTH = 32
MAX_ID_CHARS = 128


@router.post(
    "/inbox",
    response_model=None,
    summary="Store updates of a platform",
    responses={200: {"model": delivery_schemas.Stored}, **schemas.problems(400, 401, 403, 413, 422, 429, 503)},
    openapi_extra={"requestBody": delivery_schemas.INBOX_BODY},
)
async def store(request: Request, caller: Service) -> Response:
    """Acknowledge them to the platform after this answer, not before. `stored` is false for one that was known already.

    With `lease_s` those that are new come back leased, so that the bot can do them at once and acknowledge them here;
    without, they wait for a claim.
    """
    services = api_of(request).services
    body = read_object(await request.body())
    refuse_unknown(body, ("platform", "bot", "updates", "lease_s"))
    bot = read_bot(body)
    lease_s = read_number(body, "lease_s", default=None, low=MIN_LEASE_S, high=MAX_LEASE_S)
    rows = [
        _update(order, item) for order, item in enumerate(read_items(body, "updates", ("update_id", "lane", "data")))
    ]
    async with services.db.transaction() as transaction:
        stored = {
            row["update_id"]: row
            for row in await transaction.rows("store_updates", bot=bot, rows=rows, lease_s=lease_s)
        }
        if stored and lease_s is None:
            await transaction.rows("ring_inbox", bot=bot)
    seen: set[str] = set()
    shown = []
    for row in rows:
        identifier = row["update_id"]
        new = stored.get(identifier) if identifier not in seen else None
        seen.add(identifier)
        entry: dict[str, Any] = {"update_id": identifier, "stored": new is not None}
        if new is not None and new["lease_token"] is not None:
            entry |= {"lease_token": str(new["lease_token"]), "lease_expires_at": new["next_try_at"]}
        shown.append(entry)
    return answer({"data": shown})


@router.post(
    "/inbox:claim",
    response_model=None,
    summary="Claim stored updates",
    responses={200: {"model": delivery_schemas.ClaimedUpdates}, **schemas.problems(400, 401, 403, 413, 422, 429, 503)},
    openapi_extra={"requestBody": delivery_schemas.CLAIM_BODY},
)
async def claim(request: Request, caller: Service) -> Response:
    """The oldest unfinished update of each lane, each under a lease: what is left after a restart. As of deliveries."""
    services = api_of(request).services
    body = read_object(await request.body())
    refuse_unknown(body, ("platform", "bot", "max", "lease_s", "wait_s"))
    bot = read_bot(body)
    most = read_number(body, "max", default=DEFAULT_MAX, low=1, high=MAX_MAX)
    lease_s = read_number(body, "lease_s", default=DEFAULT_LEASE_S, low=MIN_LEASE_S, high=MAX_LEASE_S)
    wait_s = read_number(body, "wait_s", default=0.0, low=0, high=MAX_WAIT_S) or 0.0

    async def look() -> list[Row]:
        return await services.db.rows("claim_inbox", bot=bot, max=int(most or 1), lease_s=lease_s, max_tries=MAX_TRIES)

    rows = await until_found(request, services.bell, f"inbox:{bot}", wait_s, look)
    return answer({"data": [{**row, "lease_token": str(row["lease_token"])} for row in rows]})


@router.post(
    "/inbox:ack",
    response_model=None,
    summary="Finish updates",
    responses={200: {"model": delivery_schemas.SettledUpdates}, **schemas.problems(400, 401, 403, 413, 422, 429, 503)},
    openapi_extra={"requestBody": delivery_schemas.INBOX_ACK_BODY},
)
async def ack(request: Request, caller: Service) -> Response:
    """They are done. `state` is `stale` where the lease is somebody else's by now. Safe to repeat."""
    body = read_object(await request.body())
    refuse_unknown(body, ("platform", "bot", "updates"))
    bot = read_bot(body)
    items = read_items(body, "updates", ("update_id", "lease_token"))
    rows = [{"update_id": _identifier(item), "lease_token": read_token(item), "state": "done"} for item in items]
    return await _settle(api_of(request).services, bot, rows)


@router.post(
    "/inbox:release",
    response_model=None,
    summary="Give updates back",
    responses={200: {"model": delivery_schemas.SettledUpdates}, **schemas.problems(400, 401, 403, 413, 422, 429, 503)},
    openapi_extra={"requestBody": delivery_schemas.INBOX_RELEASE_BODY},
)
async def release(request: Request, caller: Service) -> Response:
    """They could not be done now: they can be claimed again after `retry_after_s`, or with `permanent` never."""
    services = api_of(request).services
    body = read_object(await request.body())
    refuse_unknown(body, ("platform", "bot", "updates"))
    bot = read_bot(body)
    rows = []
    for item in read_items(body, "updates", ("update_id", "lease_token", "error", "retry_after_s", "permanent")):
        permanent = item.get("permanent", False)
        if not isinstance(permanent, bool):
            raise refuse("permanent", "must be true or false")
        wait_s = read_number(item, "retry_after_s", default=0.0, low=0, high=MAX_RETRY_AFTER_S) or 0.0
        rows.append(
            {
                "update_id": _identifier(item),
                "lease_token": read_token(item),
                "state": "failed" if permanent else "pending",
                "error": read_error(item),
                "retry_at": services.clock() + timedelta(seconds=wait_s),
            }
        )
    return await _settle(services, bot, rows)


async def _settle(services: Services, bot: str, rows: list[dict[str, Any]]) -> Response:
    settled = {row["update_id"]: row["state"] for row in await services.db.rows("settle_updates", bot=bot, rows=rows)}
    return answer(
        {
            "data": [
                {"update_id": row["update_id"], "state": settled.get(row["update_id"], delivery_schemas.STALE)}
                for row in rows
            ]
        }
    )


def _update(order: int, item: Mapping[str, Any]) -> dict[str, Any]:
    identifier = _identifier(item)
    lane = item.get("lane")
    if lane is not None and (
        isinstance(lane, bool) or not isinstance(lane, str | int) or len(str(lane)) > MAX_ID_CHARS
    ):
        raise refuse("lane", f"must be the id of a chat, of at most {MAX_ID_CHARS} characters")
    data = item.get("data")
    if not isinstance(data, dict):
        raise refuse("data", "must be the update, an object")
    check_json("data", data, MAX_UPDATE_DEPTH)
    if len(orjson.dumps(data)) > MAX_UPDATE_BYTES:
        raise refuse("data", f"is larger than {MAX_UPDATE_BYTES} bytes")
    # Without a lane nothing waits for anything: its own id is a lane of its own.
    lane = str(lane).replace("\x00", "") if lane is not None else f"update:{identifier}"
    return {"ord": order, "update_id": identifier, "lane": lane, "data": data}


def _identifier(item: Mapping[str, Any]) -> str:
    value = item.get("update_id")
    if isinstance(value, bool) or not isinstance(value, str | int) or not 1 <= len(str(value)) <= MAX_ID_CHARS:
        raise refuse("update_id", f"must be the platform's id of the update, of at most {MAX_ID_CHARS} characters")
    if "\x00" in str(value):
        raise refuse("update_id", "contains a NUL character")
    return str(value)

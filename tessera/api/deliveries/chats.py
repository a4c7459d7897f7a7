"""The internal API for bots: fetch what is to be brought to chats, say that it was, and keep a job's chat up to date.

For service keys. A bot claims deliveries under a lease, posts them, acknowledges. What it does not acknowledge can
be claimed again when the lease is over, so the database is the cursor of a bot that was killed: it asks, and gets what
is left. Each step is fenced by the lease's token. Of one chat there is never more than one delivery under way.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta
from typing import Any, TypeVar
from uuid import UUID

from fastapi import APIRouter, Request, Response

from tessera.api.auth import Service
from tessera.api.deliveries.bell import POLL_S, Bell
from tessera.api.deliveries.fields import (
    DELIVERY_NAMES,
    check_delivery,
    read_bot,
    read_error,
    read_events,
    read_items,
    read_lease,
    read_number,
)
from tessera.api.jobs.answers import answer, event_data, job_answer
from tessera.api.jobs.submissions import read_object, refuse, refuse_unknown
from tessera.api.schemas import base as schemas
from tessera.api.schemas import deliveries as delivery_schemas
from tessera.api.services import Services
from tessera.api.state import api_of
from tessera.deliveries import MAX_TRIES, DeliveryState, retry_at
from tessera.errors import NotFound
from tessera.ids import Prefix, parse, show
from tessera.store.database import Row, Transaction

router = APIRouter(tags=["internal"], prefix="/v1/internal")

DEFAULT_LEASE_S, MIN_LEASE_S, MAX_LEASE_S = 60.0, 5.0, 900.0
DEFAULT_MAX, MAX_MAX = 20, 100
MAX_WAIT_S = 30.0
MAX_RETRY_AFTER_S = 86_400.0

FoundT = TypeVar("FoundT")


async def until_found(
    request: Request, bell: Bell, name: str, wait_s: float, look: Callable[[], Awaitable[list[FoundT]]]
) -> list[FoundT]:
    """What ``look`` finds, asked again at each ring and every POLL_S until there is something or the time is over.

    Ends with nothing when the caller has hung up: what a dead bot was given would be lost for a whole lease.
    """
    loop = asyncio.get_running_loop()
    until = loop.time() + wait_s
    hung_up = asyncio.create_task(_hang_up(request))
    try:
        with bell.waiting(name) as rung:
            while True:
                rung.clear()
                found = await look()
                left_s = until - loop.time()
                if found or left_s <= 0:
                    return found
                ringing = asyncio.create_task(rung.wait())
                try:
                    await asyncio.wait(
                        {ringing, hung_up}, timeout=min(POLL_S, left_s), return_when=asyncio.FIRST_COMPLETED
                    )
                finally:
                    ringing.cancel()
                if hung_up.done():
                    return []
    finally:
        hung_up.cancel()


async def _hang_up(request: Request) -> None:
    """Returns when the caller has closed its connection. The body must have been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


@router.post(
    "/deliveries:claim",
    response_model=None,
    summary="Claim deliveries to chats",
    responses={200: {"model": delivery_schemas.ClaimedChats}, **schemas.problems(400, 401, 403, 413, 422, 429, 503)},
    openapi_extra={"requestBody": delivery_schemas.CLAIM_BODY},
)
async def claim(request: Request, caller: Service) -> Response:
    """The oldest undelivered event of each chat of a bot, with the job as it is now; each under a lease of its own.

    With `wait_s` the answer is held back until there is something. Acknowledge, release or extend each before its lease
    ends, or it is claimed again. The same call after a restart goes on where the bot was.
    """
    services = api_of(request).services
    body = read_object(await request.body())
    refuse_unknown(body, ("platform", "bot", "max", "lease_s", "wait_s"))
    bot = read_bot(body)
    most = read_number(body, "max", default=DEFAULT_MAX, low=1, high=MAX_MAX)
    lease_s = read_number(body, "lease_s", default=DEFAULT_LEASE_S, low=MIN_LEASE_S, high=MAX_LEASE_S)
    wait_s = read_number(body, "wait_s", default=0.0, low=0, high=MAX_WAIT_S) or 0.0

    async def look() -> list[Row]:
        async with services.db.transaction() as transaction:
            taken = await transaction.rows(
                "claim_chats", bot=bot, max=int(most or 1), lease_s=lease_s, max_tries=MAX_TRIES
            )
            if not taken:
                return []
            rows = await transaction.rows("claimed_chats", ids=[row["id"] for row in taken])
            await _give_up_orphans(transaction, taken, {row["delivery_id"] for row in rows})
            return rows

    rows = await until_found(request, services.bell, bot, wait_s, look)
    paused = not rows and await services.db.row("deliveries_pause") is not None
    return answer({"data": [_claimed(row) for row in rows], "paused": paused})


async def _give_up_orphans(transaction: Transaction, taken: list[Row], known: set[UUID]) -> None:
    """End the deliveries of jobs whose retention has ended meanwhile: there is nothing left to bring."""
    lost = [
        {
            "id": str(row["id"]),
            "lease_token": str(row["lease_token"]),
            "outcome": DeliveryState.FAILED,
            "error": "the job was deleted before this could be delivered",
        }
        for row in taken
        if row["id"] not in known
    ]
    if lost:
        await transaction.rows("settle_deliveries", rows=lost)


@router.post(
    "/deliveries:ack",
    response_model=None,
    summary="Acknowledge deliveries",
    responses={200: {"model": delivery_schemas.Settled}, **schemas.problems(400, 401, 403, 413, 422, 429, 503)},
    openapi_extra={"requestBody": delivery_schemas.ACK_BODY},
)
async def ack(request: Request, caller: Service) -> Response:
    """They were posted. `state` is `stale` where the lease was over and another one has been given: then nothing was
    changed. Safe to repeat: a repeated acknowledgement is stale."""
    body = read_object(await request.body())
    refuse_unknown(body, ("deliveries",))
    items = read_items(body, "deliveries", ("id", "lease_token"))
    rows = [{**read_lease(item), "outcome": DeliveryState.DELIVERED} for item in items]
    return await _settle(api_of(request).services, rows)


@router.post(
    "/deliveries:release",
    response_model=None,
    summary="Give deliveries back",
    responses={200: {"model": delivery_schemas.Settled}, **schemas.problems(400, 401, 403, 413, 422, 429, 503)},
    openapi_extra={"requestBody": delivery_schemas.RELEASE_BODY},
)
async def release(request: Request, caller: Service) -> Response:
    """They could not be posted. With `error` it counts as a try, and after a day of tries the delivery is given up;
    without one (a flood wait, a bot that stops) it does not count. `retry_after_s`: not before that. `permanent`: never
    again, such as for a bot that was blocked."""
    services = api_of(request).services
    body = read_object(await request.body())
    refuse_unknown(body, ("deliveries",))
    items = read_items(body, "deliveries", ("id", "lease_token", "error", "retry_after_s", "permanent"))
    leases = [read_lease(item) for item in items]
    known = {
        row["id"]: row for row in await services.db.rows("tries_of_deliveries", ids=[lease["id"] for lease in leases])
    }
    rows = [
        _released(services, lease, item, known.get(UUID(lease["id"])))
        for lease, item in zip(leases, items, strict=True)
    ]
    return await _settle(services, rows)


def _released(services: Services, lease: Mapping[str, Any], item: Mapping[str, Any], row: Row | None) -> dict[str, Any]:
    error = read_error(item)
    wait_s = read_number(item, "retry_after_s", default=None, low=0, high=MAX_RETRY_AFTER_S)
    permanent = item.get("permanent", False)
    if not isinstance(permanent, bool):
        raise refuse("permanent", "must be true or false")
    settled = {**lease, "error": error}
    if row is None:
        return {**settled, "outcome": DeliveryState.PENDING}  # matches nothing, and comes back as stale
    now = services.clock()
    if permanent:
        return {**settled, "outcome": DeliveryState.FAILED, "error": error or "given up by the bot"}
    if error is None:
        at = now + timedelta(seconds=wait_s or 0.0)
        return {**settled, "outcome": DeliveryState.PENDING, "retry_at": at, "counts": False}
    again = retry_at(
        tries=row["tries"],
        first_try_at=row["first_try_at"] or now,
        now=now,
        jitter=random.random(),  # noqa: S311 (spreads load, guards nothing)
        retry_after_s=wait_s,
    )
    if again is None or row["tries"] >= MAX_TRIES:
        return {**settled, "outcome": DeliveryState.FAILED}
    return {**settled, "outcome": DeliveryState.PENDING, "retry_at": again}


async def _settle(services: Services, rows: list[dict[str, Any]]) -> Response:
    settled = {row["id"]: row["state"] for row in await services.db.rows("settle_deliveries", rows=rows)}
    return answer(
        {
            "data": [
                {
                    "id": show(Prefix.DELIVERY, UUID(row["id"])),
                    "state": settled.get(UUID(row["id"]), delivery_schemas.STALE),
                }
                for row in rows
            ]
        }
    )


@router.post(
    "/deliveries:extend",
    response_model=None,
    summary="Keep deliveries for longer",
    responses={200: {"model": delivery_schemas.Settled}, **schemas.problems(400, 401, 403, 413, 422, 429, 503)},
    openapi_extra={"requestBody": delivery_schemas.EXTEND_BODY},
)
async def extend(request: Request, caller: Service) -> Response:
    """Their leases begin anew: for a large file that is still being sent. `stale` ones belong to somebody else."""
    services = api_of(request).services
    body = read_object(await request.body())
    refuse_unknown(body, ("deliveries", "lease_s"))
    items = read_items(body, "deliveries", ("id", "lease_token"))
    lease_s = read_number(body, "lease_s", default=DEFAULT_LEASE_S, low=MIN_LEASE_S, high=MAX_LEASE_S)
    leases = [read_lease(item) for item in items]
    held = {row["id"] for row in await services.db.rows("extend_deliveries", rows=leases, lease_s=lease_s)}
    return answer(
        {
            "data": [
                {
                    "id": show(Prefix.DELIVERY, UUID(lease["id"])),
                    "state": DeliveryState.LEASED if UUID(lease["id"]) in held else delivery_schemas.STALE,
                }
                for lease in leases
            ]
        }
    )


@router.get(
    "/jobs/{job_id}/delivery",
    response_model=None,
    summary="The chat of a job",
    responses={200: {"model": delivery_schemas.ChatTarget}, **schemas.problems(401, 403, 404, 429, 503)},
)
async def get_delivery(request: Request, job_id: str, caller: Service) -> Response:
    """As the bot gave it with the job, and has changed it since."""
    row = await api_of(request).services.db.row("delivery_of_job", id=parse(Prefix.JOB, job_id))
    if row is None or row["delivery"] is None:
        raise _no_chat(job_id)
    return answer(row["delivery"])


@router.patch(
    "/jobs/{job_id}/delivery",
    response_model=None,
    summary="Change the chat of a job",
    responses={200: {"model": delivery_schemas.ChatTarget}, **schemas.problems(400, 401, 403, 404, 413, 422, 429, 503)},
    openapi_extra={"requestBody": delivery_schemas.TARGET_BODY},
)
async def patch_delivery(request: Request, job_id: str, caller: Service) -> Response:
    """Fields of the body replace those of the job's `delivery`, null removes one: the id of the status message, once it
    is known. `platform`, `bot` and `chat` stay as they are. Works after the job's end, too."""
    services = api_of(request).services
    body = read_object(await request.body())
    for name in DELIVERY_NAMES:
        if name in body:
            raise refuse(name, "cannot be changed: it says to whom this job's events go")
    identifier = parse(Prefix.JOB, job_id)
    async with services.db.transaction() as transaction:
        row = await transaction.row("lock_delivery_of_job", id=identifier)
        if row is None or row["delivery"] is None:
            raise _no_chat(job_id)
        merged = {name: value for name, value in {**row["delivery"], **body}.items() if value is not None}
        merged["events"] = read_events(merged.get("events"), "events")
        check_delivery(merged)
        await transaction.execute("set_delivery_of_job", id=identifier, delivery=merged)
    return answer(merged)


def _no_chat(job_id: str) -> NotFound:
    return NotFound(f"There is no job {job_id[:64]!r} that came from a chat.")


def _claimed(row: Row) -> dict[str, Any]:
    """A claimed delivery: whose it is and until when, the event, the job as it is now, and where it goes."""
    return {
        "id": show(Prefix.DELIVERY, row["delivery_id"]),
        "seq": row["seq"],
        "lease_token": str(row["lease_token"]),
        "lease_expires_at": row["lease_expires_at"],
        "tries": row["tries"],
        "created_at": row["delivery_created_at"],
        "event": {
            "id": row["job_seq"],
            "job_id": show(Prefix.JOB, row["id"]),
            "type": row["event"],
            "at": row["event_at"] or row["delivery_created_at"],
            "attempt": row["event_attempt"] if row["event_attempt"] is not None else row["attempt"],
            "data": event_data(row["event"], row["event_data"] or {}),
        },
        "job": job_answer(row),
        "user_id": show(Prefix.USER, row["user_id"]),
        "delivery": row["delivery"],
    }

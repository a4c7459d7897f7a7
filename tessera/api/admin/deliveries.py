"""What an operator does with deliveries: see what was given up, bring it once more, and pause all of them.

After a restore from a backup they are paused: what the backup has as undelivered may have been delivered since.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from tessera.api.auth import Operator
from tessera.api.deliveries.log import delivery_answer, read_id, replayed
from tessera.api.jobs.answers import answer
from tessera.api.jobs.submissions import read_object, refuse, refuse_unknown
from tessera.api.schemas import base as schemas
from tessera.api.schemas import webhooks as webhook_schemas
from tessera.api.state import api_of
from tessera.deliveries import Channel, DeliveryState
from tessera.errors import NotFound
from tessera.ids import Prefix, parse, show

router = APIRouter(tags=["operator"], prefix="/v1/admin")

MAX_REASON_CHARS = 200


@router.get(
    "/deliveries",
    response_model=None,
    summary="List everybody's deliveries",
    responses={200: {"model": webhook_schemas.AdminDeliveryPage}, **schemas.problems(401, 403, 422, 429, 503)},
)
async def list_all(
    request: Request,
    caller: Operator,
    state: DeliveryState = DeliveryState.FAILED,
    channel: Channel | None = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    cursor: Annotated[str | None, Query(max_length=64, description="`next_cursor` of the page before")] = None,
) -> Response:
    """Without a state those that were given up, to webhooks and to chats; the newest first. `paused` is null while
    deliveries are brought."""
    db = api_of(request).services.db
    rows = await db.rows(
        "deliveries_of_all",
        state=state.value,
        channel=channel.value if channel else None,
        before=read_id(Prefix.DELIVERY, "cursor", cursor),
        limit=limit + 1,
    )
    shown, rest = rows[:limit], rows[limit:]
    paused = await db.row("deliveries_pause")
    return answer(
        {
            "data": [_admin_answer(row) for row in shown],
            "next_cursor": show(Prefix.DELIVERY, shown[-1]["id"]) if rest else None,
            "paused": _pause_answer(paused) if paused else None,
        }
    )


@router.post(
    "/deliveries/pause",
    response_model=None,
    summary="Pause all deliveries",
    responses={200: {"model": webhook_schemas.DeliveriesPause}, **schemas.problems(400, 401, 403, 413, 422, 429, 503)},
    openapi_extra={"requestBody": webhook_schemas.PAUSE_BODY},
)
async def pause(request: Request, caller: Operator) -> Response:
    """Nothing more goes to webhooks and chats until they are resumed; what is being sent at this moment ends. Jobs go
    on, and their deliveries wait. Safe to repeat."""
    body = read_object(await request.body() or b"{}")
    refuse_unknown(body, ("reason",))
    reason = body.get("reason", "")
    if not isinstance(reason, str) or len(reason) > MAX_REASON_CHARS or not reason.isprintable():
        raise refuse("reason", f"must be a text of at most {MAX_REASON_CHARS} characters on one line")
    actor = show(Prefix.USER, caller.user_id)
    async with api_of(request).services.db.transaction() as transaction:
        row = await transaction.row("pause_deliveries", reason=reason, actor=actor)
        assert row is not None
        await transaction.execute(
            "insert_audit", actor=actor, action="pause_deliveries", subject="deliveries", data={"reason": reason}
        )
    return answer(_pause_answer(row))


@router.post(
    "/deliveries/resume",
    response_model=None,
    summary="Resume all deliveries",
    responses={200: {"model": webhook_schemas.DeliveriesResumed}, **schemas.problems(401, 403, 429, 503)},
)
async def resume(request: Request, caller: Operator) -> Response:
    """Whatever waits is brought now. Safe to repeat: `resumed` says whether there was a pause."""
    actor = show(Prefix.USER, caller.user_id)
    async with api_of(request).services.db.transaction() as transaction:
        row = await transaction.row("resume_deliveries")
        if row is not None:
            await transaction.execute(
                "insert_audit",
                actor=actor,
                action="resume_deliveries",
                subject="deliveries",
                data={"reason": row["reason"], "since": row["created_at"].isoformat()},
            )
            await transaction.rows("wake_deliveries")
    return answer({"resumed": row is not None})


@router.post(
    "/deliveries/{delivery_id}/replay",
    status_code=202,
    response_model=None,
    summary="Bring a delivery once more",
    responses={202: {"model": webhook_schemas.Replayed}, **schemas.problems(401, 403, 404, 409, 429, 503)},
)
async def replay(request: Request, delivery_id: str, caller: Operator) -> Response:
    """Anybody's, to a webhook or a chat, under the same id and with a day of tries of its own."""
    identifier = parse(Prefix.DELIVERY, delivery_id)
    async with api_of(request).services.db.transaction() as transaction:
        if not await transaction.rows("tries_of_deliveries", ids=[identifier]):
            raise NotFound(f"There is no delivery {delivery_id[:64]!r}, and nothing was changed.")
        await replayed(transaction, {"id": identifier})
        await transaction.execute(
            "insert_audit",
            actor=show(Prefix.USER, caller.user_id),
            action="replay_delivery",
            subject=delivery_id,
            data={},
        )
    return answer({"id": delivery_id, "state": DeliveryState.PENDING}, 202)


def _admin_answer(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **delivery_answer(row),
        "channel": row["channel"],
        "target": row["target"],
        "user_id": show(Prefix.USER, row["user_id"]),
    }


def _pause_answer(row: Mapping[str, Any]) -> dict[str, Any]:
    return {"reason": row["reason"], "actor": row["actor"], "since": row["created_at"]}

"""The banner: one line that an operator shows everybody, in /v1/me, /v1/queue and a header of every answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter, Request, Response

from tessera.api.auth import Operator
from tessera.api.jobs.answers import answer
from tessera.api.jobs.submissions import read_object, refuse, refuse_unknown
from tessera.api.schemas import base as schemas
from tessera.api.schemas import moderation as moderation_schemas
from tessera.api.state import api_of
from tessera.ids import Prefix, show

router = APIRouter(tags=["operator"], prefix="/v1/admin")

MAX_MESSAGE_CHARS = 300
SUBJECT = "banner"


@router.get(
    "/banner",
    response_model=None,
    summary="The banner",
    responses={200: {"model": moderation_schemas.BannerOrNot}, **schemas.problems(401, 403, 429, 503)},
)
async def get_banner(request: Request, caller: Operator) -> Response:
    """Null while none is shown."""
    row = await api_of(request).services.db.row("get_banner")
    shown = {"message": row["banner"], "since": row["banner_since"]} if row is not None else None
    return answer({"banner": shown})


@router.put(
    "/banner",
    response_model=None,
    summary="Show a banner",
    responses={200: {"model": moderation_schemas.BannerOrNot}, **schemas.problems(400, 401, 403, 422, 429, 503)},
    openapi_extra={"requestBody": moderation_schemas.BANNER_BODY},
)
async def set_banner(request: Request, caller: Operator) -> Response:
    """Everybody sees it within two seconds, in `/v1/me`, `/v1/queue` and the header `Tessera-Banner`. Replaces the one
    before."""
    body = read_object(await request.body())
    refuse_unknown(body, ("message",))
    message = _message(body)
    services = api_of(request).services
    async with services.db.transaction() as transaction:
        actor = show(Prefix.USER, caller.user_id)
        row = await transaction.row("set_banner", message=message, actor=actor)
        assert row is not None
        await transaction.execute(
            "insert_audit", actor=actor, action="set_banner", subject=SUBJECT, data={"message": message}
        )
    services.standing.forget()
    return answer({"banner": {"message": row["banner"], "since": row["banner_since"]}})


@router.delete(
    "/banner",
    status_code=204,
    response_model=None,
    summary="Take the banner away",
    responses={204: {"description": "None is shown."}, **schemas.problems(401, 403, 429, 503)},
)
async def clear_banner(request: Request, caller: Operator) -> Response:
    """Safe to repeat."""
    services = api_of(request).services
    async with services.db.transaction() as transaction:
        row = await transaction.row("clear_banner")
        if row is not None and row["banner"] is not None:
            await transaction.execute(
                "insert_audit",
                actor=show(Prefix.USER, caller.user_id),
                action="clear_banner",
                subject=SUBJECT,
                data={"message": row["banner"]},
            )
    services.standing.forget()
    return Response(status_code=204)


def _message(body: Mapping[str, Any]) -> str:
    value = body.get("message")
    if not isinstance(value, str) or not value.strip():
        raise refuse("message", "is missing" if value is None else "must be a text that is not empty")
    message = value.strip()
    if len(message) > MAX_MESSAGE_CHARS or not message.isprintable():
        raise refuse("message", f"must be one line of at most {MAX_MESSAGE_CHARS} printable characters")
    return message

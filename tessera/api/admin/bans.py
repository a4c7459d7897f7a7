"""Closing a user's account, and opening it again. Each leaves a row in audit_log, in the same transaction."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from tessera.api.admin.users import no_user, read_reason, user_answer
from tessera.api.auth import Caller, Operator
from tessera.api.jobs.answers import answer
from tessera.api.jobs.submissions import read_object, refuse_unknown
from tessera.api.schemas import base as schemas
from tessera.api.schemas import moderation as moderation_schemas
from tessera.api.state import api_of
from tessera.errors import Conflict
from tessera.ids import Prefix, parse, show

router = APIRouter(tags=["operator"], prefix="/v1/admin")


@router.post(
    "/users/{user_id}/ban",
    response_model=None,
    summary="Close a user's account",
    responses={200: {"model": schemas.UserAnswer}, **schemas.problems(400, 401, 403, 404, 409, 422, 429, 503)},
    openapi_extra={"requestBody": moderation_schemas.BAN_BODY},
)
async def ban(request: Request, user_id: str, caller: Operator) -> Response:
    """Within two seconds all of the user's keys and bots get 403 with the reason. What waits is cancelled and refunded,
    what runs is asked to end. Safe to repeat; another reason replaces the one before."""
    body = read_object(await request.body())
    refuse_unknown(body, ("reason",))
    return await _set_ban(request, user_id, caller, read_reason(body))


@router.post(
    "/users/{user_id}/unban",
    response_model=None,
    summary="Reopen a user's account",
    responses={200: {"model": schemas.UserAnswer}, **schemas.problems(401, 403, 404, 429, 503)},
)
async def unban(request: Request, user_id: str, caller: Operator) -> Response:
    """Keys and identities work again within two seconds; what the ban has cancelled stays cancelled. Safe to repeat."""
    return await _set_ban(request, user_id, caller, None)


async def _set_ban(request: Request, user_id: str, caller: Caller, reason: str | None) -> Response:
    identifier = parse(Prefix.USER, user_id)
    api = api_of(request)
    done = await api.services.db.row(
        "set_ban",
        user_id=identifier,
        reason=reason,
        actor=show(Prefix.USER, caller.user_id),
        subject=show(Prefix.USER, identifier),
    )
    assert done is not None
    if done["outcome"] == "operator":
        raise Conflict("An operator cannot be banned. Nothing was changed; revoke the keys instead.")
    api.authenticator.forget_user(identifier)
    row = await api.services.db.row("get_user", id=identifier)
    if done["outcome"] == "unknown" or row is None:
        raise no_user(user_id)
    return answer(user_answer(row))

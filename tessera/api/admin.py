"""What an operator does with users. Every act leaves a row in audit_log, in the same transaction."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response

from tessera.api import schemas
from tessera.api.answers import answer, page
from tessera.api.auth import Caller, Operator
from tessera.api.jobs import read_cursor
from tessera.api.keys import read_name
from tessera.api.state import api_of
from tessera.api.submissions import read_object, refuse, refuse_unknown
from tessera.errors import Conflict, NotFound
from tessera.ids import Prefix, new_id, parse, show
from tessera.plans import tokens
from tessera.store.database import Transaction
from tessera.store.operators import add_key

router = APIRouter(tags=["operator"], prefix="/v1/admin")

FIRST_KEY_NAME = "first key"


@router.post(
    "/users",
    status_code=201,
    response_model=None,
    summary="Make a user",
    responses={201: {"model": schemas.NewUser}, **schemas.problems(400, 401, 403, 409, 422, 429, 503)},
    openapi_extra={"requestBody": schemas.USER_BODY},
)
async def create_user(request: Request, caller: Operator) -> Response:
    """With a first API key, which is in this answer only."""
    body = read_object(await request.body())
    refuse_unknown(body, ("name", "plan"))
    name = read_name(body.get("name"))
    plan = body.get("plan", "free")
    user_id = new_id()
    async with api_of(request).services.db.transaction() as transaction:
        await _check_plan(transaction, plan)
        if not await transaction.execute("create_user", id=user_id, name=name, plan_id=plan):
            raise Conflict(f"There is a user named {name!r} already. Nothing was made; choose another name.")
        key = await add_key(transaction, user_id, name=FIRST_KEY_NAME, scopes=["jobs"])
        await _audit(transaction, caller, "create_user", user_id, {"name": name, "plan": plan})
        row = await transaction.row("get_user", id=user_id)
    assert row is not None
    return answer({**user_answer(row), "api_key": key}, 201, {"Cache-Control": "no-store"})


@router.get(
    "/users",
    response_model=None,
    summary="List the users",
    responses={200: {"model": schemas.UserPage}, **schemas.problems(401, 403, 422, 429, 503)},
)
async def list_users(
    request: Request,
    caller: Operator,
    limit: Annotated[int, Query(ge=1, le=100)] = 50,
    cursor: Annotated[str | None, Query(max_length=64)] = None,
) -> Response:
    """The newest first."""
    rows = await api_of(request).services.db.rows(
        "list_users", before=read_cursor(Prefix.USER, cursor), limit=limit + 1
    )
    data = [user_answer(row) for row in rows[:limit]]
    return page(data, data[-1]["id"] if len(rows) > limit else None)


@router.get(
    "/users/{user_id}",
    response_model=None,
    summary="A user",
    responses={200: {"model": schemas.UserAnswer}, **schemas.problems(401, 403, 404, 429, 503)},
)
async def get_user(request: Request, user_id: str, caller: Operator) -> Response:
    """With what is used and waits today."""
    row = await api_of(request).services.db.row("get_user", id=parse(Prefix.USER, user_id))
    if row is None:
        raise _no_user(user_id)
    return answer(user_answer(row))


@router.patch(
    "/users/{user_id}",
    response_model=None,
    summary="Change a user's plan",
    responses={200: {"model": schemas.UserAnswer}, **schemas.problems(400, 401, 403, 404, 422, 429, 503)},
    openapi_extra={"requestBody": schemas.USER_PLAN_BODY},
)
async def set_plan(request: Request, user_id: str, caller: Operator) -> Response:
    """Works at once for admission, within two seconds for other limits. Safe to repeat."""
    body = read_object(await request.body())
    refuse_unknown(body, ("plan",))
    plan = body.get("plan")
    identifier = parse(Prefix.USER, user_id)
    async with api_of(request).services.db.transaction() as transaction:
        await _check_plan(transaction, plan)
        before = await transaction.row("get_user", id=identifier)
        if before is None:
            raise _no_user(user_id)
        if before["plan_id"] != plan:
            await transaction.execute("set_plan", id=identifier, plan_id=plan)
            await _audit(transaction, caller, "set_plan", identifier, {"from": before["plan_id"], "to": plan})
        row = await transaction.row("get_user", id=identifier)
        if before["plan_id"] != plan:
            await transaction.execute("tell_plan_changed", id=identifier)
    assert row is not None
    return answer(user_answer(row))


def user_answer(row: Mapping[str, Any]) -> dict[str, Any]:
    """A user as an operator sees one."""
    shown = {
        "id": show(Prefix.USER, row["id"]),
        "name": row["name"],
        "plan": row["plan_id"],
        "is_admin": row["is_admin"],
        "created_at": row["created_at"],
        "used_tokens": tokens(row["used_mt"]),
        "queued": row["queued"],
        "running": row["running"],
    }
    if row["banned_at"] is not None:
        shown["banned_at"] = row["banned_at"]
    return shown


async def _check_plan(transaction: Transaction, plan: object) -> None:
    known = [row["id"] for row in await transaction.rows("list_plans")]
    if plan not in known:
        raise refuse("plan", "is missing" if plan is None else f"must be one of {', '.join(known)}")


async def _audit(transaction: Transaction, caller: Caller, action: str, user_id: UUID, data: Mapping[str, Any]) -> None:
    await transaction.execute(
        "insert_audit",
        actor=show(Prefix.USER, caller.user_id),
        action=action,
        subject=show(Prefix.USER, user_id),
        data=dict(data),
    )


def _no_user(user_id: str) -> NotFound:
    return NotFound(f"There is no user {user_id[:64]!r}. GET /v1/admin/users lists those that there are.")

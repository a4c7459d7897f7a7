"""What an operator does with users. Every act leaves a row in audit_log, in the same transaction."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response

from tessera.api.accounts.keys import read_name
from tessera.api.admin.operator_answers import once
from tessera.api.auth import Caller, Operator
from tessera.api.jobs.answers import answer, page
from tessera.api.jobs.routes import read_cursor
from tessera.api.jobs.submissions import read_object, refuse, refuse_unknown
from tessera.api.schemas import admin as admin_schemas
from tessera.api.schemas import base as schemas
from tessera.api.schemas import bodies
from tessera.api.state import api_of
from tessera.errors import Conflict, NotFound
from tessera.identities import parse_identity
from tessera.ids import Prefix, new_id, parse, show
from tessera.plans import MT_PER_TOKEN, tokens
from tessera.store.database import Transaction
from tessera.store.operators import add_key

router = APIRouter(tags=["operator"], prefix="/v1/admin")

FIRST_KEY_NAME = "first key"
MAX_ENTRY_TOKENS = 1_000_000  # of one entry: as much as the operator's own day; more is a slip of the hand
MAX_ENTRY_AGE = timedelta(days=365)  # /v1/usage looks no further back
MAX_REASON_CHARS = 200
MAX_AUDIT_ID = 2**63 - 1


@router.post(
    "/users",
    status_code=201,
    response_model=None,
    summary="Make a user",
    responses={201: {"model": schemas.NewUser}, **schemas.problems(400, 401, 403, 409, 422, 429, 503)},
    openapi_extra={"requestBody": bodies.USER_BODY},
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
    summary="Find users",
    responses={200: {"model": schemas.UserPage}, **schemas.problems(401, 403, 422, 429, 503)},
)
async def list_users(
    request: Request,
    caller: Operator,
    q: Annotated[str | None, Query(min_length=1, max_length=200, description="in the name, in any case")] = None,
    identity: Annotated[
        str | None, Query(max_length=320, description="exactly this one", examples=["telegram:123456789"])
    ] = None,
    email: Annotated[str | None, Query(max_length=320, description="exactly this address")] = None,
    plan: Annotated[str | None, Query(max_length=64)] = None,
    banned: Annotated[bool | None, Query(description="only those who are, or are not")] = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 50,
    cursor: Annotated[str | None, Query(max_length=64)] = None,
) -> Response:
    """The newest first; filters go together."""
    known = parse_identity(identity, where="identity") if identity is not None else None
    if email is not None:
        by_email = parse_identity(f"email:{email}", where="email")
        if known is not None and known != by_email:
            return page([])
        known = by_email
    rows = await api_of(request).services.db.rows(
        "find_users",
        before=read_cursor(Prefix.USER, cursor),
        text=q.replace("\x00", "") if q is not None else None,
        provider=known.provider.value if known is not None else None,
        identity=known.subject if known is not None else None,
        plan_id=plan.replace("\x00", "") if plan is not None else None,
        banned=banned,
        limit=limit + 1,
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
        raise no_user(user_id)
    return answer(user_answer(row))


@router.patch(
    "/users/{user_id}",
    response_model=None,
    summary="Change a user's plan",
    responses={200: {"model": schemas.UserAnswer}, **schemas.problems(400, 401, 403, 404, 422, 429, 503)},
    openapi_extra={"requestBody": bodies.USER_PLAN_BODY},
)
async def set_plan(request: Request, user_id: str, caller: Operator) -> Response:
    """Works at once for admission and for the tier of jobs that wait or run, within two seconds for other limits. What
    was used today stays used. Safe to repeat."""
    body = read_object(await request.body())
    refuse_unknown(body, ("plan",))
    plan = body.get("plan")
    identifier = parse(Prefix.USER, user_id)
    async with api_of(request).services.db.transaction() as transaction:
        await _check_plan(transaction, plan)
        changed = await transaction.row(
            "change_plan",
            user_id=identifier,
            plan_id=plan,
            actor=show(Prefix.USER, caller.user_id),
            subject=show(Prefix.USER, identifier),
            grant_id=new_id(),
        )
    assert changed is not None
    # Read after the commit: the change holds the lock of the feed until then.
    row = await api_of(request).services.db.row("get_user", id=identifier)
    if changed["outcome"] == "unknown_user" or row is None:
        raise no_user(user_id)
    return answer(user_answer(row))


@router.post(
    "/users/{user_id}/grant",
    status_code=201,
    response_model=None,
    summary="Grant tokens for today",
    responses={201: {"model": admin_schemas.AccountEntry}, **schemas.problems(400, 401, 403, 404, 422, 429, 503)},
    openapi_extra={"requestBody": admin_schemas.GRANT_BODY, "parameters": [bodies.IDEMPOTENCY_KEY]},
)
async def grant(request: Request, user_id: str, caller: Operator) -> Response:
    """More room in today's quota; at midnight UTC it is gone. Each request is an entry of its own; with an
    `Idempotency-Key` it may be sent again for 24 hours and is entered once."""
    body = read_object(await request.body())
    refuse_unknown(body, ("tokens", "reason"))
    amount_mt = read_amount_mt(body, "tokens")
    if amount_mt < 0:
        raise refuse("tokens", "must be above 0: what is taken away is an adjustment")
    return await _enter(request, user_id, caller, "grant", amount_mt, day=None, reason=read_reason(body))


@router.post(
    "/users/{user_id}/adjust",
    status_code=201,
    response_model=None,
    summary="Adjust what a user has used",
    responses={201: {"model": admin_schemas.AccountEntry}, **schemas.problems(400, 401, 403, 404, 422, 429, 503)},
    openapi_extra={"requestBody": admin_schemas.ADJUST_BODY, "parameters": [bodies.IDEMPOTENCY_KEY]},
)
async def adjust(request: Request, user_id: str, caller: Operator) -> Response:
    """Corrects the use of a day: `tokens` above 0 charge, below 0 give back. Each request is an entry of its own; with
    an `Idempotency-Key` it may be sent again for 24 hours and is entered once."""
    body = read_object(await request.body())
    refuse_unknown(body, ("tokens", "day", "reason"))
    amount_mt, reason = read_amount_mt(body, "tokens"), read_reason(body)
    day = _day(body, api_of(request).services.clock())
    return await _enter(request, user_id, caller, "adjustment", amount_mt, day=day, reason=reason)


@router.get(
    "/audit",
    response_model=None,
    summary="What operators did",
    responses={200: {"model": admin_schemas.AuditPage}, **schemas.problems(401, 403, 422, 429, 503)},
)
async def list_audit(
    request: Request,
    caller: Operator,
    subject: Annotated[str | None, Query(max_length=200, description="only of this user, worker, …")] = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 50,
    cursor: Annotated[int | None, Query(ge=1, le=MAX_AUDIT_ID, description="`next_cursor` of the page before")] = None,
) -> Response:
    """The newest first. `actor` is the operator, `subject` what it was done to."""
    plain = subject.replace("\x00", "") if subject is not None else None
    rows = await api_of(request).services.db.rows("list_audit", before=cursor, subject=plain, limit=limit + 1)
    data = [
        {
            "id": row["id"],
            "actor": row["actor"],
            "action": row["action"],
            "subject": row["subject"],
            "data": row["data"],
            "at": row["created_at"],
        }
        for row in rows[:limit]
    ]
    return page(data, str(data[-1]["id"]) if len(rows) > limit else None)


async def _enter(
    request: Request, user_id: str, caller: Caller, entry: str, amount_mt: int, *, day: date | None, reason: str
) -> Response:
    identifier = parse(Prefix.USER, user_id)

    async def enter(transaction: Transaction) -> dict[str, Any]:
        row = await transaction.row(
            "enter_by_hand",
            user_id=identifier,
            entry=entry,
            amount_mt=-amount_mt if entry == "grant" else amount_mt,
            day=day,
            reason=reason,
            actor=show(Prefix.USER, caller.user_id),
            subject=show(Prefix.USER, identifier),
        )
        if row is None:
            raise no_user(user_id)
        return {
            "user_id": show(Prefix.USER, identifier),
            "entry": entry,
            "tokens": tokens(amount_mt),
            "day": row["day"],
            "reason": reason,
            "used_tokens": tokens(row["used_mt"]),
            "daily_tokens": tokens(row["daily_mt"]),
        }

    return await once(request, caller, enter, status=201)


def read_amount_mt(body: Mapping[str, Any], field: str) -> int:
    """Tokens as exact millitokens, not 0. Raises InvalidInput on more than three decimals or too many."""
    value = body.get(field)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise refuse(field, "is missing" if value is None else "must be a number of tokens")
    if value == 0 or abs(value) > MAX_ENTRY_TOKENS:
        raise refuse(field, f"must not be 0, and at most {MAX_ENTRY_TOKENS:,} either way")
    # The shortest text of a float is what was sent, and decimal arithmetic on it is exact.
    amount = Decimal(repr(value)) * MT_PER_TOKEN
    if amount != int(amount):
        raise refuse(field, "can have at most three decimals: the smallest amount is 0.001")
    return int(amount)


def read_reason(body: Mapping[str, Any]) -> str:
    """``reason``, one line. Raises InvalidInput."""
    value = body.get("reason")
    if not isinstance(value, str) or not value.strip():
        raise refuse("reason", "is missing" if value is None else "must be a text that is not empty")
    reason = value.strip()
    if len(reason) > MAX_REASON_CHARS or not reason.isprintable():
        raise refuse("reason", f"must be one line of at most {MAX_REASON_CHARS} printable characters")
    return reason


def _day(body: Mapping[str, Any], now: datetime) -> date | None:
    value = body.get("day")
    if value is None:
        return None
    today = now.astimezone(UTC).date()
    try:
        if not isinstance(value, str) or len(value) != len("2030-01-31"):
            raise ValueError(value)
        found = date.fromisoformat(value)
    except ValueError:
        raise refuse("day", 'must be a date such as "2030-01-31"') from None
    if not today - MAX_ENTRY_AGE <= found <= today:
        raise refuse("day", f"must be from {today - MAX_ENTRY_AGE} to {today}, today in UTC")
    return found


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
        shown |= {"banned_at": row["banned_at"], "ban_reason": row["ban_reason"] or ""}
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


def no_user(user_id: str) -> NotFound:
    """The refusal of an id that no user has."""
    return NotFound(f"There is no user {user_id[:64]!r}. GET /v1/admin/users lists those that there are.")

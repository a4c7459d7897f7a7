"""A user's API keys. A key can never make one that may do more, or lives longer, than itself."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from fastapi import APIRouter, Request, Response

from tessera.api.auth import Caller, Reader, User
from tessera.api.jobs.answers import answer, page
from tessera.api.jobs.submissions import read_object, read_time, refuse, refuse_unknown
from tessera.api.schemas import base as schemas
from tessera.api.schemas import bodies
from tessera.api.state import api_of
from tessera.errors import Conflict, Forbidden, NotFound
from tessera.plans import MT_PER_TOKEN, tokens
from tessera.scopes import Scope, may_give
from tessera.store.operators import make_key

router = APIRouter(tags=["account"])

MAX_LIVE_KEYS = 100
MAX_NAME_CHARS = 100
MAX_CAP_TOKENS = 1e12


@router.post(
    "/v1/keys",
    status_code=201,
    response_model=None,
    summary="Make an API key",
    responses={201: {"model": schemas.NewKey}, **schemas.problems(400, 401, 403, 409, 422, 429, 503)},
    openapi_extra={"requestBody": bodies.KEY_BODY},
)
async def create_key(request: Request, caller: User) -> Response:
    """`api_key` is in this answer only. Scopes: `jobs` (everything of the user's), `read` (look only), and from an
    operator `service` (act on behalf of persons: bots) and `admin`. A key may never do more, use more or live longer
    than the one that makes it; one with a daily cap makes none that may submit, or each would have the cap anew."""
    services = api_of(request).services
    body = read_object(await request.body())
    refuse_unknown(body, ("name", "scopes", "daily_cap_tokens", "expires_at"))
    name = read_name(body.get("name"))
    scopes = _scopes(body.get("scopes"), caller)
    cap_mt = _cap_mt(body.get("daily_cap_tokens"), caller)
    if caller.daily_cap_mt is not None and set(scopes) != {Scope.READ}:
        raise Forbidden(
            "This API key has a daily cap, which each key that it made would have anew. Nothing was made; use a key"
            " without a cap, or ask for the scope 'read' alone."
        )
    if cap_mt is not None and Scope.SERVICE in scopes:
        raise refuse("daily_cap_tokens", "a key of scope 'service' has no cap: the limits of each person bind")
    expires_at = _expires_at(body, caller, services.clock())
    key_id, key, digest = make_key()
    async with services.db.transaction() as transaction:
        counted = await transaction.row("count_live_keys", user_id=caller.user_id)
        if counted is not None and counted["live"] >= MAX_LIVE_KEYS:
            raise Conflict(f"{MAX_LIVE_KEYS} API keys are in use already. Revoke one that is no longer needed first.")
        await transaction.execute(
            "insert_api_key",
            id=key_id,
            user_id=caller.user_id,
            secret_sha256=digest,
            name=name,
            scopes=scopes,
            daily_cap_mt=cap_mt,
            expires_at=expires_at,
        )
        row = await transaction.row("get_key", id=key_id, user_id=caller.user_id)
    assert row is not None
    return answer({**key_answer(row), "api_key": key}, 201, {"Cache-Control": "no-store"})


@router.get(
    "/v1/keys",
    response_model=None,
    summary="List the API keys",
    responses={200: {"model": schemas.KeyPage}, **schemas.problems(401, 429, 503)},
)
async def list_keys(request: Request, caller: Reader) -> Response:
    """The user's keys, the newest first, without their secrets."""
    rows = await api_of(request).services.db.rows("list_keys", user_id=caller.user_id)
    return page([key_answer(row) for row in rows])


@router.get(
    "/v1/keys/{key_id}",
    response_model=None,
    summary="An API key",
    responses={200: {"model": schemas.Key}, **schemas.problems(401, 404, 429, 503)},
)
async def get_key(request: Request, key_id: str, caller: Reader) -> Response:
    """Without its secret."""
    return answer(await _key(request, caller, key_id))


@router.patch(
    "/v1/keys/{key_id}",
    response_model=None,
    summary="Rename an API key",
    responses={200: {"model": schemas.Key}, **schemas.problems(400, 401, 404, 422, 429, 503)},
    openapi_extra={"requestBody": bodies.KEY_NAME_BODY},
)
async def rename_key(request: Request, key_id: str, caller: User) -> Response:
    """Only the name can change: what a key may do is settled when it is made."""
    body = read_object(await request.body())
    refuse_unknown(body, ("name",))
    await api_of(request).services.db.execute(
        "rename_key", id=_checked(key_id), user_id=caller.user_id, name=read_name(body.get("name"))
    )
    return answer(await _key(request, caller, key_id))


@router.delete(
    "/v1/keys/{key_id}",
    status_code=204,
    response_model=None,
    summary="Revoke an API key",
    responses={204: {"description": "It no longer works."}, **schemas.problems(401, 404, 429, 503)},
)
async def revoke_key(request: Request, key_id: str, caller: User) -> Response:
    """For good, and everywhere within two seconds. Safe to repeat."""
    api = api_of(request)
    if not await api.services.db.execute("revoke_key", id=_checked(key_id), user_id=caller.user_id):
        raise _no_key(key_id)
    api.authenticator.forget(key_id)
    return Response(status_code=204)


def key_answer(row: Mapping[str, Any]) -> dict[str, Any]:
    """A key without its secret."""
    shown: dict[str, Any] = {
        "id": row["id"],
        "name": row["name"],
        "scopes": sorted(row["scopes"]),
        "created_at": row["created_at"],
    }
    if row["daily_cap_mt"] is not None:
        shown["daily_cap_tokens"] = tokens(row["daily_cap_mt"])
    for name in ("last_used_at", "expires_at", "revoked_at"):
        if row[name] is not None:
            shown[name] = row[name]
    return shown


async def _key(request: Request, caller: Caller, key_id: str) -> dict[str, Any]:
    row = await api_of(request).services.db.row("get_key", id=_checked(key_id), user_id=caller.user_id)
    if row is None:
        raise _no_key(key_id)
    return key_answer(row)


def _checked(key_id: str) -> str:
    if not (key_id.isascii() and key_id.isalnum()):
        raise _no_key(key_id)
    return key_id


def _no_key(key_id: str) -> NotFound:
    return NotFound(f"There is no API key {key_id[:64]!r} of yours. GET /v1/keys lists those that there are.")


def read_name(value: object) -> str:
    """The name of a key or a user: one line that can be shown. Raises InvalidInput."""
    if not isinstance(value, str) or not value.strip():
        raise refuse("name", "is missing" if value is None else "must be a text that is not empty")
    name = value.strip()
    if len(name) > MAX_NAME_CHARS or not name.isprintable():
        raise refuse("name", f"must be one line of at most {MAX_NAME_CHARS} printable characters")
    return name


def _scopes(value: object, caller: Caller) -> list[str]:
    if value is None:
        return [Scope.JOBS.value]
    known = [scope.value for scope in Scope]
    if not isinstance(value, list) or not value or any(scope not in known for scope in value):
        raise refuse("scopes", f"must be a list of some of {', '.join(known)}")
    more = set(value) - may_give(caller.scopes)
    if more:
        raise Forbidden(f"This API key cannot give the scope '{min(more)}', which it does not have. Nothing was made.")
    return sorted(set(value))


def _cap_mt(value: object, caller: Caller) -> int | None:
    own = caller.daily_cap_mt
    if value is None:
        return own
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= MAX_CAP_TOKENS:
        raise refuse("daily_cap_tokens", "must be a number of tokens, 0 or more")
    cap_mt = math.floor(value * MT_PER_TOKEN + 1e-6)
    if own is not None and cap_mt > own:
        raise refuse("daily_cap_tokens", f"cannot be above the {tokens(own)} of the key that makes it")
    return cap_mt


def _expires_at(body: Mapping[str, Any], caller: Caller, now: datetime) -> datetime | None:
    found = read_time(body, "expires_at")
    if found is None:
        return caller.expires_at
    if found <= now:
        raise refuse("expires_at", "is over already")
    if caller.expires_at is not None and found > caller.expires_at:
        raise refuse("expires_at", "cannot be after that of the key that makes it")
    return found

"""Taking one's data along, and deleting an account."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response
from starlette.responses import StreamingResponse

from tessera.api.accounts.keys import key_answer
from tessera.api.accounts.ledger import entry_answer
from tessera.api.accounts.linking import identity_answer, identity_of
from tessera.api.auth import Caller, Operator, Reader, User
from tessera.api.jobs.answers import answer, job_answer, json_bytes, upload_answer
from tessera.api.jobs.submissions import refuse_parameter
from tessera.api.schemas import base as schemas
from tessera.api.schemas import identities as identities_schemas
from tessera.api.services import Services
from tessera.api.state import Api, api_of
from tessera.errors import Conflict, NotFound, Unauthorized, Unavailable
from tessera.ids import Prefix, parse, show
from tessera.plans import tokens
from tessera.store.database import Row

router = APIRouter()

PAGE = 100
TRIES = 5
USAGE_DAYS = 366


@router.delete(
    "/v1/me",
    tags=["account"],
    response_model=None,
    summary="Delete the account",
    responses={200: {"model": identities_schemas.Deleted}, **schemas.problems(401, 403, 409, 422, 429, 503)},
)
async def delete_me(
    request: Request,
    caller: User,
    confirm: Annotated[str | None, Query(max_length=64, description="the user's own id, from `GET /v1/me`")] = None,
) -> Response:
    """For good. Prompts, results, uploads, settings and identities are erased, files within two days; what waits or
    runs is cancelled, keys stop working. The ledger keeps its entries under the id alone. What was used today stays
    used for whoever comes back today with one of the identities. Not with a key that has a cap or an expiry."""
    caller.must_be_unbounded("delete the account")
    own = show(Prefix.USER, caller.user_id)
    if confirm != own:
        raise refuse_parameter("confirm", f"must be {own}, the id of the account that is to be deleted for good")
    return answer(await _delete(api_of(request), caller.user_id, actor=own))


@router.delete(
    "/v1/admin/users/{user_id}",
    tags=["operator"],
    response_model=None,
    summary="Delete a user",
    responses={200: {"model": identities_schemas.Deleted}, **schemas.problems(401, 403, 404, 409, 429, 503)},
)
async def delete_user(request: Request, user_id: str, caller: Operator) -> Response:
    """For good, as `DELETE /v1/me` does. A ban goes on for each of the identities."""
    identifier = parse(Prefix.USER, user_id)
    try:
        return answer(await _delete(api_of(request), identifier, actor=show(Prefix.USER, caller.user_id)))
    except Unauthorized:
        raise NotFound(f"There is no user {user_id[:64]!r}. GET /v1/admin/users lists those that there are.") from None


async def _delete(api: Api, user_id: UUID, *, actor: str) -> dict[str, Any]:
    services = api.services
    secret = services.settings.secret_for("identities")
    for _ in range(TRIES):
        rows = await services.db.rows("identities_of_user", user_id=user_id)
        identities = [
            {"provider": each.provider.value, "subject": each.subject, "hmac": each.keyed_hash(secret).hex()}
            for each in map(identity_of, rows)
        ]
        row = await services.db.row("delete_account", user_id=user_id, identities=identities, actor=actor)
        assert row is not None
        match row["outcome"]:
            case "deleted":
                api.authenticator.forget_user(user_id)
                return {"id": show(Prefix.USER, user_id), "deleted": True}
            case "unknown_user":
                raise Unauthorized("The user of this API key no longer exists.")
            case "operator":
                raise Conflict("The account of an operator cannot be deleted. Nothing was changed.")
            case "again":  # an identity has come or gone between the two statements
                continue
            case unknown:
                raise RuntimeError(f"delete_account answered {unknown!r}")
    raise Unavailable("The identities of this account change all the time. Nothing was deleted; try again shortly.")


@router.get(
    "/v1/me/export",
    tags=["account"],
    response_model=None,
    summary="Export one's data",
    responses={
        200: {"model": identities_schemas.Export},
        **schemas.problems(401, 429, 503),
    },
)
async def export(request: Request, caller: Reader) -> Response:
    """Everything that is kept about the user, as one JSON document: identities, settings, plans, keys without their
    secrets, usage, uploads, jobs with their prompts and the links of their files, ledger. It is written while it is
    sent; a document without its last bracket broke off: ask again."""
    services = api_of(request).services
    parts = await _small_parts(services, caller, services.clock())
    name = f"tessera-{show(Prefix.USER, caller.user_id)}.json"
    return StreamingResponse(
        _document(services, caller, parts),
        media_type="application/json",
        headers={"Content-Disposition": f'attachment; filename="{name}"', "Cache-Control": "no-store"},
    )


async def _small_parts(services: Services, caller: Caller, now: datetime) -> dict[str, Any]:
    async with services.db.transaction() as transaction:
        user = await transaction.row("user_for_export", user_id=caller.user_id)
        if user is None:
            raise Unauthorized("The user of this API key no longer exists.")
        identities = await transaction.rows("identities_of_user", user_id=caller.user_id)
        grants = await transaction.rows("grants_of_user", user_id=caller.user_id)
        keys = await transaction.rows("list_keys", user_id=caller.user_id)
        today = now.astimezone(UTC).date()
        first = today - timedelta(days=USAGE_DAYS - 1)
        usage = await transaction.rows("usage_of_user", user_id=caller.user_id, first=first, last=today, kind=None)
        uploads = await transaction.rows("uploads_of_user", user_id=caller.user_id)
    return {
        "exported_at": now,
        "user": {
            "id": show(Prefix.USER, caller.user_id),
            "name": user["name"],
            "plan": user["plan_id"],
            "created_at": user["created_at"],
        },
        "settings": user["settings"],
        "identities": [identity_answer(row) for row in identities],
        "plans": [
            {"plan": row["plan_id"], "source": row["source"], "starts_at": row["starts_at"], "ends_at": row["ends_at"]}
            for row in grants
        ],
        "keys": [key_answer(row) for row in keys],
        "usage": [
            {"day": row["day"], "kind": row["kind"], "used_tokens": tokens(row["used_mt"]), "jobs": row["jobs"]}
            for row in usage
        ],
        "uploads": [upload_answer(row) for row in uploads],
    }


async def _document(services: Services, caller: Caller, parts: Mapping[str, Any]) -> AsyncGenerator[bytes]:
    """The document, in pieces: what can be long is read page by page."""
    yield json_bytes(parts)[:-1]
    yield b',"jobs":'
    async for piece in _list(_pages_of_jobs(services, caller), job_answer):
        yield piece
    yield b',"ledger":'
    async for piece in _list(_pages_of_ledger(services, caller), entry_answer):
        yield piece
    yield b"}"


async def _list(
    pages: AsyncGenerator[list[Row]], shown: Callable[[Mapping[str, Any]], dict[str, Any]]
) -> AsyncGenerator[bytes]:
    before = b"["
    async for rows in pages:
        for row in rows:
            yield before + json_bytes(shown(row))
            before = b",\n"
    yield b"]" if before != b"[" else b"[]"


async def _pages_of_jobs(services: Services, caller: Caller) -> AsyncGenerator[list[Row]]:
    before: UUID | None = None
    while rows := await services.db.rows(
        "list_jobs",
        user_id=caller.user_id,
        before=before,
        down_to=None,
        kind=None,
        states=None,
        model=None,
        created_after=None,
        created_before=None,
        metadata=[],
        text=None,
        limit=PAGE,
    ):
        yield rows
        before = rows[-1]["id"]


async def _pages_of_ledger(services: Services, caller: Caller) -> AsyncGenerator[list[Row]]:
    before: int | None = None
    while rows := await services.db.rows("ledger_of_user", user_id=caller.user_id, before=before, day=None, limit=PAGE):
        yield rows
        before = rows[-1]["id"]

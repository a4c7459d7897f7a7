"""A user's identities: which there are, how another one is brought in by a code, and how one is taken out.

Bringing in an identity, or a whole account, makes one user of two; the database does it in one transaction
(sql/functions/accounts.sql).
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter, Request, Response

from tessera.api.auth import Caller, Reader, User
from tessera.api.jobs.answers import answer, page
from tessera.api.jobs.submissions import read_object, refuse, refuse_unknown
from tessera.api.schemas import base as schemas
from tessera.api.schemas import identities as identities_schemas
from tessera.api.state import Api, api_of
from tessera.errors import Conflict, InvalidInput, NotFound, RateLimited, Unauthorized
from tessera.identities import CODE_CHARS, Identity, code_hash, parse_identity, read_code, write_code
from tessera.ids import Prefix, show

router = APIRouter(tags=["account"], prefix="/v1/identities")

CODE_TTL_S = 600.0


@router.get(
    "",
    response_model=None,
    summary="List the identities",
    responses={200: {"model": identities_schemas.IdentityPage}, **schemas.problems(401, 429, 503)},
)
async def list_identities(request: Request, caller: Reader) -> Response:
    """Who the user is elsewhere, the oldest first. All of them share one quota, its jobs and files."""
    return page(await _identities(api_of(request), caller))


@router.post(
    "/link-codes",
    status_code=201,
    response_model=None,
    summary="Make a link code",
    responses={201: {"model": identities_schemas.LinkCode}, **schemas.problems(401, 403, 429, 503)},
)
async def make_code(request: Request, caller: User) -> Response:
    """To be typed on another platform within ten minutes, once. What it is typed by becomes part of this account, which
    keeps its id. A new code replaces one that was not used. Not with a key that has a cap or an expiry."""
    caller.must_be_unbounded("make a link code: who joins by it brings keys of his own")
    services = api_of(request).services
    code = write_code(secrets.token_bytes(CODE_CHARS))
    row = await services.db.row(
        "make_link_code", user_id=caller.user_id, hmac=code_hash(code, _secret(request)), ttl_s=CODE_TTL_S
    )
    if row is None or row["expires_at"] is None:
        raise Unauthorized("The user of this API key no longer exists.")
    return answer({"code": code, "expires_at": row["expires_at"]}, 201, {"Cache-Control": "no-store"})


@router.post(
    "/link",
    response_model=None,
    summary="Join the account of a link code",
    responses={200: {"model": identities_schemas.Linked}, **schemas.problems(400, 401, 403, 409, 422, 429, 503)},
    openapi_extra={"requestBody": identities_schemas.LINK_BODY},
)
async def link(request: Request, caller: User) -> Response:
    """The caller's account becomes part of the one that made the code: identities, jobs whatever their state, files,
    keys, plans paid for. The better plan and the better limits hold; what both used today adds up. It cannot be undone:
    ask the person first. Ten tries in ten minutes, right or wrong. Not with a key that has a cap or an expiry."""
    api = api_of(request)
    caller.must_be_unbounded("give the account away to another one")
    body = read_object(await request.body())
    refuse_unknown(body, ("code",))
    code = _code(body)
    row = await api.services.db.row(
        "redeem_link_code", user_id=caller.user_id, hmac=code_hash(code, _secret(request)) if code else b"\x00" * 32
    )
    assert row is not None
    _refuse(row)
    api.authenticator.forget_user(caller.user_id)
    api.authenticator.forget_user(row["user_id"])
    joined = await api.authenticator.authenticate(request)
    return answer(
        {
            "user_id": show(Prefix.USER, row["user_id"]),
            "merged_user_id": show(Prefix.USER, caller.user_id),
            "plan": joined.plan,
            "identities": await _identities(api, joined),
        }
    )


@router.delete(
    "/{identity:path}",
    status_code=204,
    response_model=None,
    summary="Unlink an identity",
    responses={204: {"description": "It is not this user's any more."}, **schemas.problems(401, 404, 409, 429, 503)},
)
async def unlink(request: Request, identity: str, caller: User) -> Response:
    """Not the last one. Jobs, files and plan stay here; whoever comes with the identity afterwards is a new user, with
    what was used here today used already."""
    api = api_of(request)
    missing = NotFound(
        f"There is no identity {identity[:64]!r} of yours. GET /v1/identities lists those that there are."
    )
    try:
        given = parse_identity(identity)
    except InvalidInput:
        raise missing from None
    row = await api.services.db.row(
        "unlink_identity",
        user_id=caller.user_id,
        provider=given.provider.value,
        subject=given.subject,
        hmac=given.keyed_hash(api.services.settings.secret_for("identities")),
    )
    assert row is not None
    if row["outcome"] == "unknown":
        raise missing
    if row["outcome"] == "last":
        raise Conflict(
            "This is the last identity of the account, and nothing was changed. Link another one first; to leave for"
            " good, delete the account (DELETE /v1/me)."
        )
    api.authenticator.people.forget(given)
    return Response(status_code=204)


async def _identities(api: Api, caller: Caller) -> list[dict[str, Any]]:
    return [identity_answer(row) for row in await api.services.db.rows("identities_of_user", user_id=caller.user_id)]


def identity_answer(row: Mapping[str, Any]) -> dict[str, Any]:
    """An identity as its user sees it."""
    return {
        "identity": f"{row['provider']}:{row['subject']}",
        "provider": row["provider"],
        "subject": row["subject"],
        "display_name": row["display_name"],
        "locale": row["locale"],
        "linked_at": row["created_at"],
    }


def identity_of(row: Mapping[str, Any]) -> Identity:
    """The identity of a row."""
    return parse_identity(f"{row['provider']}:{row['subject']}")


def _secret(request: Request) -> bytes:
    return api_of(request).services.settings.secret_for("link-codes")


def _code(body: Mapping[str, Any]) -> str | None:
    given = body.get("code")
    if not isinstance(given, str):
        raise refuse("code", "is missing" if given is None else "must be a text, such as K7QM-2F9X")
    return read_code(given[:64])


def _refuse(row: Mapping[str, Any]) -> None:
    match row["outcome"]:
        case "merged":
            return
        case "wrong":
            raise refuse("code", "is not known, was used, or has expired: make a new one on the other platform")
        case "own":
            raise Conflict("This code is of your own account. Nothing was changed; type it on the other platform.")
        case "gone":
            raise Conflict("One of the two accounts is closed or was deleted. Nothing was changed.")
        case "operator":
            raise Conflict("The account of an operator stays by itself. Nothing was changed.")
        case "rate_limited":
            raise RateLimited(
                f"Too many codes were tried. Nothing was changed; try again in {row['retry_after_s']:.0f} s, with a new"
                " code.",
                retry_after_s=row["retry_after_s"],
            )
        case unknown:
            raise RuntimeError(f"redeem_link_code answered {unknown!r}")

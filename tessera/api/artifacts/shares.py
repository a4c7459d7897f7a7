"""Links to single files: read without a key, made void by operators (``share_links.py`` signs and checks them)."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from tessera.api.artifacts.files import BYTES, SHARED_CACHE, check_there, file_of, thumbnail_of
from tessera.api.auth import Operator
from tessera.api.jobs.answers import answer
from tessera.api.jobs.submissions import read_object, refuse, refuse_unknown
from tessera.api.schemas import artifacts as artifact_schemas
from tessera.api.schemas import base as schemas
from tessera.api.services import Services
from tessera.api.state import api_of
from tessera.errors import Forbidden, NotFound
from tessera.ids import Prefix, parse, show
from tessera.share_links import Check, check
from tessera.store.database import Row

router = APIRouter(tags=["artifacts"])
operators = APIRouter(tags=["operator"], prefix="/v1/admin")

MIN_EXPIRY_S, MAX_EXPIRY_S, USUAL_EXPIRY_S = 60, 7 * 86_400, 86_400
LAST_SECOND = 2**33  # far beyond any link, and within what a time can be


@router.get(
    "/v1/links/{artifact_id}",
    response_model=None,
    summary="The bytes behind a link",
    responses={
        200: {"content": BYTES},
        206: {"description": "The asked range."},
        304: {"description": "You have it already (If-None-Match, If-Modified-Since)."},
        **schemas.problems(403, 404, 410, 416, 422, 451, 503),
    },
    openapi_extra={"security": []},
)
async def get_shared(
    request: Request,
    artifact_id: str,
    expires: Annotated[int, Query(ge=0, le=LAST_SECOND)],
    key: Annotated[int, Query(ge=0, le=2**31 - 1)],
    signature: Annotated[str, Query(max_length=128)],
    thumbnail: Annotated[bool, Query(description="a small picture of it instead")] = False,
) -> Response:
    """Needs no key: the link from `POST /v1/artifacts/{artifact_id}/share` is enough, until its time is over. 403 for a
    changed or old link, 410 for a deleted file."""
    services = api_of(request).services
    row = await shared_row(services, artifact_id, expires=expires, key=key, signature=signature)
    check_there(row)
    if thumbnail:
        return await thumbnail_of(services, request, row, SHARED_CACHE)
    return file_of(services, request, row, artifact_id, SHARED_CACHE)


async def shared_row(services: Services, artifact_id: str, *, expires: int, key: int, signature: str) -> Row:
    """The artifact that a good link leads to. Raises Forbidden, NotFound, or Unavailable."""
    generations = await services.standing.share_generations()
    secret, now = services.settings.secret_for("shares"), services.clock()
    match check(secret, generations, artifact_id, expires=expires, key=key, signature=signature, now=now):
        case Check.VOID:
            raise Forbidden("This link is not valid, or no longer. Ask whom you have it from for another.")
        case Check.EXPIRED:
            raise Forbidden("The time of this link is over. Ask whom you have it from for another.")
    row = await services.db.row("shared_artifact", id=parse(Prefix.ARTIFACT, artifact_id))
    if row is None:
        raise NotFound("The file behind this link is no longer there.")
    return row


@operators.post(
    "/shares/rotate",
    response_model=None,
    summary="Make links void",
    responses={200: {"model": artifact_schemas.Rotated}, **schemas.problems(400, 401, 403, 422, 429, 503)},
    openapi_extra={"requestBody": artifact_schemas.ROTATE_BODY},
)
async def rotate(request: Request, caller: Operator) -> Response:
    """Sign links with another key from now on. Those made before are good for `keep_for_s` more, none of them without;
    what is older than the last rotation is void already. Known to every replica within two seconds."""
    body = read_object(await request.body() or b"{}")
    refuse_unknown(body, ("keep_for_s",))
    keep_for_s = _seconds(body, "keep_for_s", 0, low=0)
    services = api_of(request).services
    async with services.db.transaction() as transaction:
        row = await transaction.row("rotate_shares", keep_for_s=keep_for_s)
        assert row is not None
        await transaction.execute(
            "insert_audit",
            actor=show(Prefix.USER, caller.user_id),
            action="rotate_shares",
            subject="shares",
            data={"generation": row["share_generation"], "keep_for_s": keep_for_s},
        )
    services.standing.forget()
    return answer({"generation": row["share_generation"], "older_until": row["share_before_until"]})


def read_expiry(body: Mapping[str, Any]) -> timedelta:
    """``expires_in_s``. Raises InvalidInput."""
    return timedelta(seconds=_seconds(body, "expires_in_s", USUAL_EXPIRY_S, low=MIN_EXPIRY_S))


def _seconds(body: Mapping[str, Any], field: str, usual: int, *, low: int) -> int:
    value = body.get(field, usual)
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= MAX_EXPIRY_S:
        raise refuse(field, f"must be a whole number of seconds from {low} to {MAX_EXPIRY_S} (7 days)")
    return value

"""A person's settings: small JSON that bots and website read and change, the same on every platform."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter, Request, Response

from tessera.api.auth import Reader, User
from tessera.api.jobs.answers import answer
from tessera.api.jobs.submissions import read_object, refuse
from tessera.api.schemas import base as schemas
from tessera.api.schemas import identities as identities_schemas
from tessera.api.state import api_of
from tessera.errors import Unauthorized

router = APIRouter(tags=["account"])

MAX_BYTES = 8192  # of all settings together, as JSON
MAX_NAMES = 64
MAX_NAME_CHARS = 64
MAX_DEPTH = 4


@router.get(
    "/v1/me/settings",
    response_model=None,
    summary="The person's settings",
    responses={200: {"model": identities_schemas.PersonSettings}, **schemas.problems(401, 429, 503)},
)
async def get_settings(request: Request, caller: Reader) -> Response:
    """Whatever bots and website keep of a person's wishes. Nothing here changes what the API itself does."""
    row = await api_of(request).services.db.row("get_settings", user_id=caller.user_id)
    if row is None:
        raise Unauthorized("The user of this API key no longer exists.")
    return answer({"settings": row["settings"]})


@router.patch(
    "/v1/me/settings",
    response_model=None,
    summary="Change the person's settings",
    responses={200: {"model": identities_schemas.PersonSettings}, **schemas.problems(400, 401, 422, 429, 503)},
    openapi_extra={"requestBody": identities_schemas.SETTINGS_BODY},
)
async def change_settings(request: Request, caller: User) -> Response:
    """What is given is laid over what is there, at once: two platforms that change different settings lose none. null
    takes a setting out. At most 8 KiB together."""
    given = read_settings(read_object(await request.body()))
    unset = [name for name, value in given.items() if value is None]
    row = await api_of(request).services.db.row(
        "change_settings",
        user_id=caller.user_id,
        set={name: value for name, value in given.items() if value is not None},
        unset=unset,
        max_bytes=MAX_BYTES,
    )
    if row is None:
        raise refuse("settings", f"would be larger than {MAX_BYTES} bytes together: take some out with null")
    return answer({"settings": row["settings"]})


def read_settings(given: Mapping[str, Any]) -> Mapping[str, Any]:
    """Settings that can be stored. Raises InvalidInput."""
    if len(given) > MAX_NAMES:
        raise refuse("settings", f"can have at most {MAX_NAMES} names at once")
    for name, value in given.items():
        if not 0 < len(name) <= MAX_NAME_CHARS or not name.isprintable():
            raise refuse("settings", f"each name must have 1 to {MAX_NAME_CHARS} printable characters")
        _check(name, value, MAX_DEPTH)
    return given


def _check(field: str, value: object, depth: int) -> None:
    if depth == 0:
        raise refuse(field, f"is nested deeper than {MAX_DEPTH} levels")
    if isinstance(value, str) and "\x00" in value:
        raise refuse(field, "contains a NUL character, which cannot be stored: remove it")
    if isinstance(value, dict):
        for name, item in value.items():
            _check(field, name, depth)
            _check(field, item, depth - 1)
    elif isinstance(value, list):
        for item in value:
            _check(field, item, depth - 1)

"""Persons as bots know them: an identity is resolved to its user, made at first sight."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter, Request, Response

from tessera.api.auth import Service
from tessera.api.jobs.answers import answer
from tessera.api.jobs.submissions import read_object, refuse, refuse_unknown
from tessera.api.schemas import base as schemas
from tessera.api.schemas import identities as identities_schemas
from tessera.api.state import api_of
from tessera.errors import Conflict
from tessera.identities import parse_identity
from tessera.ids import Prefix, show
from tessera.plans import tokens

router = APIRouter(tags=["internal"], prefix="/v1/internal")

MAX_DISPLAY_NAME_CHARS = 100
_LOCALE = re.compile(r"[A-Za-z]{2,8}(?:[-_][A-Za-z0-9]{1,8}){0,4}")


@router.post(
    "/identities:resolve",
    response_model=None,
    summary="The user of an identity",
    responses={
        200: {"model": identities_schemas.Resolved},
        201: {"model": identities_schemas.Resolved, "description": "The user was made by this request."},
        **schemas.problems(400, 401, 403, 409, 422, 429, 503),
    },
    openapi_extra={"requestBody": identities_schemas.RESOLVE_BODY},
)
async def resolve(request: Request, caller: Service) -> Response:
    """Made at first sight, on the smallest plan. Safe to repeat, also from several bots at once. Who is banned or
    cannot be let in now is refused in words that can be shown. `Tessera-On-Behalf-Of` makes users in the same way: ask
    here for who is new, the plan and the settings."""
    body = read_object(await request.body())
    refuse_unknown(body, ("identity", "display_name", "locale"))
    given = body.get("identity")
    if not isinstance(given, str):
        raise refuse("identity", "is missing" if given is None else "must be a text such as telegram:123456789")
    identity = parse_identity(given)
    api = api_of(request)
    people = api.authenticator.people
    new = await people.resolve(identity, display_name=read_display_name(body), locale=_locale(body))
    person = await people.find(identity, caller)
    row = await api.services.db.row("get_identity", provider=identity.provider.value, subject=identity.subject)
    if row is None:
        raise Conflict("This identity was unlinked at this moment. Nothing was changed; ask again.")
    return answer(
        {
            "identity": str(identity),
            "new": new,
            "user": {
                "id": show(Prefix.USER, person.user_id),
                "name": person.name,
                "plan": person.plan,
                "tier": person.tier.value,
                "daily_tokens": tokens(person.limits.daily_mt),
            },
            "display_name": row["display_name"],
            "locale": row["locale"],
            "settings": row["settings"],
        },
        201 if new else 200,
    )


def read_display_name(body: Mapping[str, Any]) -> str | None:
    """How a person is called, as one line of text: people call themselves whatever they like, and no name is refused.

    None for none. Raises InvalidInput for what is no text.
    """
    value = body.get("display_name")
    if value is None:
        return None
    if not isinstance(value, str):
        raise refuse("display_name", "must be a text")
    # Joiners and direction marks belong to names in some scripts; what breaks a line or a terminal does not.
    plain = "".join(" " if char.isspace() else char for char in value if char.isprintable() or char in "\u200c\u200d ")
    return " ".join(plain.split())[:MAX_DISPLAY_NAME_CHARS].strip() or None


def _locale(body: Mapping[str, Any]) -> str | None:
    value = body.get("locale")
    if value is None:
        return None
    if not isinstance(value, str) or len(value) > 35 or _LOCALE.fullmatch(value) is None:
        raise refuse("locale", "must be a language tag, such as de or pt-BR")
    return value

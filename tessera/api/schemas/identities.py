"""What the API says of persons: identities and settings. Documentation only, like ``base.py``, of whose bases these
are."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import Field

from tessera.api.schemas.base import Answer, Job, Key, Page, Tokens, Upload, UsageDay
from tessera.api.schemas.bodies import body
from tessera.api.schemas.ledger import LedgerEntry

IDENTITY = {
    "type": "string",
    "maxLength": 320,
    "description": "`provider:subject`; providers: telegram, discord, email, oidc",
    "examples": ["telegram:123456789"],
}
_SETTINGS: dict[str, Any] = {"model": "preview-image", "ratio": "16:9", "spoiler": False, "language": "de"}


class PersonSettings(Answer):
    settings: dict[str, Any] = Field(description="the person's own, the same on every platform", examples=[_SETTINGS])


class ResolvedUser(Answer):
    id: str = Field(examples=["user_01k5h3v9m2f8e4x7q6t0c1b2a3"])
    name: str
    plan: str
    tier: Literal["pro", "starter", "free"]
    daily_tokens: Tokens


class Resolved(Answer):
    """A person: an identity and the user behind it."""

    identity: str = Field(examples=["telegram:123456789"])
    new: bool = Field(description="whether the user was made by this request")
    user: ResolvedUser
    display_name: str | None
    locale: str | None
    settings: dict[str, Any] = Field(examples=[_SETTINGS])


class IdentityAnswer(Answer):
    """Who a user is elsewhere."""

    identity: str = Field(examples=["telegram:123456789"])
    provider: Literal["telegram", "discord", "email", "oidc"]
    subject: str = Field(examples=["123456789"])
    display_name: str | None
    locale: str | None
    linked_at: datetime


class IdentityPage(Page[IdentityAnswer]):
    pass


class LinkCode(Answer):
    code: str = Field(description="shown once; ten minutes, one use", examples=["K7QM-2F9X"])
    expires_at: datetime


class Linked(Answer):
    """The account that is there now."""

    user_id: str = Field(description="of the account that made the code", examples=["user_01k5h3v9m2f8e4x7q6t0c1b2a3"])
    merged_user_id: str = Field(description="of the account that is part of it now")
    plan: str
    identities: list[IdentityAnswer]


class Deleted(Answer):
    id: str = Field(examples=["user_01k5h3v9m2f8e4x7q6t0c1b2a3"])
    deleted: Literal[True]


class ExportedUser(Answer):
    id: str
    name: str
    plan: str
    created_at: datetime


class ExportedPlan(Answer):
    plan: str
    source: str
    starts_at: datetime
    ends_at: datetime | None


class Export(Answer):
    """Everything that is kept about a user."""

    exported_at: datetime
    user: ExportedUser
    settings: dict[str, Any]
    identities: list[IdentityAnswer]
    plans: list[ExportedPlan]
    keys: list[Key]
    usage: list[UsageDay]
    uploads: list[Upload]
    jobs: list[Job]
    ledger: list[LedgerEntry]


LINK_BODY = body(
    {
        "type": "object",
        "required": ["code"],
        "additionalProperties": False,
        "properties": {"code": {"type": "string", "description": "in any case, with or without the dash"}},
    },
    {"code": {"code": "K7QM-2F9X"}},
)
RESOLVE_BODY = body(
    {
        "type": "object",
        "required": ["identity"],
        "additionalProperties": False,
        "properties": {
            "identity": IDENTITY,
            "display_name": {
                "type": ["string", "null"],
                "description": "how the person is called there: shown as text, cut to 100 characters",
            },
            "locale": {
                "type": ["string", "null"],
                "maxLength": 35,
                "description": "a language tag, as the platform tells it",
                "examples": ["de", "pt-BR"],
            },
        },
    },
    {"telegram": {"identity": "telegram:123456789", "display_name": "Ada", "locale": "en"}},
)
SETTINGS_BODY = body(
    {
        "type": "object",
        "maxProperties": 64,
        "additionalProperties": True,
        "description": "laid over what is there (JSON merge patch of the top level): null takes a setting out",
    },
    {"ratio": {"ratio": "16:9", "spoiler": None}},
)

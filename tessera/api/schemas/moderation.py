"""What the API says of rules, reports, bans and the banner. Documentation only, like ``schemas/base.py``."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any, Literal

from pydantic import Field

from tessera.api.schemas.base import Answer, Banner, Page, Tokens
from tessera.api.schemas.bodies import body
from tessera.jobs import JobState, Kind
from tessera.moderation.screening import MAX_RULE_CHARS, Action, Match

ReportState = Literal["open", "upheld", "dismissed"]


class ReportCategory(StrEnum):
    """What somebody reports. ``flagged``, which a rule does, is not among them."""

    SEXUAL_MINORS = "sexual_minors"
    NONCONSENSUAL_INTIMATE = "nonconsensual_intimate"
    VIOLENCE = "violence"
    HATE = "hate"
    ILLEGAL = "illegal"
    COPYRIGHT = "copyright"
    PRIVACY = "privacy"
    SPAM = "spam"
    OTHER = "other"


class RuleAnswer(Answer):
    """A rule of moderation."""

    id: str = Field(examples=["rule_01k5h3v9m2f8e4x7q6t0c1b2a3"])
    match: Match
    text: str
    action: Action
    age_restricted: bool = Field(description="refuses where such content is not allowed, else does its action")
    kinds: list[Kind] = Field(description="of which jobs; empty for all")
    note: str
    actor: str = Field(description="the operator who changed it last")
    created_at: datetime
    changed_at: datetime


class RulePage(Page[RuleAnswer]):
    pass


class Report(Answer):
    """A report as who made it sees it."""

    id: str = Field(examples=["rep_01k5h3v9m2f8e4x7q6t0c1b2a3"])
    job_id: str | None = None
    artifact_id: str | None = None
    category: str = Field(examples=["copyright"], description="`flagged`: by a rule")
    reason: str
    state: ReportState
    created_at: datetime
    reviewed_at: datetime | None = None


class ReportPage(Page[Report]):
    pass


class ReportedJob(Answer):
    """What a report is about, while it is there."""

    kind: Kind
    state: JobState
    input: dict[str, Any]
    rules: list[str] = Field(description="the rules that it met")
    withheld: bool


class Review(Report):
    """A report as an operator sees it."""

    owner_id: str | None = Field(default=None, description="whose job it is")
    reporter_id: str | None = Field(default=None, description="null: a rule")
    reviewed_by: str | None = None
    note: str | None = None
    refunded_tokens: Tokens | None = None
    job: ReportedJob | None = None


class ReviewPage(Page[Review]):
    pass


class BannerOrNot(Answer):
    banner: Banner | None


_ACTION = {"type": "string", "enum": [action.value for action in Action]}
_KINDS = {"type": "array", "items": {"enum": [kind.value for kind in Kind]}, "default": []}
_NOTE = {"type": "string", "maxLength": 500, "default": ""}
_BEHAVIOUR = {"action": _ACTION, "age_restricted": {"type": "boolean"}, "kinds": _KINDS, "note": _NOTE}
RULE_BODY = body(
    {
        "type": "object",
        "required": ["text", "action"],
        "additionalProperties": False,
        "properties": {
            "match": {"type": "string", "enum": [match.value for match in Match], "default": "words"},
            "text": {"type": "string", "minLength": 1, "maxLength": MAX_RULE_CHARS},
            **_BEHAVIOUR,
        },
    },
    {
        "words": {"text": "secret project", "action": "block"},
        "pattern": {"match": "pattern", "text": r"\bblood(y|bath)?\b", "action": "spoiler", "kinds": ["image"]},
        "adults": {"text": "lingerie", "action": "spoiler", "age_restricted": True},
    },
)
RULE_CHANGE_BODY = body(
    {"type": "object", "additionalProperties": False, "properties": _BEHAVIOUR},
    {"softer": {"action": "flag", "note": "too many innocent prompts"}},
)
_ID = {"type": "string", "maxLength": 64}
REPORT_BODY = body(
    {
        "type": "object",
        "required": ["reason"],
        "additionalProperties": False,
        "properties": {
            "job_id": _ID,
            "artifact_id": _ID,
            "shared_url": {"type": "string", "maxLength": 2048},
            "category": {
                "type": "string",
                "enum": [category.value for category in ReportCategory],
                "default": "other",
            },
            "reason": {"type": "string", "minLength": 1, "maxLength": 1000},
        },
    },
    {
        "shared": {
            "shared_url": "/v1/links/art_01k5h3v9m2f8e4x7q6t0c1b2a3?expires=1893456000&key=1&signature=…",
            "category": "copyright",
            "reason": "This is my photograph.",
        }
    },
)
REVIEW_BODY = {
    **body(
        {"type": "object", "additionalProperties": False, "properties": {"note": _NOTE}},
        {"note": {"note": "seen and agreed"}},
    ),
    "required": False,
}
BAN_BODY = body(
    {
        "type": "object",
        "required": ["reason"],
        "additionalProperties": False,
        "properties": {"reason": {"type": "string", "minLength": 1, "maxLength": 200}},
    },
    {"spam": {"reason": "resells free accounts"}},
)
BANNER_BODY = body(
    {
        "type": "object",
        "required": ["message"],
        "additionalProperties": False,
        "properties": {"message": {"type": "string", "minLength": 1, "maxLength": 300}},
    },
    {"maintenance": {"message": "Maintenance on Sunday from 02:00 to 03:00 UTC: jobs wait, none is lost."}},
)

"""What the API says of an operator's entries in the accounts of users, and of the record of what operators did.

Documentation only, like ``base.py``, of whose bases these are.
"""

from __future__ import annotations

from datetime import date, datetime
from typing import Any, Literal

from pydantic import Field

from tessera.api.schemas.base import Answer, Page, Tokens
from tessera.api.schemas.bodies import body


class AccountEntry(Answer):
    """An operator's entry in the ledger, and the use of its day after it."""

    user_id: str
    entry: Literal["grant", "adjustment"]
    tokens: Tokens = Field(
        description="of a grant: what is given; of an adjustment: what is charged, below 0 given back"
    )
    day: date
    reason: str
    used_tokens: Tokens = Field(description="below 0 where more was granted than used")
    daily_tokens: Tokens


class AuditEntry(Answer):
    id: int
    actor: str = Field(description="an operator, or system", examples=["user_01k5h3v9m2f8e4x7q6t0c1b2a3"])
    action: str = Field(examples=["set_plan"])
    subject: str = Field(description="the user, worker, … that it was done to")
    data: dict[str, Any]
    at: datetime


class AuditPage(Page[AuditEntry]):
    pass


_ENTRY: dict[str, dict[str, Any]] = {
    "tokens": {"type": "number", "minimum": -1_000_000, "maximum": 1_000_000, "description": "at most 3 decimals"},
    "reason": {"type": "string", "minLength": 1, "maxLength": 200},
}
GRANT_BODY = body(
    {
        "type": "object",
        "required": ["tokens", "reason"],
        "additionalProperties": False,
        "properties": {**_ENTRY, "tokens": {**_ENTRY["tokens"], "minimum": 0.001}},
    },
    {"sorry": {"tokens": 5, "reason": "the video of yesterday came out black"}},
)
ADJUST_BODY = body(
    {
        "type": "object",
        "required": ["tokens", "reason"],
        "additionalProperties": False,
        "properties": {
            **_ENTRY,
            "day": {"type": ["string", "null"], "format": "date", "description": "a UTC day, today without"},
        },
    },
    {"back": {"tokens": -2.5, "day": "2030-01-31", "reason": "charged for a wrong size"}},
)

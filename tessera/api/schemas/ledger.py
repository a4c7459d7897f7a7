"""What the API says of the ledger. Documentation only, like ``base.py``, of whose bases these are."""

from __future__ import annotations

from datetime import date, datetime
from typing import Literal

from pydantic import Field

from tessera.api.schemas.base import Answer, Page, Tokens


class LedgerEntry(Answer):
    """One booking. The sum of a day's amounts is what was used of that day's quota."""

    id: int = Field(examples=[4711])
    at: datetime
    day: date = Field(description="the UTC day whose quota it counts for: that of the hold, also for its refund")
    kind: str = Field(description="of the job; `account` for what belongs to no job", examples=["image"])
    entry: Literal["hold", "settlement", "refund", "grant", "adjustment"]
    amount_tokens: Tokens = Field(description="above 0 uses quota, below 0 gives it back", examples=[0.75])
    job_id: str | None = Field(default=None, examples=["job_01k5h3v9m2f8e4x7q6t0c1b2a3"])
    reason: str = Field(description="in words; often empty")


class LedgerPage(Page[LedgerEntry]):
    pass

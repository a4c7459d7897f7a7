"""What the API says of a quote. Documentation only, like ``base.py``, of whose bases these are."""

from __future__ import annotations

from datetime import datetime

from pydantic import Field

from tessera.api.schemas.base import Answer, Tokens
from tessera.jobs import Kind


class Refusal(Answer):
    """What a submission would be answered now; `code` and `detail` are those of its problem."""

    code: str = Field(examples=["quota_exhausted"])
    detail: str = Field(description="what it is and what to do; nothing was submitted or charged")
    retryable: bool
    retry_after_s: float | None = None


class Quote(Answer):
    """What a job would cost, and whether it would be accepted now. Nothing is held: it may be different later."""

    kind: Kind
    model: str = Field(examples=["preview-image"])
    cost_tokens: Tokens = Field(description="what it would hold", examples=[1])
    allowed: bool
    refusal: Refusal | None = None
    remaining_tokens_today: Tokens = Field(
        description="of today's quota, or of the daily cap of the API key where that is less", examples=[19.25]
    )
    resets_at: datetime = Field(description="when they start anew: midnight UTC")

"""What the API says of an operator's view of jobs and of exclusions. Documentation only, like ``schemas/base.py``."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import Field

from tessera.api.schemas.base import Answer, JobError, Page, Tokens
from tessera.api.schemas.bodies import body
from tessera.jobs import JobState, Kind, Tier


class OperatorJob(Answer):
    """A job without what it says."""

    id: str = Field(examples=["job_01k5h3v9m2f8e4x7q6t0c1b2a3"])
    user_id: str
    user_name: str
    kind: Kind
    model: str
    tier: Tier
    state: JobState
    cost_tokens: Tokens
    charged_tokens: Tokens | None = None
    attempt: int
    failures: int
    created_at: datetime
    worker: str | None = None
    queued_at: datetime | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    cancel_requested_at: datetime | None = None
    error: JobError | None = None


class OperatorJobPage(Page[OperatorJob]):
    pass


class JobActed(Answer):
    id: str
    state: Literal["queued", "cancelled", "failed"]
    refunded_tokens: Tokens | None = None


class ExclusionAnswer(Answer):
    """A model that is kept off a worker."""

    worker: str
    model: str
    until: datetime
    reason: str = Field(description="for the people who wait")
    actor: str
    since: datetime


class ExclusionPage(Page[ExclusionAnswer]):
    pass


class ExclusionEnded(Answer):
    worker: str
    model: str
    ended: bool = Field(description="false: there was none")


REASON_BODY = {
    **body(
        {
            "type": "object",
            "additionalProperties": False,
            "properties": {"reason": {"type": "string", "maxLength": 200, "default": ""}},
        },
        {"stuck": {"reason": "the fan of pc1 is being replaced"}},
    ),
    "required": False,
}
EXCLUSION_BODY = body(
    {
        "type": "object",
        "required": ["for_s"],
        "additionalProperties": False,
        "properties": {
            "for_s": {"type": "number", "minimum": 1, "maximum": 2_592_000},
            "reason": {"type": "string", "maxLength": 200, "default": ""},
        },
    },
    {"an_hour": {"for_s": 3600, "reason": "its file is being replaced"}},
)

"""What the API says of webhooks and their log. Documentation only, like ``schemas/base.py``."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import Field

from tessera.api.schemas.base import Answer, Page
from tessera.api.schemas.bodies import body
from tessera.deliveries import EVENT_TYPES, MAX_FAILED_IN_A_ROW

_SECRET = Field(examples=["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"], description="for a library of Standard Webhooks")


class Endpoint(Answer):
    id: str = Field(examples=["whe_01k5h3v9m2f8e4x7q6t0c1b2a3"])
    url: str = Field(examples=["https://example.org/tessera"])
    events: list[str]
    description: str
    created_at: datetime
    disabled: bool
    disabled_at: datetime | None = None
    disabled_reason: str | None = None
    failed_in_a_row: int = Field(
        description=f"deliveries given up since the last that arrived; {MAX_FAILED_IN_A_ROW} disable it"
    )


class NewEndpoint(Endpoint):
    secret: str = _SECRET


class EndpointPage(Page[Endpoint]):
    pass


class Secret(Answer):
    secret: str = _SECRET
    old_secret_until: datetime | None = Field(default=None, description="until then the one before signs, too")


class Delivery(Answer):
    """An event on its way to a webhook. `id` is the `webhook-id` of each of its tries."""

    id: str = Field(examples=["dlv_01k5h3v9m2f8e4x7q6t0c1b2a3"])
    event: str = Field(examples=["completed"])
    state: Literal["pending", "leased", "delivered", "failed"]
    tries: int = Field(description="since it was written, or replayed")
    created_at: datetime
    url: str | None = None
    endpoint_id: str | None = Field(default=None, description="absent: the job itself names the address")
    job_id: str | None = Field(default=None, description="absent: a test")
    job_seq: int | None = None
    next_try_at: datetime | None = None
    last_error: str | None = None
    ended_at: datetime | None = None


class Try(Answer):
    number: int
    at: datetime
    status: int | None = Field(default=None, description="absent: there was no answer")
    ms: int | None = None
    error: str | None = None
    answer: str | None = Field(default=None, description="its first 512 bytes")


class DeliveryWithLog(Delivery):
    log: list[Try]


class DeliveryPage(Page[Delivery]):
    pass


class AdminDelivery(Delivery):
    channel: Literal["webhook", "chat"]
    target: str = Field(description="the lane: an endpoint, or platform, bot and chat")
    user_id: str


class DeliveriesPause(Answer):
    reason: str
    actor: str
    since: datetime


class AdminDeliveryPage(Page[AdminDelivery]):
    paused: DeliveriesPause | None


class DeliveriesResumed(Answer):
    resumed: bool


class Replayed(Answer):
    id: str
    state: Literal["pending"]


_FIELDS: dict[str, Any] = {
    "url": {"type": "string", "maxLength": 2048},
    "events": {
        "type": ["array", "null"],
        "minItems": 1,
        "items": {"enum": list(EVENT_TYPES)},
        "description": "how jobs end, without",
    },
    "description": {"type": ["string", "null"], "maxLength": 200},
}
ENDPOINT_BODY = body(
    {"type": "object", "required": ["url"], "additionalProperties": False, "properties": _FIELDS},
    {"ends": {"url": "https://example.org/tessera", "events": ["completed", "failed"]}},
)
CHANGE_BODY = body(
    {
        "type": "object",
        "additionalProperties": False,
        "properties": {
            **_FIELDS,
            "url": {"type": ["string", "null"], "maxLength": 2048},
            "disabled": {"type": ["boolean", "null"]},
        },
    },
    {"again": {"disabled": False}},
)
ROTATE_BODY = {
    **body(
        {
            "type": "object",
            "additionalProperties": False,
            "properties": {
                "overlap_s": {"type": ["number", "null"], "minimum": 0, "maximum": 604_800, "default": 86_400}
            },
        },
        {"hour": {"overlap_s": 3600}},
    ),
    "required": False,
}
PAUSE_BODY = {
    **body(
        {
            "type": "object",
            "additionalProperties": False,
            "properties": {"reason": {"type": "string", "maxLength": 200, "default": ""}},
        },
        {"restored": {"reason": "restored the backup of the night"}},
    ),
    "required": False,
}

"""What the API says of deliveries, webhooks and the inbox. Documentation only, like ``schemas/base.py``."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from tessera.api.schemas.base import Answer, Event, Job
from tessera.api.schemas.bodies import body

STALE = "stale"  # of a lease that has ended: another one may have been given since

_BOT: dict[str, Any] = {
    "platform": {"type": "string", "maxLength": 32, "examples": ["telegram"]},
    "bot": {"type": "string", "maxLength": 64, "examples": ["painter-1"]},
}
_TOKEN: dict[str, Any] = {"type": "string", "format": "uuid"}
_LEASE: dict[str, Any] = {"id": {"type": "string"}, "lease_token": _TOKEN}
_LEASE_S: dict[str, Any] = {"type": ["number", "null"], "minimum": 5, "maximum": 900, "default": 60}
_RETRY: dict[str, Any] = {
    "error": {"type": ["string", "null"], "description": "its first 500 characters are kept"},
    "retry_after_s": {"type": ["number", "null"], "minimum": 0, "maximum": 86_400},
    "permanent": {"type": "boolean", "default": False},
}


def _object(required: list[str], properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "required": required, "additionalProperties": False, "properties": properties}


def _items(name: str, required: list[str], properties: dict[str, Any], **more: Any) -> dict[str, Any]:
    listed = {"type": "array", "minItems": 1, "maxItems": 100, "items": _object(required, properties)}
    return _object([*more, name], {**more, name: listed})


class ChatTarget(BaseModel):
    """The chat of a job, with whatever else its bot has stored there."""

    model_config = ConfigDict(extra="allow")

    platform: str = Field(examples=["telegram"])
    bot: str = Field(examples=["painter-1"])
    chat: str | int
    events: list[str]


class ClaimedChat(Answer):
    id: str = Field(examples=["dlv_01k5h3v9m2f8e4x7q6t0c1b2a3"])
    seq: int = Field(description="rises in the order of the events, of all chats together")
    lease_token: str
    lease_expires_at: datetime
    tries: int = Field(description="this one included: above 1 it may have been posted already")
    created_at: datetime
    event: Event
    job: Job = Field(description="as it is now")
    user_id: str
    delivery: ChatTarget


class ClaimedChats(Answer):
    data: list[ClaimedChat]
    paused: bool = Field(description="nothing is delivered at the moment, by the operator's will")


class SettledOne(Answer):
    id: str
    state: Literal["pending", "leased", "delivered", "failed", "stale"]


class Settled(Answer):
    data: list[SettledOne]


class StoredUpdate(Answer):
    update_id: str
    stored: bool = Field(description="false: it was known already")
    lease_token: str | None = None
    lease_expires_at: datetime | None = None


class Stored(Answer):
    data: list[StoredUpdate]


class ClaimedUpdate(Answer):
    update_id: str
    lease_token: str
    lease_expires_at: datetime
    lane: str
    data: dict[str, Any]
    tries: int
    received_at: datetime


class ClaimedUpdates(Answer):
    data: list[ClaimedUpdate]


class SettledUpdate(Answer):
    update_id: str
    state: Literal["pending", "done", "failed", "stale"]


class SettledUpdates(Answer):
    data: list[SettledUpdate]


CLAIM_BODY = body(
    _object(
        ["platform", "bot"],
        {
            **_BOT,
            "max": {"type": ["integer", "null"], "minimum": 1, "maximum": 100, "default": 20},
            "lease_s": _LEASE_S,
            "wait_s": {"type": ["number", "null"], "minimum": 0, "maximum": 30, "default": 0},
        },
    ),
    {"poll": {"platform": "telegram", "bot": "painter-1", "max": 20, "wait_s": 25}},
)
_LEASED = {"id": "dlv_01k5h3v9m2f8e4x7q6t0c1b2a3", "lease_token": "6f1d1c0e-5c3a-4d57-9f0e-2a7f8c5b9e01"}
ACK_BODY = body(
    _items("deliveries", ["id", "lease_token"], _LEASE),
    {"posted": {"deliveries": [_LEASED]}},
)
RELEASE_BODY = body(
    _items("deliveries", ["id", "lease_token"], {**_LEASE, **_RETRY}),
    {"flood": {"deliveries": [{**_LEASED, "retry_after_s": 12}]}},
)
EXTEND_BODY = body(
    _object(
        ["deliveries"],
        {
            **_items("deliveries", ["id", "lease_token"], {"id": {"type": "string"}, "lease_token": _TOKEN})[
                "properties"
            ],
            "lease_s": _LEASE_S,
        },
    ),
    {"longer": {"deliveries": [_LEASED], "lease_s": 120}},
)
TARGET_BODY = body(
    {"type": "object", "properties": {"message": {"type": ["string", "integer", "null"]}}},
    {"status_message": {"message": 4711}},
)
_UPDATE_ID: dict[str, Any] = {"type": ["string", "integer"]}
INBOX_BODY = body(
    _object(
        ["platform", "bot", "updates"],
        {
            **_BOT,
            "lease_s": _LEASE_S,
            "updates": {
                "type": "array",
                "minItems": 1,
                "maxItems": 100,
                "items": _object(
                    ["update_id", "data"],
                    {
                        "update_id": _UPDATE_ID,
                        "lane": {"type": ["string", "integer", "null"]},
                        "data": {"type": "object"},
                    },
                ),
            },
        },
    ),
    {
        "message": {
            "platform": "telegram",
            "bot": "painter-1",
            "lease_s": 60,
            "updates": [{"update_id": 17, "lane": "4242", "data": {"text": "/imagine a fox"}}],
        }
    },
)
_LEASED_UPDATE = {"update_id": "17", "lease_token": "6f1d1c0e-5c3a-4d57-9f0e-2a7f8c5b9e01"}
INBOX_ACK_BODY = body(
    _items("updates", ["update_id", "lease_token"], {"update_id": _UPDATE_ID, "lease_token": _TOKEN}, **_BOT),
    {"done": {"platform": "telegram", "bot": "painter-1", "updates": [_LEASED_UPDATE]}},
)
INBOX_RELEASE_BODY = body(
    _items("updates", ["update_id", "lease_token"], {"update_id": _UPDATE_ID, "lease_token": _TOKEN, **_RETRY}, **_BOT),
    {"later": {"platform": "telegram", "bot": "painter-1", "updates": [{**_LEASED_UPDATE, "retry_after_s": 5}]}},
)

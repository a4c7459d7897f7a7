"""What the API takes, for its description: bodies with examples, and the headers that many routes share."""

from __future__ import annotations

from typing import Any

from tessera.deliveries import EVENT_TYPES
from tessera.inputs import INPUTS
from tessera.jobs import Kind
from tessera.scopes import Scope


def body(schema: dict[str, Any], examples: dict[str, Any]) -> dict[str, Any]:
    """A JSON body for the description, with examples by name."""
    return {
        "required": True,
        "content": {
            "application/json": {
                "schema": schema,
                "examples": {name: {"value": value} for name, value in examples.items()},
            }
        },
    }


def input_schemas() -> dict[str, Any]:
    """The JSON Schemas of the six inputs, as components (``ImageInput`` …)."""
    found: dict[str, Any] = {}
    for model in INPUTS.values():
        schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
        found.update(schema.pop("$defs", {}))
        found[model.__name__] = schema
    return found


_TIME = {"type": ["string", "null"], "format": "date-time"}

SUBMISSION_BODY = body(
    {
        "type": "object",
        "required": ["kind", "input"],
        "additionalProperties": False,
        "properties": {
            "kind": {"type": "string", "enum": [kind.value for kind in Kind]},
            "model": {
                "type": "string",
                "description": "an id or alias from GET /v1/models; the kind's default without",
            },
            "input": {"oneOf": [{"$ref": f"#/components/schemas/{model.__name__}"} for model in INPUTS.values()]},
            "tier": {"type": "string", "enum": ["batch"], "description": "for work that may wait behind everybody's"},
            "metadata": {"type": "object", "description": "yours: returned as it is; at most 4 KiB"},
            "deadline": {**_TIME, "description": "not worth starting after this: then it expires, refunded"},
            "not_before": {**_TIME, "description": "wait until then; at most 30 days ahead"},
            "age_restricted": {
                "type": "boolean",
                "default": False,
                "description": "whether age-restricted content may be shown where this is asked for",
            },
            "webhook": {
                "description": "where this job's events are sent to (docs/webhooks.md): an address, or with the events",
                "oneOf": [
                    {"type": "string", "maxLength": 2048},
                    {
                        "type": "object",
                        "required": ["url"],
                        "additionalProperties": False,
                        "properties": {
                            "url": {"type": "string", "maxLength": 2048},
                            "events": {"type": "array", "minItems": 1, "items": {"enum": list(EVENT_TYPES)}},
                        },
                    },
                ],
            },
            "delivery": {
                "description": "the chat that it came from; for service keys only",
                "type": "object",
                "required": ["platform", "bot", "chat"],
                "properties": {
                    "platform": {"type": "string", "maxLength": 32},
                    "bot": {"type": "string", "maxLength": 64},
                    "chat": {"type": ["string", "integer"]},
                    "events": {"type": "array", "minItems": 1, "items": {"enum": list(EVENT_TYPES)}},
                },
            },
        },
    },
    {
        "image": {"kind": "image", "input": {"prompt": "a lighthouse in a storm, oil painting", "width": 1024}},
        "video": {"kind": "video", "input": {"prompt": "waves under a full moon", "duration_s": 2}},
        "text": {
            "kind": "text",
            "input": {"messages": [{"role": "user", "content": "Three things to see in Lisbon?"}]},
        },
        "transcription": {"kind": "transcription", "input": {"upload": "upl_01k5h3v9m2f8e4x7q6t0c1b2a3"}},
        "speech": {"kind": "speech", "input": {"text": "Good morning. The kettle is on.", "voice": "alloy"}},
        "music": {"kind": "music", "input": {"prompt": "a calm piano in the rain", "duration_s": 10}},
    },
)

UPLOAD_BODY = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["file"],
                "properties": {"file": {"type": "string", "format": "binary"}},
            }
        },
        "application/json": {
            "schema": {
                "type": "object",
                "required": ["url"],
                "additionalProperties": False,
                "properties": {"url": {"type": "string", "format": "uri", "maxLength": 2048}},
            },
            "examples": {"url": {"value": {"url": "https://example.org/lighthouse.jpg"}}},
        },
    },
}

_NAME = {"type": "string", "maxLength": 100}

KEY_BODY = body(
    {
        "type": "object",
        "required": ["name"],
        "additionalProperties": False,
        "properties": {
            "name": _NAME,
            "scopes": {"type": "array", "items": {"enum": [scope.value for scope in Scope]}, "default": ["jobs"]},
            "daily_cap_tokens": {"type": ["number", "null"], "minimum": 0},
            "expires_at": _TIME,
        },
    },
    {"script": {"name": "my script", "scopes": ["jobs"], "daily_cap_tokens": 20}},
)
KEY_NAME_BODY = body(
    {"type": "object", "required": ["name"], "additionalProperties": False, "properties": {"name": _NAME}},
    {"rename": {"name": "the old script"}},
)
USER_BODY = body(
    {
        "type": "object",
        "required": ["name"],
        "additionalProperties": False,
        "properties": {"name": _NAME, "plan": {"type": "string", "default": "free"}},
    },
    {"user": {"name": "ada", "plan": "pro"}},
)
USER_PLAN_BODY = body(
    {
        "type": "object",
        "required": ["plan"],
        "additionalProperties": False,
        "properties": {"plan": {"type": "string"}},
    },
    {"pro": {"plan": "pro"}},
)

DRAIN_BODY = body(
    {
        "type": "object",
        "required": ["for_s"],
        "additionalProperties": False,
        "properties": {
            "for_s": {"type": "number", "minimum": 1, "maximum": 2_592_000},
            "reason": {"type": "string", "maxLength": 200},
        },
    },
    {"two_hours": {"for_s": 7200, "reason": "games"}},
)

PAUSE_BODY = body(
    {
        "type": "object",
        "additionalProperties": False,
        "properties": {"message": {"type": "string", "maxLength": 200, "default": ""}},
    },
    {"cooling": {"message": "The fan is being replaced; pictures go on at about 15:00 UTC."}},
)

IDEMPOTENCY_KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "schema": {"type": "string", "minLength": 1, "maxLength": 255},
    "description": "any text of your own, new for each new job; the first answer is given again for 24 hours",
}
PREFER = {
    "name": "Prefer",
    "in": "header",
    "required": False,
    "schema": {"type": "string"},
    "example": "wait=30",
    "description": "wait so many seconds (at most 60) for the end",
}

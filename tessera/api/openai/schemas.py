"""OpenAI's answers and errors for the description of the API; the bodies are described by what reads them.

Like ``tessera/api/schemas/base.py`` these models document: answers are built as plain dicts.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from tessera.api.openai.bodies import Body
from tessera.api.schemas.bodies import IDEMPOTENCY_KEY

__all__ = ["IDEMPOTENCY_KEY"]


class _Answer(BaseModel):
    model_config = ConfigDict(extra="allow")


class OpenAIErrorBody(_Answer):
    """What went wrong. ``code`` is stable; ``refunded_tokens`` says what a failed job gave back."""

    message: str
    type: str
    param: str | None
    code: str | None
    request_id: str
    retry_after_s: float | None = None
    refunded_tokens: float | None = None
    job_id: str | None = None


class OpenAIError(_Answer):
    """OpenAI's envelope."""

    model_config = ConfigDict(
        extra="allow",
        json_schema_extra={
            "example": {
                "error": {
                    "message": "This job costs 1 tokens and 0.4 of today's 20 are left. Nothing was charged; they come"
                    " back at midnight UTC, and larger plans are at GET /v1/plans.",
                    "type": "insufficient_quota",
                    "param": None,
                    "code": "quota_exhausted",
                    "request_id": "req_01k0000000000000000000000c",
                }
            }
        },
    )

    error: OpenAIErrorBody


_MEANINGS = {
    400: "A parameter is wrong; `param` names it. Nothing was charged.",
    401: "No API key, or a wrong one.",
    402: "Today's tokens are used up (`quota_exhausted`): not tried again by OpenAI's clients.",
    403: "The API key may not do that.",
    404: "There is no such thing of yours, or no such model (`model_not_found`).",
    409: "It does not fit the present state.",
    413: "The body is larger than this route takes.",
    415: "The file is of a type that cannot be used here.",
    429: "Too many requests, or jobs in the queue. `Retry-After` says how long to wait.",
    500: "The job failed; its tokens are returned.",
    503: "Not at the moment. `Retry-After` says how long to wait.",
}


def errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The errors of a route, for its ``responses``."""
    return {status: {"model": OpenAIError, "description": _MEANINGS[status]} for status in statuses}


def answers(
    model: type[BaseModel], description: str, example: dict[str, Any], *, stream: bool = False
) -> dict[str, Any]:
    """The answer of a route, with an example; ``stream``: or server-sent events."""
    content: dict[str, Any] = {"application/json": {"example": example}}
    if stream:
        content["text/event-stream"] = {"schema": {"type": "string"}, "example": "data: {…}\n\ndata: [DONE]\n\n"}
    return {"model": model, "description": description, "content": content}


def bytes_of(description: str, *media_types: str) -> dict[str, Any]:
    """An answer that is a file."""
    schema = {"type": "string", "format": "binary"}
    return {"description": description, "content": {media_type: {"schema": schema} for media_type in media_types}}


_SAID = frozenset({"title", "description", "default", "examples"})
_SHAPES = frozenset({"type", "anyOf", "oneOf", "allOf", "enum", "const"})


def body(model: type[Body], examples: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """A JSON body."""
    schema = _schema(model)
    required = schema.get("required", ())
    # What may be left out may be null, too: OpenAI's own clients send it so.
    schema["properties"] = {
        name: field if name in required else _or_null(field) for name, field in schema["properties"].items()
    }
    content = {"schema": schema, "examples": {name: {"value": value} for name, value in examples.items()}}
    return {"required": True, "content": {"application/json": content}}


def _or_null(field: dict[str, Any]) -> dict[str, Any]:
    if {"type": "null"} in field.get("anyOf", ()) or None in field.get("enum", ()) or not field.keys() & _SHAPES:
        return field
    said = {name: value for name, value in field.items() if name in _SAID}
    return {"anyOf": [{name: value for name, value in field.items() if name not in _SAID}, {"type": "null"}], **said}


def form(model: type[Body], *files: str, required: tuple[str, ...] = ()) -> dict[str, Any]:
    """A multipart body with fields and files."""
    schema = _schema(model)
    for name in files:
        schema["properties"][name] = {"type": "string", "format": "binary"}
    schema["required"] = [*schema.get("required", []), *required]
    return {"required": True, "content": {"multipart/form-data": {"schema": schema}}}


def _schema(model: type[Body]) -> dict[str, Any]:
    """The JSON Schema of a body in one piece, with the fields that it knows by their only value or not at all."""
    schema = model.model_json_schema()
    found: dict[str, Any] = _inlined(schema, schema.pop("$defs", {}))
    for name, values in model.ONLY.items():
        found["properties"].setdefault(name, {"enum": [*values, None]})
    for name in model.IGNORED:
        found["properties"].setdefault(name, {"description": "taken, and without effect here"})
    found["additionalProperties"] = False
    return found


def _inlined(value: Any, definitions: dict[str, Any]) -> Any:
    if isinstance(value, dict):
        if "$ref" in value:
            return _inlined(definitions[value["$ref"].rpartition("/")[2]], definitions)
        return {name: _inlined(item, definitions) for name, item in value.items()}
    if isinstance(value, list):
        return [_inlined(item, definitions) for item in value]
    return value


# ------------------------------------------------------------------ texts


class Usage(_Answer):
    """Text tokens."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class ChatChoiceMessage(_Answer):
    role: Literal["assistant"]
    content: str


class ChatChoice(_Answer):
    index: int
    message: ChatChoiceMessage
    finish_reason: Literal["stop", "length"]


class ChatCompletion(_Answer):
    """The next message of a chat."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage


class CompletionChoice(_Answer):
    index: int
    text: str
    finish_reason: Literal["stop", "length"]


class Completion(_Answer):
    """A text."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage


_USAGE = {"prompt_tokens": 9, "completion_tokens": 12, "total_tokens": 21}
CHAT_EXAMPLE = {
    "id": "chatcmpl-01k0000000000000000000000c",
    "object": "chat.completion",
    "created": 1893456000,
    "model": "preview-text",
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "15% of 80 is 12.", "refusal": None, "annotations": []},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ],
    "usage": _USAGE,
    "system_fingerprint": "preview-text/1",
}
COMPLETION_EXAMPLE = {
    "id": "cmpl-01k0000000000000000000000c",
    "object": "text_completion",
    "created": 1893456000,
    "model": "preview-text",
    "choices": [{"index": 0, "text": "15% of 80 is 12.", "logprobs": None, "finish_reason": "stop"}],
    "usage": _USAGE,
}


# ------------------------------------------------------------------ models


class OpenAIModel(_Answer):
    """A model, by its own name or one of its aliases."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    kind: str


class OpenAIModelList(_Answer):
    object: Literal["list"]
    data: list[OpenAIModel]


MODEL_EXAMPLE = {
    "id": "gpt-4o-mini",
    "object": "model",
    "created": 1735689600,
    "owned_by": "tessera",
    "kind": "text",
    "root": "preview-text",
}


# ------------------------------------------------------------------ pictures


class ImageData(_Answer):
    """One picture, as Base64 or as an address."""

    b64_json: str | None = None
    url: str | None = None


class Images(_Answer):
    created: int
    data: list[ImageData]
    size: str
    output_format: Literal["png", "jpeg", "webp"]


IMAGES_EXAMPLE = {
    "created": 1893456000,
    "data": [{"b64_json": "iVBORw0KGgo…"}],
    "size": "1024x1024",
    "output_format": "png",
}


# ------------------------------------------------------------------ sounds


class DurationUsage(_Answer):
    type: Literal["duration"]
    seconds: int


class Transcript(_Answer):
    """With `verbose_json` also `task`, `language`, `duration`, `segments` and `words`."""

    text: str
    usage: DurationUsage


TRANSCRIPT_EXAMPLE = {"text": "The kettle is on.", "usage": {"type": "duration", "seconds": 3}}


# ------------------------------------------------------------------ clips


class Video(_Answer):
    """A clip on its way, or made. ``id`` is that of its job."""

    id: str
    object: Literal["video"]
    status: Literal["queued", "in_progress", "completed", "failed"]
    progress: int = Field(ge=0, le=100)
    model: str
    created_at: int
    completed_at: int | None
    seconds: str
    size: str
    error: dict[str, Any] | None


class VideoList(_Answer):
    object: Literal["list"]
    data: list[Video]
    first_id: str | None
    last_id: str | None
    has_more: bool


class DeletedVideo(_Answer):
    id: str
    object: Literal["video.deleted"]
    deleted: bool


VIDEO_EXAMPLE = {
    "id": "job_01k0000000000000000000000c",
    "object": "video",
    "status": "in_progress",
    "progress": 40,
    "model": "preview-video",
    "created_at": 1893456000,
    "completed_at": None,
    "expires_at": None,
    "seconds": "4",
    "size": "720x1280",
    "prompt": "waves under a full moon",
    "error": None,
}


# ------------------------------------------------------------------ files and batches


class OpenAIFile(_Answer):
    """A file of a batch: one that was sent in, or one that came out."""

    id: str
    object: Literal["file"]
    bytes: int
    created_at: int
    expires_at: int
    filename: str
    purpose: Literal["batch", "batch_output"]
    status: Literal["processed"]


class OpenAIFileList(_Answer):
    object: Literal["list"]
    data: list[OpenAIFile]
    has_more: bool


class DeletedFile(_Answer):
    id: str
    object: Literal["file"]
    deleted: bool


class OpenAIBatchCounts(_Answer):
    total: int
    completed: int
    failed: int


class OpenAIBatch(_Answer):
    """A batch. `pause` says why no line becomes a job at the moment: {reason, until}."""

    id: str
    object: Literal["batch"]
    endpoint: str
    status: Literal["in_progress", "finalizing", "completed", "failed", "expired", "cancelling", "cancelled"]
    input_file_id: str
    output_file_id: str | None
    error_file_id: str | None
    completion_window: str
    created_at: int
    expires_at: int
    request_counts: OpenAIBatchCounts


class OpenAIBatchList(_Answer):
    object: Literal["list"]
    data: list[OpenAIBatch]
    has_more: bool


FILE_EXAMPLE = {
    "id": "file_01k0000000000000000000000c",
    "object": "file",
    "bytes": 4096,
    "created_at": 1893456000,
    "expires_at": 1896048000,
    "filename": "prompts.jsonl",
    "purpose": "batch",
    "status": "processed",
    "status_details": None,
}
BATCH_EXAMPLE = {
    "id": "batch_01k0000000000000000000000c",
    "object": "batch",
    "endpoint": "/v1/chat/completions",
    "errors": None,
    "input_file_id": "file_01k0000000000000000000000c",
    "completion_window": "24h",
    "status": "in_progress",
    "output_file_id": None,
    "error_file_id": None,
    "created_at": 1893456000,
    "expires_at": 1893542400,
    "request_counts": {"total": 500, "completed": 113, "failed": 1},
    "metadata": None,
    "charged_tokens": 4.2,
}

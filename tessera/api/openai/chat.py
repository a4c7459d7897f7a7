"""``chat/completions``: https://platform.openai.com/docs/api-reference/chat"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal
from uuid import UUID

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from tessera.api.events.streams import EventStreamResponse
from tessera.api.jobs.answers import answer
from tessera.api.jobs.submissions import Wanted, read_object
from tessera.api.openai import schemas
from tessera.api.openai.runs import Asked, asked, headers_of, result_of, submission_of, submitted, wanted
from tessera.api.openai.texts import TextBody, finish_reason_of, public_id, streamed, usage_of
from tessera.jobs import Kind

router = APIRouter(tags=["openai"])

_ROLES = {"developer": "system"}


def _content(value: Any) -> Any:
    """A text, or the texts of its parts: no model here sees or hears what else there may be in a chat."""
    if not isinstance(value, list):
        return value
    texts = []
    for part in value:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind not in ("text", "input_text") or not isinstance(part.get("text"), str):
            shown = kind if isinstance(kind, str) else "this"
            raise ValueError(f"a part of type {shown[:40]!r} is not supported here: only 'text' is")
        texts.append(part["text"])
    return "\n".join(texts)


class ChatMessage(BaseModel):
    """One message. ``name`` and a refusal are not shown to the model."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    role: Annotated[
        Literal["system", "user", "assistant"],
        BeforeValidator(lambda role: _ROLES.get(role, role) if isinstance(role, str) else role),
    ]
    content: Annotated[str, BeforeValidator(_content)]
    name: str | None = None
    refusal: str | None = None
    annotations: Any = None
    audio: None = None
    tool_calls: None = None
    function_call: None = None


class ChatBody(TextBody):
    """A chat to be continued."""

    IGNORED: ClassVar[frozenset[str]] = TextBody.IGNORED | {
        "parallel_tool_calls", "reasoning_effort", "verbosity", "prompt_cache_retention", "prompt_cache_options",
        "moderation", "prediction",
    }  # fmt: skip
    ONLY: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        **TextBody.ONLY,
        "logprobs": (False,),
        "top_logprobs": (0,),
        "tools": ([],),
        "tool_choice": ("none", "auto"),
        "functions": ([],),
        "function_call": ("none", "auto"),
        "response_format": ({"type": "text"},),
        "modalities": (["text"],),
        "audio": (),
        "web_search_options": (),
    }

    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=1000)]
    max_completion_tokens: int | None = None

    @property
    def most_tokens(self) -> int:
        return super().most_tokens if self.max_completion_tokens is None else self.max_completion_tokens


def chat_wanted(body: Mapping[str, Any]) -> tuple[ChatBody, Wanted]:
    """What a body asks for. Raises InvalidInput."""
    read = ChatBody.read(body)
    messages = [{"role": message.role, "content": message.content} for message in read.messages]
    return read, wanted(Kind.TEXT, read.model, read.input(messages=messages), body, read.metadata)


@router.post(
    "/openai/v1/chat/completions",
    response_model=None,
    summary="Continue a chat",
    responses={
        200: schemas.answers(
            schemas.ChatCompletion,
            "The next message; with `stream` its pieces as they come.",
            schemas.CHAT_EXAMPLE,
            stream=True,
        ),
        **schemas.errors(400, 401, 402, 403, 404, 413, 429, 500, 503),
    },
    openapi_extra={
        "requestBody": schemas.body(
            ChatBody,
            {"chat": {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "What is 15% of 80?"}]}},
        ),
        "parameters": [schemas.IDEMPOTENCY_KEY],
    },
)
async def chat_completions(request: Request) -> Response:
    """A text job from messages. Who disconnects cancels it, and pays for what was made until then."""
    caller = await asked(request)
    body, wish = chat_wanted(read_object(await request.body()))
    submission = await submission_of(caller, wish)
    if body.stream:
        return await _stream(caller, body, submission)
    row = await result_of(caller, submission)
    return answer(chat_answer(row), headers=headers_of(row))


async def _stream(caller: Asked, body: ChatBody, submission: Any) -> Response:
    admitted = await submitted(caller, submission)
    include_usage = body.stream_options is not None and body.stream_options.include_usage
    created = int(admitted.admitted_at.timestamp())
    shape = _Chunks(admitted.job_id, submission.model, created, with_usage=include_usage)
    return EventStreamResponse(streamed(caller, submission, admitted, shape, include_usage=include_usage))


def chat_answer(row: Mapping[str, Any]) -> dict[str, Any]:
    """The answer of a completed job."""
    output = row["output"] or {}
    message: dict[str, Any] = {
        "role": "assistant",
        "content": output.get("text") or "",
        "refusal": None,
        "annotations": [],
    }
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": finish_reason_of(output)}
    return {
        "id": public_id("chatcmpl", row["id"]),
        "object": "chat.completion",
        "created": int(row["created_at"].timestamp()),
        "model": row["model"],
        "choices": [choice],
        "usage": usage_of(output),
        "system_fingerprint": output.get("engine"),
    }


class _Chunks:
    """``chat.completion.chunk``: the role first, then pieces of the content, then why it ends."""

    def __init__(self, job_id: UUID, model: str, created: int, *, with_usage: bool) -> None:
        self._head = {
            "id": public_id("chatcmpl", job_id),
            "object": "chat.completion.chunk",
            "created": created,
            "model": model,
        }
        self._tail: dict[str, Any] = {"usage": None} if with_usage else {}

    def first(self) -> dict[str, Any]:
        return self._chunk({"role": "assistant", "content": "", "refusal": None})

    def text(self, text: str) -> dict[str, Any]:
        return self._chunk({"content": text})

    def last(self, finish_reason: str) -> dict[str, Any]:
        return self._chunk({}, finish_reason)

    def usage(self, usage: Mapping[str, Any]) -> dict[str, Any]:
        return {**self._head, "choices": [], "usage": usage}

    def _chunk(self, delta: Mapping[str, Any], finish_reason: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        return {**self._head, "choices": [choice], **self._tail}

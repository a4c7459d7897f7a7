"""``completions``, the older shape without roles: https://platform.openai.com/docs/api-reference/completions"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar
from uuid import UUID

from fastapi import APIRouter, Request, Response
from pydantic import BeforeValidator

from tessera.api.events.streams import EventStreamResponse
from tessera.api.jobs.answers import answer
from tessera.api.jobs.submissions import Wanted, read_object
from tessera.api.openai import schemas
from tessera.api.openai.runs import asked, headers_of, result_of, submission_of, submitted, wanted
from tessera.api.openai.texts import TextBody, finish_reason_of, public_id, streamed, usage_of
from tessera.jobs import Kind

router = APIRouter(tags=["openai"])


def _prompt(value: Any) -> Any:
    if not isinstance(value, list):
        return value
    if len(value) == 1 and isinstance(value[0], str):
        return value[0]
    raise ValueError("must be one text: several prompts, or token numbers, are not supported here")


class CompletionBody(TextBody):
    """A text to be continued or answered."""

    ONLY: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        **TextBody.ONLY,
        "best_of": (1,),
        "echo": (False,),
        "logprobs": (0,),
        "suffix": ("",),
    }

    prompt: Annotated[str, BeforeValidator(_prompt)]


def completion_wanted(body: Mapping[str, Any]) -> tuple[CompletionBody, Wanted]:
    """What a body asks for. Raises InvalidInput."""
    read = CompletionBody.read(body)
    return read, wanted(Kind.TEXT, read.model, read.input(prompt=read.prompt), body, read.metadata)


@router.post(
    "/openai/v1/completions",
    response_model=None,
    summary="Complete a text",
    responses={
        200: schemas.answers(
            schemas.Completion,
            "The text; with `stream` its pieces as they come.",
            schemas.COMPLETION_EXAMPLE,
            stream=True,
        ),
        **schemas.errors(400, 401, 402, 403, 404, 413, 429, 500, 503),
    },
    openapi_extra={
        "requestBody": schemas.body(
            CompletionBody, {"prompt": {"model": "gpt-3.5-turbo-instruct", "prompt": "What is 15% of 80?"}}
        ),
        "parameters": [schemas.IDEMPOTENCY_KEY],
    },
)
async def completions(request: Request) -> Response:
    """A text job from one prompt. Who disconnects cancels it, and pays for what was made until then."""
    caller = await asked(request)
    body, wish = completion_wanted(read_object(await request.body()))
    submission = await submission_of(caller, wish)
    if not body.stream:
        row = await result_of(caller, submission)
        return answer(completion_answer(row), headers=headers_of(row))
    admitted = await submitted(caller, submission)
    include_usage = body.stream_options is not None and body.stream_options.include_usage
    created = int(admitted.admitted_at.timestamp())
    shape = _Chunks(admitted.job_id, submission.model, created, with_usage=include_usage)
    return EventStreamResponse(streamed(caller, submission, admitted, shape, include_usage=include_usage))


def completion_answer(row: Mapping[str, Any]) -> dict[str, Any]:
    """The answer of a completed job."""
    output = row["output"] or {}
    text, reason = output.get("text") or "", finish_reason_of(output)
    return {
        "id": public_id("cmpl", row["id"]),
        "object": "text_completion",
        "created": int(row["created_at"].timestamp()),
        "model": row["model"],
        "choices": [{"index": 0, "text": text, "logprobs": None, "finish_reason": reason}],
        "usage": usage_of(output),
        "system_fingerprint": output.get("engine"),
    }


class _Chunks:
    """``text_completion`` in pieces."""

    def __init__(self, job_id: UUID, model: str, created: int, *, with_usage: bool) -> None:
        self._head = {
            "id": public_id("cmpl", job_id),
            "object": "text_completion",
            "created": created,
            "model": model,
        }
        self._tail: dict[str, Any] = {"usage": None} if with_usage else {}

    def first(self) -> None:
        """There is nothing to say before the first text."""

    def text(self, text: str) -> dict[str, Any]:
        return self._chunk(text)

    def last(self, finish_reason: str) -> dict[str, Any]:
        return self._chunk("", finish_reason)

    def usage(self, usage: Mapping[str, Any]) -> dict[str, Any]:
        return {**self._head, "choices": [], "usage": usage}

    def _chunk(self, text: str, finish_reason: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "text": text, "logprobs": None, "finish_reason": finish_reason}
        return {**self._head, "choices": [choice], **self._tail}

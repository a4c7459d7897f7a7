"""What chat and plain completions have in common: their text job, and its text as a stream.

A stream gives the text while it is made. A run that is lost half-way is tried again with the same seed; the stream
goes on where the new text reaches the old one's end, and ends with an error where it turns out to be another text.
https://platform.openai.com/docs/api-reference/chat-streaming
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any, ClassVar, Protocol

from pydantic import BaseModel, ConfigDict, Field

from tessera.admission import Admitted, Submission
from tessera.api.events.feed import DurableEvent
from tessera.api.events.streams import HEARTBEAT, JobEvents
from tessera.api.jobs.answers import json_bytes
from tessera.api.openai.bodies import Body, Seed, Texts
from tessera.api.openai.errors import JobFailed, envelope
from tessera.api.openai.runs import Asked, cancel_soon, row_of
from tessera.errors import TesseraError, Unavailable
from tessera.ids import Prefix, show
from tessera.jobs import FINAL_EVENTS, EventType, JobState, Kind
from tessera.store.database import Row

DEFAULT_MAX_TOKENS = 1024  # (start) OpenAI has no limit; here the most is held, and what was not made given back
DONE = b"data: [DONE]\n\n"


class StreamOptions(BaseModel):
    """``include_usage``: a last chunk, without a choice, tells the text tokens used."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    include_usage: bool = False


class TextBody(Body):
    """The parameters that both have."""

    ONLY: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        "logit_bias": ({},),
        "n": (1,),
        "presence_penalty": (0,),
        "frequency_penalty": (0,),
    }

    model: str = Field(min_length=1, max_length=200)
    stream: bool = False
    stream_options: StreamOptions | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    stop: Texts = Field(default_factory=list, max_length=8)
    seed: Seed | None = None

    def input(self, **what: Any) -> dict[str, Any]:
        """The input of the text job."""
        data: dict[str, Any] = {**what, "max_tokens": self.most_tokens, "stop": [s for s in self.stop if s]}
        for name in ("temperature", "top_p", "seed"):
            value = getattr(self, name)
            if value is not None:
                data[name] = value
        return data

    @property
    def most_tokens(self) -> int:
        return DEFAULT_MAX_TOKENS if self.max_tokens is None else self.max_tokens


class Shape(Protocol):
    """How one of the two writes its chunks; each is the JSON of one ``data:`` line."""

    def first(self) -> dict[str, Any] | None: ...

    def text(self, text: str) -> dict[str, Any]: ...

    def last(self, finish_reason: str) -> dict[str, Any]: ...

    def usage(self, usage: Mapping[str, Any]) -> dict[str, Any]: ...


def public_id(prefix: str, job_id: Any) -> str:
    """The id of a completion: its job's, with OpenAI's prefix."""
    return f"{prefix}-{show(Prefix.JOB, job_id).partition('_')[2]}"


def usage_of(output: Mapping[str, Any]) -> dict[str, Any]:
    """The text tokens used."""
    found = output.get("usage") or {}
    prompt, completion = int(found.get("prompt_tokens") or 0), int(found.get("completion_tokens") or 0)
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def finish_reason_of(output: Mapping[str, Any]) -> str:
    """``length`` where the limit cut something off, else ``stop``."""
    return "length" if output.get("finish_reason") == "length" else "stop"


async def streamed(
    asked: Asked, submission: Submission, admitted: Admitted, shape: Shape, *, include_usage: bool
) -> AsyncGenerator[bytes]:
    """Server-sent events until ``[DONE]``, or until an error. Closed before its end it cancels the job."""
    services, job_id = asked.api.services, admitted.job_id
    begun = {"id": job_id, "state": JobState.QUEUED, "attempt": 0, "kind": Kind.TEXT}
    reader = JobEvents(services.db, services.feed, begun, after=0, heartbeat_s=services.heartbeat_s)
    joined = _Joined()
    over = opened = False
    try:
        async with aclosing(reader.events()) as events:
            async for event in events:
                if event is None:
                    first = shape.first() if not opened else None
                    yield HEARTBEAT if first is None else _data(first)
                    opened = True
                elif event.type == EventType.CHUNK:
                    new = joined.take(event.attempt, str(event.data["text"]))
                    if new:
                        yield _data(shape.text(new))
                elif isinstance(event, DurableEvent) and event.type in FINAL_EVENTS:
                    over = True
                    row = await row_of(asked, job_id)
                    for chunk in _end(row, shape, include_usage=include_usage):
                        yield chunk
        if not over:
            raise Unavailable(retry_after_s=1.0)
    except TesseraError as error:
        if not opened:
            raise
        yield _data(envelope(error, asked.request_id))
    finally:
        if not over and submission.idempotency_key is None:
            cancel_soon(asked.api, asked.caller.user_id, job_id)


def _end(row: Row, shape: Shape, *, include_usage: bool) -> list[bytes]:
    if row["state"] != JobState.COMPLETED:
        raise JobFailed(row)
    output = row["output"] or {}
    chunks = [_data(shape.last(finish_reason_of(output)))]
    if include_usage:
        chunks.append(_data(shape.usage(usage_of(output))))
    return [*chunks, DONE]


def _data(value: Mapping[str, Any]) -> bytes:
    return b"data: %s\n\n" % json_bytes(value)


class _Joined:
    """The text of several attempts as one: what a reader has is never taken back."""

    def __init__(self) -> None:
        self._sent = ""
        self._attempt = 0
        self._again = ""  # the text of an attempt that has not yet reached the end of what was sent

    def take(self, attempt: int, text: str) -> str:
        """What is new of a chunk. Raises Unavailable where a second attempt says something else."""
        if attempt != self._attempt:
            self._attempt, self._again = attempt, ""
        if len(self._again) >= len(self._sent):
            self._sent += text
            self._again += text
            return text
        self._again += text
        seen = min(len(self._again), len(self._sent))
        if self._again[:seen] != self._sent[:seen]:
            raise Unavailable(
                "The run was lost half-way, and the new one says something else than what was sent already. The job is"
                " cancelled, and what was not executed of it given back; send the request again.",
            )
        new = self._again[len(self._sent) :]
        self._sent += new
        return new

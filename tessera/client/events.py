"""A job's event stream: read, kept alive over broken lines, and put together without loss or repetition.

Server-sent events: https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass

import aiohttp
from pydantic import ValidationError

from tessera.client.errors import ApiError, BadAnswer, ClientError, ConnectionFailed
from tessera.client.models import Event, Job
from tessera.client.transport import NeverConnected, Transport, describe
from tessera.jobs import EventType

SILENCE_S = 45.0  # three heartbeats of 15 s missed: the line is dead, even if nobody said so
GIVE_UP_S = 300.0  # waiting without one sign of the server; a restart takes less than a minute
CERTAIN_AFTER = 3  # empty streams in a row of a finished job, before its final event counts as seen
MAX_EVENT_BYTES = 16 << 20  # a preview has tens of KiB; what never ends is not an event

_LINE_END = re.compile(rb"\r\n|\n|\r")


@dataclass(frozen=True)
class SseMessage:
    """One message of a stream, with the ``id`` that stood in it."""

    event: str
    data: str
    id: str | None


class SseParser:
    """Bytes in, messages out, wherever the chunks are cut."""

    def __init__(self) -> None:
        self._rest = b""
        self._event = ""
        self._data: list[str] = []
        self._id: str | None = None

    def feed(self, chunk: bytes) -> list[SseMessage]:
        """The messages that this chunk completes; comments (heartbeats) complete none. Raises ValueError."""
        text = self._rest + chunk
        # A carriage return at the very end may be the first half of a line end.
        held = b"\r" if text.endswith(b"\r") else b""
        *lines, rest = _LINE_END.split(text[: len(text) - len(held)])
        self._rest = rest + held
        if len(self._rest) > MAX_EVENT_BYTES:
            raise ValueError("a line without end")
        found = []
        for line in lines:
            message = self._line(line.decode("utf-8", errors="replace"))
            if message is not None:
                found.append(message)
        return found

    def _line(self, line: str) -> SseMessage | None:
        if not line:
            told = bool(self._data) or self._id is not None  # an id alone moves the place to go on from
            message = SseMessage(self._event, "\n".join(self._data), self._id) if told else None
            self._event, self._data, self._id = "", [], None
            return message
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "event":
            self._event = value
        elif name == "data":
            self._data.append(value)
        elif name == "id" and "\x00" not in value:
            self._id = value
        return None


def read_event(message: SseMessage) -> Event | None:
    """The job event in a message; None for one that is not ours to understand (a newer server may send more)."""
    try:
        event = Event.model_validate_json(message.data)
    except ValidationError:
        return None
    number = int(message.id) if message.id and message.id.isdigit() else None
    return event.model_copy(update={"id": number})


class TextSoFar:
    """Puts a text together from chunks: gives out only what is new, and forgets what a retry has voided."""

    def __init__(self) -> None:
        self.text = ""
        self._attempt = 0

    def feed(self, event: Event) -> str:
        """The new characters that this event brings, often none."""
        attempt = event.attempt or 0
        if attempt > self._attempt or event.is_retry:
            self._attempt = max(attempt, self._attempt)
            self.text = ""
        if event.type != EventType.CHUNK or attempt < self._attempt:
            return ""
        offset, text = event.data.get("offset"), event.data.get("text")
        if not isinstance(offset, int) or not isinstance(text, str) or not 0 <= offset <= len(self.text):
            return ""  # a gap: the text so far comes with the next connection, all of it at the end
        new = text[len(self.text) - offset :]
        self.text += new
        return new

    def finish(self, final: str) -> str | None:
        """What is still missing of the final text; None when what was given out is not its beginning."""
        return final[len(self.text) :] if final.startswith(self.text) else None


@dataclass(frozen=True, kw_only=True)
class Interruption:
    """The stream is broken and will be opened again in ``delay_s``. Nothing is lost: durable events are sent again."""

    why: str
    delay_s: float


class EventStream:
    """One job's events, from ``last_event_id`` (or the first) to the final one, over as many connections as it takes.

    With ``get_job`` None: those of all jobs, from ``last_event_id`` (or from now) on, without end.

    Durable events come exactly once and in order. Ends after the final event, or at once when ``last_event_id`` is that
    event. Raises ApiError when the server refuses (unknown job, wrong key), ConnectionFailed after ``give_up_s``
    without any sign of the server.
    """

    def __init__(
        self,
        transport: Transport,
        path: str,
        get_job: Callable[[], Awaitable[Job]] | None,
        *,
        last_event_id: int | None = None,
        on_interruption: Callable[[Interruption], None] | None = None,
        silence_s: float = SILENCE_S,
        give_up_s: float = GIVE_UP_S,
    ) -> None:
        self._transport = transport
        self._path = path
        self._get_job = get_job
        self._last = last_event_id
        self._on_interruption = on_interruption
        self._silence_s = silence_s
        self._give_up_s = give_up_s
        self._failures = 0
        self._waited_s = 0.0
        self._nothing_more = False

    async def events(self) -> AsyncGenerator[Event]:
        over = False  # the job was final before this connection was opened
        empty = 0  # connections in a row that had nothing durable although the job was final
        while True:
            durable = False
            delay_s: float | None = None
            try:
                async with aclosing(self._connection()) as connection:
                    async for event in connection:
                        if event.id is not None:
                            if self._last is not None and event.id <= self._last:
                                continue
                            self._last = event.id
                            durable = True
                        yield event
                        if event.is_final and self._get_job is not None:
                            return
                # The server ended the stream by itself: because it stops, or because the final event is the one that
                # we said to have. The second is certain only after it happened a few times.
                empty = empty + 1 if over and not durable else 0
                if self._nothing_more or empty >= CERTAIN_AFTER:
                    return
                over = self._get_job is not None and (await self._get_job()).is_final
                failure: ClientError = ConnectionFailed(self._transport.url, "the server ended the stream")
            except ApiError as error:
                if error.status < 500 and error.status != 429:
                    raise
                failure, delay_s = error, error.retry_after_s
            except NeverConnected as error:
                if not error.may_pass:
                    raise ConnectionFailed(self._transport.url, error.why) from error.__cause__
                failure = ConnectionFailed(self._transport.url, error.why)
            except ConnectionFailed as error:
                failure = error
            except (aiohttp.ClientError, TimeoutError, ConnectionError) as error:
                failure = ConnectionFailed(self._transport.url, describe(error))
            await self._pause(failure, delay_s)

    async def _pause(self, failure: ClientError, delay_s: float | None) -> None:
        self._failures += 1
        if delay_s is None:
            retry = self._transport.retry
            backoff = min(retry.cap_s, retry.base_s * 2 ** min(self._failures - 1, 10))
            delay_s = backoff * random.uniform(0.5, 1)  # noqa: S311 (spreads load, guards nothing)
        if self._waited_s + delay_s > self._give_up_s:
            raise failure
        self._waited_s += delay_s
        if self._on_interruption is not None and delay_s > 0:
            why = failure.why if isinstance(failure, ConnectionFailed) else failure.message
            self._on_interruption(Interruption(why=why, delay_s=delay_s))
        await asyncio.sleep(delay_s)

    async def _connection(self) -> AsyncGenerator[Event]:
        headers = {"Accept": "text/event-stream", "Cache-Control": "no-store"}
        if self._last is not None:
            headers["Last-Event-ID"] = str(self._last)
        async with self._transport.open("GET", self._path, headers=headers, read_timeout_s=self._silence_s) as response:
            if response.status == 204:  # the specification's way to say that nothing more will come
                self._nothing_more = True
                return
            if response.content_type != "text/event-stream":
                raise BadAnswer(f"{self._transport.url} answered with {response.content_type}, not with events.")
            parser = SseParser()
            async for chunk in response.content.iter_any():
                self._failures, self._waited_s = 0, 0.0  # heartbeats count: the server is there
                try:
                    messages = parser.feed(chunk)
                except ValueError as error:
                    raise BadAnswer(f"{self._transport.url} sent an event without end.") from error
                for message in messages:
                    if not message.data and self._last is None and message.id and message.id.isdigit():
                        self._last = int(message.id)
                    event = read_event(message)
                    if event is not None:
                        yield event

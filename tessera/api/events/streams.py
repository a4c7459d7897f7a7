"""One job's events as a stream: the past from Postgres, then what the feed brings, in order and without gaps."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing, suppress
from typing import Any
from uuid import UUID

import structlog
from fastapi import Response
from starlette.types import Receive, Scope, Send

from tessera.api.context import SCOPE_KEY
from tessera.api.events.feed import DurableEvent, Feed, FeedEvent, Subscription
from tessera.api.jobs.answers import event_data, is_public, sse
from tessera.errors import TesseraError
from tessera.ids import Prefix, show
from tessera.jobs import FINAL, FINAL_EVENTS, EventType, JobState, Kind
from tessera.ports import LiveEvent
from tessera.store.database import Database

log = structlog.get_logger(__name__)

RECONNECT_MS = 2000
HEARTBEAT = b": heartbeat\n\n"
_PLACE = -1  # the attempt of the feed's own 'queued' event: it has none


class JobEvents:
    """The state of one reader: what it has seen, so that nothing comes twice and nothing stale comes at all."""

    def __init__(self, db: Database, feed: Feed, job: Mapping[str, Any], *, after: int, heartbeat_s: float) -> None:
        self._db = db
        self._feed = feed
        self._job_id: UUID = job["id"]
        self._public_id = show(Prefix.JOB, job["id"])
        self._heartbeat_s = heartbeat_s
        self._last = after
        self._attempt: int = job["attempt"]
        self._running = job["state"] == JobState.RUNNING
        self._over = job["state"] in FINAL
        self._is_text = job["kind"] == Kind.TEXT
        self._text_end = 0

    async def messages(self) -> AsyncGenerator[bytes]:
        """Server-sent events until the final one. Raises Unavailable before the first, and never after it."""
        opened = False
        async with aclosing(self.events()) as events:
            async for event in events:
                if event is not None:
                    yield self._message(event)
                elif opened:
                    yield HEARTBEAT
                else:
                    opened = True
                    yield b"retry: %d\n\n" % RECONNECT_MS

    async def events(self) -> AsyncGenerator[FeedEvent | None]:
        """The events until the final one. The first item is None: the stream is open; a later one is a heartbeat.

        Raises Unavailable before the first, and never after it. The end without a final event means that the replica
        stops, or that Postgres is away: read the job again.
        """
        async with self._feed.subscribe(self._job_id) as subscription:
            was_over = self._over
            past = await self._past()
            yield None
            try:
                for event in past:
                    async for told in self._tell(event):
                        yield told
                if was_over or self._over:
                    return
                if self._running:
                    async for told in self._so_far():
                        yield told
                async for news in self._live(subscription):
                    yield news
            except TesseraError as error:
                # The client comes back with its Last-Event-ID; by then Postgres may be there again.
                log.info("event_stream_broken", code=error.code)

    async def _live(self, subscription: Subscription) -> AsyncGenerator[FeedEvent | None]:
        while not self._over:
            subscription.waiting = not self._running
            came = await subscription.next(self._heartbeat_s)
            if subscription.lagging:
                subscription.lagging = False
                for missed in await self._past():
                    async for told in self._tell(missed):
                        yield told
            if came is None:
                if subscription.closed:
                    return
                yield None
            elif isinstance(came, DurableEvent):
                if came.job_seq > self._last + 1:
                    for missed in await self._past():
                        async for told in self._tell(missed):
                            yield told
                elif came.job_seq == self._last + 1:
                    async for told in self._tell(came):
                        yield told
            else:
                if came.attempt > self._attempt or (came.attempt == self._attempt and not self._running):
                    # The scheduler's word was faster than the tail: its claim is committed, so it can be read.
                    for missed in await self._past():
                        async for told in self._tell(missed):
                            yield told
                async for told in self._ephemeral(came):
                    yield told

    async def _past(self) -> list[DurableEvent]:
        rows = await self._db.rows("events_of_job", job_id=self._job_id, after=self._last)
        return [DurableEvent.of(row) for row in rows if is_public(row)]

    async def _tell(self, event: DurableEvent) -> AsyncGenerator[FeedEvent]:
        """A durable event; before the end of a text, what was not streamed of it: chunks travel another way, and the
        last of them may be slower than the commit."""
        if event.type == EventType.COMPLETED and self._is_text:
            found = await self._db.row("text_of_job", job_id=self._job_id)
            text = (found or {}).get("text") or ""
            if len(text) > self._text_end:
                data = {"offset": self._text_end, "text": text[self._text_end :]}
                self._text_end = len(text)
                yield LiveEvent(
                    job_id=self._job_id, attempt=event.attempt, type=EventType.CHUNK, at=event.at, data=data
                )
        self._note(event)
        yield event

    def _note(self, event: DurableEvent) -> None:
        self._last = event.job_seq
        self._attempt = event.attempt
        self._running = event.type in (EventType.STARTED, EventType.OUTPUT)
        self._over = event.type in FINAL_EVENTS
        if event.type in (EventType.STARTED, EventType.QUEUED):
            self._text_end = 0

    async def _ephemeral(self, event: LiveEvent) -> AsyncGenerator[FeedEvent]:
        if event.attempt == _PLACE:
            if not self._running and not self._over:
                yield event
        elif event.attempt == self._attempt and self._running:
            if event.type == EventType.CHUNK and event.data["offset"] > self._text_end:
                async for told in self._so_far():  # a gap: chunks were dropped on the way
                    yield told
            else:
                shown = self._fresh(event)
                if shown is not None:
                    yield shown

    async def _so_far(self) -> AsyncGenerator[FeedEvent]:
        for event in await self._feed.so_far(self._job_id):
            if event.attempt == self._attempt:
                shown = self._fresh(event)
                if shown is not None:
                    yield shown

    def _fresh(self, event: LiveEvent) -> LiveEvent | None:
        """The event without the text that was sent already; None for a chunk with nothing new or after a gap."""
        if event.type != EventType.CHUNK:
            return event
        offset, text = event.data["offset"], event.data["text"]
        if not offset <= self._text_end < offset + len(text):
            return None
        new = text[self._text_end - offset :]
        data = {"offset": self._text_end, "text": new}
        self._text_end += len(new)
        return LiveEvent(job_id=event.job_id, attempt=event.attempt, type=event.type, at=event.at, data=data)

    def _message(self, event: FeedEvent) -> bytes:
        if isinstance(event, DurableEvent):
            return sse(
                job_id=self._public_id,
                event_type=event.type,
                at=event.at,
                attempt=event.attempt,
                data=event_data(event.type, event.data),
                event_id=event.job_seq,
            )
        attempt = self._attempt if event.attempt == _PLACE else event.attempt
        return sse(job_id=self._public_id, event_type=event.type, at=event.at, attempt=attempt, data=event.data)


async def wait_for_end(subscription: Subscription, timeout_s: float) -> bool:
    """Whether the job has ended within the time. The subscription was made before the job could end."""
    loop = asyncio.get_running_loop()
    until = loop.time() + timeout_s
    while (left_s := until - loop.time()) > 0 and not subscription.closed:
        event: FeedEvent | None = await subscription.next(left_s)
        if isinstance(event, DurableEvent) and event.type in FINAL_EVENTS:
            return True
        if subscription.lagging:
            return False
    return False


class EventStreamResponse(Response):
    """Sends the messages of a generator as they come, and closes it when the client leaves or the end is reached."""

    media_type = "text/event-stream"

    def __init__(self, messages: AsyncGenerator[bytes]) -> None:
        super().__init__(headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._messages = messages

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self._messages) as messages:
            first = await anext(messages)  # what fails here is still answered as a problem
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            if scope[SCOPE_KEY].head:
                await send({"type": "http.response.body", "body": b""})
                return

            async def pump() -> None:
                await send({"type": "http.response.body", "body": first, "more_body": True})
                async for message in messages:
                    await send({"type": "http.response.body", "body": message, "more_body": True})
                await send({"type": "http.response.body", "body": b""})

            pumping = asyncio.create_task(pump())
            leaving = asyncio.create_task(left(receive))
            try:
                await asyncio.wait((pumping, leaving), return_when=asyncio.FIRST_COMPLETED)
            finally:
                leaving.cancel()
                if not pumping.done():
                    pumping.cancel()
                with suppress(asyncio.CancelledError, OSError):
                    await pumping


async def left(receive: Receive) -> None:
    """Returns when the client has gone away. The body has to be read before."""
    while (await receive())["type"] != "http.disconnect":
        pass

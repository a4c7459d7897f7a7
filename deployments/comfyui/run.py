"""Follows one prompt on a server from its first sign to its end.

The truth is what queue and history say, asked every second; the socket only makes progress and previews visible, and
tells when to look sooner. It may be silently dead, or be gone for a while: the run goes on, and is found again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

import aiohttp
import structlog

from deployments.comfyui.client import BadAnswer, ComfyClient, Found, PromptState, ServerAway
from deployments.comfyui.outputs import small_preview
from deployments.comfyui.progress import ProgressTracker, preview_of
from tessera.engine import Preview, Progress
from tessera.errors import Busy, Lost, Stuck

log = structlog.get_logger(__name__)

Answer = TypeVar("Answer")
GOING = (PromptState.PENDING, PromptState.RUNNING)


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How often is asked and how long is waited, in seconds (start)."""

    poll_s: float = 1.0
    preview_s: float = 0.5
    away_s: float = 30.0  # a server that cannot be reached for so long has lost what it ran, or it cannot be told
    queue_s: float = 60.0  # behind prompts that somebody else has queued
    dead_s: float = 30.0  # a prompt waits and nothing runs: the server's worker thread is dead
    silent_s: float = 600.0  # a step of a large video model takes a minute, its decoding several
    socket_s: float = 2.0  # for the socket, before a prompt is sent without it
    download_bytes: int = 512 << 20


class Cancelled(Exception):
    """The run was cancelled while something was waited for."""


async def unless(cancelled: asyncio.Event, work: Coroutine[Any, Any, Answer]) -> Answer:
    """What ``work`` gives, or Cancelled as soon as that event is set; then ``work`` is ended."""
    task = asyncio.ensure_future(work)
    stop = asyncio.ensure_future(cancelled.wait())
    try:
        await asyncio.wait({task, stop}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise Cancelled
    finally:
        for each in (task, stop):
            if not each.done():
                each.cancel()
                with suppress(asyncio.CancelledError, Exception):
                    await each


class PromptRun:
    """One prompt, followed. Use it as a context, then read ``follow``; afterwards ``found`` is how it ended."""

    def __init__(
        self,
        client: ComfyClient,
        prompt_id: str,
        tracker: ProgressTracker,
        cancelled: asyncio.Event,
        patience: Patience,
    ) -> None:
        self._client = client
        self._id = prompt_id
        self._tracker = tracker
        self._cancelled = cancelled
        self._patience = patience
        self._news = asyncio.Event()
        self._connected = asyncio.Event()
        self._preview: tuple[str, bytes] | None = None
        self._preview_at = 0.0
        self._listener: asyncio.Task[None] | None = None
        self.running = False
        self.found = Found(state=PromptState.ABSENT)

    async def __aenter__(self) -> PromptRun:
        """Connect the socket, so that not even the first events are missed; go on without it after a while."""
        self._listener = asyncio.create_task(self._listen(), name=f"socket-{self._id}")
        with suppress(TimeoutError):
            async with asyncio.timeout(self._patience.socket_s):
                await self._connected.wait()
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._listener is not None:
            self._listener.cancel()
            await asyncio.gather(self._listener, return_exceptions=True)

    async def follow(self) -> AsyncGenerator[Progress | Preview, None]:
        """Progress and previews until the prompt has ended. At least one Progress a poll: the sign of life of a run.

        Raises Lost, Stuck, Busy (it waited for too long behind others, and must be deleted), or Cancelled.
        """
        began = heard_at = time.monotonic()
        waiting_since: float | None = None  # with nothing running
        away_since: float | None = None
        heard, absent = -1, 0
        while True:
            try:
                found = await unless(self._cancelled, self._client.find(self._id))
            except (ServerAway, BadAnswer) as error:
                now = time.monotonic()
                away_since = away_since or now
                is_late = isinstance(error, ServerAway) and error.is_late
                if now - away_since > (self._patience.silent_s if is_late else self._patience.away_s):
                    log.warning("comfyui_away", prompt_id=self._id, why=str(error), url=self._client.url)
                    raise Lost(
                        "The image server stopped answering while it worked. Nothing was charged; the job is started "
                        "anew."
                    ) from error
                yield self._progress("waiting for the image server")
                await self._wait(self._patience.poll_s)
                continue
            now, away_since = time.monotonic(), None
            absent = absent + 1 if found.state is PromptState.ABSENT else 0
            match found.state:
                case PromptState.ABSENT:
                    if absent > 1:
                        raise Lost("The image server no longer knows the run: it was restarted. It is started anew.")
                    await self._wait(min(0.2, self._patience.poll_s))
                    continue
                case PromptState.PENDING:
                    waiting_since = (waiting_since or now) if found.idle else None
                    if waiting_since is not None and now - waiting_since > self._patience.dead_s:
                        raise Stuck(
                            "The image server takes jobs and begins none: it has to be restarted. Nothing was charged."
                        )
                    if now - began > self._patience.queue_s and not found.idle:
                        raise Busy("The image server works for somebody else. The job keeps its place.")
                    heard_at = now
                    yield self._progress("waiting for the image server to be free")
                case PromptState.RUNNING:
                    self.running = True
                    if self._tracker.heard != heard:
                        heard, heard_at = self._tracker.heard, now
                    elif now - heard_at > self._patience.silent_s:
                        raise Stuck()
                    yield self._progress()
                case _:
                    self.found = found
                    return
            async for event in self._until_next_look():
                yield event

    async def _until_next_look(self) -> AsyncIterator[Progress | Preview]:
        """What the socket brings until it is time to ask again: after a poll's time, or at the prompt's end."""
        until = time.monotonic() + self._patience.poll_s
        while (left := until - time.monotonic()) > 0 and not self._tracker.ended:
            self._news.clear()
            before = self._tracker.told
            await self._wait(left)
            if self._tracker.told != before:
                yield self._progress()
            preview = await self._next_preview()
            if preview is not None:
                yield preview
        # Asked once more because of what the socket has said; after that each poll takes its time again.
        self._tracker.ended = False

    async def _wait(self, seconds: float) -> None:
        """Until news, a cancel, or that time. Raises Cancelled."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await unless(self._cancelled, self._news.wait())
        if self._cancelled.is_set():
            raise Cancelled

    def _progress(self, note: str | None = None) -> Progress:
        told = self._tracker.told
        return Progress(fraction=told.fraction, note=note or told.note)

    async def _next_preview(self) -> Preview | None:
        now = time.monotonic()
        if self._preview is None or now - self._preview_at < self._patience.preview_s:
            return None
        (media_type, data), self._preview, self._preview_at = self._preview, None, now
        small = await asyncio.to_thread(small_preview, data, media_type)
        return Preview(media_type=small[0], data=small[1]) if small is not None else None

    async def _listen(self) -> None:
        """Hold a socket for as long as the run is followed; connect it again whenever it breaks."""
        pause_s = 0.2
        while True:
            try:
                async with self._client.socket(self._id) as socket:
                    self._connected.set()
                    pause_s = 0.2
                    async for message in socket:
                        self._take(message)
            except ServerAway:
                pass  # the poll finds out what it means
            except Exception:
                log.exception("comfyui_socket_broke", prompt_id=self._id)  # progress is missing, the run is not
            self._news.set()  # a socket that breaks is a reason to look
            await asyncio.sleep(pause_s)
            pause_s = min(5.0, pause_s * 2)

    def _take(self, message: aiohttp.WSMessage) -> None:
        if message.type is aiohttp.WSMsgType.TEXT:
            self._tracker.take(message.data)
        elif message.type is aiohttp.WSMsgType.BINARY:
            found = preview_of(message.data, self._id)
            if found is None:
                return
            self._preview = found
        else:
            return
        self._news.set()

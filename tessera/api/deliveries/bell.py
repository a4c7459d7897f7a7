"""Wakes who waits for deliveries: one connection of a replica listens, and rings by name.

A name is a lane of webhooks, a bot ("telegram:painter"), or a bot's inbox ("inbox:telegram:painter"). A ring only
shortens a wait: whoever waits looks by itself every POLL_S, so a ring that is lost loses nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator

import asyncpg
import structlog

from tessera.errors import Unavailable
from tessera.store.database import connect, is_outage
from tessera.store.queries import load

log = structlog.get_logger(__name__)

CHANNEL = "tessera_deliveries"
POLL_S = 2.0
CHECK_S = 30.0  # an idle connection that has died is noticed within this time
BACKOFF_S = (0.2, 5.0)


class Bell:
    """The listener of one replica. ``start`` it in the running loop, ``close`` it at the end."""

    def __init__(self, dsn: str, *, check_s: float = CHECK_S) -> None:
        self._dsn = dsn
        self._check_s = check_s
        self.connections = 0  # made so far
        self._waiting: dict[str, list[asyncio.Event]] = {}
        self._everything: list[Callable[[str | None], None]] = []
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to listen."""
        self._task = asyncio.create_task(self._listen(), name="bell")

    async def close(self) -> None:
        """Stop. Safe to repeat."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    @contextlib.contextmanager
    def waiting(self, name: str) -> Iterator[asyncio.Event]:
        """An event that each ring of the name sets; who waits clears it before looking."""
        event = asyncio.Event()
        self._waiting.setdefault(name, []).append(event)
        try:
            yield event
        finally:
            self._waiting[name].remove(event)
            if not self._waiting[name]:
                del self._waiting[name]

    def on_every_ring(self, called: Callable[[str | None], None]) -> None:
        """Call this with each name that is rung, with None when rings may have been missed."""
        self._everything.append(called)

    def _ring(self, name: str) -> None:
        for event in self._waiting.get(name, ()):
            event.set()
        for called in self._everything:
            called(name)

    def _ring_all(self) -> None:
        for events in self._waiting.values():
            for event in events:
                event.set()
        for called in self._everything:
            called(None)

    async def _listen(self) -> None:
        delay_s = BACKOFF_S[0]
        while True:
            connection: asyncpg.Connection | None = None
            try:
                connection = await connect(self._dsn, name="tessera-bell")
                await connection.add_listener(CHANNEL, lambda *heard: self._ring(str(heard[3])))
                self.connections += 1
                self._ring_all()
                while True:
                    await asyncio.sleep(self._check_s)
                    await connection.fetchval(load()["ping"].positional)
                    delay_s = BACKOFF_S[0]
            except Exception as error:
                outage = isinstance(error, Unavailable) or is_outage(error)
                log.warning("bell_broken", error=type(error).__name__, exc_info=not outage)
            finally:
                if connection is not None:
                    connection.terminate()
            await asyncio.sleep(delay_s)
            delay_s = min(BACKOFF_S[1], delay_s * 2)

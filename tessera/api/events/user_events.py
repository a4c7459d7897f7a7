"""The durable events of all of a user's jobs as one stream, which begins anywhere and never ends by itself."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from uuid import UUID

import structlog

from tessera.api.events.feed import Feed
from tessera.api.events.streams import HEARTBEAT, RECONNECT_MS
from tessera.api.jobs.answers import event_data, is_public, sse
from tessera.errors import TesseraError
from tessera.ids import Prefix, show
from tessera.store.database import Database

log = structlog.get_logger(__name__)

PAGE = 200  # events read at once: some 100 KiB
GATHER_S = 0.02  # at most 50 reads a second for one stream, however fast its jobs go


class UserEvents:
    """The state of one reader: its place in the feed.

    ``after``: the last event that it has seen, None to begin now. ``check`` raises when the key is good no more: this
    stream has no end by which that would show.
    """

    def __init__(
        self,
        db: Database,
        feed: Feed,
        user_id: UUID,
        *,
        after: int | None,
        heartbeat_s: float,
        check: Callable[[], Awaitable[object]],
    ) -> None:
        self._db = db
        self._feed = feed
        self._user_id = user_id
        self._after = after
        self._heartbeat_s = heartbeat_s
        self._check = check

    async def messages(self) -> AsyncGenerator[bytes]:
        """Server-sent events. Raises Unavailable before the first, and never after it."""
        async with self._feed.follow(self._user_id) as subscription:
            newest = await self._db.row("newest_seq")
            assert newest is not None
            # A number that was never given, such as one from before a restore, would wait for the feed to reach it.
            last: int = newest["seq"] if self._after is None else min(self._after, newest["seq"])
            # An id without data is no event, but who breaks off before the first one can go on from here.
            yield b"retry: %d\nid: %d\n\n" % (RECONNECT_MS, last)
            try:
                while not subscription.closed:
                    subscription.begin()
                    rows = await self._db.rows("events_of_user", user_id=self._user_id, after=last, limit=PAGE)
                    for row in rows:
                        last = row["seq"]
                        if is_public(row):
                            yield sse(
                                job_id=show(Prefix.JOB, row["job_id"]),
                                event_type=row["type"],
                                at=row["created_at"],
                                attempt=row["attempt"],
                                data=event_data(row["type"], row["data"]),
                                event_id=last,
                            )
                    if len(rows) < PAGE and not await subscription.wait(self._heartbeat_s):
                        yield HEARTBEAT
                    await asyncio.sleep(GATHER_S)
                    await self._check()
            except TesseraError as error:
                # The client comes back with its Last-Event-ID, and is told what is wrong with its key, if it is that.
                log.info("event_stream_broken", code=error.code)

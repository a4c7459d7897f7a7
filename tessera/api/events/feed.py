"""One tail per replica over what happens to all jobs, fanned out to whoever follows one of them, or all of one user's.

Durable events come from ``job_events`` on one held connection (LISTEN shortens the wait, a poll each second is the
guarantee), ephemeral ones from one subscription to the scheduler. However many streams are open, Postgres and the
scheduler see one reader. A slow reader loses ephemeral events first; durable ones it reads again from Postgres.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import asyncpg
import structlog

from tessera.api.jobs.answers import place_data
from tessera.errors import Unavailable
from tessera.jobs import EventType
from tessera.ports import LiveEvent, Place, SchedulerPort
from tessera.store.database import RETRY_AFTER_S, connect, is_outage
from tessera.store.queries import load

log = structlog.get_logger(__name__)

CHANNEL = "tessera_feed"
ACCOUNT = "account "  # what a notification about an account begins with; its user follows
POLL_S = 1.0
# At most 200 reads a second, however fast the notifications come; the first of a burst waits for nothing. With 20 ms a
# single job took 25 ms from submit to its completed event, most of it this wait.
GATHER_S = 0.005
PLACES_EVERY_S = 1.0
PLACES_TIMEOUT_S = 0.8
SILENCE_S = 15.0  # three heartbeats of the scheduler's subscription missed
BACKOFF_S = (0.2, 5.0)
MAX_PENDING = 256  # events that one reader may be behind
_LATEST_WINS = frozenset({EventType.PROGRESS, EventType.PREVIEW, EventType.QUEUED})


@dataclass(frozen=True, kw_only=True, slots=True)
class DurableEvent:
    """A row of job_events. ``job_seq`` counts the job's public events from 1 without gaps."""

    job_id: UUID
    job_seq: int
    type: str
    attempt: int
    at: datetime
    data: Mapping[str, Any]

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> DurableEvent:
        """The event in a row."""
        return cls(
            job_id=row["job_id"],
            job_seq=row["job_seq"],
            type=row["type"],
            attempt=row["attempt"],
            at=row["created_at"],
            data=row["data"],
        )


FeedEvent = DurableEvent | LiveEvent


class Subscription:
    """One reader of one job's events: ``async with feed.subscribe(job_id) as subscription``.

    ``waiting`` is set by the reader while the job is queued: then its position comes too, as an ephemeral ``queued``.
    ``lagging`` says that durable events were dropped and have to be read from Postgres; the reader clears it.
    """

    def __init__(self, job_id: UUID) -> None:
        self.job_id = job_id
        self.waiting = False
        self.lagging = False
        self.closed = False
        self.place: Place | None = None
        self._pending: deque[FeedEvent] = deque()
        self._filled = asyncio.Event()

    def push(self, event: FeedEvent) -> bool:
        """Hand over an event; False when the reader is too slow and something was dropped."""
        kept = True
        if isinstance(event, LiveEvent) and event.type in _LATEST_WINS:
            for old in self._pending:
                if isinstance(old, LiveEvent) and old.type == event.type:
                    self._pending.remove(old)
                    break
        if len(self._pending) >= MAX_PENDING:
            kept = False
            self._pending = deque(item for item in self._pending if isinstance(item, DurableEvent))
            if len(self._pending) >= MAX_PENDING:
                self._pending.clear()
                self.lagging = True
        self._pending.append(event)
        self._filled.set()
        return kept

    def close(self) -> None:
        """End the reader: the replica stops."""
        self.closed = True
        self._filled.set()

    async def next(self, timeout_s: float) -> FeedEvent | None:
        """The next event, or None when there was none for so long, or when the feed is closed."""
        if not self._pending and not self.closed:
            self._filled.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    await self._filled.wait()
        return self._pending.popleft() if self._pending else None


class UserSubscription:
    """One reader of all of a user's jobs: told that there is something to read, and not what.

    It reads Postgres by itself, from its own place on, so however slow it is it loses nothing.
    """

    def __init__(self) -> None:
        self.closed = False
        self._woken = asyncio.Event()

    def wake(self) -> None:
        """Something of the user's was committed."""
        self._woken.set()

    def close(self) -> None:
        """End the reader: the replica stops."""
        self.closed = True
        self._woken.set()

    def begin(self) -> None:
        """Call it before reading: what is committed from now on wakes again."""
        if not self.closed:
            self._woken.clear()

    async def wait(self, timeout_s: float) -> bool:
        """Whether there was something since ``begin`` or within the time."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._woken.wait()
        except TimeoutError:
            return False
        return True


class Feed:
    """The tail of one replica. ``start`` it in the running loop, ``close`` it at the end."""

    def __init__(self, dsn: str, scheduler: SchedulerPort, *, poll_s: float = POLL_S) -> None:
        self._dsn = dsn
        self._scheduler = scheduler
        self._poll_s = poll_s
        self._readers: dict[UUID, list[Subscription]] = {}
        self._users: dict[UUID, list[UserSubscription]] = {}
        self._woken = asyncio.Event()
        self._joined = asyncio.Event()  # set while somebody follows a job
        self._at: int | None = None
        self._positioned = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self.dropped = 0
        # Who is told that an account was merged, deleted, or lost an identity: what is remembered of it is void. Told
        # within milliseconds, but not for certain: whoever remembers something forgets it after a while by himself.
        self.on_account: list[Callable[[UUID], None]] = []

    def start(self) -> None:
        """Begin to follow."""
        loops = (self._follow_database(), self._follow_scheduler(), self._follow_places())
        names = ("feed-database", "feed-scheduler", "feed-places")
        self._tasks = [asyncio.create_task(loop, name=name) for loop, name in zip(loops, names, strict=True)]

    async def close(self) -> None:
        """Stop, and end every reader's stream: their clients come back to another replica."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for readers in self._readers.values():
            for reader in readers:
                reader.close()
        for users in self._users.values():
            for user in users:
                user.close()

    @property
    def followed(self) -> int:
        """How many jobs somebody follows."""
        return len(self._readers)

    @contextlib.asynccontextmanager
    async def subscribe(self, job_id: UUID) -> AsyncIterator[Subscription]:
        """A Subscription to everything that is committed from now on.

        Read the past from Postgres after entering, never before: then nothing falls in between. Raises Unavailable.
        """
        subscription = Subscription(job_id)
        self._readers.setdefault(job_id, []).append(subscription)
        self._joined.set()
        try:
            await self._in_position()
            yield subscription
        finally:
            readers = self._readers[job_id]
            readers.remove(subscription)
            if not readers:
                del self._readers[job_id]
            self._left()

    @contextlib.asynccontextmanager
    async def follow(self, user_id: UUID) -> AsyncIterator[UserSubscription]:
        """A UserSubscription to all jobs of a user. Read from Postgres after entering. Raises Unavailable."""
        subscription = UserSubscription()
        self._users.setdefault(user_id, []).append(subscription)
        self._joined.set()
        try:
            await self._in_position()
            yield subscription
        finally:
            users = self._users[user_id]
            users.remove(subscription)
            if not users:
                del self._users[user_id]
            self._left()

    async def _in_position(self) -> None:
        if self._at is None:
            try:
                async with asyncio.timeout(5):
                    await self._positioned.wait()
            except TimeoutError:
                raise Unavailable(retry_after_s=RETRY_AFTER_S) from None

    def _left(self) -> None:
        if not self._readers and not self._users:
            self._joined.clear()

    # ------------------------------------------------------------------ durable

    async def _follow_database(self) -> None:
        delay_s = BACKOFF_S[0]
        while True:
            connection: asyncpg.Connection | None = None
            try:
                connection = await connect(self._dsn, name="tessera-feed")
                await connection.add_listener(CHANNEL, lambda *told: self._told(str(told[-1])))
                while True:
                    read_at = time.monotonic()
                    await self._read(connection)
                    delay_s = BACKOFF_S[0]
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(self._poll_s):
                            await self._woken.wait()
                    await asyncio.sleep(max(0.0, GATHER_S - (time.monotonic() - read_at)))
                    if not self._readers and not self._users:
                        # While nobody follows a job, a look each second keeps the position.
                        with contextlib.suppress(TimeoutError):
                            async with asyncio.timeout(self._poll_s):
                                await self._joined.wait()
            except Exception as error:
                outage = isinstance(error, Unavailable) or is_outage(error)
                log.warning("feed_broken", error=type(error).__name__, exc_info=not outage)
            finally:
                if connection is not None:
                    connection.terminate()
            await asyncio.sleep(delay_s)
            delay_s = min(BACKOFF_S[1], delay_s * 2)

    def _told(self, payload: str) -> None:
        """A notification: something was committed, or (``account <user>``) an account is not what it was."""
        self._woken.set()
        if payload.startswith(ACCOUNT):
            user_id = UUID(payload.removeprefix(ACCOUNT))
            for watcher in self.on_account:
                watcher(user_id)
            for reader in self._users.get(user_id, ()):
                reader.wake()

    async def _read(self, connection: asyncpg.Connection) -> None:
        """What was committed since the last read, of the jobs that somebody follows.

        The order of ``seq`` is the order of commits, so all events up to the newest one are there to be read.
        """
        self._woken.clear()
        queries = load()
        upto = await connection.fetchval(queries["newest_seq"].positional)
        after, jobs = self._at, list(self._readers)
        if after is not None and upto > after and jobs:
            query = queries["events_of_jobs"]
            rows = await connection.fetch(
                query.positional, *query.arguments({"after": after, "upto": upto, "jobs": jobs})
            )
            self._deliver(DurableEvent.of(row) for row in rows)
        if after is not None and upto > after and self._users:
            await self._wake_users(connection, after, upto)
        self._at = upto
        self._positioned.set()

    async def _wake_users(self, connection: asyncpg.Connection, after: int, upto: int) -> None:
        query = load()["users_of_events"]
        asked = query.arguments({"after": after, "upto": upto, "users": list(self._users)})
        for row in await connection.fetch(query.positional, *asked):
            for reader in self._users.get(row["user_id"], ()):
                reader.wake()

    # ------------------------------------------------------------------ ephemeral

    async def _follow_scheduler(self) -> None:
        delay_s = BACKOFF_S[0]
        while True:
            try:
                batches = aiter(self._scheduler.subscribe())
                while True:
                    async with asyncio.timeout(SILENCE_S):
                        batch = await anext(batches, None)
                    if batch is None:
                        break
                    delay_s = BACKOFF_S[0]
                    self._deliver(batch)
            except Exception as error:  # noqa: BLE001 (whatever ends it, it is opened again)
                log.info("scheduler_subscription_ended", error=type(error).__name__)
            await asyncio.sleep(delay_s)
            delay_s = min(BACKOFF_S[1], delay_s * 2)

    async def _follow_places(self) -> None:
        while True:
            await asyncio.sleep(PLACES_EVERY_S)
            waiting = [job_id for job_id, readers in self._readers.items() if any(r.waiting for r in readers)]
            if not waiting:
                continue
            places = await places_of(self._scheduler, waiting, timeout_s=PLACES_TIMEOUT_S)
            for job_id, place in places.items():
                for reader in self._readers.get(job_id, ()):
                    if reader.waiting and place.position > 0 and place != reader.place:
                        reader.place = place
                        reader.push(_queued(job_id, place))

    async def so_far(self, job_id: UUID, timeout_s: float = 1.0) -> list[LiveEvent]:
        """What a late reader of a running job needs; nothing when the scheduler does not answer."""
        try:
            async with asyncio.timeout(timeout_s):
                return list(await self._scheduler.so_far(job_id))
        except Exception as error:  # noqa: BLE001 (whatever becomes of the scheduler, the stream goes on)
            log.info("so_far_missing", error=type(error).__name__)
            return []

    def _deliver(self, events: Iterable[FeedEvent]) -> None:
        for event in events:
            for reader in self._readers.get(event.job_id, ()):
                if not reader.push(event):
                    self.dropped += 1


async def places_of(scheduler: SchedulerPort, job_ids: list[UUID], *, timeout_s: float) -> Mapping[UUID, Place]:
    """The places of queued jobs; empty when the scheduler does not answer in time: a place is never worth waiting."""
    try:
        async with asyncio.timeout(timeout_s):
            return await scheduler.places(job_ids)
    except Exception as error:  # noqa: BLE001 (whatever it is, the caller can do without)
        log.info("places_missing", error=type(error).__name__)
        return {}


def _queued(job_id: UUID, place: Place) -> LiveEvent:
    """The ephemeral event that tells a position. Its attempt is filled in by the reader, who knows it."""
    return LiveEvent(
        job_id=job_id,
        attempt=-1,
        type=EventType.QUEUED,
        at=datetime.now(UTC),
        data=place_data(place),
    )

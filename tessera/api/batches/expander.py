"""Makes jobs of the lines of batches, and the files of those that are done. One ingress replica at a time does it.

Which one is decided by an advisory lock; what is decided by ``expand_batch``, which fences each step by the number of
lines read so far: two that expand at once, or one that is killed at any moment, never make two jobs of one line. A line
holds no tokens before it is a job. Memory holds one chunk of one file.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import replace
from datetime import datetime
from typing import Any
from uuid import UUID

import asyncpg
import structlog

from tessera.api.batches.lines import Line, Shape, custom_id_of, read_lines, read_wish
from tessera.api.batches.results import ResultWriter
from tessera.api.callers import PERSON_SCOPES, Caller, closed, limits_of
from tessera.api.jobs.submissions import prepare
from tessera.api.openai.errors import envelope, status_of
from tessera.api.problems import problem
from tessera.api.services import Services
from tessera.errors import Forbidden, NotFound, TesseraError, Unauthorized, Unavailable
from tessera.ids import Prefix, show
from tessera.jobs import Tier
from tessera.store.database import Row, connect, is_outage
from tessera.store.queries import load

log = structlog.get_logger(__name__)

CHANNEL = "tessera_batches"
POLL_S = 1.0
RETRY_S = 1.0  # between two tries to lead, and after an outage
CHUNK_LINES = 50  # in one commit: other users' submissions wait for its locks no longer than for a batch of their own
CHUNK_BYTES = 4 << 20
BATCHES_AT_ONCE = 20  # looked at in one round; each gets one chunk, so that a large one delays no small one
POSTPONED_S = 10.0  # a batch whose step failed


class Expander:
    """``start`` it in the running loop of a replica, ``close`` it at its end."""

    def __init__(self, services: Services, *, poll_s: float = POLL_S) -> None:
        self._services = services
        self._poll_s = poll_s
        self._writer = ResultWriter(services)
        self._woken = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.leading = False

    def start(self) -> None:
        """Begin to lead, or to wait for it."""
        self._task = asyncio.create_task(self._run(), name="expander")

    async def close(self) -> None:
        """Stop. Another replica goes on."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            try:
                async with self._leadership() as connection, asyncio.TaskGroup() as group:
                    # Beside each other: to write the files of a large batch takes a while, and delays no small one.
                    group.create_task(self._loop(connection, self.expand))
                    group.create_task(self._loop(connection, self.end))
            except* Exception as errors:
                outage = all(isinstance(error, Unavailable) or is_outage(error) for error in _leaves(errors))
                log.warning("expander_broken", error=str(_leaves(errors)[0]), exc_info=not outage)
            await asyncio.sleep(RETRY_S)

    async def _loop(self, connection: asyncpg.Connection, step: Callable[[], Awaitable[bool]]) -> None:
        while True:
            self._woken.clear()
            busy = await step()
            if not busy:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._poll_s):
                        await self._woken.wait()
            if connection.is_closed():
                raise Unavailable

    @contextlib.asynccontextmanager
    async def _leadership(self) -> AsyncIterator[asyncpg.Connection]:
        """The connection that holds the lock. Raises Unavailable when Postgres is away."""
        connection = await connect(self._services.db.dsn, name="tessera-batches")
        connection.add_termination_listener(lambda _: self._woken.set())
        try:
            while not await connection.fetchval(load()["lead_batches"].positional):  # noqa: ASYNC110 (it tells nobody)
                await asyncio.sleep(RETRY_S)
            await connection.add_listener(CHANNEL, lambda *_: self._woken.set())
            self.leading = True
            yield connection
        finally:
            self.leading = False
            connection.terminate()

    async def step(self) -> bool:
        """One round of both; whether another may find more to do at once. Raises Unavailable."""
        expanded = await self.expand()
        return await self.end() or expanded

    async def expand(self) -> bool:
        """Make jobs of the next lines of each batch that is due. Returns and raises what ``step`` does."""
        busy = False
        for batch in await self._services.db.rows("due_batches", limit=BATCHES_AT_ONCE):
            busy |= await self._guarded(batch, self._expand(batch))
        return busy

    async def end(self) -> bool:
        """Give up batches whose time is over, and write the files of those that are done."""
        db, busy = self._services.db, False
        for row in await db.rows("overdue_batches", limit=BATCHES_AT_ONCE):
            await db.row("give_up_batch", id=row["id"], user_id=None, ends_as="expired", errors=[])
        for batch in await db.rows("settled_batches", limit=BATCHES_AT_ONCE):
            busy |= await self._guarded(batch, self._end(batch))
        return busy

    async def _guarded(self, batch: Row, work: Any) -> bool:
        """One batch that cannot go on does not keep the others from it."""
        try:
            return bool(await work)
        except Unavailable:
            raise
        except Exception as error:
            refused = isinstance(error, TesseraError)
            log.warning(
                "batch_postponed", batch=show(Prefix.BATCH, batch["id"]), error=str(error), exc_info=not refused
            )
            await self._services.db.execute("postpone_batch", id=batch["id"], seconds=POSTPONED_S)
            return False

    # ------------------------------------------------------------------ expanding

    async def _expand(self, batch: Row) -> bool:
        """Make jobs of the next lines of a batch; whether it may go on at once."""
        services = self._services
        try:
            services.watermarks.check()
        except Unavailable as error:
            await services.db.execute("postpone_batch", id=batch["id"], seconds=error.retry_after_s or POSTPONED_S)
            return False
        try:
            caller = await self._owner(batch["id"])
        except (Unauthorized, Forbidden) as error:
            await self._give_up(batch["id"], error.code, error.message)
            return False
        try:
            lines, is_end = await self._chunk(batch)
        except NotFound:
            await self._give_up(batch["id"], "gone", "The batch's file is no longer in the artifact store.")
            return False
        now = services.clock()
        rows = [await self._row(batch, caller, line, now) for line in lines]
        found = await services.db.row(
            "expand_batch", id=batch["id"], from_line=batch["next_line"], rows=rows, is_end=is_end
        )
        assert found is not None
        if found["jobs"]:
            log.info("batch_expanded", batch=show(Prefix.BATCH, batch["id"]), jobs=found["jobs"], line=lines[-1].number)
        return bool(found["outcome"] == "taken")

    async def _chunk(self, batch: Row) -> tuple[list[Line], bool]:
        """The next lines of a batch's file, and whether they are the last."""
        lines: list[Line] = []
        size = 0
        reader = read_lines(
            self._services.artifacts,
            batch["sha256"],
            batch["bytes"],
            number=batch["next_line"],
            byte=batch["next_byte"],
        )
        async with aclosing(reader) as coming:
            async for line in coming:
                if len(lines) >= CHUNK_LINES or (lines and size + len(line.raw) > CHUNK_BYTES):
                    return lines, False
                lines.append(line)
                size += len(line.raw)
        return lines, True

    async def _row(self, batch: Row, caller: Caller, line: Line, now: datetime) -> dict[str, Any]:
        """A line as ``expand_batch`` takes it: a job to be admitted, or why it makes none. Raises Unavailable."""
        shape = Shape(batch["shape"])
        row: dict[str, Any] = {"line": line.number, "end_byte": line.end_byte, "custom_id": custom_id_of(line)}
        request_id = f"{show(Prefix.BATCH, batch['id'])}:{line.number}"
        try:
            wish = read_wish(self._services, line, shape, batch["endpoint"], now)
            submission = await prepare(self._services, caller, wish.wanted, idempotency_key=None, request_id=request_id)
        except TesseraError as error:
            if error.status >= 500:
                raise  # ours, and not the line's: it is tried again
            if shape is Shape.OPENAI:
                return {**row, "error": {"status": status_of(error), **envelope(error, request_id)}}
            return {**row, "error": problem(error, request_id)}
        submission = replace(submission, webhook=wish.webhook)
        return {**row, "options": wish.options, "job": submission.row(0)}

    async def _owner(self, batch_id: UUID) -> Caller:
        """Who pays. Raises Unauthorized or Forbidden where nobody does any more: then the batch stops."""
        row = await self._services.db.row("batch_owner", id=batch_id)
        if row is None or row["deleted_at"] is not None:
            raise Unauthorized("The user of this batch no longer exists.")
        if row["banned_at"] is not None:
            raise closed(row["ban_reason"])
        if row["revoked_at"] is not None:
            raise Unauthorized("The API key that made this batch was revoked.")
        if row["expires_at"] is not None and row["expires_at"] <= self._services.clock():
            raise Unauthorized("The API key that made this batch has expired.")
        return Caller(
            key_id=row["key_id"],
            user_id=row["user_id"],
            name=row["name"],
            scopes=PERSON_SCOPES,
            plan=row["plan_id"],
            tier=Tier(row["tier"]),
            limits=limits_of(row),
            daily_cap_mt=row["daily_cap_mt"],
            expires_at=row["expires_at"],
        )

    async def _give_up(self, batch_id: UUID, code: str, message: str) -> None:
        errors = [{"code": code, "message": message, "line": None, "param": None}]
        await self._services.db.row("give_up_batch", id=batch_id, user_id=None, ends_as="failed", errors=errors)

    # ------------------------------------------------------------------ ending

    async def _end(self, batch: Row) -> bool:
        """Write the files of a batch whose jobs have all ended. A batch that was cancelled has more lines than were
        read, and its error file names them."""
        services = self._services
        files = await self._writer.files_of(batch, services.clock())
        counts = await services.db.row("count_batch", batch_id=batch["id"])
        found = await services.db.row("end_batch", id=batch["id"], files=files, counts=counts)
        assert found is not None
        if found["ended"]:
            log.info("batch_ended", batch=show(Prefix.BATCH, batch["id"]), state=batch["ends_as"])
        return False


def _leaves(group: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    found: list[BaseException] = []
    for error in group.exceptions:
        found += _leaves(error) if isinstance(error, BaseExceptionGroup) else [error]
    return found

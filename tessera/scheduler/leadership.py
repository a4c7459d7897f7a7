"""One leader: an advisory lock on a connection of its own, and an epoch that fences every write.

Losing the connection loses the lock, and the term ends at once; a scheduler that does not notice is stopped by its
epoch, which every one of its transactions reads first.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

import asyncpg
import structlog

from tessera.store.database import connect
from tessera.store.queries import load

log = structlog.get_logger(__name__)

RETRY_S = 0.3


class LeadershipLost(Exception):
    """Another scheduler leads now, or the lock's connection is gone. Nothing may be written in this term any more."""


@dataclass(frozen=True, kw_only=True)
class Term:
    """The time for which this process leads. ``epoch`` goes into every write."""

    epoch: int
    lost: asyncio.Future[None]

    async def guard(self) -> None:
        """Run beside the work of the term: raises LeadershipLost as soon as the lock's connection is gone."""
        await self.lost
        raise LeadershipLost("the connection that holds the leader's lock was lost")


@contextlib.asynccontextmanager
async def leadership(dsn: str, holder: str) -> AsyncIterator[Term]:
    """Wait until this process leads, for the length of the block. Raises Unavailable when Postgres is away."""
    queries = load()
    connection = await connect(dsn, name="tessera-leader")
    lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def terminated(_connection: asyncpg.Connection) -> None:
        if not lost.done():
            lost.set_result(None)

    connection.add_termination_listener(terminated)
    try:
        while not await connection.fetchval(queries["try_lead"].positional):  # noqa: ASYNC110 (Postgres tells nobody)
            await asyncio.sleep(RETRY_S)
        epoch: int = await connection.fetchval(queries["raise_epoch"].positional, holder)
        log.info("leading", epoch=epoch, holder=holder)
        yield Term(epoch=epoch, lost=lost)
    finally:
        connection.remove_termination_listener(terminated)
        with contextlib.suppress(OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
            await connection.close(timeout=2)


def is_fenced(error: BaseException) -> bool:
    """Another scheduler has taken over: assert_leader's own SQLSTATE."""
    return isinstance(error, asyncpg.PostgresError) and error.sqlstate == "TS001"

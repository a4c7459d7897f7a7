"""The connection to Postgres: SQLAlchemy owns engine, pool and transactions; hot paths hold an asyncpg connection.

Driver errors are translated here, once: a Postgres that is away is ``Unavailable``, which a caller may retry.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import asyncpg
import orjson
from sqlalchemy import event, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from tessera.errors import Unauthorized, Unavailable
from tessera.store.queries import QueryError, load

Row = dict[str, Any]

# SQLSTATEs of sql/functions/
OWNERS_CHANGED = "TS002"  # accounts were merged while a statement waited for the locks of jobs' users; nothing was done
ACCOUNT_DELETED = "TS004"

CONNECT_TIMEOUT_S = 5.0
STATEMENT_TIMEOUT_MS = 15_000  # (start) far above what any statement here should take; a hung one must end
IDLE_TRANSACTION_TIMEOUT_MS = 15_000
RETRY_AFTER_S = 2.0  # a restart of Postgres takes 0.3 s after SIGKILL, plus the keeper's look every second

# A plan that was made while a table was small reads all of it, and is kept while the table grows until it is analyzed:
# a young database spent half of its time so (1.3 ms of Postgres CPU for each job in batches of 4, 0.7 with these).
BY_INDEX = {"enable_seqscan": "off", "enable_hashjoin": "off", "enable_mergejoin": "off"}

_GONE = (
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # a server that ends an idle connection leaves the driver in a state like this
    asyncpg.CannotConnectNowError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.TooManyConnectionsError,
    asyncpg.QueryCanceledError,
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.DiskFullError,
    asyncpg.DeadlockDetectedError,  # Postgres has undone this one of two statements: nothing was changed
    asyncpg.SerializationError,
    OSError,
    TimeoutError,
    asyncio.TimeoutError,
)


def is_outage(error: BaseException) -> bool:
    """Whether a driver's error means that Postgres is away, full or too slow, and not that a statement is wrong."""
    if isinstance(error, PoolTimeout | InterfaceError | OperationalError):
        return True
    if isinstance(error, DBAPIError):
        original = error.orig
        if error.connection_invalidated:
            return True
        cause = getattr(original, "__cause__", None)
        return isinstance(original, _GONE) or isinstance(cause, _GONE)
    return isinstance(error, _GONE)


def _sqlstate(error: BaseException) -> str | None:
    """The SQLSTATE of a driver's error, through SQLAlchemy or not."""
    found = getattr(error.orig, "sqlstate", None) if isinstance(error, DBAPIError) else getattr(error, "sqlstate", None)
    return found if isinstance(found, str) else None


@contextlib.contextmanager
def translated() -> Any:
    """Turn an outage into ``Unavailable``, what is stored for a deleted account into ``Unauthorized``; let all else
    through."""
    try:
        yield
    except Exception as error:
        if _sqlstate(error) == OWNERS_CHANGED:
            raise Unavailable("Two accounts became one at this moment. Nothing was changed; try again.") from error
        if _sqlstate(error) == ACCOUNT_DELETED:
            raise Unauthorized("This account was deleted. Nothing was stored.") from error
        if is_outage(error):
            raise Unavailable(
                "The database does not answer at the moment. Nothing was accepted or charged; try again shortly.",
                retry_after_s=RETRY_AFTER_S,
            ) from error
        raise


async def set_codecs(connection: Any) -> None:
    """JSON columns as Python values and uuids as the standard library's (asyncpg's own class is not serializable)."""
    await connection.set_type_codec("uuid", schema="pg_catalog", encoder=str, decoder=UUID)
    for name in ("json", "jsonb"):
        await connection.set_type_codec(
            name,
            schema="pg_catalog",
            encoder=lambda value: value if isinstance(value, str) else orjson.dumps(value).decode(),
            decoder=orjson.loads,
        )


async def connect(
    dsn: str, *, name: str, statement_timeout_ms: int = STATEMENT_TIMEOUT_MS, by_index: bool = False
) -> asyncpg.Connection:
    """A connection of one's own, for a hot path or for LISTEN. ``name`` shows in pg_stat_activity.

    ``by_index``: for statements that look up a batch of rows by their ids, and for nothing that reads whole tables.
    Raises Unavailable.
    """
    with translated():
        connection = await asyncpg.connect(
            dsn,
            timeout=CONNECT_TIMEOUT_S,
            command_timeout=statement_timeout_ms / 1000,
            server_settings={
                "application_name": name,
                "statement_timeout": str(statement_timeout_ms),
                "idle_in_transaction_session_timeout": str(IDLE_TRANSACTION_TIMEOUT_MS),
                "jit": "off",
                **(BY_INDEX if by_index else {}),
            },
        )
        await set_codecs(connection)
    return connection


async def fetch_settled(connection: asyncpg.Connection, statement: str, *arguments: object) -> list[asyncpg.Record]:
    """Run a statement that locks the users of jobs (claim, finish, end_waiting), again where accounts merged under it.

    Not for use within a transaction: the first try would have ended it.
    """
    while True:
        try:
            return list(await connection.fetch(statement, *arguments))
        except asyncpg.PostgresError as error:
            if error.sqlstate != OWNERS_CHANGED:
                raise


class Transaction:
    """One transaction: the three ways to run a named query. ``now()`` is the same for all of them."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def rows(self, query: str, **values: object) -> list[Row]:
        """All rows of a named query."""
        found = load().get(query)
        if found is None:
            raise QueryError(f"there is no query {query!r} in sql/queries/")
        found.arguments(values)
        result = await self._connection.execute(text(found.text), values)
        return [dict(row) for row in result.mappings()] if result.returns_rows else []

    async def row(self, query: str, **values: object) -> Row | None:
        """The first row, or None."""
        rows = await self.rows(query, **values)
        return rows[0] if rows else None

    async def execute(self, query: str, **values: object) -> int:
        """Run a statement; returns how many rows it changed."""
        found = load()[query]
        found.arguments(values)
        result = await self._connection.execute(text(found.text), values)
        return int(result.rowcount)


class Database:
    """The pool for everything that is not hot. ``rows``, ``row`` and ``execute`` are a transaction each."""

    def __init__(self, dsn: str, engine: AsyncEngine) -> None:
        self.dsn = dsn
        self._engine = engine

    @classmethod
    def open(cls, dsn: str, *, pool_size: int = 8, name: str = "tessera") -> Database:
        """Make the pool; connects at the first query, so that a start does not need Postgres."""
        url = make_url(dsn).set(drivername="postgresql+asyncpg")
        engine = create_async_engine(
            url,
            pool_size=pool_size,
            max_overflow=0,
            pool_timeout=CONNECT_TIMEOUT_S,
            pool_pre_ping=True,
            pool_recycle=1800,
            connect_args={
                "timeout": CONNECT_TIMEOUT_S,
                "command_timeout": STATEMENT_TIMEOUT_MS / 1000,
                "server_settings": {
                    "application_name": name,
                    "statement_timeout": str(STATEMENT_TIMEOUT_MS),
                    "idle_in_transaction_session_timeout": str(IDLE_TRANSACTION_TIMEOUT_MS),
                    "jit": "off",
                },
            },
        )

        # Listeners run in the order of their registration: ours replaces the codecs that the dialect has set.
        @event.listens_for(engine.sync_engine, "connect")
        def _codecs(adapted: Any, _record: Any) -> None:
            adapted.run_async(set_codecs)

        return cls(dsn, engine)

    @contextlib.asynccontextmanager
    async def transaction(self) -> AsyncIterator[Transaction]:
        """A transaction, committed at the end of the block and rolled back by an exception. Raises Unavailable."""
        with translated():
            async with self._engine.begin() as connection:
                yield Transaction(connection)

    async def rows(self, query: str, **values: object) -> list[Row]:
        """All rows of a named query, in a transaction of its own."""
        async with self.transaction() as transaction:
            return await transaction.rows(query, **values)

    async def row(self, query: str, **values: object) -> Row | None:
        """The first row of a named query, or None, in a transaction of its own."""
        async with self.transaction() as transaction:
            return await transaction.row(query, **values)

    async def execute(self, query: str, **values: object) -> int:
        """Run a named statement in a transaction of its own; returns how many rows it changed."""
        async with self.transaction() as transaction:
            return await transaction.execute(query, **values)

    async def close(self) -> None:
        """Close the pool."""
        await self._engine.dispose()

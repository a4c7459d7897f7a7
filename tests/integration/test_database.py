"""What every connection to Postgres brings with it: a statement or a transaction that hangs comes to an end."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest

from tessera.store import database as module
from tessera.store.database import Database, connect, is_outage

LIMITS = (
    "SELECT name, setting::integer AS ms FROM pg_settings"
    " WHERE name IN ('statement_timeout', 'idle_in_transaction_session_timeout')"
)


async def test_a_statement_that_hangs_is_ended_by_postgres_and_counts_as_an_outage(database_url: str) -> None:
    connection = await connect(database_url, name="tests", statement_timeout_ms=200)
    try:
        with pytest.raises(asyncpg.QueryCanceledError) as ended:
            await connection.execute("SELECT pg_sleep(5)", timeout=4)
        assert is_outage(ended.value)
    finally:
        await connection.close()


async def test_a_transaction_that_idles_is_ended_and_lets_go_of_its_locks(
    database_url: str, connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "IDLE_TRANSACTION_TIMEOUT_MS", 200)
    idle = await connect(database_url, name="tests")
    await idle.execute("BEGIN")
    await idle.execute("SELECT epoch FROM leader FOR UPDATE")
    async with asyncio.timeout(3):
        await connection.fetchval("SELECT epoch FROM leader FOR UPDATE")
    idle.terminate()


async def test_every_connection_has_both_limits(database_url: str, database: Database) -> None:
    single = await connect(database_url, name="tests")
    try:
        limits = {row["name"]: row["ms"] for row in await single.fetch(LIMITS)}
    finally:
        await single.close()
    async with database._engine.connect() as pooled:
        raw = await pooled.get_raw_connection()
        of_pool = {row["name"]: row["ms"] for row in await raw.driver_connection.fetch(LIMITS)}
    assert limits == of_pool
    assert limits == {
        "statement_timeout": module.STATEMENT_TIMEOUT_MS,
        "idle_in_transaction_session_timeout": module.IDLE_TRANSACTION_TIMEOUT_MS,
    }
    assert min(limits.values()) > 0

"""The migrations and schema.sql say the same, and running them is safe whenever and however often it happens."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest
from sqlalchemy.engine import make_url

from tessera.errors import Unavailable
from tessera.store.migrations import current, head, migrate, seed
from tessera.store.queries import functions, script

# What a database holds, as text, one row for each thing; the definitions are Postgres's own. Ordered by names: a
# regclass orders by its number, and a table that a migration adds has a later one than in schema.sql.
CATALOG = {
    "columns": """
        SELECT c.relname, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attidentity,
               pg_get_expr(d.adbin, d.adrelid)
        FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
        LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
        WHERE n.nspname = 'public' AND c.relkind IN ('r', 'p', 'v') AND a.attnum > 0 AND NOT a.attisdropped
        ORDER BY c.relname, a.attnum""",
    "tables": """
        SELECT c.relname, c.relkind, c.reloptions, obj_description(c.oid, 'pg_class') FROM pg_class c
        JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE n.nspname = 'public' AND c.relkind IN ('r', 'p', 'v', 'm', 'S') ORDER BY 1""",
    "constraints": """
        SELECT r.conrelid::regclass, r.conname, r.convalidated, pg_get_constraintdef(r.oid) FROM pg_constraint r
        JOIN pg_namespace n ON n.oid = r.connamespace WHERE n.nspname = 'public'
        ORDER BY r.conrelid::regclass::text, 2""",
    "indexes": "SELECT tablename, indexname, indexdef FROM pg_indexes WHERE schemaname = 'public' ORDER BY 1, 2",
    "triggers": """
        SELECT t.tgrelid::regclass, t.tgname, t.tgenabled, pg_get_triggerdef(t.oid) FROM pg_trigger t
        WHERE NOT t.tgisinternal ORDER BY t.tgrelid::regclass::text, 2""",
    "functions": """
        SELECT p.proname, pg_get_functiondef(p.oid) FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
        WHERE n.nspname = 'public' ORDER BY 1, 2""",
    "views": "SELECT viewname, definition FROM pg_views WHERE schemaname = 'public' ORDER BY 1",
    "sequences": """
        SELECT sequencename, data_type, start_value, increment_by, cycle FROM pg_sequences
        WHERE schemaname = 'public' ORDER BY 1""",
    "leader": "SELECT singleton, epoch FROM leader",
}


async def catalog(dsn: str) -> dict[str, list[str]]:
    connection = await asyncpg.connect(dsn)
    try:
        return {
            what: [text for row in await connection.fetch(query) if "alembic_version" not in (text := str(tuple(row)))]
            for what, query in CATALOG.items()
        }
    finally:
        await connection.close()


@pytest.fixture
async def empty_url(postgres: tuple[str, str]) -> AsyncIterator[str]:
    """The DSN of a database with nothing in it."""
    dsn, admin_dsn = postgres
    name = f"test_{uuid4().hex}"
    admin = await asyncpg.connect(admin_dsn)
    try:
        await admin.execute(f"CREATE DATABASE {name} OWNER tessera")
        yield make_url(dsn).set(database=name).render_as_string(hide_password=False)
        await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
    finally:
        await admin.close()


async def test_the_migrations_build_what_schema_sql_says(empty_url: str, database_url: str) -> None:
    connection = await asyncpg.connect(empty_url)
    await connection.execute(script("schema.sql"))
    await connection.execute(functions())
    await connection.close()
    written, migrated = await catalog(empty_url), await catalog(database_url)
    for what in CATALOG:
        assert written[what], f"no {what} at all: the comparison would say nothing"
        assert migrated[what] == written[what], what


async def test_migrating_again_changes_nothing(database_url: str) -> None:
    before = await catalog(database_url)
    assert await migrate(database_url) == head()
    assert await catalog(database_url) == before
    assert await current(database_url) == head()


async def test_a_database_that_was_never_migrated_has_no_version(empty_url: str) -> None:
    assert await current(empty_url) is None


async def test_two_processes_that_migrate_at_once_both_succeed(empty_url: str) -> None:
    assert await asyncio.gather(*(migrate(empty_url) for _ in range(3))) == [head()] * 3
    assert await current(empty_url) == head()


async def test_a_migration_that_fails_leaves_nothing_behind(empty_url: str) -> None:
    connection = await asyncpg.connect(empty_url)
    await connection.execute("CREATE TABLE users (in_the_way integer)")
    with pytest.raises(Exception, match="already exists"):
        await migrate(empty_url)
    tables = await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    assert [row["tablename"] for row in tables] == ["users"]
    await connection.execute("DROP TABLE users")
    await connection.close()
    assert await migrate(empty_url) == head()


async def test_seeding_again_keeps_what_the_operator_changed(database_url: str, connection: asyncpg.Connection) -> None:
    await connection.execute("UPDATE plans SET price_usd_cents = 700 WHERE id = 'starter'")
    await seed(database_url)
    plans = await connection.fetch("SELECT id, price_usd_cents FROM plans ORDER BY position")
    assert [tuple(row) for row in plans] == [("free", 0), ("starter", 700), ("pro", 1200)]


async def test_functions_are_replaced_at_every_migration(database_url: str, connection: asyncpg.Connection) -> None:
    await connection.execute(
        "CREATE OR REPLACE FUNCTION utc_day(p_at timestamptz) RETURNS date LANGUAGE sql AS 'SELECT NULL::date'"
    )
    await migrate(database_url)
    assert await connection.fetchval("SELECT utc_day('2026-05-04 23:59:59+00')::text") == "2026-05-04"


async def test_a_postgres_that_is_away_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(Unavailable):
        await migrate(f"postgresql://tessera@/tessera?host={tmp_path}")


# Postgres reads these as POSIX does, the sign turned round: in either, one of the two moments is of another day.
@pytest.mark.parametrize("zone", ["-05:30", "+05:30", "utc"])
async def test_days_are_those_of_utc_whatever_the_sessions_zone(connection: asyncpg.Connection, zone: str) -> None:
    await connection.execute(f"SET timezone = '{zone}'")
    for moment, day in (("2026-05-04 23:30:00+00", "2026-05-04"), ("2026-05-05 00:30:00+00", "2026-05-05")):
        assert await connection.fetchval(f"SELECT utc_day('{moment}')::text") == day

"""Bringing a database to the newest version of sql/: Alembic keeps count, plain SQL does the work (docs/adr/0002).

Forward only. Each run takes a lock timeout of 5 s and one transaction: a migration that fails leaves nothing behind.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import asyncpg
from alembic import command, op
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

import sql as sql_package
from tessera.store.database import connect, translated
from tessera.store.queries import functions, script


def _config() -> Config:
    folder = Path(str(sql_package.__file__)).parent / "migrations"
    config = Config()
    config.set_main_option("script_location", str(folder))
    config.set_main_option("path_separator", "os")
    return config


def head() -> str:
    """The newest revision in sql/migrations/."""
    found = ScriptDirectory.from_config(_config()).get_current_head()
    if found is None:
        raise RuntimeError("sql/migrations/versions holds no revision")
    return found


def run_script(name: str) -> None:
    """For a revision: run a script of sql/ with several statements on the migration's connection."""
    _execute_script(op.get_bind(), script(name))


def _execute_script(connection: Connection, text: str) -> None:
    driver: Any = connection.connection.dbapi_connection
    driver.run_async(lambda raw: raw.execute(text))


async def migrate(dsn: str) -> str:
    """Bring the database to the newest version and replace its functions. Safe to repeat; returns the revision.

    Raises Unavailable when Postgres is away; other errors of Postgres as they are, with nothing changed.
    """
    engine = create_async_engine(make_url(dsn).set(drivername="postgresql+asyncpg"), poolclass=NullPool)

    def run(connection: Connection) -> None:
        # Through SQLAlchemy, which begins the transaction that the scripts below then run in.
        connection.exec_driver_sql(script("migrations/begin.sql"))
        config = _config()
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
        _execute_script(connection, functions())

    try:
        with translated():
            async with engine.begin() as connection:
                await connection.run_sync(run)
    finally:
        await engine.dispose()
    return head()


async def current(dsn: str) -> str | None:
    """The revision that the database is at, or None when it was never migrated. Raises Unavailable."""
    connection = await connect(dsn, name="tessera-migrations")
    try:
        found: str | None = await connection.fetchval(script("version.sql"))
        return found
    except asyncpg.UndefinedTableError:
        return None
    finally:
        await connection.close()


async def seed(dsn: str) -> None:
    """Put in what every installation starts with (the plans). Safe to repeat."""
    connection = await connect(dsn, name="tessera-migrations")
    try:
        await connection.execute(script("seed.sql"))
    finally:
        await connection.close()

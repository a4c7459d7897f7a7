"""A real Postgres for the whole run, and a database of its own for each test, copied from a migrated template."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from uuid import UUID, uuid4

import asyncpg
import pytest
from sqlalchemy.engine import make_url

from tessera.ids import new_id
from tessera.local.postgres import EmbeddedPostgres
from tessera.store.database import Database, connect
from tessera.store.migrations import migrate, seed
from tests.integration.api_server import Api, running

TEMPLATE = "tessera_template"


def _in(dsn: str, database: str) -> str:
    return make_url(dsn).set(database=database).render_as_string(hide_password=False)


@pytest.fixture(scope="session")
def postgres() -> Iterator[tuple[str, str]]:
    """(DSN of the role tessera, DSN of the superuser) of a server that lives as long as the run."""
    with tempfile.TemporaryDirectory(prefix="tessera-pg-") as home:
        server = EmbeddedPostgres(Path(home), durable=False)
        info = server.ensure_running()

        async def prepare() -> None:
            admin = await asyncpg.connect(info.admin_dsn)
            await admin.execute(f"CREATE DATABASE {TEMPLATE} OWNER tessera")
            await admin.close()
            template = _in(info.dsn, TEMPLATE)
            await migrate(template)
            await seed(template)

        asyncio.run(prepare())
        try:
            yield info.dsn, info.admin_dsn
        finally:
            server.stop()


@pytest.fixture
async def database_url(postgres: tuple[str, str]) -> AsyncIterator[str]:
    """The DSN of a fresh, migrated and seeded database."""
    dsn, admin_dsn = postgres
    name = f"test_{uuid4().hex}"
    admin = await asyncpg.connect(admin_dsn)
    try:
        await admin.execute(f"CREATE DATABASE {name} TEMPLATE {TEMPLATE} OWNER tessera")
        yield _in(dsn, name)
        await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
    finally:
        await admin.close()


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    """The pool over ``database_url``."""
    opened = Database.open(database_url, pool_size=4)
    yield opened
    await opened.close()


@pytest.fixture
async def connection(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    """A plain connection to ``database_url``, with the JSON codecs."""
    opened = await connect(database_url, name="tests")
    yield opened
    await opened.close()


@pytest.fixture
async def user(connection: asyncpg.Connection) -> UUID:
    """A user on plan free."""
    return await add_user(connection)


async def add_user(connection: asyncpg.Connection, plan: str = "free", **overrides: object) -> UUID:
    """A new user, with its own limits where they are given."""
    user_id = new_id()
    await connection.execute(
        "INSERT INTO users (id, name, plan_id) VALUES ($1, $2, $3)", user_id, f"user-{user_id}", plan
    )
    for column, value in overrides.items():
        await connection.execute(f"UPDATE users SET {column} = $2 WHERE id = $1", user_id, value)
    return user_id


@pytest.fixture
async def api(database_url: str, tmp_path: Path) -> AsyncIterator[Api]:
    """The HTTP API over ``database_url``, on a socket of its own."""
    async with running(database_url, tmp_path) as started:
        yield started

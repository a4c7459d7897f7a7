"""Sample data for a demonstration: users, jobs, ledger, usage and events of the last 30 days (sql/demo.sql)."""

from __future__ import annotations

from tessera.store.database import connect, translated
from tessera.store.queries import script


async def fill(dsn: str) -> None:
    """Put the sample data into a migrated and seeded database, in one transaction. Safe to repeat.

    Raises Unavailable when Postgres is away.
    """
    with translated():
        connection = await connect(dsn, name="tessera-demo")
        try:
            async with connection.transaction():
                await connection.execute(script("demo.sql"))
        finally:
            await connection.close(timeout=2)

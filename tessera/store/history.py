"""What ran in a stretch of time, as the simulator replays it: read from one statement, changed nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tessera.store.database import connect, translated
from tessera.store.queries import load

READ_TIMEOUT_MS = 600_000  # millions of jobs take minutes: it must not end like a statement that hangs


async def history(dsn: str, seconds: float) -> list[Mapping[str, Any]]:
    """The jobs that became due in the last ``seconds`` and ran or still wait. Raises Unavailable."""
    query = load()["history_jobs"]
    with translated():
        connection = await connect(dsn, name="tessera-history", statement_timeout_ms=READ_TIMEOUT_MS)
        try:
            return [dict(row) for row in await connection.fetch(query.positional, seconds)]
        finally:
            await connection.close(timeout=2)

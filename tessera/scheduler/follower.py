"""Following the feed of job_events: every change of the queue reaches the mirror through here.

NOTIFY only shortens the wait; the poll each second is the guarantee. What the scheduler has committed itself, starts
and results, is in the mirror already: those rows are read with the next ones, or by the poll.
"""

from __future__ import annotations

import asyncio
import time

import asyncpg

from tessera.jobs import FINAL_EVENTS, EventType
from tessera.pace import Pace
from tessera.scheduler.board import Board
from tessera.store.queries import load

POLL_S = 1.0
PAGE = 2000
RAN = "ran"  # what is notified of starts and results alone (sql/functions/jobs.sql, emit_events)
GAP_S = 0.01  # between two reads while events stream in (tessera/pace.py)


async def follow(board: Board, connection: asyncpg.Connection) -> None:
    """Apply the feed to the mirror from where it stands, for the length of a term."""
    woken = asyncio.Event()
    await connection.add_listener("tessera_feed", lambda *told: None if told[-1] == RAN else woken.set())
    query = load()["feed_after"]
    pace = Pace(GAP_S)
    while True:
        await pace.pause()
        woken.clear()
        seen = 0
        while True:
            rows = await connection.fetch(
                query.positional, *query.arguments({"after": board.mirror.seq, "limit": PAGE})
            )
            now = time.time()
            seen += len(rows)
            for row in rows:
                job = board.mirror.apply(row, now)
                if job is not None and job.worker in board.links:
                    board.spawn(board.links[job.worker].cancel([job.key]))
                if row["type"] in FINAL_EVENTS or row["type"] == EventType.QUEUED:
                    board.notifier.forget(row["job_id"])
            if rows:
                board.changed.set()
            if len(rows) < PAGE:
                break
        pace.round(seen)
        try:
            async with asyncio.timeout(POLL_S):
                await woken.wait()
        except TimeoutError:
            continue

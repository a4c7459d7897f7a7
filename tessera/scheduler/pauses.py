"""Pauses: an operator stops starting jobs of a kind for a while. What is submitted is accepted and keeps its place."""

from __future__ import annotations

import asyncio

import asyncpg
import structlog

from tessera.jobs import Kind
from tessera.scheduler.board import Board
from tessera.store.queries import load

log = structlog.get_logger(__name__)

POLL_S = 1.0  # an operator waits for it, and nobody else


async def follow_pauses(board: Board, connection: asyncpg.Connection, lock: asyncio.Lock) -> None:
    """Hold the policy to the table of pauses, for the length of a term."""
    while True:
        async with lock:
            await read_pauses(board, connection)
        await asyncio.sleep(POLL_S)


async def read_pauses(board: Board, connection: asyncpg.Connection) -> None:
    """Take the live pauses over."""
    rows = await connection.fetch(load()["live_pauses"].positional)
    pauses = {row["kind"]: row["message"] or "" for row in rows}
    if pauses != board.pauses:
        log.info("pauses_changed", paused=sorted(pauses))
    board.pauses = pauses
    paused = frozenset(Kind(kind) for kind in pauses)
    if paused != board.policy.paused:
        board.policy.paused = paused
        board.changed.set()

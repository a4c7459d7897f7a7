"""What an operator stops by hand: the jobs of a kind (pauses), a model on a worker (exclusions). What is submitted is
accepted and keeps its place."""

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
    """Hold the policy to the tables of pauses and exclusions, for the length of a term."""
    while True:
        async with lock:
            await read_pauses(board, connection)
            await read_exclusions(board, connection)
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


async def read_exclusions(board: Board, connection: asyncpg.Connection) -> None:
    """Take the live exclusions over."""
    rows = await connection.fetch(load()["live_exclusions"].positional)
    found = {(row["worker"], row["model"]): (row["until"].timestamp(), row["reason"]) for row in rows}
    if found != board.failures.by_hand:
        log.info("exclusions_changed", excluded=[f"{model} on {worker}" for worker, model in sorted(found)])
        board.failures.by_hand = found
        board.changed.set()

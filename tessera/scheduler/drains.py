"""Drains: an operator takes a worker, or a node with all its workers, out of service for a while.

A drained worker gets no new run; those that it has end as they would, and what is queued keeps its place. Once it is
idle its models are unloaded, so that the device is free for its owner. Nothing here counts as a failure of anything.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import asyncpg
import structlog

from tessera.errors import Busy, EngineError
from tessera.runs import WorkerAway
from tessera.scheduler.board import Board
from tessera.scheduler.links import WorkerLink
from tessera.store.queries import load

log = structlog.get_logger(__name__)

POLL_S = 1.0
WAKE = "drains"  # the payload of a notification that is about drains; the feed's own come hundreds of times a second
SETTLE_S = 1.0  # a claim that was on its way when the drain began still brings its run: it takes milliseconds


async def follow_drains(board: Board, connection: asyncpg.Connection) -> None:
    """Hold the links to the table of drains, for the length of a term. The connection is for this alone.

    NOTIFY only shortens the wait; the poll each second is the guarantee, and what ends a drain at its time.
    """
    woken = asyncio.Event()
    await connection.add_listener("tessera_feed", lambda *args: woken.set() if args[-1] == WAKE else None)
    idle_since: dict[str, float] = {}
    freed: dict[str, datetime] = {}  # worker → the beginning of the drain for which its memory was given back
    freeing: set[str] = set()
    while True:
        woken.clear()
        draining = await read_drains(board, connection)
        now = time.monotonic()
        idle = {link.name for link, _ in draining if link.online and not link.assigned and not link.running}
        idle_since = {name: idle_since.get(name, now) for name in idle}
        for link, began in draining:
            settled = link.name in idle and now - idle_since[link.name] >= SETTLE_S
            if settled and freed.get(link.name) != began and link.name not in freeing:
                freeing.add(link.name)
                board.spawn(_free(link, began, freed, freeing))
        try:
            async with asyncio.timeout(POLL_S):
                await woken.wait()
        except TimeoutError:
            continue


async def read_drains(board: Board, connection: asyncpg.Connection) -> list[tuple[WorkerLink, datetime]]:
    """Take the live drains over to the links; those that drain, with the beginning of their drain."""
    rows = await connection.fetch(load()["live_drains"].positional)
    draining: list[tuple[WorkerLink, datetime]] = []
    for link in board.links.values():
        found = _drains_of(link, rows)
        until = max((row["until"] for row in found), default=None)
        if until != link.draining_until:
            if until is None:
                log.info("drain_ended", worker=link.name)
            else:
                log.info("draining", worker=link.name, until=until.isoformat(), why=found[0]["reason"])
            link.draining_until = until
            board.changed.set()
        if found:
            draining.append((link, min(row["created_at"] for row in found)))
    return draining


def _drains_of(link: WorkerLink, rows: Sequence[Any]) -> list[Any]:
    """A worker drains while it is named, or its node is."""
    return [row for row in rows if row["target"] == (link.name if row["kind"] == "worker" else link.node)]


async def _free(link: WorkerLink, began: datetime, freed: dict[str, datetime], freeing: set[str]) -> None:
    """Have an idle worker unload its models. What went wrong is tried again with the next look."""
    try:
        await link.release(None)
    except (WorkerAway, Busy) as error:
        log.info("drain_not_freed_yet", worker=link.name, why=str(error))
    except EngineError as error:
        log.warning("drain_not_freed", worker=link.name, why=error.message)
    else:
        freed[link.name] = began
        log.info("drain_freed", worker=link.name)
    finally:
        freeing.discard(link.name)

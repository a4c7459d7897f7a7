"""A worker is told together of the outcomes that are durable, and of none of them never."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any
from uuid import UUID

from tessera.runs import RunKey, WorkerAway
from tessera.scheduler.links import WorkerLink

KEYS: list[RunKey] = [(UUID(int=n), 1) for n in range(6)]


class Port:
    """A worker that hears acknowledgements, or is away for the first so many."""

    def __init__(self, away: int = 0) -> None:
        self.heard: list[list[RunKey]] = []
        self._away = away

    async def ack(self, keys: Sequence[RunKey]) -> None:
        if self._away:
            self._away -= 1
            raise WorkerAway("cut")
        self.heard.append(list(keys))


def link_to(port: Any) -> WorkerLink:
    return WorkerLink(
        "w1",
        port,
        models=["noop"],
        slots=8,
        on_events=lambda _: None,
        on_outcome=lambda *_: None,
        on_change=lambda: None,
    )


async def heard(port: Port, count: int) -> list[RunKey]:
    async with asyncio.timeout(30):
        while sum(map(len, port.heard)) < count:  # noqa: ASYNC110 (the link's task sends them)
            await asyncio.sleep(0.01)
    return sorted(key for keys in port.heard for key in keys)


async def test_outcomes_of_several_commits_are_acknowledged_in_one_call() -> None:
    port = Port()
    link = link_to(port)
    for key in KEYS[:4]:
        link.ack([key])
    assert await heard(port, 4) == KEYS[:4]
    link.ack(KEYS[4:])
    assert await heard(port, 6) == KEYS
    assert [len(keys) for keys in port.heard] == [4, 2]
    await link.stop()


async def test_acknowledgements_that_are_lost_travel_with_the_next_ones() -> None:
    port = Port(away=1)
    link = link_to(port)
    link.ack(KEYS[:2])
    await asyncio.sleep(0.3)
    assert port.heard == []
    link.ack(KEYS[2:])
    assert await heard(port, 6) == KEYS
    assert len(port.heard) == 1
    await link.stop()

"""The pause between two rounds: none for who comes alone, at least the gap in a stream."""

from __future__ import annotations

import asyncio
import time

from tessera.pace import Pace


async def test_after_a_round_of_few_nobody_waits() -> None:
    pace = Pace(3600.0)
    async with asyncio.timeout(60):
        await pace.pause()
        for size in (0, 1, 2):
            pace.round(size)
            await pace.pause()


async def test_after_a_full_round_the_next_begins_after_the_gap() -> None:
    pace = Pace(0.05)
    began = time.monotonic()
    pace.round(3)
    await pace.pause()
    assert time.monotonic() - began >= 0.05

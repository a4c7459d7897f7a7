"""Bots killed -9 at random moments: each request has its result once, is one job, and is charged once.

``TESSERA_BOT_KILLS=50`` makes it longer; the seed is printed, and ``TESSERA_BOT_SEED`` repeats it. In the short form a
killed process's leases are ended by the test, as a minute of waiting would.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
import time
from pathlib import Path

import asyncpg
import pytest

from tessera.store.database import connect
from tests.integration.api_server import Api
from tests.integration.bots.crowds import Asked, Crowd, DiscordCrowd, asks_until_known, crowd_of
from tests.integration.bots.forks import Forks, forks_of
from tests.integration.bots.world import FAST, Worker
from tests.integration.people import balanced

KILLS = int(os.environ.get("TESSERA_BOT_KILLS", "2"))
LONG = KILLS > 5
ENDED_LEASES = "UPDATE {} SET next_try_at = now() WHERE state = 'leased'"
JOBS = """
SELECT j.metadata ->> 'request' AS request, count(*) AS jobs, sum(j.charged_mt) AS charged,
       count(*) FILTER (WHERE j.state = 'completed') AS completed
  FROM jobs j GROUP BY 1"""


@pytest.mark.timeout(3600 if LONG else 120)
@pytest.mark.parametrize("platform", ["telegram", "discord"])
async def test_bots_that_are_killed_bring_each_result_exactly_once(platform: str, api: Api, tmp_path: Path) -> None:
    seed = int(os.environ.get("TESSERA_BOT_SEED", "0")) or random.randrange(1, 10**6)
    sys.stdout.write(f"\n{platform}: seed {seed}, {KILLS} kills, {KILLS} people\n")
    chance, began = random.Random(seed), time.monotonic()
    sql = await connect(api.services.settings.database_url, name="tests")
    async with (
        crowd_of(platform, api, tmp_path, FAST) as crowd,
        forks_of(platform, crowd.environ, tmp_path) as bots,
    ):
        working = asyncio.create_task(Worker(api).run())
        try:
            asked, ended = await ask_and_kill(crowd, bots, sql, chance)
        finally:
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)
        results = {each.words: crowd.results(each) for each in asked}
        left_over = crowd.left_over()
    wrong = {words: count for words, count in results.items() if count != 1}
    assert not wrong, f"seed {seed}: {wrong}"
    rows = await sql.fetch(JOBS)
    open_deliveries = await sql.fetchval("SELECT count(*) FROM deliveries WHERE state <> 'delivered'")
    await sql.close()
    assert len(rows) == len(asked), f"seed {seed}: {len(rows)} jobs of {len(asked)} requests"
    assert all((row["jobs"], row["completed"], row["charged"]) == (1, 1, 1000) for row in rows), f"seed {seed}: {rows}"
    assert open_deliveries == 0
    await balanced(api)
    sys.stdout.write(
        f"{platform}: {KILLS} people, {len(asked)} requests taken, {len(rows)} jobs, {sum(results.values())} results, "
        f"{ended} interactions ended before their result, {left_over} messages left without a result, "
        f"{time.monotonic() - began:.0f} s\n"
    )


async def ask_and_kill(
    crowd: Crowd, bots: Forks, sql: asyncpg.Connection, chance: random.Random
) -> tuple[list[Asked], int]:
    """Each person asks while the bot is killed again and again. The requests that became jobs, once all have a result;
    and how many interactions were ended under way."""
    asking: list[asyncio.Task[list[Asked]]] = []
    ended = 0
    await bots.start()
    try:
        await crowd.up()
        for number in range(KILLS):
            asking.append(asyncio.create_task(asks_until_known(crowd, number, together=number % 3 == 0)))
            await asyncio.sleep(chance.uniform(0.0, 1.2))
            await bots.end(signal.SIGKILL)
            if isinstance(crowd, DiscordCrowd):
                ended += crowd.end_some_tokens(lambda: chance.random() < 0.3)
            if not LONG:
                for table in ("inbox", "deliveries"):
                    await sql.execute(ENDED_LEASES.format(table))
            await bots.start()
            await crowd.up()
        tries = [each for tried in await asyncio.gather(*asking) for each in tried]

        async def taken() -> list[Asked]:
            # What was stored is done, though its person may have been told that nobody responded.
            prompts = {row["prompt"] for row in await sql.fetch("SELECT metadata ->> 'prompt' AS prompt FROM jobs")}
            return [each for each in tries if each.words in prompts]

        async with asyncio.timeout(240):
            while True:
                open_updates = await sql.fetchval("SELECT count(*) FROM inbox WHERE ended_at IS NULL")
                asked = await taken()
                if not open_updates and all(crowd.results(each) for each in asked):
                    break
                await asyncio.sleep(0.2)
        assert {each.number for each in asked} == set(range(KILLS)), "somebody who was answered has no job"
        return asked, ended
    finally:
        for task in asking:
            task.cancel()

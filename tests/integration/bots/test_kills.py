"""Bots killed -9 at random moments: each person has each result once, each request is one job, charged once.

``TESSERA_BOT_KILLS=50`` makes it longer; the seed is printed, and ``TESSERA_BOT_SEED`` repeats it.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
from collections import Counter
from pathlib import Path

import pytest

from tessera.store.database import connect
from tests.demo_bots.scene import clean_environment, start_bots
from tests.fakes.telegram import FakeTelegram
from tests.integration.api_server import Api
from tests.integration.bots.world import FAST, Worker, token_of
from tests.integration.people import service_key

KILLS = int(os.environ.get("TESSERA_BOT_KILLS", "3"))
REQUESTS = max(6, KILLS)
BOTS = """
[[bots]]
id = "telegram-kill"
platform = "telegram"
kind = "image"
title = "Kill"
token = "env:KILL_TOKEN"
defaults = { area_px = 1048576 }
"""


@pytest.mark.timeout(1800 if KILLS > 10 else 280)
async def test_bots_that_are_killed_bring_each_result_exactly_once(api: Api, tmp_path: Path) -> None:
    seed = int(os.environ.get("TESSERA_BOT_SEED", "0")) or random.randrange(1, 10**6)
    sys.stdout.write(f"seed {seed}, {KILLS} kills, {REQUESTS} requests\n")
    chance = random.Random(seed)
    (tmp_path / "bots.toml").write_text(BOTS)
    async with FakeTelegram() as telegram:
        bot = telegram.add_bot(token_of(1), "kill_bot")
        people = [telegram.add_user(1000 + number, f"Person {number}") for number in range(REQUESTS)]
        environ = clean_environment() | {
            "TESSERA_HOME": str(tmp_path),
            "TESSERA_BOTS": str(tmp_path / "bots.toml"),
            "TESSERA_URL": api.url,
            "TESSERA_SERVICE_KEY": await service_key(api),
            "TESSERA_TELEGRAM_API": telegram.url,
            "TESSERA_TELEGRAM_HEALTH_PORT": "0",
            "TESSERA_BOTS_PACE": str(FAST),
            "KILL_TOKEN": token_of(1),
        }
        (tmp_path / "run").mkdir()
        waiting = list(people)
        working = asyncio.create_task(Worker(api).run())
        process = await start_bots("telegram", environ, tmp_path)
        try:
            for _ in range(KILLS):
                calls = len(telegram.calls)
                await telegram.until(lambda calls=calls: len(telegram.calls) > calls, "the bot is up")
                for _ in range(max(1, REQUESTS // KILLS)):
                    if waiting:
                        person = waiting.pop()
                        await telegram.say(bot, person, f"a fox for {person.name}")
                await asyncio.sleep(chance.uniform(0.0, 1.2))
                process.send_signal(signal.SIGKILL)
                await process.wait()
                process = await start_bots("telegram", environ, tmp_path)
            for person in waiting:
                await telegram.say(bot, person, f"a fox for {person.name}")

            def all_served() -> bool:
                return all(telegram.results(person.id) for person in people)

            await telegram.until(all_served, "everybody has a result", timeout_s=240)
        finally:
            process.terminate()
            await process.wait()
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)
        results = Counter(len(telegram.results(person.id)) for person in people)
        assert results == {1: REQUESTS}, f"seed {seed}: {results}"
        orphans = sum(len(telegram.seen(person.id, by_bot=True)) - 1 for person in people)
        sys.stdout.write(f"{REQUESTS} people, one result each; {orphans} empty status messages were left behind\n")
    sql = await connect(api.services.settings.database_url, name="tests")
    rows = await sql.fetch(
        "SELECT u.name, count(*) AS jobs, count(*) FILTER (WHERE j.state = 'completed') AS completed,"
        " sum(j.charged_mt) AS charged FROM jobs j JOIN users u ON u.id = j.user_id GROUP BY u.name"
    )
    await sql.close()
    assert len(rows) == REQUESTS
    assert all((row["jobs"], row["completed"], row["charged"]) == (1, 1, 1000) for row in rows), f"seed {seed}: {rows}"

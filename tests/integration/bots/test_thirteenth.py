"""A thirteenth bot is five lines in a file: the same command starts it, and it answers beside the others."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

from bots.config import bots_file, load_bots
from tests.demo_bots.scene import clean_environment
from tests.fakes.telegram import FakeTelegram
from tests.integration.api_server import Api
from tests.integration.bots.forks import forks_of
from tests.integration.bots.world import Worker, token_of
from tests.integration.people import service_key

FIVE_LINES = """
[[bots]]
id = "telegram-ink"
platform = "telegram"
kind = "image"
title = "Tessera Ink"
token = "env:TESSERA_TELEGRAM_INK"
"""
LOOK = 'look = "ink drawing, fine lines"\n'


async def test_five_lines_make_a_thirteenth_bot_that_answers_beside_the_others(api: Api, tmp_path: Path) -> None:
    shipped = bots_file({}).read_text(encoding="utf-8")
    path = tmp_path / "bots.toml"
    path.write_text(shipped, encoding="utf-8")
    (tmp_path / "run").mkdir()
    async with FakeTelegram() as telegram:
        environ = clean_environment() | {
            "TESSERA_HOME": str(tmp_path),
            "TESSERA_BOTS": str(path),
            "TESSERA_URL": api.url,
            "TESSERA_SERVICE_KEY": await service_key(api),
            "TESSERA_TELEGRAM_API": telegram.url,
            "TESSERA_TELEGRAM_HEALTH_PORT": "0",
            "TESSERA_TELEGRAM_INK": token_of(13),
        }
        for number, bot in enumerate(load_bots(path).of("telegram"), 1):
            environ[bot.token.removeprefix("env:")] = token_of(number)
            telegram.add_bot(token_of(number), bot.id.replace("-", "_"))
        ink = telegram.add_bot(token_of(13), "telegram_ink")
        user = telegram.add_user(4242, "Ada")
        working = asyncio.create_task(Worker(api).run())
        try:
            async with forks_of("telegram", environ, tmp_path) as bots:
                await bots.start()
                await telegram.until(lambda: len({c[1] for c in telegram.calls if c[2] == "getUpdates"}) == 6, "six up")
                assert ink.polling is None
            path.write_text(shipped + FIVE_LINES + LOOK, encoding="utf-8")
            async with forks_of("telegram", environ, tmp_path) as bots:
                await bots.start()
                await telegram.say(ink, user, "a fox")
                await telegram.until(lambda: telegram.results(user.id), "the thirteenth makes a picture")
        finally:
            working.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await working
        assert len({call[1] for call in telegram.calls if call[2] == "getUpdates"}) == 7
    assert (await api.sql.fetchval("SELECT input FROM jobs"))["prompt"] == "a fox, ink drawing, fine lines"

"""The bots as a part of the platform: ``up`` starts them, the keeper brings them back, the doctor names a bad token."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest

from bots.config import bots_file
from tests.acceptance.conftest import Platform
from tests.fakes.discord import FakeDiscord
from tests.fakes.telegram import FakeTelegram

BACK_S = 120
GOOD = "{}:AAHdqTcvCH1vGWJxfSeofSAs0K5PALDsaw{}"


def discord_token(number: int) -> str:
    return f"MTA{number:021d}.Gabcde.{'x' * 38}"


async def cli(platform: Platform, *arguments: str) -> Any:
    """What the command says as JSON; a check that fails is its answer, too."""
    done = await asyncio.to_thread(platform.cli, *arguments, "--json", timeout=300, check=False)
    assert done.stdout.strip(), done.stderr
    return json.loads(done.stdout)


async def parts(platform: Platform) -> dict[str, Any]:
    return {part["name"]: part for part in (await cli(platform, "status"))["parts"]}


def pid_of(platform: Platform, name: str) -> int:
    return int(json.loads((platform.home / "run" / f"bots-{name}.json").read_text())["pid"])


async def asked(platform: Platform, name: str, path: str) -> str:
    """What the process of the bots itself answers."""
    port = json.loads((platform.home / "run" / f"bots-{name}-health.json").read_text())["health_port"]
    async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}{path}") as answer:
        return await answer.text()


@pytest.mark.timeout(900)  # three times `up`, and processes that start anew
async def test_up_starts_the_bots_and_the_keeper_brings_them_back(platform: Platform, tmp_path: Path) -> None:
    secret = tmp_path / "oil"
    secret.write_text(GOOD.format(7_200_002, 2))
    secret.chmod(0o600)
    file = tmp_path / "bots.toml"
    shipped = bots_file({}).read_text(encoding="utf-8")
    file.write_text(shipped.replace("env:TESSERA_TELEGRAM_OIL", f"file:{secret}"), encoding="utf-8")
    async with FakeTelegram() as telegram, FakeDiscord() as discord:
        paint = telegram.add_bot(GOOD.format(7_200_001, 1), "paint_bot")
        oil = telegram.add_bot(GOOD.format(7_200_002, 2), "oil_bot")
        guild = discord.add_guild("Workshop")
        channel = discord.add_channel("pictures", guild)
        there = discord.add_bot(discord_token(1), "Paint", guild)
        ada, ben = telegram.add_user(4242, "Ada"), discord.add_user("Ben")
        environ = {
            "TESSERA_BOTS": str(file),
            "TESSERA_TELEGRAM_API": telegram.url,
            "TESSERA_DISCORD_API": discord.url,
            "TESSERA_DISCORD_GATEWAY": discord.gateway,
            "TESSERA_TELEGRAM_HEALTH_PORT": "0",
            "TESSERA_DISCORD_HEALTH_PORT": "0",
            "TESSERA_TELEGRAM_PAINT": paint.token,
            "TESSERA_TELEGRAM_POSTER": GOOD.format(7_200_009, 9),
            "TESSERA_DISCORD_PAINT": there.token,
            "TESSERA_DISCORD_OIL": discord_token(9),
        }
        with_bots = replace(platform, environment={**platform.environment, **environ})
        try:
            assert "error" not in await cli(with_bots, "up")
            found = await parts(with_bots)
            assert found["bots-telegram"]["state"] == found["bots-discord"]["state"] == "running"
            await telegram.say(paint, ada, "a lighthouse")
            await telegram.until(lambda: telegram.results(ada.id), "a picture in Telegram", BACK_S)
            await discord.until(lambda: there.ready.is_set() and there.commands, "the bot is connected", BACK_S)
            await discord.command(there, channel, ben, "imagine", {"prompt": "a lighthouse"})
            await discord.until(lambda: discord.results(channel), "a picture in Discord", BACK_S)

            ill = next(check for check in (await cli(with_bots, "doctor"))["findings"] if check["check"] == "bots")
            assert ill["verdict"] == "fail" and "token" in ill["fix"]
            assert "telegram-poster is refused" in ill["detail"] and "discord-oil is refused" in ill["detail"]
            assert "telegram-paint" not in ill["detail"] and "AAHdqT" not in json.dumps(ill)
            health = json.loads(await asked(with_bots, "telegram", "/healthz"))
            assert health["bots"]["telegram-oil"]["state"] == "up" and not health["ok"]
            metrics = await asked(with_bots, "telegram", "/metrics")
            assert 'tessera_bot_up{bot="telegram-paint"} 1.0' in metrics
            assert 'tessera_bot_up{bot="telegram-poster"} 0.0' in metrics

            before = {name: pid_of(with_bots, name) for name in ("telegram", "discord")}
            for pid in before.values():
                os.kill(pid, signal.SIGKILL)
            await telegram.say(oil, ada, "a lighthouse by night")
            await telegram.until(lambda: len(telegram.results(ada.id)) == 2, "the keeper starts it again", BACK_S)
            await discord.until(lambda: there.identified >= 2, "and this one", BACK_S)
            assert all(pid_of(with_bots, name) != pid for name, pid in before.items())

            # A thirteenth, and a token that was corrected in its file: 'up' sees both.
            ink = telegram.add_bot(GOOD.format(7_200_013, 3), "ink_bot")
            entry = '[[bots]]\nid = "telegram-ink"\nplatform = "telegram"\nkind = "image"\ntitle = "Ink"\n'
            (tmp_path / "ink").write_text(ink.token)
            (tmp_path / "ink").chmod(0o600)
            file.write_text(f'{file.read_text()}\n{entry}token = "file:{tmp_path}/ink"\n', encoding="utf-8")
            old = pid_of(with_bots, "telegram")
            assert "error" not in await cli(with_bots, "up")
            assert pid_of(with_bots, "telegram") != old
            await telegram.until(lambda: ink.polling is not None, "the thirteenth is up", BACK_S)
            again = pid_of(with_bots, "telegram")
            assert "error" not in await cli(with_bots, "up")
            assert pid_of(with_bots, "telegram") == again, "nothing has changed: nothing is started again"
            log = (platform.home / "logs" / "bots-telegram.log").read_text()
            assert "AAHdqT" not in log and "token_refused" in log
        finally:
            await cli(platform, "up")
        assert not psutil.pid_exists(again) or psutil.Process(again).status() == psutil.STATUS_ZOMBIE
        assert "bots-telegram" not in await parts(platform)

"""What the conversations of the demo share: the fakes, the bots' processes, and the list of what was expected."""

from __future__ import annotations

import asyncio
import io
import os
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from PIL import Image, ImageDraw

from bots.config import BotConfig, bots_file, load_bots
from tests.fakes.discord import FakeDiscord
from tests.fakes.discord_chats import FakeDiscordBot
from tests.fakes.telegram import FakeTelegram
from tests.fakes.telegram_chats import FakeBot

STEP_TIMEOUT_S = 300.0  # two slots render for all bots at once, on a machine that may be busy


@dataclass
class Step:
    """One thing that was expected of a bot."""

    bot: str
    what: str
    ok: bool
    detail: str = ""


@dataclass
class Scene:
    """The two fakes with all bots in them, and what happened."""

    telegram: FakeTelegram
    discord: FakeDiscord
    bots: tuple[BotConfig, ...]
    telegram_bots: dict[str, FakeBot] = field(default_factory=dict)
    discord_bots: dict[str, FakeDiscordBot] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)
    conversations: int = 0
    names: dict[str, str] = field(default_factory=dict)  # of a chat → what it shows

    async def step(self, bot: str, what: str, work: Awaitable[Any]) -> Any:
        """Do it, and write down whether it went as expected. A step that failed ends its conversation."""
        try:
            async with asyncio.timeout(STEP_TIMEOUT_S + 10):
                result = await work
        except (AssertionError, TimeoutError) as error:
            detail = (str(error) or type(error).__name__).splitlines()[0][:300]
            self.steps.append(Step(bot, what, False, detail))
            sys.stdout.write(f"  ✗ {bot}: {what}: {detail}\n")
            raise EndOfConversation from error
        self.steps.append(Step(bot, what, True))
        sys.stdout.write(f"  ✓ {bot}: {what}\n")
        sys.stdout.flush()
        return result

    async def talk(self, conversation: Callable[[], Awaitable[None]]) -> None:
        """One conversation; what fails in it does not end the others."""
        self.conversations += 1
        try:
            await conversation()
        except EndOfConversation:
            return
        except AssertionError as error:  # what was seen is not what was expected
            self.steps.append(Step(self.steps[-1].bot, "shows it as expected", False, str(error)[:300]))
            sys.stdout.write(f"  ✗ {error}\n")


class EndOfConversation(Exception):
    """A step did not get its expected answer."""


def build(telegram: FakeTelegram, discord: FakeDiscord, environ: dict[str, str]) -> Scene:
    """Every bot of the file gets a token of its own in the fakes, and in ``environ``."""
    scene = Scene(telegram, discord, load_bots(bots_file(environ)).bots)
    guild = discord.add_guild("Tessera Workshop")
    for number, bot in enumerate(scene.bots, 1):
        variable = bot.token.removeprefix("env:")
        if bot.platform == "telegram":
            token = f"{7_100_000 + number}:AAHdqTcvCH1vGWJxfSeofSAs0K5PALDs{number:03d}"
            scene.telegram_bots[bot.id] = telegram.add_bot(token, bot.id.replace("-", "_") + "_bot")
        else:
            token = f"MTA{number:021d}.Gabcde.{'x' * 38}"
            scene.discord_bots[bot.id] = discord.add_bot(token, bot.title, guild)
        environ[variable] = token
    environ["TESSERA_TELEGRAM_API"] = telegram.url
    environ["TESSERA_DISCORD_API"] = discord.url
    environ["TESSERA_DISCORD_GATEWAY"] = discord.gateway
    environ["TESSERA_TELEGRAM_HEALTH_PORT"] = environ["TESSERA_DISCORD_HEALTH_PORT"] = "0"
    return scene


@asynccontextmanager
async def bots_running(environ: dict[str, str], logs: Path) -> AsyncIterator[dict[str, asyncio.subprocess.Process]]:
    """The two processes, as ``make up`` starts them, until the context ends."""
    running: dict[str, asyncio.subprocess.Process] = {}
    try:
        for platform in ("telegram", "discord"):
            running[platform] = await start_bots(platform, environ, logs)
        yield running
    finally:
        for process in running.values():
            if process.returncode is None:
                process.terminate()
        for process in running.values():
            try:
                async with asyncio.timeout(15):
                    await process.wait()
            except TimeoutError:
                process.kill()
                await process.wait()


async def start_bots(platform: str, environ: dict[str, str], logs: Path) -> asyncio.subprocess.Process:
    """One process of bots; what it logs goes to a file."""
    log = await asyncio.to_thread((logs / f"bots-{platform}.log").open, "ab")
    try:
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "bots",
            platform,
            env=environ,
            stdout=log,
            stderr=log,
            stdin=asyncio.subprocess.DEVNULL,
        )
    finally:
        log.close()


def photo_of_a_kettle() -> bytes:
    """A picture that a person sends."""
    image = Image.new("RGB", (512, 384), (214, 226, 236))
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, 280, 512, 384), fill=(120, 84, 60))
    draw.ellipse((150, 130, 350, 310), fill=(188, 44, 52))
    draw.polygon([(340, 180), (430, 140), (420, 170), (345, 220)], fill=(188, 44, 52))
    draw.arc((180, 70, 320, 190), 180, 360, fill=(40, 40, 44), width=12)
    out = io.BytesIO()
    image.save(out, "JPEG", quality=88)
    return out.getvalue()


async def is_ready(url: str) -> bool:
    """Whether a platform answers there and is ready."""
    try:
        timeout = aiohttp.ClientTimeout(total=5)
        async with aiohttp.ClientSession(timeout=timeout) as session, session.get(f"{url}/readyz") as answer:
            return answer.status == 200
    except (aiohttp.ClientError, TimeoutError):
        return False


def scratch() -> Path:
    """A folder for a run's home and logs."""
    return Path(tempfile.mkdtemp(prefix="tessera-demo-bots-"))


def clean_environment() -> dict[str, str]:
    """This environment without what leads to a platform of the developer's."""
    return {k: v for k, v in os.environ.items() if not k.startswith(("TESSERA_", "RAY_", "DATABASE_URL"))}

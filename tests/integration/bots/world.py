"""Bots against the real API over a real Postgres and a fake platform; the test plays the scheduler and the people."""

from __future__ import annotations

import asyncio
import contextlib
import io
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg
from PIL import Image

from bots.config import LIMITS, BotConfig, BotsSettings, Token
from bots.discord.process import make_process as make_discord_process
from bots.process import Process
from bots.telegram.process import make_process
from tessera.ids import Prefix, new_id, show
from tessera.store.database import connect
from tests.fakes.discord import Channel, FakeDiscord, FakeDiscordBot
from tests.fakes.discord import Message as DiscordMessage
from tests.fakes.discord import User as Person
from tests.fakes.telegram import FakeBot, FakeTelegram, Message, User
from tests.integration.api_server import Api
from tests.integration.people import service_key
from tests.unit import media_files

TELEGRAM_TOKEN = "{}:AAHdqTcvCH1vGWJxfSeofSAs0K5PALDsaw{}"
WHOLE_TOKENS: dict[str, Any] = {"defaults": {"area_px": 1024 * 1024}}  # so that a picture costs one
FAST = 40.0  # the fakes' clocks and the bots' limits run so much faster than the real ones


def png(width: int = 96, height: int = 64, colour: tuple[int, int, int] = (40, 90, 160)) -> bytes:
    """A picture that opens."""
    out = io.BytesIO()
    Image.new("RGB", (width, height), colour).save(out, "PNG")
    return out.getvalue()


def noise(side_px: int) -> bytes:
    """A picture that no format makes small."""
    out = io.BytesIO()
    Image.effect_noise((side_px, side_px), 90).convert("RGB").save(out, "PNG")
    return out.getvalue()


def clip() -> bytes:
    """A clip that opens."""
    return media_files.clip("mp4")


def token_of(number: int) -> str:
    """A token of the right form for the fake Telegram."""
    return TELEGRAM_TOKEN.format(7_000_000 + number, number % 10)


@dataclass
class Worker:
    """Plays the scheduler: every job that is queued gets a picture, unless it is held."""

    api: Api
    hold: bool = False
    made: list[str] = field(default_factory=list)
    outcome: Callable[[dict[str, Any]], dict[str, Any] | None] = lambda job: None
    picture: Callable[[], bytes] = png
    clip: Callable[[], bytes] = clip

    async def run(self) -> None:
        while True:
            await asyncio.sleep(0.02)
            if not self.hold:
                await self.work()

    async def work(self) -> None:
        rows = await self.api.sql.fetch(
            "SELECT id, kind, input, metadata FROM jobs WHERE state = 'queued' ORDER BY created_at LIMIT 20"
        )
        for row in rows:
            job_id = show(Prefix.JOB, row["id"])
            with contextlib.suppress(AssertionError):  # cancelled meanwhile
                await self.end(job_id, dict(row))

    async def end(self, job_id: str, job: dict[str, Any]) -> None:
        special = self.outcome(job)
        attempt = await self.api.claim(job_id)
        if special is not None:
            await self.api.finish(job_id, attempt, **special)
            return
        await self.bring(job_id, attempt, job)

    async def bring(self, job_id: str, attempt: int, job: dict[str, Any]) -> None:
        """The run of a job ends well."""
        count = int(job["input"].get("count") or 1)
        artifacts = []
        for index in range(count):
            is_clip = job["kind"] == "video"
            data = self.clip() if is_clip else self.picture()
            artifacts.append(
                {
                    "id": str(new_id()),
                    "index": index,
                    "sha256": await self.api.store.put(data),
                    "media_type": "video/mp4" if is_clip else "image/png",
                    "bytes": len(data),
                    "width": 64 if is_clip else 96,
                    "height": 48 if is_clip else 64,
                    **({"duration_s": 2.0} if is_clip else {}),
                }
            )
        await self.api.finish(job_id, attempt, artifacts=artifacts, output={"engine": "fake/1", "preview": True})
        self.made.append(job_id)


@dataclass
class TelegramWorld:
    """One Telegram bot and what is around it."""

    api: Api
    telegram: FakeTelegram
    bot: FakeBot
    user: User
    worker: Worker
    settings: BotsSettings
    process: Process
    sql: asyncpg.Connection  # to look behind it: the worker is busy on the API's own
    _task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self.process = make_process(self.settings)
        self._task = asyncio.create_task(self.process.run())

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def result(self, number: int = 1, chat: int | None = None) -> Message:
        """The n-th result in the chat, once it is there."""
        where = chat if chat is not None else self.user.id

        def found() -> Any:
            results = self.telegram.results(where)
            return len(results) >= number and results[number - 1]

        return await self.telegram.until(found, f"result {number}")

    async def said(self, words: str, chat: int | None = None) -> Message:
        """The last message of the bot with these words, once it is there."""
        where = chat if chat is not None else self.user.id

        def found() -> Any:
            return next((m for m in reversed(self.telegram.seen(where, by_bot=True)) if words in m.text), None)

        return await self.telegram.until(found, f"the bot says {words!r}")


def telegram_settings(api: Api, telegram: FakeTelegram, key: str, folder: Path, bots: list[BotConfig]) -> BotsSettings:
    return BotsSettings(
        platform="telegram",
        bots=tuple(bots),
        url=api.url,
        public_url="https://tessera.example",
        key=Token(key),
        tokens={bot.id: Token(token_of(number)) for number, bot in enumerate(bots, 1)},
        missing={},
        limits=LIMITS["telegram"].faster(FAST),
        api=telegram.url,
        gateway="",
        health_port=0,
        state_file=folder / "run" / "bots-telegram-state.json",
    )


@contextlib.asynccontextmanager
async def telegram_world(
    api: Api, folder: Path, kind: str = "image", *, works: bool = True, **config: Any
) -> AsyncIterator[TelegramWorld]:
    """One bot, up, with a person who speaks English; ``works``: with a worker."""
    async with FakeTelegram() as telegram:
        bot = telegram.add_bot(token_of(1), "paint_bot")
        user = telegram.add_user(4242, "Ada")
        made = BotConfig(
            id="telegram-test", platform="telegram", kind=kind, title="Test", token="env:T", **(WHOLE_TOKENS | config)
        )
        settings = telegram_settings(api, telegram, await service_key(api), folder, [made])
        worker = Worker(api, hold=not works)
        sql = await connect(api.services.settings.database_url, name="tests")
        working = asyncio.create_task(worker.run())
        world = TelegramWorld(api, telegram, bot, user, worker, settings, None, sql)  # type: ignore[arg-type]
        try:
            await world.start()
            yield world
        finally:
            await world.stop()
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)
            await sql.close()


@dataclass
class DiscordWorld:
    """One Discord bot and what is around it."""

    api: Api
    discord: FakeDiscord
    bot: FakeDiscordBot
    guild: int
    channel: Channel
    user: Person
    worker: Worker
    settings: BotsSettings
    sql: asyncpg.Connection  # to look behind it: the worker is busy on the API's own
    process: Process | None = None
    _task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self.process = make_discord_process(self.settings)
        self._task = asyncio.create_task(self.process.run())
        await self.discord.until(lambda: self.bot.ready.is_set() and self.bot.commands, "the bot is connected")

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
            self.bot.ready.clear()
            await asyncio.sleep(0.05)  # discord.py's last events are heard before the loop ends

    async def result(self, number: int = 1, channel: Channel | None = None) -> DiscordMessage:
        """The n-th result in the channel, once it is there."""

        def found() -> Any:
            results = self.discord.results(channel or self.channel, self.user)
            return len(results) >= number and results[number - 1]

        return await self.discord.until(found, f"result {number}")

    async def said(self, words: str, channel: Channel | None = None, user: Person | None = None) -> DiscordMessage:
        """The last message of the bot with these words, once the person sees it."""

        def found() -> Any:
            seen = self.discord.seen(channel or self.channel, user or self.user)
            return next((m for m in reversed(seen) if m.by_bot and words in m.text), None)

        return await self.discord.until(found, f"the bot says {words!r}")


def discord_settings(api: Api, discord: FakeDiscord, key: str, folder: Path, bots: list[BotConfig]) -> BotsSettings:
    return BotsSettings(
        platform="discord",
        bots=tuple(bots),
        url=api.url,
        public_url="https://tessera.example",
        key=Token(key),
        tokens={bot.id: Token(discord_token(number)) for number, bot in enumerate(bots, 1)},
        missing={},
        limits=LIMITS["discord"].faster(FAST),
        api=discord.url,
        gateway=discord.gateway,
        health_port=0,
        state_file=folder / "run" / "bots-discord-state.json",
    )


def discord_token(number: int) -> str:
    """A token of the right form for the fake Discord."""
    return f"MTA{number:021d}.Gabcde.{'x' * 38}"


@contextlib.asynccontextmanager
async def discord_world(
    api: Api, folder: Path, kind: str = "image", *, works: bool = True, **config: Any
) -> AsyncIterator[DiscordWorld]:
    """One bot, up, in a server with one channel, and a person who speaks English; ``works``: with a worker."""
    async with FakeDiscord() as discord:
        guild = discord.add_guild("Workshop")
        channel = discord.add_channel("pictures", guild)
        bot = discord.add_bot(discord_token(1), "Tessera Test", guild)
        user = discord.add_user("Ada")
        made = BotConfig(
            id="discord-test", platform="discord", kind=kind, title="Test", token="env:D", **(WHOLE_TOKENS | config)
        )
        settings = discord_settings(api, discord, await service_key(api), folder, [made])
        worker = Worker(api, hold=not works)
        sql = await connect(api.services.settings.database_url, name="tests")
        working = asyncio.create_task(worker.run())
        world = DiscordWorld(api, discord, bot, guild, channel, user, worker, settings, sql)
        try:
            await world.start()
            yield world
        finally:
            await world.stop()
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)
            await sql.close()

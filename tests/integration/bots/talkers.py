"""One person who talks to one bot, the same in Telegram and in Discord: what both platforms promise is tested once."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from tests.fakes.chats import File
from tests.integration.api_server import Api
from tests.integration.bots.world import DiscordWorld, TelegramWorld, discord_world, telegram_world

PLATFORMS = ("telegram", "discord")


class Talker(Protocol):
    """A person in private with the bot. ``world`` has what is around them."""

    world: Any
    platform: str

    async def command(self, name: str, text: str = "", **options: Any) -> None:
        """``/name``; Telegram gets ``text``, Discord ``options``."""

    async def press(self, message: Any, label: str) -> None:
        """A button."""

    async def said(self, words: str) -> Any:
        """The last message with these words, once it is there."""

    async def result(self, number: int = 1) -> Any:
        """The n-th result."""

    def files(self) -> list[File]:
        """Every file that the bot has sent, the newest last."""

    async def has_file(self, ending: str) -> File:
        """The newest file whose name ends so, once it is there."""


@dataclass
class TelegramTalker:
    world: TelegramWorld
    platform: str = "telegram"

    async def command(self, name: str, text: str = "", **options: Any) -> None:
        await self.world.telegram.say(self.world.bot, self.world.user, f"/{name} {text}".strip())

    async def press(self, message: Any, label: str) -> None:
        await self.world.telegram.press(self.world.bot, self.world.user, message, label)

    async def said(self, words: str) -> Any:
        return await self.world.said(words)

    async def result(self, number: int = 1) -> Any:
        return await self.world.result(number)

    def files(self) -> list[File]:
        seen = self.world.telegram.seen(self.world.user.id, by_bot=True)
        return [message.file for message in seen if message.file is not None]

    async def has_file(self, ending: str) -> File:
        def found() -> Any:
            return next((file for file in reversed(self.files()) if file.name.endswith(ending)), None)

        file: File = await self.world.telegram.until(found, f"a file {ending}")
        return file


@dataclass
class DiscordTalker:
    world: DiscordWorld
    platform: str = "discord"

    async def command(self, name: str, text: str = "", **options: Any) -> None:
        await self.world.discord.command(self.world.bot, self.world.channel, self.world.user, name, options)

    async def press(self, message: Any, label: str) -> None:
        await self.world.discord.press(self.world.bot, self.world.user, message, label)

    async def said(self, words: str) -> Any:
        return await self.world.said(words)

    async def result(self, number: int = 1) -> Any:
        return await self.world.result(number)

    def files(self) -> list[File]:
        return [
            file for message in self.world.discord.seen(self.world.channel, self.world.user) for file in message.files
        ]

    async def has_file(self, ending: str) -> File:
        def found() -> Any:
            return next((file for file in reversed(self.files()) if file.name.endswith(ending)), None)

        file: File = await self.world.discord.until(found, f"a file {ending}")
        return file


@contextlib.asynccontextmanager
async def talker_of(
    platform: str, api: Api, folder: Path, kind: str = "image", **config: Any
) -> AsyncIterator[TelegramTalker | DiscordTalker]:
    """A person and a bot of this kind."""
    if platform == "telegram":
        async with telegram_world(api, folder, kind, **config) as world:
            yield TelegramTalker(world)
    else:
        async with discord_world(api, folder, kind, **config) as there:
            yield DiscordTalker(there)

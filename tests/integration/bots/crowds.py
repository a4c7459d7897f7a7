"""People who ask a bot in a process of its own: the same crowd in Telegram and in Discord, for kills and floods."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from tests.demo_bots.scene import clean_environment
from tests.fakes.discord import FakeDiscord
from tests.fakes.discord_chats import Channel, FakeDiscordBot, Interaction
from tests.fakes.discord_chats import Message as DiscordMessage
from tests.fakes.discord_chats import User as Friend
from tests.fakes.telegram import FakeTelegram
from tests.fakes.telegram_chats import FakeBot, Message, User
from tests.integration.api_server import Api
from tests.integration.bots.world import discord_token, token_of
from tests.integration.people import service_key

START_S = 240.0  # a process of bots begins within a second or two, on a machine that has nothing else to do
LATER = 5  # the first answer that Discord shows as 'thinking'
NO_ANSWER_S = 3.0  # Discord tells a person that the application did not respond, and the person asks again
BOTS = """
[[bots]]
id = "{platform}-{name}"
platform = "{platform}"
kind = "image"
title = "Crowd"
token = "env:CROWD_TOKEN"
defaults = {{ area_px = 1048576 }}
"""


@dataclass
class Asked:
    """One request of one person. ``known``: the bot has told the platform that it has it."""

    number: int
    words: str
    at: float
    known: Callable[[], bool] = lambda: True


class Crowd(Protocol):
    """A bot on a fake platform, and people who can ask it."""

    platform: str
    environ: dict[str, str]
    calls: list[Any]

    async def until(self, condition: Callable[[], Any], what: str, timeout_s: float) -> Any:
        """Wait for something on the fake."""

    async def ask(self, number: int, *, together: bool = False) -> Asked:
        """Person ``number`` asks for a picture: in private, or ``together`` with all others in one group."""

    def results(self, asked: Asked) -> int:
        """How many results of this request there are."""

    def answered_s(self, asked: Asked) -> float | None:
        """How long the first sign of the bot took, None before it."""

    def left_over(self) -> int:
        """Messages of the bot that never became a result."""

    async def up(self) -> None:
        """Wait until a bot process that was just started is connected."""


@dataclass
class TelegramCrowd:
    """In Telegram the bot has a request when its update is acknowledged; until then it is brought again."""

    telegram: FakeTelegram
    bot: FakeBot
    environ: dict[str, str]
    platform: str = "telegram"
    group: int = -1002000000099
    people: dict[int, User] = field(default_factory=dict)
    calls: list[Any] = field(default_factory=list)

    async def until(self, condition: Callable[[], Any], what: str, timeout_s: float) -> Any:
        return await self.telegram.until(condition, what, timeout_s)

    async def ask(self, number: int, *, together: bool = False) -> Asked:
        user = self.people.get(number) or self.telegram.add_user(100_000 + number, f"Person {number:03d}")
        self.people[number] = user
        words = f"a fox for person {number:03d}"
        if together:
            if self.group not in self.telegram.chats:
                self.telegram.add_group(self.group, "The crowd")
            words += " in the group"
            await self.telegram.say(self.bot, user, f"/imagine {words}", chat=self.group)
        else:
            await self.telegram.say(self.bot, user, words)
        return Asked(number, words, time.time())

    def _mine(self, asked: Asked) -> list[Message]:
        chat = self.group if asked.words.endswith("group") else 100_000 + asked.number
        seen = self.telegram.seen(chat, by_bot=True)
        return [message for message in seen if asked.words in message.text.split("\n")[0]]

    def results(self, asked: Asked) -> int:
        return sum(message.file is not None and len(message.buttons) > 1 for message in self._mine(asked))

    def answered_s(self, asked: Asked) -> float | None:
        mine = self._mine(asked)
        return min(message.history[0].at for message in mine) - asked.at if mine else None

    def left_over(self) -> int:
        chats = [self.telegram.chats[user.id] for user in self.people.values()]
        shown = [m for chat in chats for m in chat.messages.values() if m.by_bot and not m.deleted]
        return sum(message.file is None for message in shown)

    async def up(self) -> None:
        calls = len(self.telegram.calls)
        await self.until(
            lambda: any(c[2] == "getUpdates" for c in self.telegram.calls[calls:]), "the bot is up", START_S
        )


@dataclass
class DiscordCrowd:
    """In Discord a command that nobody acknowledges is over after three seconds, and its person asks again."""

    discord: FakeDiscord
    bot: FakeDiscordBot
    guild: int
    square: Channel
    environ: dict[str, str]
    platform: str = "discord"
    people: dict[int, Friend] = field(default_factory=dict)
    asked: list[tuple[Asked, Interaction]] = field(default_factory=list)
    calls: list[Any] = field(default_factory=list)

    async def until(self, condition: Callable[[], Any], what: str, timeout_s: float) -> Any:
        return await self.discord.until(condition, what, timeout_s)

    async def ask(self, number: int, *, together: bool = False) -> Asked:
        friend = self.people.get(number) or self.discord.add_user(f"Person {number:03d}")
        self.people[number] = friend
        count = len(self.asked)
        words = f"a fox for person {number:03d} request {count:04d}"
        channel = self.square if together else self.discord.direct(friend, self.bot)
        interaction = await self.discord.command(self.bot, channel, friend, "imagine", {"prompt": words})
        asked = Asked(number, words, time.time(), lambda: interaction.kind == LATER)
        self.asked.append((asked, interaction))
        return asked

    def _shown(self, asked: Asked) -> list[DiscordMessage]:
        channels = (self.square, self.discord.direct(self.people[asked.number], self.bot))
        return [m for channel in channels for m in channel.messages.values() if not m.deleted and asked.words in m.text]

    def results(self, asked: Asked) -> int:
        return sum(bool(message.files) and len(message.buttons) > 1 for message in self._shown(asked))

    def answered_s(self, asked: Asked) -> float | None:
        interaction = next(each for known, each in self.asked if known is asked)
        return interaction.acknowledged_s if interaction.kind == LATER else None

    def left_over(self) -> int:
        shown = [m for c in self.discord.channels.values() for m in c.messages.values() if m.by_bot and not m.deleted]
        return sum(not message.files for message in shown)

    async def up(self) -> None:
        self.bot.ready.clear()
        await self.until(lambda: self.bot.ready.is_set() and self.bot.commands, "the bot is up", START_S)

    def end_some_tokens(self, chance: Callable[[], bool]) -> int:
        """As if fifteen minutes had passed for some of what was acknowledged; how many."""
        ended = 0
        for asked, interaction in self.asked:
            if interaction.kind and not interaction.over and not self.results(asked) and chance():
                interaction.over = True
                ended += 1
        return ended


@contextlib.asynccontextmanager
async def crowd_of(
    platform: str, api: Api, folder: Path, pace: float, name: str = "crowd"
) -> AsyncIterator[TelegramCrowd | DiscordCrowd]:
    """A fake platform with one bot of this name; ``environ`` is what its process needs."""
    (folder / "run").mkdir(exist_ok=True)
    (folder / "bots.toml").write_text(BOTS.format(platform=platform, name=name))
    environ = clean_environment() | {
        "TESSERA_HOME": str(folder),
        "TESSERA_BOTS": str(folder / "bots.toml"),
        "TESSERA_URL": api.url,
        "TESSERA_SERVICE_KEY": await service_key(api),
        f"TESSERA_{platform.upper()}_HEALTH_PORT": "0",
        "TESSERA_BOTS_PACE": str(pace),
    }
    if platform == "telegram":
        async with FakeTelegram() as telegram:
            environ |= {"CROWD_TOKEN": token_of(1), "TESSERA_TELEGRAM_API": telegram.url}
            yield TelegramCrowd(telegram, telegram.add_bot(token_of(1), "crowd_bot"), environ)
        return
    async with FakeDiscord() as discord:
        guild = discord.add_guild("The crowd")
        environ |= {
            "CROWD_TOKEN": discord_token(1),
            "TESSERA_DISCORD_API": discord.url,
            "TESSERA_DISCORD_GATEWAY": discord.gateway,
        }
        square = discord.add_channel("square", guild)
        yield DiscordCrowd(discord, discord.add_bot(discord_token(1), "Crowd", guild), guild, square, environ)


async def asks_until_known(crowd: Crowd, number: int, *, together: bool = False) -> list[Asked]:
    """Person ``number`` asks, and asks again when the platform says that the bot did not respond."""
    made = []
    while True:
        asked = await crowd.ask(number, together=together)
        made.append(asked)
        with contextlib.suppress(AssertionError):
            await crowd.until(asked.known, "it is known", NO_ANSWER_S)
            return made

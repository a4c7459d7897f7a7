"""``python -m tests.demo_bots``: a platform, the fakes, all bots, the conversations, build/demo-bots/index.html.

It uses the platform at TESSERA_URL (with TESSERA_API_KEY of an operator) when that is ready, else it starts one of its
own on free ports and ends it. It ends with 0 only if every step got its expected answer and every file opens.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

from tessera.client import Client
from tests.acceptance.platform import running_platform
from tests.demo_bots import talks, transcript
from tests.demo_bots.scene import (
    EndOfConversation,
    Scene,
    bots_running,
    build,
    clean_environment,
    is_ready,
    scratch,
)
from tests.fakes.discord import FakeDiscord
from tests.fakes.telegram import FakeTelegram
from tests.fakes.telegram_chats import Limits

OUT = Path("build") / "demo-bots"
START_TIMEOUT_S = 120


@contextlib.asynccontextmanager
async def platform() -> AsyncIterator[tuple[str, str]]:
    """The address of a platform, and an operator's key for it."""
    url, key = os.environ.get("TESSERA_URL", "").rstrip("/"), os.environ.get("TESSERA_API_KEY", "")
    if url and key and await is_ready(url):
        sys.stdout.write(f"uses the platform at {url}\n")
        yield url, key
        return
    sys.stdout.write("starts a platform of its own…\n")
    sys.stdout.flush()
    context = running_platform()
    started = await asyncio.to_thread(context.__enter__)
    try:
        sys.stdout.write(f"platform at {started.url}\n")
        yield started.url, started.key
    finally:
        await asyncio.to_thread(context.__exit__, None, None, None)


async def main() -> int:
    """Play it; the exit code."""
    began = time.monotonic()
    folder = scratch()
    async with platform() as (url, key), Client(url, key) as operator, FakeTelegram() as telegram:
        telegram.limits = Limits()
        async with FakeDiscord() as discord:
            service = await operator.keys_create("demo-bots", scopes=("service",))
            environ = clean_environment()
            environ |= {name: os.environ[name] for name in ("TESSERA_BOTS",) if name in os.environ}
            environ |= {
                "TESSERA_HOME": str(folder / "home"),
                "TESSERA_URL": url,
                "TESSERA_SERVICE_KEY": service.api_key or "",
            }
            scene = build(telegram, discord, environ)
            (folder / "home" / "run").mkdir(parents=True)
            try:
                async with bots_running(environ, folder):
                    await play(scene)
            finally:
                await operator.keys_revoke(service.id)
            page = await asyncio.to_thread(transcript.write, scene, OUT)
    failed = [step for step in scene.steps if not step.ok]
    silent = {bot.id for bot in scene.bots} - {step.bot for step in scene.steps if step.ok}
    for step in failed:
        sys.stdout.write(f"✗ {step.bot}: {step.what}: {step.detail}\n")
    for name in page.broken:
        sys.stdout.write(f"✗ {name} does not open\n")
    if silent:
        sys.stdout.write(f"✗ never answered: {', '.join(sorted(silent))}\n")
    if failed or silent:
        sys.stdout.write(f"logs of the bots: {folder}\n")
    sys.stdout.write(
        f"{len(scene.bots)} bots, {scene.conversations} conversations, {page.results} results, {page.files} files, "
        f"{len(scene.steps) - len(failed)} of {len(scene.steps)} steps, "
        f"{time.monotonic() - began:.0f} s: {page.path}\n"
    )
    return 1 if failed or silent or page.broken else 0


async def play(scene: Scene) -> None:
    """All conversations, those of different bots at the same time."""
    with contextlib.suppress(EndOfConversation):
        for bot_id, bot in scene.discord_bots.items():
            connected = scene.discord.until(
                lambda bot=bot: bot.ready.is_set() and bot.commands, f"{bot_id} connects", START_TIMEOUT_S
            )
            await scene.step(bot_id, "is up and has told its commands", connected)
        for bot_id, chat_bot in scene.telegram_bots.items():
            polling = scene.telegram.until(
                lambda chat_bot=chat_bot: chat_bot.polling is not None and chat_bot.commands,
                f"{bot_id} connects",
                START_TIMEOUT_S,
            )
            await scene.step(bot_id, "is up and has told its commands", polling)
    await asyncio.gather(*(scene.talk(conversation) for conversation in conversations(scene)))


def conversations(scene: Scene) -> list[talks.Conversation]:
    """Who talks to which bot."""
    made: list[talks.Conversation] = []
    telegram, discord = scene.telegram, scene.discord
    languages = ("en", "de", "es", "ru", "pt", "en")
    by_platform = {name: [bot for bot in scene.bots if bot.platform == name] for name in ("telegram", "discord")}
    for number, bot in enumerate(by_platform["telegram"]):
        user = telegram.add_user(5001 + number, ("Ada", "Bruno", "Clara", "Daniil", "Elsa", "Finn")[number % 6])
        scene.names[str(user.id)] = f"{bot.title} · {user.name}"
        if bot.kind == "image":
            made.append(lambda bot=bot, user=user: talks.telegram_picture(scene, bot, user))
        else:
            user.language = languages[number % 6] if bot.id == "telegram-reel" else "en"
            made.append(lambda bot=bot, user=user: talks.telegram_clip(scene, bot, user))
    pictures = [bot for bot in by_platform["telegram"] if bot.kind == "image"]
    german = telegram.add_user(5101, "Greta", "de")
    scene.names[str(german.id)] = f"{pictures[-1].title} · Greta, auf Deutsch"
    made.append(lambda: talks.telegram_four(scene, pictures[-1], german))
    group = telegram.add_group(-1002000000001, "Evening Painters", admins=(5102,))
    scene.names[str(group.id)] = f"{pictures[0].title} · in the group Evening Painters"
    hana, ivo = telegram.add_user(5102, "Hana"), telegram.add_user(5103, "Ivo")
    made.append(lambda: talks.telegram_group(scene, pictures[0], hana, ivo, group.id))
    guild = next(iter(discord.guilds))
    for bot in by_platform["discord"]:
        channel = discord.add_channel(bot.id.removeprefix("discord-"), guild)
        friend = discord.add_user(f"{bot.id.split('-')[1].title()}fan")
        scene.names[str(channel.id)] = f"{bot.title} · #{channel.name}"
        talk = talks.discord_picture if bot.kind == "image" else talks.discord_clip
        made.append(lambda bot=bot, friend=friend, channel=channel, talk=talk: talk(scene, bot, friend, channel))
    both, also = telegram.add_user(5104, "Jana"), discord.add_user("Jana")
    scene.names["5104"] = f"{pictures[1].title} · Jana, who is in Discord, too"
    discord_pictures = [bot for bot in by_platform["discord"] if bot.kind == "image"]
    made.append(lambda: talks.linked(scene, pictures[1], discord_pictures[1], both, also))
    return made


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))

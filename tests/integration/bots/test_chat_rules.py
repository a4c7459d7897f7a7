"""Groups and servers: where a bot answers, topics and threads, what is for adults, spoilers, and who may press what."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.discord_chats import Channel
from tests.integration.api_server import Api
from tests.integration.bots.world import DiscordWorld, TelegramWorld, discord_world, telegram_world
from tests.integration.test_api_moderation import add_rule, operator_key

GROUP = -1002000000077


@pytest.fixture
async def telegram(api: Api, tmp_path: Path) -> AsyncIterator[TelegramWorld]:
    async with telegram_world(api, tmp_path) as world:
        world.telegram.add_group(GROUP, "Painters", admins=(90,))
        world.telegram.add_user(90, "Admin")
        yield world


@pytest.fixture
async def discord(api: Api, tmp_path: Path) -> AsyncIterator[DiscordWorld]:
    async with discord_world(api, tmp_path) as world:
        yield world


async def for_adults(world: Any, word: str) -> None:
    """An operator says that this word is for adults."""
    world.worker.hold = True
    await asyncio.sleep(0.1)  # the worker leaves the connection that is asked next
    await add_rule(world.api, await operator_key(world.api), word, "spoiler", age_restricted=True)
    world.worker.hold = False
    await asyncio.sleep(1.5)  # every replica looks for new rules each second


async def jobs(world: Any) -> int:
    return int(await world.sql.fetchval("SELECT count(*) FROM jobs"))


# Telegram


async def in_group(world: TelegramWorld, text: str, *, by: int = 0, topic: int | None = None) -> None:
    user = world.telegram.users[by] if by else world.user
    await world.telegram.say(world.bot, user, text, chat=GROUP, thread=topic)


async def test_an_admin_of_a_group_names_the_topics_and_nobody_else_does(telegram: TelegramWorld) -> None:
    world = telegram
    await in_group(world, "/rules")
    await world.said("Only an admin", GROUP)
    await in_group(world, "/rules", by=90, topic=5)
    rules = await world.said("Rules of this chat", GROUP)
    assert rules.thread == 5
    await world.telegram.press(world.bot, world.user, rules, "Allow here")
    await world.telegram.until(lambda: len(world.telegram.seen(GROUP, by_bot=True)) == 3, "it is refused")
    await world.telegram.press(world.bot, world.telegram.users[90], rules, "Allow here")
    await world.said("only in the chosen channels", GROUP)
    before = len(world.telegram.seen(GROUP, by_bot=True))
    await in_group(world, "/imagine a fox", topic=6)
    await in_group(world, "/imagine a badger")
    await in_group(world, "/imagine an owl", topic=5)
    result = await world.result(1, GROUP)
    assert "an owl" in result.text and result.thread == 5
    assert len(world.telegram.seen(GROUP, by_bot=True)) == before + 1 and await jobs(world) == 1


async def test_in_telegram_what_is_for_adults_needs_an_admin_that_allows_it(telegram: TelegramWorld) -> None:
    world = telegram
    await for_adults(world, "lingerie")
    await world.telegram.say(world.bot, world.user, "lingerie")
    assert "/rules" in (await world.said("for adults")).text
    await in_group(world, "/imagine lingerie")
    await world.said("for adults", GROUP)
    await in_group(world, "/rules", by=90)
    rules = await world.said("Rules of this chat", GROUP)
    await world.telegram.press(world.bot, world.telegram.users[90], rules, "Results for adults")
    await world.said("for adults: on", GROUP)
    await in_group(world, "/imagine lingerie")
    result = await world.result(1, GROUP)
    assert result.file is not None and result.file.spoiler and await jobs(world) == 1


async def test_a_group_that_wants_spoilers_gets_every_result_behind_one(telegram: TelegramWorld) -> None:
    world = telegram
    await in_group(world, "/rules", by=90)
    rules = await world.said("Rules of this chat", GROUP)
    await world.telegram.press(world.bot, world.telegram.users[90], rules, "Spoilers")
    await world.said("spoiler: on", GROUP)
    await in_group(world, "/imagine a fox")
    result = await world.result(1, GROUP)
    assert result.file is not None and result.file.spoiler
    await world.telegram.say(world.bot, world.user, "a fox")
    private = await world.result()
    assert private.file is not None and not private.file.spoiler
    await world.telegram.say(world.bot, world.user, "a fox --spoiler")
    hidden = await world.result(2)
    assert hidden.file is not None and hidden.file.spoiler


async def test_a_group_that_moves_while_the_bot_is_away_is_followed(telegram: TelegramWorld) -> None:
    world = telegram
    world.telegram.add_group(-1001, "Small")
    world.worker.hold = True
    await world.telegram.say(world.bot, world.user, "/imagine a fox", chat=-1001)
    await world.said("queue", -1001)
    await world.stop()
    moved = await world.telegram.migrate(world.telegram.chats[-1001], -1002000000042)
    await world.start()
    world.worker.hold = False
    await world.result(1, moved.id)
    await world.telegram.say(world.bot, world.user, "/imagine a badger", chat=moved.id)
    assert "badger" in (await world.result(2, moved.id)).text


# Discord


async def ask(world: DiscordWorld, channel: Channel, prompt: str) -> Any:
    return await world.discord.command(world.bot, channel, world.user, "imagine", {"prompt": prompt})


async def test_a_thread_is_answered_in_itself_and_follows_the_rules_of_its_channel(discord: DiscordWorld) -> None:
    world = discord
    admin = world.discord.add_user("Admin", admin=True)
    thread = world.discord.add_channel("sketches", world.guild)
    thread.parent = world.channel.id
    await world.discord.command(world.bot, world.channel, admin, "rules")
    rules = await world.said("Rules of this chat", user=admin)
    await world.discord.press(world.bot, admin, rules, "Allow here")
    await world.said("only in the chosen channels", user=admin)
    asked = await ask(world, thread, "a fox")
    result = await world.result(1, thread)
    assert asked.original is result and not world.discord.results(world.channel)


async def test_in_discord_what_is_for_adults_needs_a_channel_for_adults_as_well(discord: DiscordWorld) -> None:
    world = discord
    await for_adults(world, "lingerie")
    admin = world.discord.add_user("Admin", admin=True)
    adults = world.discord.add_channel("after-dark", world.guild, nsfw=True)
    await ask(world, adults, "lingerie")
    assert (await world.said("for adults", adults)).only_for == world.user.id
    await world.discord.command(world.bot, adults, admin, "rules")
    rules = await world.said("Rules of this chat", adults, admin)
    await world.discord.press(world.bot, admin, rules, "Results for adults")
    await world.said("for adults: on".replace(":", "\\:"), adults, admin)
    await ask(world, world.channel, "lingerie")
    await world.said("for adults")
    await ask(world, adults, "lingerie")
    result = await world.result(1, adults)
    assert result.file is not None and result.file.spoiler and result.file.name.startswith("SPOILER_")
    assert await jobs(world) == 1


async def test_in_discord_a_stranger_cancels_nothing_and_runs_again_on_his_own_tokens(discord: DiscordWorld) -> None:
    world = discord
    bob = world.discord.add_user("Bob")
    world.worker.hold = True
    await ask(world, world.channel, "a fox")
    status = await world.said("queue")
    await world.discord.press(world.bot, bob, status, "Cancel")
    assert (await world.said("Only the person", user=bob)).only_for == bob.id
    assert await world.sql.fetchval("SELECT cancel_requested_at FROM jobs") is None
    world.worker.hold = False
    result = await world.result()
    await world.discord.press(world.bot, bob, result, "Again")
    await world.result(2)
    paid = await world.sql.fetch("SELECT user_id, sum(charged_mt) AS paid FROM jobs GROUP BY user_id")
    assert [row["paid"] for row in paid] == [1000, 1000]
    world.worker.hold = True
    await ask(world, world.channel, "a badger")
    await world.discord.press(world.bot, world.user, await world.said("badger"), "Cancel")
    await world.said("Cancelled")

"""The video bots of both platforms: a clip from words, from a picture, and more of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.api_server import Api
from tests.integration.bots.talkers import PLATFORMS, Talker, talker_of
from tests.integration.bots.world import DiscordWorld, TelegramWorld, discord_world, png, telegram_world


@pytest.fixture(params=PLATFORMS)
async def me(request: pytest.FixtureRequest, api: Api, tmp_path: Path) -> AsyncIterator[Talker]:
    async with talker_of(request.param, api, tmp_path, "video", defaults={"duration_s": 1.0}) as talker:
        yield talker


async def latest(me: Any) -> dict[str, Any]:
    return dict(await me.sql.fetchval("SELECT input FROM jobs ORDER BY created_at DESC LIMIT 1"))


async def test_words_become_a_clip_and_extending_goes_on_from_its_last_frame(me: Talker) -> None:
    await me.command("video", "waves --ar 16:9 --duration 2", prompt="waves", ratio="16:9", duration=2)
    clip = await me.result()
    assert clip.file.kind == "video" and clip.file.data[4:8] == b"ftyp"
    asked = await latest(me.world)
    assert (asked["prompt"], asked["duration_s"]) == ("waves", 2.0) and asked["width"] > asked["height"]
    await me.press(clip, "Extend")
    await me.result(2)
    more = await latest(me.world)
    assert more["image"].startswith("upl_") and more["prompt"] == "waves"
    await me.press(clip, "Again")
    await me.result(3)
    assert (await latest(me.world))["image"] is None
    await me.press(clip, "Original")
    await me.has_file(".mp4")


async def test_a_clip_longer_than_the_plan_is_refused_with_the_limit_and_the_plans(me: Talker) -> None:
    await me.command("video", "waves --duration 10", prompt="waves", duration=10)
    told = await me.said("up to 4 s")
    await me.press(told, "Plans")
    await me.said("a month")
    assert await me.world.sql.fetchval("SELECT count(*) FROM jobs") == 0


async def test_in_telegram_a_picture_is_brought_to_life_by_its_caption_or_by_a_reply(api: Api, tmp_path: Path) -> None:
    async with telegram_world(api, tmp_path, "video") as world:
        assert isinstance(world, TelegramWorld)
        await world.telegram.say(world.bot, world.user, "it steams", photo=png())
        await world.result()
        assert (await latest(world))["image"].startswith("upl_")
        group = world.telegram.add_group(-1001, "Movers")
        bob = world.telegram.add_user(77, "Bob")
        await world.telegram.say(world.bot, bob, "look", chat=group.id, photo=png())
        photo = world.telegram.seen(group.id)[-1]
        await world.telegram.say(world.bot, world.user, "/animate", chat=group.id, reply_to=photo)
        await world.result(1, group.id)
        assert (await latest(world))["prompt"] == "gentle motion"
        await world.telegram.say(world.bot, world.user, "/animate it glows", chat=group.id)
        await world.said("Reply with /animate", group.id)


async def test_in_discord_a_picture_is_brought_to_life_by_an_option_or_the_menu_of_a_message(
    api: Api, tmp_path: Path
) -> None:
    async with discord_world(api, tmp_path, "video") as world:
        assert isinstance(world, DiscordWorld)
        await world.discord.command(
            world.bot, world.channel, world.user, "animate", {"prompt": "it steams"}, image=png()
        )
        await world.result()
        assert (await latest(world))["image"].startswith("upl_")
        photo = await world.discord.say(world.bot, world.channel, world.user, "look", image=png())
        await world.discord.menu(world.bot, world.channel, world.user, photo)
        await world.result(2)
        assert (await latest(world))["prompt"] == "gentle motion"
        words_only = await world.discord.say(world.bot, world.channel, world.user, "no picture here")
        await world.discord.menu(world.bot, world.channel, world.user, words_only)
        assert (await world.said("Reply with /animate")).only_for == world.user.id

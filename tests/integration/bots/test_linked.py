"""One person in Telegram and in Discord: a code makes one account of two, with one quota that both show."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.integration.api_server import Api
from tests.integration.bots.talkers import DiscordTalker, TelegramTalker
from tests.integration.bots.world import discord_world, telegram_world
from tests.integration.people import balanced


@pytest.fixture
async def both(api: Api, tmp_path: Path) -> AsyncIterator[tuple[TelegramTalker, DiscordTalker]]:
    async with (
        telegram_world(api, tmp_path / "telegram", works=False) as telegram,
        discord_world(api, tmp_path / "discord", works=False) as discord,
    ):
        telegram.worker.hold = False  # one of them is enough, on one connection, and not before both have their keys
        yield TelegramTalker(telegram), DiscordTalker(discord)


def code_in(text: str) -> str:
    found = re.search(r"/link ([A-Z0-9-]{6,})", text.replace("\\", ""))
    assert found is not None, text
    return found[1]


async def test_a_code_from_one_platform_makes_one_quota_that_both_show(
    both: tuple[TelegramTalker, DiscordTalker], api: Api
) -> None:
    there, here = both
    await there.command("imagine", "a fox --count 2")
    await there.result()
    await here.command("imagine", prompt="a badger")
    await here.result()
    await here.command("usage")
    assert "19 of 20" in (await here.said("tokens left")).text
    await there.command("link")
    code = code_in((await there.said("Your code")).text)
    await here.command("link", code="WRONG123")
    await here.said("wrong")
    await here.command("link", code=code)
    told = await here.said("Linked")
    assert "Telegram" in told.text and "Discord" in told.text and told.only_for == here.world.user.id
    await here.command("imagine", prompt="an owl")
    await here.result(2)
    await there.command("usage")
    await here.command("usage")
    for talker in both:
        shown = (await talker.said("Shared with")).text.replace("\\", "")
        assert "16 of 20" in shown and "Discord" in shown and "Telegram" in shown
    assert await there.world.sql.fetchval("SELECT count(DISTINCT user_id) FROM jobs") == 1
    await there.command("link", code)
    await there.said("wrong")
    there.world.worker.hold = True
    await asyncio.sleep(0.1)
    await balanced(api)


async def test_settings_and_history_follow_the_person_over_both(both: tuple[TelegramTalker, DiscordTalker]) -> None:
    there, here = both
    await here.command("imagine", prompt="a badger by night")
    await here.result()
    await here.command("link")
    code = code_in((await here.said("Your code")).text)
    await there.command("link", code)
    await there.said("Linked")
    await there.command("history")
    assert "a badger by night" in (await there.said("page 1")).text
    await here.command("settings")
    await here.press(await here.said("Settings"), "Language")
    await here.press(await here.said("…"), "Deutsch")
    await here.said("Gespeichert")
    await asyncio.sleep(20.5)  # what the other bot remembers of a person for a few seconds
    await there.command("usage")
    await there.said("Neue Token")


async def test_in_a_group_no_code_is_told_to_everybody(both: tuple[TelegramTalker, DiscordTalker]) -> None:
    there, _ = both
    group = there.world.telegram.add_group(-1001, "Painters")
    await there.world.telegram.say(there.world.bot, there.world.user, "/link", chat=group.id)
    await there.world.said("private chat", group.id)
    assert not any("Your code" in message.text for message in there.world.telegram.seen(group.id))

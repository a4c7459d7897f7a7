"""A Discord image bot from end to end: the fake Discord, the real discord.py, the real API, a real Postgres."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.fakes.discord_chats import Fault
from tests.integration.api_server import Api
from tests.integration.bots.world import DiscordWorld, discord_world, noise


@pytest.fixture
async def world(api: Api, tmp_path: Path) -> AsyncIterator[DiscordWorld]:
    async with discord_world(api, tmp_path) as started:
        yield started


async def test_a_command_becomes_a_picture_in_the_answer_to_it(world: DiscordWorld) -> None:
    asked = await world.discord.command(
        world.bot, world.channel, world.user, "imagine", {"prompt": "a fox in the snow", "ratio": "16:9", "seed": 7}
    )
    result = await world.result()
    assert asked.original is result and asked.acknowledged_s is not None and asked.acknowledged_s < 3
    assert result.file is not None and result.file.kind == "photo"
    assert "a fox in the snow" in result.text and "seed 7" in result.text and "19 of 20 tokens" in result.text
    assert len(world.discord.seen(world.channel, world.user)) == 1


async def test_a_refusal_is_for_the_asker_alone_though_all_saw_it_thinking(world: DiscordWorld) -> None:
    await world.discord.command(world.bot, world.channel, world.user, "imagine", {"prompt": "a fox --ar wide"})
    told = await world.said("wide")
    assert told.only_for == world.user.id
    assert world.discord.seen(world.channel) == []


async def test_a_bare_command_opens_a_form_and_its_words_become_a_picture(world: DiscordWorld) -> None:
    asked = await world.discord.command(world.bot, world.channel, world.user, "imagine", {"ratio": "16:9"})
    await world.discord.until(lambda: asked.modal, "a form")
    assert "--ar 16:9" in asked.modal["components"][0]["components"][0]["value"]  # type: ignore[index]
    await world.discord.submit(asked, "a fox --ar 16:9")
    await world.result()
    wide = await world.sql.fetchval("SELECT input FROM jobs")
    assert wide["prompt"] == "a fox" and wide["width"] > wide["height"]


async def test_buttons_and_forms_work_after_a_restart(world: DiscordWorld) -> None:
    await world.discord.command(world.bot, world.channel, world.user, "imagine", {"prompt": "a fox"})
    result = await world.result()
    edit = await world.discord.press(world.bot, world.user, result, "Edit")
    await world.discord.until(lambda: edit.modal, "a form")
    await world.stop()
    await world.start()
    assert world.bot.command_puts == 1  # told once, unchanged
    await world.discord.submit(edit, "a badger")
    await world.result(2)
    await world.discord.press(world.bot, world.user, result, "Vary")
    await world.result(3)


async def test_a_result_whose_interaction_is_over_comes_by_the_bot_itself(world: DiscordWorld) -> None:
    world.worker.hold = True
    asked = await world.discord.command(world.bot, world.channel, world.user, "imagine", {"prompt": "a fox"})
    status = await world.said("queue")
    asked.over = True
    world.worker.hold = False
    assert await world.result() is status


async def test_a_result_that_nothing_can_edit_comes_to_the_channel_and_else_to_the_person(world: DiscordWorld) -> None:
    world.worker.hold = True
    asked = await world.discord.command(world.bot, world.channel, world.user, "imagine", {"prompt": "a fox"})
    (await world.said("queue")).deleted = True
    asked.over = True
    world.worker.hold = False
    await world.result()
    world.worker.hold = True
    again = await world.discord.command(world.bot, world.channel, world.user, "imagine", {"prompt": "a badger"})
    await world.said("badger")
    again.over = world.channel.closed = True
    world.worker.hold = False
    private = world.discord.direct(world.user, world.bot)
    assert "badger" in (await world.result(1, private)).text


async def test_a_broken_line_is_resumed_and_what_came_meanwhile_is_answered(world: DiscordWorld) -> None:
    await world.discord.drop(world.bot)
    world.discord.acknowledge_s = 30.0  # what was asked meanwhile is older than 3 s by the time it arrives
    await world.discord.command(world.bot, world.channel, world.user, "imagine", {"prompt": "a fox"})
    await world.result()
    assert (world.bot.identified, world.bot.resumed) == (1, 1)
    await world.discord.ask_to_reconnect(world.bot)
    await world.discord.until(lambda: world.bot.resumed == 2, "it resumes")


async def test_an_event_that_comes_again_makes_no_second_job(world: DiscordWorld) -> None:
    await world.discord.command(world.bot, world.channel, world.user, "imagine", {"prompt": "a fox"})
    await world.discord.repeat(world.bot)
    await world.result()
    await world.discord.command(world.bot, world.channel, world.user, "help")
    await world.said("/imagine")
    assert await world.sql.fetchval("SELECT count(*) FROM jobs") == 1
    assert len(world.discord.results(world.channel, world.user)) == 1


async def test_floods_failures_and_size_delay_a_result_and_never_lose_it(world: DiscordWorld) -> None:
    world.discord.faults += [
        Fault("PATCH /webhooks", "429", retry_after=0.2),
        Fault("PATCH /webhooks", "502"),
        Fault("PATCH /webhooks", "late_drop"),
    ]
    await world.discord.command(world.bot, world.channel, world.user, "imagine", {"prompt": "a fox"})
    await world.result()
    world.discord.max_file_bytes = 60_000
    world.worker.picture = lambda: noise(400)
    await world.discord.command(world.bot, world.channel, world.user, "imagine", {"prompt": "a badger"})
    result = await world.result(2)
    assert result.file is not None and len(result.file.data) <= 60_000 and "smaller" in result.text


async def test_models_are_offered_while_one_types(world: DiscordWorld) -> None:
    choices = await world.discord.complete(world.bot, world.channel, world.user, "imagine", "model", "prev")
    assert choices == [{"name": "Preview pictures", "value": "preview-image"}]


async def test_screens_are_for_the_asker_alone_and_change_in_place(world: DiscordWorld) -> None:
    await world.discord.command(world.bot, world.channel, world.user, "usage")
    usage = await world.said("tokens left")
    assert usage.only_for == world.user.id
    await world.discord.press(world.bot, world.user, usage, "Plans")
    plans = await world.said("a month")
    assert plans is usage


async def test_an_admin_chooses_the_channels_and_nobody_else(world: DiscordWorld) -> None:
    admin = world.discord.add_user("Admin", admin=True)
    elsewhere = world.discord.add_channel("elsewhere", world.guild)
    await world.discord.command(world.bot, world.channel, world.user, "rules")
    await world.said("Only an admin")
    await world.discord.command(world.bot, world.channel, admin, "rules")
    rules = await world.said("Rules of this chat", user=admin)
    await world.discord.press(world.bot, admin, rules, "Allow here")
    await world.said("only in the chosen channels", user=admin)
    await world.discord.command(world.bot, elsewhere, world.user, "imagine", {"prompt": "a fox"})
    assert (await world.said("may not work", elsewhere)).only_for == world.user.id
    await world.discord.command(world.bot, world.channel, world.user, "imagine", {"prompt": "a fox"})
    await world.result()


async def test_a_mention_is_answered_and_other_words_are_not(world: DiscordWorld) -> None:
    await world.discord.say(world.bot, world.channel, world.user, "good morning")
    asked = await world.discord.say(world.bot, world.channel, world.user, f"<@{world.bot.id}> a fox")
    result = await world.result()
    assert "a fox" in result.text and await world.sql.fetchval("SELECT count(*) FROM jobs") == 1
    assert result.reply_to == asked.id
    private = world.discord.direct(world.user, world.bot)
    await world.discord.say(world.bot, private, world.user, "a badger")
    assert "a badger" in (await world.result(1, private)).text


async def test_only_the_asker_deletes_and_a_stranger_is_told_alone(world: DiscordWorld) -> None:
    await world.discord.command(world.bot, world.channel, world.user, "imagine", {"prompt": "a fox"})
    result = await world.result()
    bob = world.discord.add_user("Bob")
    await world.discord.press(world.bot, bob, result, "Delete")
    told = await world.said("Only the person", user=bob)
    assert told.only_for == bob.id and not result.deleted
    await world.discord.press(world.bot, world.user, result, "Delete")
    await world.discord.until(lambda: result.deleted, "it is deleted")

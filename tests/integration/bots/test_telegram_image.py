"""A Telegram image bot from end to end: the fake Bot API, the real aiogram, the real API, a real Postgres."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bots.config import Token
from tessera.ids import Prefix, show
from tests.fakes.telegram_chats import Fault
from tests.integration.api_server import Api
from tests.integration.bots.world import TelegramWorld, png, telegram_world, token_of


@pytest.fixture
async def world(api: Api, tmp_path: Path) -> AsyncIterator[TelegramWorld]:
    async with telegram_world(api, tmp_path) as started:
        yield started


async def test_words_become_a_picture_in_the_same_message(world: TelegramWorld) -> None:
    await world.telegram.say(world.bot, world.user, "a fox in the snow --ar 16:9 --seed 7")
    result = await world.result()
    assert result.file is not None and result.file.kind == "photo"
    assert "a fox in the snow" in result.text and "seed 7" in result.text and "19 of 20 tokens" in result.text
    assert len(world.telegram.seen(world.user.id, by_bot=True)) == 1
    assert "queue" in result.history[0].text and result.history[0].file is None


async def test_an_update_that_comes_again_makes_no_second_job(world: TelegramWorld) -> None:
    update = await world.telegram.say(world.bot, world.user, "a fox")
    await world.result()
    raw = {"message": world.telegram.chats[world.user.id].messages[1].raw}
    await world.telegram.give(world.bot, raw, update_id=update)
    await world.telegram.say(world.bot, world.user, "/help")
    await world.said("/imagine")
    assert await world.sql.fetchval("SELECT count(*) FROM jobs") == 1
    assert len(world.telegram.results(world.user.id)) == 1


async def test_a_person_gets_one_of_four_made_larger(world: TelegramWorld) -> None:
    await world.telegram.say(world.bot, world.user, "a fox --count 4")
    four = await world.result()
    assert [len(row) for row in four.buttons[:2]] == [4, 4]
    await world.telegram.press(world.bot, world.user, four, "🔍 3")
    await world.result(2)
    rows = await world.sql.fetch("SELECT id, input FROM jobs ORDER BY created_at")
    third = await world.sql.fetchval("SELECT id FROM artifacts WHERE job_id = $1 AND index = 2", rows[0]["id"])
    assert rows[1]["input"]["image"] == show(Prefix.ARTIFACT, third) and rows[1]["input"]["scale"] == 2


async def test_flood_waits_and_failures_of_the_platform_delay_a_result_and_never_lose_it(world: TelegramWorld) -> None:
    world.telegram.faults += [
        Fault("sendMessage", "429"),
        Fault("sendMessage", "502"),
        Fault("editMessageMedia", "429"),
        Fault("editMessageMedia", "500", times=2),
        Fault("editMessageMedia", "drop"),
        Fault("editMessageMedia", "late_drop"),
        Fault("getUpdates", "502"),
    ]
    await world.telegram.say(world.bot, world.user, "a fox")
    await world.result()
    await world.telegram.until(lambda: not world.telegram.faults, "every fault has happened")
    assert len(world.telegram.results(world.user.id)) == 1


async def test_what_is_too_large_for_the_chat_comes_smaller(world: TelegramWorld) -> None:
    world.telegram.faults.append(Fault("editMessageMedia", "413"))
    world.worker.picture = lambda: png(900, 900)
    await world.telegram.say(world.bot, world.user, "a fox")
    result = await world.result()
    assert "smaller" in result.text and result.file is not None


async def test_a_used_up_quota_is_told_with_its_reset_and_the_plans(world: TelegramWorld) -> None:
    for _ in range(5):
        await world.telegram.say(world.bot, world.user, "a fox --count 4")
    await world.telegram.say(world.bot, world.user, "one more fox")
    refused = await world.said("used up")
    assert "come back in" in refused.text
    await world.telegram.press(world.bot, world.user, refused, "Plans")
    assert "Starter" in (await world.said("a month")).text


async def test_a_failure_is_told_with_what_came_back(world: TelegramWorld) -> None:
    world.worker.outcome = lambda job: {
        "outcome": "failed",
        "error": {"code": "out_of_memory", "message": "no room"},
        "ours": True,
    }
    await world.telegram.say(world.bot, world.user, "a fox")
    told = await world.said("more memory")
    assert "1 tokens came back" in told.text and told.button("Again")


async def test_a_result_that_ended_while_the_bot_was_down_comes_into_the_same_message(world: TelegramWorld) -> None:
    world.worker.hold = True
    await world.telegram.say(world.bot, world.user, "a fox")
    status = await world.said("queue")
    await world.stop()
    await world.worker.work()
    await world.start()
    result = await world.result()
    assert result.id == status.id and len(world.telegram.seen(world.user.id, by_bot=True)) == 1


async def test_a_result_comes_anew_when_its_status_message_was_deleted(world: TelegramWorld) -> None:
    world.worker.hold = True
    await world.telegram.say(world.bot, world.user, "a fox")
    (await world.said("queue")).deleted = True
    world.worker.hold = False
    await world.result()
    assert len(world.telegram.results(world.user.id)) == 1


async def test_only_the_asker_cancels_and_deletes_and_anybody_may_run_it_again(world: TelegramWorld) -> None:
    group = world.telegram.add_group(-1001, "Painters")
    bob = world.telegram.add_user(77, "Bob")
    world.worker.hold = True
    await world.telegram.say(world.bot, world.user, "/imagine@paint_bot a fox", chat=group.id)
    status = await world.said("queue", group.id)
    await world.telegram.press(world.bot, bob, status, "Cancel")
    await world.telegram.until(lambda: world.telegram.notices, "a notice")
    assert "Only the person" in world.telegram.notices[0][1] and world.telegram.notices[0][2]
    world.worker.hold = False
    result = await world.result(1, group.id)
    await world.telegram.press(world.bot, bob, result, "Delete")
    await world.telegram.press(world.bot, bob, result, "Again")
    await world.result(2, group.id)
    owners = await world.sql.fetch("SELECT DISTINCT user_id FROM jobs")
    assert len(owners) == 2 and not result.deleted


async def test_a_cancelled_job_says_so_in_its_message(world: TelegramWorld) -> None:
    world.worker.hold = True
    await world.telegram.say(world.bot, world.user, "a fox")
    status = await world.said("queue")
    await world.telegram.press(world.bot, world.user, status, "Cancel")
    told = await world.said("Cancelled")
    assert told.id == status.id and "1 tokens came back" in told.text


async def test_in_a_group_only_what_is_meant_for_the_bot_is_answered_and_topics_are_kept(world: TelegramWorld) -> None:
    group = world.telegram.add_group(-1001, "Painters")
    for text in ("good morning", "/imagine@other_bot a fox", "@other_bot a fox"):
        await world.telegram.say(world.bot, world.user, text, chat=group.id, thread=5)
    await world.telegram.say(world.bot, world.user, "@paint_bot a fox", chat=group.id, thread=5)
    result = await world.result(1, group.id)
    assert result.thread == 5 and len(world.telegram.seen(group.id, by_bot=True)) == 1
    assert await world.sql.fetchval("SELECT count(*) FROM jobs") == 1


async def test_a_group_that_becomes_a_supergroup_gets_its_result_there(world: TelegramWorld) -> None:
    group = world.telegram.add_group(-1001, "Painters")
    world.worker.hold = True
    await world.telegram.say(world.bot, world.user, "/imagine a fox", chat=group.id)
    await world.said("queue", group.id)
    moved = await world.telegram.migrate(group, -1002000000042)
    world.worker.hold = False
    await world.result(1, moved.id)


async def test_who_has_blocked_the_bot_gets_nothing_and_nothing_is_tried_for_ever(world: TelegramWorld) -> None:
    world.worker.hold = True
    await world.telegram.say(world.bot, world.user, "a fox")
    await world.said("queue")
    world.user.blocked.add(world.bot.id)
    world.worker.hold = False

    async with asyncio.timeout(60):
        while await world.sql.fetchval("SELECT count(*) FROM deliveries WHERE state = 'failed'") == 0:
            await world.telegram.next_call()


async def test_a_picture_with_words_is_changed_by_them(world: TelegramWorld) -> None:
    await world.telegram.say(world.bot, world.user, "in autumn", photo=png())
    await world.result()
    assert (await world.sql.fetchval("SELECT input FROM jobs"))["image"].startswith("upl_")
    await world.telegram.say(world.bot, world.user, "in winter", photo=b"no picture at all")
    assert "JPEG, PNG or WebP" in (await world.said("no picture that can be used")).text


async def test_a_picture_without_words_waits_for_them(world: TelegramWorld) -> None:
    await world.telegram.say(world.bot, world.user, photo=png())
    question = await world.said("What should become of the picture")
    await world.telegram.say(world.bot, world.user, "in autumn", reply_to=question)
    assert "in autumn" in (await world.result()).text
    assert (await world.sql.fetchval("SELECT input FROM jobs"))["image"].startswith("upl_")
    await world.telegram.say(world.bot, world.user, photo=b"no picture at all")
    await world.said("no picture that can be used")
    assert await world.sql.fetchval("SELECT count(*) FROM jobs") == 1


async def test_somebody_elses_picture_is_not_taken_by_an_answer(world: TelegramWorld) -> None:
    group, bob = world.telegram.add_group(-1001, "Painters"), world.telegram.add_user(77, "Bob")
    await world.telegram.say(world.bot, world.user, f"@{world.bot.username}", chat=group.id, photo=png())
    question = await world.said("What should become of the picture", chat=group.id)
    await world.telegram.say(world.bot, bob, "in autumn", chat=group.id, reply_to=question)
    async with asyncio.timeout(60):
        while (given := await world.sql.fetchval("SELECT input FROM jobs")) is None:
            await world.telegram.next_call()
    assert given["image"] is None


async def test_a_wrong_option_is_named_with_what_would_be_right(world: TelegramWorld) -> None:
    await world.telegram.say(world.bot, world.user, "a fox —ar wide")
    assert "--ar 16:9" in (await world.said("wide")).text
    await world.telegram.say(world.bot, world.user, "a fox --model nonsense")
    assert "preview-image" in (await world.said("nonsense")).text
    assert await world.sql.fetchval("SELECT count(*) FROM jobs") == 0


async def test_settings_hold_on_all_that_follows(world: TelegramWorld) -> None:
    await world.telegram.say(world.bot, world.user, "/settings")
    shown = await world.said("Settings")
    await world.telegram.press(world.bot, world.user, shown, "Language")
    await world.telegram.until(lambda: any("Deutsch" in b.label for r in shown.buttons for b in r), "languages")
    await world.telegram.press(world.bot, world.user, shown, "Deutsch")
    await world.said("Gespeichert")
    await world.telegram.say(world.bot, world.user, "ein Fuchs")
    assert "Token heute übrig" in (await world.result()).text


async def test_other_words_for_a_picture_are_asked_for_and_used(world: TelegramWorld) -> None:
    await world.telegram.say(world.bot, world.user, "a fox --ar 16:9")
    await world.telegram.press(world.bot, world.user, await world.result(), "Edit")
    question = await world.said("new prompt")
    assert question.asks and "a fox --ar" in question.text
    await world.stop()
    await world.start()  # what the answer belongs to stands in the question, so a restart changes nothing
    await world.telegram.say(world.bot, world.user, "a badger", reply_to=question)
    await world.result(2)
    latest = await world.sql.fetchval("SELECT input FROM jobs ORDER BY created_at DESC LIMIT 1")
    assert latest["prompt"] == "a badger" and latest["width"] > latest["height"]


async def test_a_bad_token_stops_only_its_own_bot(world: TelegramWorld) -> None:
    await world.stop()
    bad = world.settings.bots[0].model_copy(update={"id": "telegram-bad"})
    world.settings = replace(
        world.settings,
        bots=(*world.settings.bots, bad),
        tokens={**world.settings.tokens, "telegram-bad": Token(token_of(9))},
    )
    await world.start()
    await world.telegram.say(world.bot, world.user, "a fox")
    await world.result()
    health = world.process.health()
    bots: Any = health["bots"]
    assert bots["telegram-bad"]["state"] == "refused" and bots["telegram-test"]["state"] == "up"
    assert not health["ok"] and token_of(9) not in str(health)

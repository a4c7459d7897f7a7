"""What Telegram sends that is not plain: edited and forwarded messages, stickers, very long words, stale buttons, a
webhook, updates that nobody can read."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.telegram_chats import Message
from tests.integration.api_server import Api
from tests.integration.bots.world import TelegramWorld, png, telegram_world


@pytest.fixture
async def world(api: Api, tmp_path: Path) -> AsyncIterator[TelegramWorld]:
    async with telegram_world(api, tmp_path) as started:
        yield started


def message_of(world: TelegramWorld, **more: Any) -> dict[str, Any]:
    return {
        "message_id": 900_000 + len(world.telegram.calls),
        "date": int(time.time()),
        "chat": {"id": world.user.id, "type": "private", "first_name": "Ada"},
        "from": {"id": world.user.id, "is_bot": False, "first_name": "Ada", "language_code": "en"},
        **more,
    }


async def jobs(world: TelegramWorld) -> int:
    return int(await world.sql.fetchval("SELECT count(*) FROM jobs"))


async def test_what_is_not_for_the_bot_makes_nothing_and_keeps_nothing_back(world: TelegramWorld) -> None:
    edited = message_of(world, text="a fox, but edited", edit_date=int(time.time()))
    await world.telegram.give(world.bot, {"edited_message": edited})
    await world.telegram.give(world.bot, {"channel_post": message_of(world, text="a fox in a channel")})
    await world.telegram.give(world.bot, {"message": message_of(world, pinned_message=message_of(world, text="x"))})
    await world.telegram.give(world.bot, {"poll": {"id": "1"}})  # not even what Telegram's own pages say it is
    await world.telegram.give(world.bot, {"message": {"message_id": "no number"}})
    last = await world.telegram.say(world.bot, world.user, "/help")
    await world.said("/imagine")
    await world.telegram.until(lambda: world.bot.acknowledged >= last, "all are acknowledged")
    assert await jobs(world) == 0 and len(world.telegram.seen(world.user.id, by_bot=True)) == 1


async def test_a_sticker_and_a_picture_without_words_are_answered_by_what_is_wanted(world: TelegramWorld) -> None:
    sticker = {
        "file_id": "s1",
        "file_unique_id": "s1",
        "type": "regular",
        "width": 512,
        "height": 512,
        "is_animated": False,
        "is_video": False,
    }
    await world.telegram.give(world.bot, {"message": message_of(world, sticker=sticker)})
    await world.said("What should the picture show")
    await world.telegram.say(world.bot, world.user, photo=png())
    await world.said("What should become of the picture")
    group = world.telegram.add_group(-1001, "Painters")
    in_group = message_of(world, sticker=sticker) | {"chat": {"id": -1001, "type": "group", "title": "Painters"}}
    await world.telegram.give(world.bot, {"message": in_group})
    await world.telegram.say(world.bot, world.user, "a fox")
    await world.result()
    assert not world.telegram.seen(group.id, by_bot=True) and await jobs(world) == 1


async def test_an_album_makes_one_picture_of_its_words_and_not_one_of_each(world: TelegramWorld) -> None:
    await world.telegram.say(world.bot, world.user, "in autumn", photo=png(), album="a1")
    await world.telegram.say(world.bot, world.user, "", photo=png(), album="a1")
    await world.result()
    await world.telegram.say(world.bot, world.user, "/help")
    await world.said("/imagine")
    assert await jobs(world) == 1


async def test_a_forwarded_message_is_a_prompt_like_any_other(world: TelegramWorld) -> None:
    origin = {"type": "hidden_user", "date": int(time.time()), "sender_user_name": "Someone"}
    await world.telegram.give(world.bot, {"message": message_of(world, text="a fox", forward_origin=origin)})
    assert "a fox" in (await world.result()).text


async def test_the_longest_message_that_telegram_takes_becomes_a_result_with_a_short_caption(
    world: TelegramWorld,
) -> None:
    await world.telegram.say(world.bot, world.user, "🦊 fox & <hound> " * 227)  # 4,086 UTF-16 units
    result = await world.result()
    assert "tokens left" in result.text and "…" in result.text
    prompt = (await world.sql.fetchval("SELECT input FROM jobs"))["prompt"]
    assert prompt.count("hound") == 227


async def test_buttons_of_messages_that_are_gone_or_old_still_act_after_a_restart(world: TelegramWorld) -> None:
    await world.telegram.say(world.bot, world.user, "a fox")
    result = await world.result()
    again = result.button("Again").data
    result.deleted = True
    await world.stop()
    await world.start()
    gone = {"chat": {"id": world.user.id, "type": "private", "first_name": "Ada"}, "message_id": result.id, "date": 0}
    await press(world, again, gone)
    await world.telegram.until(lambda: len(world.telegram.results(world.user.id)) == 1, "another result")
    assert await jobs(world) == 2


async def test_a_press_of_what_no_button_carries_says_so_and_ends_the_waiting(world: TelegramWorld) -> None:
    await world.telegram.say(world.bot, world.user, "a fox")
    result = await world.result()
    for data in ("zz:1:2:3", "ag:01nonsense:t5", "", "up:" + "9" * 26 + ":t5:7", "se:::model=99999"):
        await press(world, data or "x", world.telegram._raw(result))
    await world.telegram.until(lambda: len(world.telegram.notices) >= 5, "each is answered")
    assert "earlier version" in world.telegram.notices[0][1]
    await world.said("too old")
    assert await jobs(world) == 1


async def press(world: TelegramWorld, data: str, message: dict[str, Any]) -> None:
    user = message_of(world)["from"]
    query = {"id": f"q{len(world.telegram.calls)}{data}"[:30], "from": user, "chat_instance": "1", "data": data}
    await world.telegram.give(world.bot, {"callback_query": query | {"message": message}})


async def test_updates_brought_to_the_webhook_need_its_secret_and_are_stored_before_the_answer(
    world: TelegramWorld,
) -> None:
    await world.stop()
    world.settings = replace(world.settings, webhook_url="https://bots.example/")
    await world.start()
    await world.telegram.until(lambda: world.bot.webhook, "the webhook is told")
    assert world.bot.webhook["url"] == "https://bots.example/webhook/telegram-test"
    secret = {"X-Telegram-Bot-Api-Secret-Token": world.bot.webhook["secret"]}
    update = {"update_id": 77_001, "message": message_of(world, text="a fox")}

    async def bring(body: Any, headers: dict[str, str], bot: str = "telegram-test") -> int:
        address = f"http://127.0.0.1:{world.process.health_port}/webhook/{bot}"
        async with world.api.http.post(address, json=body, headers=headers) as answer:
            return answer.status

    assert await bring(update, {}) == 401
    assert await bring(update, {"X-Telegram-Bot-Api-Secret-Token": "guessed"}) == 401
    assert await bring({"update_id": "x"}, secret) == 400
    assert await bring(update, secret, "telegram-other") == 404
    assert await jobs(world) == 0
    assert await bring(update, secret) == 200
    assert await world.sql.fetchval("SELECT count(*) FROM inbox WHERE update_id = '77001'") == 1
    assert await bring(update, secret) == 200
    await world.result()
    assert await jobs(world) == 1
    assert not any(call[2] == "getUpdates" for call in world.telegram.calls[-5:])


async def test_an_inline_button_without_a_message_is_passed_over(world: TelegramWorld) -> None:
    user = message_of(world)["from"]
    query = {"id": "q1", "from": user, "chat_instance": "1", "data": "ag:x:t5", "inline_message_id": "i1"}
    await world.telegram.give(world.bot, {"callback_query": query})
    await world.telegram.say(world.bot, world.user, "a fox")
    result: Message = await world.result()
    assert result.file is not None


async def test_a_bot_to_whom_nobody_writes_is_up_as_soon_as_it_is_known(world: TelegramWorld) -> None:
    await world.telegram.until(lambda: any(call[2] == "getUpdates" for call in world.telegram.calls), "it polls")
    bots: Any = world.process.health()["bots"]
    assert bots["telegram-test"]["state"] == "up"

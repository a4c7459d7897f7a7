"""What people see and change beside results, on both platforms alike: terms, data, reports, history, settings."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.telegram_chats import Fault
from tests.integration.api_server import Api
from tests.integration.bots.talkers import PLATFORMS, Talker, talker_of
from tests.integration.bots.world import noise


@pytest.fixture(params=PLATFORMS)
async def me(request: pytest.FixtureRequest, api: Api, tmp_path: Path) -> AsyncIterator[Talker]:
    async with talker_of(request.param, api, tmp_path) as talker:
        yield talker


async def test_terms_name_how_long_results_are_kept_and_help_names_every_command(me: Talker) -> None:
    await me.command("terms")
    assert "3 days" in (await me.said("Results are kept")).text
    await me.command("help")
    told = await me.said("/imagine")
    assert all(f"/{name}" in told.text for name in ("usage", "link", "privacy", "report", "rules"))
    await me.command("plans")
    assert "free" in (await me.said("a month")).text


async def test_a_result_is_reported_with_words_and_operators_see_it(me: Talker) -> None:
    await me.command("report")
    await me.said("Use the button")
    await me.command("imagine", "a fox", prompt="a fox")
    result = await me.result()
    if me.platform == "telegram":
        await me.press(result, "Report")
        question = await me.said("What is wrong")
        assert question.asks
        await me.world.telegram.say(me.world.bot, me.world.user, "it is not a fox", reply_to=question)
    else:
        asked = await me.world.discord.press(me.world.bot, me.world.user, result, "Report")
        await me.world.discord.until(lambda: asked.modal, "a form")
        await me.world.discord.submit(asked, "it is not a fox")
    await me.said("Thank you")
    report = await me.world.sql.fetchrow("SELECT state, reason, job_id FROM moderation_reports")
    assert (report["state"], report["reason"]) == ("open", "it is not a fox")
    assert report["job_id"] == await me.world.sql.fetchval("SELECT id FROM jobs")


async def test_a_person_gets_all_data_as_a_file_and_has_it_deleted_only_when_sure(me: Talker) -> None:
    await me.command("imagine", "a very private fox", prompt="a very private fox")
    await me.result()
    await me.command("privacy")
    page = await me.said("Nothing is sold")
    await me.press(page, "Export")
    exported = json.loads((await me.has_file(".json")).data)
    assert "a very private fox" in json.dumps(exported)
    await me.press(page, "Delete my data")
    sure = await me.said("cannot be undone")
    await me.press(sure, "No, keep it")
    await me.said("Nothing is sold")
    assert await me.world.sql.fetchval("SELECT count(*) FROM jobs WHERE input ->> 'prompt' LIKE '%private%'") == 1
    await me.press(await me.said("Nothing is sold"), "Delete my data")
    await me.press(await me.said("cannot be undone"), "Yes, delete")
    await me.said("Your data is deleted")
    assert await me.world.sql.fetchval("SELECT count(*) FROM jobs WHERE input ->> 'prompt' LIKE '%private%'") == 0


async def test_history_is_paged_in_place_and_an_earlier_result_is_shown_again(me: Talker) -> None:
    await me.command("history")
    await me.said("nothing yet")
    for number in range(1, 8):
        await me.command("imagine", f"fox number {number}", prompt=f"fox number {number}")
        await me.result(number)
    await me.command("history")
    first = await me.said("page 1")
    assert "fox number 7" in first.text and "fox number 1" not in first.text
    await me.press(first, "Older")
    second = await me.said("page 2")
    assert second is first and "fox number 1" in second.text and "fox number 7" not in second.text
    await me.press(second, "1")
    await me.result(8)
    shown = await me.result(8)
    assert "fox number 2" in shown.text
    await me.press(second, "Newer")
    assert "fox number 7" in (await me.said("page 1")).text


async def test_settings_of_language_and_format_hold_on_all_that_follows(me: Talker) -> None:
    await me.command("settings")
    await me.press(await me.said("Settings"), "Format")
    await me.press(await me.said("…"), "16:9")
    await me.press(await me.said("Saved"), "Language")
    await me.press(await me.said("…"), "Español")
    await me.said("Guardado")
    await me.command("imagine", "un zorro", prompt="un zorro")
    assert "tokens" in (await me.result()).text and "left today" not in (await me.result()).text
    wide = await me.world.sql.fetchval("SELECT input FROM jobs")
    assert wide["width"] > wide["height"]


async def test_what_no_form_of_the_file_fits_into_comes_as_a_link_that_needs_no_key(me: Talker) -> None:
    me.world.worker.picture = lambda: noise(200)
    _take_no_files(me)
    await me.command("imagine", "a fox", prompt="a fox")
    told = await me.said("too large for this chat")
    link = await _link(me, told)
    async with me.world.api.http.get(link.replace("https://tessera.example", me.world.api.url)) as answer:
        assert answer.status == 200 and (await answer.read())[:4] == b"\x89PNG"


async def test_an_original_that_this_chat_refuses_comes_as_a_link(me: Talker) -> None:
    me.world.worker.picture = lambda: noise(200)
    await me.command("imagine", "a fox", prompt="a fox")
    result = await me.result()
    _take_no_files(me)
    await me.press(result, "Original")
    assert "tessera.example" in (await me.said("too large for this chat")).text


def _take_no_files(me: Talker) -> None:
    if me.platform == "telegram":
        me.world.telegram.faults += [
            Fault("editMessageMedia", "413", times=1000),
            Fault("sendDocument", "413", times=1000),
        ]
    else:
        me.world.discord.max_file_bytes = 100


async def _link(me: Talker, told: Any) -> str:
    """The address behind the words of a link."""
    if me.platform == "telegram":
        return str(next(entity["url"] for entity in told.entities if "tessera.example" in entity.get("url", "")))
    found = re.search(r"\]\((https://tessera\.example\S+)\)", told.text)
    assert found is not None, told.text
    return found[1]

"""The status of a job under way: it goes on after a restart, and a flood wait freezes it but never the result."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tessera.ids import Prefix, show
from tessera.jobs import EventType
from tests.fakes.telegram import SENDING
from tests.fakes.telegram_chats import Fault
from tests.integration.api_server import Api
from tests.integration.bots.talkers import PLATFORMS, Talker, talker_of
from tests.integration.bots.world import TelegramWorld, telegram_world

REMEMBERED_S = 2.0  # more than a running bot takes to remember whom it follows


@pytest.fixture(params=PLATFORMS)
async def me(request: pytest.FixtureRequest, api: Api, tmp_path: Path) -> AsyncIterator[Talker]:
    async with talker_of(request.param, api, tmp_path) as talker:
        yield talker


class Run:
    """The one job of the test, as its worker tells of it."""

    def __init__(self, world: Any, row: Any, attempt: int) -> None:
        self.world, self.row, self.attempt = world, row, attempt

    @classmethod
    async def begin(cls, world: Any) -> Run:
        row = dict(await world.sql.fetchrow("SELECT id, kind, input, metadata FROM jobs"))
        return cls(world, row, await world.api.claim(show(Prefix.JOB, row["id"])))

    def tell(self, fraction: float) -> None:
        self.world.api.scheduler.tell(self.row["id"], self.attempt, EventType.PROGRESS, fraction=fraction)

    async def tell_until(self, fraction: float, shown: Any) -> Any:
        """Tell it again and again, as an engine does, until it is shown."""
        while True:
            self.tell(fraction)
            try:
                async with asyncio.timeout(0.5):
                    return await shown()
            except TimeoutError:
                continue

    async def end(self) -> None:
        await self.world.worker.bring(show(Prefix.JOB, self.row["id"]), self.attempt, self.row)


async def test_progress_goes_on_in_the_same_message_after_a_restart(me: Talker) -> None:
    me.world.worker.hold = True
    await me.command("imagine", "a fox", prompt="a fox")
    status = await me.said("queue")
    run = await Run.begin(me.world)
    async with asyncio.timeout(30):
        await run.tell_until(0.25, lambda: me.said("25 %"))
        await asyncio.sleep(REMEMBERED_S)
        await me.world.stop()
        await me.world.start()
        assert await run.tell_until(0.75, lambda: me.said("75 %")) is status
    await run.end()
    assert await me.result() is status


async def test_a_restart_after_the_end_shows_the_result_and_nothing_older(me: Talker) -> None:
    me.world.worker.hold = True
    await me.command("imagine", "a fox", prompt="a fox")
    await me.said("queue")
    run = await Run.begin(me.world)
    async with asyncio.timeout(30):
        await run.tell_until(0.25, lambda: me.said("25 %"))
    await asyncio.sleep(REMEMBERED_S)
    await me.world.stop()
    await run.end()
    await me.world.start()
    result = await me.result()
    run.tell(0.9)
    await asyncio.sleep(REMEMBERED_S)
    assert result.file is not None and "✅" in result.text


async def test_a_flood_wait_freezes_the_chat_for_its_time_and_the_result_comes_after_it(
    api: Api, tmp_path: Path
) -> None:
    async with telegram_world(api, tmp_path) as world:
        assert isinstance(world, TelegramWorld)
        world.worker.hold = True
        await world.telegram.say(world.bot, world.user, "a fox")
        await world.said("queue")
        run = await Run.begin(world)
        world.telegram.faults.append(Fault("editMessageText", "429", retry_after=2))

        async def flooded() -> bool:
            return bool(await world.telegram.until(lambda: not world.telegram.faults, "a flood wait"))

        async with asyncio.timeout(30):
            await run.tell_until(0.25, flooded)
        at = world.telegram.calls[-1][0]
        await run.end()
        run.tell(0.5)
        await world.result()
        later = [call for call in world.telegram.calls if call[0] > at and call[2] in SENDING]
        assert later[0][2] == "editMessageMedia" and later[0][0] >= at + 2.0
        assert len(world.telegram.results(world.user.id)) == 1

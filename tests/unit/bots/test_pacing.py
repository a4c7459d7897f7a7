"""The limits of a platform hold where it counts, whenever that is between a message's start and its answer; on a clock
that only sleeping moves on."""

from __future__ import annotations

import asyncio
import random
import selectors
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import pytest

from bots.config import LIMITS
from bots.core.pacing import Budget, Pacer
from bots.core.platform import FloodWait, Refused, Unreachable, Urgency

Span = tuple[float, float]
ALL = 28
TINY_S = 1e-6  # of two floats that stand for the same moment


class _NoWait(selectors.SelectSelector):
    """Sleeps by moving the clock on."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        assert timeout is not None, "everybody waits for somebody else"
        self.now += timeout
        return super().select(0)


class _Loop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._clock = _NoWait()
        super().__init__(self._clock)

    def time(self) -> float:
        return self._clock.now


class Line:
    """A bot's way to a platform, and when each message was on it."""

    def __init__(self, *, group_per_window: int = 0) -> None:
        loop = asyncio.get_running_loop()
        self.clock = loop.time
        budget = Budget(chat_per_s=1.0, group_per_window=group_per_window, all_per_window=ALL)
        self.pacer = Pacer(budget, clock=loop.time)
        self.spans: list[Span] = []

    async def send(
        self, chat: str, lasts_s: float, error: Exception | None = None, urgency: Urgency = Urgency.REPLY
    ) -> None:
        async def call() -> None:
            began = self.clock()
            try:
                await asyncio.sleep(lasts_s)
                if error is not None:
                    raise error
            finally:
                self.spans.append((began, self.clock()))

        await self.pacer.run(chat, call, group=chat.startswith("group"), urgency=urgency, tries=1)

    async def progress(self, chat: str, lasts_s: float) -> bool:
        async def call() -> None:
            began = self.clock()
            await asyncio.sleep(lasts_s)
            self.spans.append((began, self.clock()))

        return await self.pacer.try_now(chat, call, group=False)


def played(scene: Callable[[], Coroutine[Any, Any, None]]) -> None:
    with asyncio.Runner(loop_factory=_Loop) as runner:
        runner.run(scene())


def most_counted(spans: Sequence[Span], window_s: float) -> int:
    """The most that a platform can have counted within one window, each at the moment that is worst for us."""
    return max(
        sum(began < start + window_s - TINY_S and ended >= start for began, ended in spans)
        for start in (ended for _, ended in spans)
    )


@pytest.mark.parametrize("seed", range(8))
def test_whenever_each_message_is_counted_no_second_has_more_than_the_limit(seed: int) -> None:
    rng = random.Random(seed)

    async def scene() -> None:
        line = Line()

        async def one(number: int) -> None:
            await asyncio.sleep(rng.choice((0.0, rng.uniform(0, 20))))
            lasts_s = rng.choice((0.0, rng.uniform(0, 0.2), rng.uniform(0, 3), rng.uniform(0, 30)))
            error = rng.choice((None, None, None, Refused("no"), Unreachable("no answer")))
            try:
                async with asyncio.timeout(rng.choice((None, None, rng.uniform(0, 20)))):
                    if rng.random() < 0.2:
                        await line.progress(f"{number}", lasts_s)
                    else:
                        await line.send(f"{number}", lasts_s, error, rng.choice((Urgency.RESULT, Urgency.REPLY)))
            except (Refused, Unreachable, TimeoutError):
                pass

        await asyncio.gather(*(one(number) for number in range(400)))
        await line.pacer.close()
        assert len(line.spans) > 200
        assert most_counted(line.spans, 1.0) <= ALL

    played(scene)


def test_a_group_s_minute_holds_on_a_slow_line() -> None:
    async def scene() -> None:
        line = Line(group_per_window=20)
        await asyncio.gather(*(line.send("group", number % 7 * 15.0) for number in range(60)))
        await line.pacer.close()
        assert most_counted(line.spans, 60.0) <= 20

    played(scene)


def test_a_quick_platform_gets_nearly_as_much_as_it_takes() -> None:
    async def scene() -> None:
        line = Line()
        await asyncio.gather(*(line.send(f"{number}", 0.1) for number in range(500)))
        await line.pacer.close()
        assert 500 / line.clock() > 24

    played(scene)


def test_who_is_cancelled_or_fails_leaves_his_place_to_others() -> None:
    async def scene() -> None:
        line = Line()
        for lost in range(3):
            sending = [asyncio.create_task(line.send(f"{lost}-{number}", 60.0)) for number in range(2 * ALL)]
            await asyncio.sleep(2.0)
            for task in sending:
                task.cancel()
            await asyncio.gather(*sending, return_exceptions=True)
        await asyncio.sleep(2.0)
        for number in range(ALL):  # their turn comes, and before they know it they are cancelled
            await asyncio.sleep(0.05)
            task = asyncio.create_task(line.send(f"turn-{number}", 60.0))
            await asyncio.sleep(0)
            assert line.pacer.waiting == 1
            await asyncio.sleep(0)
            assert line.pacer.waiting == 0
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        began = line.clock()
        await asyncio.gather(*(line.send(f"after-{number}", 0.0) for number in range(ALL)))
        assert line.clock() - began < 2.5
        await line.pacer.close()

    played(scene)


def test_slow_uploads_leave_room_for_answers() -> None:
    async def scene() -> None:
        line = Line()
        uploads = [
            asyncio.create_task(line.send(f"clip-{number}", 30.0, urgency=Urgency.RESULT)) for number in range(2 * ALL)
        ]
        await asyncio.sleep(5.0)
        began = line.clock()
        await line.send("asker", 0.1)
        assert line.clock() - began < 1.0
        await asyncio.gather(*uploads)
        assert line.clock() < 120.0
        await line.pacer.close()

    played(scene)


def test_progress_leaves_half_of_the_places() -> None:
    async def scene() -> None:
        line = Line()
        shown = []
        for number in range(ALL):
            shown.append(asyncio.create_task(line.progress(f"{number}", 5.0)))
            await asyncio.sleep(0.05)
        assert sum(await asyncio.gather(*shown)) == ALL // 2

    played(scene)


def test_a_flood_wait_gives_its_place_back_and_is_waited_for() -> None:
    async def scene() -> None:
        line = Line()
        calls: list[float] = []

        async def call() -> None:
            calls.append(line.clock())
            if len(calls) == 1:
                raise FloodWait(7.0)

        await line.pacer.run("chat", call, group=False, urgency=Urgency.RESULT)
        await line.pacer.close()
        assert calls == pytest.approx([0.0, 7.0])

    played(scene)


def test_the_limits_leave_room_to_those_of_the_platforms() -> None:
    assert LIMITS["telegram"].all_per_window < 30
    assert LIMITS["discord"].all_per_window < 50

"""Many people ask one bot at the same moment, in private and in one group: limits held, every result, how long it took.

``TESSERA_BOT_FLOOD=200`` makes it long. What was sent is measured at the fake platform, which refuses what comes faster
than the real one takes; ``TESSERA_BOT_FLOOD_PACE`` is how much faster its clock and the bots' limits run in the group,
where twenty messages a minute would keep two hundred people for twenty minutes.
"""

from __future__ import annotations

import asyncio
import math
import os
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import pytest

from bots.config import LIMITS
from tessera.config import ClusterConfig, IngressConfig, NodeConfig
from tests.fakes import discord_chats, telegram_chats
from tests.fakes.telegram import SENDING
from tests.integration.api_server import Api, running
from tests.integration.bots.crowds import Crowd, DiscordCrowd, TelegramCrowd, crowd_of
from tests.integration.bots.forks import Forks, forks_of
from tests.integration.bots.world import Worker, telegram_world

PEOPLE = int(os.environ.get("TESSERA_BOT_FLOOD", "12"))
LONG = PEOPLE > 20
GROUP_PACE = float(os.environ.get("TESSERA_BOT_FLOOD_PACE", "5" if LONG else "20"))
WINDOW_S = 5.0  # one message a second in a chat is Telegram's limit in the long run, five in five seconds Discord's


@pytest.mark.timeout(3600 if LONG else 240)
@pytest.mark.parametrize("platform", ["telegram", "discord"])
async def test_a_flood_stays_under_the_limits_and_brings_every_result(
    platform: str, database_url: str, tmp_path: Path
) -> None:
    # New people are let in slowly; these are to be known by the time at which they ask.
    cluster = ClusterConfig(nodes=(NodeConfig(name="pc2"),), ingress=IngressConfig(signups_per_min=60_000))
    async with running(database_url, tmp_path, cluster=cluster) as api:
        sys.stdout.write(table(await _floods(platform, api, tmp_path)))


async def _floods(platform: str, api: Api, tmp_path: Path) -> list[dict[str, str]]:
    rows = []
    for together in (False, True):
        pace = GROUP_PACE if together or not LONG else 1.0
        folder = tmp_path / ("group" if together else "private")
        folder.mkdir()
        async with (
            crowd_of(platform, api, folder, pace, folder.name) as crowd,
            forks_of(platform, crowd.environ, folder) as bots,
        ):
            _limit(crowd, pace)
            rows.append(await _flood(crowd, bots, api, together=together, pace=pace))
    return rows


async def _flood(crowd: Crowd, bots: Forks, api: Api, *, together: bool, pace: float) -> dict[str, str]:
    worker = Worker(api)
    working = asyncio.create_task(worker.run())
    await bots.start()
    try:
        await crowd.up()
        began = time.time()
        asked = [await crowd.ask(number, together=together) for number in range(PEOPLE)]
        await crowd.until(
            lambda: all(crowd.results(each) == 1 for each in asked), "everybody has one result", 3000 if LONG else 200
        )
        took = time.time() - began
        answers = sorted(after for each in asked if (after := crowd.answered_s(each)) is not None)
    finally:
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)
    busiest, minute, everywhere, floods = sent_at(crowd, pace)
    sys.stdout.write(f"{busiest=} {minute=} {everywhere=} {floods=} {took=:.1f}\n")
    limits = LIMITS[crowd.platform]
    # What left a little late arrives together with the next one.
    assert busiest <= WINDOW_S * limits.chat_per_s + 2
    if limits.group_per_window and together:
        assert minute <= limits.group_per_window + (1 if pace > 1 else 0)
    if LONG and pace == 1:  # on a fast clock the milliseconds of a busy machine would count for seconds
        assert floods == 0 and everywhere <= (30 if crowd.platform == "telegram" else 50)
    return {
        "platform": crowd.platform,
        "where": "one group" if together else "in private",
        "people": str(PEOPLE),
        "results": str(sum(crowd.results(each) for each in asked)),
        "busiest chat": f"{busiest}/{WINDOW_S:g} s",
        "group": f"{minute}/min" if together else "",
        "in all": f"{everywhere}/s",
        "refused": str(floods),
        "answered": str(len(answers)),  # in Discord within three seconds, or else by the result alone
        "after p50": f"{quantile(answers, 0.5):.1f} s",
        "p99": f"{quantile(answers, 0.99):.1f} s",
        "all results": f"{took:.0f} s",
        "clock": f"×{pace:g}",
    }


def _limit(crowd: Crowd, pace: float) -> None:
    if isinstance(crowd, TelegramCrowd):
        crowd.telegram.limits = telegram_chats.Limits(speed=pace)
    elif isinstance(crowd, DiscordCrowd):
        crowd.discord.limits = discord_chats.Limits(speed=pace)


def sent_at(crowd: Crowd, pace: float) -> tuple[int, int, int, int]:
    """The most messages of one chat in WINDOW_S, of one chat in a minute, and of all in a second, on the platform's
    clock; and how many were refused as too fast."""
    by_chat: dict[object, list[float]] = defaultdict(list)
    if isinstance(crowd, TelegramCrowd):
        for at, _, method, chat in crowd.telegram.calls:
            if method in SENDING:
                by_chat[chat].append(at * pace)
        floods = crowd.telegram.floods
    else:
        assert isinstance(crowd, DiscordCrowd)
        for at, method, path in crowd.discord.calls:
            parts = path.split("/")
            if method in ("POST", "PATCH") and parts[0] in ("channels", "webhooks"):
                by_chat["/".join(parts[:3] if parts[0] == "webhooks" else parts[:2])].append(at * pace)
        floods = crowd.discord.floods
    every = sorted(at for times in by_chat.values() for at in times)
    return (
        max(most_within(times, WINDOW_S) for times in by_chat.values()),
        max(most_within(times, 60.0) for times in by_chat.values()),
        most_within(every, 1.0),
        floods,
    )


def most_within(times: Sequence[float], window_s: float) -> int:
    """The most of these moments (ascending) that lie within one window."""
    most = start = 0
    for end, at in enumerate(times):
        while times[start] <= at - window_s:
            start += 1
        most = max(most, end - start + 1)
    return most


def quantile(values: Sequence[float], part: float) -> float:
    """Of ascending values; not a number when there are none."""
    return math.nan if not values else values[min(len(values) - 1, math.ceil(part * len(values)) - 1)]


def table(rows: Sequence[dict[str, str]]) -> str:
    """The rows under their names."""
    names = list(rows[0])
    widths = [max(len(name), *(len(row[name]) for row in rows)) for name in names]
    lines = ["  ".join(name.ljust(width) for name, width in zip(names, widths, strict=True))]
    lines += ["  ".join(row[name].ljust(width) for name, width in zip(names, widths, strict=True)) for row in rows]
    return "\n" + "\n".join(line.rstrip() for line in lines) + "\n"


async def test_who_is_new_while_too_many_are_is_kept_and_not_refused(database_url: str, tmp_path: Path) -> None:
    cluster = ClusterConfig(nodes=(NodeConfig(name="pc2"),), ingress=IngressConfig(signups_per_min=1))
    async with running(database_url, tmp_path, cluster=cluster) as api, telegram_world(api, tmp_path) as world:
        await world.telegram.say(world.bot, world.user, "a fox")
        await world.result()
        bob = world.telegram.add_user(77, "Bob")
        await world.telegram.say(world.bot, bob, "a badger")
        async with asyncio.timeout(40):
            while not await world.sql.fetchval("SELECT count(*) FROM inbox WHERE last_error IS NOT NULL"):
                await world.telegram.next_call()
        kept = await world.sql.fetchrow("SELECT state, next_try_at > now() AS later FROM inbox WHERE ended_at IS NULL")
        assert (kept["state"], kept["later"]) == ("pending", True)
        assert not world.telegram.seen(bob.id, by_bot=True)

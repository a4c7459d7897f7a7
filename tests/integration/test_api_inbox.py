"""The inbox: an update is stored once, before it is acknowledged, and what was not finished comes again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tessera.api.schemas import deliveries as shapes
from tessera.client import Client
from tessera.deliveries import MAX_TRIES
from tests.integration.api_server import Api
from tests.integration.people import service_key

BOT = ("telegram", "painter")
WHO = {"platform": "telegram", "bot": "painter"}


@pytest.fixture
async def key(api: Api) -> str:
    return await service_key(api)


@pytest.fixture
async def bot(api: Api, key: str) -> AsyncIterator[Client]:
    async with Client(api.url, key) as client:
        yield client


def update(number: int, lane: str | int | None = "chat", **data: Any) -> dict[str, Any]:
    return {"update_id": number, "lane": lane, "data": {"number": number, **data}}


async def pass_time(api: Api, seconds: float) -> None:
    await api.sql.execute("UPDATE inbox SET next_try_at = next_try_at - make_interval(secs => $1)", seconds)


async def test_an_update_is_stored_once_however_often_it_comes(api: Api, bot: Client, key: str) -> None:
    first = await bot.store_updates(*BOT, [update(1), update(2), update(1)], lease_s=60)
    assert [one.stored for one in first] == [True, True, False]
    assert first[0].lease_token and first[2].lease_token is None
    assert [one.stored for one in await bot.store_updates(*BOT, [update(2), update(3)])] == [False, True]
    assert await api.sql.fetchval("SELECT count(*) FROM inbox") == 3
    # Another bot counts by itself.
    assert [one.stored for one in await bot.store_updates("telegram", "other", [update(1)])] == [True]
    answer, body = await api.call("POST", "/v1/internal/inbox", key=key, json={**WHO, "updates": [update(9)]})
    assert answer.status == 200
    shapes.Stored.model_validate(body)


async def test_ten_stores_at_once_of_one_update_keep_one(api: Api, bot: Client) -> None:
    stored = await asyncio.gather(*(bot.store_updates(*BOT, [update(1)], lease_s=60) for _ in range(10)))
    assert sum(one[0].stored for one in stored) == 1


async def test_what_was_not_finished_comes_again_in_its_order_after_a_restart(api: Api, bot: Client) -> None:
    stored = await bot.store_updates(*BOT, [update(1, text="a"), update(2), update(3, "other")], lease_s=60)
    assert [one.state for one in await bot.ack_updates(*BOT, [stored[2]])] == ["done"]
    assert await bot.claim_updates(*BOT) == ()  # still leased
    await pass_time(api, 61)
    (again,) = await bot.claim_updates(*BOT)
    assert (again.update_id, again.lane, again.data, again.tries) == ("1", "chat", {"number": 1, "text": "a"}, 2)
    assert [one.stale for one in await bot.ack_updates(*BOT, [stored[0]])] == [True]
    assert [one.state for one in await bot.ack_updates(*BOT, [again])] == ["done"]
    (second,) = await bot.claim_updates(*BOT)
    assert second.update_id == "2"
    assert (await bot.release_update(*BOT, second, error="busy", retry_after_s=600)).state == "pending"
    assert await bot.claim_updates(*BOT) == ()
    await pass_time(api, 601)
    (second,) = await bot.claim_updates(*BOT)
    assert (await bot.release_update(*BOT, second, error="nonsense", permanent=True)).state == "failed"
    assert await bot.claim_updates(*BOT) == ()
    # Known for good: the platform may send it again.
    assert [one.stored for one in await bot.store_updates(*BOT, [update(1), update(2)])] == [False, False]


async def test_updates_without_a_lane_wait_for_nothing(api: Api, bot: Client) -> None:
    await bot.store_updates(*BOT, [update(number, None) for number in range(5)])
    assert [one.update_id for one in await bot.claim_updates(*BOT, max=3)] == ["0", "1", "2"]
    assert [one.update_id for one in await bot.claim_updates(*BOT)] == ["3", "4"]


async def test_a_waiting_claim_is_answered_when_an_update_is_stored(api: Api, bot: Client) -> None:
    waiting = asyncio.create_task(bot.claim_updates(*BOT, wait_s=30))
    await asyncio.sleep(0)
    await bot.store_updates(*BOT, [update(1)])
    async with asyncio.timeout(20):
        assert [one.update_id for one in await waiting] == ["1"]


async def test_an_update_that_kills_every_bot_is_given_up(api: Api, bot: Client) -> None:
    await bot.store_updates(*BOT, [update(1), update(2)])
    for _ in range(MAX_TRIES):
        assert [one.update_id for one in await bot.claim_updates(*BOT)] == ["1"]
        await pass_time(api, 61)
    await bot.claim_updates(*BOT)
    assert await api.sql.fetchval("SELECT state FROM inbox WHERE update_id = '1'") == "failed"
    assert [one.update_id for one in await bot.claim_updates(*BOT)] == ["2"]


async def test_only_a_service_key_may_ask(api: Api) -> None:
    for path in ("inbox", "inbox:claim", "inbox:ack", "inbox:release"):
        answer, problem = await api.call("POST", f"/v1/internal/{path}", json=WHO)
        assert (answer.status, problem["code"]) == (403, "forbidden")
        assert (await api.call("POST", f"/v1/internal/{path}", json=WHO, key=None))[0].status == 401


WRONG_BODIES: list[tuple[str, Any]] = [
    ("inbox", {}),
    ("inbox", {**WHO, "updates": []}),
    ("inbox", {**WHO, "updates": [{"update_id": 1}]}),
    ("inbox", {**WHO, "updates": [{"update_id": True, "data": {}}]}),
    ("inbox", {**WHO, "updates": [{"update_id": "", "data": {}}]}),
    ("inbox", {**WHO, "updates": [{"update_id": "\x00", "data": {}}]}),
    ("inbox", {**WHO, "updates": [{"update_id": 1, "data": {"text": "\x00"}}]}),
    ("inbox", {**WHO, "updates": [{"update_id": 1, "data": {"text": "x" * 70_000}}]}),
    ("inbox", {**WHO, "updates": [{"update_id": 1, "data": {}, "lane": []}]}),
    ("inbox", {**WHO, "updates": [{"update_id": 1, "data": {}}], "lease_s": 1}),
    ("inbox:claim", {"platform": "telegram"}),
    ("inbox:ack", {**WHO, "updates": [{"update_id": 1}]}),
    ("inbox:release", {**WHO, "updates": [{"update_id": 1, "lease_token": "x"}]}),
]


async def test_a_wrong_field_is_named_and_nothing_is_stored(api: Api, key: str) -> None:
    for path, body in WRONG_BODIES:
        answer, problem = await api.call("POST", f"/v1/internal/{path}", key=key, json=body)
        assert (answer.status, problem["code"]) == (422, "invalid_input")
        assert await api.sql.fetchval("SELECT count(*) FROM inbox") == 0

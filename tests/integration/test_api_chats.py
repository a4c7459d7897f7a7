"""Deliveries to chats: written with the event, claimed under leases, in order per chat, never lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tessera.api.deliveries.bell import Bell
from tessera.api.schemas import deliveries as shapes
from tessera.client import ApiError, ChatDelivery, Client
from tessera.deliveries import MAX_TRIES
from tessera.ids import Prefix, new_id, parse, show
from tests.integration.api_server import Api
from tests.integration.people import service_key

CLAIM = "/v1/internal/deliveries:claim"
BOT = {"platform": "telegram", "bot": "painter"}


@pytest.fixture
async def key(api: Api) -> str:
    return await service_key(api)


@pytest.fixture
async def bot(api: Api, key: str) -> AsyncIterator[Client]:
    async with Client(api.url, key) as client:
        yield client


async def ask(bot: Client, chat: str | int = 42, person: str = "telegram:1", **more: Any) -> str:
    """A job that somebody asked for in a chat."""
    job = await bot.acting_for(person).submit("text", {"prompt": "hello"}, delivery={**BOT, "chat": chat, **more})
    return job.id


async def claim(bot: Client, **options: Any) -> list[ChatDelivery]:
    return list((await bot.claim_deliveries("telegram", "painter", **options)).data)


async def pass_time(api: Api, seconds: float) -> None:
    await api.sql.execute(
        "UPDATE deliveries SET next_try_at = next_try_at - make_interval(secs => $1),"
        " first_try_at = first_try_at - make_interval(secs => $1)",
        seconds,
    )


async def row(api: Api, delivery: ChatDelivery) -> dict[str, Any]:
    found = await api.sql.fetchrow("SELECT * FROM deliveries WHERE id = $1", parse(Prefix.DELIVERY, delivery.id))
    return dict(found)


async def test_a_result_is_fetched_with_its_job_and_the_chat_as_the_bot_gave_it(
    api: Api, bot: Client, key: str
) -> None:
    job_id = await ask(bot, chat=-100123, thread=7, message=11)
    assert await claim(bot) == []
    await api.complete(job_id, b"picture")
    answer, body = await api.call("POST", CLAIM, key=key, json=BOT)
    assert answer.status == 200
    shapes.ClaimedChats.model_validate(body)
    (delivery,) = [ChatDelivery.model_validate(one) for one in body["data"]]
    assert (delivery.event.type, delivery.job.id, delivery.job.state, delivery.tries) == (
        "completed",
        job_id,
        "completed",
        1,
    )
    assert delivery.event.data["charged_tokens"] == delivery.job.charged_tokens
    assert delivery.job.artifacts[0].bytes == len(b"picture")
    finals = ["completed", "failed", "cancelled", "expired"]
    assert delivery.delivery == {**BOT, "chat": -100123, "thread": 7, "message": 11, "events": finals}
    assert [one.state for one in await bot.ack_deliveries([delivery])] == ["delivered"]
    assert await claim(bot) == []
    assert (await row(api, delivery))["ended_at"] is not None


async def test_every_way_in_which_a_job_ends_is_delivered_once(api: Api, bot: Client) -> None:
    for end in ("failed", "cancelled while waiting", "cancelled while running", "expired"):
        await one_that_ends(api, bot, end)


async def one_that_ends(api: Api, bot: Client, end: str) -> None:
    job_id = await ask(bot)
    if end == "cancelled while waiting":
        await bot.acting_for("telegram:1").cancel(job_id)
    elif end == "expired":
        rows = [{"ord": 0, "job_id": str(parse(Prefix.JOB, job_id)), "to_state": "expired", "reason": "deadline"}]
        await api.sql.fetch("SELECT * FROM end_waiting($1)", rows)
    else:
        attempt = await api.claim(job_id)
        error = {"code": "stuck", "message": "It made no progress.", "retryable": True}
        await api.finish(job_id, attempt, end.split()[0], error=error if end == "failed" else None)
    (delivery,) = await claim(bot)
    await bot.ack_deliveries([delivery])
    assert delivery.event.type == delivery.job.state == end.split()[0]
    if end == "failed":
        assert delivery.event.data["error"]["refunded_tokens"] == delivery.job.cost_tokens


async def test_only_the_events_that_are_wanted_are_delivered_in_their_order(api: Api, bot: Client) -> None:
    job_id = await ask(bot, events=["completed", "output", "started"])
    await api.complete(job_id, b"picture")
    told = []
    while found := await claim(bot):
        (delivery,) = found
        told.append((delivery.event.type, delivery.event.id))
        await bot.ack_deliveries(found)
    assert told == [("started", 2), ("output", 3), ("completed", 4)]


async def test_a_job_without_chat_or_webhook_writes_nothing(api: Api) -> None:
    job = await api.submit()
    await api.complete(job["id"])
    assert await api.sql.fetchval("SELECT count(*) FROM deliveries") == 0


async def test_of_one_chat_one_is_under_way_and_others_do_not_wait_for_it(api: Api, bot: Client) -> None:
    jobs = [await ask(bot, chat) for chat in ("a", "a", "b", "a")]
    for job_id in jobs:
        await api.complete(job_id)
    first = await claim(bot)
    assert [one.job.id for one in first] == [jobs[0], jobs[2]]
    assert await claim(bot) == []
    await bot.ack_deliveries(first)
    second = await claim(bot)
    assert [one.job.id for one in second] == [jobs[1]]
    # Who gives one back keeps its chat waiting, in its order.
    assert (await bot.release_delivery(second[0], retry_after_s=3600)).state == "pending"
    assert await claim(bot) == []
    await pass_time(api, 3600)
    assert [one.job.id for one in await claim(bot)] == [jobs[1]]


async def test_what_a_killed_bot_held_comes_again_and_its_late_word_changes_nothing(api: Api, bot: Client) -> None:
    await api.complete(await ask(bot))
    (held,) = await claim(bot, lease_s=60)
    await pass_time(api, 61)
    (again,) = await claim(bot)
    assert (again.id, again.tries) == (held.id, 2) and again.lease_token != held.lease_token
    assert [one.stale for one in await bot.ack_deliveries([held])] == [True]
    assert (await bot.release_delivery(held, error="late")).stale
    assert [one.stale for one in await bot.extend_deliveries([held])] == [True]
    assert (await row(api, again))["state"] == "leased"
    assert [one.state for one in await bot.ack_deliveries([again])] == ["delivered"]


async def test_two_claims_at_once_never_get_the_same(api: Api, bot: Client) -> None:
    for number in range(30):
        await api.complete(await ask(bot, f"chat-{number}", f"telegram:{1 + number % 3}"))
    claims = await asyncio.gather(*(claim(bot, max=7) for _ in range(8)))
    ids = [one.id for found in claims for one in found]
    while found := await claim(bot, max=7):
        ids += [one.id for one in found]
    assert len(ids) == len(set(ids)) == 30


async def test_a_waiting_claim_is_answered_when_something_comes(api: Api, bot: Client) -> None:
    job_id = await ask(bot)
    waiting = asyncio.create_task(claim(bot, wait_s=30))
    await asyncio.sleep(0)
    await api.complete(job_id)
    async with asyncio.timeout(20):
        (delivery,) = await waiting
    assert delivery.job.id == job_id


async def test_a_bot_gets_nothing_of_another_one(api: Api, bot: Client) -> None:
    await api.complete(await ask(bot))
    for platform, name in (("telegram", "other"), ("discord", "painter")):
        assert (await bot.claim_deliveries(platform, name)).data == ()
    assert len(await claim(bot)) == 1


async def test_a_lease_is_extended(api: Api, bot: Client) -> None:
    await api.complete(await ask(bot))
    (delivery,) = await claim(bot, lease_s=10)
    assert [one.state for one in await bot.extend_deliveries([delivery], lease_s=600)] == ["leased"]
    await pass_time(api, 300)
    assert await claim(bot) == []


async def test_after_a_day_of_failures_a_delivery_is_given_up_with_its_log(api: Api, bot: Client) -> None:
    await api.complete(await ask(bot))
    tries = 0
    while found := await claim(bot):
        tries += 1
        state = (await bot.release_delivery(found[0], error=f"502 no. {tries}")).state
        if state == "failed":
            break
        due = await api.sql.fetchval("SELECT extract(epoch FROM next_try_at - now())::float8 FROM deliveries")
        assert due > 0 and await claim(bot) == []
        await pass_time(api, due + 0.1)
    assert 10 <= tries <= MAX_TRIES
    ended = await row(api, found[0])
    assert (ended["state"], ended["last_error"]) == ("failed", f"502 no. {tries}")
    logged = await api.sql.fetch("SELECT number, error FROM delivery_tries ORDER BY number")
    assert [one["number"] for one in logged] == list(range(1, tries + 1))


async def test_a_flood_wait_does_not_count_as_a_try_and_a_refusal_for_good_ends_it(api: Api, bot: Client) -> None:
    await api.complete(await ask(bot))
    for _ in range(MAX_TRIES + 5):
        (delivery,) = await claim(bot)
        assert delivery.tries == 1
        assert (await bot.release_delivery(delivery)).state == "pending"
    (delivery,) = await claim(bot)
    assert (await bot.release_delivery(delivery, error="the bot was blocked", permanent=True)).state == "failed"
    assert await claim(bot) == []


async def test_what_kills_every_bot_that_takes_it_is_given_up(api: Api, bot: Client) -> None:
    await api.complete(await ask(bot))
    for _ in range(MAX_TRIES):
        (delivery,) = await claim(bot, lease_s=5)
        await pass_time(api, 6)
    assert await claim(bot) == []
    ended = await row(api, delivery)
    assert ended["state"] == "failed" and "without an end" in ended["last_error"]


async def test_a_bot_that_was_away_for_days_still_has_a_day_to_deliver(api: Api, bot: Client) -> None:
    await api.complete(await ask(bot))
    await api.sql.execute("UPDATE deliveries SET created_at = created_at - interval '3 days'")
    (delivery,) = await claim(bot)
    assert (await bot.release_delivery(delivery, error="not yet")).state == "pending"


async def test_the_status_message_is_stored_later_and_comes_with_the_result(api: Api, bot: Client) -> None:
    job_id = await ask(bot, draft="x")
    changed = await bot.change_job_delivery(job_id, {"message": 99, "draft": None})
    assert (changed["message"], changed["chat"], "draft" in changed) == (99, 42, False)
    assert await bot.job_delivery(job_id) == changed
    await api.complete(job_id)
    (delivery,) = await claim(bot)
    assert delivery.delivery["message"] == 99
    await bot.change_job_delivery(job_id, {"message": 100})  # after the end, too


async def test_a_chat_cannot_be_changed_into_something_else(api: Api, bot: Client) -> None:
    job_id = await ask(bot)
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"chat": 1}, "chat"),
        ({"platform": "x"}, "platform"),
        ({"events": ["nonsense"]}, "events"),
        ({"x": "y" * 5000}, "delivery"),
    ]
    for changes, field in wrong:
        with pytest.raises(ApiError) as refused:
            await bot.change_job_delivery(job_id, changes)
        assert refused.value.status == 422 and field in refused.value.message


async def test_a_job_without_a_chat_has_no_delivery(api: Api, bot: Client) -> None:
    job = await api.submit()
    for job_id in (job["id"], show(Prefix.JOB, new_id()), "nonsense"):
        for call in (bot.job_delivery(job_id), bot.change_job_delivery(job_id, {"message": 1})):
            with pytest.raises(ApiError) as refused:
                await call
            assert refused.value.status == 404


async def test_only_a_service_key_may_ask(api: Api, key: str) -> None:
    job_id = show(Prefix.JOB, new_id())
    person = {"Tessera-On-Behalf-Of": "telegram:1"}
    for method, path in (
        ("POST", "deliveries:claim"),
        ("POST", "deliveries:ack"),
        ("POST", "deliveries:release"),
        ("POST", "deliveries:extend"),
        ("GET", f"jobs/{job_id}/delivery"),
        ("PATCH", f"jobs/{job_id}/delivery"),
    ):
        answer, problem = await api.call(method, f"/v1/internal/{path}", json=BOT)
        assert (answer.status, problem["code"]) == (403, "forbidden"), path
        assert (await api.call(method, f"/v1/internal/{path}", json=BOT, key=None))[0].status == 401, path
        assert (await api.call(method, f"/v1/internal/{path}", json=BOT, key=key, headers=person))[0].status == 403


async def test_only_a_service_key_may_name_a_chat(api: Api) -> None:
    body = {"kind": "text", "input": {"prompt": "x"}, "delivery": {**BOT, "chat": 1}}
    answer, problem = await api.call("POST", "/v1/jobs", json=body)
    assert (answer.status, problem["code"]) == (403, "forbidden")
    assert await api.sql.fetchval("SELECT count(*) FROM jobs") == 0


WRONG_CHATS: list[Any] = [
    "telegram",
    {},
    {"platform": "telegram", "bot": "x"},
    {**BOT, "chat": ""},
    {**BOT, "chat": True},
    {**BOT, "chat": "x" * 129},
    {**BOT, "chat": 1, "events": []},
    {**BOT, "chat": 1, "events": ["progress"]},
    {**BOT, "chat": 1, "deep": {"a": {"b": {"c": {"d": 1}}}}},
    {**BOT, "chat": 1, "nul": "\x00"},
    {**BOT, "chat": 1, "long": "x" * 5000},
    {"platform": "Tele gram", "bot": "x", "chat": 1},
]


async def test_a_chat_that_cannot_be_stored_is_refused_by_its_field(api: Api, key: str) -> None:
    for delivery in WRONG_CHATS:
        body = {"kind": "text", "input": {"prompt": "x"}, "delivery": delivery}
        headers = {"Tessera-On-Behalf-Of": "telegram:1"}
        answer, problem = await api.call("POST", "/v1/jobs", key=key, headers=headers, json=body)
        assert (answer.status, problem["code"]) == (422, "invalid_input")
        assert problem["errors"][0]["field"].startswith("delivery")


WRONG_BODIES: list[tuple[str, Any]] = [
    ("deliveries:claim", {}),
    ("deliveries:claim", {**BOT, "max": 0}),
    ("deliveries:claim", {**BOT, "max": "many"}),
    ("deliveries:claim", {**BOT, "lease_s": 1e9}),
    ("deliveries:claim", {**BOT, "wait_s": -1}),
    ("deliveries:claim", {**BOT, "more": 1}),
    ("deliveries:ack", {}),
    ("deliveries:ack", {"deliveries": []}),
    ("deliveries:ack", {"deliveries": ["x"]}),
    ("deliveries:ack", {"deliveries": [{"id": "dlv_x", "lease_token": "x"}]}),
    ("deliveries:ack", {"deliveries": [{"id": show(Prefix.DELIVERY, new_id()), "lease_token": "x"}]}),
    ("deliveries:release", {"deliveries": [{"id": show(Prefix.DELIVERY, new_id())}]}),
    (
        "deliveries:release",
        {"deliveries": [{"id": show(Prefix.DELIVERY, new_id()), "lease_token": str(new_id()), "permanent": 1}]},
    ),
    ("deliveries:extend", {"deliveries": [{"id": "x"}], "lease_s": 60}),
]


async def test_a_wrong_field_is_named_and_changes_nothing(api: Api, key: str) -> None:
    for path, body in WRONG_BODIES:
        answer, problem = await api.call("POST", f"/v1/internal/{path}", key=key, json=body)
        assert (answer.status, problem["code"]) == (422, "invalid_input")


async def test_an_unknown_delivery_is_stale(api: Api, key: str) -> None:
    unknown = {"id": show(Prefix.DELIVERY, new_id()), "lease_token": str(new_id())}
    for path in ("ack", "release", "extend"):
        answer, body = await api.call(
            "POST", f"/v1/internal/deliveries:{path}", key=key, json={"deliveries": [unknown]}
        )
        assert answer.status == 200
        shapes.Settled.model_validate(body)
        assert body["data"] == [{"id": unknown["id"], "state": "stale"}]


async def test_a_delivery_of_a_deleted_job_is_given_up(api: Api, bot: Client) -> None:
    job_id = await ask(bot)
    await api.complete(job_id)
    await api.sql.execute("DELETE FROM jobs WHERE id = $1", parse(Prefix.JOB, job_id))
    assert await claim(bot) == []
    assert await api.sql.fetchval("SELECT state FROM deliveries") == "failed"


async def test_a_pause_stops_claims_and_says_so(api: Api, bot: Client) -> None:
    await api.complete(await ask(bot))
    await api.sql.execute("INSERT INTO deliveries_pause (actor, reason) VALUES ('test', 'restored')")
    claimed = await bot.claim_deliveries("telegram", "painter")
    assert (claimed.data, claimed.paused) == ((), True)
    await api.sql.execute("DELETE FROM deliveries_pause")
    assert len(await claim(bot)) == 1


async def test_the_bell_keeps_its_connection_and_comes_back_when_it_is_cut(database_url: str, api: Api) -> None:
    bell = Bell(database_url, check_s=0.02)
    bell.start()
    try:
        with bell.waiting("x") as rung:
            async with asyncio.timeout(30):
                await rung.wait()  # the first connection
                await asyncio.sleep(0.3)  # many checks
                assert bell.connections == 1
                rung.clear()
                await api.sql.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE application_name = 'tessera-bell' AND datname = current_database()"
                )
                await rung.wait()
                rung.clear()
                await api.sql.execute("SELECT pg_notify('tessera_deliveries', 'x')")
                await rung.wait()
    finally:
        await bell.close()

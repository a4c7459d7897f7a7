"""One stream over all of one's jobs: in order, resumable, nothing lost, nothing of others."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import pytest

from tessera.api.events import user_events
from tessera.api.schemas.base import Event
from tessera.client import Client
from tests.integration.api_server import Api, Events, running


@contextlib.asynccontextmanager
async def stream(api: Api, last: int | None = None, key: str = "") -> AsyncIterator[Events]:
    headers = {"Authorization": f"Bearer {key or api.key}"}
    if last is not None:
        headers["Last-Event-ID"] = str(last)
    async with api.http.get(f"{api.url}/v1/events", headers=headers) as answer:
        assert answer.status == 200, await answer.text()
        yield Events(answer)


async def test_all_jobs_are_told_in_the_order_of_what_happened(api: Api) -> None:
    before = await api.submit()
    async with stream(api) as events:
        one = await api.submit()
        two = await api.submit("image", prompt="a fox")
        await api.complete(two["id"], b"picture")
        await api.call("POST", one["urls"]["cancel"])
        told = [await events.next() for _ in range(6)]
    assert [(m and m["data"]["job_id"], m and m["event"]) for m in told] == [
        (one["id"], "queued"),
        (two["id"], "queued"),
        (two["id"], "started"),
        (two["id"], "output"),
        (two["id"], "completed"),
        (one["id"], "cancelled"),
    ]
    numbers = [int(message["id"]) for message in told if message is not None]
    assert numbers == sorted(set(numbers))
    for message in told:
        assert message is not None
        assert Event.model_validate(message["data"]).id == int(message["id"])
    async with stream(api, last=0) as events:
        assert ((await events.next()) or {})["data"]["job_id"] == before["id"], "0 is from the oldest"


async def test_a_reader_resumes_after_the_last_event_that_it_has_seen(api: Api) -> None:
    made = [await api.submit() for _ in range(3)]
    async with stream(api, last=0) as events:
        first = await events.next()
        assert first is not None
    async with stream(api, last=int(first["id"])) as events:
        told = [await events.next() for _ in range(2)]
    assert [message and message["data"]["job_id"] for message in told] == [job["id"] for job in made[1:]]


async def test_what_is_kept_no_more_is_passed_over(api: Api) -> None:
    gone, kept = await api.submit(), await api.submit()
    await api.sql.execute("DELETE FROM job_events WHERE seq = (SELECT min(seq) FROM job_events)")
    async with stream(api, last=0) as events:
        message = await events.next()
    assert message is not None
    assert message["data"]["job_id"] == kept["id"] != gone["id"]


async def test_a_number_that_was_never_given_means_now(api: Api) -> None:
    async with stream(api, last=10**15) as events:
        job = await api.submit()
        assert ((await events.next()) or {})["data"]["job_id"] == job["id"]


async def test_a_reader_that_was_away_for_long_gets_every_event_in_pages(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(user_events, "PAGE", 3)
    made = [(await api.submit())["id"] for _ in range(10)]
    async with stream(api, last=0) as events:
        assert [((await events.next()) or {})["data"]["job_id"] for _ in made] == made


async def test_nobody_is_told_of_the_jobs_of_others(api: Api) -> None:
    stranger = await api.add_key()
    async with stream(api, key=stranger) as events:
        await api.submit()
        wanted = {"kind": "text", "input": {"prompt": "mine"}}
        _, own = await api.call("POST", "/v1/jobs", key=stranger, json=wanted)
        assert ((await events.next()) or {})["data"]["job_id"] == own["id"]
    assert (await api.call("GET", "/v1/events", key=None))[0].status == 401


async def test_silence_is_broken_by_heartbeats_and_a_revoked_key_ends_the_stream(
    database_url: str, tmp_path: Path
) -> None:
    async with running(database_url, tmp_path, heartbeat_s=0.2) as api, stream(api) as events:
        await api.sql.execute("UPDATE api_keys SET revoked_at = now()")
        assert await events.next() is None
        assert events.heartbeats >= 1


async def test_the_client_follows_all_jobs_and_goes_on_from_where_it_was(api: Api) -> None:
    first = await api.submit()
    async with Client(api.url, api.key) as client:
        async with aclosing(client.all_events(0)) as events:
            seen = await anext(events)
        assert seen.job_id == first["id"]
        second = await api.submit()
        async with asyncio.timeout(5), aclosing(client.all_events(seen.id)) as events:
            assert (await anext(events)).job_id == second["id"]
            await api.call("POST", second["urls"]["cancel"])
            assert (await anext(events)).type == "cancelled"
            third = await api.submit()
            assert (await anext(events)).job_id == third["id"], "the end of a job is not that of the stream"

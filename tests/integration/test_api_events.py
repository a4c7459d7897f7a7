"""Following a job: durable events with ids, ephemeral ones without, in order, over broken lines and outages."""

from __future__ import annotations

import asyncio
from pathlib import Path
from uuid import UUID

from tessera.api.schemas.base import Event
from tessera.ids import Prefix, parse
from tessera.jobs import EventType
from tessera.ports import Place
from tests.fakes.scheduler import live
from tests.integration.api_server import Api, running


def inside(job: dict[str, object]) -> UUID:
    return parse(Prefix.JOB, str(job["id"]))


async def test_a_whole_life_is_told_in_order_and_the_stream_ends(api: Api) -> None:
    job = await api.submit("image", prompt="a fox")
    async with api.events(job["id"]) as events:
        assert (await events.until("queued"))["id"] == "1"
        await api.complete(job["id"], b"picture")
        told = await events.rest()
    assert [(message["event"], message["id"]) for message in told] == [
        ("started", "2"),
        ("output", "3"),
        ("completed", "4"),
    ]
    for message in told:
        event = Event.model_validate(message["data"])
        assert (event.type, event.id, event.job_id) == (message["event"], int(message["id"]), job["id"])
    _, read = await api.call("GET", job["urls"]["self"])
    assert told[1]["data"]["data"] == read["artifacts"][0]
    assert told[2]["data"]["data"] == {"charged_tokens": 1, "refunded_tokens": 0}


async def test_a_failure_tells_its_error_and_refund(api: Api) -> None:
    job = await api.submit("image", prompt="a fox")
    attempt = await api.claim(job["id"])
    error = {"code": "out_of_memory", "message": "Too large.", "retryable": True}
    await api.finish(job["id"], attempt, "failed", error=error)
    async with api.events(job["id"]) as events:
        final = (await events.rest())[-1]
    assert final["event"] == "failed"
    assert final["data"]["data"]["error"] == {**error, "refunded_tokens": 1}


async def test_a_reader_resumes_after_the_last_event_that_it_has_seen(api: Api) -> None:
    job = await api.submit("image", prompt="a fox")
    await api.complete(job["id"], b"picture")
    async with api.events(job["id"], last=2) as events:
        assert [message["id"] for message in await events.rest()] == ["3", "4"]
    answer, body = await api.call("GET", f"/v1/jobs/{job['id']}/events?last_event_id=3")
    assert answer.status == 200
    assert b"event: output" not in body
    assert b"event: completed" in body


async def test_nothing_is_left_to_tell_after_the_final_event(api: Api) -> None:
    job = await api.submit("image", prompt="a fox")
    await api.complete(job["id"], b"picture")
    answer, _ = await api.call("GET", job["urls"]["events"], headers={"Last-Event-ID": "4"})
    assert answer.status == 204


async def test_an_unreadable_last_event_id_means_from_the_start(api: Api) -> None:
    job = await api.submit()
    await api.call("POST", job["urls"]["cancel"])
    for given in ("nonsense", "-1", "99999999999999999999", "²"):
        answer, body = await api.call("GET", job["urls"]["events"], headers={"Last-Event-ID": given})
        assert (answer.status, b"event: cancelled" in body) in {(200, True), (204, False)}


async def test_progress_and_chunks_come_live_and_without_an_id(api: Api) -> None:
    job = await api.submit()
    async with api.events(job["id"]) as events:
        await events.until("queued")
        attempt = await api.claim(job["id"])
        await events.until("started")
        api.scheduler.tell(inside(job), attempt, EventType.PROGRESS, fraction=0.5, note="half")
        api.scheduler.tell(inside(job), attempt, EventType.CHUNK, offset=0, text="Hel")
        api.scheduler.tell(inside(job), attempt, EventType.CHUNK, offset=3, text="lo")
        progress, *chunks = [await events.next(), await events.next(), await events.next()]
    assert progress is not None
    assert "id" not in progress
    assert "id" not in progress["data"]
    assert progress["data"]["data"] == {"fraction": 0.5, "note": "half"}
    assert [chunk and chunk["data"]["data"] for chunk in chunks] == [
        {"offset": 0, "text": "Hel"},
        {"offset": 3, "text": "lo"},
    ]


async def test_a_late_reader_gets_the_text_so_far_once(api: Api) -> None:
    job = await api.submit()
    attempt = await api.claim(job["id"])
    api.scheduler.known_so_far[inside(job)] = [
        live(inside(job), attempt, EventType.PROGRESS, fraction=0.2, note=None),
        live(inside(job), attempt, EventType.CHUNK, offset=0, text="Hello"),
    ]
    async with api.events(job["id"]) as events:
        assert (await events.until("chunk"))["data"]["data"] == {"offset": 0, "text": "Hello"}
        api.scheduler.tell(inside(job), attempt, EventType.CHUNK, offset=3, text="lo, world")
        assert (await events.until("chunk"))["data"]["data"] == {"offset": 5, "text": ", world"}


async def test_a_gap_in_the_text_is_filled_from_the_text_so_far(api: Api) -> None:
    job = await api.submit()
    attempt = await api.claim(job["id"])
    async with api.events(job["id"]) as events:
        await events.until("started")
        api.scheduler.known_so_far[inside(job)] = [
            live(inside(job), attempt, EventType.CHUNK, offset=0, text="Hello, world")
        ]
        api.scheduler.tell(inside(job), attempt, EventType.CHUNK, offset=7, text="world")
        assert (await events.until("chunk"))["data"]["data"] == {"offset": 0, "text": "Hello, world"}


async def test_the_end_of_a_text_brings_what_was_not_streamed_of_it(api: Api) -> None:
    job = await api.submit("text", prompt="hello")
    async with api.events(job["id"]) as events:
        attempt = await api.claim(job["id"])
        await events.until("started")
        await api.finish(job["id"], attempt, output={"text": "all of it", "finish_reason": "stop"})
        told = await events.rest()
    assert [message["event"] for message in told] == ["chunk", "completed"]
    assert told[0]["data"]["data"] == {"offset": 0, "text": "all of it"}


async def test_live_events_that_outrun_the_tail_do_not_come_before_started(api: Api) -> None:
    job = await api.submit()
    async with api.events(job["id"]) as events:
        await events.until("queued")
        rows = [{"job_id": str(inside(job)), "worker": "w1", "ord": 0}]
        async with api.sql.transaction():
            await api.sql.fetch("SELECT * FROM claim(0, $1, 30)", rows)
        api.scheduler.tell(inside(job), 1, EventType.CHUNK, offset=0, text="first")
        assert [(await events.next() or {})["event"] for _ in range(2)] == ["started", "chunk"]


async def test_a_retry_voids_the_text_and_stale_events_are_left_out(api: Api) -> None:
    job = await api.submit()
    async with api.events(job["id"]) as events:
        first = await api.claim(job["id"])
        await events.until("started")
        api.scheduler.tell(inside(job), first, EventType.CHUNK, offset=0, text="old")
        await events.until("chunk")
        await api.finish(job["id"], first, "requeued", reason="worker lost", failed=True)
        retry = await events.until("queued")
        assert (retry["id"], retry["data"]["data"]) == ("3", {"reason": "worker lost"})
        api.scheduler.tell(inside(job), first, EventType.CHUNK, offset=3, text="stale")
        second = await api.claim(job["id"])
        assert (await events.next() or {})["event"] == "started"
        api.scheduler.tell(inside(job), second, EventType.CHUNK, offset=0, text="new")
        assert (await events.until("chunk"))["data"]["data"] == {"offset": 0, "text": "new"}


async def test_a_queued_job_tells_its_place_when_it_changes(api: Api) -> None:
    job = await api.submit()
    async with api.events(job["id"]) as events:
        await events.until("queued")
        for position in (2, 1):
            api.scheduler.known_places[inside(job)] = Place(position=position, eta_low_s=1, eta_high_s=position * 3)
            told = await events.until("queued")
            assert "id" not in told
            assert told["data"]["data"] == {"position": position, "eta": {"low_s": 1, "high_s": position * 3}}


async def test_internal_events_never_leave(api: Api) -> None:
    job = await api.submit()
    attempt = await api.claim(job["id"])
    await api.call("POST", job["urls"]["cancel"])
    await api.finish(job["id"], attempt, "cancelled", charged_mt=0)
    async with api.events(job["id"]) as events:
        assert [message["event"] for message in await events.rest()] == ["queued", "started", "cancelled"]


async def test_a_silent_stream_has_heartbeats(database_url: str, tmp_path: Path) -> None:
    async with running(database_url, tmp_path, heartbeat_s=0.05) as api:
        job = await api.submit()
        async with api.events(job["id"]) as events:
            await events.until("queued")
            await asyncio.sleep(0.3)
            await api.call("POST", job["urls"]["cancel"])
            await events.until("cancelled")
            assert events.heartbeats >= 3


async def test_a_stream_outlives_the_scheduler_and_goes_on_when_it_is_back(api: Api) -> None:
    job = await api.submit()
    attempt = await api.claim(job["id"])
    async with api.events(job["id"]) as events:
        await events.until("started")
        api.scheduler.subscribed.clear()
        api.scheduler.down = True
        await asyncio.sleep(0.5)
        api.scheduler.down = False
        async with asyncio.timeout(10):
            await api.scheduler.subscribed.wait()
        api.scheduler.tell(inside(job), attempt, EventType.PROGRESS, fraction=0.9, note=None)
        assert (await events.until("progress"))["data"]["data"]["fraction"] == 0.9


async def test_the_tail_goes_on_when_its_connection_is_cut(api: Api) -> None:
    job = await api.submit()
    async with api.events(job["id"]) as events:
        await events.until("queued")
        cut = await api.sql.fetchval(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
            " WHERE application_name = 'tessera-feed' AND datname = current_database()"
        )
        assert cut == 1
        await api.call("POST", job["urls"]["cancel"])
        assert (await events.next(10) or {})["event"] == "cancelled"


async def test_many_readers_share_one_connection(api: Api) -> None:
    job = await api.submit()

    async def follow() -> list[str]:
        async with api.events(job["id"]) as events:
            return [message["event"] for message in await events.rest()]

    readers = [asyncio.create_task(follow()) for _ in range(50)]
    await asyncio.sleep(0.5)
    held = await api.sql.fetchval(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE 'tessera%'"
    )
    assert held <= 4 + 2 + 1 + 1, "pool, admission, the one tail, and the bell of the deliveries"
    await api.call("POST", job["urls"]["cancel"])
    told = await asyncio.gather(*readers)
    assert told == [["queued", "cancelled"]] * 50


async def test_a_reader_that_leaves_is_forgotten(api: Api) -> None:
    job = await api.submit()
    async with api.events(job["id"]) as events:
        await events.until("queued")
        assert await metric(api, "tessera_event_streams ") == 1.0
    for _ in range(100):
        if await metric(api, "tessera_event_streams ") == 0.0:
            break
        await asyncio.sleep(0.02)
    assert await metric(api, "tessera_event_streams ") == 0.0
    assert not api.services.feed.followed


async def test_streams_end_when_the_replica_stops(api: Api) -> None:
    job = await api.submit()
    async with api.events(job["id"]) as events:
        await events.until("queued")
        await api.services.feed.close()
        assert await events.next() is None


async def metric(api: Api, name: str) -> float:
    _, body = await api.call("GET", "/metrics", key=None)
    line = next(line for line in body.decode().splitlines() if line.startswith(name))
    return float(line.rpartition(" ")[2])

"""Who leads, what a new leader does first, and how its mirror follows: over a real Postgres, without Ray."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from tessera.api.events.feed import Feed
from tessera.catalog import catalog_of
from tessera.scheduler.dispatcher import Dispatcher, WorkerSpec
from tessera.store.database import connect
from tests.fakes.scheduler import FakeScheduler
from tests.integration.conftest import add_user
from tests.integration.test_dispatcher import Platform


@pytest.fixture
async def platform(database_url: str, connection: asyncpg.Connection, tmp_path: Path) -> AsyncIterator[Platform]:
    user = await add_user(
        connection, "pro", daily_mt=10_000_000, max_queued=10_000, max_running=8, submissions_per_min=100_000
    )
    made = Platform(database_url, connection, tmp_path / "artifacts", user)
    yield made
    await made.close()


async def epoch(platform: Platform) -> int:
    return int(await platform.connection.fetchval("SELECT epoch FROM leader"))


async def running(platform: Platform, *jobs: UUID) -> None:
    async def all_run() -> bool:
        count = "SELECT count(*) FROM jobs WHERE id = ANY($1) AND state = 'running'"
        return await platform.connection.fetchval(count, list(jobs)) == len(jobs)

    await platform.until(all_run)


def dispatcher_of(platform: Platform) -> Dispatcher:
    return Dispatcher(
        dsn=platform.dsn,
        workers=[WorkerSpec(name="w", models=["noop"], slots=8, port=platform.worker)],
        artifacts=platform.store,
        catalog=catalog_of(["noop"]),
        holder="test",
        random_source=lambda: 0.0,
    )


async def silence(connection: asyncpg.Connection) -> None:
    """Nobody is notified of an event any more: what a lost notification is, for as long as the test lasts."""
    body = await connection.fetchval("SELECT pg_get_functiondef('emit_events'::regproc)")
    silent, found = re.subn(r"PERFORM pg_notify\('tessera_feed',[^;]*;", "", body)
    assert found == 1
    await connection.execute(silent)


async def test_of_two_schedulers_one_leads_and_the_other_takes_over_when_it_dies(platform: Platform) -> None:
    first = platform.start_scheduler()
    await platform.final(await platform.submit())
    led = await epoch(platform)
    platform.start_scheduler()
    await asyncio.sleep(1.5)
    await platform.final(await platform.submit())
    assert await epoch(platform) == led
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    assert await platform.final(await platform.submit()) == ["completed"]
    assert await epoch(platform) == led + 1
    await platform.books()


async def test_a_leader_that_has_lost_its_locks_connection_dispatches_nothing_more_in_that_term(
    platform: Platform,
) -> None:
    platform.start_scheduler()
    await platform.final(await platform.submit())
    led = await epoch(platform)
    # Of its connections that one alone, which nothing else would miss.
    ended = await platform.connection.fetch(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND application_name = 'tessera-leader'"
    )
    assert len(ended) == 1

    async def leads_anew() -> bool:
        return await epoch(platform) > led

    await platform.until(leads_anew, seconds=5)
    assert await platform.final(await platform.submit()) == ["completed"]
    await platform.books()


async def test_without_any_notification_the_mirror_follows_within_its_poll(platform: Platform) -> None:
    await silence(platform.connection)
    platform.start_scheduler()
    for _ in range(2):
        assert await platform.final(await platform.submit(), seconds=5) == ["completed"]
    job = await platform.submit("sleep 30")
    await platform.until(lambda: _is(platform, job, "running"), seconds=5)
    await platform.connection.fetchval("SELECT request_cancel($1, $2)", job, platform.user)
    assert await platform.final(job, seconds=5) == ["cancelled"]


async def _is(platform: Platform, job: UUID, state: str) -> bool:
    return await platform.state(job) == state


async def test_without_any_notification_a_stream_is_told_within_the_poll(platform: Platform) -> None:
    await silence(platform.connection)
    job = await platform.submit()
    feed = Feed(platform.dsn, FakeScheduler())
    feed.start()
    try:
        async with feed.subscribe(job) as reader:
            await asyncio.sleep(0.2)  # the tail waits for a notification by now
            await platform.connection.fetchval("SELECT request_cancel($1, $2)", job, platform.user)
            event = await reader.next(3.0)
        assert event is not None and event.type == "cancelled"
    finally:
        await feed.close()


class Interrupted:
    """A connection on which something else is committed between two of its statements."""

    def __init__(self, connection: asyncpg.Connection, meanwhile: Any) -> None:
        self._connection, self._meanwhile = connection, meanwhile

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    async def fetchval(self, *args: Any) -> Any:
        value = await self._connection.fetchval(*args)
        await self._meanwhile()
        return value


async def test_a_rebuild_sees_one_moment_and_the_feed_brings_all_that_came_after(platform: Platform) -> None:
    before, ends = await platform.submit(), await platform.submit()
    later: list[UUID] = []

    async def meanwhile() -> None:
        later.append(await platform.submit())
        await platform.connection.fetchval("SELECT request_cancel($1, $2)", ends, platform.user)

    dispatcher = dispatcher_of(platform)
    own = await connect(platform.dsn, name="tests")
    await dispatcher._rebuild(Interrupted(own, meanwhile))
    await own.close()
    mirror = dispatcher.board.mirror
    assert set(mirror.jobs) == {before, ends}
    after = await platform.connection.fetch("SELECT job_id FROM job_events WHERE seq > $1 ORDER BY seq", mirror.seq)
    assert [row["job_id"] for row in after] == [*later, ends]


async def test_an_outcome_stays_with_its_worker_until_it_is_committed(platform: Platform) -> None:
    """The scheduler dies with an outcome in its hands, its commit still waiting for a lock."""
    first = platform.start_scheduler()
    job = await platform.submit("sleep 0.4")
    await running(platform, job)
    async with platform.connection.transaction():
        await platform.connection.execute("SELECT 1 FROM user_state WHERE user_id = $1 FOR UPDATE", platform.user)
        await asyncio.sleep(1.2)
        runs = (await platform.worker.report()).runs
        assert [(run.job_id, run.outcome is not None) for run in runs] == [(job, True)]
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
    platform.start_scheduler()
    assert await platform.final(job) == ["completed"]
    assert await platform.connection.fetchval("SELECT max(attempt) FROM jobs") == 1

    async def forgotten() -> bool:
        return not (await platform.worker.report()).runs

    await platform.until(forgotten, seconds=5)
    await platform.books()


async def test_a_new_leader_renews_the_running_leases_before_it_has_heard_of_any_worker(platform: Platform) -> None:
    first = platform.start_scheduler()
    job = await platform.submit("sleep 4")
    await running(platform, job)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    await platform.connection.execute("UPDATE jobs SET lease_expires_at = now() - interval '1 hour'")
    platform.worker.unplug()
    platform.start_scheduler(lease_s=20.0)

    async def renewed() -> bool:
        return bool(await platform.connection.fetchval("SELECT min(lease_expires_at) > now() FROM jobs"))

    await platform.until(renewed, seconds=4)
    assert await platform.state(job) == "running"
    platform.worker.plug()
    assert await platform.final(job) == ["completed"]
    assert await platform.connection.fetchval("SELECT max(attempt) FROM jobs") == 1
    await platform.books()


async def test_a_new_leader_dispatches_nothing_before_it_has_heard_its_workers(platform: Platform) -> None:
    platform.worker.unplug()
    dispatcher = dispatcher_of(platform)
    platform.tasks.append(asyncio.create_task(dispatcher.run()))
    await asyncio.sleep(1.5)
    assert not dispatcher.leading and await epoch(platform) > 0
    platform.worker.plug()

    async def leads() -> bool:
        return dispatcher.leading

    await platform.until(leads, seconds=4)
    assert dispatcher.board.links["w"].listed.is_set()


async def test_what_the_scheduler_has_done_itself_is_told_apart_from_what_others_did(platform: Platform) -> None:
    told: list[str] = []
    await platform.connection.add_listener("tessera_feed", lambda *args: told.append(str(args[-1])))
    platform.start_scheduler()

    await platform.final(await platform.submit())  # queued; then started and completed, by the scheduler
    async with asyncio.timeout(10):
        while len(told) < 3:
            await platform.connection.fetchval("SELECT 1")
    assert told == ["", "ran", "ran"]

    await platform.final(await platform.submit(prompt="fail invalid"))  # a failure is news for everybody
    async with asyncio.timeout(10):
        while len(told) < 6:
            await platform.connection.fetchval("SELECT 1")
    assert told[3:] == ["", "ran", ""]

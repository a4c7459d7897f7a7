"""What the SQL functions hold, whoever calls them: one end per job, the caps, the feed's order, cancels that stay."""

from __future__ import annotations

import asyncio
import random
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from tessera.ids import new_id
from tessera.store.database import connect
from tessera.store.queries import load
from tests.integration.conftest import add_user


async def lead(connection: asyncpg.Connection) -> int:
    """A new epoch."""
    return int(await connection.fetchval("UPDATE leader SET epoch = epoch + 1 RETURNING epoch"))


def row(user: UUID, order: int = 0, **values: object) -> dict[str, Any]:
    return {
        "ord": order,
        "id": str(new_id()),
        "user_id": str(user),
        "kind": "text",
        "model": "noop",
        "input": {},
        "cost_mt": 1000,
        **values,
    }


async def queued(connection: asyncpg.Connection, user: UUID, count: int = 1) -> list[UUID]:
    rows = [row(user, n) for n in range(count)]
    answers = await connection.fetch("SELECT ord, outcome, job_id FROM admit($1) ORDER BY ord", rows)
    assert {answer["outcome"] for answer in answers} == {"admitted"}
    return [answer["job_id"] for answer in answers]


async def claim(connection: asyncpg.Connection, epoch: int, *jobs: UUID) -> list[tuple[UUID, int]]:
    claims = [{"job_id": str(job), "worker": "w", "ord": n} for n, job in enumerate(jobs)]
    answers = await connection.fetch("SELECT job_id, attempt FROM claim($1, $2, 30)", epoch, claims)
    return [(answer["job_id"], answer["attempt"]) for answer in answers]


async def finish(
    connection: asyncpg.Connection, epoch: int, job: UUID, attempt: int, outcome: str, **values: Any
) -> Any:
    outcomes = [{"ord": 0, "job_id": str(job), "attempt": attempt, "outcome": outcome, **values}]
    return await connection.fetchval("SELECT state FROM finish($1, $2)", epoch, outcomes)


async def job_row(connection: asyncpg.Connection, job: UUID) -> asyncpg.Record:
    return await connection.fetchrow("SELECT state, attempt, charged_mt, failures FROM jobs WHERE id = $1", job)


async def used(connection: asyncpg.Connection, user: UUID) -> int:
    return int(await connection.fetchval("SELECT used_mt FROM user_state WHERE user_id = $1", user))


async def test_a_job_ends_once_however_often_its_end_is_told(connection: asyncpg.Connection, user: UUID) -> None:
    epoch = await lead(connection)
    (job,) = await queued(connection, user)
    await claim(connection, epoch, job)
    ends = [await finish(connection, epoch, job, 1, outcome) for outcome in ("completed", "completed", "cancelled")]
    assert ends == ["completed", None, None]
    entries = await connection.fetch("SELECT entry FROM token_ledger WHERE job_id = $1 ORDER BY id", job)
    assert [entry["entry"] for entry in entries] == ["hold", "settlement"]


async def test_a_cancelled_job_never_comes_back(connection: asyncpg.Connection, user: UUID) -> None:
    epoch = await lead(connection)
    waiting, running = await queued(connection, user, 2)
    await connection.fetchval("SELECT request_cancel($1, $2)", waiting, user)
    assert await claim(connection, epoch, waiting, running) == [(running, 1)]
    await connection.fetchval("SELECT request_cancel($1, $2)", running, user)
    # Its worker is lost before it could be told: the requeue of a job whose cancel was asked for cancels it.
    assert await finish(connection, epoch, running, 1, "requeued", failed=True) == "cancelled"
    assert await claim(connection, epoch, waiting, running) == []
    assert await used(connection, user) == 0


async def test_a_result_that_commits_before_its_cancel_is_confirmed_wins(
    connection: asyncpg.Connection, user: UUID
) -> None:
    epoch = await lead(connection)
    (job,) = await queued(connection, user)
    await claim(connection, epoch, job)
    await connection.fetchval("SELECT request_cancel($1, $2)", job, user)
    assert await finish(connection, epoch, job, 1, "completed") == "completed"
    assert await connection.fetchval("SELECT request_cancel($1, $2)", job, user) == "completed"
    assert await used(connection, user) == 1000


async def test_a_drain_leaves_the_retry_budget_alone_and_the_attempt_still_rises(
    connection: asyncpg.Connection, user: UUID
) -> None:
    epoch = await lead(connection)
    (job,) = await queued(connection, user)
    for attempt in (1, 2, 3):
        assert await claim(connection, epoch, job) == [(job, attempt)]
        await finish(connection, epoch, job, attempt, "requeued", failed=False)
    found = await job_row(connection, job)
    assert (found["attempt"], found["failures"]) == (3, 0)


async def test_claims_never_pass_the_running_cap_of_a_user(connection: asyncpg.Connection) -> None:
    user = await add_user(connection, "free", max_running=2)
    epoch = await lead(connection)
    jobs = await queued(connection, user, 5)
    assert len(await claim(connection, epoch, *jobs)) == 2
    assert await claim(connection, epoch, *jobs) == []


@pytest.mark.parametrize(
    "change",
    [
        "state = 'failed', error = '{}', charged_mt = 0, finished_at = now()",
        "state = 'running', worker = 'other', lease_expires_at = now()",
        "attempt = attempt + 1",
        "cancel_requested_at = now()",
        "deadline = now() - interval '1 second'",
        "not_before = now() + interval '1 minute'",
    ],
)
async def test_a_claim_takes_no_job_that_has_changed_since_it_was_chosen(
    connection: asyncpg.Connection, user: UUID, change: str
) -> None:
    epoch = await lead(connection)
    (job,) = await queued(connection, user)
    await connection.execute(f"UPDATE jobs SET {change} WHERE id = $1", job)
    before = await job_row(connection, job)
    claims = [{"job_id": str(job), "attempt": 0, "worker": "w", "ord": 0}]
    assert await connection.fetch("SELECT job_id FROM claim($1, $2, 30)", epoch, claims) == []
    assert await job_row(connection, job) == before
    assert await connection.fetchval("SELECT count(*) FROM attempts") == 0


async def test_the_events_of_a_job_are_counted_without_a_gap(connection: asyncpg.Connection) -> None:
    user, epoch = await add_user(connection, max_running=2), await lead(connection)
    done, cancelled, waiting = await queued(connection, user, 3)
    for job in (done, cancelled):
        await claim(connection, epoch, job)
        await finish(connection, epoch, job, 1, "requeued")
        await claim(connection, epoch, job)
    files = [
        {"id": str(new_id()), "index": n, "sha256": "0" * 64, "media_type": "text/plain", "bytes": 1} for n in range(3)
    ]
    await connection.fetchval("SELECT request_cancel($1, $2)", cancelled, user)
    await finish(connection, epoch, done, 2, "completed", artifacts=files)
    await finish(connection, epoch, cancelled, 2, "cancelled")
    await connection.fetchval("SELECT request_cancel($1, $2)", waiting, user)
    rows = await connection.fetch("SELECT job_id, job_seq, type FROM job_events WHERE job_seq IS NOT NULL ORDER BY seq")
    told = {job: [(row["job_seq"], row["type"]) for row in rows if row["job_id"] == job] for job in (done, cancelled)}
    life = ["queued", "started", "queued", "started"]
    assert told[done] == list(enumerate([*life, "output", "output", "output", "completed"], 1))
    assert told[cancelled] == list(enumerate([*life, "cancelled"], 1))
    assert [row["job_seq"] for row in rows if row["job_id"] == waiting] == [1, 2]


async def test_whatever_is_written_at_once_nobody_locks_another_out(
    database_url: str, connection: asyncpg.Connection
) -> None:
    """A deadlock would raise here, in one of those who wait for each other."""
    users = [
        await add_user(connection, "pro", daily_mt=10**9, max_queued=10**6, max_running=100, submissions_per_min=10**6)
        for _ in range(6)
    ]
    epoch = await lead(connection)
    renew, picked = load()["renew_leases"], random.Random(7)

    async def some(own: asyncpg.Connection, state: str) -> list[asyncpg.Record]:
        rows = await own.fetch("SELECT id, user_id, attempt FROM jobs WHERE state = $1 LIMIT 40", state)
        return picked.sample(rows, min(12, len(rows)))

    async def submit(own: asyncpg.Connection) -> None:
        rows = [row(picked.choice(users), n) for n in range(12)]
        await own.fetch("SELECT outcome FROM admit($1)", rows)

    async def run(own: asyncpg.Connection) -> None:
        await claim(own, epoch, *(job["id"] for job in await some(own, "queued")))

    async def end(own: asyncpg.Connection) -> None:
        outcomes = [
            {"ord": n, "job_id": str(job["id"]), "attempt": job["attempt"], "outcome": ("completed", "requeued")[n % 2]}
            for n, job in enumerate(await some(own, "running"))
        ]
        await own.fetch("SELECT state FROM finish($1, $2)", epoch, outcomes)

    async def expire(own: asyncpg.Connection) -> None:
        rows = [
            {"ord": n, "job_id": str(job["id"]), "to_state": "expired", "error": {"code": "deadline_passed"}}
            for n, job in enumerate((await some(own, "queued"))[:3])
        ]
        await own.fetch("SELECT state FROM end_waiting($1)", rows)

    async def cancel(own: asyncpg.Connection) -> None:
        for job in (await some(own, "running"))[:3]:
            await own.fetchval("SELECT request_cancel($1, $2)", job["id"], job["user_id"])

    async def lease(own: asyncpg.Connection) -> None:
        jobs = await some(own, "running")
        values = {"job_ids": [job["id"] for job in jobs], "attempts": [job["attempt"] for job in jobs]}
        await own.fetch(renew.positional, *renew.arguments({"epoch": epoch, "lease_s": 30.0, **values}))

    async def move(own: asyncpg.Connection) -> None:
        plan = picked.choice(["free", "pro"])
        await own.fetchval("SELECT change_plan($1, $2, 'op', 's', $3)", picked.choice(users), plan, new_id())
        await own.fetch("SELECT * FROM enter_by_hand($1, 'grant', -1, NULL, 'r', 'op', 's')", picked.choice(users))
        await own.fetchval("SELECT promote_due($1)", epoch)

    async def repeat(what: Any, times: int) -> None:
        own = await connect(database_url, name="tests")
        try:
            for _ in range(times):
                await what(own)
        finally:
            await own.close()

    works = (submit, submit, run, run, end, end, expire, cancel, lease, lease, move)
    await asyncio.gather(*(repeat(work, 60) for work in works))
    assert await connection.fetchval("SELECT count(*) FROM jobs WHERE state = 'completed'") > 0


async def test_the_order_of_the_feed_is_the_order_of_commits(database_url: str, connection: asyncpg.Connection) -> None:
    """A reader that goes by ``seq > last`` never misses an event, while many transactions commit at once."""
    users = [
        await add_user(connection, "pro", daily_mt=10_000_000, max_queued=10_000, submissions_per_min=100_000)
        for _ in range(8)
    ]
    seen: list[int] = []
    done = asyncio.Event()

    async def read() -> None:
        reader = await connect(database_url, name="reader")
        while True:
            finished = done.is_set()
            rows = await reader.fetch("SELECT seq FROM job_events WHERE seq > $1 ORDER BY seq", seen[-1] if seen else 0)
            seen.extend(row["seq"] for row in rows)
            if finished and not rows:
                break
        await reader.close()

    async def write(user: UUID) -> None:
        writer = await connect(database_url, name="writer")
        for _ in range(40):
            await queued(writer, user, 3)
        await writer.close()

    reading = asyncio.create_task(read())
    await asyncio.gather(*(write(user) for user in users))
    done.set()
    await reading
    everything = await connection.fetch("SELECT seq FROM job_events ORDER BY seq")
    assert seen == [row["seq"] for row in everything]
    assert len(seen) == 8 * 40 * 3

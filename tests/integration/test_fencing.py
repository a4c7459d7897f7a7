"""What the SQL functions hold, whoever calls them: one end per job, the caps, the feed's order, cancels that stay."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID

import asyncpg

from tessera.ids import new_id
from tessera.store.database import connect
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

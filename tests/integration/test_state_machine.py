"""tessera.jobs.TRANSITIONS and the database hold the same table: compared, and tried."""

from __future__ import annotations

from itertools import product
from uuid import UUID

import asyncpg
import pytest

from tessera.ids import new_id
from tessera.jobs import FINAL, TRANSITIONS, JobState

PAIRS = list(product(JobState, JobState))


async def add_job(connection: asyncpg.Connection, user: UUID, state: JobState) -> UUID:
    """A job in any state, as the constraints want it; an INSERT passes no trigger."""
    job = new_id()
    running, final = state is JobState.RUNNING, state in FINAL
    await connection.execute(
        "INSERT INTO jobs (id, user_id, kind, model, tier, state, input, day, cost_mt, created_at, worker,"
        " lease_expires_at, finished_at, charged_mt, error)"
        " VALUES ($1, $2, 'text', 'noop', 'free', $3, '{}', utc_day(now()), 1000, now(), $4,"
        "         CASE WHEN $5 THEN now() END, CASE WHEN $6 THEN now() END, CASE WHEN $6 THEN 0 END, $7)",
        job,
        user,
        state.value,
        "w" if running else None,
        running,
        final,
        {"code": "stuck"} if state is JobState.FAILED else None,
    )
    return job


async def move(connection: asyncpg.Connection, job: UUID, to: JobState) -> None:
    await connection.execute(
        "UPDATE jobs SET state = $2, worker = $3, lease_expires_at = CASE WHEN $4 THEN now() END,"
        " finished_at = CASE WHEN $5 THEN now() END, charged_mt = CASE WHEN $5 THEN 0 END, error = $6 WHERE id = $1",
        job,
        to.value,
        "w" if to is JobState.RUNNING else None,
        to is JobState.RUNNING,
        to in FINAL,
        {"code": "stuck"} if to is JobState.FAILED else None,
    )


async def test_the_databases_function_is_the_codes_table(connection: asyncpg.Connection) -> None:
    for before, after in PAIRS:
        legal = await connection.fetchval("SELECT job_transition_is_legal($1, $2)", before.value, after.value)
        assert legal == (after in TRANSITIONS[before]), f"{before} → {after}"


async def test_an_update_makes_legal_transitions_and_no_others(connection: asyncpg.Connection, user: UUID) -> None:
    for before, after in PAIRS:
        job = await add_job(connection, user, before)
        if after in TRANSITIONS[before] or after is before:
            await move(connection, job, after)  # a write that leaves the state as it is is no transition
        else:
            with pytest.raises(asyncpg.CheckViolationError, match=f"cannot go from {before} to {after}"):
                await move(connection, job, after)
        left = await connection.fetchval("SELECT state FROM jobs WHERE id = $1", job)
        assert left == (after if after in TRANSITIONS[before] else before)


async def test_an_attempt_never_falls(connection: asyncpg.Connection, user: UUID) -> None:
    job = await add_job(connection, user, JobState.QUEUED)
    await connection.execute("UPDATE jobs SET attempt = 2 WHERE id = $1", job)
    with pytest.raises(asyncpg.CheckViolationError, match="cannot fall"):
        await connection.execute(
            "UPDATE jobs SET state = 'running', worker = 'w', lease_expires_at = now(), attempt = 1 WHERE id = $1", job
        )


@pytest.mark.parametrize(
    ("state", "broken", "constraint"),
    [
        (JobState.RUNNING, "worker = NULL", "jobs_running_is_leased"),
        (JobState.QUEUED, "lease_expires_at = now(), worker = 'w'", "jobs_running_is_leased"),
        (JobState.COMPLETED, "finished_at = NULL, charged_mt = NULL", "jobs_final_is_finished"),
        (JobState.COMPLETED, "charged_mt = NULL", "jobs_final_is_charged"),
        (JobState.COMPLETED, "charged_mt = 1001", "jobs_charge_within_hold"),
        (JobState.FAILED, "error = NULL", "jobs_failed_says_why"),
        (JobState.QUEUED, "state = 'lost'", "jobs_legal_transition"),
    ],
)
async def test_the_database_refuses_a_job_that_contradicts_itself(
    connection: asyncpg.Connection, user: UUID, state: JobState, broken: str, constraint: str
) -> None:
    job = await add_job(connection, user, state)
    with pytest.raises(asyncpg.CheckViolationError) as refused:
        await connection.execute(f"UPDATE jobs SET {broken} WHERE id = $1", job)
    assert refused.value.constraint_name == constraint


async def test_a_user_always_has_its_state_row(connection: asyncpg.Connection, user: UUID) -> None:
    row = await connection.fetchrow("SELECT used_mt, queued, running FROM user_state WHERE user_id = $1", user)
    assert row is not None and tuple(row) == (0, 0, 0)

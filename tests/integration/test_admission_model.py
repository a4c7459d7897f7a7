"""Admission against its pure model: whatever is submitted, and by however many replicas, the same is admitted."""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tessera.admission import Admission, Submission
from tessera.errors import QuotaExhausted, RateLimited, TesseraError, TooManyQueued, Unauthorized
from tessera.ids import new_id
from tessera.plans import Limits
from tessera.quotas import Account, Asked, Verdict, decide, give_back, interval, remaining, utc_day
from tessera.store.database import connect
from tests.integration.conftest import add_user

EVE = datetime(2026, 5, 4, 23, 58, 30, tzinfo=UTC)  # an example steps over midnight soon
FREE = Limits(
    daily_mt=20_000,
    submissions_per_min=30,
    requests_per_min=600,
    max_queued=25,
    max_running=1,
    max_image_px=1024 * 1024,
    max_video_s=4,
    retention_days=3,
)


@dataclass(frozen=True)
class Send:
    """A submission as hypothesis makes it up. ``again``: the id of an earlier one is sent once more."""

    user: int
    cost_mt: int
    kind: str
    key: str | None
    body: int
    batch: bool
    later: bool
    again: bool


SENDS = st.builds(
    Send,
    user=st.integers(0, 3),
    cost_mt=st.sampled_from([1, 400, 1000, 5000]),
    kind=st.sampled_from(["image", "text"]),
    key=st.sampled_from([None, None, "a", "b"]),
    body=st.integers(0, 1),
    batch=st.booleans(),
    later=st.booleans(),
    again=st.sampled_from([False, False, False, True]),
)
LIMITS = st.tuples(
    st.sampled_from([0, 2000, 9000, 10**9]), st.sampled_from([0, 3, 50]), st.sampled_from([2, 7, 13, 600])
)
STEPS = st.lists(
    st.tuples(
        st.sampled_from([0, 1, 350_000, 8_571_428, 31_000_000, 3_600_000_000, 86_400_000_000]),  # microseconds
        st.lists(SENDS, min_size=1, max_size=8),
        st.integers(0, 9),  # below 3: so many of the waiting jobs are cancelled first
    ),
    min_size=4,
    max_size=14,
)


class World:
    """Three users with limits of their own and one who does not exist: in the database, and in the model."""

    def __init__(self, connection: asyncpg.Connection) -> None:
        self.connection = connection
        self.now = EVE
        self.users: list[UUID] = []
        self.limits: list[Limits] = []
        self.accounts: list[Account | None] = []
        self.sent: list[tuple[Send, UUID]] = []
        self.waiting: dict[UUID, tuple[int, Send, datetime]] = {}
        self.usage: Counter[tuple[UUID, Any, str]] = Counter()
        self.jobs: Counter[tuple[UUID, Any, str]] = Counter()

    async def begin(self, limits: list[tuple[int, int, int]]) -> None:
        for daily_mt, max_queued, per_min in limits:
            own = {"daily_mt": daily_mt, "max_queued": max_queued, "submissions_per_min": per_min}
            user = await add_user(self.connection, **own)
            await self.connection.execute(
                "UPDATE user_state SET day = $2, tat = $3 WHERE user_id = $1", user, utc_day(EVE), EVE
            )
            self.users.append(user)
            self.limits.append(FREE.overridden(own))
            self.accounts.append(Account(day=utc_day(EVE), used_mt=0, queued=0, tat=EVE))
        self.users.append(new_id())
        self.limits.append(FREE)
        self.accounts.append(None)

    async def cancel(self, count: int) -> None:
        for job in list(self.waiting)[:count]:
            user, send, held_at = self.waiting.pop(job)
            state = await self.connection.fetchval("SELECT request_cancel($1, $2, $3)", job, self.users[user], self.now)
            assert state == "cancelled"
            account = self.accounts[user]
            assert account is not None
            after = give_back(account, send.cost_mt, held_on=utc_day(held_at), ours=False, now=self.now)
            self.accounts[user] = replace(after, queued=after.queued - 1)
            self.usage[self.users[user], utc_day(held_at), send.kind] -= send.cost_mt

    async def submit(self, sends: list[Send]) -> None:
        rows, asked = [], []
        for order, send in enumerate(sends):
            job = new_id()
            if send.again and self.sent:
                send, job = self.sent[(send.cost_mt + send.body) % len(self.sent)]
            self.sent.append((send, job))
            body = hashlib.sha256(bytes([send.body])).digest()
            rows.append(
                Submission(
                    id=job,
                    user_id=self.users[send.user],
                    kind=send.kind,
                    model="noop",
                    input={},
                    cost_mt=send.cost_mt,
                    batch=send.batch,
                    not_before=self.now + timedelta(seconds=60) if send.later else None,
                    idempotency_key=send.key,
                    body_sha256=body if send.key else None,
                ).row(order)
            )
            asked.append(
                (
                    send,
                    Asked(
                        id=job, cost_mt=send.cost_mt, idempotency_key=send.key, body_sha256=body if send.key else None
                    ),
                )
            )
        answers = {
            row["ord"]: row for row in await self.connection.fetch("SELECT * FROM admit($1, $2)", rows, self.now)
        }
        assert sorted(answers) == list(range(len(rows)))
        for order, (send, one) in enumerate(asked):  # users do not touch each other, so one fold serves for all
            account, limits = self.accounts[send.user], self.limits[send.user]
            decision, account = decide(account, limits, one, self.now)
            self.accounts[send.user] = account
            answer = answers[order]
            assert (answer["outcome"], answer["job_id"]) == (decision.verdict, decision.job_id)
            if decision.retry_after is not None:
                assert answer["retry_after_s"] == pytest.approx(decision.retry_after.total_seconds(), abs=1e-6)
            if account is not None:
                assert answer["used_mt"] == account.used_on(utc_day(self.now))
                assert answer["rate_remaining"] == remaining(account, limits, self.now)
            if decision.verdict is Verdict.ADMITTED:
                assert answer["state"] == ("created" if send.later else "queued")
                assert answer["tier"] == ("batch" if send.batch else "free")
                self.waiting[one.id] = (send.user, send, self.now)
                held = (self.users[send.user], utc_day(self.now), send.kind)
                self.usage[held] += send.cost_mt
                self.jobs[held] += 1

    async def check(self) -> None:
        for user, account in zip(self.users, self.accounts, strict=True):
            row = await self.connection.fetchrow(
                "SELECT day, used_mt, queued, running, tat FROM user_state WHERE user_id = $1", user
            )
            expected = None if account is None else (account.day, account.used_mt, account.queued, 0, account.tat)
            assert (None if row is None else tuple(row)) == expected
        rows = await self.connection.fetch(
            "SELECT user_id, day, kind, used_mt, jobs FROM usage_daily WHERE user_id = ANY($1)", self.users
        )
        assert {tuple(row)[:3]: (row["used_mt"], row["jobs"]) for row in rows} == {
            held: (self.usage[held], jobs) for held, jobs in self.jobs.items()
        }
        ledger = await self.connection.fetch(
            "SELECT user_id, day, kind, sum(amount_mt)::bigint AS sum FROM token_ledger WHERE user_id = ANY($1)"
            " GROUP BY user_id, day, kind",
            self.users,
        )
        assert {tuple(row)[:3]: row["sum"] for row in ledger} == {held: self.usage[held] for held in self.jobs}
        events = await self.connection.fetchval(
            "SELECT count(*) FROM job_events e WHERE e.user_id = ANY($1) AND e.type IN ('created', 'queued')",
            self.users,
        )
        assert events == sum(self.jobs.values())


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(limits=st.lists(LIMITS, min_size=3, max_size=3), steps=STEPS)
def test_admission_does_what_the_model_says(
    database_url: str, limits: list[tuple[int, int, int]], steps: list[tuple[int, list[Send], int]]
) -> None:
    async def example() -> None:
        connection = await connect(database_url, name="model")
        try:
            world = World(connection)
            await world.begin(limits)
            for microseconds, sends, cancels in steps:
                world.now += timedelta(microseconds=microseconds)
                await world.cancel(cancels if cancels < 3 else 0)
                await world.submit(sends)
                await world.check()
        finally:
            await connection.close()

    with asyncio.Runner() as runner:
        runner.run(example())


@pytest.mark.parametrize("per_min", [1, 7, 30, 59, 60, 600, 70_000_000])
async def test_a_whole_minutes_allowance_can_be_used_at_once(connection: asyncpg.Connection, per_min: int) -> None:
    step = await connection.fetchval("SELECT submission_interval($1)", per_min)
    assert step == interval(per_min)
    assert step.total_seconds() * per_min <= 60 or per_min > 60_000_000


# ------------------------------------------------------------------ two replicas at once


@pytest.fixture
async def replicas(database_url: str) -> AsyncIterator[list[Admission]]:
    made = [Admission(database_url), Admission(database_url)]
    yield made
    for replica in made:
        await replica.close()


def one_token(user: UUID, **values: Any) -> Submission:
    return Submission(id=new_id(), user_id=user, kind="text", model="noop", input={}, cost_mt=1000, **values)


async def flood(replicas: list[Admission], submissions: list[Submission]) -> Counter[type]:
    answers = await asyncio.gather(
        *(replicas[n % 2].submit(submission) for n, submission in enumerate(submissions)), return_exceptions=True
    )
    unexpected = [
        answer for answer in answers if isinstance(answer, BaseException) and not isinstance(answer, TesseraError)
    ]
    assert not unexpected
    return Counter(type(answer) for answer in answers if isinstance(answer, TesseraError))


async def admitted(connection: asyncpg.Connection, user: UUID) -> int:
    count, held, queued = await connection.fetchrow(
        "SELECT (SELECT count(*) FROM jobs WHERE user_id = $1), (SELECT coalesce(sum(amount_mt), 0) FROM token_ledger"
        " WHERE user_id = $1), queued FROM user_state WHERE user_id = $1",
        user,
    )
    assert held == count * 1000 and queued == count
    return count


async def test_a_quota_of_twenty_admits_twenty_of_a_thousand(
    connection: asyncpg.Connection, replicas: list[Admission]
) -> None:
    user = await add_user(connection, daily_mt=20_000, max_queued=100_000, submissions_per_min=1_000_000)
    refused = await flood(replicas, [one_token(user) for _ in range(1000)])
    assert (await admitted(connection, user), refused) == (20, {QuotaExhausted: 980})


async def test_a_queued_cap_of_twenty_five_admits_twenty_five_of_three_hundred(
    connection: asyncpg.Connection, replicas: list[Admission]
) -> None:
    user = await add_user(connection, daily_mt=10**9, max_queued=25, submissions_per_min=1_000_000)
    refused = await flood(replicas, [one_token(user) for _ in range(300)])
    assert (await admitted(connection, user), refused) == (25, {TooManyQueued: 275})


async def test_a_rate_of_thirty_a_minute_refuses_the_rest_of_a_flood(
    connection: asyncpg.Connection, replicas: list[Admission]
) -> None:
    user = await add_user(connection, daily_mt=10**9, max_queued=100_000, submissions_per_min=30)
    began = await connection.fetchval("SELECT clock_timestamp()")
    refused = await flood(replicas, [one_token(user) for _ in range(300)])
    took = await connection.fetchval("SELECT clock_timestamp()") - began
    count = await admitted(connection, user)
    assert 30 <= count <= 31 + took.total_seconds() / 2
    assert refused == {RateLimited: 300 - count}


async def test_one_idempotency_key_sent_to_two_replicas_makes_one_job(
    connection: asyncpg.Connection, replicas: list[Admission]
) -> None:
    user = await add_user(connection)
    answers = await asyncio.gather(
        *(replicas[n % 2].submit(one_token(user, idempotency_key="k", body_sha256=b"1" * 32)) for n in range(40))
    )
    assert len({answer.job_id for answer in answers}) == 1
    assert sum(not answer.replayed for answer in answers) == 1
    assert await admitted(connection, user) == 1


async def test_the_same_submission_sent_twice_at_once_is_one_job(
    connection: asyncpg.Connection, replicas: list[Admission]
) -> None:
    user = await add_user(connection)
    same = one_token(user)
    await asyncio.gather(*(replicas[n % 2].submit(same) for n in range(20)))
    assert await admitted(connection, user) == 1


async def test_a_row_that_cannot_be_stored_is_refused_alone(
    connection: asyncpg.Connection, replicas: list[Admission]
) -> None:
    user = await add_user(connection)
    bad = replace(one_token(user), kind="smell")
    answers = await asyncio.gather(
        *(replicas[0].submit(each) for each in (one_token(user), bad, one_token(user))), return_exceptions=True
    )
    assert [isinstance(answer, BaseException) for answer in answers] == [False, True, False]
    assert await admitted(connection, user) == 2


async def test_a_user_who_is_gone_is_refused(replicas: list[Admission]) -> None:
    with pytest.raises(Unauthorized):
        await replicas[0].submit(one_token(new_id()))


async def test_users_who_submit_at_once_from_two_replicas_do_not_lock_each_other_out(
    connection: asyncpg.Connection, replicas: list[Admission]
) -> None:
    users = [await add_user(connection) for _ in range(8)]
    submissions = [one_token(users[(n * 5 + n // 8) % 8]) for n in range(160)]
    assert not await flood(replicas, submissions)
    assert [await admitted(connection, user) for user in users] == [20] * 8

"""Admission against its pure model: whatever is submitted, and by however many replicas, the same is admitted."""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy.engine import make_url

from tessera.admission import Admission, Submission
from tessera.errors import QuotaExhausted, RateLimited, TesseraError, TooManyQueued, Unauthorized
from tessera.ids import new_id
from tessera.plans import Limits
from tessera.quotas import Account, Asked, Verdict, decide, give_back, interval, remaining, utc_day
from tessera.store.database import connect
from tests.fakes.cut_line import cut_line
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
    """A submission as hypothesis makes it up. ``again``: the id of an earlier one is sent once more.

    ``capped``: through the user's API key with a daily cap, else through one without.
    """

    user: int
    cost_mt: int
    kind: str
    key: str | None
    body: int
    batch: bool
    later: bool
    again: bool
    capped: bool


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
    capped=st.booleans(),
)
KEY_CAP_MT = 1300
LIMITS = st.tuples(
    st.sampled_from([0, 2000, 9000, 10**9]), st.sampled_from([0, 3, 50]), st.sampled_from([2, 7, 13, 600])
)
STEPS = st.lists(
    st.tuples(
        # microseconds; a clock may be set back, and over midnight
        st.sampled_from(
            [0, 1, 350_000, 8_571_428, 31_000_000, 3_600_000_000, 86_400_000_000, -70_000_000, -7_200_000_000]
        ),
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
            for name, cap_mt in (("capped", KEY_CAP_MT), ("free", None)):
                await add_key(self.connection, user, f"{name}{user.hex}", cap_mt)
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
            key, _ = self.key_of(send)
            after = give_back(account, send.cost_mt, held_on=utc_day(held_at), ours=False, now=self.now, api_key=key)
            self.accounts[user] = replace(after, queued=after.queued - 1)
            self.usage[self.users[user], utc_day(held_at), send.kind] -= send.cost_mt

    def key_of(self, send: Send) -> tuple[str | None, int | None]:
        """The API key of a submission and its cap; a user that there is not has none."""
        if send.user == len(self.users) - 1:
            return None, None
        return ("capped" if send.capped else "free") + self.users[send.user].hex, KEY_CAP_MT if send.capped else None

    async def submit(self, sends: list[Send]) -> None:
        rows, asked = [], []
        for order, send in enumerate(sends):
            job = new_id()
            if send.again and self.sent:
                send, job = self.sent[(send.cost_mt + send.body) % len(self.sent)]
            self.sent.append((send, job))
            body = hashlib.sha256(bytes([send.body])).digest()
            key, cap_mt = self.key_of(send)
            rows.append(
                Submission(
                    id=job,
                    user_id=self.users[send.user],
                    kind=send.kind,
                    model="noop",
                    input={},
                    cost_mt=send.cost_mt,
                    api_key_id=key,
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
                        id=job,
                        cost_mt=send.cost_mt,
                        api_key=key,
                        key_cap_mt=cap_mt,
                        idempotency_key=send.key,
                        body_sha256=body if send.key else None,
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
                today = utc_day(self.now)
                if decision.verdict is Verdict.KEY_CAP_EXHAUSTED:
                    assert one.api_key is not None
                    assert answer["used_mt"] == account.key_used.get((one.api_key, today), 0)
                    assert answer["daily_mt"] == KEY_CAP_MT
                else:
                    assert answer["used_mt"] == account.used_on(today)
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
        keys = await self.connection.fetch(
            "SELECT key_id, day, used_mt FROM api_key_usage WHERE key_id IN"
            " (SELECT id FROM api_keys WHERE user_id = ANY($1))",
            self.users,
        )
        known = {
            key: used for account in self.accounts if account is not None for key, used in account.key_used.items()
        }
        assert {(row["key_id"], row["day"]): row["used_mt"] for row in keys} == known
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


async def add_key(connection: asyncpg.Connection, user: UUID, key: str, cap_mt: int | None) -> str:
    await connection.execute(
        "INSERT INTO api_keys (id, user_id, secret_sha256, name, daily_cap_mt) VALUES ($1, $2, $3, 'k', $4)",
        key,
        user,
        b"0" * 32,
        cap_mt,
    )
    return key


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


async def admitted(connection: asyncpg.Connection, user: UUID, *, wait_for: int = 0) -> int:
    async with asyncio.timeout(5):
        while await connection.fetchval("SELECT count(*) FROM jobs WHERE user_id = $1", user) < wait_for:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
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


async def test_a_refusal_for_the_quota_says_when_it_starts_anew(
    connection: asyncpg.Connection, replicas: list[Admission]
) -> None:
    user = await add_user(connection, daily_mt=500)
    with pytest.raises(QuotaExhausted) as refused:
        await replicas[0].submit(one_token(user))
    midnight = datetime.combine(utc_day(datetime.now(UTC)) + timedelta(days=1), time(), UTC)
    resets_at = datetime.fromisoformat(refused.value.details["resets_at"])
    assert abs(resets_at - midnight) < timedelta(milliseconds=1)
    assert refused.value.retry_after_s is not None and 0 < refused.value.retry_after_s <= 86_400


async def test_a_flood_that_meets_a_queued_cap_below_the_quota_is_429_and_never_a_21st(
    connection: asyncpg.Connection, replicas: list[Admission]
) -> None:
    user = await add_user(connection, daily_mt=20_000, max_queued=15, submissions_per_min=1_000_000)
    refused = await flood(replicas, [one_token(user) for _ in range(1000)])
    assert (await admitted(connection, user), refused) == (15, {TooManyQueued: 985})


async def test_a_keys_daily_cap_of_five_admits_five_of_three_hundred(
    connection: asyncpg.Connection, replicas: list[Admission]
) -> None:
    user = await add_user(connection, daily_mt=10**9, max_queued=100_000, submissions_per_min=1_000_000)
    key = await add_key(connection, user, "capped", 5000)
    refused = await flood(replicas, [one_token(user, api_key_id=key) for _ in range(300)])
    assert (await admitted(connection, user), refused) == (5, {QuotaExhausted: 295})
    with pytest.raises(QuotaExhausted, match="of the daily 5 of the API key capped are left"):
        await replicas[0].submit(one_token(user, api_key_id=key))
    await replicas[1].submit(one_token(user))


async def test_a_refund_gives_a_key_its_cap_back_the_same_day(
    connection: asyncpg.Connection, replicas: list[Admission]
) -> None:
    user = await add_user(connection)
    key = await add_key(connection, user, "capped", 1000)
    first = await replicas[0].submit(one_token(user, api_key_id=key))
    assert await flood(replicas, [one_token(user, api_key_id=key)]) == {QuotaExhausted: 1}
    assert await connection.fetchval("SELECT request_cancel($1, $2)", first.job_id, user) == "cancelled"
    await replicas[1].submit(one_token(user, api_key_id=key))
    assert await flood(replicas, [one_token(user, api_key_id=key)]) == {QuotaExhausted: 1}


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


async def test_a_commit_whose_answer_was_lost_is_settled_by_sending_the_same_ids_again(
    database_url: str, connection: asyncpg.Connection
) -> None:
    user, url = await add_user(connection), make_url(database_url)
    async with cut_line(str(url.host), int(url.port or 5432)) as line:
        through = url.set(host="127.0.0.1", port=line.port).render_as_string(hide_password=False)
        replica = Admission(through)
        try:
            await replica.submit(one_token(user))
            # The call waits for its user's lock; its answer finds the line gone, and its sender another one.
            async with connection.transaction():
                await connection.execute("SELECT 1 FROM user_state WHERE user_id = $1 FOR UPDATE", user)
                submitting = asyncio.create_task(replica.submit(one_token(user)))
                await asyncio.sleep(0.3)
                line.deafen()
            await admitted(connection, user, wait_for=2)
            assert not submitting.done()
            await line.cut()
            await line.mend()
            async with asyncio.timeout(10):
                answer = await submitting
            assert not answer.replayed
        finally:
            await replica.close()
    assert await admitted(connection, user) == 2


async def test_a_job_that_had_to_wait_for_its_users_lock_is_of_the_time_at_which_it_got_it(
    database_url: str, connection: asyncpg.Connection
) -> None:
    user = await add_user(connection)
    own = await connect(database_url, name="tests")
    async with connection.transaction():
        await connection.execute("SELECT 1 FROM user_state WHERE user_id = $1 FOR UPDATE", user)
        admitting = asyncio.create_task(own.fetchrow("SELECT * FROM admit($1)", [one_token(user).row(0)]))
        await asyncio.sleep(0.3)
        released = await connection.fetchval("SELECT clock_timestamp()")
    answer = await admitting
    await own.close()
    assert (answer["outcome"], answer["admitted_at"] >= released) == ("admitted", True)


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


# ------------------------------------------------------------------ the clock


async def admit_at(connection: asyncpg.Connection, user: UUID, at: datetime, cost_mt: int = 1000) -> tuple[str, UUID]:
    row = replace(one_token(user), cost_mt=cost_mt)
    answer = await connection.fetchrow("SELECT outcome FROM admit($1, $2)", [row.row(0)], at)
    return answer["outcome"], row.id


async def test_a_job_belongs_to_the_day_of_its_admission_to_the_tenth_of_a_second(
    connection: asyncpg.Connection,
) -> None:
    user = await add_user(connection, daily_mt=1000)
    eve = datetime(2026, 5, 4, 23, 59, 59, 900_000, tzinfo=UTC)
    await connection.execute("UPDATE user_state SET day = $2, tat = $3 WHERE user_id = $1", user, utc_day(eve), eve)
    days: dict[UUID, date] = {}
    for at, expected in (
        (eve, "admitted"),
        (eve + timedelta(milliseconds=99), "quota_exhausted"),
        (eve + timedelta(milliseconds=200), "admitted"),
        (eve + timedelta(milliseconds=300), "quota_exhausted"),
    ):
        outcome, job = await admit_at(connection, user, at)
        assert outcome == expected
        if outcome == "admitted":
            days[job] = utc_day(at)
    assert [str(day) for day in days.values()] == ["2026-05-04", "2026-05-05"]
    rows = await connection.fetch("SELECT id, day FROM jobs WHERE user_id = $1", user)
    assert {row["id"]: row["day"] for row in rows} == days
    usage = await connection.fetch("SELECT day, used_mt, jobs FROM usage_daily WHERE user_id = $1 ORDER BY day", user)
    assert [tuple(row) for row in usage] == [(day, 1000, 1) for day in days.values()]


async def test_a_clock_set_back_refuses_a_user_for_a_moment_and_not_until_it_has_caught_up(
    connection: asyncpg.Connection,
) -> None:
    user = await add_user(connection, submissions_per_min=60, max_queued=1000)
    noon = datetime(2026, 5, 4, 12, tzinfo=UTC)
    await connection.execute("UPDATE user_state SET day = $2, tat = $3 WHERE user_id = $1", user, utc_day(noon), noon)
    assert (await admit_at(connection, user, noon, 1))[0] == "admitted"
    back = noon - timedelta(hours=3)
    assert (await admit_at(connection, user, back, 1))[0] == "rate_limited"
    assert (await admit_at(connection, user, back + timedelta(seconds=1), 1))[0] == "admitted"
    for n in range(30):
        assert (await admit_at(connection, user, back + timedelta(seconds=60 + n / 10), 1))[0] == "admitted"


async def test_a_clock_set_back_over_midnight_gives_no_second_quota(connection: asyncpg.Connection) -> None:
    user = await add_user(connection, daily_mt=2000)
    eve = datetime(2026, 5, 4, 23, 59, 59, tzinfo=UTC)
    await connection.execute("UPDATE user_state SET day = $2, tat = $3 WHERE user_id = $1", user, utc_day(eve), eve)
    for at, expected in (
        (eve, ["admitted"]),
        (eve + timedelta(seconds=2), ["admitted"]),
        (eve, ["admitted", "quota_exhausted"]),
        (eve + timedelta(seconds=3), ["admitted", "quota_exhausted"]),
    ):
        for outcome in expected:
            assert (await admit_at(connection, user, at))[0] == outcome


async def test_a_refund_of_a_day_that_lies_ahead_of_the_clock_is_there_when_the_day_comes(
    connection: asyncpg.Connection,
) -> None:
    user = await add_user(connection, daily_mt=2000)
    eve = datetime(2026, 5, 4, 23, 59, 59, tzinfo=UTC)
    await connection.execute("UPDATE user_state SET day = $2, tat = $3 WHERE user_id = $1", user, utc_day(eve), eve)
    outcome, job = await admit_at(connection, user, eve + timedelta(seconds=2), 2000)
    assert outcome == "admitted"
    assert await connection.fetchval("SELECT request_cancel($1, $2, $3)", job, user, eve) == "cancelled"
    assert (await admit_at(connection, user, eve + timedelta(seconds=3), 2000))[0] == "admitted"

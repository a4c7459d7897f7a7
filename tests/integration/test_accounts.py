"""An operator's hand in users' accounts: plans changed in the middle of a day, grants, adjustments, their record."""

from __future__ import annotations

import asyncio
from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from tessera.api.schemas import admin as admin_schemas
from tessera.ids import Prefix, new_id, parse, show
from tessera.store.audit import audit
from tests.integration.api_server import Api
from tests.integration.conftest import add_user

NOON = datetime(2026, 5, 4, 12, 0, tzinfo=UTC)
IMAGE = {"kind": "image", "input": {"prompt": "a fox"}}  # one token


@pytest.fixture
async def operator(api: Api) -> str:
    """The key of an operator."""
    return await api.add_key(user_id=await api.add_user(is_admin=True), scopes=["jobs", "admin"])


class Person:
    """A user of the API, with a key."""

    def __init__(self, api: Api, user_id: UUID, key: str) -> None:
        self.api, self.user_id, self.key = api, user_id, key
        self.id = show(Prefix.USER, user_id)

    async def submit(self, **values: Any) -> tuple[int, Any]:
        answer, body = await self.api.call("POST", "/v1/jobs", key=self.key, json={**IMAGE, **values})
        return answer.status, body

    async def used(self) -> float:
        _, me = await self.api.call("GET", "/v1/me", key=self.key)
        used: float = me["quota"]["used_tokens"]
        return used


@pytest.fixture
async def ada(api: Api) -> Person:
    """Somebody on plan free, whose 20 tokens are the only limit."""
    user_id = await api.add_user("free", max_queued=1000, submissions_per_min=10_000)
    return Person(api, user_id, await api.add_key(user_id=user_id))


# ------------------------------------------------------------------ plans


async def set_plan(api: Api, operator: str, person: Person, plan: str) -> None:
    answer, user = await api.call("PATCH", f"/v1/admin/users/{person.id}", key=operator, json={"plan": plan})
    assert (answer.status, user["plan"]) == (200, plan)


async def test_an_upgrade_with_an_exhausted_quota_lets_the_next_submission_pass_at_once(
    api: Api, operator: str, ada: Person
) -> None:
    assert [(await ada.submit())[0] for _ in range(21)] == [202] * 20 + [402]
    await set_plan(api, operator, ada, "starter")
    status, job = await ada.submit()
    assert (status, job["tier"]) == (202, "starter")
    assert await ada.used() == 21


async def test_a_downgrade_below_what_is_used_refuses_the_next_submission(api: Api, operator: str, ada: Person) -> None:
    await set_plan(api, operator, ada, "starter")
    assert [(await ada.submit())[0] for _ in range(25)] == [202] * 25
    await set_plan(api, operator, ada, "free")
    status, problem = await ada.submit()
    assert (status, problem["code"], problem["remaining_tokens"]) == (402, "quota_exhausted", 0)
    assert await ada.used() == 25


async def test_a_change_of_plan_moves_the_jobs_that_wait_or_run_but_no_batch_work(
    api: Api, operator: str, ada: Person
) -> None:
    later = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    made = {
        "queued": (await ada.submit())[1]["id"],
        "running": (await ada.submit())[1]["id"],
        "created": (await ada.submit(not_before=later))[1]["id"],
        "batch": (await ada.submit(tier="batch"))[1]["id"],
        "ended": (await ada.submit())[1]["id"],
    }
    await api.claim(made["running"])
    await api.call("POST", f"/v1/jobs/{made['ended']}/cancel", key=ada.key)
    before = await api.sql.fetchval("SELECT max(seq) FROM job_events")
    await set_plan(api, operator, ada, "pro")
    rows = await api.sql.fetch("SELECT id, tier FROM jobs WHERE user_id = $1", ada.user_id)
    tiers = {row["id"]: row["tier"] for row in rows}
    assert {name: tiers[parse(Prefix.JOB, job)] for name, job in made.items()} == {
        "queued": "pro",
        "running": "pro",
        "created": "pro",
        "batch": "batch",
        "ended": "free",
    }
    told = await api.sql.fetch("SELECT job_id, type, job_seq FROM job_events WHERE seq > $1", before)
    assert {row["job_id"] for row in told} == {parse(Prefix.JOB, made[name]) for name in ("queued", "running", "batch")}
    assert {(row["type"], row["job_seq"]) for row in told} == {("plan_changed", None)}


async def test_a_change_of_plan_is_a_grant_with_a_record_and_its_repetition_is_neither(
    api: Api, operator: str, ada: Person
) -> None:
    for _ in range(2):
        await set_plan(api, operator, ada, "pro")
    grants = await api.sql.fetch(
        "SELECT plan_id, source, reference, ends_at FROM grants WHERE user_id = $1", ada.user_id
    )
    assert [tuple(row) for row in grants] == [("pro", "operator", None, None)]
    record = await api.sql.fetch("SELECT action, subject, data FROM audit_log")
    assert [tuple(row) for row in record] == [("set_plan", ada.id, {"from": "free", "to": "pro", "source": "operator"})]


async def test_the_plan_of_a_user_that_there_is_not_cannot_be_changed(api: Api, operator: str) -> None:
    path = f"/v1/admin/users/{show(Prefix.USER, new_id())}"
    answer, problem = await api.call("PATCH", path, key=operator, json={"plan": "pro"})
    assert (answer.status, problem["code"]) == (404, "not_found")


async def pay(connection: asyncpg.Connection, user: UUID, plan: str, reference: str) -> str:
    outcome: str = await connection.fetchval(
        "SELECT change_plan($1, $2, 'stripe', 'user_x', $3, 'stripe', $4, 500, $5)",
        user,
        plan,
        new_id(),
        reference,
        NOON + timedelta(days=30),
    )
    return outcome


async def test_a_repeated_notice_of_a_payment_changes_nothing(connection: asyncpg.Connection, user: UUID) -> None:
    assert await pay(connection, user, "starter", "evt_1") == "changed"
    await connection.execute("SELECT change_plan($1, 'free', 'op', 'user_x', $2)", user, new_id())
    assert await pay(connection, user, "starter", "evt_1") == "repeated"
    assert await connection.fetchval("SELECT plan_id FROM users WHERE id = $1", user) == "free"
    assert await pay(connection, user, "starter", "evt_2") == "changed"
    assert await pay(connection, user, "starter", "evt_3") == "renewed"
    grants = await connection.fetch("SELECT reference FROM grants WHERE user_id = $1 AND source = 'stripe'", user)
    assert sorted(row["reference"] for row in grants) == ["evt_1", "evt_2", "evt_3"]
    assert await connection.fetchval("SELECT count(*) FROM audit_log") == 4
    assert await pay(connection, new_id(), "starter", "evt_4") == "unknown_user"


async def test_one_notice_of_a_payment_that_comes_twice_at_once_counts_once(
    database_url: str, connection: asyncpg.Connection, user: UUID
) -> None:
    others = [await asyncpg.connect(database_url) for _ in range(6)]
    try:
        outcomes = await asyncio.gather(*(pay(other, user, "pro", "evt_1") for other in others))
    finally:
        for other in others:
            await other.close()
    assert sorted(outcomes) == ["changed"] + ["repeated"] * 5
    assert await connection.fetchval("SELECT count(*) FROM grants") == 1


# ------------------------------------------------------------------ grants and adjustments


async def enter(api: Api, operator: str, person: Person, act: str, **body: Any) -> tuple[int, Any]:
    answer, made = await api.call(
        "POST", f"/v1/admin/users/{person.id}/{act}", key=operator, json={"reason": "r", **body}
    )
    return answer.status, made


async def test_a_grant_gives_exactly_its_room_for_today_on_record(api: Api, operator: str, ada: Person) -> None:
    assert [(await ada.submit())[0] for _ in range(21)] == [202] * 20 + [402]
    status, entry = await enter(api, operator, ada, "grant", tokens=2.5, reason="sorry")
    admin_schemas.AccountEntry.model_validate(entry)
    today = datetime.now(UTC).date().isoformat()
    assert status == 201
    assert entry == {
        "user_id": ada.id,
        "entry": "grant",
        "tokens": 2.5,
        "day": today,
        "reason": "sorry",
        "used_tokens": 17.5,
        "daily_tokens": 20,
    }
    assert [(await ada.submit())[0] for _ in range(3)] == [202, 202, 402]
    row = await api.sql.fetchrow("SELECT * FROM token_ledger WHERE entry = 'grant'")
    assert (row["amount_mt"], row["kind"], row["reason"], row["job_id"]) == (-2500, "account", "sorry", None)
    actor = await api.sql.fetchrow("SELECT actor, action, subject, data FROM audit_log")
    assert tuple(actor) == (
        row["actor"],
        "grant",
        ada.id,
        {"amount_mt": -2500, "day": today, "reason": "sorry"},
    )
    assert row["actor"].startswith("user_")
    assert (await audit(api.services.db.dsn)).balanced


async def test_an_adjustment_charges_or_gives_back_on_its_day_alone(api: Api, operator: str, ada: Person) -> None:
    assert (await enter(api, operator, ada, "adjust", tokens=19.5))[0] == 201
    assert (await ada.submit())[0] == 402
    status, entry = await enter(api, operator, ada, "adjust", tokens=-0.501)
    assert (status, entry["tokens"], entry["used_tokens"]) == (201, -0.501, 18.999)
    assert (await ada.submit())[0] == 202
    yesterday = datetime.now(UTC).date() - timedelta(days=1)
    status, entry = await enter(api, operator, ada, "adjust", tokens=3, day=yesterday.isoformat())
    assert (status, entry["day"], entry["used_tokens"]) == (201, yesterday.isoformat(), 3)
    assert await ada.used() == 19.999
    usage = await api.sql.fetch(
        "SELECT day, used_mt, jobs FROM usage_daily WHERE user_id = $1 AND kind = 'account' ORDER BY day", ada.user_id
    )
    assert [tuple(row) for row in usage] == [(yesterday, 3000, 0), (yesterday + timedelta(days=1), 18_999, 0)]
    assert (await audit(api.services.db.dsn)).balanced


async def test_an_entry_and_its_record_are_one_transaction(api: Api, operator: str, ada: Person) -> None:
    await api.sql.execute("ALTER TABLE audit_log ADD CONSTRAINT no_more CHECK (action <> 'grant')")
    assert (await enter(api, operator, ada, "grant", tokens=5))[0] == 500
    assert await api.sql.fetchval("SELECT count(*) FROM token_ledger") == 0
    assert await ada.used() == 0


@pytest.mark.parametrize(
    ("act", "body", "field", "words"),
    [
        ("grant", {"tokens": 0}, "tokens", "not be 0"),
        ("grant", {"tokens": -1}, "tokens", "above 0"),
        ("grant", {"tokens": 0.0001}, "tokens", "three decimals"),
        ("grant", {"tokens": 1.0005}, "tokens", "three decimals"),
        ("grant", {"tokens": 1_000_000.001}, "tokens", "at most 1,000,000"),
        ("grant", {"tokens": 10**30}, "tokens", "at most 1,000,000"),
        ("grant", {"tokens": True}, "tokens", "number"),
        ("grant", {"tokens": "5"}, "tokens", "number"),
        ("grant", {}, "tokens", "missing"),
        ("grant", {"tokens": 5, "day": "2026-01-01"}, "day", "unknown field"),
        ("grant", {"tokens": 5, "reason": " "}, "reason", "not empty"),
        ("grant", {"tokens": 5, "reason": "a\nb"}, "reason", "one line"),
        ("grant", {"tokens": 5, "reason": "x" * 201}, "reason", "200"),
        ("grant", {"tokens": 5, "reason": None}, "reason", "missing"),
        ("adjust", {"tokens": 0}, "tokens", "not be 0"),
        ("adjust", {"tokens": -0.0005}, "tokens", "three decimals"),
        ("adjust", {"tokens": -1_000_001}, "tokens", "at most 1,000,000"),
        ("adjust", {"tokens": 5, "day": "today"}, "day", "date"),
        ("adjust", {"tokens": 5, "day": "20260101"}, "day", "date"),
        ("adjust", {"tokens": 5, "day": 5}, "day", "date"),
        ("adjust", {"tokens": 5, "day": "2199-01-01"}, "day", "today in UTC"),
        ("adjust", {"tokens": 5, "day": "2001-01-01"}, "day", "must be from"),
    ],
)
async def test_an_entry_out_of_bounds_is_refused_by_its_field(
    api: Api, operator: str, ada: Person, act: str, body: dict[str, Any], field: str, words: str
) -> None:
    status, problem = await enter(api, operator, ada, act, **body)
    assert (status, problem["code"], problem["errors"][0]["field"]) == (422, "invalid_input", field)
    assert words in problem["errors"][0]["message"]
    assert await api.sql.fetchval("SELECT count(*) FROM token_ledger") == 0


@pytest.mark.parametrize("amount", [0.001, 0.003, 0.29, 1.001, 8.041, 999_999.999, 1_000_000])
async def test_an_amount_is_exact_to_the_thousandth(api: Api, operator: str, ada: Person, amount: float) -> None:
    status, entry = await enter(api, operator, ada, "adjust", tokens=amount)
    assert (status, entry["tokens"]) == (201, amount)
    assert await api.sql.fetchval("SELECT amount_mt FROM token_ledger") == round(amount * 1000)


@pytest.mark.parametrize("act", ["grant", "adjust"])
async def test_only_an_operator_enters_anything_and_only_for_a_user_that_there_is(
    api: Api, operator: str, ada: Person, act: str
) -> None:
    answer, _ = await api.call(
        "POST", f"/v1/admin/users/{ada.id}/{act}", key=ada.key, json={"tokens": 5, "reason": "r"}
    )
    assert answer.status == 403
    for unknown in (show(Prefix.USER, new_id()), "user_x"):
        answer, _ = await api.call(
            "POST", f"/v1/admin/users/{unknown}/{act}", key=operator, json={"tokens": 5, "reason": "r"}
        )
        assert answer.status == 404
    assert await api.sql.fetchval("SELECT count(*) FROM token_ledger") == 0


async def test_a_grant_counts_only_on_the_day_on_which_it_is_given(connection: asyncpg.Connection) -> None:
    user = await add_user(connection)
    await connection.execute("UPDATE user_state SET day = $2 WHERE user_id = $1", user, NOON.date())
    for at, used in ((NOON, -5000), (NOON + timedelta(days=1), -5000)):
        row = await connection.fetchrow(
            "SELECT day, used_mt FROM enter_by_hand($1, 'grant', -5000, NULL, 'r', 'op', 's', $2)", user, at
        )
        assert tuple(row) == (at.date(), used)


async def test_an_adjustment_of_a_day_before_leaves_todays_quota_alone(
    database_url: str, connection: asyncpg.Connection
) -> None:
    user = await add_user(connection)
    await connection.execute("UPDATE user_state SET day = $2, used_mt = 0 WHERE user_id = $1", user, NOON.date())
    await connection.fetch(
        "SELECT * FROM enter_by_hand($1, 'adjustment', 700, $2, 'r', 'op', 's', $3)", user, date(2026, 5, 3), NOON
    )
    state = await connection.fetchrow("SELECT day, used_mt FROM user_state WHERE user_id = $1", user)
    assert tuple(state) == (NOON.date(), 0)
    assert (await audit(database_url, at=NOON)).balanced


# ------------------------------------------------------------------ the record


async def test_what_operators_did_is_listed_the_newest_first_in_pages(api: Api, operator: str, ada: Person) -> None:
    _, other = await api.call("POST", "/v1/admin/users", key=operator, json={"name": "bob"})
    await enter(api, operator, ada, "grant", tokens=5)
    await enter(api, operator, ada, "adjust", tokens=1)
    await set_plan(api, operator, ada, "pro")
    answer, first = await api.call("GET", "/v1/admin/audit?limit=3", key=operator)
    admin_schemas.AuditPage.model_validate(first)
    assert answer.status == 200
    assert [row["action"] for row in first["data"]] == ["set_plan", "adjustment", "grant"]
    assert {row["subject"] for row in first["data"]} == {ada.id}
    _, rest = await api.call("GET", f"/v1/admin/audit?cursor={first['next_cursor']}", key=operator)
    assert [(row["action"], row["subject"]) for row in rest["data"]] == [("create_user", other["id"])]
    assert rest["next_cursor"] is None
    _, of_bob = await api.call("GET", f"/v1/admin/audit?subject={other['id']}", key=operator)
    assert [row["action"] for row in of_bob["data"]] == ["create_user"]
    assert (await api.call("GET", "/v1/admin/audit", key=ada.key))[0].status == 403
    for wrong in ("cursor=x", "cursor=0", f"cursor={2**63}", "limit=0", "limit=101"):
        assert (await api.call("GET", f"/v1/admin/audit?{wrong}", key=operator))[0].status == 422, wrong
    assert (await api.call("GET", "/v1/admin/audit?subject=%00", key=operator))[0].status == 200

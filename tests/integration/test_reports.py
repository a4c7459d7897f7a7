"""Every query of the operator's report, run on data whose numbers are known, and on a demonstration's."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from tessera.cli.app import main
from tessera.config import Settings, load_cluster
from tessera.ids import Prefix, new_id, show
from tessera.store.demo import fill
from tessera.store.queries import QueryError
from tessera.store.reports import Section, names, report
from tests.integration.conftest import add_user

NOW = datetime(2026, 5, 14, 12, 0, 30, tzinfo=UTC)
START = NOW - timedelta(hours=2)


class Sample:
    """Three users and ten jobs, through the functions that the platform uses."""

    def __init__(self, dsn: str, connection: asyncpg.Connection) -> None:
        self.dsn, self.connection = dsn, connection

    async def user(self, plan: str, days_ago: int) -> UUID:
        user = await add_user(self.connection, plan, created_at=NOW - timedelta(days=days_ago))
        await self.connection.execute(
            "UPDATE user_state SET day = utc_day($2), tat = $2 WHERE user_id = $1", user, NOW - timedelta(days=40)
        )
        return user

    async def job(self, user: UUID, at: datetime, kind: str = "image", cost_mt: int = 1000) -> UUID:
        job = new_id()
        row = {
            "ord": 0,
            "id": str(job),
            "user_id": str(user),
            "kind": kind,
            "model": "m",
            "input": {},
            "cost_mt": cost_mt,
        }
        assert await self.connection.fetchval("SELECT outcome FROM admit($1, $2)", [row], at) == "admitted"
        return job

    async def claim(self, job: UUID, at: datetime, worker: str = "w1") -> None:
        claims = [{"job_id": str(job), "worker": worker, "ord": 0}]
        assert await self.connection.fetchval("SELECT attempt FROM claim(0, $1, 30, $2)", claims, at)

    async def finish(self, job: UUID, at: datetime, outcome: str = "completed", **row: Any) -> None:
        attempt = await self.connection.fetchval("SELECT attempt FROM jobs WHERE id = $1", job)
        rows = [{"ord": 0, "job_id": str(job), "attempt": attempt, "outcome": outcome, **row}]
        assert await self.connection.fetchval("SELECT state FROM finish(0, $1, $2)", rows, at)

    async def fill(self) -> None:
        self.ann, self.bob, self.eve = (
            await self.user("free", 3),
            await self.user("pro", 40),
            await self.user("free", 50),
        )
        await self.connection.execute(
            "INSERT INTO grants (id, user_id, plan_id, source, reference, amount_usd_cents, starts_at)"
            " VALUES ($1, $3, 'pro', 'stripe', 'a', 1200, '2026-04-05'),"
            " ($2, $3, 'pro', 'stripe', 'b', 1200, '2026-05-05')",
            new_id(),
            new_id(),
            self.bob,
        )
        for wait_s, run_s in ((1, 10), (3, 20), (5, 30)):
            job = await self.job(self.bob, START)
            await self.claim(job, START + timedelta(seconds=wait_s))
            await self.finish(job, START + timedelta(seconds=wait_s + run_s))
        failed = await self.job(self.ann, START, "video", 5000)
        await self.claim(failed, START, "w2")
        await self.finish(failed, START, "failed", error={"code": "stuck"}, reason="stuck")
        text = await self.job(self.ann, START, "text", 19_900)
        await self.claim(text, START)
        await self.finish(
            text,
            START,
            artifacts=[
                {"id": str(new_id()), "index": n, "sha256": "0" * 64, "media_type": "text/plain", "bytes": 70}
                for n in (0, 1)
            ],
        )
        old = await self.job(self.eve, NOW - timedelta(days=10))
        await self.claim(old, NOW - timedelta(days=10))
        await self.finish(old, NOW - timedelta(days=10), "cancelled", charged_mt=400, reason="cancelled while running")
        self.overdue = await self.job(self.bob, NOW - timedelta(seconds=90), "speech", 300)
        await self.claim(self.overdue, NOW - timedelta(seconds=80))
        await self.job(self.bob, NOW - timedelta(seconds=60))
        await self.job(self.eve, NOW - timedelta(seconds=20), "music", 2000)
        await self.connection.execute(
            "INSERT INTO uptime_minutes SELECT m, m <> $1::timestamptz - interval '3 minutes'"
            " FROM generate_series($1::timestamptz - interval '10 minutes', $1, '1 minute') m"
            " WHERE m <> $1::timestamptz - interval '5 minutes'",
            NOW.replace(second=0),
        )

    async def section(self, name: str, days: int = 30) -> list[tuple[Any, ...]]:
        (found,) = await report(self.dsn, at=NOW, days=days, only=[name])
        return list(found.rows)


@pytest.fixture
async def sample(database_url: str, connection: asyncpg.Connection) -> Sample:
    made = Sample(database_url, connection)
    await made.fill()
    return made


DAY, OLD_DAY = NOW.date(), (NOW - timedelta(days=10)).date()
EXPECTED: dict[str, list[tuple[Any, ...]]] = {
    "active_users": [(3, 3, 3, 3)],
    "new_users": [((NOW - timedelta(days=3)).date(), 1)],
    "completed_jobs": [(DAY, "image", 3, 3000), (DAY, "text", 1, 19_900)],
    "failure_rate": [("w2", "stuck", 1, 1, 100.0), ("w1", None, 0, 5, 0.0)],
    "conversion": [("2026-05", 1, 0, 0, 0.0), ("2026-04", 1, 1, 1, 100.0), ("2026-03", 1, 0, 0, 0.0)],
    "revenue": [("2026-05", "pro", 1, 1, 1200), ("2026-04", "pro", 1, 1, 1200)],
    "subscriptions": [("free", 2, 0), ("starter", 0, 0), ("pro", 1, 1200)],
    "uptime": [(DAY, 8, 10, 80.0)],
    "queue_by_tier": [("pro", 1, 0, 1, 60.0), ("free", 1, 0, 0, 20.0)],
    "queue_by_model": [("m", 2, 3000, 60.0)],
    "tokens_by_plan": [
        ("free", "text", 1, 19_900),
        ("free", "music", 1, 2000),
        ("free", "image", 1, 400),
        ("free", "video", 1, 0),
        ("pro", "image", 4, 4000),
        ("pro", "speech", 1, 300),
    ],
    "quota_exhaustion": [("free", 2, 1, 1), ("pro", 1, 0, 0)],
    "refunds": [("refund", "stuck", 1, 5000), ("refund", "cancelled while running", 1, 600)],
    "storage": [("text", 2, 140, 70)],
    "mismatches": [],
    "delivery_backlog": [],
}


@pytest.mark.parametrize("name", EXPECTED)
async def test_the_numbers_of_a_section_are_those_of_the_sample(sample: Sample, name: str) -> None:
    assert await sample.section(name) == EXPECTED[name]


async def test_the_rest_of_the_report_counts_the_sample_too(sample: Sample) -> None:
    timings = {row[0]: row[1:] for row in await sample.section("timings")}
    assert timings["image"] == pytest.approx((3, 3.0, 4.8, 4.96, 20.0, 29.0, 29.8))
    top = await sample.section("top_users")
    assert [(row[0], row[3], row[4], row[6], row[7]) for row in top] == [
        (show(Prefix.USER, sample.ann), 19_900, 20_000, 0, 0),
        (show(Prefix.USER, sample.bob), 4300, 300_000, 1, 1),
        (show(Prefix.USER, sample.eve), 2000, 20_000, 1, 0),
    ]
    assert await sample.section("overdue_leases") == [(show(Prefix.JOB, sample.overdue), "w1", 1, 50.0)]
    kept = {row[:3] for row in await sample.section("kept_jobs")}
    assert {("image", "completed", 3), ("image", "cancelled", 1), ("speech", "running", 1)} <= kept
    await sample.connection.execute("ANALYZE")
    assert "jobs" in [row[0] for row in await sample.section("table_sizes")]


async def test_a_shorter_time_leaves_out_what_is_older(sample: Sample) -> None:
    assert await sample.section("refunds", days=1) == [("refund", "stuck", 1, 5000)]


async def test_books_that_disagree_are_shown_where_they_do(sample: Sample) -> None:
    await sample.connection.execute("UPDATE usage_daily SET used_mt = used_mt + 7 WHERE kind = 'music'")
    await sample.connection.execute("UPDATE user_state SET used_mt = 1 WHERE user_id = $1", sample.bob)
    found = {row[0]: row[2:] for row in await sample.section("mismatches")}
    assert found == {
        show(Prefix.USER, sample.eve): ("music", 2000, 2007, "usage_daily"),
        show(Prefix.USER, sample.bob): ("all", 4300, 1, "user_state"),
    }


async def test_every_section_has_its_test(sample: Sample) -> None:
    assert set(names()) == {*EXPECTED, "timings", "top_users", "overdue_leases", "kept_jobs", "table_sizes"}


async def test_a_section_that_there_is_not_is_refused(database_url: str) -> None:
    with pytest.raises(QueryError, match="weather"):
        await report(database_url, at=NOW, only=["weather"])


async def test_an_empty_platform_has_a_report_too(database_url: str) -> None:
    assert [found.name for found in await report(database_url, at=NOW)] == names()


async def test_the_demonstration_fills_every_question_and_balances_its_books(
    database_url: str, connection: asyncpg.Connection
) -> None:
    await fill(database_url)
    jobs = await connection.fetchval("SELECT count(*) FROM jobs")
    await fill(database_url)
    assert await connection.fetchval("SELECT count(*) FROM jobs") == jobs > 1000
    found: dict[str, Section] = {each.name: each for each in await report(database_url, at=datetime.now(UTC))}
    assert json.dumps([each.dump() for each in found.values()])
    full = (
        "active_users",
        "completed_jobs",
        "failure_rate",
        "conversion",
        "revenue",
        "uptime",
        "timings",
        "refunds",
        "tokens_by_plan",
    )
    assert [name for name in full if not found[name].rows] == []
    assert found["mismatches"].rows == ()
    unbalanced = await connection.fetch(
        "SELECT j.id FROM jobs j LEFT JOIN token_ledger t ON t.job_id = j.id"
        " GROUP BY j.id, j.charged_mt, j.last_job_seq"
        " HAVING count(*) <> 2 OR sum(t.amount_mt) <> j.charged_mt"
        " OR j.last_job_seq <> (SELECT count(*) FROM job_events e WHERE e.job_id = j.id)"
    )
    assert unbalanced == []
    over = await connection.fetchval(
        "SELECT count(*) FROM (SELECT user_id, day, sum(used_mt) s FROM usage_daily GROUP BY 1, 2) d"
        " JOIN user_limits l USING (user_id) WHERE d.s > l.daily_mt"
    )
    assert over == 0


def test_the_command_line_prints_the_report(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Settings(home=tmp_path, database_url=database_url, artifacts_url=str(tmp_path), cluster=load_cluster({})).save()
    monkeypatch.setenv("TESSERA_HOME", str(tmp_path))
    assert main(["demo", "--yes"]) == 0
    assert main(["report", "revenue", "--json"]) == 0
    (section,) = json.loads(capsys.readouterr().out)["sections"]
    assert section["rows"][0]["revenue_cents"] > 0
    assert main(["report", "--days", "3"]) == 0
    printed = capsys.readouterr().out
    assert all(name.replace("_", " ").capitalize() in printed for name in names())

"""``tessera audit``: the books of a platform with everything in it balance; one broken row is found by its check."""

from __future__ import annotations

import asyncio
import json
import re
import threading
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from tessera.admission import Admission, Submission
from tessera.cli.app import main
from tessera.config import Settings, load_cluster
from tessera.errors import TesseraError, Unavailable
from tessera.ids import new_id
from tessera.scheduler.maintenance import prune_jobs
from tessera.store.audit import Check, audit, checks
from tessera.store.database import Database, connect
from tessera.store.demo import fill
from tests.integration.conftest import add_user

WITHHELD = {"code": "content_withheld", "message": "withheld", "retryable": False}


class Platform:
    """Jobs of every kind of life, by the functions that the platform uses, at the present time."""

    def __init__(self, connection: asyncpg.Connection) -> None:
        self.connection = connection
        self.jobs: dict[str, UUID] = {}

    async def admit(self, name: str, user: UUID, *, at: datetime | None = None, **values: Any) -> UUID:
        job = new_id()
        row = {
            "ord": 0,
            "id": str(job),
            "user_id": str(user),
            "kind": "image",
            "model": "m",
            "input": {},
            "cost_mt": 1000,
        }
        outcome = await self.connection.fetchval("SELECT outcome FROM admit($1, $2)", [{**row, **values}], at)
        assert outcome == "admitted"
        self.jobs[name] = job
        return job

    async def claim(self, job: UUID, at: datetime | None = None) -> int:
        claims = [{"job_id": str(job), "worker": "w", "ord": 0}]
        attempt: int = await self.connection.fetchval("SELECT attempt FROM claim(0, $1, 30, $2)", claims, at)
        return attempt

    async def finish(self, job: UUID, at: datetime | None = None, *, files: int = 0, **row: Any) -> str:
        attempt = await self.connection.fetchval("SELECT attempt FROM jobs WHERE id = $1", job)
        artifacts = [
            {"id": str(new_id()), "index": n, "sha256": f"{n:064x}", "media_type": "image/png", "bytes": 9}
            for n in range(files)
        ]
        rows = [{"ord": 0, "job_id": str(job), "attempt": attempt, "artifacts": artifacts, **row}]
        state: str = await self.connection.fetchval("SELECT state FROM finish(0, $1, $2)", rows, at)
        return state

    async def run(self, name: str, user: UUID, at: datetime | None = None, *, job: Any = None, **row: Any) -> UUID:
        made = await self.admit(name, user, at=at, **(job or {}))
        await self.claim(made, at)
        await self.finish(made, at, **row)
        return made

    async def live(self) -> None:
        """All of it. The second user stays clear of what the cases below break."""
        ann = await add_user(self.connection, "pro", max_running=64)
        bob = await add_user(self.connection)
        self.ann, self.bob = ann, bob
        await self.connection.execute(
            "INSERT INTO api_keys (id, user_id, secret_sha256, name, daily_cap_mt) VALUES ('k', $1, $2, 'k', 50000)",
            ann,
            b"0" * 32,
        )
        past = datetime.now(UTC) - timedelta(days=120)
        await self.connection.execute("UPDATE user_state SET day = utc_day($1), tat = $1", past)
        await self.run("pruned", ann, past, outcome="completed", files=1)
        database = Database.open(self.connection_dsn, pool_size=1)
        assert await prune_jobs(database, datetime.now(UTC)) == 1
        await database.close()
        yesterday = datetime.now(UTC) - timedelta(days=1)
        await self.admit("over midnight", ann, at=yesterday)
        await self.claim(self.jobs["over midnight"], yesterday)
        assert await self.finish(self.jobs["over midnight"], outcome="failed", error={"code": "stuck"}) == "failed"

        await self.run("completed", ann, outcome="completed", files=2)
        await self.run("missing items", ann, outcome="completed", files=1, charged_mt=500, ours=True)
        await self.run("text", ann, job={"kind": "text"}, outcome="completed", charged_mt=70)
        await self.run("by key", ann, job={"api_key_id": "k"}, outcome="completed", files=1)
        await self.run("failed", ann, outcome="failed", error={"code": "stuck"})
        await self.run("cancelled", ann, outcome="cancelled", charged_mt=250)
        await self.run("cancelled late", ann, outcome="cancelled", charged_mt=1000)
        for n in range(4):
            await self.run(f"withheld {n}", ann, outcome="failed", error=WITHHELD, reason="content_withheld")
        retried = await self.run("retried", ann, outcome="requeued", failed=True, error={"code": "worker_lost"})
        await self.claim(retried)
        assert await self.finish(retried, outcome="completed", files=1) == "completed"
        waiting = await self.admit("cancelled while waiting", ann)
        await self.connection.fetchval("SELECT request_cancel($1, $2)", waiting, ann)
        expired = await self.admit("expired", ann)
        rows = [{"ord": 0, "job_id": str(expired), "to_state": "expired", "error": {"code": "deadline_passed"}}]
        await self.connection.fetch("SELECT * FROM end_waiting($1)", rows)
        await self.admit("queued", ann)
        await self.admit("queued by key", ann, api_key_id="k")
        await self.admit("created", ann, not_before=datetime.now(UTC) + timedelta(hours=1))
        await self.claim(await self.admit("running", ann))
        marked = await self.admit("running, cancel asked", ann)
        await self.claim(marked)
        await self.connection.fetchval("SELECT request_cancel($1, $2)", marked, ann)
        for entry, amount in (("grant", -2500), ("adjustment", 40), ("adjustment", -10)):
            await self.connection.fetch(
                "SELECT * FROM enter_by_hand($1, $2, $3, NULL, 'r', 'op', 's')", ann, entry, amount
            )
        assert await self.connection.fetchval("SELECT change_plan($1, 'starter', 'op', 's', $2)", ann, new_id())
        await self.run("the other's", bob, outcome="completed", files=1)
        await self.join_and_leave()

    async def join_and_leave(self) -> None:
        """An account becomes part of another, with what it has done and what waits; and one is deleted."""
        carl, dan, eve = [await add_user(self.connection) for _ in range(3)]
        await self.run("the merged one's", carl, outcome="completed", files=1)
        await self.admit("the merged one's, waiting", carl)
        await self.run("the merging one's", dan, outcome="completed", files=1)
        assert await self.connection.fetchval("SELECT merge_users($1, $2)", carl, dan) == "merged"
        await self.run("the deleted one's", eve, job={"input": {"prompt": "x"}}, outcome="completed", files=1)
        await self.admit("the deleted one's, waiting", eve)
        assert await self.connection.fetchval("SELECT delete_account($1, '[]', 'op')", eve) == "deleted"

    connection_dsn = ""


def with_platform(dsn: str, work: Callable[[Platform], Awaitable[Any]] | None = None) -> Platform:
    """A platform with a history in this database, and then what ``work`` does to it."""

    async def whole() -> Platform:
        connection = await connect(dsn, name="tests")
        platform = Platform(connection)
        platform.connection_dsn = dsn
        try:
            await platform.live()
            if work is not None:
                await work(platform)
        finally:
            await connection.close()
        return platform

    return asyncio.run(whole())


@pytest.fixture
def home(database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """TESSERA_HOME of an installation on the test's database."""
    Settings(home=tmp_path, database_url=database_url, artifacts_url=str(tmp_path), cluster=load_cluster({})).save()
    monkeypatch.setenv("TESSERA_HOME", str(tmp_path))
    return tmp_path


def test_the_books_of_a_platform_with_jobs_of_every_kind_balance(
    home: Path, database_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    platform = with_platform(database_url)
    assert main(["audit"]) == 0
    *each, last = capsys.readouterr().out.splitlines()
    assert len(each) == len(checks()) and all(line.startswith("✓ ") for line in each)
    jobs = len(platform.jobs) - 1  # one is pruned; its entries stay
    entries = 2 * (jobs + 1) - 6 + 1 + 3 + 2  # a grant, three by hand, and the pair of a merge
    assert last == f"The books balance: {jobs} jobs, {entries} ledger entries, 6 open holds."
    assert main(["audit", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["balanced"], found["differences"], found["jobs"], found["open_holds"]) == (True, 0, jobs, 6)
    assert found["open_tokens"] == 6 and found["verdict"] == last
    assert main(["audit", "--quiet"]) == 0
    assert capsys.readouterr().out.splitlines() == [last]


def test_the_books_of_an_empty_platform_balance(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["audit"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "The books balance: 0 jobs, 0 ledger entries, 0 open holds."


def test_the_sample_data_has_balanced_books(home: Path, database_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    asyncio.run(fill(database_url))
    assert main(["audit"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("The books balance: ")


# What is broken, by SQL on {job}, a job of the platform by name; and the check that must find it.
APPEND_ONLY = "ALTER TABLE token_ledger DISABLE TRIGGER USER"
BREAKS: list[tuple[str, str, str, list[str]]] = [
    (
        "usage_is_the_ledger",
        "a day's usage",
        "text",
        ["UPDATE usage_daily SET used_mt = used_mt + 1 WHERE kind = 'text'"],
    ),
    (
        "usage_is_the_ledger",
        "a day's count of jobs",
        "text",
        ["UPDATE usage_daily SET jobs = jobs + 1 WHERE kind = 'text'"],
    ),
    ("usage_is_the_ledger", "a day's row", "text", ["DELETE FROM usage_daily WHERE kind = 'text'"]),
    (
        "usage_is_the_ledger",
        "an entry of an account",
        "text",
        [APPEND_ONLY, "DELETE FROM token_ledger WHERE amount_mt = 40 AND job_id IS DISTINCT FROM {job}"],
    ),
    ("a_job_holds_its_price", "a price", "queued", ["UPDATE jobs SET cost_mt = 999 WHERE id = {job}"]),
    (
        "a_job_holds_its_price",
        "a hold is gone",
        "queued",
        [APPEND_ONLY, "DELETE FROM token_ledger WHERE job_id = {job} AND entry = 'hold'"],
    ),
    (
        "a_job_holds_its_price",
        "a hold twice",
        "queued",
        [
            "DROP INDEX token_ledger_once",
            "INSERT INTO token_ledger (user_id, day, kind, entry, amount_mt, job_id)"
            " SELECT user_id, day, kind, entry, amount_mt, job_id FROM token_ledger WHERE job_id = {job}",
        ],
    ),
    (
        "a_job_that_ended_is_settled",
        "a settlement is gone",
        "completed",
        [APPEND_ONLY, "DELETE FROM token_ledger WHERE job_id = {job} AND entry = 'settlement'"],
    ),
    (
        "a_job_that_ended_is_settled",
        "a refund is too small",
        "cancelled",
        [APPEND_ONLY, "UPDATE token_ledger SET amount_mt = -749 WHERE job_id = {job} AND entry = 'refund'"],
    ),
    (
        "a_job_that_ended_is_settled",
        "a completed job is refunded beside its settlement",
        "completed",
        [
            "INSERT INTO token_ledger (user_id, day, kind, entry, amount_mt, job_id)"
            " SELECT user_id, day, kind, 'refund', -1, id FROM jobs WHERE id = {job}",
        ],
    ),
    ("a_job_that_ended_is_settled", "a charge", "text", ["UPDATE jobs SET charged_mt = 71 WHERE id = {job}"]),
    (
        "only_what_ended_is_settled",
        "a waiting job is refunded",
        "queued",
        [
            "INSERT INTO token_ledger (user_id, day, kind, entry, amount_mt, job_id)"
            " SELECT user_id, day, kind, 'refund', -1000, id FROM jobs WHERE id = {job}",
        ],
    ),
    (
        "only_what_ended_is_settled",
        "a refund of nothing",
        "queued",
        [
            "INSERT INTO token_ledger (user_id, day, kind, entry, amount_mt, job_id)"
            " SELECT user_id, day, kind, 'refund', -1000, gen_random_uuid() FROM jobs WHERE id = {job}",
        ],
    ),
    ("no_job_is_lost", "an accepted job", "queued", ["DELETE FROM jobs WHERE id = {job}"]),
    ("charges_fit_the_end", "a failed job is charged", "failed", ["UPDATE jobs SET charged_mt = 1 WHERE id = {job}"]),
    (
        "charges_fit_the_end",
        "an expired job is charged",
        "expired",
        ["UPDATE jobs SET charged_mt = 1 WHERE id = {job}"],
    ),
    (
        "charges_fit_the_end",
        "a job is charged more than it held",
        "completed",
        [
            "ALTER TABLE jobs DROP CONSTRAINT jobs_charge_within_hold",
            "UPDATE jobs SET charged_mt = cost_mt + 1 WHERE id = {job}",
        ],
    ),
    (
        "quotas_are_todays_usage",
        "a user's quota",
        "queued",
        ["UPDATE user_state s SET used_mt = used_mt - 1 FROM jobs j WHERE j.user_id = s.user_id AND j.id = {job}"],
    ),
    (
        "quotas_are_todays_usage",
        "the day of a hot row",
        "queued",
        ["UPDATE user_state s SET day = s.day - 1 FROM jobs j WHERE j.user_id = s.user_id AND j.id = {job}"],
    ),
    (
        "keys_used_what_their_jobs_did",
        "a key's use",
        "queued by key",
        [
            "UPDATE api_key_usage SET used_mt = used_mt - 1"
            " WHERE key_id = (SELECT api_key_id FROM jobs WHERE id = {job})"
        ],
    ),
    (
        "keys_used_what_their_jobs_did",
        "a key's counter",
        "queued by key",
        ["DELETE FROM api_key_usage WHERE key_id = (SELECT api_key_id FROM jobs WHERE id = {job})"],
    ),
    (
        "counters_are_the_jobs",
        "a counter of waiting jobs",
        "queued",
        ["UPDATE user_state s SET queued = s.queued + 1 FROM jobs j WHERE j.user_id = s.user_id AND j.id = {job}"],
    ),
    (
        "counters_are_the_jobs",
        "a counter of running jobs",
        "queued",
        ["UPDATE user_state s SET running = s.running - 1 FROM jobs j WHERE j.user_id = s.user_id AND j.id = {job}"],
    ),
    (
        "a_job_ends_once",
        "a second completed attempt",
        "retried",
        ["UPDATE attempts SET outcome = 'completed' WHERE job_id = {job} AND attempt = 1"],
    ),
    (
        "a_job_ends_once",
        "a second completed event",
        "completed",
        [
            "INSERT INTO job_events (seq, job_id, job_seq, user_id, type)"
            " SELECT nextval('job_events_seq'), id, last_job_seq + 1, user_id, 'completed' FROM jobs WHERE id = {job}",
            "UPDATE jobs SET last_job_seq = last_job_seq + 1 WHERE id = {job}",
        ],
    ),
    (
        "a_job_ends_once",
        "the event of another end",
        "failed",
        ["UPDATE job_events SET type = 'expired' WHERE job_id = {job} AND type = 'failed'"],
    ),
    ("events_have_no_gap", "an event", "retried", ["DELETE FROM job_events WHERE job_id = {job} AND job_seq = 2"]),
    (
        "events_have_no_gap",
        "the last event of a waiting job",
        "queued",
        ["DELETE FROM job_events WHERE job_id = {job} AND job_seq = 1"],
    ),
    ("completed_jobs_have_their_files", "a file", "retried", ["DELETE FROM artifacts WHERE job_id = {job}"]),
    (
        "runs_have_their_attempt",
        "a run's attempt",
        "running",
        ["DELETE FROM attempts WHERE job_id = {job}"],
    ),
    (
        "runs_have_their_attempt",
        "a run's lease",
        "running",
        [
            "ALTER TABLE jobs DROP CONSTRAINT jobs_running_is_leased",
            "UPDATE jobs SET lease_expires_at = NULL WHERE id = {job}",
        ],
    ),
    (
        "the_merged_have_nothing",
        "a job of a merged account",
        "the merged one's",
        ["UPDATE jobs SET user_id = (SELECT id FROM users WHERE merged_into IS NOT NULL) WHERE id = {job}"],
    ),
    (
        "the_merged_have_nothing",
        "a day of a merged account",
        "the merged one's",
        [
            "UPDATE usage_daily d SET used_mt = 1 FROM users u, jobs j"
            " WHERE d.user_id = u.id AND u.merged_into = j.user_id AND j.id = {job}"
        ],
    ),
    (
        "the_merged_have_nothing",
        "a counter of a merged account",
        "the merged one's",
        [
            "UPDATE user_state s SET queued = 1 FROM users u, jobs j"
            " WHERE s.user_id = u.id AND u.merged_into = j.user_id AND j.id = {job}"
        ],
    ),
    (
        "the_deleted_are_gone",
        "the words of a deleted account",
        "the deleted one's",
        ["UPDATE jobs SET input = '[1]', finished_at = finished_at - interval '1 hour' WHERE id = {job}"],
    ),
    (
        "the_deleted_are_gone",
        "a file of a deleted account",
        "the deleted one's",
        [
            "UPDATE jobs SET finished_at = finished_at - interval '1 hour' WHERE id = {job}",
            "UPDATE artifacts SET deleted_at = NULL WHERE job_id = {job}",
        ],
    ),
    (
        "the_deleted_are_gone",
        "an identity of a deleted account",
        "the deleted one's",
        [
            "ALTER TABLE identities DISABLE TRIGGER USER",
            "INSERT INTO identities (id, user_id, provider, subject)"
            " SELECT gen_random_uuid(), user_id, 'telegram', '1' FROM jobs WHERE id = {job}",
        ],
    ),
    (
        "runs_have_their_attempt",
        "an attempt that never ended",
        "retried",
        ["UPDATE attempts SET finished_at = NULL, outcome = NULL WHERE job_id = {job} AND attempt = 1"],
    ),
]


@pytest.mark.parametrize(
    ("check", "job", "statements"),
    [pytest.param(check, job, statements, id=f"{check}: {what}") for check, what, job, statements in BREAKS],
)
def test_one_broken_row_is_found_and_named(
    home: Path, database_url: str, capsys: pytest.CaptureFixture[str], check: str, job: str, statements: list[str]
) -> None:
    async def damage(platform: Platform) -> None:
        for statement in statements:
            done = await platform.connection.execute(statement.replace("{job}", f"'{platform.jobs[job]}'"))
            assert not done.endswith(" 0"), f"nothing was broken by {statement}"

    with_platform(database_url, damage)
    assert main(["audit"]) == 1
    printed = capsys.readouterr().out.splitlines()
    assert sum(line.startswith(("✓ ", "✗ ")) for line in printed) == len(checks())
    found = {
        name: int(count) for name, count in re.findall(r"^✗ .*  (\w+): (\d+) difference", "\n".join(printed), re.M)
    }
    assert check in found
    assert sum(line.startswith("    ") for line in printed) == (amount := sum(found.values()))
    assert printed[-1] == f"The books do NOT balance: {amount} difference{'' if amount == 1 else 's'}."


def test_a_difference_is_told_to_scripts_with_its_rows(
    home: Path, database_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    async def damage(platform: Platform) -> None:
        await platform.connection.execute("UPDATE usage_daily SET used_mt = used_mt + 1 WHERE kind = 'text'")

    with_platform(database_url, damage)
    assert main(["audit", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert (found["balanced"], found["verdict"]) == (False, "The books do NOT balance: 2 differences.")
    failed = {each["name"]: each for each in found["checks"] if each["differences"]}
    assert set(failed) == {"usage_is_the_ledger", "quotas_are_todays_usage"}
    (row,) = failed["usage_is_the_ledger"]["examples"]
    assert row["user_id"].startswith("user_") and row["usage_mt"] == row["ledger_mt"] + 1 and row["kind"] == "text"


def test_every_check_has_a_case_that_breaks_it() -> None:
    assert {check for check, *_ in BREAKS} == set(checks())


async def test_the_books_balance_in_any_snapshot_while_jobs_come_and_go(
    database_url: str, connection: asyncpg.Connection
) -> None:
    users = [await add_user(connection, daily_mt=30_000, max_queued=50, max_running=9) for _ in range(4)]
    replicas = [Admission(database_url), Admission(database_url)]
    over = asyncio.Event()

    async def submit(number: int) -> None:
        while not over.is_set():
            one = Submission(
                id=new_id(), user_id=users[number % 4], kind="text", model="noop", input={}, cost_mt=100 + number
            )
            try:
                await replicas[number % 2].submit(one)
            except TesseraError:
                await asyncio.sleep(0.01)

    async def work() -> None:
        own = await connect(database_url, name="tests")
        platform = Platform(own)
        turn = 0
        while not over.is_set():
            for job in await own.fetch("SELECT id FROM jobs WHERE state = 'queued' LIMIT 8"):
                turn += 1
                if turn % 5 == 0:
                    owner = await own.fetchval("SELECT user_id FROM jobs WHERE id = $1", job["id"])
                    await own.fetchval("SELECT request_cancel($1, $2)", job["id"], owner)
                elif await platform.claim(job["id"]) is not None:
                    row = [
                        {"outcome": "completed", "charged_mt": 50},
                        {"outcome": "failed", "error": {"code": "stuck"}},
                        {"outcome": "requeued", "failed": True, "error": {"code": "worker_lost"}},
                        {"outcome": "failed", "error": WITHHELD},
                    ][turn % 4]
                    await platform.finish(job["id"], **row)
            await asyncio.sleep(0.005)
        await own.close()

    tasks = [asyncio.create_task(submit(number)) for number in range(8)]
    tasks.append(asyncio.create_task(work()))
    try:
        jobs = 0
        for _ in range(12):
            found = await audit(database_url)
            assert found.balanced, [check.dump() for check in found.checks if check.differences]
            assert found.jobs >= jobs
            jobs = found.jobs
            await asyncio.sleep(0.1)
        assert jobs > 20
    finally:
        over.set()
        await asyncio.gather(*tasks)
        for replica in replicas:
            await replica.close()


async def test_an_audit_counts_and_checks_one_moment(database_url: str, connection: asyncpg.Connection) -> None:
    user = await add_user(connection)
    await Platform(connection).admit("before", user)

    async def meanwhile() -> None:
        own = await connect(database_url, name="tests")
        await Platform(own).admit("meanwhile", user)
        await own.execute("UPDATE user_state SET queued = 0 WHERE user_id = $1", user)
        await own.close()

    def on_check(check: Check) -> None:
        if check.name == "usage_is_the_ledger":  # the first
            thread = threading.Thread(target=lambda: asyncio.run(meanwhile()))
            thread.start()
            thread.join()

    found = await audit(database_url, on_check=on_check)
    assert (found.balanced, found.jobs, found.open_holds, found.open_mt) == (True, 1, 1, 1000)
    assert not (await audit(database_url)).balanced


async def test_an_audit_of_a_postgres_that_is_away_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(Unavailable):
        await audit(f"postgresql://tessera@/tessera?host={tmp_path}")


def test_an_unreachable_database_has_an_exit_code_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"postgresql://tessera@/tessera?host={tmp_path}"
    Settings(home=tmp_path, database_url=url, artifacts_url=str(tmp_path), cluster=load_cluster({})).save()
    monkeypatch.setenv("TESSERA_HOME", str(tmp_path))
    assert main(["audit", "--json"]) == 3
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "unavailable"

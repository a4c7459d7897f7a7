"""The refunds, each through the function that ends the job, on the hold's day and after midnight; and the ledger."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from tessera.catalog import catalog_of
from tessera.errors import ContentWithheld
from tessera.ids import new_id
from tessera.jobs import Kind
from tessera.ports import StoredFile
from tessera.retries import Retry, decide
from tessera.runs import Ending, Outcome
from tessera.scheduler.outcomes import ended_row, failed_row
from tessera.store.queries import load
from tests.integration.conftest import add_user

NOON = datetime(2026, 5, 4, 12, 0, tzinfo=UTC)
MIDNIGHT = timedelta(days=1)
EPOCH = 0


@dataclass(frozen=True, kw_only=True)
class Case:
    """How a job of 1,000 mt ends, what it is charged, and the entries after its hold; a grant is of the day it ends."""

    why: str
    ends: str  # the function: finish, end_waiting, request_cancel, or "cancel, then finish"
    row: dict[str, Any]
    state: str
    charged: int
    entries: list[tuple[str, int]]
    granted: bool = False  # after midnight an equal grant follows, because the cause was ours


CASES = [
    Case(
        why="completed",
        ends="finish",
        row={"outcome": "completed"},
        state="completed",
        charged=1000,
        entries=[("settlement", 0)],
    ),
    Case(
        why="text settles what was generated",
        ends="finish",
        row={"outcome": "completed", "charged_mt": 300},
        state="completed",
        charged=300,
        entries=[("settlement", -700)],
    ),
    Case(
        why="our error",
        ends="finish",
        row={"outcome": "failed", "error": {"code": "stuck"}, "reason": "stuck"},
        state="failed",
        charged=0,
        entries=[("refund", -1000)],
        granted=True,
    ),
    Case(
        why="quarantined",
        ends="finish",
        row={"outcome": "failed", "error": {"code": "quarantined"}},
        state="failed",
        charged=0,
        entries=[("refund", -1000)],
        granted=True,
    ),
    Case(
        why="failed by the user's own input",
        ends="finish",
        row={"outcome": "failed", "error": {"code": "invalid_input"}, "ours": False},
        state="failed",
        charged=0,
        entries=[("refund", -1000)],
    ),
    Case(
        why="cancelled while running: the part not executed",
        ends="finish",
        row={"outcome": "cancelled", "charged_mt": 250},
        state="cancelled",
        charged=250,
        entries=[("refund", -750)],
    ),
    Case(
        why="cancelled at its very end",
        ends="finish",
        row={"outcome": "cancelled", "charged_mt": 1000},
        state="cancelled",
        charged=1000,
        entries=[("settlement", 0)],
    ),
    Case(
        why="completed with a missing item",
        ends="finish",
        row={"outcome": "completed", "charged_mt": 500, "ours": True},
        state="completed",
        charged=500,
        entries=[("settlement", -500)],
        granted=True,
    ),
    Case(
        why="withheld by the safety rules",
        ends="finish",
        row={"outcome": "failed", "error": {"code": "content_withheld"}, "reason": "content_withheld"},
        state="failed",
        charged=0,
        entries=[("refund", -1000)],
        granted=True,
    ),
    Case(
        why="requeued, but its user has cancelled it meanwhile",
        ends="cancel, then finish",
        row={"outcome": "requeued", "error": {"code": "worker_lost"}, "reason": "worker_lost", "ours": True},
        state="cancelled",
        charged=0,
        entries=[("refund", -1000)],
    ),
    Case(
        why="expired",
        ends="end_waiting",
        row={"to_state": "expired", "error": {"code": "deadline_passed"}},
        state="expired",
        charged=0,
        entries=[("refund", -1000)],
        granted=True,
    ),
    Case(
        why="failed while waiting: its model was withdrawn",
        ends="end_waiting",
        row={"to_state": "failed", "error": {"code": "model_missing"}},
        state="failed",
        charged=0,
        entries=[("refund", -1000)],
        granted=True,
    ),
    Case(
        why="cancelled while waiting",
        ends="request_cancel",
        row={},
        state="cancelled",
        charged=0,
        entries=[("refund", -1000)],
    ),
]


class Books:
    """One user on one connection, with a clock of its own."""

    def __init__(self, connection: asyncpg.Connection, user: UUID) -> None:
        self.connection, self.user, self.now = connection, user, NOON

    async def admit(self, cost_mt: int = 1000, **values: Any) -> UUID:
        job = new_id()
        row = {
            "ord": 0,
            "id": str(job),
            "user_id": str(self.user),
            "kind": "image",
            "model": "m",
            "input": {},
            "cost_mt": cost_mt,
        }
        answers = await self.connection.fetch("SELECT outcome FROM admit($1, $2)", [{**row, **values}], self.now)
        assert [answer["outcome"] for answer in answers] == ["admitted"]
        return job

    async def claim(self, job: UUID) -> int:
        claims = [{"job_id": str(job), "worker": "w", "ord": 0}]
        attempt: int = await self.connection.fetchval(
            "SELECT attempt FROM claim($1, $2, 30, $3)", EPOCH, claims, self.now
        )
        return attempt

    async def finish(self, job: UUID, attempt: int, **row: Any) -> str | None:
        rows = [{"ord": 0, "job_id": str(job), "attempt": attempt, **row}]
        state: str | None = await self.connection.fetchval(
            "SELECT state FROM finish($1, $2, $3)", EPOCH, rows, self.now
        )
        return state

    async def end(self, job: UUID, case: Case) -> None:
        if case.ends == "end_waiting":
            rows = [{"ord": 0, "job_id": str(job), **case.row}]
            await self.connection.execute("SELECT * FROM end_waiting($1, $2)", rows, self.now)
        elif case.ends == "request_cancel":
            await self.connection.fetchval("SELECT request_cancel($1, $2, $3)", job, self.user, self.now)

    async def ledger(self, job: UUID) -> list[tuple[Any, ...]]:
        rows = await self.connection.fetch(
            "SELECT entry, amount_mt, day, kind FROM token_ledger WHERE job_id = $1 ORDER BY id", job
        )
        return [tuple(row) for row in rows]

    async def used(self) -> int:
        """What counts against the quota now, as admission reads it."""
        row = await self.connection.fetchrow("SELECT day, used_mt FROM user_state WHERE user_id = $1", self.user)
        return row["used_mt"] if row["day"] == self.now.date() else 0

    async def check(self) -> None:
        mismatch = await self.connection.fetch(
            "SELECT user_id, day, kind"
            " FROM (SELECT user_id, day, kind, sum(amount_mt) s FROM token_ledger GROUP BY 1, 2, 3) l"
            " FULL JOIN (SELECT user_id, day, kind, used_mt s FROM usage_daily) u USING (user_id, day, kind)"
            " WHERE l.s IS DISTINCT FROM u.s"
        )
        assert mismatch == []
        row = await self.connection.fetchrow("SELECT queued, running FROM user_state WHERE user_id = $1", self.user)
        assert tuple(row) == (0, 0)


@pytest.fixture
async def books(connection: asyncpg.Connection, user: UUID) -> Books:
    await connection.execute("UPDATE user_state SET day = $2, tat = $3 WHERE user_id = $1", user, NOON.date(), NOON)
    return Books(connection, user)


@pytest.mark.parametrize("next_day", [False, True], ids=["same day", "after midnight"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.why)
async def test_a_job_is_settled_or_refunded_on_the_day_of_its_hold(books: Books, case: Case, next_day: bool) -> None:
    job = await books.admit()
    attempt = await books.claim(job) if case.ends.endswith("finish") else 0
    books.now += MIDNIGHT if next_day else timedelta(seconds=9)
    if case.ends.startswith("cancel"):
        await books.connection.fetchval("SELECT request_cancel($1, $2, $3)", job, books.user, books.now)
    if case.ends.endswith("finish"):
        assert await books.finish(job, attempt, **case.row) == case.state
    else:
        await books.end(job, case)
    row = await books.connection.fetchrow("SELECT state, charged_mt, day FROM jobs WHERE id = $1", job)
    assert tuple(row) == (case.state, case.charged, NOON.date())
    expected: list[tuple[Any, ...]] = [("hold", 1000, NOON.date(), "image")]
    expected += [(entry, amount, NOON.date(), "image") for entry, amount in case.entries]
    if next_day and case.granted:
        expected.append(("grant", case.charged - 1000, books.now.date(), "account"))
    assert await books.ledger(job) == expected
    assert await books.used() == (case.charged if not next_day else case.charged - 1000 if case.granted else 0)
    await books.check()


async def test_a_grant_is_quota_for_the_day_on_which_it_is_given_only(books: Books) -> None:
    job = await books.admit(cost_mt=20_000)
    attempt = await books.claim(job)
    books.now += MIDNIGHT
    await books.finish(job, attempt, outcome="failed", error={"code": "stuck"})
    await books.finish(more := await books.admit(cost_mt=40_000), await books.claim(more), outcome="completed")
    assert await books.used() == 20_000
    books.now += MIDNIGHT
    await books.finish(last := await books.admit(cost_mt=20_000), await books.claim(last), outcome="completed")
    assert await books.used() == 20_000
    await books.check()


async def test_a_job_asked_to_end_is_cancelled_and_refunded_instead_of_requeued(books: Books) -> None:
    job = await books.admit()
    attempt = await books.claim(job)
    assert await books.connection.fetchval("SELECT request_cancel($1, $2, $3)", job, books.user, books.now) == "running"
    assert (
        await books.finish(job, attempt, outcome="requeued", failed=True, error={"code": "worker_lost"}) == "cancelled"
    )
    assert [entry[:2] for entry in await books.ledger(job)] == [("hold", 1000), ("refund", -1000)]
    await books.check()


async def test_a_result_that_is_there_before_the_cancel_is_charged(books: Books) -> None:
    job = await books.admit()
    attempt = await books.claim(job)
    await books.connection.fetchval("SELECT request_cancel($1, $2, $3)", job, books.user, books.now)
    assert await books.finish(job, attempt, outcome="completed") == "completed"
    assert await books.used() == 1000
    assert (
        await books.connection.fetchval("SELECT request_cancel($1, $2, $3)", job, books.user, books.now) == "completed"
    )
    await books.check()


async def test_a_requeued_job_keeps_its_hold_and_is_settled_once(books: Books) -> None:
    job = await books.admit()
    first = await books.claim(job)
    assert await books.finish(job, first, outcome="requeued", failed=True, error={"code": "worker_lost"}) == "queued"
    assert [entry[0] for entry in await books.ledger(job)] == ["hold"]
    second = await books.claim(job)
    assert await books.finish(job, second, outcome="completed") == "completed"
    assert [entry[0] for entry in await books.ledger(job)] == ["hold", "settlement"]
    await books.check()


async def test_a_late_finish_of_an_old_attempt_is_ignored(books: Books) -> None:
    job = await books.admit()
    first = await books.claim(job)
    await books.finish(job, first, outcome="requeued", failed=True)
    assert await books.finish(job, first, outcome="completed") is None
    second = await books.claim(job)
    assert second == first + 1
    assert await books.finish(job, first, outcome="failed", error={"code": "stuck"}) is None
    assert await books.finish(job, second, outcome="completed") == "completed"
    assert await books.finish(job, second, outcome="completed") is None
    await books.check()


async def test_another_leaders_epoch_fences_every_write(books: Books) -> None:
    """Everything that the scheduler writes, with the jobs that it would write about."""
    running, waiting = await books.admit(), await books.admit()
    attempt = await books.claim(running)
    writes: dict[str, dict[str, object]] = {
        "claim_batch": {"claims": [{"job_id": str(waiting), "worker": "w", "ord": 0}], "lease_s": 30.0},
        "finish_batch": {"outcomes": [{"ord": 0, "job_id": str(running), "attempt": attempt, "outcome": "completed"}]},
        "end_waiting_batch": {"jobs": [{"ord": 0, "job_id": str(waiting), "to_state": "expired"}]},
        "renew_leases": {"job_ids": [running], "attempts": [attempt], "lease_s": 30.0},
        "promote_due_jobs": {},
    }
    before = await books.connection.fetch("SELECT * FROM jobs ORDER BY id")
    await books.connection.execute("UPDATE leader SET epoch = 7")
    for name, values in writes.items():
        query = load()[name]
        with pytest.raises(asyncpg.PostgresError, match="no longer leads"):
            await books.connection.fetch(query.positional, *query.arguments({"epoch": EPOCH, **values}))
    assert await books.connection.fetch("SELECT * FROM jobs ORDER BY id") == before


async def test_another_users_job_cannot_be_cancelled(books: Books) -> None:
    job = await books.admit()
    assert await books.connection.fetchval("SELECT request_cancel($1, $2)", job, new_id()) is None
    assert await books.connection.fetchval("SELECT state FROM jobs WHERE id = $1", job) == "queued"


@pytest.mark.parametrize(
    "statement",
    ["UPDATE token_ledger SET amount_mt = 1", "DELETE FROM token_ledger", "TRUNCATE token_ledger"],
)
async def test_the_ledger_refuses_every_change(books: Books, statement: str) -> None:
    await books.admit()
    with pytest.raises(asyncpg.CheckViolationError, match="append-only"):
        await books.connection.execute(statement)


@pytest.mark.parametrize(("entry", "amount"), [("hold", -1), ("settlement", 1), ("refund", 0), ("grant", 1)])
async def test_an_entry_with_the_wrong_sign_is_refused(books: Books, entry: str, amount: int) -> None:
    with pytest.raises(asyncpg.CheckViolationError, match="token_ledger_sign"):
        await books.connection.execute(
            "INSERT INTO token_ledger (user_id, day, kind, entry, amount_mt)"
            " VALUES ($1, utc_day(now()), 'text', $2, $3)",
            books.user,
            entry,
            amount,
        )


@pytest.mark.parametrize("entry", ["hold", "refund", "settlement"])
async def test_a_job_has_each_entry_once(books: Books, entry: str) -> None:
    job, amount = new_id(), {"hold": 5, "refund": -5, "settlement": 0}[entry]
    row = {
        "user_id": str(books.user),
        "day": "2026-05-04",
        "kind": "image",
        "entry": entry,
        "amount_mt": amount,
        "job_id": str(job),
    }
    await books.connection.execute("SELECT book($1, $2)", [row], NOON)
    with pytest.raises(asyncpg.UniqueViolationError, match="token_ledger_once"):
        await books.connection.execute("SELECT book($1, $2)", [row], NOON)


# ------------------------------------------------------------------ withheld results

WITHHELD = {"code": "content_withheld", "message": "withheld", "retryable": False}


async def withhold(books: Books, *, ours: bool = True) -> tuple[int, list[tuple[str, int]]]:
    """A job of 1,000 mt whose result is withheld: its charge, and the ledger's entries after the hold."""
    job = await books.admit()
    attempt = await books.claim(job)
    row = {"outcome": "failed", "error": WITHHELD, "reason": "content_withheld", "ours": ours}
    assert await books.finish(job, attempt, **row) == "failed"
    charged = await books.connection.fetchval("SELECT charged_mt FROM jobs WHERE id = $1", job)
    return charged, [entry[:2] for entry in (await books.ledger(job))[1:]]


async def test_a_withheld_result_is_refunded_three_times_a_day_and_charged_from_the_fourth(books: Books) -> None:
    refunded, charged = (0, [("refund", -1000)]), (1000, [("settlement", 0)])
    assert [await withhold(books) for _ in range(5)] == [refunded] * 3 + [charged] * 2
    assert await books.used() == 2000
    books.now += MIDNIGHT
    assert [await withhold(books) for _ in range(4)] == [refunded] * 3 + [charged]
    assert await books.used() == 1000
    await books.check()


async def test_withheld_results_of_one_commit_count_one_after_the_other(books: Books) -> None:
    await books.connection.execute("UPDATE users SET max_running = 9 WHERE id = $1", books.user)
    await withhold(books)
    jobs = [await books.admit() for _ in range(4)]
    rows = [
        {"ord": n, "job_id": str(job), "attempt": await books.claim(job), "outcome": "failed", "error": WITHHELD}
        for n, job in enumerate(jobs)
    ]
    rows[0] |= {"error": {"code": "stuck"}}  # another failure counts for nothing
    await books.connection.fetch("SELECT * FROM finish($1, $2, $3)", EPOCH, rows, books.now)
    charged = [await books.connection.fetchval("SELECT charged_mt FROM jobs WHERE id = $1", job) for job in jobs]
    assert charged == [0, 0, 0, 1000]
    await books.check()


async def test_the_refunds_of_withheld_results_are_counted_for_each_user_apart(
    books: Books, connection: asyncpg.Connection
) -> None:
    other = Books(connection, await add_user(connection))
    await connection.execute(
        "UPDATE user_state SET day = $2, tat = $3 WHERE user_id = $1", other.user, NOON.date(), NOON
    )
    assert [(await withhold(books))[0] for _ in range(4)] == [0, 0, 0, 1000]
    assert (await withhold(other))[0] == 0


async def test_a_withheld_result_that_is_charged_brings_no_grant_after_midnight(books: Books) -> None:
    await books.connection.execute("UPDATE users SET max_running = 9 WHERE id = $1", books.user)
    runs = [(job := await books.admit(), await books.claim(job)) for _ in range(4)]
    books.now += MIDNIGHT
    for job, attempt in runs:
        await books.finish(job, attempt, outcome="failed", error=WITHHELD)
    entries = [[entry[0] for entry in await books.ledger(job)] for job, _ in runs]
    assert entries == [["hold", "refund", "grant"]] * 3 + [["hold", "settlement"]]
    assert await books.used() == -3000
    await books.check()


# ------------------------------------------------------------------ from the worker's outcome to the ledger


def files(count: int) -> list[StoredFile]:
    return [StoredFile(sha256=f"{n:064x}", media_type="image/png", bytes=9) for n in range(count)]


@pytest.mark.parametrize("next_day", [False, True], ids=["same day", "after midnight"])
@pytest.mark.parametrize(
    ("kind", "outcome", "charged", "granted"),
    [
        (Kind.IMAGE, {"ending": Ending.COMPLETED, "asked": 4, "files": files(4)}, 1000, 0),
        (Kind.IMAGE, {"ending": Ending.COMPLETED, "asked": 4, "files": files(3)}, 750, 250),
        (Kind.IMAGE, {"ending": Ending.COMPLETED, "asked": 3, "files": files(1)}, 333, 667),
        (Kind.IMAGE, {"ending": Ending.COMPLETED, "files": files(1)}, 1000, 0),
        (Kind.TEXT, {"ending": Ending.COMPLETED, "cost_units": 600}, 300, 0),
        (Kind.TEXT, {"ending": Ending.COMPLETED, "cost_units": 10**6}, 1000, 0),
        (Kind.IMAGE, {"ending": Ending.CANCELLED, "executed": 0.25}, 250, 0),
        (Kind.IMAGE, {"ending": Ending.CANCELLED, "executed": 0.0}, 0, 0),
        (Kind.IMAGE, {"ending": Ending.CANCELLED, "executed": 0.0, "asked": 4, "files": ()}, 0, 0),
        (Kind.IMAGE, {"ending": Ending.CANCELLED, "executed": 7.0}, 1000, 0),
    ],
)
async def test_an_outcome_is_charged_for_what_was_delivered(
    books: Books, kind: Kind, outcome: dict[str, Any], charged: int, granted: int, next_day: bool
) -> None:
    model = {Kind.IMAGE: "preview-image", Kind.TEXT: "preview-text"}[kind]
    job = await books.admit(kind=kind.value, model=model)
    attempt = await books.claim(job)
    books.now += MIDNIGHT if next_day else timedelta(seconds=9)
    ended = Outcome(job_id=job, attempt=attempt, **outcome)
    held: Any = SimpleNamespace(cost_mt=1000, kind=kind, model=model)  # what of a job decides its charge
    row = ended_row(held, ended, catalog_of([model]))
    if outcome["ending"] is Ending.CANCELLED:
        await books.connection.fetchval("SELECT request_cancel($1, $2, $3)", job, books.user, books.now)
    row.pop("job_id"), row.pop("attempt")
    assert await books.finish(job, attempt, **row) == outcome["ending"].value
    assert await books.connection.fetchval("SELECT charged_mt FROM jobs WHERE id = $1", job) == charged
    entries = await books.ledger(job)
    assert sum(entry[1] for entry in entries if entry[0] != "grant") == charged
    grants = [entry[1:] for entry in entries if entry[0] == "grant"]
    assert grants == ([(-granted, books.now.date(), "account")] if granted and next_day else [])
    await books.check()


async def test_an_engine_that_withholds_its_result_ends_the_job_at_once(books: Books) -> None:
    error = ContentWithheld()
    told = {"code": error.code, "message": error.message, "retryable": error.retryable}
    verdict = decide(error.code, failures=0)
    assert not isinstance(verdict, Retry) and verdict.ours
    job = await books.admit()
    attempt = await books.claim(job)
    row = failed_row((job, attempt), told, verdict, books.now)
    row.pop("job_id"), row.pop("attempt")
    assert await books.finish(job, attempt, **row) == "failed"
    found = await books.connection.fetchrow("SELECT error, charged_mt FROM jobs WHERE id = $1", job)
    assert (found["error"]["code"], found["error"]["retryable"], found["charged_mt"]) == ("content_withheld", False, 0)
    assert (await books.ledger(job))[1] == ("refund", -1000, NOON.date(), "image")

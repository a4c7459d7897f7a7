"""Whether the books balance: the checks of sql/queries/audit.sql, on a live platform, all read from one snapshot.

Ledger, usage, hot rows, jobs, events and attempts say the same things in different ways, and each transaction keeps
them in step; so in any one snapshot they agree, whatever goes on meanwhile. It only reads, in one REPEATABLE READ
transaction that Postgres itself holds to that, and never repairs what it finds. Postgres aggregates: nothing grows here
with the number of jobs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any

import asyncpg

from tessera.ids import Prefix, show
from tessera.store.database import connect, translated
from tessera.store.queries import Query, section

FILE = "audit"
CLOCK, TOTALS = "clock_of_the_snapshot", "books_in_all"  # of that file; all others are checks
EXAMPLES = 10  # differences shown of each check; all are counted
# (start) A check reads whole tables, and millions of rows take minutes: it must not end like a statement that hangs.
CHECK_TIMEOUT_MS = 1_800_000
_IDS = {"user_id": Prefix.USER, "job_id": Prefix.JOB}


@dataclass(frozen=True, kw_only=True)
class Check:
    """What came of one check. ``about`` is what must be true; ``examples`` are some of the rows where it is not."""

    name: str
    about: str
    differences: int
    examples: tuple[Mapping[str, Any], ...] = ()

    def dump(self) -> dict[str, Any]:
        """The check as JSON data."""
        return {
            "name": self.name,
            "about": self.about,
            "differences": self.differences,
            "examples": [dict(row) for row in self.examples],
        }


@dataclass(frozen=True, kw_only=True)
class Audit:
    """All checks of one moment. ``open_holds`` are those of jobs that wait or run, ``open_mt`` what they hold."""

    at: datetime
    jobs: int
    ledger_entries: int
    open_holds: int
    open_mt: int
    checks: tuple[Check, ...] = field(default=())

    @property
    def differences(self) -> int:
        """How many there are in all."""
        return sum(check.differences for check in self.checks)

    @property
    def balanced(self) -> bool:
        """Whether there is none."""
        return self.differences == 0


def checks() -> dict[str, Query]:
    """The checks that there are, in their order."""
    return {name: query for name, query in section(FILE).items() if name not in (CLOCK, TOTALS)}


async def audit(
    dsn: str,
    *,
    at: datetime | None = None,
    on_start: Callable[[str], None] = lambda about: None,
    on_check: Callable[[Check], None] = lambda check: None,
) -> Audit:
    """Make every check, telling of each before and after it. ``at``: what counts as now; None is the database's clock.

    Raises Unavailable when Postgres is away.
    """
    queries = section(FILE)
    with translated():
        connection = await connect(dsn, name="tessera-audit", statement_timeout_ms=CHECK_TIMEOUT_MS)
        try:
            async with connection.transaction(isolation="repeatable_read", readonly=True):
                # The clock is read after the snapshot was taken. So a row of a later day than `at` cannot be in it, and
                # one of today was booked by whoever saw today as well; just past midnight there is nothing to compare.
                now: datetime = await connection.fetchval(queries[CLOCK].positional)
                values = {"at": at or now, "limit": EXAMPLES}
                made: list[Check] = []
                for name, query in checks().items():
                    on_start(query.about)
                    check = await _make(connection, name, query, values)
                    on_check(check)
                    made.append(check)
                totals = await connection.fetchrow(queries[TOTALS].positional)
        finally:
            await connection.close(timeout=2)
    return Audit(at=now, checks=tuple(made), **dict(totals))


async def _make(connection: asyncpg.Connection, name: str, query: Query, values: Mapping[str, Any]) -> Check:
    rows = await connection.fetch(query.positional, *query.arguments({key: values[key] for key in query.parameters}))
    return Check(
        name=name,
        about=query.about,
        differences=rows[0]["differences"] if rows else 0,
        examples=tuple({key: _shown(key, row[key]) for key in row.keys() if key != "differences"} for row in rows),  # noqa: SIM118
    )


def _shown(column: str, value: Any) -> Any:
    if value is not None and column in _IDS:
        return show(_IDS[column], value)
    return value.isoformat() if isinstance(value, date | datetime) else value

"""The operator's report: the queries of sql/queries/operations.sql, all read from one moment of the database.

It only reads, in one transaction that Postgres itself holds to that; it never repairs what it finds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

from tessera.ids import Prefix, show
from tessera.store.database import connect, translated
from tessera.store.queries import QueryError, section

FILE = "operations"
_IDS = {"user_id": Prefix.USER, "job_id": Prefix.JOB}


@dataclass(frozen=True, kw_only=True)
class Section:
    """The answer to one question. ``about`` says it in a sentence; a column's ending names its unit (_mt, _s, …)."""

    name: str
    about: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]

    def dump(self) -> dict[str, Any]:
        """The section as JSON data: a list of objects, times as ISO 8601."""
        rows = [{column: _plain(value) for column, value in zip(self.columns, row, strict=True)} for row in self.rows]
        return {"name": self.name, "about": self.about, "rows": rows}


def names() -> list[str]:
    """The sections that there are, in the order of the report."""
    return list(section(FILE))


async def report(dsn: str, *, at: datetime, days: int = 30, only: Sequence[str] | None = None) -> list[Section]:
    """The sections named by ``only`` (None: all), looking back ``days`` days from ``at``.

    Raises QueryError for a section that there is not, Unavailable when Postgres is away.
    """
    queries = section(FILE)
    unknown = [name for name in only or () if name not in queries]
    if unknown:
        raise QueryError(f"there is no section {', '.join(unknown)} in the report")
    values = {"at": at, "days": days}
    made: list[Section] = []
    with translated():
        connection = await connect(dsn, name="tessera-report")
        try:
            async with connection.transaction(isolation="repeatable_read", readonly=True):
                for name in only or queries:
                    query = queries[name]
                    prepared = await connection.prepare(query.positional)
                    arguments = query.arguments({key: values[key] for key in query.parameters})
                    columns = tuple(attribute.name for attribute in prepared.get_attributes())
                    rows = tuple(_shown(columns, tuple(row)) for row in await prepared.fetch(*arguments))
                    made.append(Section(name=name, about=query.about, columns=columns, rows=rows))
        finally:
            await connection.close(timeout=2)
    return made


def _shown(columns: Sequence[str], row: Sequence[Any]) -> tuple[Any, ...]:
    return tuple(
        show(_IDS[column], value) if column in _IDS and value is not None else value
        for column, value in zip(columns, row, strict=True)
    )


def _plain(value: Any) -> Any:
    return value.isoformat() if isinstance(value, date | datetime) else value

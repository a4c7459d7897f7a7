"""The loader of sql/: named queries, checked once at the start.

A block is ``-- name: get_job``, one comment line on what it does, and one statement with ``:name`` parameters.
SQLAlchemy binds these itself; for asyncpg they are compiled to ``$n``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

_NAME = re.compile(r"^-- name: (?P<name>[a-z][a-z0-9_]*)$", re.MULTILINE)
_PARAMETER = re.compile(r"'(?:[^']|'')*'|--[^\n]*|::|(?<![:\w]):(?P<name>[a-z_][a-z0-9_]*)")


class QueryError(Exception):
    """A query is missing, written twice or malformed: the program and its sql/ do not fit together."""


@dataclass(frozen=True, kw_only=True)
class Query:
    """A named statement: as it is written, as asyncpg takes it, and its parameters in the order of ``$1, $2 …``."""

    name: str
    about: str
    text: str
    positional: str
    parameters: tuple[str, ...]

    def arguments(self, values: Mapping[str, object]) -> list[object]:
        """The values in positional order. Raises QueryError on a missing or unknown one."""
        if values.keys() != set(self.parameters):
            raise QueryError(f"query {self.name} takes {sorted(self.parameters)}, not {sorted(values)}")
        return [values[name] for name in self.parameters]


def parse(text: str, where: str) -> dict[str, Query]:
    """The queries of one file's text."""
    found: dict[str, Query] = {}
    marks = list(_NAME.finditer(text))
    for mark, after in zip(marks, [*marks[1:], None], strict=True):
        block = text[mark.end() : after.start() if after else len(text)].strip()
        about, _, statement = block.partition("\n")
        statement = statement.strip().rstrip(";")
        if not about.startswith("-- ") or not statement:
            raise QueryError(f"{where}: query {mark['name']} needs one comment line on what it does, then a statement")
        if mark["name"] in found:
            raise QueryError(f"{where}: query {mark['name']} is written twice")
        names: list[str] = []

        def positional(match: re.Match[str], names: list[str] = names) -> str:
            name = match["name"]
            if name is None:
                return match[0]
            if name not in names:
                names.append(name)
            return f"${names.index(name) + 1}"

        compiled = _PARAMETER.sub(positional, statement)
        found[mark["name"]] = Query(
            name=mark["name"],
            about=about.removeprefix("-- "),
            text=statement,
            positional=compiled,
            parameters=tuple(names),
        )
    return found


@cache
def load() -> Mapping[str, Query]:
    """All queries of sql/queries/, by name. Raises QueryError when a name is written twice."""
    found: dict[str, Query] = {}
    folder = resources.files("sql") / "queries"
    for file in sorted((f for f in folder.iterdir() if f.name.endswith(".sql")), key=lambda f: f.name):
        for name, query in parse(file.read_text(encoding="utf-8"), file.name).items():
            if name in found:
                raise QueryError(f"{file.name}: query {name} is written twice")
            found[name] = query
    return found


def section(name: str) -> Mapping[str, Query]:
    """The queries of one file of sql/queries/, in the order in which they are written."""
    return parse((resources.files("sql") / "queries" / f"{name}.sql").read_text(encoding="utf-8"), f"{name}.sql")


def script(name: str) -> str:
    """A whole script of sql/ (schema.sql, seed.sql, migrations/…)."""
    file: Traversable = resources.files("sql")
    for part in Path(name).parts:
        file = file / part
    return file.read_text(encoding="utf-8")


def functions() -> str:
    """All functions, triggers and views of sql/functions/, as one script that may be run at any time.

    ``jobs.sql`` comes first: what it defines may be used at definition by the others, which follow by name.
    """
    folder = resources.files("sql") / "functions"
    names = sorted(file.name for file in folder.iterdir() if file.name.endswith(".sql"))
    names.sort(key=lambda name: name != "jobs.sql")
    return "\n".join((folder / name).read_text(encoding="utf-8") for name in names)

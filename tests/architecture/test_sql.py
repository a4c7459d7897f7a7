"""SQL stands in sql/ and nowhere else, every named query is used, and every use names one and fits it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from typing import Any

from tessera.store.queries import Query, load, section
from tests.architecture.sources import ROOT, python_files, strings, tree

# Built so that a sentence for a person ("Select one", "Update the plan") is none: statements are upper case here.
STATEMENT = re.compile(
    r"\s*(?:SELECT\s|INSERT\s+INTO\s|UPDATE\s+\S+\s+(?:\w+\s+)?SET\s|DELETE\s+FROM\s|TRUNCATE\s|WITH\s+\w+\s+AS\s"
    r"|(?:CREATE|ALTER|DROP)\s+(?:OR\s+REPLACE\s+)?(?:UNIQUE\s+)?"
    r"(?:TABLE|INDEX|VIEW|FUNCTION|TRIGGER|SEQUENCE|TYPE|SCHEMA|ROLE|DATABASE|EXTENSION)\s"
    r"|LISTEN\s|NOTIFY\s|VACUUM\b|ANALYZE\b|COPY\s+\S+\s+(?:FROM|TO)\s|SET\s+(?:LOCAL\s+)?\w+\s*(?:=|TO\s))"
)
# Whole files, run by tessera/store/reports.py and audit.py.
RUN_BY_SECTION = frozenset({**section("operations"), **section("audit")})
METHODS = frozenset({"rows", "row", "execute"})
CODE = ("tessera", "deployments", "cluster", "bots")


def test_sql_stands_in_sql_only() -> None:
    wrong = [
        f"{file}:{line} {text.strip()[:60]!r}"
        for file in python_files(*CODE)
        for line, text in strings(file)
        if STATEMENT.match(text)
    ]
    assert not wrong, "write it as a named query of sql/queries/, or a script of sql/:\n" + "\n".join(wrong)


def test_every_named_query_is_used() -> None:
    said = {text for file in python_files(*CODE) for _, text in strings(file)}
    unused = [name for name in load() if name not in said and name not in RUN_BY_SECTION]
    assert not unused, f"queries in sql/queries/ that nothing runs: {unused}"


def test_every_query_that_is_run_exists() -> None:
    wrong = [f"{file}:{line} {name}" for file, line, name, _ in _uses() if name not in load()]
    assert not wrong, "there is no such query in sql/queries/:\n" + "\n".join(wrong)


def test_every_use_of_a_query_gives_its_parameters() -> None:
    wrong = []
    for file, line, name, given in _uses():
        query: Query | None = load().get(name)
        if query is not None and given is not None and given != set(query.parameters):
            wrong.append(f"{file}:{line} {name} takes {sorted(query.parameters)}, not {sorted(given)}")
    assert not wrong, "\n".join(wrong)


def _uses() -> Iterator[tuple[str, int, str, set[str] | None]]:
    """Every place that runs a query by a literal name, with the parameters that it gives, None when not readable."""
    for file in python_files("tessera", "deployments"):
        for node in ast.walk(tree(file)):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in METHODS:
                name = _literal(node.args[0]) if len(node.args) == 1 else None
                if name is not None and re.fullmatch(r"[a-z][a-z0-9_]*", name):
                    yield file, node.lineno, name, _keywords(node)
            elif isinstance(node, ast.Subscript) and _holds_queries(node.value):
                name = _literal(node.slice)
                if name is not None:
                    yield file, node.lineno, name, None
            elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield from _arguments(file, node)


def _arguments(file: str, function: Any) -> Iterator[tuple[str, int, str, set[str] | None]]:
    """``query = queries["name"]`` and later ``query.arguments({"a": …})`` in one function."""
    names: dict[str, str] = {}
    for node in ast.walk(function):
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Subscript) and _holds_queries(node.value.value):
            name = _literal(node.value.slice)
            for target in node.targets:
                if isinstance(target, ast.Name) and name is not None:
                    names[target.id] = name
    for node in ast.walk(function):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr == "arguments"
            and isinstance(node.func.value, ast.Name)
            and node.func.value.id in names
            and isinstance(node.args[0], ast.Dict)
        ):
            keys = [_literal(key) for key in node.args[0].keys if key is not None]
            if None not in keys and len(keys) == len(node.args[0].keys):
                yield file, node.lineno, names[node.func.value.id], {key for key in keys if key is not None}


def _holds_queries(node: ast.expr) -> bool:
    """``load()``, ``queries`` or ``self._queries``."""
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Name) and node.func.id == "load"
    name = node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""
    return name.lstrip("_").lower() == "queries"


def _literal(node: ast.expr) -> str | None:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None


def _keywords(call: ast.Call) -> set[str] | None:
    names = [keyword.arg for keyword in call.keywords]
    return None if None in names else {name for name in names if name is not None}


def test_migrations_follow_each_other_without_a_number_twice() -> None:
    """Two changes made beside each other may both have taken the next number: seen here, before there is a database."""
    scripts = sorted((ROOT / "sql" / "migrations" / "versions").glob("[0-9]*.py"))
    numbers = [match[1] for path in scripts if (match := re.search(r'^revision = "(\d+)"', path.read_text(), re.M))]
    before = [match[1] for path in scripts if (match := re.search(r'^down_revision = "(\d+)"', path.read_text(), re.M))]
    expected = [f"{number:04d}" for number in range(1, len(scripts) + 1)]
    assert (numbers, before) == (expected, expected[:-1])

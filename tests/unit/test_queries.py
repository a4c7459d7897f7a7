"""The loader of named queries: what it reads, compiles and refuses."""

from __future__ import annotations

import pytest

from tessera.store.queries import QueryError, load, parse, script, section

ONE = "-- name: get_it\n-- Get it.\nSELECT 1 WHERE id = :id\n"


def test_a_block_is_a_name_a_line_on_what_it_does_and_a_statement() -> None:
    query = parse("-- About the file.\n\n" + ONE, "x.sql")["get_it"]
    assert (query.about, query.text, query.parameters) == ("Get it.", "SELECT 1 WHERE id = :id", ("id",))


@pytest.mark.parametrize(
    ("text", "compiled", "parameters"),
    [
        ("SELECT :a, :b, :a", "SELECT $1, $2, $1", ("a", "b")),
        ("SELECT ':a', :b", "SELECT ':a', $1", ("b",)),
        ("SELECT 'it''s :a', :b", "SELECT 'it''s :a', $1", ("b",)),
        ("SELECT x::text, :b", "SELECT x::text, $1", ("b",)),
        ("SELECT :b::uuid", "SELECT $1::uuid", ("b",)),
        ("SELECT 1 -- not :a\nWHERE :b", "SELECT 1 -- not :a\nWHERE $1", ("b",)),
        ("SELECT f(x => :a)", "SELECT f(x => $1)", ("a",)),
    ],
)
def test_parameters_are_numbered_in_the_order_of_their_first_use(
    text: str, compiled: str, parameters: tuple[str, ...]
) -> None:
    query = parse(f"-- name: q\n-- Q.\n{text};\n", "x.sql")["q"]
    assert (query.positional, query.parameters) == (compiled, parameters)


@pytest.mark.parametrize("text", [ONE + ONE, "-- name: q\nSELECT 1\n", "-- name: q\n-- Only a comment.\n"])
def test_a_malformed_file_is_refused(text: str) -> None:
    with pytest.raises(QueryError, match=r"x\.sql"):
        parse(text, "x.sql")


@pytest.mark.parametrize("values", [{}, {"id": 1, "more": 2}, {"di": 1}])
def test_values_that_do_not_fit_are_refused(values: dict[str, object]) -> None:
    with pytest.raises(QueryError, match="get_it takes"):
        parse(ONE, "x.sql")["get_it"].arguments(values)


def test_all_queries_of_the_platform_load_and_say_what_they_do() -> None:
    queries = load()
    assert "admit_batch" in queries
    assert all(query.about.endswith(".") and not query.text.endswith(";") for query in queries.values())


def test_a_section_keeps_the_order_of_its_file() -> None:
    assert list(section("scheduling"))[:2] == ["admit_batch", "try_lead"]


def test_scripts_are_found_in_folders_too() -> None:
    assert "pg_advisory_xact_lock" in script("migrations/begin.sql")

"""The page that the problems' types point to."""

from __future__ import annotations

import html

from tessera.api.docs import errors
from tessera.api.problems import FRAMEWORK, error_codes, problem
from tessera.errors import TesseraError


def all_errors(error: type[TesseraError] = TesseraError) -> set[type[TesseraError]]:
    """The tree of errors.py; what the API makes of the framework's own has its codes in FRAMEWORK."""
    here = {error} if error.__module__ == "tessera.errors" else set()
    return here.union(*(all_errors(child) for child in error.__subclasses__()))


async def test_every_code_of_the_tree_and_of_the_framework_is_on_the_page_with_what_to_do() -> None:
    page = bytes((await errors()).body).decode()
    found = {about["code"] for about in error_codes()}
    assert {error.code for error in all_errors()} | {code for code, _ in FRAMEWORK.values()} <= found
    for error in all_errors():
        told = error()
        anchor = problem(told, "req_1")["type"].partition("#")[2]
        assert page.count(f'id="{anchor}"') == 1, error
        assert "retryable" not in page
    for about in error_codes():
        assert html.escape(about["message"]) in page
        assert len(about["message"]) > 40, "it says what happened and what to do next"


async def test_the_page_needs_no_script_and_nothing_from_outside() -> None:
    answer = await errors()
    page = bytes(answer.body).decode()
    assert "<script" not in page
    assert "http" not in page.replace("<title>", "")
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert answer.headers["x-content-type-options"] == "nosniff"

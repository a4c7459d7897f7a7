"""Errors as problems: stable members, the right headers, and nothing of our insides."""

from __future__ import annotations

import json

import pytest

from tessera import errors
from tessera.api.problems import FRAMEWORK, error_codes, problem, problem_response
from tessera.errors import EngineError, QuotaExhausted, RangeNotSatisfiable, RateLimited, TesseraError, Unavailable
from tessera.ids import new_id


def every(error: type[TesseraError] = TesseraError) -> list[type[TesseraError]]:
    """The tree of errors.py, without those of tests and of the framework."""
    found = [error] if error.__module__ == errors.__name__ else []
    return found + [deeper for child in error.__subclasses__() for deeper in every(child)]


@pytest.mark.parametrize("error", every())
def test_every_error_has_a_sentence_and_a_documented_code(error: type[TesseraError]) -> None:
    shown = problem(error(), "req_1")
    assert shown["detail"].endswith((".", "…"))
    assert shown["type"] == f"/docs/errors#error-{shown['code']}"
    assert (shown["status"], shown["retryable"], shown["request_id"]) == (error.status, error.retryable, "req_1")
    assert shown["code"] in {about["code"] for about in error_codes()}


def test_codes_are_unique_and_have_a_status_unless_they_end_a_job() -> None:
    codes = [about["code"] for about in error_codes()]
    assert len(codes) == len(set(codes))
    of_jobs = {error.code for error in every(EngineError)}
    for about in error_codes():
        assert ("status" in about) == (about["code"] not in of_jobs)
    assert {code for code, _ in FRAMEWORK.values()} <= set(codes)


def test_what_may_be_tried_again_says_when() -> None:
    for error, seconds in (
        (RateLimited(retry_after_s=0.2), "1"),
        (Unavailable(retry_after_s=2.1), "3"),
        (Unavailable(), "1"),
    ):
        assert problem_response(error, "r").headers["Retry-After"] == seconds
    exhausted = problem_response(QuotaExhausted(retry_after_s=100.5), "r")
    assert "Retry-After" not in exhausted.headers
    assert json.loads(exhausted.body)["retry_after_s"] == 100.5


def test_details_become_members_and_cannot_replace_the_standard_ones() -> None:
    job_id = new_id()
    shown = problem(Unavailable(status=1, code="x", job_id=job_id, refunded_tokens=1.5, nothing=None), "r")
    assert (shown["status"], shown["code"], shown["refunded_tokens"]) == (503, "unavailable", 1.5)
    assert shown["job_id"].startswith("job_")
    assert "nothing" not in shown


def test_an_unsatisfiable_range_tells_the_size() -> None:
    assert problem_response(RangeNotSatisfiable(bytes=10), "r").headers["Content-Range"] == "bytes */10"


def test_an_unexpected_error_says_that_it_is_ours() -> None:
    answer = problem_response(TesseraError(), "r")
    assert answer.status_code == 500
    assert answer.media_type == "application/problem+json"
    assert json.loads(answer.body)["code"] == "internal_error"

"""What follows a failure: hopeless ones end, the rest is tried again within a budget."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tessera.retries import HOPELESS, MAX_FAILURES, USERS_OWN, GiveUp, Retry, decide

CODES = [
    *sorted(HOPELESS),
    "engine_busy",
    "out_of_memory",
    "worker_lost",
    "stuck",
    "bad_output",
    "interrupted",
    "timeout",
]


@pytest.mark.parametrize("code", sorted(HOPELESS))
def test_what_a_retry_cannot_mend_is_given_up_at_once(code: str) -> None:
    assert decide(code, failures=0) == GiveUp(code=code, ours=code not in USERS_OWN)


@pytest.mark.parametrize(
    ("code", "failures", "killed", "verdict"),
    [
        ("worker_lost", 0, 1, Retry(delay_s=1.0, counted=True)),
        ("worker_lost", 1, 1, Retry(delay_s=5.0, counted=True)),
        ("worker_lost", 1, 2, GiveUp(code="quarantined", ours=True)),
        ("worker_lost", 2, 1, GiveUp(code="quarantined", ours=True)),
        ("bad_output", 0, 0, Retry(delay_s=1.0, counted=True)),
        ("bad_output", 2, 0, GiveUp(code="bad_output", ours=True)),
        ("out_of_memory", 0, 0, Retry(delay_s=1.0, counted=True)),
        ("out_of_memory", 1, 0, GiveUp(code="out_of_memory", ours=True)),
        ("engine_busy", 2, 0, Retry(delay_s=1.5, counted=False)),
        ("invalid_input", 0, 2, GiveUp(code="invalid_input", ours=False)),
    ],
)
def test_the_verdict_follows_from_the_code_and_the_budget(
    code: str, failures: int, killed: int, verdict: Retry | GiveUp
) -> None:
    assert decide(code, failures=failures, workers_killed=killed) == verdict


@given(st.sampled_from(CODES), st.floats(0, 1), st.integers(0, 1))
def test_a_job_that_always_fails_ends(code: str, jitter: float, killed: int) -> None:
    failures, tries = 0, 0
    while isinstance(verdict := decide(code, failures=failures, workers_killed=killed, jitter=jitter), Retry):
        tries += 1
        failures += int(verdict.counted)
        assert 0 < verdict.delay_s < 60
        if not verdict.counted:
            assert code == "engine_busy"
            return
    assert tries < MAX_FAILURES


@given(st.sampled_from(CODES), st.integers(0, 5), st.integers(0, 5), st.floats(0, 1))
def test_only_a_users_own_mistake_is_not_ours(code: str, failures: int, killed: int, jitter: float) -> None:
    verdict = decide(code, failures=failures, workers_killed=killed, jitter=jitter)
    assert isinstance(verdict, Retry) or verdict.ours == (code not in USERS_OWN)

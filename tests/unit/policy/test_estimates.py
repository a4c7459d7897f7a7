"""How long runs and loads take: learned from what they took, wide while little is known."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tessera.policy.estimates import DEFAULT_S_PER_TOKEN, MIN_RUN_S, UNKNOWN_SPREAD, WEIGHT, Estimates


def test_before_the_first_run_the_default_is_told() -> None:
    assert Estimates().seconds("m", 3000) == 3 * DEFAULT_S_PER_TOKEN


def test_the_first_run_replaces_the_default_and_scales_with_the_cost() -> None:
    estimates = Estimates()
    estimates.learn("w", "m", 2000, 10.0)
    assert estimates.seconds("m", 2000, "w") == pytest.approx(10.0)
    assert estimates.seconds("m", 500, "w") == pytest.approx(2.5)


def test_later_runs_move_it_by_their_weight() -> None:
    estimates = Estimates()
    estimates.learn("w", "m", 1000, 10.0)
    estimates.learn("w", "m", 1000, 20.0)
    assert estimates.seconds("m", 1000, "w") == pytest.approx(10 + WEIGHT * 10)


def test_five_runs_on_a_changed_machine_outweigh_all_before() -> None:
    estimates = Estimates()
    for _ in range(1000):
        estimates.learn("w", "m", 1000, 10.0)
    for _ in range(5):
        estimates.learn("w", "m", 1000, 1.0)
    assert estimates.seconds("m", 1000, "w") < 5.5


def test_each_worker_has_its_own_and_a_new_one_what_the_others_took() -> None:
    estimates = Estimates()
    for _ in range(30):
        estimates.learn("slow", "m", 1000, 10.0)
        estimates.learn("quick", "m", 1000, 2.0)
    assert estimates.seconds("m", 1000, "slow") == pytest.approx(10.0)
    assert estimates.seconds("m", 1000, "quick") == pytest.approx(2.0)
    assert 2.0 < estimates.seconds("m", 1000, "new") < 10.0


def test_a_run_of_nothing_takes_some_time_all_the_same() -> None:
    estimates = Estimates()
    estimates.learn("w", "m", 0, 0.0)
    assert estimates.seconds("m", 0, "w") == MIN_RUN_S


def test_the_spread_is_wide_at_first_and_narrows_with_steady_runs() -> None:
    estimates = Estimates()
    unknown = estimates.span("m", 1000)
    assert unknown.high_s == pytest.approx(unknown.mean_s * (1 + 2 * UNKNOWN_SPREAD))
    for _ in range(40):
        estimates.learn("w", "m", 1000, 5.0)
    known = estimates.span("m", 1000)
    assert known.high_s - known.low_s < 0.01


def test_the_spread_grows_with_runs_that_differ() -> None:
    estimates = Estimates()
    for n in range(200):
        estimates.learn("w", "m", 1000, 10.0 if n % 2 else 5.0)
    span = estimates.span("m", 1000)
    assert span.low_s <= 5.5 and span.high_s >= 9.5


@given(st.lists(st.tuples(st.integers(0, 100_000), st.floats(0, 5000)), max_size=40), st.integers(0, 100_000))
def test_a_range_is_in_order_and_no_estimate_is_ever_nothing(runs: list[tuple[int, float]], cost_mt: int) -> None:
    estimates = Estimates()
    for cost, seconds in runs:
        estimates.learn("w", "m", cost, seconds)
    span = estimates.span("m", cost_mt)
    assert 0 < span.low_s <= span.mean_s <= span.high_s
    assert estimates.seconds("m", cost_mt, "w") >= MIN_RUN_S


def test_load_times_are_learned_by_worker_and_model() -> None:
    estimates = Estimates()
    assert estimates.load_s("w", "m", 30.0) == 30.0
    estimates.learn_load("w", "m", 10.0)
    assert estimates.load_s("w", "m", 30.0) == 10.0
    estimates.learn_load("w", "m", 20.0)
    assert estimates.load_s("w", "m", 30.0) == pytest.approx(10 + WEIGHT * 10)
    assert estimates.load_s("w2", "m", 30.0) == 30.0

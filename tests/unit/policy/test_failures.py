"""Who is left out because of failures, for how long, and when it is forgiven. Times are numbers."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tessera.policy.failures import CIRCUIT_PAUSE_S, MAX_PAUSE_S, NOT_THE_WORKERS, PAIR_PAUSE_S, Circuit, Failures
from tests.unit.policy.world import ANN, BOB, Worker, World, heavy, one_worker, user


def fail(
    failures: Failures, jobs: list[int], *, at: float = 0.0, model: str = "m", code: str = "backend_error"
) -> list[str]:
    told: list[str] = []
    for job in jobs:
        told += failures.failed("w", model, user(job), code, at)
    return told


@pytest.mark.parametrize(
    ("why", "jobs", "told"),
    [
        ("one failure says nothing", [1], []),
        ("one job alone never trips, however often", [1] * 20, []),
        ("two jobs in a row leave the pair out", [1, 2], ["m on w"]),
        ("also when one of them failed twice", [1, 1, 2], ["m on w", "w"]),
        ("three in a row open the circuit", [1, 2, 3], ["m on w", "w"]),
    ],
)
def test_what_is_left_out_after_failures_in_a_row(why: str, jobs: list[int], told: list[str]) -> None:
    assert fail(Failures(), jobs) == told, why


@pytest.mark.parametrize("code", sorted(NOT_THE_WORKERS))
def test_what_is_not_the_workers_fault_is_not_counted(code: str) -> None:
    failures = Failures()
    assert fail(failures, list(range(1, 30)), code=code) == []
    assert failures.circuit("w", 0.0) is Circuit.CLOSED


def test_a_circuit_opens_is_half_open_after_its_pause_and_closes_with_a_success() -> None:
    failures = Failures()
    for job, model in ((1, "a"), (2, "b"), (3, "c")):  # three models: no pair is to blame
        failures.failed("w", model, user(job), "backend_error", 100.0)
    assert failures.circuit("w", 100.0) is Circuit.OPEN
    assert failures.circuit_until("w") == 100.0 + CIRCUIT_PAUSE_S
    assert failures.next_change(100.0) == 100.0 + CIRCUIT_PAUSE_S
    assert failures.circuit("w", 99.9 + CIRCUIT_PAUSE_S) is Circuit.OPEN
    assert failures.circuit("w", 100.0 + CIRCUIT_PAUSE_S) is Circuit.HALF_OPEN
    assert failures.circuit("other", 100.0) is Circuit.CLOSED
    failures.succeeded("w", "a")
    assert failures.circuit("w", 100.0 + CIRCUIT_PAUSE_S) is Circuit.CLOSED
    assert failures.circuit_until("w") is None


def test_a_failure_when_half_open_opens_it_again_for_twice_as_long_up_to_a_limit() -> None:
    failures, now, pauses = Failures(), 0.0, []
    fail(failures, [1, 2, 3], at=now)
    for n in range(1200):  # days of it: the doubling must not overflow
        until = failures.circuit_until("w")
        assert until is not None
        pauses.append(until - now)
        now = until
        fail(failures, [10 + n], at=now)
    assert pauses[:6] == [10, 20, 40, 80, 160, 300]
    assert set(pauses[5:]) == {MAX_PAUSE_S}


def test_a_pair_is_left_out_for_its_pause_and_only_that_model() -> None:
    failures = Failures()
    fail(failures, [1, 2], at=50.0)
    assert failures.excluded("w", 50.0) == {"m": 50.0 + PAIR_PAUSE_S}
    assert failures.excluded("other", 50.0) == {}
    assert failures.excluded("w", 50.0 + PAIR_PAUSE_S) == {}
    assert failures.circuit("w", 50.0) is Circuit.CLOSED


def test_a_success_between_forgives_all() -> None:
    failures = Failures()
    for job in range(1, 20):
        fail(failures, [job])
        failures.succeeded("w", "m")
    assert failures.excluded("w", 0.0) == {} and failures.circuit("w", 0.0) is Circuit.CLOSED
    fail(failures, [30, 31], at=0.0)
    assert failures.excluded("w", 0.0) == {"m": PAIR_PAUSE_S}  # not doubled: what was before is forgiven


def test_the_death_of_a_process_with_many_runs_counts_once() -> None:
    failures = Failures()
    for n in range(16):
        failures.failed("w", "m", user(n), "worker_lost", 10.0 + n * 0.1)
    assert failures.circuit("w", 12.0) is Circuit.CLOSED
    assert failures.excluded("w", 12.0) == {}  # a lost process says nothing about a model
    failures.failed("w", "m", user(30), "worker_lost", 20.0)
    failures.failed("w", "m", user(31), "worker_lost", 30.0)
    assert failures.circuit("w", 30.0) is Circuit.OPEN


def test_what_still_runs_when_it_is_left_out_does_not_lengthen_the_pause() -> None:
    """Eight slots, and the backend behind them fails: eight failures at once are one incident."""
    failures = Failures()
    fail(failures, list(range(1, 9)), at=5.0)
    assert failures.circuit_until("w") == 5.0 + CIRCUIT_PAUSE_S
    assert failures.excluded("w", 5.0) == {"m": 5.0 + PAIR_PAUSE_S}


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 40), st.sampled_from(["a", "b"]), st.sampled_from(["backend_error", "worker_lost", "ok"])
        ),
        max_size=60,
    )
)
def test_one_job_alone_never_leaves_anything_out_and_no_pause_is_longer_than_the_limit(
    events: list[tuple[int, str, str]],
) -> None:
    alone, many, now = Failures(), Failures(), 0.0
    for n, (passed, model, code) in enumerate(events):
        now += passed
        if code == "ok":
            many.succeeded("w", model)
        else:
            assert alone.failed("w", model, ANN, code, now) == []
            many.failed("w", model, user(n), code, now)
        until = many.circuit_until("w")
        assert until is None or until - now <= MAX_PAUSE_S
        assert all(0 < end - now <= MAX_PAUSE_S for end in many.excluded("w", now).values())
        change = many.next_change(now)
        assert change is None or change > now


def test_the_policy_starts_nothing_on_an_excluded_pair_and_one_run_when_half_open() -> None:
    world = one_worker(4, "ab")
    fail(world.policy.failures, [1, 2], at=world.now, model="a")
    world.submit(ANN, "a", times=3)
    world.submit(BOB, "b", times=3)
    world.run(5)
    assert [job.model for job in world.order] == ["b"] * 3
    for job, model in ((1, "a"), (2, "b"), (3, "a")):
        world.policy.failures.failed("w", model, user(job), "backend_error", world.now)
    world.submit(BOB, "b", times=3)
    world.run(CIRCUIT_PAUSE_S - 0.5)
    assert len(world.order) == 3
    world.run(0.5)
    world.decide()
    assert sum(1 for job in world.jobs if job.worker is not None) == 1


def test_a_model_that_fails_on_one_device_goes_to_the_other() -> None:
    world = World(
        {"a": heavy()},
        [Worker("one", frozenset("a")), Worker("two", frozenset("a"), device="gpu2")],
        {"gpu": 10, "gpu2": 10},
    )
    for job in (1, 2):
        world.policy.failures.failed("one", "a", user(job), "backend_error", world.now)
    world.submit(ANN, times=3)
    world.run(14)
    assert {start.device for start in world.actions if hasattr(start, "device")} == {"gpu2"}

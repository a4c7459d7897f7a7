"""The policy: tier, then age, within slots and caps. Pure, so its rules hold for whatever hypothesis makes up."""

from __future__ import annotations

import random
from collections import Counter
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tessera.jobs import Tier
from tessera.policy import Assignment, Candidate, FreeWorker, Snapshot, plan

NOW = datetime(2026, 5, 4, 12, 0, tzinfo=UTC)
ANN, BOB = UUID(int=1), UUID(int=2)


def job(number: int, tier: Tier = Tier.FREE, age_s: float = 0, user: UUID = ANN, **values: object) -> Candidate:
    fields: dict[str, object] = {"model": "m", "max_running": 10, **values}
    return Candidate(
        job_id=UUID(int=number), user_id=user, tier=tier, queued_at=NOW - timedelta(seconds=age_s), **fields
    )  # type: ignore[arg-type]


def worker(name: str = "w", free: int = 1, slots: int = 4, *models: str) -> FreeWorker:
    return FreeWorker(name=name, models=frozenset(models or ("m",)), free=free, slots=slots)


def chosen(jobs: list[Candidate], *workers: FreeWorker, running: dict[UUID, int] | None = None) -> list[int]:
    snapshot = Snapshot(candidates=tuple(jobs), workers=workers, running=running or {})
    return [assignment.job_id.int for assignment in plan(snapshot, NOW)]


@pytest.mark.parametrize(
    ("why", "jobs", "free", "expected"),
    [
        ("nothing waits", [], 4, []),
        ("no slot is free", [job(1)], 0, []),
        ("the older first", [job(1, age_s=1), job(2, age_s=5)], 1, [2]),
        ("the higher tier before the older", [job(1, Tier.FREE, 900), job(2, Tier.PRO)], 1, [2]),
        ("batch work last", [job(1, Tier.BATCH, 900), job(2, Tier.FREE)], 2, [2, 1]),
        ("the same age by id", [job(2), job(1)], 2, [1, 2]),
        ("no model, no run", [job(1, model="other"), job(2)], 2, [2]),
        ("a dead deadline never", [job(1, deadline=NOW), job(2)], 2, [2]),
        ("a living deadline", [job(1, deadline=NOW + timedelta(seconds=1))], 1, [1]),
        (
            "one at the cap does not stop another",
            [job(1, max_running=1), job(2, max_running=1), job(3, user=BOB)],
            3,
            [1, 3],
        ),
    ],
)
def test_the_order_is_tier_then_age(why: str, jobs: list[Candidate], free: int, expected: list[int]) -> None:
    assert chosen(jobs, worker(free=free)) == expected, why


def test_what_runs_already_counts_towards_the_cap() -> None:
    assert chosen([job(1, max_running=2), job(2, max_running=2)], worker(free=4), running={ANN: 1}) == [1]


def test_the_worker_with_the_largest_share_of_free_slots_is_taken() -> None:
    snapshot = Snapshot(candidates=(job(1), job(2)), workers=(worker("small", 1, 1), worker("large", 2, 8)), running={})
    assert plan(snapshot, NOW) == [
        Assignment(job_id=UUID(int=1), worker="small"),
        Assignment(job_id=UUID(int=2), worker="large"),
    ]


MODELS = ["a", "b", "c"]
USERS = [UUID(int=n) for n in range(1, 5)]
JOBS = st.lists(
    st.builds(
        Candidate,
        job_id=st.uuids(),
        user_id=st.sampled_from(USERS),
        model=st.sampled_from(MODELS),
        tier=st.sampled_from(Tier),
        queued_at=st.integers(0, 20).map(lambda s: NOW - timedelta(seconds=s)),
        max_running=st.integers(1, 3),
        deadline=st.none() | st.integers(-5, 5).map(lambda s: NOW + timedelta(seconds=s)),
    ),
    max_size=25,
    unique_by=lambda candidate: candidate.job_id,
)
WORKERS = st.lists(
    st.integers(0, 4).flatmap(
        lambda free: st.builds(
            FreeWorker,
            name=st.sampled_from(["w1", "w2", "w3"]),
            models=st.frozensets(st.sampled_from(MODELS), min_size=1),
            free=st.just(free),
            slots=st.integers(max(1, free), 6),
        )
    ),
    max_size=3,
    unique_by=lambda worker: worker.name,
)
SNAPSHOTS = st.builds(
    Snapshot,
    candidates=JOBS.map(tuple),
    workers=WORKERS.map(tuple),
    running=st.dictionaries(st.sampled_from(USERS), st.integers(1, 3)),
)


@settings(max_examples=200)
@given(SNAPSHOTS)
def test_a_plan_stays_within_slots_caps_and_deadlines(snapshot: Snapshot) -> None:
    made = plan(snapshot, NOW)
    jobs = {candidate.job_id: candidate for candidate in snapshot.candidates}
    workers = {each.name: each for each in snapshot.workers}
    assert len({assignment.job_id for assignment in made}) == len(made)
    for name, taken in Counter(assignment.worker for assignment in made).items():
        assert taken <= workers[name].free
    running = Counter(snapshot.running)
    for assignment in made:
        candidate = jobs[assignment.job_id]
        running[candidate.user_id] += 1
        assert running[candidate.user_id] <= candidate.max_running
        assert candidate.deadline is None or candidate.deadline > NOW
        assert candidate.model in workers[assignment.worker].models


@settings(max_examples=200)
@given(SNAPSHOTS)
def test_jobs_are_started_in_the_order_of_tier_and_age(snapshot: Snapshot) -> None:
    jobs = {candidate.job_id: candidate for candidate in snapshot.candidates}
    orders = [jobs[assignment.job_id].order for assignment in plan(snapshot, NOW)]
    assert orders == sorted(orders)


@settings(max_examples=200)
@given(SNAPSHOTS)
def test_no_slot_stays_free_that_a_waiting_job_could_take(snapshot: Snapshot) -> None:
    made = plan(snapshot, NOW)
    free = Counter({each.name: each.free for each in snapshot.workers})
    free.subtract(assignment.worker for assignment in made)
    started = {assignment.job_id for assignment in made}
    running = Counter(snapshot.running)
    running.update(candidate.user_id for candidate in snapshot.candidates if candidate.job_id in started)
    for candidate in snapshot.candidates:
        capable = any(free[each.name] > 0 and candidate.model in each.models for each in snapshot.workers)
        alive = candidate.deadline is None or candidate.deadline > NOW
        if candidate.job_id not in started and alive and running[candidate.user_id] < candidate.max_running:
            assert not capable


@given(SNAPSHOTS, st.randoms(use_true_random=False))
def test_the_plan_depends_on_the_snapshot_and_not_on_the_order_in_it(
    snapshot: Snapshot, shuffle: random.Random
) -> None:
    jobs, workers = list(snapshot.candidates), list(snapshot.workers)
    shuffle.shuffle(jobs)
    shuffle.shuffle(workers)
    other = Snapshot(candidates=tuple(jobs), workers=tuple(workers), running=dict(snapshot.running))
    assert plan(other, NOW) == plan(snapshot, NOW)

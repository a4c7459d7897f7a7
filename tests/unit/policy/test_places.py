"""Positions and times come from the policy itself: what is told is what happens when nobody else comes."""

from __future__ import annotations

from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tessera.jobs import Tier
from tessera.policy.places import Places, Standing, _Crowd
from tests.unit.policy.world import ANN, BATCH, BOB, FREE, PRO, STARTER, Job, World, one_worker, user


def told(world: World, slots: int = 1) -> dict[Job, Standing]:
    """What each waiting job is told now."""
    places, models = Places(world.policy), frozenset(world.models)
    return {
        job: places.standing(job, models, frozenset(["gpu"]), slots, world.now) for job in world.jobs if job.waiting
    }


def real_order(world: World) -> list[Job]:
    before = len(world.order)
    world.run()
    return world.order[before:]


@settings(max_examples=50, deadline=None)
@given(
    jobs=st.lists(st.tuples(st.integers(1, 5), st.sampled_from("ab")), min_size=1, max_size=40), ran=st.integers(0, 6)
)
def test_with_one_tier_and_equal_costs_the_positions_are_the_order_in_which_they_start(
    jobs: list[tuple[int, str]], ran: int
) -> None:
    world = one_worker(1, "ab")
    # A user of two models starts the older of his two heads by ticket: one model for each user keeps it exact.
    for who, _ in jobs:
        world.submit(user(who), "ab"[who % 2])
    world.run(ran + 0.5)
    standings = told(world)
    order = real_order(world)
    assert [standings[job].position for job in order] == list(range(1, len(order) + 1))
    assert all(standings[job].position == standings[job].position_in_tier for job in order)


@settings(max_examples=50, deadline=None)
@given(
    counts=st.lists(st.integers(0, 12), min_size=4, max_size=4),
    ran=st.integers(0, 10),
)
def test_with_several_tiers_the_positions_are_right_but_for_one_per_other_tier(counts: list[int], ran: int) -> None:
    world = one_worker()
    for tier, jobs in zip(Tier, counts, strict=True):
        for n in range(jobs):
            world.submit(user(10 * list(Tier).index(tier) + n % 3 + 1), tier=tier)
    world.run(ran + 0.5)
    standings = told(world)
    others = sum(1 for jobs in counts if jobs) - 1
    for place, job in enumerate(real_order(world), 1):
        assert abs(standings[job].position - place) <= others, job.tier


def test_the_positions_are_as_right_deep_in_the_queue() -> None:
    world = one_worker()
    world.submit(ANN, tier=PRO, times=4000)
    world.submit(BOB, tier=FREE, times=400)
    world.run(0.5)
    standings = told(world)
    for place, job in enumerate(real_order(world), 1):
        assert abs(standings[job].position - place) <= 1, job.tier


def test_the_position_among_ones_own_is_exact() -> None:
    world = one_worker()
    own = [world.submit(ANN) for _ in range(6)]
    world.submit(BOB, times=6)
    world.run(4.5)  # two of Ann's and two of Bob's are over, a third one of hers runs
    standings = told(world)
    assert [standings[job].position_of_user for job in own if job.waiting] == [1, 2, 3]


def test_a_retry_is_told_the_place_to_which_it_returns() -> None:
    world = one_worker()
    lost = world.submit(ANN, failing=1)
    world.submit(ANN, times=3)
    for n in range(4):
        world.submit(user(10 + n), times=3)
    world.run(0.5)
    world._stop(lost, unserved=True)
    world.policy.queue.add(lost)
    assert told(world)[lost].position == 1


@pytest.mark.parametrize("slots", [1, 4])
def test_the_time_that_is_told_holds_the_real_start(slots: int) -> None:
    """The range of scheduler/insight.py: 0.6 to 1.8 times what is expected, and what runs now."""
    world = one_worker(slots)
    for n in range(200):
        world.submit(user(1 + n % 5), tier=(FREE, PRO, STARTER)[n % 3], tokens=1 + n % 2)
    world.run(5.5)
    standings = {job: (standing.start_s, world.now) for job, standing in told(world, slots).items()}
    world.run()
    for job, (start_s, now) in standings.items():
        really = world.started(job) - now
        assert 0.6 * start_s - 4 <= really <= 1.8 * start_s + 4


def test_a_users_own_cap_is_in_the_time_that_is_told() -> None:
    world = one_worker(4)
    own = [world.submit(ANN, cap=1, tokens=10) for _ in range(5)]
    world.run(0.5)
    assert told(world, 4)[own[4]].start_s >= 40


def test_ahead_counts_the_jobs_of_each_tier() -> None:
    world = one_worker()
    world.submit(ANN, tier=PRO, times=70)
    world.submit(BOB, tier=BATCH, times=10)
    world.run(0.5)
    last = max(told(world).items(), key=lambda item: item[1].position_in_tier if item[0].tier is PRO else 0)
    assert last[1].ahead[PRO] == 68
    assert last[1].ahead.get(BATCH, 0) in (2, 3, 4)
    assert last[1].position == sum(last[1].ahead.values()) + 1


def test_the_cost_of_a_place_depends_on_the_users_and_not_on_the_depth() -> None:
    rows = []
    for depth in (10, 10_000):
        world = one_worker()
        for n in range(5):
            world.submit(user(n), times=depth)
        with mock.patch("tessera.policy.places._Crowd", wraps=_Crowd) as crowds:
            told_job = next(job for job in world.jobs if job.waiting)
            Places(world.policy).standing(told_job, frozenset("a"), frozenset(["gpu"]), 1, world.now)
            rows.append(max(len(call.args[0]) for call in crowds.call_args_list))
    assert rows == [5, 5]

"""Tiers: each backlogged one has its share of a device's seconds, and an idle one banks nothing."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tessera.jobs import Tier
from tessera.policy import RULES
from tests.unit.policy.world import BATCH, FREE, PRO, STARTER, Worker, World, heavy, one_worker, user

USER_OF = {tier: user(n) for n, tier in enumerate(Tier, 1)}
LENGTHS = st.lists(st.sampled_from([0.5, 1.0, 3.0, 10.0]), min_size=1, max_size=5)


def lags(world: World, tiers: list[Tier]) -> dict[Tier, float]:
    """How far each tier is behind its share of all that these tiers have had."""
    total = sum(world.received(tier) for tier in tiers)
    shares = sum(RULES.shares[tier] for tier in tiers)
    return {tier: total * RULES.shares[tier] / shares - world.received(tier) for tier in tiers}


def keep_backlogged(world: World, tier: Tier, lengths: list[float], wrong: float, jobs: int = 60) -> None:
    for n in range(jobs):
        tokens = lengths[n % len(lengths)]
        off = (1.0, 1 / wrong, wrong)[n % 3]
        world.submit(USER_OF[tier], tier=tier, tokens=tokens, seconds=tokens * off)


@settings(max_examples=40, deadline=None)
@given(
    tiers=st.lists(st.sampled_from(list(Tier)), min_size=2, max_size=4, unique=True),
    lengths=st.tuples(LENGTHS, LENGTHS, LENGTHS, LENGTHS),
    slots=st.integers(1, 3),
    wrong=st.sampled_from([1.0, 2.0]),
)
def test_a_backlogged_tier_lags_its_share_by_at_most_one_longest_job_per_slot(
    tiers: list[Tier], lengths: tuple[list[float], ...], slots: int, wrong: float
) -> None:
    world = one_worker(slots)
    world.learns = False
    for tier, chosen in zip(tiers, lengths, strict=False):
        keep_backlogged(world, tier, chosen, wrong)
    # A job that runs longer than was estimated is known to be one only at its end: it counts once more.
    allowed = slots * max(job.seconds for job in world.jobs) * (1.0 if wrong == 1.0 else 2.0)

    def all_backlogged() -> bool:
        waiting = world.policy.queue.waiting
        return all(any(waiting[t, kind] > 0 for t, kind in waiting if t is tier) for tier in tiers)

    while True:
        world.run(1.0)
        if not all_backlogged():
            break
        for tier, lag in lags(world, tiers).items():
            assert lag <= allowed + 1e-6, tier


def test_a_tier_of_short_jobs_does_not_wait_for_a_long_job_of_each_other_tier() -> None:
    world = one_worker()
    for tier in (STARTER, FREE, BATCH):
        world.submit(USER_OF[tier], tier=tier, tokens=100, times=3)
    world.submit(USER_OF[PRO], tier=PRO, tokens=1, times=500)
    world.run(450)
    assert world.received(PRO) >= 0.70 * 450 - 100


@pytest.mark.parametrize("slots", [1, 4])
def test_in_the_long_run_the_shares_are_kept(slots: int) -> None:
    world = one_worker(slots)
    for tier in Tier:
        world.submit(USER_OF[tier], tier=tier, tokens=1, times=3000)
    world.run(1000)
    for tier in Tier:
        assert world.received(tier) / (1000 * slots) == pytest.approx(RULES.shares[tier], abs=0.005)


def test_a_flood_of_one_tier_does_not_slow_another_beyond_its_share() -> None:
    alone, flooded = one_worker(), one_worker()
    for world, flood in ((alone, 100), (flooded, 5000)):
        world.submit(USER_OF[BATCH], tier=BATCH, tokens=2, times=flood)
        world.run(10)
        world.submit(USER_OF[STARTER], tier=STARTER, tokens=1, times=100)
        world.run(60)
    assert flooded.received(STARTER) == alone.received(STARTER)
    assert flooded.received(STARTER) >= 60 * 18 / 21 - 4  # what runs as it comes, and one job


def test_a_tier_that_was_idle_banks_nothing_and_is_not_starved() -> None:
    world = one_worker()
    world.submit(USER_OF[PRO], tier=PRO, tokens=1, times=4000)
    world.run(1000)
    world.submit(USER_OF[FREE], tier=FREE, tokens=1, times=1000)
    before = world.received(FREE)
    world.run(200)
    had = world.received(FREE) - before
    assert had == pytest.approx(200 * 9 / 79, abs=1.5)


def test_a_tier_that_was_alone_owes_nothing_to_the_one_that_comes() -> None:
    world = one_worker()
    world.submit(USER_OF[BATCH], tier=BATCH, tokens=10, times=400)
    world.run(1000)
    world.submit(USER_OF[FREE], tier=FREE, tokens=1, times=1000)
    before = world.received(BATCH)
    world.run(400)
    assert world.received(BATCH) - before == pytest.approx(400 * 3 / 12, abs=10)


def test_a_wrong_estimate_is_corrected_at_the_end() -> None:
    world = one_worker()
    world.learns = False
    world.submit(USER_OF[STARTER], tier=STARTER, tokens=1, seconds=5, times=500)  # five times what is estimated
    world.submit(USER_OF[FREE], tier=FREE, tokens=5, seconds=1, times=3000)  # a fifth of it
    world.run(900)
    assert world.received(STARTER) / 900 == pytest.approx(18 / 27, abs=0.02)


def test_the_seconds_of_loads_are_charged_to_the_tier_that_asked_for_them() -> None:
    models = {"a": heavy(), "b": heavy()}
    world = World(models, [Worker("w", frozenset(models))])
    for model in models:
        world.knows(model)
    world.submit(USER_OF[PRO], "a", PRO, times=5000)
    world.submit(USER_OF[FREE], "b", FREE, times=5000)
    world.run(3000)
    assert len(world.loads) > 10
    # Each swap to b is followed by one back to a: what a tier receives holds its own loads.
    lag = lags(world, [PRO, FREE])
    assert max(lag.values()) <= 45  # a stay of 2 loads, the load itself, and one job


def test_the_lag_of_a_tier_is_bounded_on_each_device_by_itself() -> None:
    models = dict.fromkeys("ab", one_worker().models["a"])
    world = World(
        models,
        [Worker("one", frozenset("a"), device="gpu"), Worker("two", frozenset("b"), device="cpu")],
        {"gpu": 10, "cpu": 0},
    )
    for model in models:
        world.knows(model)
    world.submit(USER_OF[PRO], "a", PRO, times=1000)
    world.submit(USER_OF[PRO], "b", PRO, times=1000)
    world.submit(USER_OF[FREE], "b", FREE, times=1000)
    world.run(200)
    ends = [run for run in world.runs if run.job.model == "b"]
    assert sum(1 for run in ends if run.job.tier is FREE) == pytest.approx(200 * 9 / 79, abs=2)
    assert all(later.start >= earlier.start for earlier, later in pairwise(ends))

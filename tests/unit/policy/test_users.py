"""Users of one tier: equal cost for equal users, whatever each of them queues, and no account starves another."""

from __future__ import annotations

from collections import Counter
from itertools import count
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tessera.jobs import Kind
from tessera.policy import ModelFacts
from tests.unit.policy.world import ANN, BOB, CAT, LIGHT, Worker, World, one_worker, user

SIZES = st.lists(st.sampled_from([0.25, 1.0, 2.0, 16.0]), min_size=1, max_size=4)


@settings(max_examples=40, deadline=None)
@given(sizes=st.lists(SIZES, min_size=2, max_size=5), slots=st.integers(1, 3), models=st.sampled_from(["a", "ab"]))
def test_equal_users_stay_within_each_ones_largest_job_plus_one_per_slot(
    sizes: list[list[float]], slots: int, models: str
) -> None:
    world = one_worker(slots, models)
    largest = {}
    for n, own in enumerate(sizes, 1):
        largest[user(n)] = max(own) * 1000
        for k in range(40):
            world.submit(user(n), models[k % len(models)], tokens=own[k % len(own)])
    users = list(largest)

    def backlogged() -> bool:
        left = Counter(job.user_id for job in world.jobs if job.waiting)
        return all(left[each] > 0 for each in users)

    while True:
        world.run(1.0)
        if not backlogged():
            break
        for one in users:
            for other in users:
                apart = world.cost_of[one] - world.cost_of[other]
                assert apart <= largest[one] + largest[other] + slots * max(largest[one], largest[other])


def test_one_video_of_16_tokens_weighs_as_much_as_16_images() -> None:
    models = {"image": LIGHT, "video": ModelFacts(kind=Kind.VIDEO)}
    world = World(models, [Worker("w", frozenset(models))])
    for model in models:
        world.knows(model)
    world.submit(ANN, "video", tokens=16, times=100)
    world.submit(BOB, "image", tokens=1, times=1600)
    world.rules = world.policy.rules
    world.run(1000)
    assert world.cost_of[ANN] == pytest.approx(world.cost_of[BOB], abs=17_000)
    served = Counter(job.user_id for job in world.order)
    assert served[BOB] > 14 * served[ANN]


@pytest.mark.parametrize("waiting", [1, 10, 100])
def test_a_stream_of_new_accounts_does_not_starve_an_old_user(waiting: int) -> None:
    """With so many new accounts always waiting his fair share is 1 / (waiting + 1); he gets at least half of it.

    Half, because a new account is counted among the active only until its one job is served, and starts at the virtual
    time: behind those it finds for half a round on average.
    """
    world = one_worker()
    numbers = count(100)
    world.submit(ANN, times=3000)
    for _ in range(waiting):
        world.submit(user(next(numbers)))
    world.on_start.append(lambda start: world.submit(user(next(numbers))) if start.job.user_id != ANN else None)
    world.run(2000)
    assert sum(1 for job in world.order if job.user_id == ANN) >= 2000 / (waiting + 1) / 2


@pytest.mark.parametrize("slots", [1, 4])
def test_a_flood_of_10_000_jobs_delays_another_user_by_about_one_job_per_slot(slots: int) -> None:
    world = one_worker(slots)
    world.submit(ANN, times=10_000)
    world.run(50.5)
    waits = [world.submit(BOB)]
    world.run(10)
    assert world.started(waits[0]) - waits[0].queued_at <= 1.5  # what runs has half a second to go, then one more


def test_a_flood_for_a_slow_worker_delays_nobody_because_another_worker_is_fast() -> None:
    """Were there one virtual time for both workers, the fast one's would put Bob behind all of Ann's jobs."""
    world = World({"slow": LIGHT, "fast": LIGHT}, [Worker("s", frozenset(["slow"])), Worker("f", frozenset(["fast"]))])
    world.knows("slow", 10.0)
    world.knows("fast", 0.1)
    world.submit(ANN, "slow", times=200, seconds=10)
    world.submit(CAT, "fast", times=20_000, seconds=0.1)
    world.run(500)
    newcomer, of_the_fast = world.submit(BOB, "slow", seconds=10), world.submit(CAT, "slow", seconds=10)
    world.run(50)
    assert world.started(newcomer) - newcomer.queued_at <= 20
    assert world.started(of_the_fast) - of_the_fast.queued_at <= 30


def test_a_user_in_two_lanes_shares_one_tag() -> None:
    world = one_worker(1, "ab")
    for _ in range(300):
        world.submit(ANN, "a")
        world.submit(ANN, "b")
        world.submit(BOB, "a")
    world.run(300)
    assert world.cost_of[ANN] == pytest.approx(world.cost_of[BOB], abs=2000)


def test_many_lanes_are_no_way_to_many_turns() -> None:
    world = one_worker(1, "abcdefgh")
    for model in "abcdefgh":
        world.submit(ANN, model)
    world.submit(BOB, "a", times=8)
    world.run(7.5)
    assert abs(world.cost_of[ANN] - world.cost_of[BOB]) <= 1000


def test_pools_that_turn_out_to_compete_keep_who_is_ahead_of_whom() -> None:
    world = World({"a": LIGHT, "b": LIGHT}, [Worker("wa", frozenset("a")), Worker("wb", frozenset("b"))])
    for model in "ab":
        world.knows(model)
    world.submit(ANN, "a", times=500)
    world.submit(BOB, "a", times=500)
    world.submit(CAT, "b", times=500)
    world.run(100)
    both = Worker("both", frozenset("ab"))
    for worker in world.workers:
        worker.online = False
    world.workers.append(both)
    world._by_name["both"] = both
    before = world.cost_of.copy()
    world.run(90)
    had = world.cost_of - before
    assert [had[each] / 1000 for each in (ANN, BOB, CAT)] == pytest.approx([30, 30, 30], abs=2)


@settings(max_examples=30, deadline=None)
@given(
    caps=st.lists(st.integers(1, 3), min_size=1, max_size=4),
    slots=st.integers(1, 4),
    seconds=st.lists(st.sampled_from([0.5, 1.0, 4.0]), min_size=1, max_size=4),
)
def test_running_caps_hold_and_a_user_at_his_cap_keeps_nobody_else_waiting(
    caps: list[int], slots: int, seconds: list[float]
) -> None:
    world = one_worker(slots, "ab")
    cap_of = {user(n): cap for n, cap in enumerate(caps, 1)}
    for n in range(60):
        for who, cap in cap_of.items():
            world.submit(who, "ab"[n % 2], seconds=seconds[n % len(seconds)], cap=cap)
    while any(not job.over for job in world.jobs):
        world.run(0.5)
        running = Counter(job.user_id for job in world.jobs if job.worker is not None)
        assert all(running[who] <= cap for who, cap in cap_of.items())
        waiting = {job.user_id for job in world.jobs if job.waiting}
        if any(running[who] < cap_of[who] for who in waiting):
            assert sum(running.values()) == slots


def test_a_parked_user_goes_on_when_he_may_and_in_his_order() -> None:
    world = one_worker(3)
    own = [world.submit(ANN, cap=1, seconds=n % 3 + 1) for n in range(9)]
    world.submit(BOB, times=200)
    world.run(60)
    assert [job for job in world.order if job.user_id == ANN] == own


def test_nothing_is_banked_while_parked_or_idle() -> None:
    world = one_worker(2)
    world.submit(ANN, cap=1, seconds=100, times=1)  # holds his only run for long
    world.submit(ANN, cap=1, times=400)
    world.submit(BOB, times=1000)
    world.run(300)  # the first 100 s of them he is at his cap; Cat is idle
    world.submit(CAT, times=200)
    before = world.cost_of.copy()
    world.run(60)
    had = world.cost_of - before
    assert had[CAT] <= 42_000
    assert had[ANN] <= 42_000
    assert had[BOB] >= 38_000


def test_a_raised_cap_counts_at_once_even_the_first_that_is_told() -> None:
    world = one_worker(3)
    world.submit(ANN, seconds=10, times=3, cap=1)
    del world.policy.queue.caps[ANN]  # not told yet: one run
    world.run(1)
    assert len(world.order) == 1
    world.policy.queue.set_cap(ANN, 3)
    world.run(1)
    assert len(world.order) == 3


def test_a_lowered_cap_holds_from_then_on() -> None:
    world = one_worker(3)
    world.submit(ANN, times=30, cap=3)
    world.run(5)
    world.policy.queue.set_cap(ANN, 1)
    world.run(10)
    assert sum(1 for job in world.jobs if job.worker is not None) == 1


def test_tags_of_users_served_long_ago_are_forgotten_but_of_those_who_wait() -> None:
    world = one_worker()
    for n in range(5000):
        world.submit(user(1000 + n), tokens=0.1)
        if n % 100 == 0:
            world.run(10)
    world.run()
    pool = world.policy.queue.tiers[world.jobs[0].tier].pool("a")
    assert len(pool.finish) <= 1100
    assert not pool.waiting_of


def test_user_ids_are_compared_by_value() -> None:
    world = one_worker()
    world.submit(UUID(int=7), cap=1, times=2)
    world.submit(UUID(int=7), cap=1)
    world.run(1.5)
    assert len(world.order) == 2

"""After a restart: who was served lately is neither forgiven nor made to pay twice."""

from __future__ import annotations

import pytest

from tessera.jobs import Tier
from tessera.policy import Served
from tests.unit.policy.world import ANN, BOB, CAT, FREE, LIGHT, PRO, Worker, World, one_worker, user


def successor(before: World, *, running: bool = True) -> World:
    """A new policy that has read back what the old one served and runs, with the same jobs waiting."""
    models = list(before.models)
    world = one_worker(before.workers[0].slots, models)
    world.now = before.now
    served = [
        Served(
            tier=run.job.tier,
            user_id=run.job.user_id,
            model=run.job.model,
            worker="w",
            cost_mt=run.job.cost_mt,
            seconds=run.end - run.start,
            ended_at=run.end,
        )
        for run in before.runs
        if run.end > before.now - 600
    ]
    world.policy.replay(served, {"w": "gpu"})
    for job in before.jobs:
        if job.worker is not None and running:
            world.policy.adopt(job, "gpu", before.starts[job.id][-1], "w")
            world.policy.queue.set_cap(job.user_id, 10**6)
            world.workers[0].busy += 1
            end = before.starts[job.id][-1] + job.seconds

            def done(job: object = job) -> None:
                world.workers[0].busy -= 1
                world.policy.ended(job, world.now)  # type: ignore[arg-type]

            world.at(end, done)
        elif job.waiting:
            world.submit(job.user_id, job.model, job.tier, tokens=job.cost_mt / 1000, seconds=job.seconds)
    return world


def test_users_go_on_as_if_nothing_had_happened() -> None:
    world = one_worker()
    world.submit(ANN, times=400)
    world.run(100)  # Ann has had 100 alone: that is past
    world.submit(BOB, times=200)
    world.submit(CAT, tokens=8, times=20)
    world.run(60.5)
    after = successor(world)
    after.run(90)
    had = {who: after.cost_of[who] for who in (ANN, BOB, CAT)}
    assert max(had.values()) - min(had.values()) <= 17_000


def test_who_was_served_a_moment_ago_is_not_put_back_to_zero() -> None:
    """Every restart would give the user of the largest jobs another one at once."""
    world = one_worker()
    for n in range(8):
        world.submit(user(10 + n), times=100)
    world.submit(ANN, tokens=40, times=20)
    world.run(100)
    had = world.cost_of[ANN]
    assert had >= 40_000
    for _ in range(5):
        world = successor(world)
        world.run(1.5)
        assert world.cost_of[ANN] == 0


def test_what_runs_at_the_restart_is_paid_for_too() -> None:
    world = one_worker()
    world.submit(ANN, tokens=50, times=3)
    world.submit(BOB, times=100)
    world.run(1)
    after = successor(world)
    after.run(80)
    assert after.cost_of[ANN] == 0
    assert after.policy.queue.running[ANN] == 0


def test_nobody_is_pushed_behind_for_more_than_he_had() -> None:
    world = one_worker()
    for n in range(300):
        world.submit(ANN)
        world.submit(user(10 + n % 3))
    world.run(400)
    after = successor(world)
    pool = after.policy.queue.tiers[FREE].pool("a")
    for who in (ANN, *(user(10 + n) for n in range(3))):
        assert pool.tag(who) - pool.virtual <= 2000


def test_a_long_past_does_not_count_and_a_newcomer_is_no_worse_off() -> None:
    world = one_worker()
    world.submit(ANN, times=2000)
    world.run(300)
    after = successor(world)
    newcomer = after.submit(BOB)
    after.run(5)
    assert after.started(newcomer) - newcomer.queued_at <= 2


def test_tiers_go_on_at_their_shares() -> None:
    world = one_worker()
    world.submit(ANN, tier=PRO, times=2000)
    world.submit(BOB, tier=FREE, tokens=10, times=200)
    world.run(305)
    after = successor(world)
    device = after.policy.devices["gpu"]
    gap = (device.pass_of(FREE) - device.pass_of(PRO)) * 0.09
    assert abs(gap) <= 10 + 1
    after.run(79 * 3)
    assert after.received(FREE) == pytest.approx(79 * 3 * 9 / 79, abs=10)


def test_what_was_learned_of_runs_is_learned_again() -> None:
    world = World({"a": LIGHT}, [Worker("w", frozenset("a"))])
    world.policy.replay(
        [Served(tier=FREE, user_id=ANN, model="a", worker="w", cost_mt=1000, seconds=7.0, ended_at=1.0)], {}
    )
    assert world.policy.estimates.seconds("a", 1000, "w") == 7.0


def served(who: int, tier: Tier, tokens: float, at: float) -> Served:
    return Served(
        tier=tier, user_id=user(who), model="a", worker="w", cost_mt=round(tokens * 1000), seconds=tokens, ended_at=at
    )


def test_who_had_more_than_the_others_waits_until_they_have_had_as_much() -> None:
    world = one_worker()
    world.policy.replay([served(1, FREE, 16, 900), *(served(2 + n, FREE, 1, 901 + n) for n in range(3))], {"w": "gpu"})
    for who in range(1, 5):
        world.submit(user(who), times=40)
    world.run(19.5)
    assert world.cost_of[user(1)] == 0
    world.run(60)
    assert world.cost_of[user(1)] > 0


def test_a_tier_that_had_more_than_its_share_waits_until_the_others_have_had_theirs() -> None:
    world = one_worker()
    world.policy.replay([served(1, FREE, 100, 900), served(2, PRO, 100, 950)], {"w": "gpu"})
    world.submit(user(1), tier=FREE, times=400)
    world.submit(user(2), tier=PRO, times=2000)
    world.run(600)
    assert world.received(FREE) <= 1
    world.run(400)
    assert world.received(FREE) > 10

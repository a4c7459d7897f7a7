"""The order of a user's own jobs, and what is never served: retries, deadlines, cancels, claims that are refused."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from tessera.policy import FreeWorker, QueuedJob, Start
from tests.unit.policy.world import ANN, BOB, FREE, Job, World, one_worker, user

W = FreeWorker(name="w", device="gpu", models=frozenset("a"), free=1, slots=1)


def next_start(world: World) -> QueuedJob:
    [action] = world.policy.plan([W], world.now)
    assert isinstance(action, Start)
    world.policy.apply(action, world.now)
    return action.job


def test_a_users_jobs_are_served_by_age() -> None:
    world = one_worker()
    own = [world.submit(ANN) for _ in range(20)]
    world.run()
    assert world.order == own


def test_a_retry_goes_before_everything_younger_of_its_user() -> None:
    world = one_worker()
    own = [world.submit(ANN, failing=1 if n == 3 else 0) for n in range(8)]
    world.run()
    assert world.order == [*own[:4], *own[3:]]


def test_a_retry_after_a_backoff_goes_before_everything_younger_of_its_user() -> None:
    world = one_worker()
    own = [world.submit(ANN, failing=1 if n == 0 else 0, backoff_s=2.5) for n in range(8)]
    world.run()
    assert world.order == [own[0], own[1], own[2], own[3], own[0], *own[4:]]


def test_retries_of_several_jobs_come_back_in_the_order_of_their_age() -> None:
    world = one_worker(3)
    own = [world.submit(ANN, failing=1 if n < 3 else 0) for n in range(6)]
    world.run()
    assert world.order == [*own[:3], *own[:3], *own[3:]]


def test_who_is_retried_has_not_paid_for_what_he_did_not_get() -> None:
    """Ten users with two jobs each; the first one's run is lost: he goes at once, and then with everybody else."""
    world = one_worker()
    lost = world.submit(ANN, failing=1)
    second = world.submit(ANN)
    others = [world.submit(user(10 + n)) for n in range(9)]
    others_second = [world.submit(user(10 + n)) for n in range(9)]
    world.run()
    assert world.order[:2] == [lost, lost]
    place = world.order.index(second)
    assert all(world.order.index(job) < place for job in others)
    assert place <= 1 + 10 + 9
    assert set(world.order[2:11]) == set(others)
    assert set(world.order[11:]) == {second, *others_second}


def test_a_claim_that_is_refused_costs_nothing_and_loses_no_place() -> None:
    world = one_worker()
    first, second = world.submit(ANN), world.submit(ANN)
    for n in range(5):
        world.submit(user(10 + n))
    for _ in range(4):  # refused again and again
        assert next_start(world) is first
        world.policy.ended(first, world.now, unserved=True)
        world.policy.queue.add(first)
    assert next_start(world) is first
    rest = [next_start(world) for _ in range(6)]
    assert rest.index(second) == 5
    assert world.policy.devices["gpu"].ends.keys() == {job.id for job in world.jobs}


def test_what_was_refused_is_given_back_to_the_tier_too() -> None:
    world = one_worker()
    job = world.submit(ANN, tokens=100)
    before = dict(world.policy.devices["gpu"].passes)
    assert next_start(world) is job
    world.policy.ended(job, world.now, unserved=True)
    assert world.policy.devices["gpu"].passes == before
    assert world.policy.queue.running[ANN] == 0


def test_a_job_whose_deadline_is_over_is_never_served_but_handed_over() -> None:
    world = one_worker()
    dead = [world.submit(ANN, deadline=world.now + 2.5) for _ in range(5)]
    alive = world.submit(ANN, deadline=world.now + 3.5)
    world.run()
    assert world.order == [*dead[:3], alive]
    assert world.policy.queue.overdue == dead[3:]
    assert not len(world.policy.queue)


def test_a_deadline_is_over_at_its_time() -> None:
    world = one_worker()
    world.submit(ANN, deadline=world.now)
    world.run()
    assert world.order == []


def test_a_discarded_job_may_be_discarded_again() -> None:
    world = one_worker()
    first, second = world.submit(ANN), world.submit(ANN)
    world.policy.queue.discard(first)
    world.policy.queue.discard(first)
    assert len(world.policy.queue) == 1
    world.run()
    assert world.order == [second]


def test_a_discarded_job_that_is_eligible_again_is_served_once_and_by_its_age() -> None:
    world = one_worker()
    world.submit(BOB)
    own = [world.submit(ANN) for _ in range(4)]
    for job in own:
        world.policy.queue.discard(job)
    for job in reversed(own):
        world.policy.queue.add(job)
    world.run()
    assert [job for job in world.order if job.user_id == ANN] == own


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 3),  # user
            st.sampled_from("ab"),
            st.integers(0, 2),  # failures
            st.sampled_from([None, 3.0, 8.0]),  # deadline after
            st.sampled_from([None, 0.0, 1.5, 6.0]),  # cancelled after
        ),
        max_size=30,
    ),
    st.integers(1, 3),
)
def test_whatever_happens_each_job_is_served_as_often_as_it_should_and_the_counts_end_at_nothing(
    made: list[tuple[int, str, int, float | None, float | None]], slots: int
) -> None:
    world = one_worker(slots, "ab")
    cancelled_at: dict[Job, float] = {}
    for who, model, failing, deadline_s, cancel_s in made:
        deadline = None if deadline_s is None else world.now + deadline_s
        job = world.submit(user(who), model, failing=failing, deadline=deadline, cap=2)
        if cancel_s is not None:
            cancelled_at[job] = world.now + cancel_s
            world.at(world.now + cancel_s, lambda job=job: world.cancel(job))  # type: ignore[misc]
    world.run()
    queue = world.policy.queue
    for job in world.jobs:
        starts = world.starts.get(job.id, [])
        assert all(job.deadline is None or start < job.deadline for start in starts)
        assert all(start <= cancelled_at.get(job, start) for start in starts)
        if job.deadline is None and job not in cancelled_at:
            assert job.over and job.failing == 0
    assert len(queue) == 0 and not queue.running and not +queue.waiting
    assert not any(pool.waiting_of for pool in queue.tiers[FREE].pools.values())
    assert not world.policy.devices["gpu"].ends
    for who in range(4):  # by age, as far as nothing was retried
        own = [job for job in world.order if job.user_id == user(who) and job.model == "a" and job.attempt == 1]
        assert [job.id.int for job in own] == sorted(job.id.int for job in own)

"""The fleet: what changes of a device is told of it alone, and comes to the same as counting all anew."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from tessera.policy import Fleet, FreeWorker, Load, Start
from tests.unit.policy.world import LIGHT, PRO, Worker, World, heavy, user

MODELS = {"a": heavy(6, 4.0), "b": heavy(6, 8.0), "c": heavy(3, 2.0), "light": LIGHT}
NAMES = [f"gpu{n}" for n in range(4)]


def seen(fleet: Fleet) -> Any:
    groups = {group: set(devices) for group, devices in fleet.groups.items()}
    return groups, +fleet.slots, +fleet.places


def by_device(world: World) -> dict[str, list[FreeWorker]]:
    found: dict[str, list[FreeWorker]] = {name: [] for name in NAMES}
    for worker in world.free_workers():
        found[worker.device].append(worker)
    return found


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(["job", "time", "goes", "comes"]), st.integers(0, 3), st.sampled_from(list(MODELS))),
        max_size=40,
    )
)
def test_told_change_by_change_it_is_what_it_would_be_if_counted_anew(events: list[tuple[str, int, str]]) -> None:
    workers = [Worker(f"w{n}", frozenset(MODELS), 1 + n % 2, device=name) for n, name in enumerate(NAMES)]
    world = World(MODELS, workers, dict.fromkeys(NAMES, 8))
    policy = world.policy

    def decide() -> None:
        for _ in range(1000):
            for device, of in by_device(world).items():
                policy.tell(device, of)
            fresh = Fleet.of(policy.devices, policy.models, world.free_workers())
            assert seen(policy.fleet) == seen(fresh)
            actions = policy.decide(world.now)
            if not actions:
                return
            for action in actions:
                world.carry_out(action)
        raise AssertionError("the policy never comes to an end")

    world.decide = decide  # type: ignore[method-assign]
    for what, number, model in events:
        match what:
            case "job":
                world.submit(user(1 + number), model, tokens=1 + number, times=2)
            case "time":
                world.run(3.0 * number)
            case "goes":
                if world.workers[number].online:
                    world.worker_lost(f"w{number}")
            case _:
                world.worker_back(f"w{number}")
        world.decide()
    for worker in world.workers:
        worker.online = True
    for _ in range(30):
        world.run(20)
    assert all(job.over for job in world.jobs)


def idle(world: World) -> list[FreeWorker]:
    return world.free_workers()


def test_a_job_goes_to_the_device_whose_models_others_have_too() -> None:
    """Three have a; one of them has the only c as well, and is kept for those who want that."""
    workers = [Worker(f"w{n}", frozenset(MODELS), device=name) for n, name in enumerate(NAMES[:3])]
    world = World(MODELS, workers, dict.fromkeys(NAMES[:3], 10))
    for n in range(3):
        world.policy.found_resident(f"gpu{n}", f"w{n}", "a", world.now)
    world.policy.found_resident("gpu2", "w2", "c", world.now)
    started = []
    for n in range(3):
        world.submit(user(n), "a", tokens=100)
        [start] = world.policy.plan(idle(world), world.now)
        assert isinstance(start, Start)
        started.append(start.device)
        world.carry_out(start)
    assert started[-1] == "gpu2"


def test_a_swap_does_not_pay_where_the_wait_is_shorter_than_some_loads() -> None:
    workers = [Worker(f"w{n}", frozenset("ab"), device=name) for n, name in enumerate(NAMES[:2])]
    world = World(MODELS, workers, dict.fromkeys(NAMES[:2], 8))
    for model in "ab":
        world.knows(model)
    world.policy.found_resident("gpu0", "w0", "a", world.now - 1000)
    world.policy.found_resident("gpu1", "w1", "b", world.now - 1000)
    few = 3  # seconds of work for b, less than 4 of its loads (8 s each)
    world.submit(user(1), "b", tokens=few, times=2)
    world.run(1)
    assert not world.loads
    world.submit(user(2), "b", tokens=10, times=12)
    world.run(1)
    assert [model for _, model in world.loads] == ["b"]
    assert not any(isinstance(action, Load) and action.device == "gpu1" for action in world.actions)


def test_a_tier_whose_work_is_done_elsewhere_banks_nothing_here() -> None:
    """Pros want b, which another device has: on the first one free users are served, and no credit gathers for pros."""
    workers = [Worker("w0", frozenset("ab"), device="gpu0"), Worker("w1", frozenset("ab"), device="gpu1")]
    world = World(MODELS, workers, {"gpu0": 8, "gpu1": 8})
    for model in "ab":
        world.knows(model)
    world.policy.found_resident("gpu0", "w0", "a", world.now - 1000)
    world.policy.found_resident("gpu1", "w1", "b", world.now - 1000)
    for n in range(200):
        world.submit(user(1), "a", tokens=1)
        if n % 2 == 0:
            world.submit(user(2), "b", PRO, tokens=1)
    world.run(60)
    device = world.policy.devices["gpu0"]
    assert device.pass_of(PRO) >= device.virtual - 1e-6

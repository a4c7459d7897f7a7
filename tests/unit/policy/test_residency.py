"""Models on devices: never more than fit, swapped when it pays, and nobody is passed over without end."""

from __future__ import annotations

from collections import Counter

import pytest

from tessera.jobs import Kind
from tessera.policy import FreeWorker, Load, ModelFacts, Policy, QueuedJob, Reserve, Start, Unreserve
from tests.unit.policy.world import ANN, BATCH, BOB, CAT, FREE, LIGHT, PRO, Job, Worker, World, heavy, user


def two_models(
    load_s: float = 10.0, *, slots: int = 1, vram_mib: int = 10, b_mib: int = 10, apart: bool = False
) -> World:
    """Models a and b that (by default) do not fit together: on one worker, or each on its own."""
    models = {"a": heavy(10, load_s), "b": heavy(b_mib, load_s)}
    workers = (
        [Worker("comfy", frozenset("a"), slots), Worker("kobold", frozenset("b"), slots)]
        if apart
        else [Worker("w", frozenset("ab"), slots)]
    )
    world = World(models, workers, {"gpu": vram_mib})
    for model in models:
        world.knows(model)
    return world


def flood(world: World, jobs: int = 400, seconds: float = 1.0) -> None:
    for n in range(jobs):
        world.submit(user(10 + n % 4), "a", tokens=1, seconds=seconds)
        world.submit(user(20 + n % 4), "b", tokens=1, seconds=seconds)


# ---------------------------------------------------------------------- affinity


@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("load_s", [2.0, 15.0])
def test_no_job_is_passed_over_more_than_8_times_nor_for_longer_than_it_may(apart: bool, load_s: float) -> None:
    world = two_models(load_s, apart=apart)
    passed: Counter[Job] = Counter()
    since: dict[Job, float] = {}

    def check(start: Start) -> None:
        for job in start.passing_over:
            assert isinstance(job, Job)
            passed[job] += 1
            first = since.setdefault(job, world.now)
            assert passed[job] <= 8
            assert world.now == first or world.now - first < min(2 * load_s, 80)

    world.on_start.append(check)
    flood(world)
    world.run(600)
    assert passed and max(passed.values()) > 1


def test_the_batch_tier_may_be_passed_over_for_longer_but_not_without_end() -> None:
    world = two_models(200.0)
    world.policy.found_resident("gpu", "w", "a", world.now - 1000)
    world.submit(ANN, "b", BATCH)
    world.submit(BOB, "a", BATCH, seconds=60, times=50)
    world.run(10)
    world.policy.devices["gpu"].resident["a"].since -= 10_000  # it has stayed long enough
    world.run(1000)
    # 8 times 60 s would be 480 s: the tier's cap of 300 s comes first.
    load = next(at for at, model in world.loads if model == "b")
    assert 300 <= load - 1000 <= 360


def test_the_user_who_is_served_out_of_turn_pays_all_the_same() -> None:
    world = two_models()
    world.policy.found_resident("gpu", "w", "a", world.now)
    world.submit(ANN, "b")
    world.submit(BOB, "a", times=2)
    world.run(0.5)
    [only] = world.order
    assert only.user_id == BOB
    pool = world.policy.queue.tiers[FREE].pool("a")
    assert pool.finish[BOB] == 1000
    assert pool.finish.get(ANN, 0) == 0


@pytest.mark.parametrize("apart", [False, True])
def test_swaps_are_at_most_half_of_strict_orders_and_both_models_progress(apart: bool) -> None:
    world = two_models(5.0, apart=apart)
    flood(world)
    world.run(1000)
    fifo = sum(1 for n in range(1, len(world.order)))  # a, b, a, b …: strict order swaps before every job
    assert 4 < len(world.loads) <= fifo / 2
    served = Counter(job.model for job in world.order)
    assert min(served.values()) >= 0.4 * max(served.values())


def test_what_only_waits_for_a_slot_is_not_swapped_out_for_the_next_in_line() -> None:
    """ComfyUI and KoboldCPP on one GPU, a slot each: while one runs, only the other has a free slot."""
    world = two_models(5.0, apart=True)
    flood(world, seconds=20.0)  # longer than two loads: a stay is over after every job
    world.run(2000)
    runs = len(world.order)
    assert len(world.loads) < 0.8 * runs
    served = Counter(job.model for job in world.order)
    assert min(served.values()) >= 0.4 * max(served.values())


def test_a_swap_is_not_reserved_while_what_is_loaded_only_waits_for_its_slot() -> None:
    world = two_models(15.0, apart=True)
    world.policy.found_resident("gpu", "comfy", "a", world.now - 100)
    world.submit(BOB, "a", tokens=20, times=10)
    world.run(1)
    waits = world.submit(CAT, "b")
    world.run(1)
    assert world.policy.devices["gpu"].reserved is None
    world.run(100)
    assert waits.over


def test_a_model_whose_worker_has_a_free_slot_is_not_starved_by_a_busy_one() -> None:
    """The other worker's jobs are many and cheap: their tags stay below, and it never comes first among them."""
    world = two_models(5.0, apart=True)
    world.knows("a", 1.0)
    for n in range(2000):
        world.submit(user(10 + n % 7), "a", tokens=1)
    world.run(100)
    waits = world.submit(ANN, "b")
    world.run(60)
    assert waits.over
    assert world.started(waits) - waits.queued_at <= 40


def test_a_slot_that_is_full_of_light_work_does_not_keep_a_heavy_model_out() -> None:
    models = {"light": LIGHT, "big": heavy()}
    world = World(models, [Worker("l", frozenset(["light"])), Worker("b", frozenset(["big"]))])
    for model in models:
        world.knows(model)
    for n in range(1000):
        world.submit(user(10 + n % 5), "light")  # one of them is always owed a turn
    world.run(10.5)
    waits = world.submit(ANN, "big")
    world.run(20)
    assert waits.over


# ---------------------------------------------------------------------- stays, reservations


@pytest.mark.parametrize("load_s", [3.0, 30.0])
def test_a_loaded_model_stays_for_two_loads_and_a_job_while_it_has_work(load_s: float) -> None:
    world = two_models(load_s)
    since: dict[str, float] = {}
    ran: Counter[str] = Counter()
    flood(world)
    world.run(1)
    evicted = 0
    for _ in range(6000):
        device = world.policy.devices["gpu"]
        for model in device.resident:
            since.setdefault(model, world.now)
            ran[model] = device.resident[model].runs
        gone = [model for model in since if model not in device.resident]
        for model in gone:
            began = device.loading.since if device.loading is not None else world.now
            assert began - since.pop(model) >= 2 * load_s - 0.2
            assert ran[model] >= 1
            evicted += 1
        world.run(0.1)
    assert evicted >= 5


def test_a_model_that_nobody_wants_leaves_at_once() -> None:
    world = two_models(30.0)
    world.submit(ANN, "a")
    world.run(32)
    world.submit(ANN, "b")
    world.run(1)
    assert [model for _, model in world.loads] == ["a", "b"]


def test_a_reserved_device_drains_takes_only_what_ends_before_and_then_loads() -> None:
    world = two_models(5.0, slots=2)
    world.policy.found_resident("gpu", "w", "a", world.now - 100)
    world.submit(BOB, "a", seconds=1)
    world.run(2)
    world.submit(BOB, "a", tokens=20)
    world.run(1)
    world.submit(CAT, "b")
    world.run(1)
    for _ in range(8):
        world.submit(user(30), "a", tokens=40)  # would hold the device for longer than the drain
        world.submit(user(31), "a", tokens=2)
    world.run(100)
    [reserve] = [action for action in world.actions if isinstance(action, Reserve)][:1]
    load = next(action for action in world.actions if isinstance(action, Load))
    assert (reserve.swap.model, load.swap.model, load.swap.evict) == ("b", "b", ("a",))
    loaded_at = world.loads[0][0]
    drained_at = next(run.end for run in world.runs if run.job.cost_mt == 20_000)
    assert loaded_at == drained_at
    after = [job for job in world.order if world.now >= world.started(job) > reserve.swap.since]
    fill = [job for job in after if world.started(job) < loaded_at and job.model == "a"]
    assert all(world.started(job) + job.seconds <= drained_at for job in fill)


def test_a_reservation_that_nobody_wants_any_more_is_given_up() -> None:
    world = two_models(5.0)
    world.policy.found_resident("gpu", "w", "a", world.now - 100)
    world.workers[0].slots = 2
    world.submit(BOB, "a", tokens=50)
    world.run(1)
    wants = world.submit(CAT, "b")
    world.run(1)
    assert world.policy.devices["gpu"].reserved is not None
    world.cancel(wants)
    world.submit(BOB, "a", tokens=50)
    world.run(1)
    assert any(isinstance(action, Unreserve) for action in world.actions)
    assert sum(1 for job in world.jobs if job.worker is not None) == 2


@pytest.mark.parametrize("why", ["offline", "circuit", "excluded", "paused"])
def test_a_reservation_for_a_worker_that_takes_nothing_now_is_given_up(why: str) -> None:
    models = {"a": heavy(load_s=5.0), "b": heavy(load_s=5.0, kind=Kind.TEXT)}
    world = World(models, [Worker("comfy", frozenset("a"), 2), Worker("kobold", frozenset("b"))])
    for model in models:
        world.knows(model)
    world.policy.found_resident("gpu", "comfy", "a", world.now - 100)
    world.submit(BOB, "a", tokens=50)
    world.run(1)
    world.submit(CAT, "b")
    world.run(1)
    assert world.policy.devices["gpu"].reserved is not None
    match why:
        case "offline":
            world.workers[1].online = False
        case "paused":
            world.policy.paused = frozenset({Kind.TEXT})
        case _:
            for n in range(3 if why == "circuit" else 2):
                world.policy.failures.failed("kobold", "b", user(n), "backend_error", world.now)
    also = world.submit(BOB, "a", tokens=50)
    world.run(1)
    assert world.policy.devices["gpu"].reserved is None
    assert also.worker == "comfy"


def test_a_reservation_that_no_longer_makes_room_enough_is_planned_anew() -> None:
    """A model turned up on the device meanwhile: it was loaded by hand, its worker says."""
    models = {"a": heavy(6, 5.0), "b": heavy(8, 5.0), "c": heavy(4, 5.0)}
    world = World(models, [Worker("w", frozenset("abc"), 2)])
    for model in models:
        world.knows(model)
    world.policy.found_resident("gpu", "w", "a", world.now - 100)
    world.submit(BOB, "a", tokens=20)
    world.run(1)
    world.submit(CAT, "b")
    world.run(1)
    assert world.policy.devices["gpu"].reserved is not None
    world.policy.found_resident("gpu", "w", "c", world.now)
    world.submit(ANN, "a", times=3)
    while not world.loads:
        world.run(1)
    assert world.policy.devices["gpu"].taken_mib <= 10


def test_a_model_that_may_not_run_now_does_not_keep_its_place_from_one_that_may() -> None:
    """Loaded, and its kind is paused before its first run: it may have work for ever and never run."""
    models = {"v": heavy(kind=Kind.VIDEO, load_s=5.0), "a": heavy(load_s=5.0)}
    world = World(models, [Worker("w", frozenset(models))])
    world.submit(ANN, "v", times=3)
    world.run(1)
    world.policy.paused = frozenset({Kind.VIDEO})
    image = world.submit(BOB, "a")
    world.run(30)
    assert image.over


# ---------------------------------------------------------------------- what fits


def test_models_that_fit_together_stay_together() -> None:
    world = two_models(10.0, vram_mib=20)
    flood(world, 50)
    world.run(300)
    assert len(world.loads) == 2


def test_a_model_larger_than_the_device_never_starts_and_blocks_nobody() -> None:
    world = two_models(1.0, vram_mib=12, b_mib=13)
    world.submit(ANN, "b", PRO, times=20)
    world.submit(BOB, "a", times=20)
    world.run(100)
    assert {job.model for job in world.order} == {"a"}
    assert len(world.order) == 20


def test_light_models_never_wait_for_a_load_nor_for_a_drain() -> None:
    models = {"a": heavy(load_s=60.0), "light": LIGHT}
    world = World(models, [Worker("w", frozenset(models), 2)])
    for model in models:
        world.knows(model)
    world.submit(ANN, "a", times=3)
    world.run(1)
    assert world.policy.devices["gpu"].loading is not None
    light = world.submit(BOB, "light", BATCH)
    world.run(0.1)
    assert world.started(light) == light.queued_at


def test_of_two_workers_with_a_model_the_one_that_has_it_loaded_gets_the_job() -> None:
    world = World({"a": heavy()}, [Worker("one", frozenset("a"), 2), Worker("two", frozenset("a"), 4)], {"gpu": 100})
    world.policy.found_resident("gpu", "one", "a", world.now)
    first, second = world.submit(ANN, tokens=10), world.submit(ANN, tokens=10)
    world.run(1)
    assert first.worker == second.worker == "one"  # though the other has more of its slots free
    assert not world.loads


def test_a_failed_load_frees_its_memory_and_leaves_the_pair_out_for_a_while() -> None:
    world = two_models(5.0)
    world.fails_to_load["b"] = 1
    world.submit(ANN, "b")
    world.run(5)
    assert world.policy.devices["gpu"].taken_mib == 0
    world.submit(BOB, "a")
    world.run(8)
    assert [job.model for job in world.order] == ["a"]
    world.run(60)
    assert [job.model for job in world.order] == ["a", "b"]


def test_a_worker_that_goes_away_while_it_loads_leaves_nothing_behind() -> None:
    world = two_models(5.0)
    job = world.submit(ANN, "a")
    world.run(2)
    world.worker_lost("w")
    device = world.policy.devices["gpu"]
    assert device.loading is None and device.reserved is None and device.taken_mib == 0
    world.run(20)
    world.worker_back("w")
    world.run(20)
    assert job.over


def test_what_a_lost_process_had_loaded_is_loaded_again() -> None:
    world = two_models(5.0)
    world.submit(ANN, "a")
    world.run(8)
    world.worker_lost("w")
    assert world.policy.devices["gpu"].taken_mib == 0
    world.worker_back("w")
    world.submit(ANN, "a")
    world.run(8)
    assert [model for _, model in world.loads] == ["a", "a"]


def test_a_job_that_another_device_can_take_makes_nobody_load() -> None:
    """Of four idle devices one has the model: it takes the job. What is missing is loaded as often as it is wanted."""
    models = {"a": ModelFacts(kind=Kind.IMAGE, vram_mib=8000, load_s=20.0)}
    policy = Policy(models=models, devices=[(f"gpu{n}", "pc1", 12_000) for n in range(4)])
    workers = [FreeWorker(name=f"w{n}", device=f"gpu{n}", models=frozenset({"a"}), free=1, slots=1) for n in range(4)]
    policy.found_resident("gpu3", "w3", "a", 0.0)

    def wait(number: int) -> None:
        policy.queue.set_cap(user(number), 10)
        policy.queue.add(
            QueuedJob(
                id=user(1000 + number),
                user_id=user(number),
                tier=FREE,
                kind=Kind.IMAGE,
                model="a",
                cost_mt=1000,
                queued_at=float(number),
            )
        )

    wait(1)
    [only] = policy.plan(workers, 100.0)
    assert isinstance(only, Start)
    assert only.worker == "w3"
    for number in (2, 3):
        wait(number)
    actions = policy.plan(workers, 100.0)
    assert sorted(type(action).__name__ for action in actions) == ["Load", "Load", "Start"]
    for action in actions:
        policy.apply(action, 100.0)
    left = [worker for worker in workers if worker.name != "w3"]
    assert policy.plan(left, 101.0) == []  # two wait, two loads are on their way

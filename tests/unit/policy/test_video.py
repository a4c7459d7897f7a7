"""Video: at most its share of a device while others wait, all of it alone, never nothing."""

from __future__ import annotations

import pytest

from tessera.jobs import Kind
from tessera.policy import RULES, ModelFacts
from tests.unit.policy.world import ANN, BOB, FREE, LIGHT, PRO, Worker, World, heavy

WINDOW = RULES.video_window_s


def studio(slots: int = 1, *, text: bool = False) -> World:
    models = {"video": ModelFacts(kind=Kind.VIDEO), "image": LIGHT, "text": ModelFacts(kind=Kind.TEXT)}
    workers = [Worker("w", frozenset({"video", "image"}), slots)]
    if text:
        workers.append(Worker("t", frozenset({"text"})))
    world = World(models, workers)
    for model in models:
        world.knows(model)
    return world


def seconds_of(world: World, model: str, since: float) -> float:
    return sum(run.end - run.start for run in world.runs if run.job.model == model and run.start >= since)


@pytest.mark.parametrize("slots", [1, 3])
def test_in_no_window_does_video_get_more_than_its_share_while_others_wait(slots: int) -> None:
    world = studio(slots)
    world.submit(ANN, "video", PRO, tokens=20, times=1000)  # the pro tier would have 7 / 8 of the device
    world.submit(BOB, "image", FREE, tokens=1, times=20_000)
    world.run(300)
    for _ in range(5):
        since = world.now
        world.run(WINDOW)
        # One longest job per slot may be under way when the share is reached.
        assert seconds_of(world, "video", since) <= RULES.video_share * WINDOW * slots + 2 * 20 * slots
        assert seconds_of(world, "video", since) >= 0.35 * WINDOW * slots


def test_alone_video_may_have_all() -> None:
    world = studio()
    world.submit(ANN, "video", tokens=20, times=100)
    world.run(1001)
    assert seconds_of(world, "video", 0) == 1000


def test_after_having_been_alone_video_waits_until_it_is_within_its_share() -> None:
    world = studio()
    world.submit(ANN, "video", PRO, tokens=20, times=100)
    world.run(601)
    world.submit(BOB, "image", FREE, tokens=1, times=2000)
    world.run(200)
    assert seconds_of(world, "image", 0) >= 175


def test_what_waits_for_another_workers_slot_does_not_keep_video_out() -> None:
    """The slot that video could use would stay empty: nothing else can use it."""
    world = studio(text=True)
    world.policy.devices["gpu"].window.add(world.now, 5000.0, True)
    world.submit(BOB, "text", tokens=1, times=3000)
    world.submit(ANN, "video", tokens=10, times=100)
    world.run(900)
    assert seconds_of(world, "video", 0) >= 880


def test_video_that_has_had_its_share_brings_no_model_in() -> None:
    models = {"video": heavy(kind=Kind.VIDEO), "image": heavy()}
    world = World(models, [Worker("w", frozenset(models), 2)])
    for model in models:
        world.knows(model)
    world.policy.found_resident("gpu", "w", "image", world.now - 1000)
    world.policy.devices["gpu"].window.add(world.now, 100.0, True)
    world.submit(BOB, "image", FREE, tokens=5, times=100)
    world.submit(ANN, "video", PRO, tokens=5, times=10)
    world.run(40)
    assert not world.loads
    assert not any(device.reserved for device in world.policy.devices.values())
    world.run(400)
    assert [model for _, model in world.loads][:1] == ["video"]


def test_what_is_older_than_the_window_is_forgotten() -> None:
    world = studio()
    window = world.policy.devices["gpu"].window
    window.add(100.0, 30.0, True)
    window.add(400.0, 10.0, False)
    assert window.video_share(400.0) == 0.75
    assert window.video_share(100.0 + WINDOW) == 0.75
    assert window.video_share(101.0 + WINDOW) == 0.0
    assert window.video_share(1001.0 + WINDOW) == 0.0


def test_an_idle_worker_brings_no_video_in_beyond_its_share_while_text_waits() -> None:
    models = {"video": heavy(kind=Kind.VIDEO), "text": heavy(kind=Kind.TEXT)}
    world = World(models, [Worker("comfy", frozenset(["video"])), Worker("kobold", frozenset(["text"]))])
    for model in models:
        world.knows(model)
    world.policy.found_resident("gpu", "kobold", "text", world.now - 1000)
    world.policy.devices["gpu"].window.add(world.now, 5000.0, True)
    world.submit(BOB, "text", tokens=4, times=100)
    world.submit(ANN, "video", PRO)
    world.run(100)
    assert not world.loads and world.policy.devices["gpu"].reserved is None
    assert len(world.runs) == 25

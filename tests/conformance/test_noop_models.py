"""The models of the noop engine that pretend to have weights: what an engine with real ones has to do, too."""

from __future__ import annotations

import asyncio
import dataclasses

import pytest

from deployments.noop import NoopDevice, NoopEngine
from tessera.engine import Done
from tessera.errors import Busy, EngineError, ModelMissing, OutOfMemory
from tests.conformance.engine_suite import check_cancel, check_stream, collected, renewed
from tests.conformance.test_preview import job

HEAVY = ("noop-a", "noop-b", "noop-c")
QUICK = job("text", model="noop-a", prompt="sleep 0.2")
SLOW = job("text", model="noop-a", prompt="sleep 30")


def small(**options: float) -> NoopEngine:
    """An engine on a device with room for two of its three models."""
    return NoopEngine(HEAVY, slots=2, device=NoopDevice(12_000), **{"load_s": 0.02, **options})


async def resident(engine: NoopEngine) -> list[str]:
    return list((await engine.models()).resident)


async def test_a_loaded_model_runs_as_every_engine_does() -> None:
    engine = small()
    await engine.ensure("noop-a")
    check_stream(await collected(engine, renewed(QUICK)))
    await check_cancel(engine, renewed(SLOW))


async def test_a_run_of_a_model_that_nobody_loaded_fails_and_may_be_tried_again() -> None:
    engine = small()
    with pytest.raises(EngineError, match="noop-a is not loaded") as refusal:
        await collected(engine, renewed(QUICK))
    assert refusal.value.retryable
    assert not isinstance(refusal.value, ModelMissing | Busy)
    assert (await engine.capacity()).running == 0


async def test_loading_takes_its_time_and_only_once() -> None:
    engine = small(load_s=0.2)
    loading = asyncio.create_task(engine.ensure("noop-a"))
    await asyncio.sleep(0.05)
    assert await resident(engine) == []
    assert (await engine.capacity()).free_mib == 6000  # taken from the first byte on
    with pytest.raises(EngineError, match="not loaded"):
        await collected(engine, renewed(QUICK))
    await loading
    assert await resident(engine) == ["noop-a"]
    async with asyncio.timeout(0.1):
        await engine.ensure("noop-a")
    assert (await engine.models()).switch_s == {"noop-a": 0.2, "noop-b": 0.2, "noop-c": 0.2}


async def test_a_model_more_than_the_device_holds_is_out_of_memory_and_disturbs_nothing() -> None:
    engine = small()
    await engine.ensure("noop-a")
    await engine.ensure("noop-b")
    with pytest.raises(OutOfMemory, match="12000 of the 12000 MiB"):
        await engine.ensure("noop-c")
    assert await resident(engine) == ["noop-a", "noop-b"]
    await engine.release(["noop-a"])
    await engine.ensure("noop-c")
    assert await resident(engine) == ["noop-b", "noop-c"]


async def test_engines_on_one_device_share_its_memory() -> None:
    device = NoopDevice(12_000)
    first, second = (NoopEngine(HEAVY, device=device, load_s=0) for _ in range(2))
    await first.ensure("noop-a")
    await second.ensure("noop-a")
    with pytest.raises(OutOfMemory):
        await first.ensure("noop-b")
    await second.release()
    await first.ensure("noop-b")
    assert device.used_mib == 12_000


async def test_a_load_that_is_given_up_gives_its_memory_back() -> None:
    engine = small(load_s=30)
    loading = asyncio.create_task(engine.ensure("noop-a"))
    await asyncio.sleep(0.02)
    loading.cancel()
    await asyncio.gather(loading, return_exceptions=True)
    assert (await engine.capacity()).free_mib == 12_000
    assert await resident(engine) == []


async def test_a_release_gives_all_memory_back_and_may_be_repeated() -> None:
    engine = small()
    await engine.ensure("noop-a")
    await engine.ensure("noop-b")
    await engine.release()
    await engine.release()
    await engine.release(["noop-a"])
    assert await resident(engine) == []
    assert (await engine.capacity()).free_mib == 12_000


async def test_a_release_under_a_run_is_refused_and_unloads_nothing() -> None:
    engine = small()
    await engine.ensure("noop-a")
    await engine.ensure("noop-b")
    running = engine.run(renewed(SLOW), 1)
    await anext(running)
    with pytest.raises(Busy, match="noop-a"):
        await engine.release()
    assert await resident(engine) == ["noop-a", "noop-b"]
    await engine.release(["noop-b"])
    assert await resident(engine) == ["noop-a"]
    await running.aclose()  # type: ignore[attr-defined]
    await engine.release()
    assert await resident(engine) == []


async def test_a_model_without_weights_is_always_resident() -> None:
    engine = NoopEngine(["noop", "noop-a"], load_s=0)
    await engine.release()
    assert await resident(engine) == ["noop"]
    events = await collected(engine, dataclasses.replace(renewed(QUICK), model="noop", input={"prompt": "go"}))
    assert isinstance(events[-1], Done)


def test_a_model_that_the_catalogue_does_not_have_is_refused_at_once() -> None:
    with pytest.raises(ModelMissing, match="noop-z"):
        NoopEngine(["noop-z"])

"""A backend that outlives its worker: what a new process finds there, and that it never starts a run a second time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from deployments.noop import NoopEngine
from deployments.noop_backend import NoopBackend
from tessera.engine import CancelState, Done, EngineJob, RunState, backend_id
from tessera.errors import Busy, OutOfMemory
from tests.conformance.engine_suite import (
    abandoned,
    check_attach,
    check_cancel,
    check_stream,
    collected,
    renewed,
)
from tests.conformance.test_preview import job


class Clock:
    """The wall's clock, as the test moves it."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def engine(tmp_path: Path) -> Callable[[], NoopEngine]:
    """Makes the engine of a new process, over the same backend."""
    return lambda: NoopEngine(slots=2, backend=NoopBackend(tmp_path))


def asked(prompt: str) -> EngineJob:
    return renewed(job("text", model="noop", prompt=prompt))


async def test_a_run_in_the_backend_is_as_any_other(engine: Callable[[], NoopEngine]) -> None:
    one = engine()
    quick = asked("sleep 0.25")
    check_stream(await collected(one, quick))
    assert await one.reconcile(quick.id, 1) is RunState.DONE
    assert await one.cancel(quick.id, 1) is CancelState.FINISHED
    await check_cancel(one, asked("sleep 30"))
    assert (await one.capacity()).running == 0


async def test_a_new_process_attaches_to_a_run_that_goes_on(engine: Callable[[], NoopEngine], tmp_path: Path) -> None:
    running = asked("sleep 0.6")
    await check_attach(engine, running, {RunState.RUNNING})
    assert NoopBackend(tmp_path).runs() == [backend_id(running.id, 1)]


async def test_a_new_process_attaches_to_a_run_that_still_waits_in_the_backend(tmp_path: Path) -> None:
    waiting = asked("sleep 0.2")
    await check_attach(lambda: NoopEngine(backend=NoopBackend(tmp_path, delay_s=0.4)), waiting, {RunState.PENDING})
    assert NoopBackend(tmp_path).runs() == [backend_id(waiting.id, 1)]


async def test_a_new_process_collects_a_run_that_has_ended_meanwhile(tmp_path: Path) -> None:
    clock = Clock()
    ended = asked("sleep 60")
    await abandoned(NoopEngine(backend=NoopBackend(tmp_path, clock=clock)), ended)
    clock.now += 61
    successor = NoopEngine(backend=NoopBackend(tmp_path, clock=clock))
    assert await successor.reconcile(ended.id, 1) is RunState.DONE
    [done] = await collected(successor, ended)
    assert isinstance(done, Done)
    assert NoopBackend(tmp_path).runs() == [backend_id(ended.id, 1)]


async def test_a_run_that_failed_or_was_cancelled_is_found_so(engine: Callable[[], NoopEngine]) -> None:
    failed, cancelled = asked("fail oom"), asked("sleep 60")
    with pytest.raises(OutOfMemory):
        await collected(engine(), failed)
    await abandoned(engine(), cancelled)
    assert await engine().cancel(cancelled.id, 1) is CancelState.CANCELLED  # by a process that never ran it
    successor = engine()
    assert await successor.reconcile(failed.id, 1) is RunState.FAILED
    assert await successor.reconcile(cancelled.id, 1) is RunState.CANCELLED
    assert await collected(successor, cancelled) == []


async def test_a_run_that_an_attached_process_follows_ends_by_a_cancel_within_a_second(
    engine: Callable[[], NoopEngine],
) -> None:
    slow = asked("sleep 60")
    await abandoned(engine(), slow)
    await check_cancel(engine(), slow)


async def test_another_attempt_is_another_run(engine: Callable[[], NoopEngine], tmp_path: Path) -> None:
    again = asked("sleep 0.1")
    await abandoned(engine(), again)
    successor = engine()
    assert await successor.reconcile(again.id, 2) is RunState.LOST
    check_stream(await collected(successor, again, attempt=2))
    assert len(NoopBackend(tmp_path).runs()) == 2


def test_the_backend_refuses_to_start_a_run_twice(tmp_path: Path) -> None:
    clock = Clock()
    backend = NoopBackend(tmp_path, clock=clock)
    backend.submit("a", 10)
    with pytest.raises(FileExistsError):
        backend.submit("a", 99)
    clock.now += 5
    assert (backend.state("a"), backend.fraction("a")) == (RunState.RUNNING, 0.5)
    assert [file.name for file in tmp_path.iterdir()] == ["a.json"]


async def test_what_the_backend_already_has_needs_no_free_slot_here(engine: Callable[[], NoopEngine]) -> None:
    one = engine()
    first, second = asked("sleep 0.4"), asked("sleep 0.4")
    for each in (first, second):
        await abandoned(one, each)
    successor = NoopEngine(slots=1, backend=one._backend)
    done = await asyncio.gather(*(collected(successor, each) for each in (first, second)))
    assert all(isinstance(events[-1], Done) for events in done)
    busy = successor.run(asked("sleep 5"), 1)
    await anext(busy)
    with pytest.raises(Busy):
        await collected(successor, asked("go"))
    await busy.aclose()  # type: ignore[attr-defined]

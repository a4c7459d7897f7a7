"""The rules of the Engine protocol as one suite: a fake, a preview and a real backend pass the same functions.

An engine's own test module says how to make it and its jobs (``Case``) and calls ``suite`` rules with them.
"""

from __future__ import annotations

import asyncio
import dataclasses
import time
import uuid
from collections.abc import Callable

from tessera.engine import CancelState, Chunk, Done, Engine, EngineEvent, EngineJob, Output, Preview, Progress, RunState

CANCEL_LIMIT_S = 1.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """One engine under test: ``quick`` ends soon, ``slow`` runs for several seconds unless it is cancelled, ``bad``
    is refused with InvalidInput or is None where an engine refuses nothing."""

    name: str
    engine: Callable[[], Engine]
    quick: EngineJob
    slow: EngineJob
    bad: EngineJob | None = None


def renewed(job: EngineJob) -> EngineJob:
    """The same work as a new job."""
    return dataclasses.replace(job, id=uuid.uuid4())


async def collected(engine: Engine, job: EngineJob, attempt: int = 1) -> list[EngineEvent]:
    return [event async for event in engine.run(job, attempt)]


def results(events: list[EngineEvent]) -> list[object]:
    """What a run made: everything that must not differ from one run to the next."""
    return [event for event in events if isinstance(event, Output | Done)]


def check_stream(events: list[EngineEvent]) -> None:
    """Exactly one Done, the last; progress in 0…1 and never falling; chunks without gaps; small previews."""
    assert [type(event) for event in events].count(Done) == 1
    assert isinstance(events[-1], Done)
    fractions = [event.fraction for event in events if isinstance(event, Progress)]
    assert fractions == sorted(fractions)
    assert all(0.0 <= fraction <= 1.0 for fraction in fractions)
    offset = 0
    for event in events:
        if isinstance(event, Chunk):
            assert event.offset == offset
            offset += len(event.text)
        if isinstance(event, Preview):
            assert len(event.data) <= 64 * 1024
    assert [event.index for event in events if isinstance(event, Output)] == list(
        range(sum(isinstance(event, Output) for event in events))
    )


async def check_cancel(engine: Engine, job: EngineJob) -> None:
    """A cancel in the middle ends the iterator within a second, without Done, and is remembered."""
    started = asyncio.Event()
    events: list[EngineEvent] = []

    async def read() -> None:
        async for event in engine.run(job, 1):
            events.append(event)
            started.set()

    reader = asyncio.create_task(read())
    async with asyncio.timeout(20):
        await started.wait()
    assert await engine.reconcile(job.id, 1) is RunState.RUNNING
    at = time.monotonic()
    assert await engine.cancel(job.id, 1) is CancelState.CANCELLED
    async with asyncio.timeout(20):
        await reader
    assert time.monotonic() - at <= CANCEL_LIMIT_S + 0.5  # half a second of grace: two cores are shared with other work
    assert not any(isinstance(event, Done) for event in events)
    assert await engine.reconcile(job.id, 1) is RunState.CANCELLED
    assert await engine.cancel(job.id, 1) is CancelState.CANCELLED


async def abandoned(engine: Engine, job: EngineJob, attempt: int = 1) -> None:
    """Begin a run and lose the process that follows it: nobody cancels, nobody reads on."""
    running = engine.run(job, attempt)
    await anext(running)
    await running.aclose()  # type: ignore[attr-defined]


async def check_attach(engine: Callable[[], Engine], job: EngineJob, expected: set[RunState]) -> None:
    """A new process finds the run of a lost one in one of these states, attaches to it and brings it to its end.

    ``engine`` makes an engine over the same backend, each time as a new process would.
    """
    await abandoned(engine(), job)
    successor = engine()
    assert (await successor.capacity()).detached
    assert await successor.reconcile(job.id, 1) in expected
    check_stream(await collected(successor, job))
    assert await successor.reconcile(job.id, 1) is RunState.DONE
    assert await engine().reconcile(job.id, 1) is RunState.DONE

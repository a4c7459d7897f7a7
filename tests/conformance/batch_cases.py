"""The rules of an engine that takes several small jobs in one call (``BatchEngine``), on whatever stands behind it.

An engine without ``run_batch`` passes by saying so: it must not offer batches.
"""

from __future__ import annotations

import asyncio
import time
from uuid import UUID

from tessera.engine import BatchEngine, CancelState, Done, Engine, EngineEvent, EngineJob, RunState
from tessera.errors import InvalidInput, TesseraError
from tests.conformance.cases import CANCEL_S, case, idle, ready, until
from tests.conformance.engine_suite import check_stream
from tests.conformance.harness import Harness

Told = EngineEvent | TesseraError | None


class Call:
    """One call of ``run_batch``, read in the background as the worker reads it: what was told of each job, in order."""

    def __init__(self, engine: BatchEngine, jobs: list[EngineJob]) -> None:
        self.told: dict[UUID, list[Told]] = {job.id: [] for job in jobs}
        self._stream = engine.run_batch([(job, 1) for job in jobs])
        self.task = asyncio.create_task(self._read())

    async def _read(self) -> None:
        async for job_id, event in self._stream:
            self.told[job_id].append(event)  # a stranger's id is a KeyError

    def completed(self, job: EngineJob) -> bool:
        """Whether a job was told as complete, by a stream like one of ``run``. Raises AssertionError."""
        events = [event for event in self.told[job.id] if event is not None and not isinstance(event, TesseraError)]
        if not any(isinstance(event, Done) for event in events):
            return False
        assert len(events) == len(self.told[job.id]), self.told[job.id]
        check_stream(events)
        return True

    async def leave(self) -> None:
        """The caller goes away."""
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


async def _batching(harness: Harness, wanted: int) -> tuple[BatchEngine, int] | None:
    """The engine and how many jobs it takes in a call; None, after a look that it says so, where it takes one."""
    engine: Engine = await ready(harness)
    batch_max = (await engine.capacity()).batch_max
    if not isinstance(engine, BatchEngine):
        assert batch_max == 1, f"it offers {batch_max} jobs in a call and has no run_batch"
        return None
    assert batch_max >= wanted, f"a case needs {wanted} jobs in a call, the engine under test takes {batch_max}"
    return engine, batch_max


@case
async def jobs_in_one_call_end_each_with_one_done(harness: Harness) -> None:
    found = await _batching(harness, 2)
    if found is None:
        return
    engine, batch_max = found
    jobs = [harness.small() for _ in range(batch_max)]
    call = Call(engine, jobs)
    await call.task
    for job in jobs:
        assert call.completed(job), f"a job of the call ended with {call.told[job.id][-1:]}"
        assert await engine.reconcile(job.id, 1) is RunState.DONE
        assert await engine.cancel(job.id, 1) is CancelState.FINISHED
    await idle(engine)


@case
async def a_job_that_fails_in_a_call_fails_alone(harness: Harness) -> None:
    found = await _batching(harness, 3)
    if found is None:
        return
    engine, _ = found
    before, bad, after = harness.small(), harness.bad(), harness.small()
    call = Call(engine, [before, bad, after])
    await call.task
    error = call.told[bad.id][-1]
    assert isinstance(error, InvalidInput), call.told[bad.id]
    assert error.message.endswith((".", "!", "?")), f"not a sentence for a person: {error.message!r}"
    assert not any(isinstance(event, Done) for event in call.told[bad.id])
    assert await engine.reconcile(bad.id, 1) is RunState.FAILED
    for job in (before, after):
        assert call.completed(job)
        assert await engine.reconcile(job.id, 1) is RunState.DONE
    await idle(engine)


@case
async def a_cancel_ends_one_job_of_a_call(harness: Harness) -> None:
    found = await _batching(harness, 2)
    if found is None:
        return
    engine, _ = found
    first, second = harness.slow(), harness.slow()
    call = Call(engine, [first, second])
    try:
        for job in (first, second):

            async def is_running(job: EngineJob = job) -> bool:
                return await engine.reconcile(job.id, 1) is RunState.RUNNING

            await until(is_running)
        for job in (second, first):
            asked = time.monotonic()
            assert await engine.cancel(job.id, 1) is CancelState.CANCELLED

            async def has_ended(job: EngineJob = job) -> bool:
                return bool(call.told[job.id]) and call.told[job.id][-1] is None

            await until(has_ended)
            assert time.monotonic() - asked <= CANCEL_S
            assert await engine.reconcile(job.id, 1) is RunState.CANCELLED
            if job is second:
                assert not call.task.done() and None not in call.told[first.id], "the cancel of one ended the other"
        await call.task
    finally:
        await call.leave()
    await idle(engine)


@case
async def who_leaves_a_call_leaves_no_slot_taken(harness: Harness) -> None:
    found = await _batching(harness, 2)
    if found is None:
        return
    engine, _ = found
    jobs = [harness.slow(), harness.slow()]
    call = Call(engine, jobs)

    async def goes_on() -> bool:
        return (await engine.capacity()).running == len(jobs)

    await until(goes_on)
    await call.leave()
    if (await engine.capacity()).detached:
        for job in jobs:
            await engine.cancel(job.id, 1)  # its backend goes on until it is told
    await idle(engine)
    last = harness.small()
    again = Call(engine, [last])
    await again.task
    assert again.completed(last)

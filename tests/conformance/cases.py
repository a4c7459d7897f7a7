"""The rules that every engine obeys, one case each, on whatever stands behind it.

A case takes a ``Harness`` and fails by an AssertionError or by an error that it does not expect. Wherever it waits, it
waits for a condition, with a limit that only tells a hang.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable

from tessera.engine import CancelState, Done, Engine, EngineEvent, EngineJob, Progress, RunState
from tessera.errors import BadOutput, Busy, EngineError, InvalidInput, Lost, ModelMissing, OutOfMemory, TesseraError
from tests.conformance.engine_suite import check_stream, collected
from tests.conformance.harness import Harness, NotRun

CANCEL_S = 3.0  # a second is the promise; the rest is for a busy machine


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """One row of the table."""

    name: str
    check: Callable[[Harness], Awaitable[None]]


CASES: list[Case] = []


def case(check: Callable[[Harness], Awaitable[None]]) -> Callable[[Harness], Awaitable[None]]:
    """Add a function to the cases, under its name in words."""
    CASES.append(Case(name=check.__name__.replace("_", " "), check=check))
    return check


async def execute(harness: Harness, row: Case) -> None:
    """Run one case on a fresh harness. Raises NotRun, AssertionError, or what went wrong."""
    if row.name in harness.without:
        raise NotRun(harness.without[row.name])
    async with asyncio.timeout(harness.hang_s):
        await harness.open()
        try:
            await row.check(harness)
        finally:
            await harness.close()


# ------------------------------------------------------------------ what cases are made of


class Follower:
    """A run that is read in the background, as the worker reads it."""

    def __init__(self, engine: Engine, job: EngineJob, attempt: int = 1) -> None:
        self.engine, self.job, self.attempt = engine, job, attempt
        self.events: list[EngineEvent] = []
        self.error: TesseraError | None = None
        self._told = asyncio.Event()
        self._run = engine.run(job, attempt)
        self.task = asyncio.create_task(self._read())

    async def _read(self) -> None:
        try:
            async for event in self._run:
                self.events.append(event)
                self._told.set()
        except TesseraError as error:
            self.error = error
        finally:
            self._told.set()

    async def begun(self) -> None:
        """Wait until the engine says that the run goes on."""
        await self._told.wait()
        while True:
            assert not self.task.done(), f"the run ended before it was running: {self.error or self.events}"
            with contextlib.suppress(EngineError):  # nobody knows at this moment: a loaded server answers late
                if await self.engine.reconcile(self.job.id, self.attempt) is RunState.RUNNING:
                    return
            await asyncio.sleep(0.02)

    async def ended(self) -> list[EngineEvent]:
        """Wait until the iterator has ended, however it ended."""
        await self.task
        return self.events

    @property
    def done(self) -> bool:
        """Whether the run has said that it is complete."""
        return any(isinstance(event, Done) for event in self.events)


@contextlib.asynccontextmanager
async def following(engine: Engine, job: EngineJob, attempt: int = 1) -> AsyncIterator[Follower]:
    """A run in the background that is cancelled at the end, if it still goes on then."""
    follower = Follower(engine, job, attempt)
    try:
        yield follower
    finally:
        if not follower.task.done():
            with contextlib.suppress(TesseraError, OSError):
                await engine.cancel(job.id, attempt)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CANCEL_S):
                    await asyncio.wait({follower.task})
            follower.task.cancel()
            await asyncio.gather(follower.task, return_exceptions=True)


async def ready(harness: Harness, job: EngineJob | None = None) -> Engine:
    """An engine with the model of this job loaded."""
    engine = harness.engine()
    if harness.models_are_loaded_first:
        await engine.ensure((job or harness.quick()).model)
    return engine


async def _completes(engine: Engine, job: EngineJob, attempt: int = 1) -> list[EngineEvent]:
    events = await collected(engine, job, attempt)
    check_stream(events)
    assert await engine.reconcile(job.id, attempt) is RunState.DONE
    return events


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Wait until a condition holds; the case's own limit tells a hang."""
    while True:
        if await condition():
            return
        await asyncio.sleep(0.03)


async def idle(engine: Engine) -> None:
    """Wait until every slot has come back."""

    async def is_idle() -> bool:
        return (await engine.capacity()).running == 0

    await until(is_idle)


async def _fails(engine: Engine, job: EngineJob, *expected: type[TesseraError], attempt: int = 1) -> TesseraError:
    try:
        events = await collected(engine, job, attempt)
    except TesseraError as error:
        assert isinstance(error, expected), f"{type(error).__name__}: {error.message}"
        assert error.message.endswith((".", "!", "?")), f"not a sentence for a person: {error.message!r}"
        await idle(engine)
        return error
    raise AssertionError(f"the run ended with {events[-1:]} and should have failed")


# ------------------------------------------------------------------ the cases


@case
async def progress_is_monotonic_and_ends_with_one_done(harness: Harness) -> None:
    job = harness.quick()
    engine = await ready(harness, job)
    health, models = await engine.probe(), await engine.models()
    assert health.ok and health.version, health
    assert job.model in models.available
    events = await _completes(engine, job)
    assert any(isinstance(event, Progress) for event in events)
    done = events[-1]
    assert isinstance(done, Done) and done.output.get("engine")
    await idle(engine)


@case
async def cancel_before_the_run_begins(harness: Harness) -> None:
    job = harness.slow()
    engine = await ready(harness, job)
    run = engine.run(job, 1)
    assert await engine.reconcile(job.id, 1) is RunState.PENDING
    assert await engine.cancel(job.id, 1) is CancelState.CANCELLED
    assert [event async for event in run] == []
    assert await engine.reconcile(job.id, 1) is RunState.CANCELLED
    assert not await harness.submissions(job, 1)
    await idle(engine)


@case
async def cancel_during_the_run(harness: Harness) -> None:
    job = harness.slow()
    engine = await ready(harness, job)
    async with following(engine, job) as run:
        await run.begun()
        asked = time.monotonic()
        assert await engine.cancel(job.id, 1) is CancelState.CANCELLED
        await run.ended()
        assert time.monotonic() - asked <= CANCEL_S
        assert run.error is None and not run.done, run.error
        assert await engine.reconcile(job.id, 1) is RunState.CANCELLED
        assert await engine.cancel(job.id, 1) is CancelState.CANCELLED
    await idle(engine)
    await _completes(engine, harness.quick())


@case
async def cancel_after_the_run_and_of_an_unknown_one(harness: Harness) -> None:
    job = harness.quick()
    engine = await ready(harness, job)
    await _completes(engine, job, attempt=2)
    assert await engine.cancel(job.id, 2) is CancelState.FINISHED
    assert await engine.reconcile(job.id, 2) is RunState.DONE
    for stranger in ((job.id, 1), (uuid.uuid4(), 1)):
        assert await engine.cancel(*stranger) is CancelState.UNKNOWN
        assert await engine.reconcile(*stranger) is RunState.LOST


@case
async def the_same_id_twice_runs_once(harness: Harness) -> None:
    job = harness.quick()
    engine = await ready(harness, job)
    first = await _completes(engine, job)
    try:
        engine.run(job, 1)
    except RuntimeError:
        pass
    else:
        raise AssertionError("the engine took the same attempt twice")
    if (await engine.capacity()).detached:
        # The process that ran it is lost; the next one collects the result and submits nothing.
        again = await collected(harness.engine(), job)
        assert [event for event in again if isinstance(event, Done)]
        assert _files(again) == _files(first)
    assert (await harness.submissions(job, 1)) in (1, None)


@case
async def the_server_is_killed_in_the_middle(harness: Harness) -> None:
    job = harness.slow()
    engine = await ready(harness, job)
    async with following(engine, job) as run:
        await run.begun()
        await harness.kill()
        await run.ended()
        assert isinstance(run.error, EngineError) and run.error.retryable, run.error
        assert not run.done
    await idle(engine)
    if not (await engine.probe()).ok:
        waiting = await _fails(engine, harness.quick(), Busy, Lost, EngineError)
        assert waiting.retryable
    await harness.start()
    await _healthy(engine)
    assert await engine.reconcile(job.id, 1) in (RunState.LOST, RunState.FAILED)
    if harness.models_are_loaded_first:
        await engine.ensure(job.model)
    await _completes(engine, harness.quick())


@case
async def the_server_is_restarted_under_a_run(harness: Harness) -> None:
    job = harness.slow()
    engine = await ready(harness, job)
    async with following(engine, job) as run:
        await run.begun()
        await harness.kill()
        await harness.start()
        await run.ended()
        assert isinstance(run.error, EngineError) and run.error.retryable, run.error
        assert not run.done
    await idle(engine)
    await _healthy(engine)
    if harness.models_are_loaded_first:
        await engine.ensure(job.model)
    await _completes(engine, dataclasses.replace(harness.quick(), id=job.id), attempt=2)
    assert await engine.reconcile(job.id, 1) is not RunState.DONE


@case
async def the_server_is_restarted_between_runs(harness: Harness) -> None:
    engine = await ready(harness)
    await _completes(engine, harness.quick())
    await harness.kill()
    await harness.start()
    await _healthy(engine)
    if harness.models_are_loaded_first:
        await engine.ensure(harness.quick().model)
    await _completes(engine, harness.quick())


@case
async def a_slow_server_is_waited_for(harness: Harness) -> None:
    engine = await ready(harness)
    await harness.delay_answers(0.3)
    await _completes(engine, harness.quick())
    slow = harness.slow()
    async with following(engine, slow) as run:
        await run.begun()
        assert await engine.cancel(slow.id, 1) is CancelState.CANCELLED
        await run.ended()
        assert run.error is None and not run.done


@case
async def garbage_answers_never_end_as_done(harness: Harness) -> None:
    engine = await ready(harness)
    await harness.answer_garbage(True)
    await _fails(engine, harness.quick(), EngineError)
    assert not (await engine.probe()).ok
    await harness.answer_garbage(False)
    await _healthy(engine)
    slow = harness.slow()
    async with following(engine, slow) as run:
        await run.begun()
        await harness.answer_garbage(True)
        await asyncio.sleep(0.2)
        await harness.answer_garbage(False)
        await asyncio.sleep(0.2)
        assert not run.done
        assert run.error is None or isinstance(run.error, EngineError)
    await idle(engine)
    await _completes(engine, harness.quick())


@case
async def a_broken_connection_ends_no_other_run(harness: Harness) -> None:
    job = harness.slow()
    engine = await ready(harness, job)
    async with following(engine, job) as run:
        await run.begun()
        await harness.break_connections()
        if (await engine.capacity()).detached:
            # The run goes on in the server: the engine finds it again, and can still end it.
            await asyncio.sleep(0.3)
            assert not run.task.done(), run.error
            assert await engine.reconcile(job.id, 1) is RunState.RUNNING
            assert await engine.cancel(job.id, 1) is CancelState.CANCELLED
            await run.ended()
            assert run.error is None and not run.done
        else:
            await run.ended()
            assert not run.done
            assert isinstance(run.error, EngineError) and run.error.retryable, run.error
    await idle(engine)
    await _completes(engine, harness.quick())


@case
async def out_of_memory_is_told_as_that(harness: Harness) -> None:
    engine = await ready(harness)
    await harness.run_out_of_memory_once()
    job = harness.quick()
    await _fails(engine, job, OutOfMemory)
    assert await engine.reconcile(job.id, 1) is RunState.FAILED
    await _healthy(engine)
    if harness.models_are_loaded_first:
        await engine.ensure(job.model)
    await _completes(engine, harness.quick())


@case
async def a_missing_model_is_told_by_its_name(harness: Harness) -> None:
    engine = await ready(harness)
    try:
        await engine.ensure("no-such-model")
    except ModelMissing:
        pass
    else:
        raise AssertionError("the engine loaded a model that it does not serve")
    await _fails(engine, dataclasses.replace(harness.quick(), model="no-such-model"), ModelMissing)
    missing = harness.of_missing_model()
    error = await _fails(engine, missing, ModelMissing)
    assert not error.retryable
    assert await engine.reconcile(missing.id, 1) is RunState.FAILED


@case
async def an_input_that_cannot_work_is_refused(harness: Harness) -> None:
    job = harness.bad()
    engine = await ready(harness, job)
    await _fails(engine, job, InvalidInput)
    assert await engine.reconcile(job.id, 1) is RunState.FAILED
    await _completes(engine, harness.quick())


@case
async def an_oversized_output_is_refused(harness: Harness) -> None:
    engine = await ready(harness)
    await harness.deliver_too_much_once()
    await _fails(engine, harness.quick(), BadOutput)


@case
async def more_runs_than_slots_are_told_to_wait(harness: Harness) -> None:
    first = harness.slow()
    engine = await ready(harness, first)
    async with contextlib.AsyncExitStack() as stack:
        runs = [await stack.enter_async_context(following(engine, first))]
        for _ in range(harness.slots - 1):
            runs.append(await stack.enter_async_context(following(engine, harness.slow())))
        for run in runs:
            await run.begun()
        assert (await engine.capacity()).running == (await engine.capacity()).slots == harness.slots
        beyond = harness.quick()
        try:
            await collected(engine, beyond)
        except Busy:
            pass
        else:
            raise AssertionError("one run more than there are slots was taken")
        assert not await harness.submissions(beyond, 1)
        assert all(not run.task.done() for run in runs), "the run beyond the slots disturbed another"
    await idle(engine)


@case
async def reconcile_tells_each_state(harness: Harness) -> None:
    engine = await ready(harness)
    quick, slow = harness.quick(), harness.slow()
    assert await engine.reconcile(quick.id, 1) is RunState.LOST
    pending = engine.run(quick, 1)
    assert await engine.reconcile(quick.id, 1) is RunState.PENDING
    check_stream([event async for event in pending])
    assert await engine.reconcile(quick.id, 1) is RunState.DONE
    assert await engine.reconcile(quick.id, 2) is RunState.LOST
    detached = (await engine.capacity()).detached
    if detached:
        assert await harness.engine().reconcile(quick.id, 1) is RunState.DONE
        assert await harness.engine().reconcile(quick.id, 2) is RunState.LOST
    async with following(engine, slow) as run:
        await run.begun()
        if detached:
            assert await harness.engine().reconcile(slow.id, 1) is RunState.RUNNING
        assert await engine.cancel(slow.id, 1) is CancelState.CANCELLED
        await run.ended()
    assert await engine.reconcile(slow.id, 1) is RunState.CANCELLED
    if detached:
        successor = harness.engine()

        async def has_stopped() -> bool:
            return await successor.reconcile(slow.id, 1) in (RunState.CANCELLED, RunState.LOST)

        await until(has_stopped)  # the backend ends it between two of its steps
    with contextlib.suppress(NotRun):
        refused = harness.bad()
        await _fails(engine, refused, InvalidInput)
        assert await engine.reconcile(refused.id, 1) is RunState.FAILED


@case
async def a_lost_process_leaves_its_run_to_the_next_one(harness: Harness) -> None:
    job = harness.slow()
    first = await ready(harness, job)
    run = first.run(job, 1)
    await anext(run)
    while await first.reconcile(job.id, 1) is not RunState.RUNNING:
        await anext(run)
    await run.aclose()  # type: ignore[attr-defined]
    successor = harness.engine()
    if not (await first.capacity()).detached:
        assert await successor.reconcile(job.id, 1) is RunState.LOST
        return
    assert await successor.reconcile(job.id, 1) is RunState.RUNNING
    async with following(successor, job) as attached:
        await attached.begun()
        assert await successor.cancel(job.id, 1) is CancelState.CANCELLED
        await attached.ended()
        assert attached.error is None and not attached.done
    assert (await harness.submissions(job, 1)) in (1, None)
    assert await successor.reconcile(job.id, 1) is RunState.CANCELLED


@case
async def memory_is_given_back_but_never_under_a_run(harness: Harness) -> None:
    job = harness.heavy()
    engine = await ready(harness, job)
    await engine.ensure(job.model)
    assert job.model in (await engine.models()).resident
    async with following(engine, job) as run:
        await run.begun()
        # An engine without weights has nothing to unload and may say so; one with them refuses.
        try:
            await engine.release([job.model])
        except Busy:
            pass
        else:
            assert not harness.models_are_loaded_first
        assert job.model in (await engine.models()).resident
        assert not run.task.done()
    await idle(engine)
    await engine.release([job.model])
    await engine.release()
    await engine.ensure(job.model)
    assert job.model in (await engine.models()).resident
    await _completes(engine, harness.quick())


async def _healthy(engine: Engine) -> None:
    async def is_healthy() -> bool:
        return (await engine.probe()).ok

    await until(is_healthy)


def _files(events: list[EngineEvent]) -> list[bytes]:
    return [data for event in events if (data := getattr(event, "data", None)) and hasattr(event, "index")]

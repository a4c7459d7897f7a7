"""The worker around an engine that takes several small jobs in one call: together in, each out by itself."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from deployments import worker as worker_module
from deployments.noop import NoopEngine
from deployments.worker import Worker
from tessera.artifacts import FolderStore
from tessera.engine import CancelState, EngineEvent, EngineJob
from tessera.errors import EngineError, TesseraError
from tessera.jobs import Kind
from tessera.runs import Ending, Outcome, RunSpec, StartAnswer

MODELS = ("noop", "noop-batch")


class Recording(NoopEngine):
    """Notes how many jobs each call had. ``breaks`` ends a call after its first event; ``deaf`` hears no cancel."""

    def __init__(self, *, slots: int = 16, batch_max: int = 4) -> None:
        super().__init__(MODELS, slots=slots, batch_max=batch_max)
        self.calls: list[int] = []
        self.breaks = False
        self.deaf = False

    async def run_batch(
        self, jobs: Sequence[tuple[EngineJob, int]]
    ) -> AsyncIterator[tuple[UUID, EngineEvent | TesseraError | None]]:
        self.calls.append(len(jobs))
        async for found in super().run_batch(jobs):
            yield found
            if self.breaks:
                raise EngineError("the backend has gone")

    async def cancel(self, job_id: UUID, attempt: int) -> CancelState:
        return CancelState.UNKNOWN if self.deaf else await super().cancel(job_id, attempt)


@pytest.fixture
def engine() -> Recording:
    return Recording()


@pytest.fixture
async def worker(engine: Recording, tmp_path: Path) -> AsyncIterator[Worker]:
    made = Worker(name="w", engine=engine, artifacts=FolderStore(tmp_path), slots=16, models=MODELS)
    await made.report()  # as the scheduler asks first
    yield made
    await made.close()


def spec(prompt: str = "go", model: str = "noop-batch") -> RunSpec:
    return RunSpec(job_id=uuid4(), attempt=1, kind=Kind.TEXT, model=model, input={"prompt": prompt})


async def outcomes(worker: Worker, wanted: Sequence[RunSpec]) -> list[Outcome]:
    """The outcome of each, as the watch stream tells it."""
    found: dict[tuple[UUID, int], Outcome] = {}
    async with asyncio.timeout(30):
        async for batch in worker.watch():
            found.update({outcome.key: outcome for outcome in batch.outcomes})
            if all(each.key in found for each in wanted):
                return [found[each.key] for each in wanted]
    raise AssertionError("the stream ended")


async def test_jobs_of_a_model_that_start_together_are_calls_of_as_many_as_the_engine_takes(
    worker: Worker, engine: Recording
) -> None:
    jobs = [spec() for _ in range(10)]
    assert set(await worker.start(jobs)) == {StartAnswer.STARTED}
    assert {outcome.ending for outcome in await outcomes(worker, jobs)} == {Ending.COMPLETED}
    assert engine.calls == [4, 4, 2]


async def test_jobs_of_different_models_are_never_of_one_call(worker: Worker, engine: Recording) -> None:
    jobs = [spec(), spec(model="noop"), spec(), spec(model="noop")]
    await worker.start(jobs)
    assert {outcome.ending for outcome in await outcomes(worker, jobs)} == {Ending.COMPLETED}
    assert engine.calls == [2, 2]


async def test_one_that_fails_in_a_batch_fails_alone(worker: Worker) -> None:
    jobs = [spec(), spec("fail bad"), spec()]
    await worker.start(jobs)
    first, second, third = await outcomes(worker, jobs)
    assert (first.ending, third.ending) == (Ending.COMPLETED, Ending.COMPLETED)
    assert second.ending is Ending.FAILED
    assert second.error is not None and second.error["code"] == "bad_output"


async def test_one_that_is_cancelled_in_a_batch_ends_alone_and_the_finished_do_not_wait_for_it(worker: Worker) -> None:
    quick, slow, other = jobs = [spec(), spec("sleep 30"), spec("sleep 0.3")]
    await worker.start(jobs)
    assert [each.ending for each in await outcomes(worker, [quick])] == [Ending.COMPLETED]
    await worker.cancel([slow.key])
    ended = await outcomes(worker, [slow, other])
    assert [each.ending for each in ended] == [Ending.CANCELLED, Ending.COMPLETED]


async def test_a_call_that_breaks_fails_those_that_had_not_ended(worker: Worker, engine: Recording) -> None:
    engine.breaks = True
    jobs = [spec(), spec(), spec()]
    await worker.start(jobs)
    first, *others = await outcomes(worker, jobs)
    assert first.ending is Ending.COMPLETED
    assert [each.ending for each in others] == [Ending.FAILED, Ending.FAILED]


async def test_one_that_is_deaf_to_its_cancel_is_given_up_and_the_others_go_on(
    worker: Worker, engine: Recording, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_module, "CANCEL_GRACE_S", 0.2)
    engine.deaf = True
    jobs = [spec("sleep 30"), spec("sleep 1.5")]
    await worker.start(jobs)
    async with asyncio.timeout(20):
        while (await engine.capacity()).running < 2:  # noqa: ASYNC110 (the engine tells nobody)
            await asyncio.sleep(0.01)
    await worker.cancel([jobs[0].key])
    deaf, other = await outcomes(worker, jobs)
    assert deaf.ending is Ending.FAILED
    assert deaf.error is not None and deaf.error["code"] == "stuck"
    assert other.ending is Ending.COMPLETED


async def test_slots_are_counted_by_jobs_and_free_again_when_they_have_ended(worker: Worker) -> None:
    jobs = [spec("sleep 0.2") for _ in range(20)]
    answers = await worker.start(jobs)
    assert answers == [StartAnswer.STARTED] * 16 + [StartAnswer.BUSY] * 4
    await outcomes(worker, jobs[:16])
    assert await worker.start(jobs[16:]) == [StartAnswer.STARTED] * 4
    await outcomes(worker, jobs[16:])


async def test_an_engine_that_takes_one_job_at_a_time_is_called_for_each(tmp_path: Path) -> None:
    engine = Recording(batch_max=1)
    worker = Worker(name="w", engine=engine, artifacts=FolderStore(tmp_path), slots=16, models=MODELS)
    await worker.report()
    jobs = [spec() for _ in range(3)]
    await worker.start(jobs)
    await outcomes(worker, jobs)
    assert engine.calls == []
    await worker.close()

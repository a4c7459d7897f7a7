"""The worker around an engine: what it adopts, loads and unloads."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import pytest

from deployments.noop import NoopDevice, NoopEngine
from deployments.noop_backend import NoopBackend
from deployments.preview.engine import PreviewEngine
from deployments.worker import Worker
from tessera.artifacts import FolderStore
from tessera.engine import RunState, backend_id
from tessera.errors import Busy, EngineError, OutOfMemory
from tessera.jobs import Kind
from tessera.runs import Ending, Outcome, RunSpec, StartAnswer

HEAVY = ("noop-a", "noop-b", "noop-c")


def spec(prompt: str = "sleep 30", model: str = "noop-a") -> RunSpec:
    return RunSpec(job_id=uuid4(), attempt=1, kind=Kind.TEXT, model=model, input={"prompt": prompt})


def worker_of(engine: NoopEngine | PreviewEngine, folder: Path) -> Worker:
    return Worker(name="w", engine=engine, artifacts=FolderStore(folder), slots=2, models=HEAVY)


@pytest.fixture
async def worker(tmp_path: Path) -> AsyncIterator[Worker]:
    """Two slots, a device for two models of three."""
    made = worker_of(NoopEngine(HEAVY, slots=2, device=NoopDevice(12_000), load_s=0.05), tmp_path)
    yield made
    await made.close()


async def outcome_of(worker: Worker, wanted: RunSpec) -> Outcome:
    async with asyncio.timeout(10):
        async for batch in worker.watch():
            for outcome in batch.outcomes:
                if outcome.key == wanted.key:
                    return outcome
    raise AssertionError("the stream ended")


async def test_a_start_that_is_repeated_is_the_same_run_while_it_goes_on_and_when_it_has_ended(
    tmp_path: Path,
) -> None:
    worker = worker_of(NoopEngine(["noop"], slots=2), tmp_path)
    wanted = spec("sleep 0.2", "noop")
    assert await worker.start([wanted]) == [StartAnswer.STARTED]
    assert await worker.start([wanted]) == [StartAnswer.KNOWN]
    assert (await outcome_of(worker, wanted)).ending is Ending.COMPLETED
    assert await worker.start([wanted]) == [StartAnswer.KNOWN]
    assert [(run.job_id, run.attempt) for run in (await worker.report()).runs] == [wanted.key]
    await worker.close()


async def test_an_outcome_is_told_on_every_watch_until_it_is_acknowledged(tmp_path: Path) -> None:
    worker = worker_of(NoopEngine(["noop"], slots=2), tmp_path)
    wanted = spec("go", "noop")
    await worker.start([wanted])
    for _ in range(3):
        assert (await outcome_of(worker, wanted)).ending is Ending.COMPLETED
    await worker.ack([wanted.key])
    first = await anext(aiter(worker.watch()))
    assert (list(first.outcomes), list(first.running)) == ([], [])
    assert (await worker.report()).runs == []
    await worker.close()


async def test_when_a_result_is_told_its_bytes_are_stored(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    engine = PreviewEngine(["preview-image"], 1)
    worker = Worker(name="w", engine=engine, artifacts=store, slots=1, models=["preview-image"])
    picture = {"prompt": "a lighthouse", "width": 64, "height": 64, "count": 2, "seed": 1}
    wanted = RunSpec(job_id=uuid4(), attempt=1, kind=Kind.IMAGE, model="preview-image", input=picture)
    await worker.start([wanted])
    outcome = await outcome_of(worker, wanted)
    assert (outcome.ending, len(outcome.files)) == (Ending.COMPLETED, 2)
    for file in outcome.files:
        assert await store.size(file.sha256) == file.bytes
        assert file.thumbnail_sha256 is not None and await store.size(file.thumbnail_sha256)
    await worker.close()


async def test_a_model_is_loaded_told_and_unloaded(worker: Worker) -> None:
    stream = worker.watch()
    assert (await anext(stream)).resident == ()
    await worker.ensure("noop-a")
    assert (await anext(stream)).resident == ("noop-a",)  # at once, not with the next heartbeat
    assert (await worker.report()).resident == ("noop-a",)
    await worker.release()
    assert (await anext(stream)).resident == ()
    await stream.aclose()


async def test_a_model_that_does_not_fit_is_refused_to_who_asked(worker: Worker) -> None:
    await worker.ensure("noop-a")
    await worker.ensure("noop-b")
    with pytest.raises(OutOfMemory):
        await worker.ensure("noop-c")
    assert (await worker.report()).resident == ("noop-a", "noop-b")


async def test_a_release_is_refused_under_a_run_of_the_model_and_waits_for_no_other(worker: Worker) -> None:
    await worker.ensure("noop-a")
    await worker.ensure("noop-b")
    running = spec(model="noop-a")
    await worker.start([running])
    with pytest.raises(Busy, match="noop-a"):
        await worker.release()
    assert (await worker.report()).resident == ("noop-a", "noop-b")
    await worker.release(["noop-b"])
    assert (await worker.report()).resident == ("noop-a",)
    await worker.cancel([running.key])
    assert (await outcome_of(worker, running)).ending is Ending.CANCELLED
    await worker.release()
    assert (await worker.report()).resident == ()


async def test_no_run_begins_on_a_model_that_is_being_unloaded(tmp_path: Path) -> None:
    worker = worker_of(NoopEngine(HEAVY, slots=2, load_s=0, unload_s=0.2), tmp_path)
    await worker.ensure("noop-a")
    await worker.ensure("noop-b")
    unloading = asyncio.create_task(worker.release(["noop-a"]))
    await asyncio.sleep(0.05)
    assert await worker.start([spec(model="noop-a"), spec("go", model="noop-b")]) == [
        StartAnswer.BUSY,
        StartAnswer.STARTED,
    ]
    await unloading
    await worker.close()


async def test_a_load_goes_on_when_its_caller_leaves(worker: Worker) -> None:
    caller = asyncio.create_task(worker.ensure("noop-a"))
    await asyncio.sleep(0.01)
    caller.cancel()
    await asyncio.gather(caller, return_exceptions=True)
    await worker.release([])  # waits for its turn behind the load
    assert (await worker.report()).resident == ("noop-a",)


async def test_an_attempt_that_the_backend_never_had_is_lost_and_one_that_runs_here_is_known(worker: Worker) -> None:
    await worker.ensure("noop-a")
    running = spec()
    await worker.start([running])
    assert await worker.adopt([spec(), running]) == [StartAnswer.LOST, StartAnswer.KNOWN]
    assert [run.key for run in (await worker.report()).runs] == [running.key]


@pytest.fixture
async def successor(tmp_path: Path) -> AsyncIterator[Worker]:
    """A new process over a backend that has a run of each kind from a process that was lost."""
    backend = NoopBackend(tmp_path / "backend")
    backend.submit(backend_id(RUNNING.job_id, 1), 30)
    backend.submit(backend_id(ENDED.job_id, 1), 0)
    backend.submit(backend_id(FAILED.job_id, 1), 0, "oom")
    backend.submit(backend_id(CANCELLED.job_id, 1), 30)
    backend.cancel(backend_id(CANCELLED.job_id, 1))
    made = worker_of(NoopEngine(HEAVY, slots=2, backend=NoopBackend(tmp_path / "backend")), tmp_path)
    yield made
    await made.close()


RUNNING, ENDED, FAILED, CANCELLED = (spec() for _ in range(4))


async def test_what_the_backend_has_goes_on_under_the_same_attempt_and_what_it_lost_does_not(
    successor: Worker, tmp_path: Path
) -> None:
    assert await successor.adopt([RUNNING, ENDED, FAILED, CANCELLED]) == [
        StartAnswer.STARTED,
        StartAnswer.STARTED,
        StartAnswer.LOST,
        StartAnswer.LOST,
    ]
    assert await successor.adopt([RUNNING]) == [StartAnswer.KNOWN]
    collected = await outcome_of(successor, ENDED)
    assert (collected.ending, collected.attempt) == (Ending.COMPLETED, 1)
    await successor.cancel([RUNNING.key])
    assert (await outcome_of(successor, RUNNING)).ending is Ending.CANCELLED
    assert len(NoopBackend(tmp_path / "backend").runs()) == 4


async def test_a_run_that_no_slot_is_left_for_is_adopted_later(successor: Worker) -> None:
    await successor._engine.ensure("noop-a")
    others = [spec(), spec()]
    await successor.start(others)
    assert await successor.adopt([RUNNING]) == [StartAnswer.BUSY]
    await successor.cancel([others[0].key])
    await outcome_of(successor, others[0])
    assert await successor.adopt([RUNNING]) == [StartAnswer.STARTED]


async def test_a_worker_that_ends_leaves_the_runs_of_a_backend_that_outlives_it_alone(
    successor: Worker, tmp_path: Path
) -> None:
    await successor.adopt([RUNNING])
    await asyncio.sleep(0.05)
    await successor.close()
    assert NoopBackend(tmp_path / "backend").state(backend_id(RUNNING.job_id, 1)) is RunState.RUNNING


async def test_a_cancel_of_a_run_that_this_process_never_had_reaches_the_backend(
    successor: Worker, tmp_path: Path
) -> None:
    stream = successor.watch()
    await anext(stream)
    await successor.cancel([RUNNING.key])
    assert NoopBackend(tmp_path / "backend").state(backend_id(RUNNING.job_id, 1)) is RunState.CANCELLED
    assert [outcome.ending for outcome in (await anext(stream)).outcomes] == [Ending.CANCELLED]
    await stream.aclose()


class Silent(NoopEngine):
    """A backend that does not answer."""

    async def reconcile(self, job_id: object, attempt: int) -> RunState:
        raise EngineError("connection refused")


async def test_an_attempt_that_nobody_can_ask_for_is_not_called_lost(tmp_path: Path) -> None:
    worker = worker_of(Silent(HEAVY), tmp_path)
    assert await worker.adopt([spec()]) == [StartAnswer.BUSY]
    assert (await worker.report()).runs == []
    await worker.close()


async def test_a_preview_has_nothing_to_unload(tmp_path: Path) -> None:
    worker = worker_of(PreviewEngine(["preview-text"]), tmp_path)
    await worker.ensure("preview-text")
    await worker.release()
    assert (await worker.report()).resident == ("preview-text",)
    await worker.close()

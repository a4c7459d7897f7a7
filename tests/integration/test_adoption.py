"""A worker's process is replaced while its backend goes on: what runs there is taken up, collected, or run again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import UUID

import asyncpg
import pytest

from deployments.noop import NoopEngine
from deployments.noop_backend import NoopBackend
from deployments.worker import Worker
from tessera.engine import RunState, backend_id
from tessera.errors import EngineError
from tests.integration.conftest import add_user
from tests.integration.test_dispatcher import Platform


class Detached(Platform):
    """A platform whose worker's backend outlives it. ``mute`` backends answer nobody who reconciles."""

    mute = False

    def __init__(self, dsn: str, connection: asyncpg.Connection, folder: Path, user: UUID) -> None:
        self.backend_folder = folder / "backend"
        super().__init__(dsn, connection, folder / "artifacts", user)

    def new_worker(self) -> Worker:
        engine = Mutable(self, slots=8, backend=self.backend)
        return Worker(name="w", engine=engine, artifacts=self.store, slots=8, models=["noop"])

    @property
    def backend(self) -> NoopBackend:
        return NoopBackend(self.backend_folder)

    async def replace_worker(self) -> None:
        """SIGKILL, and a new process."""
        await self.worker.kill()
        self.worker.replace(self.new_worker())

    async def running(self, *prompts: str) -> list[UUID]:
        """Jobs that run on the worker and in its backend."""
        jobs = [await self.submit(prompt) for prompt in prompts]

        async def all_run() -> bool:
            return {self.in_backend(job) for job in jobs} <= {RunState.RUNNING, RunState.DONE}

        await self.until(all_run)
        return jobs

    def in_backend(self, job: UUID, attempt: int = 1) -> RunState:
        return self.backend.state(backend_id(job, attempt))

    def forget(self, job: UUID) -> None:
        """The backend loses a run."""
        (self.backend_folder / f"{backend_id(job, 1)}.json").unlink()

    async def attempts(self) -> set[int]:
        return {row["attempt"] for row in await self.connection.fetch("SELECT attempt FROM jobs")}


class Mutable(NoopEngine):
    """Whose backend may be out of reach."""

    def __init__(self, platform: Detached, slots: int, backend: NoopBackend) -> None:
        super().__init__(slots=slots, backend=backend)
        self._platform = platform

    async def reconcile(self, job_id: UUID, attempt: int) -> RunState:
        if self._platform.mute:
            raise EngineError("connection refused")
        return await super().reconcile(job_id, attempt)


@pytest.fixture
async def platform(database_url: str, connection: asyncpg.Connection, tmp_path: Path) -> AsyncIterator[Detached]:
    user = await add_user(connection, daily_mt=1_000_000, max_queued=1000, max_running=100, submissions_per_min=10_000)
    made = Detached(database_url, connection, tmp_path, user)
    yield made
    await made.close()


async def test_a_job_that_the_backend_finished_meanwhile_is_collected_and_not_run_again(platform: Detached) -> None:
    platform.start_scheduler()
    [job] = await platform.running("sleep 0.6")
    await platform.worker.kill()
    await asyncio.sleep(0.7)
    assert platform.in_backend(job) is RunState.DONE
    assert await platform.state(job) == "running"
    platform.worker.replace(platform.new_worker())
    assert await platform.final(job) == ["completed"]
    assert await platform.attempts() == {1}
    assert platform.backend.runs() == [backend_id(job, 1)]
    await platform.books()


async def test_jobs_that_the_backend_still_runs_go_on_under_the_same_attempt(platform: Detached) -> None:
    platform.start_scheduler()
    jobs = await platform.running(*["sleep 3"] * 4)
    await platform.replace_worker()
    await platform.replace_worker()  # and once more
    assert await platform.final(*jobs) == ["completed"] * 4
    assert await platform.attempts() == {1}
    assert await platform.connection.fetchval("SELECT sum(failures) FROM jobs") == 0
    assert len(platform.backend.runs()) == 4
    await platform.books()


async def test_a_run_that_the_backend_lost_too_is_run_again(platform: Detached) -> None:
    platform.start_scheduler()
    [kept, lost] = await platform.running("sleep 2", "sleep 2")
    await platform.worker.kill()
    platform.forget(lost)
    platform.worker.replace(platform.new_worker())
    assert await platform.final(kept, lost) == ["completed"] * 2
    rows = await platform.connection.fetch("SELECT id, attempt, failures FROM jobs")
    assert {row["id"]: (row["attempt"], row["failures"]) for row in rows} == {kept: (1, 0), lost: (2, 1)}
    await platform.books()


async def test_a_manifest_comes_before_the_backend(platform: Detached) -> None:
    platform.start_scheduler()
    [job] = await platform.running("sleep 1.5")
    platform.worker.unplug()  # the run ends, its manifest is written, and nobody hears of it
    await asyncio.sleep(2)
    platform.forget(job)
    await platform.worker.kill()
    platform.worker.replace(platform.new_worker())
    assert await platform.final(job) == ["completed"]
    assert await platform.attempts() == {1}
    assert platform.backend.runs() == []
    await platform.books()


async def test_a_backend_that_does_not_answer_is_asked_again_and_nothing_is_run_twice(platform: Detached) -> None:
    platform.start_scheduler()
    [job] = await platform.running("sleep 1")
    platform.mute = True
    await platform.replace_worker()
    await asyncio.sleep(2.5)
    assert await platform.state(job) == "running"
    platform.mute = False
    assert await platform.final(job) == ["completed"]
    assert await platform.attempts() == {1}
    assert len(platform.backend.runs()) == 1
    await platform.books()


async def test_a_cancel_reaches_a_run_whose_process_is_gone(platform: Detached) -> None:
    platform.start_scheduler()
    [job] = await platform.running("sleep 60")
    await platform.worker.kill()
    await platform.connection.fetchval("SELECT request_cancel($1, $2)", job, platform.user)
    platform.worker.replace(platform.new_worker())
    assert await platform.final(job) == ["cancelled"]

    async def stopped() -> bool:
        return platform.in_backend(job) is RunState.CANCELLED

    await platform.until(stopped)
    assert len(platform.backend.runs()) == 1
    await platform.books()


async def test_a_new_leader_finds_what_a_replaced_worker_left_in_the_backend(platform: Detached) -> None:
    scheduler = platform.start_scheduler()
    [job] = await platform.running("sleep 1")
    scheduler.cancel()
    await asyncio.gather(scheduler, return_exceptions=True)
    await platform.replace_worker()
    platform.start_scheduler()
    assert await platform.final(job) == ["completed"]
    assert await platform.attempts() == {1}
    assert len(platform.backend.runs()) == 1
    await platform.books()

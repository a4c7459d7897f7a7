"""The dispatcher and the worker against a real Postgres, without Ray: what happens to jobs when parts go away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import asyncpg
import pytest

from deployments.noop import NoopDevice, NoopEngine
from deployments.worker import Worker
from tessera.admission import Admission, Submission
from tessera.artifacts import FolderStore
from tessera.catalog import catalog_of
from tessera.errors import ModelMissing, NotFound
from tessera.ids import new_id
from tessera.ports import WaitCode
from tessera.runs import RunKey, WorkerAway
from tessera.scheduler.board import DeviceSpec
from tessera.scheduler.dispatcher import Dispatcher, WorkerSpec
from tessera.scheduler.explain import explain
from tessera.store.audit import audit
from tests.fakes.workers import LocalWorker
from tests.integration.conftest import add_user

HEAVY = ("noop-a", "noop-b", "noop-c")


class Platform:
    """One dispatcher, one worker of 8 slots, one user with room."""

    def __init__(self, dsn: str, connection: asyncpg.Connection, folder: Path, user: UUID) -> None:
        self.dsn, self.connection, self.user = dsn, connection, user
        self.store = FolderStore(folder)
        self.admission = Admission(dsn)
        self.worker = LocalWorker(self.new_worker())
        self.tasks: list[asyncio.Task[None]] = []

    def new_worker(self) -> Worker:
        return Worker(name="w", engine=NoopEngine(slots=8), artifacts=self.store, slots=8, models=["noop"])

    def start_scheduler(self, **options: float) -> asyncio.Task[None]:
        dispatcher = Dispatcher(
            dsn=self.dsn,
            workers=[WorkerSpec(name="w", models=["noop"], slots=8, port=self.worker)],
            artifacts=self.store,
            catalog=catalog_of(["noop"]),
            holder="test",
            lease_s=options.get("lease_s", 3.0),
            random_source=lambda: 0.0,
        )
        task = asyncio.create_task(dispatcher.run())
        self.tasks.append(task)
        return task

    def start_gpu(self, engine: NoopEngine) -> Dispatcher:
        """A scheduler with one worker of 4 slots for the heavy models, on a device that holds two of them."""
        worker = Worker(name="gpu", engine=engine, artifacts=self.store, slots=4, models=HEAVY)
        self.worker = LocalWorker(worker)
        dispatcher = Dispatcher(
            dsn=self.dsn,
            workers=[WorkerSpec(name="gpu", models=HEAVY, slots=4, port=self.worker, device="gpu")],
            devices=[DeviceSpec(name="gpu", vram_mib=12_000)],
            artifacts=self.store,
            catalog=catalog_of(HEAVY),
            holder="test",
            random_source=lambda: 0.0,
        )
        self.tasks.append(asyncio.create_task(dispatcher.run()))
        return dispatcher

    async def submit(self, prompt: str = "go", model: str = "noop", **values: object) -> UUID:
        job = Submission(
            id=new_id(), user_id=self.user, kind="text", model=model, input={"prompt": prompt}, cost_mt=1000, **values
        )
        return (await self.admission.submit(job)).job_id

    async def state(self, job: UUID) -> str:
        return await self.connection.fetchval("SELECT state FROM jobs WHERE id = $1", job)

    async def until(self, check: Callable[[], Awaitable[object]], seconds: float = 20.0) -> None:
        async with asyncio.timeout(seconds):
            while not await check():  # noqa: ASYNC110 (Postgres tells nobody)
                await asyncio.sleep(0.03)

    async def final(self, *jobs: UUID, seconds: float = 30.0) -> list[str]:
        async def ended() -> bool:
            left = await self.connection.fetchval(
                "SELECT count(*) FROM jobs WHERE id = ANY($1) AND finished_at IS NULL", list(jobs)
            )
            return left == 0

        await self.until(ended, seconds)
        return [await self.state(job) for job in jobs]

    async def books(self) -> None:
        """Ledger, projection and the hot row say the same, and each job has one hold and one end."""
        mismatch = await self.connection.fetch(
            "SELECT user_id, day FROM (SELECT user_id, day, sum(amount_mt) s FROM token_ledger GROUP BY 1, 2) l"
            " FULL JOIN (SELECT user_id, day, sum(used_mt) s FROM usage_daily GROUP BY 1, 2) u USING (user_id, day)"
            " WHERE l.s IS DISTINCT FROM u.s"
        )
        assert mismatch == []
        state = await self.connection.fetchrow(
            "SELECT used_mt, queued, running FROM user_state WHERE user_id=$1", self.user
        )
        used = await self.connection.fetchval("SELECT sum(used_mt) FROM usage_daily WHERE user_id=$1", self.user)
        assert (state["used_mt"], state["queued"], state["running"]) == (used or 0, 0, 0)
        ends = await self.connection.fetch(
            "SELECT j.id FROM jobs j LEFT JOIN token_ledger t ON t.job_id = j.id AND t.entry <> 'grant'"
            " GROUP BY j.id, j.charged_mt HAVING count(*) <> 2 OR sum(t.amount_mt) IS DISTINCT FROM j.charged_mt"
        )
        assert ends == []

    async def close(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        await self.admission.close()
        await self.worker.worker.close()


@pytest.fixture
async def platform(database_url: str, connection: asyncpg.Connection, tmp_path: Path) -> AsyncIterator[Platform]:
    user = await add_user(
        connection, "pro", daily_mt=10_000_000, max_queued=10_000, max_running=8, submissions_per_min=100_000
    )
    made = Platform(database_url, connection, tmp_path / "artifacts", user)
    yield made
    await made.close()


async def test_a_submitted_job_runs_and_is_charged_once(platform: Platform) -> None:
    platform.start_scheduler()
    job = await platform.submit()
    assert await platform.final(job) == ["completed"]
    types = await platform.connection.fetch("SELECT type, job_seq FROM job_events WHERE job_id=$1 ORDER BY seq", job)
    assert [(row["type"], row["job_seq"]) for row in types] == [("queued", 1), ("started", 2), ("completed", 3)]
    await platform.books()


async def test_jobs_queued_while_no_scheduler_runs_are_found_by_the_next_one(platform: Platform) -> None:
    jobs = [await platform.submit() for _ in range(50)]
    platform.start_scheduler()
    assert set(await platform.final(*jobs)) == {"completed"}
    await platform.books()


async def test_a_scheduler_that_dies_amid_runs_loses_none_and_runs_none_twice(platform: Platform) -> None:
    first = platform.start_scheduler()
    jobs = [await platform.submit("sleep 0.5") for _ in range(30)]

    async def some_run() -> bool:
        return bool(await platform.connection.fetchval("SELECT count(*) FROM jobs WHERE state = 'running'"))

    await platform.until(some_run)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    platform.start_scheduler()
    assert set(await platform.final(*jobs)) == {"completed"}
    attempts = await platform.connection.fetchval("SELECT max(attempt) FROM jobs")
    assert attempts == 1  # what ran meanwhile was collected, not run again
    await platform.books()


async def test_jobs_of_a_worker_that_lost_its_process_are_run_again(platform: Platform) -> None:
    platform.start_scheduler()
    jobs = [await platform.submit("sleep 3") for _ in range(4)]

    async def all_run() -> bool:
        return await platform.connection.fetchval("SELECT count(*) FROM jobs WHERE state = 'running'") == 4

    await platform.until(all_run)
    old = platform.worker.worker
    platform.worker.replace(platform.new_worker())
    await old.close()
    assert set(await platform.final(*jobs)) == {"completed"}
    assert await platform.connection.fetchval("SELECT min(attempt) FROM jobs") == 2
    await platform.books()


async def test_a_cut_line_to_a_worker_costs_no_second_run(platform: Platform) -> None:
    platform.start_scheduler()
    jobs = [await platform.submit("sleep 1") for _ in range(4)]

    async def all_run() -> bool:
        return await platform.connection.fetchval("SELECT count(*) FROM jobs WHERE state = 'running'") == 4

    await platform.until(all_run)
    platform.worker.unplug()
    await asyncio.sleep(1.5)  # the runs end while nobody hears of it
    platform.worker.plug()
    assert set(await platform.final(*jobs)) == {"completed"}
    assert await platform.connection.fetchval("SELECT max(attempt) FROM jobs") == 1
    # The link watches the worker again.
    assert await platform.final(await platform.submit(), seconds=10) == ["completed"]
    await platform.books()


async def test_an_ack_that_is_lost_while_the_stream_goes_on_is_sent_again(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    ack, lost = platform.worker.ack, []

    async def first_is_lost(keys: Sequence[RunKey]) -> None:
        if not lost:
            lost.extend(keys)
            raise WorkerAway("the call was lost, not the stream")
        await ack(keys)

    monkeypatch.setattr(platform.worker, "ack", first_is_lost)
    platform.start_scheduler()
    job = await platform.submit()
    assert await platform.final(job) == ["completed"]

    async def forgotten() -> bool:
        return bool(lost) and not (await platform.worker.report()).runs

    await platform.until(forgotten)


async def test_a_queued_job_is_cancelled_at_once_and_refunded(platform: Platform) -> None:
    job = await platform.submit()
    await platform.connection.fetchval("SELECT request_cancel($1, $2)", job, platform.user)
    assert await platform.state(job) == "cancelled"
    platform.start_scheduler()
    other = await platform.submit()
    assert await platform.final(other) == ["completed"]
    assert await platform.state(job) == "cancelled"
    await platform.books()


async def test_a_running_job_is_cancelled_and_charged_only_for_what_ran(platform: Platform) -> None:
    platform.start_scheduler()
    job = await platform.submit("sleep 10")

    async def runs() -> bool:
        return await platform.state(job) == "running"

    await platform.until(runs)
    await asyncio.sleep(0.6)
    await platform.connection.fetchval("SELECT request_cancel($1, $2)", job, platform.user)
    assert await platform.final(job, seconds=5) == ["cancelled"]
    charged = await platform.connection.fetchval("SELECT charged_mt FROM jobs WHERE id = $1", job)
    assert 0 < charged < 500
    await platform.books()


async def test_a_job_that_fails_for_good_is_refunded_and_says_why(platform: Platform) -> None:
    platform.start_scheduler()
    job = await platform.submit("fail invalid")
    assert await platform.final(job) == ["failed"]
    row = await platform.connection.fetchrow("SELECT error, charged_mt, attempt FROM jobs WHERE id = $1", job)
    assert (row["error"]["code"], row["charged_mt"], row["attempt"]) == ("invalid_input", 0, 1)
    await platform.books()


async def test_an_engine_that_withholds_its_results_is_charged_for_from_the_fourth_of_a_day(platform: Platform) -> None:
    platform.start_scheduler()
    jobs = [await platform.submit("fail withheld") for _ in range(4)]
    assert await platform.final(*jobs) == ["failed"] * 4
    rows = await platform.connection.fetch("SELECT error, charged_mt, attempt FROM jobs WHERE id = ANY($1)", jobs)
    assert {(row["error"]["code"], row["attempt"]) for row in rows} == {("content_withheld", 1)}
    assert sorted(row["charged_mt"] for row in rows) == [0, 0, 0, 1000]
    assert (await audit(platform.dsn)).balanced


async def test_a_deadline_that_passes_in_the_queue_expires_the_job_and_refunds_it(platform: Platform) -> None:
    platform.worker.unplug()
    platform.start_scheduler()
    job = await platform.submit(deadline=datetime.now(UTC) + timedelta(seconds=0.5))
    assert await platform.final(job, seconds=10) == ["expired"]
    await platform.books()


async def test_a_job_for_later_is_created_and_runs_when_it_is_due(platform: Platform) -> None:
    platform.start_scheduler()
    job = await platform.submit(not_before=datetime.now(UTC) + timedelta(seconds=1))
    assert await platform.state(job) == "created"
    assert await platform.final(job, seconds=10) == ["completed"]
    await platform.books()


async def test_a_lost_connection_to_postgres_ends_the_term_and_nothing_else(platform: Platform) -> None:
    platform.start_scheduler()
    jobs = [await platform.submit("sleep 0.3") for _ in range(20)]
    await platform.connection.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    jobs += [await platform.submit() for _ in range(5)]
    assert set(await platform.final(*jobs)) == {"completed"}
    assert await platform.connection.fetchval("SELECT max(attempt) FROM jobs") == 1
    await platform.books()


async def test_a_submission_that_postgres_reads_too_late_is_refused_and_holds_nothing(platform: Platform) -> None:
    late = Submission(id=new_id(), user_id=platform.user, kind="text", model="noop", input={}, cost_mt=1000)
    rows = [late.row(0, until=datetime.now(UTC) - timedelta(seconds=1))]
    assert await platform.connection.fetchval("SELECT outcome FROM admit($1)", rows) == "too_late"
    assert await platform.connection.fetchval("SELECT count(*) FROM jobs") == 0
    await platform.books()


async def test_a_repeat_of_a_job_that_was_pruned_meanwhile_is_refused_and_others_of_its_batch_are_not(
    platform: Platform,
) -> None:
    answers = await asyncio.gather(platform.submit(retried_from=new_id()), platform.submit(), return_exceptions=True)
    assert isinstance(answers[0], NotFound)
    assert await platform.state(answers[1]) == "queued"  # type: ignore[arg-type]
    assert await platform.connection.fetchval("SELECT count(*) FROM token_ledger") == 1


async def test_jobs_of_a_paused_kind_wait_and_start_when_the_pause_is_taken_back(platform: Platform) -> None:
    await platform.connection.execute("INSERT INTO queue_pauses (kind, message, actor) VALUES ('text', 'soon', 'op')")
    platform.start_scheduler()
    jobs = [await platform.submit() for _ in range(3)]
    await asyncio.sleep(1.5)
    assert [await platform.state(job) for job in jobs] == ["queued"] * 3
    await platform.connection.execute("DELETE FROM queue_pauses")
    assert await platform.final(*jobs) == ["completed"] * 3
    await platform.books()


async def test_models_that_do_not_fit_together_are_swapped_and_every_job_runs(platform: Platform) -> None:
    """A device for two of three heavy models: the engine itself raises OutOfMemory if it is ever oversold."""
    platform.start_gpu(NoopEngine(HEAVY, 4, device=NoopDevice(12_000), load_s=0.05))
    jobs = [await platform.submit("sleep 0.05", model=HEAVY[n % 3]) for n in range(30)]
    assert await platform.final(*jobs) == ["completed"] * 30
    assert await platform.connection.fetchval("SELECT max(attempt) FROM jobs") == 1
    await platform.books()


async def test_three_engines_share_one_gpu_by_its_memory_and_none_is_starved(platform: Platform) -> None:
    """One worker each, as on a PC with ComfyUI, KoboldCPP and Whisper; the device raises OutOfMemory if oversold."""
    gpu = NoopDevice(12_000)
    taken: list[int] = []

    class Watched(NoopEngine):
        async def ensure(self, model: str) -> None:
            await super().ensure(model)
            taken.append(gpu.used_mib)

    specs = []
    for model in HEAVY:
        engine = Watched([model], 1, device=gpu, load_s=0.02)
        worker = Worker(name=f"of-{model}", engine=engine, artifacts=platform.store, slots=1, models=[model])
        specs.append(WorkerSpec(name=f"of-{model}", models=[model], slots=1, port=LocalWorker(worker), device="gpu"))
    dispatcher = Dispatcher(
        dsn=platform.dsn,
        workers=specs,
        devices=[DeviceSpec(name="gpu", vram_mib=12_000)],
        artifacts=platform.store,
        catalog=catalog_of(HEAVY),
        holder="test",
        random_source=lambda: 0.0,
    )
    platform.tasks.append(asyncio.create_task(dispatcher.run()))
    jobs = [await platform.submit("sleep 0.02", model=HEAVY[n % 3]) for n in range(18)]
    assert await platform.final(*jobs) == ["completed"] * 18
    assert await platform.connection.fetchval("SELECT max(attempt) FROM jobs") == 1  # no run met OutOfMemory
    assert max(taken) == 12_000 and len(taken) >= 3
    await platform.books()


async def test_a_model_that_cannot_be_loaded_is_left_out_and_holds_up_nobody(platform: Platform) -> None:
    class Broken(NoopEngine):
        async def ensure(self, model: str) -> None:
            if model == "noop-a":
                raise ModelMissing("its file is not there")
            await super().ensure(model)

    dispatcher = platform.start_gpu(Broken(HEAVY, 4, device=NoopDevice(12_000), load_s=0.05))
    stuck = await platform.submit(model="noop-a")
    jobs = [await platform.submit(model=HEAVY[n % 2 + 1]) for n in range(10)]
    assert await platform.final(*jobs) == ["completed"] * 10
    assert await platform.state(stuck) == "queued"
    found = explain(dispatcher.board, stuck)
    assert found is not None
    assert found.reasons[0].code is WaitCode.EXCLUDED
    assert dispatcher.board.policy.devices["gpu"].loading is None


async def test_a_cancel_asked_for_while_the_worker_is_away_reaches_it_when_it_is_back(platform: Platform) -> None:
    platform.start_scheduler(lease_s=20.0)
    job = await platform.submit("sleep 15")

    async def runs() -> bool:
        return bool(platform.worker.worker._runs)

    await platform.until(runs)
    platform.worker.unplug()
    await platform.connection.execute("SELECT request_cancel($1, $2)", job, platform.user)
    await asyncio.sleep(1.0)
    assert await platform.state(job) == "running"
    platform.worker.plug()
    assert await platform.final(job, seconds=8) == ["cancelled"]
    await platform.books()


async def test_a_load_on_a_worker_that_goes_away_is_given_up_and_begun_again(
    platform: Platform,
) -> None:
    dispatcher = platform.start_gpu(NoopEngine(HEAVY, 4, device=NoopDevice(12_000), load_s=4.0))
    job = await platform.submit(model="noop-a")

    async def loads() -> bool:
        return dispatcher.board.policy.devices["gpu"].loading is not None

    async def gave_up() -> bool:
        return not await loads()

    await platform.until(loads)
    platform.worker.unplug()
    await platform.until(gave_up, 2.0)
    platform.worker.plug()
    assert await platform.final(job) == ["completed"]
    assert await platform.connection.fetchval("SELECT max(attempt) FROM jobs") == 1
    assert list(dispatcher.board.policy.devices["gpu"].resident) == ["noop-a"]
    await platform.books()

"""Drains: a worker or a node takes no new job, what runs ends, and its memory is given back once it is idle."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import asyncpg
import pytest

from deployments.noop import NoopDevice, NoopEngine
from deployments.worker import Worker
from tessera.artifacts import FolderStore
from tessera.catalog import catalog_of
from tessera.errors import Busy
from tessera.ids import new_id
from tessera.jobs import Kind
from tessera.runs import RunSpec, WorkerAway
from tessera.scheduler.board import Board, DeviceSpec
from tessera.scheduler.dispatcher import Dispatcher, WorkerSpec
from tessera.scheduler.drains import SETTLE_S, follow_drains
from tessera.scheduler.links import WorkerLink
from tessera.scheduler.notifier import Notifier
from tessera.store.database import Database, connect
from tests.fakes.workers import LocalWorker
from tests.integration.conftest import add_user
from tests.integration.test_dispatcher import Platform


class Counted(LocalWorker):
    """Counts how often it was asked to unload; ``refusals`` are raised first."""

    released = 0

    def __init__(self, worker: Worker) -> None:
        super().__init__(worker)
        self.refusals: list[Exception] = []

    async def release(self, models: Sequence[str] | None = None) -> None:
        self.released += 1
        if self.refusals:
            raise self.refusals.pop(0)
        await super().release(models)


class Scene:
    """A board with one worker of node pc1 on a link, and drains that are followed."""

    def __init__(self, folder: Path, database: Database) -> None:
        self.database = database
        self.engine = NoopEngine(["noop-a"], slots=2, device=NoopDevice(12_000), load_s=0)
        self.port = Counted(
            Worker(name="w", engine=self.engine, artifacts=FolderStore(folder), slots=2, models=["noop-a"])
        )
        self.board = Board(Notifier(), catalog_of(["noop-a"]))
        self.ended: list[str] = []
        self.link = self.board.links["w"] = WorkerLink(
            "w",
            self.port,
            models=["noop-a"],
            slots=2,
            node="pc1",
            on_events=lambda _: None,
            on_outcome=lambda _, outcome: self.ended.append(outcome.ending),
            on_change=self.board.changed.set,
        )

    async def drain(self, target: str = "w", kind: str = "worker", for_s: float = 60.0) -> None:
        async with self.database.transaction() as transaction:
            await transaction.row("set_drain", target=target, kind=kind, for_s=for_s, actor="test", reason="games")
            await transaction.execute("tell_drains_changed")

    async def resume(self, target: str = "w") -> None:
        async with self.database.transaction() as transaction:
            await transaction.row("clear_drain", target=target)
            await transaction.execute("tell_drains_changed")

    async def until(self, check: Callable[[], object]) -> None:
        """Wait until it holds."""
        async with asyncio.timeout(10):
            while not check():  # noqa: ASYNC110 (what is waited for is in Postgres, and in a task)
                await asyncio.sleep(0.02)


@pytest.fixture
async def scene(database: Database, database_url: str, tmp_path: Path) -> AsyncIterator[Scene]:
    made = Scene(tmp_path, database)
    connection = await connect(database_url, name="drains")
    made.link.start()
    following = asyncio.create_task(follow_drains(made.board, connection))
    await made.until(lambda: made.link.online)
    yield made
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)
    await made.link.stop()
    await made.port.worker.close()
    await connection.close()


async def test_a_drained_worker_takes_no_job_until_it_is_resumed(scene: Scene) -> None:
    assert scene.link.takes_jobs
    await scene.drain()
    await scene.until(lambda: scene.link.draining_until is not None)
    assert not scene.link.takes_jobs
    assert scene.link.status().draining_until == scene.link.draining_until
    assert scene.link.status().online
    scene.board.changed.clear()
    await scene.resume()
    await scene.until(lambda: scene.link.draining_until is None)
    assert scene.board.changed.is_set()  # somebody looks for work for it at once
    assert scene.link.takes_jobs


async def test_a_drain_of_a_node_is_one_of_its_workers_and_no_others(scene: Scene) -> None:
    await scene.drain("pc2", "node")
    await scene.drain("w", "node")  # a node that is called like the worker is another thing
    await asyncio.sleep(0.3)
    assert scene.link.draining_until is None
    await scene.drain("pc1", "node")
    await scene.until(lambda: scene.link.draining_until is not None)


async def test_a_worker_drains_as_long_as_its_own_drain_or_its_nodes_lasts(scene: Scene) -> None:
    await scene.drain("w", for_s=600)
    await scene.drain("pc1", "node", for_s=60)
    await scene.until(lambda: scene.link.draining_until is not None)
    longest = scene.link.draining_until
    await scene.resume("w")
    await scene.until(lambda: scene.link.draining_until != longest)
    assert scene.link.draining_until is not None
    await scene.resume("pc1")
    await scene.until(lambda: scene.link.draining_until is None)


async def test_a_drain_ends_by_itself(scene: Scene) -> None:
    await scene.drain(for_s=1.0)
    await scene.until(lambda: scene.link.draining_until is not None)
    await scene.until(lambda: scene.link.draining_until is None)
    assert scene.link.takes_jobs


async def test_an_idle_drained_worker_gives_its_memory_back_once(scene: Scene) -> None:
    await scene.port.ensure("noop-a")
    await scene.until(lambda: scene.link.resident == ("noop-a",))
    await scene.drain()
    await scene.until(lambda: scene.link.resident == ())
    assert (await scene.engine.capacity()).free_mib == 12_000
    await scene.drain(for_s=120)  # the same drain, with another end
    await asyncio.sleep(SETTLE_S + 1.5)
    assert scene.port.released == 1
    await scene.resume()
    await scene.until(lambda: scene.link.draining_until is None)
    await scene.drain()
    await scene.until(lambda: scene.port.released == 2)


async def test_a_running_job_ends_as_it_would_and_only_then_the_memory_is_given_back(scene: Scene) -> None:
    await scene.port.ensure("noop-a")
    spec = RunSpec(job_id=new_id(), attempt=1, kind=Kind.TEXT, model="noop-a", input={"prompt": "sleep 2.5"})
    await scene.link.begin([spec])
    scene.link.assigned.add(spec.key)
    await scene.drain()
    await scene.until(lambda: scene.ended)
    assert scene.ended == ["completed"]
    assert scene.port.released == 0
    assert scene.link.resident == ("noop-a",)
    scene.link.ended(spec.key)
    await scene.until(lambda: scene.link.resident == ())


async def test_a_release_that_failed_is_tried_again(scene: Scene) -> None:
    scene.port.refusals = [WorkerAway("cut"), Busy()]
    await scene.port.ensure("noop-a")
    await scene.drain()
    await scene.until(lambda: scene.link.resident == ())
    assert scene.port.released == 3


async def test_a_worker_that_is_away_is_freed_when_it_is_back(scene: Scene) -> None:
    await scene.port.ensure("noop-a")
    scene.port.unplug()
    await scene.until(lambda: not scene.link.online)
    await scene.drain()
    await asyncio.sleep(SETTLE_S + 0.5)
    assert scene.port.released == 0
    scene.port.plug()
    await scene.until(lambda: scene.port.released == 1)


async def test_a_drain_that_is_repeated_stays_the_same_and_one_after_its_end_is_another(
    connection: asyncpg.Connection, database: Database
) -> None:
    values = {"target": "w", "kind": "worker", "actor": "test", "reason": ""}
    first = await database.row("set_drain", for_s=60, **values)
    again = await database.row("set_drain", for_s=600, **values)
    assert first is not None and again is not None
    assert again["created_at"] == first["created_at"]
    assert (again["until"] - first["until"]).total_seconds() > 500
    await connection.execute("UPDATE drains SET until = now() - interval '1 second'")
    assert await database.rows("live_drains") == []
    assert await database.row("clear_drain", target="w") is None
    another = await database.row("set_drain", for_s=60, **values)
    assert another is not None
    assert another["created_at"] > first["created_at"]


async def test_only_workers_and_nodes_can_be_drained(connection: asyncpg.Connection) -> None:
    with pytest.raises(asyncpg.CheckViolationError, match="drains_kind_known"):
        await connection.execute("INSERT INTO drains (target, kind, until, actor) VALUES ('x', 'user', now(), 'test')")


# ------------------------------------------------------------------ with the whole scheduler


class Whole(Platform):
    """A scheduler with a worker that has two heavy models, on a device of 12,000 MiB."""

    def new_worker(self) -> Worker:
        self.engine = NoopEngine(["noop-a", "noop-b"], slots=2, device=NoopDevice(12_000), load_s=0.05)
        return Worker(name="w", engine=self.engine, artifacts=self.store, slots=2, models=["noop-a", "noop-b"])

    def start(self) -> Dispatcher:
        dispatcher = Dispatcher(
            dsn=self.dsn,
            workers=[
                WorkerSpec(name="w", models=["noop-a", "noop-b"], slots=2, port=self.worker, node="pc1", device="gpu")
            ],
            devices=[DeviceSpec(name="gpu", node="pc1", vram_mib=12_000)],
            artifacts=self.store,
            catalog=catalog_of(["noop-a", "noop-b"]),
            holder="test",
            lease_s=3.0,
            random_source=lambda: 0.0,
        )
        self.tasks.append(asyncio.create_task(dispatcher.run()))
        return dispatcher

    async def free_mib(self) -> int | None:
        return (await self.engine.capacity()).free_mib


@pytest.fixture
async def whole(database_url: str, connection: asyncpg.Connection, tmp_path: Path) -> AsyncIterator[Whole]:
    user = await add_user(connection, daily_mt=1_000_000, max_queued=1000, max_running=100, submissions_per_min=10_000)
    made = Whole(database_url, connection, tmp_path, user)
    yield made
    await made.close()


async def test_a_drain_lets_what_runs_end_and_what_is_queued_wait_and_counts_no_failure(
    whole: Whole, database: Database
) -> None:
    dispatcher = whole.start()
    running = await whole.submit("sleep 1.5", model="noop-a")

    async def runs() -> bool:
        return await whole.state(running) == "running"

    await whole.until(runs)
    await database.row("set_drain", target="pc1", kind="node", for_s=60.0, actor="test", reason="")
    link = dispatcher.board.links["w"]

    async def drains() -> bool:
        return link.draining_until is not None

    await whole.until(drains)
    waiting = await whole.submit(model="noop-a")
    assert await whole.final(running) == ["completed"]

    async def freed() -> bool:
        return await whole.free_mib() == 12_000

    await whole.until(freed)
    await asyncio.sleep(1.0)
    assert await whole.state(waiting) == "queued"
    assert await whole.free_mib() == 12_000  # nothing is loaded for a job that could not run
    await database.row("clear_drain", target="pc1")
    assert await whole.final(waiting) == ["completed"]
    rows = await whole.connection.fetch("SELECT attempt, failures FROM jobs")
    assert [(row["attempt"], row["failures"]) for row in rows] == [(1, 0), (1, 0)]
    await whole.books()


async def test_a_scheduler_that_starts_during_a_drain_starts_nothing(whole: Whole, database: Database) -> None:
    await database.row("set_drain", target="w", kind="worker", for_s=2.0, actor="test", reason="")
    job = await whole.submit(model="noop-a")
    dispatcher = whole.start()

    async def leads() -> bool:
        return dispatcher.leading

    await whole.until(leads)
    assert not dispatcher.board.links["w"].takes_jobs
    assert await whole.state(job) == "queued"
    assert await whole.final(job) == ["completed"]  # the drain has ended by itself

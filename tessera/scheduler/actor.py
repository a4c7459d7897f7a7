"""The scheduler as a Ray actor: named, detached, restarted for ever. The only module of the platform's core with Ray.

It holds nothing that Postgres does not: a restarted actor leads a new term. Workers are reached through the
DeploymentHandles of their Serve applications, each call with a timeout of our own, for a call to a deployment without a
replica waits for ever.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any
from uuid import UUID

import ray
import structlog
from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException
from ray.util.metrics import Counter, Gauge

from tessera.artifacts import open_store
from tessera.catalog import catalog_of
from tessera.config import ClusterConfig, Settings, WorkerConfig
from tessera.errors import EngineError
from tessera.logs import configure_logs
from tessera.ports import Explanation, LiveEvent, Place, WorkerStatus
from tessera.runs import RunKey, RunSpec, StartAnswer, WatchBatch, WorkerAway, WorkerReport
from tessera.scheduler import insight
from tessera.scheduler.board import DeviceSpec
from tessera.scheduler.dispatcher import Dispatcher, WorkerSpec
from tessera.scheduler.explain import explain

log = structlog.get_logger(__name__)

ACTOR_NAME = "scheduler"
NAMESPACE = "tessera"
CALL_TIMEOUT_S = 5.0  # a healthy worker answers in milliseconds; a node that is gone was seen to take 2.4 s to fail
LOAD_TIMEOUT_S = 600.0  # (start) tens of GiB of weights from a slow disk
UNLOAD_TIMEOUT_S = 60.0  # (start) some backends end a process for it
WORKER_DEPLOYMENT = "worker"
METRICS_EVERY_S = 5.0


def application_of(worker: str) -> str:
    """The name of the Serve application of a worker."""
    return f"worker-{worker}"


class HandleWorker:
    """A worker behind the handle of its Serve deployment (tessera.runs.WorkerPort)."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._handle: Any = None

    def _of(self, method: str, *, stream: bool = False) -> Any:
        if self._handle is None:
            self._handle = serve.get_deployment_handle(WORKER_DEPLOYMENT, application_of(self._name))
        handle = self._handle.options(stream=stream) if stream else self._handle
        return getattr(handle, method)

    async def _call(self, method: str, *arguments: object, timeout_s: float = CALL_TIMEOUT_S) -> Any:
        try:
            async with asyncio.timeout(timeout_s):
                return await self._of(method).remote(*arguments)
        except Exception as error:
            raise self._away(method, error) from error

    async def _switch(self, method: str, *arguments: object, timeout_s: float) -> None:
        """A call whose refusal by the engine is an answer. Raises EngineError, or WorkerAway."""
        try:
            await self._call(method, *arguments, timeout_s=timeout_s)
        except WorkerAway as away:
            # Ray wraps what the engine has raised in an error of its own.
            refusal = getattr(away.__cause__, "cause", None)
            if isinstance(refusal, EngineError):
                raise refusal from away
            raise

    async def report(self) -> WorkerReport:
        report: WorkerReport = await self._call("report")
        return report

    async def start(self, specs: Sequence[RunSpec]) -> Sequence[StartAnswer]:
        answers: Sequence[StartAnswer] = await self._call("start", list(specs))
        return answers

    async def adopt(self, specs: Sequence[RunSpec]) -> Sequence[StartAnswer]:
        answers: Sequence[StartAnswer] = await self._call("adopt", list(specs))
        return answers

    async def ensure(self, model: str) -> None:
        await self._switch("ensure", model, timeout_s=LOAD_TIMEOUT_S)

    async def release(self, models: Sequence[str] | None = None) -> None:
        await self._switch("release", None if models is None else list(models), timeout_s=UNLOAD_TIMEOUT_S)

    async def cancel(self, keys: Sequence[RunKey]) -> None:
        await self._call("cancel", list(keys))

    async def ack(self, keys: Sequence[RunKey]) -> None:
        await self._call("ack", list(keys))

    async def watch(self) -> AsyncIterator[WatchBatch]:
        try:
            stream = self._of("watch", stream=True).remote()
            async for batch in stream:
                yield batch
        except Exception as error:
            raise self._away("watch", error) from error

    def _away(self, method: str, error: Exception) -> WorkerAway:
        """Whatever Ray or Serve raises (before Serve has started it is a ValueError) leaves open what has happened."""
        self._handle = None
        if not isinstance(error, RayError | RayServeException | TimeoutError):
            log.warning("worker_call_failed", worker=self._name, method=method, exc_info=error)
        return WorkerAway(f"{method}: {type(error).__name__}")


class SchedulerActor:
    """Made by ``ensure_scheduler``; its methods are what the ingress asks (tessera.ports.SchedulerPort)."""

    def __init__(self, home: str) -> None:
        configure_logs("scheduler")
        os.environ["TESSERA_HOME"] = home
        self._settings = Settings.from_environment()
        self._dispatcher: Dispatcher | None = None
        self._task: asyncio.Task[None] | None = None
        self._metrics: asyncio.Task[None] | None = None
        # Ray makes an actor with async methods on its event loop. After a restart by Ray nobody calls anything.
        self._beginning = asyncio.get_running_loop().create_task(self.begin())

    async def begin(self) -> int:
        """Start to lead, or to wait for it; returns the pid. Safe to repeat."""
        if self._task is None:
            settings = self._settings
            workers = settings.cluster.enabled_workers()
            self._dispatcher = Dispatcher(
                dsn=settings.database_url,
                workers=[self._spec(settings.cluster, worker) for worker in workers],
                devices=[
                    DeviceSpec(name=device.name, node=node.name, vram_mib=device.vram_mib)
                    for node in settings.cluster.nodes
                    for device in node.devices
                ],
                artifacts=open_store(settings.artifacts_url),
                catalog=catalog_of((model for worker in workers for model in worker.models), home=settings.home),
                holder=f"{socket.gethostname()}:{os.getpid()}",
            )
            self._task = asyncio.create_task(self._dispatcher.run(), name="dispatcher")
            self._metrics = asyncio.create_task(self._report_metrics(), name="metrics")
        return os.getpid()

    @staticmethod
    def _spec(cluster: ClusterConfig, worker: WorkerConfig) -> WorkerSpec:
        return WorkerSpec(
            name=worker.name,
            models=worker.models,
            slots=worker.slots,
            port=HandleWorker(worker.name),
            node=worker.node,
            device=cluster.device_of(worker).name,
            run_timeout_s=worker.run_timeout_s,
            no_progress_s=worker.no_progress_s,
        )

    async def _report_metrics(self) -> None:
        """Keep the scheduler's numbers in Ray's exporter, beside those of Ray and Serve."""
        waiting = Gauge("tessera_jobs_waiting", "Jobs that wait, by tier and kind.", ("tier", "kind"))
        oldest = Gauge("tessera_oldest_waiting_seconds", "Age of the oldest job that waits.")
        leading = Gauge("tessera_scheduler_leading", "1 while this scheduler leads.")
        online = Gauge("tessera_worker_online", "1 while the worker is heard of.", ("worker",))
        running = Gauge("tessera_worker_running", "Runs on the worker.", ("worker",))
        ended = Counter("tessera_runs_ended", "Runs that ended, by what became of the job.", ("outcome",))
        behind = Gauge(
            "tessera_tier_behind_seconds", "Device-seconds a tier with work is behind its share.", ("device", "tier")
        )
        resident = Gauge("tessera_resident_mib", "Memory of the models that are loaded or being loaded.", ("device",))
        done = Gauge("tessera_maintenance_total", "What a maintenance task has done in this process.", ("task",))
        failed = Gauge("tessera_maintenance_failures", "How often a maintenance task failed.", ("task",))
        counted: dict[str, int] = {}
        trailing: set[tuple[str, str]] = set()
        shown: set[tuple[str, str]] = set()
        while True:
            await asyncio.sleep(METRICS_EVERY_S)
            if self._dispatcher is None:
                continue
            now = insight.statistics(
                self._dispatcher.board,
                leading=self._dispatcher.leading,
                maintenance=self._dispatcher.maintenance.counts(),
            )
            for tier, kind in shown | now.waiting.keys():
                waiting.set(now.waiting.get((tier, kind), 0), {"tier": tier, "kind": kind})
            shown |= now.waiting.keys()
            oldest.set(now.oldest_s)
            leading.set(int(now.leading))
            for worker in now.workers:
                online.set(int(worker.online), {"worker": worker.name})
                running.set(worker.running, {"worker": worker.name})
            for device, tier in trailing | now.behind_s.keys():
                behind.set(now.behind_s.get((device, tier), 0.0), {"device": device, "tier": tier})
            trailing |= now.behind_s.keys()
            for device, mib in now.resident_mib.items():
                resident.set(mib, {"device": device})
            for task, tally in now.maintenance.items():
                done.set(tally["total"], {"task": task})
                failed.set(tally["failures"], {"task": task})
            for outcome, total in now.ended.items():
                if total > counted.get(outcome, 0):
                    ended.inc(total - counted.get(outcome, 0), {"outcome": outcome})
                    counted[outcome] = total

    async def _ready(self) -> Dispatcher:
        """The dispatcher. Its end is a bug: then the process ends too, Ray restarts it, and a new term begins."""
        await self.begin()
        if self._task is not None and self._task.done():
            log.critical("dispatcher_ended", exc_info=self._task.exception())
            os._exit(1)
        assert self._dispatcher is not None
        return self._dispatcher

    async def leading(self) -> bool:
        """Whether this actor leads and has heard its workers."""
        return (await self._ready()).leading

    async def subscribe(self) -> AsyncIterator[Sequence[LiveEvent]]:
        """The ephemeral events of all jobs; see SchedulerPort."""
        async for batch in (await self._ready()).board.notifier.subscribe():
            yield batch

    async def so_far(self, job_id: UUID) -> Sequence[LiveEvent]:
        """What a late reader of a running job needs."""
        return (await self._ready()).board.notifier.so_far(job_id)

    async def places(self, job_ids: Sequence[UUID]) -> Mapping[UUID, Place]:
        """The places of jobs that wait or run."""
        return insight.places((await self._ready()).board, job_ids)

    async def workers(self) -> Sequence[WorkerStatus]:
        """All configured workers."""
        return insight.workers((await self._ready()).board)

    async def explain(self, job_id: UUID) -> Explanation | None:
        """Why a live job waits; see SchedulerPort."""
        return explain((await self._ready()).board, job_id)

    async def pid(self) -> int:
        """The actor's process."""
        return os.getpid()


def ensure_scheduler(home: str, *, node: str) -> Any:
    """The scheduler's actor handle; makes the actor when there is none. Needs an initialised Ray driver.

    ``node`` is the name of the node that it is bound to, the control plane's.
    """
    actor: Any = ray.remote(SchedulerActor).options(
        name=ACTOR_NAME,
        namespace=NAMESPACE,
        lifetime="detached",
        get_if_exists=True,
        max_restarts=-1,
        max_task_retries=0,
        max_concurrency=1000,
        num_cpus=0,
        resources={node: 0.01},
    )
    handle: Any = actor.remote(home)
    ray.get(handle.begin.remote(), timeout=60)
    return handle

"""A worker as a Serve deployment: the same object, reached through its DeploymentHandle."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from deployments.engines import make_engine
from deployments.worker import Worker
from tessera.artifacts import open_store
from tessera.config import Settings, WorkerConfig
from tessera.logs import configure_logs
from tessera.ports import ArtifactPort
from tessera.runs import RunKey, RunSpec, StartAnswer, WatchBatch, WorkerReport


@runtime_checkable
class Living(Protocol):
    """An engine that has something to start and to end beside its runs: a server, connections."""

    async def start(self) -> None:
        """Begin; returns at once, the probe tells when all is up."""
        ...

    async def close(self) -> None:
        """End it; returns when all is gone."""
        ...


class ServedWorker:
    """``config``: the worker's entry in cluster.toml; ``beside_store``: whether the artifact store is on its node."""

    async def __init__(self, config: Mapping[str, Any], beside_store: bool) -> None:  # type: ignore[misc]  # Serve awaits it
        worker = WorkerConfig.model_validate(config)
        configure_logs(worker.name)
        # An engine that computes on this machine's CPU gives way to the API and the scheduler beside it.
        os.nice(int(worker.options.get("niceness", 0)))
        engine = make_engine(worker)
        # An engine that starts a server of its own, or holds connections, begins and ends with this replica.
        self._engine = engine
        if isinstance(engine, Living):
            await engine.start()
        self._worker = Worker(
            name=worker.name,
            engine=engine,
            artifacts=_artifacts(beside_store),
            slots=worker.slots,
            models=worker.models,
        )

    async def report(self) -> WorkerReport:
        return await self._worker.report()

    async def start(self, specs: Sequence[RunSpec]) -> Sequence[StartAnswer]:
        return await self._worker.start(specs)

    async def adopt(self, specs: Sequence[RunSpec]) -> Sequence[StartAnswer]:
        return await self._worker.adopt(specs)

    async def ensure(self, model: str) -> None:
        await self._worker.ensure(model)

    async def release(self, models: Sequence[str] | None = None) -> None:
        await self._worker.release(models)

    async def cancel(self, keys: Sequence[RunKey]) -> None:
        await self._worker.cancel(keys)

    async def ack(self, keys: Sequence[RunKey]) -> None:
        await self._worker.ack(keys)

    async def watch(self) -> AsyncIterator[WatchBatch]:
        async for batch in self._worker.watch():
            yield batch

    async def check_health(self) -> None:
        """Serve asks this: a worker whose loop is blocked for long is replaced."""

    async def __del__(self) -> None:
        worker = getattr(self, "_worker", None)
        if worker is not None:
            await worker.close()
        engine = getattr(self, "_engine", None)
        if isinstance(engine, Living):
            await engine.close()


def _artifacts(beside_store: bool) -> ArtifactPort:
    """The store itself where it is a bucket or on this node, else its handle on the head node."""
    if beside_store:
        return open_store(Settings.from_environment().artifacts_url)
    from deployments.artifact_handle import HandleStore

    return HandleStore()

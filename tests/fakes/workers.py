"""A worker port without Ray: the real Worker in this process, with a switch for its cable."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

from deployments.worker import Worker
from tessera.runs import RunKey, RunSpec, StartAnswer, WatchBatch, WorkerAway, WorkerReport


class LocalWorker:
    """``unplug()`` cuts the connection while the runs go on; ``kill()`` loses the process and all its runs;
    ``replace()`` puts a new one in its place."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self._plugged = asyncio.Event()
        self._plugged.set()
        self._cut = asyncio.Event()

    def unplug(self) -> None:
        self._plugged.clear()
        self._cut.set()
        self._cut = asyncio.Event()

    def plug(self) -> None:
        self._plugged.set()

    async def kill(self) -> None:
        """The process is gone, as by SIGKILL: it cancels nothing, writes nothing down and tells nobody."""
        self.unplug()
        tasks = [run.task for run in self.worker._runs.values() if run.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def replace(self, worker: Worker) -> None:
        """A new process in the place of the old one, which is gone with its runs."""
        self.unplug()
        self.worker = worker
        self.plug()

    def _check(self) -> None:
        if not self._plugged.is_set():
            raise WorkerAway("unplugged")

    async def report(self) -> WorkerReport:
        self._check()
        return await self.worker.report()

    async def start(self, specs: Sequence[RunSpec]) -> Sequence[StartAnswer]:
        self._check()
        return await self.worker.start(specs)

    async def adopt(self, specs: Sequence[RunSpec]) -> Sequence[StartAnswer]:
        self._check()
        return await self.worker.adopt(specs)

    async def ensure(self, model: str) -> None:
        self._check()
        await self.worker.ensure(model)

    async def release(self, models: Sequence[str] | None = None) -> None:
        self._check()
        await self.worker.release(models)

    async def cancel(self, keys: Sequence[RunKey]) -> None:
        self._check()
        await self.worker.cancel(keys)

    async def ack(self, keys: Sequence[RunKey]) -> None:
        self._check()
        await self.worker.ack(keys)

    async def watch(self) -> AsyncIterator[WatchBatch]:
        self._check()
        stream = self.worker.watch()
        cut = asyncio.create_task(self._cut.wait())
        try:
            while True:
                item = asyncio.ensure_future(anext(stream))
                done, _ = await asyncio.wait({item, cut}, return_when=asyncio.FIRST_COMPLETED)
                if cut in done:
                    item.cancel()
                    await asyncio.gather(item, return_exceptions=True)
                    raise WorkerAway("unplugged")
                yield item.result()
        finally:
            cut.cancel()
            await stream.aclose()

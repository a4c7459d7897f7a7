"""The API on a real socket and all that stands behind it but Ray: Postgres, dispatcher, workers, preview engines."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from deployments.noop import NoopEngine
from deployments.preview.engine import PreviewEngine
from deployments.worker import Worker
from tessera.api.batches.expander import Expander
from tessera.artifacts import FolderStore
from tessera.catalog import catalog_of
from tessera.scheduler.dispatcher import Dispatcher, WorkerSpec
from tests.fakes.local_scheduler import LocalScheduler
from tests.fakes.workers import LocalWorker
from tests.integration.api_server import MODELS, Api, running

SLOTS = 4


@contextlib.asynccontextmanager
async def working(
    database_url: str, folder: Path, *, tokens_per_s: float = 0.0, expanding: bool = False, **options: Any
) -> AsyncIterator[Api]:
    """An API whose jobs are really run. ``tokens_per_s``: the pace of texts, 0 for as fast as can be. ``expanding``:
    batches are, too."""
    store = FolderStore(folder / "artifacts")
    preview = PreviewEngine(MODELS, SLOTS, tokens_per_s=tokens_per_s)
    workers = [
        Worker(name="preview", engine=preview, artifacts=store, slots=SLOTS, models=MODELS),
        Worker(name="noop", engine=NoopEngine(slots=8), artifacts=store, slots=8, models=["noop"]),
    ]
    dispatcher = Dispatcher(
        dsn=database_url,
        workers=[
            WorkerSpec(name="preview", models=MODELS, slots=SLOTS, port=LocalWorker(workers[0])),
            WorkerSpec(name="noop", models=["noop"], slots=8, port=LocalWorker(workers[1])),
        ],
        artifacts=store,
        catalog=catalog_of([*MODELS, "noop"]),
        holder="test",
        random_source=lambda: 0.0,
    )
    task = asyncio.create_task(dispatcher.run())
    try:
        async with asyncio.timeout(60):
            while not dispatcher.leading:  # noqa: ASYNC110 (a term that is cut off in its beginning leaves connections)
                await asyncio.sleep(0.02)
        scheduler = LocalScheduler(dispatcher)
        async with running(database_url, folder, store=store, scheduler=scheduler, **options) as api:
            await api.sql.execute(
                "UPDATE users SET daily_mt = 1000000, max_queued = 1000, max_running = 8, submissions_per_min = 100000,"
                " max_image_px = 4194304, max_video_s = 16 WHERE id = $1",
                api.user_id,
            )
            expander = Expander(api.services, poll_s=0.05)
            if expanding:
                expander.start()
            yield api
            await expander.close()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        for worker in workers:
            await worker.close()

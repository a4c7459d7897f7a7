"""procrastinate on the same Postgres: defer no-op tasks, then drain them. Run by a Python that has procrastinate.

    python procrastinate_noop.py DSN setup
    python procrastinate_noop.py DSN drain TASKS CONCURRENCY

The answer is one line of JSON. Its tables are in the schema that the DSN's search_path names.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import time
from importlib.metadata import version

import uvloop
from procrastinate import App, PsycopgConnector

CHUNK = 500


async def work(dsn: str, command: str, tasks: int, concurrency: int) -> dict[str, object]:
    """Set up, or defer and drain; seconds and tasks per second."""
    app = App(connector=PsycopgConnector(conninfo=dsn, min_size=2, max_size=max(4, min(20, concurrency))))

    @app.task(name="nothing")
    async def nothing() -> None:
        """As little as the no-op engine does."""

    async with app.open_async():
        if command == "setup":
            await app.schema_manager.apply_schema_async()
            return {"version": version("procrastinate")}
        began = time.perf_counter()
        for first in range(0, tasks, CHUNK):
            await nothing.batch_defer_async(*({} for _ in range(min(CHUNK, tasks - first))))
        deferred = time.perf_counter()
        await app.run_worker_async(
            concurrency=concurrency, wait=False, listen_notify=False, install_signal_handlers=False
        )
        drained = time.perf_counter()
        return {
            "concurrency": concurrency,
            "deferred_per_s": tasks / (deferred - began),
            "drained_per_s": tasks / (drained - deferred),
        }


if __name__ == "__main__":
    logging.getLogger("procrastinate").setLevel(logging.ERROR)
    numbers = [int(each) for each in sys.argv[3:]] or [0, 1]
    uvloop.install()
    sys.stdout.write(json.dumps(asyncio.run(work(sys.argv[1], sys.argv[2], *numbers))) + "\n")

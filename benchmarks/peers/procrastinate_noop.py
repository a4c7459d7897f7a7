"""procrastinate on the same Postgres: defer no-op tasks, then drain them. Run by a Python that has procrastinate.

    python procrastinate_noop.py DSN setup
    python procrastinate_noop.py DSN drain TASKS CONCURRENCY PROCESSES
    python procrastinate_noop.py DSN stream TASKS CONCURRENCY PROCESSES

``drain`` takes the time from a full queue to an empty one, ``stream`` that from the first task deferred, one for each
call, to the last one done. The answer is one line of JSON. Its tables are in the schema that the DSN's search_path
names. Worker processes are started, connected and ready before the clock is.
"""

from __future__ import annotations

import asyncio
import json
import logging
import subprocess
import sys
import time
from importlib.metadata import version

import uvloop
from procrastinate import App, PsycopgConnector

CHUNK = 500
DEFERRING = 32  # at a time in a stream: as many as the connections of the benchmark's clients
LEFT = "SELECT count(*) AS n FROM procrastinate_jobs WHERE status IN ('todo', 'doing')"


def make_app(dsn: str, concurrency: int) -> App:
    """An app with the one task."""
    app = App(connector=PsycopgConnector(conninfo=dsn, min_size=2, max_size=max(4, min(20, concurrency))))

    @app.task(name="nothing")
    async def nothing() -> None:
        """As little as the no-op engine does."""

    return app


async def setup(dsn: str) -> dict[str, object]:
    """Make the tables."""
    app = make_app(dsn, 1)
    async with app.open_async():
        await app.schema_manager.apply_schema_async()
    return {"version": version("procrastinate")}


async def defer(dsn: str, tasks: int) -> None:
    """Put so many tasks into the queue, a batch at a time."""
    app = make_app(dsn, 1)
    async with app.open_async():
        for first in range(0, tasks, CHUNK):
            await app.tasks["nothing"].batch_defer_async(*({} for _ in range(min(CHUNK, tasks - first))))


async def stream(dsn: str, tasks: int) -> float:
    """Put so many tasks into the queue, each by a call of its own, and wait until all are done; the seconds."""
    app = make_app(dsn, DEFERRING)
    task, left = app.tasks["nothing"], tasks

    async def go_on() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            await task.defer_async()

    async with app.open_async():
        began = time.monotonic()
        await asyncio.gather(*(go_on() for _ in range(DEFERRING)))
        while (await app.connector.execute_query_one_async(LEFT))["n"]:  # noqa: ASYNC110 (others change it)
            await asyncio.sleep(0.01)
        return time.monotonic() - began


async def work(dsn: str, concurrency: int, *, for_ever: bool = False) -> None:
    """A worker: connect, say so, wait for the word, work until nothing is left; or until it is told to stop."""
    app = make_app(dsn, concurrency)
    async with app.open_async():
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        await asyncio.to_thread(sys.stdin.readline)
        await app.run_worker_async(
            concurrency=concurrency, wait=for_ever, listen_notify=for_ever, install_signal_handlers=for_ever
        )
        sys.stdout.write(f"{time.monotonic()}\n")  # the end of a process is none of its work


def start_workers(dsn: str, concurrency: int, processes: int, command: str) -> list[subprocess.Popen[str]]:
    """Worker processes that are connected and wait for the word."""
    workers = [
        subprocess.Popen(
            [sys.executable, __file__, dsn, command, str(concurrency)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for _ in range(processes)
    ]  # fmt: skip
    for worker in workers:
        if worker.stdout is None or worker.stdout.readline() != "ready\n":
            raise RuntimeError("a worker did not start")
    return workers


def give_the_word(workers: list[subprocess.Popen[str]]) -> None:
    """Let them begin."""
    for worker in workers:
        if worker.stdin is not None:
            worker.stdin.write("go\n")
            worker.stdin.flush()


def drain(dsn: str, tasks: int, concurrency: int, processes: int) -> dict[str, object]:
    """Defer and drain; tasks per second."""
    began = time.perf_counter()
    asyncio.run(defer(dsn, tasks))
    deferred_s = time.perf_counter() - began
    workers = start_workers(dsn, concurrency, processes, "work")
    began = time.monotonic()
    give_the_word(workers)
    answers = [worker.communicate()[0] for worker in workers]
    if any(worker.returncode for worker in workers):
        raise RuntimeError(f"workers ended with {[worker.returncode for worker in workers]}")
    drained_s = max(map(float, answers)) - began
    return {"deferred_per_s": tasks / deferred_s, "drained_per_s": tasks / drained_s}


def defer_and_run(dsn: str, tasks: int, concurrency: int, processes: int) -> dict[str, object]:
    """Both at once; tasks per second."""
    workers = start_workers(dsn, concurrency, processes, "stay")
    try:
        give_the_word(workers)
        time.sleep(0.5)  # they listen
        seconds = asyncio.run(stream(dsn, tasks))
    finally:
        for worker in workers:
            worker.terminate()
        for worker in workers:
            worker.communicate()
    return {"streamed_per_s": tasks / seconds}


def main() -> None:
    """The command line."""
    logging.getLogger("procrastinate").setLevel(logging.ERROR)
    dsn, command, *rest = sys.argv[1:]
    numbers = [int(each) for each in rest]
    uvloop.install()
    match command:
        case "setup":
            sys.stdout.write(json.dumps(asyncio.run(setup(dsn))) + "\n")
        case "work":
            asyncio.run(work(dsn, *numbers))
        case "stay":
            asyncio.run(work(dsn, *numbers, for_ever=True))
        case "drain":
            sys.stdout.write(json.dumps(drain(dsn, *numbers)) + "\n")
        case "stream":
            sys.stdout.write(json.dumps(defer_and_run(dsn, *numbers)) + "\n")
        case unknown:
            raise SystemExit(f"unknown command {unknown}")


if __name__ == "__main__":
    main()

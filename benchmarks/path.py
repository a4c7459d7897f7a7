# ruff: noqa: T201 (it prints tables)
"""A job's whole way in one process, without HTTP's sockets and without Ray: what our own code and Postgres cost a job.

``python -m benchmarks.path`` calls the API's application, the admission, the scheduler and the worker with the no-op
engine over a Postgres of its own, and tells microseconds of CPU a job: this process's and Postgres'. CPU, unlike
jobs per second, hardly moves with what else the machine does: it is what a change is judged by, before and after in
turns. ``--profile`` says by cProfile in which functions; ``--no-api`` leaves the application out.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import cProfile
import json
import os
import pstats
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import psutil
import uvloop

from benchmarks.measures import body
from deployments.noop import NoopEngine
from deployments.worker import Worker
from tessera.admission import Admission, Submission
from tessera.api.app import create_app
from tessera.api.deliveries.bell import Bell
from tessera.api.deliveries.sender import Sender
from tessera.api.events.feed import Feed
from tessera.api.services import Services, utc_now
from tessera.api.standing import Standing
from tessera.api.watermarks import Watermarks
from tessera.artifacts import FolderStore
from tessera.catalog import catalog_of
from tessera.config import ClusterConfig, NodeConfig, Settings
from tessera.ids import new_id
from tessera.local.postgres import EmbeddedPostgres
from tessera.logs import configure_logs
from tessera.outbound import Outbound
from tessera.scheduler.dispatcher import Dispatcher, WorkerSpec
from tessera.store.database import Database, connect
from tessera.store.migrations import migrate, seed
from tessera.store.operators import make_key
from tests.fakes.local_scheduler import LocalScheduler

MODELS = ("noop", "noop-batch")
SLOTS = 256
BATCH_MAX = 64
SHOWN = 45


class Way:
    """Everything of the platform but its processes."""

    def __init__(self, dsn: str, folder: Path) -> None:
        store = FolderStore(folder / "artifacts")
        self.workers = [
            Worker(
                name=name,
                engine=NoopEngine(models=(name,), slots=SLOTS, batch_max=BATCH_MAX if name == "noop-batch" else 1),
                artifacts=store,
                slots=SLOTS,
                models=[name],
            )
            for name in MODELS
        ]
        self.dispatcher = Dispatcher(
            dsn=dsn,
            workers=[
                WorkerSpec(name=worker.name, models=(worker.name,), slots=SLOTS, port=worker)  # it is its own port
                for worker in self.workers
            ],
            artifacts=store,
            catalog=catalog_of(MODELS),
            holder="benchmark",
        )
        scheduler: Any = LocalScheduler(self.dispatcher)
        cluster = ClusterConfig(nodes=(NodeConfig(name="pc2"),))
        db, outbound, bell = Database.open(dsn, pool_size=4), Outbound(()), Bell(dsn)
        self.services = Services(
            settings=Settings(
                home=folder, database_url=dsn, artifacts_url=f"file://{folder}/artifacts", cluster=cluster
            ),
            catalog=catalog_of(MODELS),
            db=db,
            admission=Admission(dsn),
            artifacts=store,
            scheduler=scheduler,
            feed=Feed(dsn, scheduler),
            watermarks=Watermarks(cluster.ingress, db, store),
            outbound=outbound,
            bell=bell,
            sender=Sender(dsn, outbound, bell, utc_now),
            standing=Standing(db),
        )
        self.app = create_app(self.services, echo_request_id=False)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """As long as the context lasts."""
        services = self.services
        for each in (services.feed, services.sender, services.bell, services.watermarks):
            each.start()
        task = asyncio.create_task(self.dispatcher.run())
        try:
            while not self.dispatcher.leading:  # noqa: ASYNC110 (another task's doing)
                await asyncio.sleep(0.02)
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            for worker in self.workers:
                await worker.close()
            for open_ in (
                services.feed, services.bell, services.sender, services.outbound, services.watermarks,
                services.admission, services.standing, services.db,
            ):  # fmt: skip
                await open_.close()

    async def post(self, raw: bytes, headers: list[tuple[bytes, bytes]]) -> None:
        """One submission, as a server hands it to the application. Raises RuntimeError when it is not accepted."""
        sent = False
        status = 0

        async def receive() -> dict[str, Any]:
            nonlocal sent
            if sent:
                await asyncio.sleep(3600)
            sent = True
            return {"type": "http.request", "body": raw, "more_body": False}

        async def send(message: Any) -> None:
            nonlocal status
            status = message.get("status", status)

        scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "scheme": "http",
            "path": "/v1/jobs", "raw_path": b"/v1/jobs", "query_string": b"", "root_path": "", "headers": headers,
            "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 8000),
        }  # fmt: skip
        await self.app(scope, receive, send)
        if status != 202:
            raise RuntimeError(f"a submission was answered with {status}")


async def users(sql: asyncpg.Connection, count: int) -> list[tuple[UUID, str]]:
    """Users without limits that matter, and their keys."""
    made = []
    for n in range(count):
        user = new_id()
        await sql.execute(
            "INSERT INTO users (id, name, plan_id, daily_mt, max_queued, max_running, submissions_per_min)"
            " VALUES ($1, $2, 'pro', 1000000000, 1000000000, 10000, 60000000)",
            user, f"path-{n}",
        )  # fmt: skip
        key_id, key, digest = make_key()
        await sql.execute(
            "INSERT INTO api_keys (id, user_id, secret_sha256, name, scopes) VALUES ($1, $2, $3, 'path', '{jobs}')",
            key_id, user, digest,
        )  # fmt: skip
        made.append((user, key))
    return made


def postgres_cpu_s(postmaster: int) -> float:
    """Seconds of CPU that Postgres and its live children have had."""
    found = 0.0
    root = psutil.Process(postmaster)
    for process in (root, *root.children(recursive=True)):
        with contextlib.suppress(psutil.Error):
            times = process.cpu_times()
            found += times.user + times.system
    return found


async def measure(options: argparse.Namespace, dsn: str, postmaster: int, folder: Path) -> dict[str, list[float]]:
    """Rounds of jobs; microseconds of CPU a job, of this process and of Postgres, and jobs a second."""
    found: dict[str, list[float]] = {"python_us": [], "postgres_us": [], "jobs_per_s": [], "commits": []}
    path = Way(dsn, folder)
    async with path.running():
        sql = await connect(dsn, name="path")
        people = await users(sql, options.users)
        turns = cycle(people)
        raw = json.dumps(body(options.model)).encode()
        profile = cProfile.Profile() if options.profile else None
        for number in range(options.rounds + 1):
            left = options.jobs

            async def submitter() -> None:
                nonlocal left
                while left > 0:
                    left -= 1
                    user, key = next(turns)
                    if options.no_api:
                        await path.services.admission.submit(
                            Submission(
                                id=new_id(),
                                user_id=user,
                                kind="text",
                                model=options.model,
                                input=body()["input"],
                                cost_mt=1,
                            )
                        )
                    else:
                        await path.post(raw, [(b"authorization", b"Bearer " + key.encode()), (b"host", b"localhost")])

            if profile is not None and number:
                profile.enable()
            commits = await sql.fetchval("SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()")
            began, cpu, of_postgres = time.perf_counter(), time.process_time(), postgres_cpu_s(postmaster)
            await asyncio.gather(*(submitter() for _ in range(options.submitters)))
            while await sql.fetchval(  # noqa: ASYNC110 (another task's doing)
                "SELECT EXISTS (SELECT FROM user_state WHERE queued + running > 0)"
            ):
                await asyncio.sleep(0.01)
            seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
            of_postgres = postgres_cpu_s(postmaster) - of_postgres
            if profile is not None:
                profile.disable()
            await asyncio.sleep(1.2)  # the statistics come a second late
            after = await sql.fetchval("SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()")
            if number:  # the first one warms up
                for name, value in (
                    ("python_us", cpu / options.jobs * 1e6),
                    ("postgres_us", of_postgres / options.jobs * 1e6),
                    ("jobs_per_s", options.jobs / seconds),
                    ("commits", (after - commits) / options.jobs),
                ):
                    found[name].append(value)
        if options.functions:
            print(await functions(sql, options.jobs * (options.rounds + 1)))
        await sql.close()
    if profile is not None:
        stats = pstats.Stats(profile, stream=sys.stdout)
        stats.sort_stats(options.sort).print_stats(SHOWN)
    return found


async def functions(sql: asyncpg.Connection, jobs: int) -> str:
    """Which SQL functions Postgres spends its time in: microseconds a job, by the clock, without what they call."""
    rows = await sql.fetch(
        "SELECT funcname, calls, self_time FROM pg_stat_user_functions ORDER BY self_time DESC LIMIT 12"
    )
    lines = ["| SQL function | calls a job | µs a job |", "|---|---|---|"]
    lines += [
        f"| {row['funcname']} | {row['calls'] / jobs:.2f} | {row['self_time'] / jobs * 1000:,.0f} |" for row in rows
    ]
    return "\n".join(lines) + "\n"


def table(found: dict[str, list[float]]) -> str:
    """The medians, with the least and the most."""
    names = {
        "python_us": ("our Python, µs of CPU a job", 0),
        "postgres_us": ("Postgres, µs of CPU a job", 0),
        "commits": ("transactions a job", 2),
        "jobs_per_s": ("jobs/s", 0),
    }
    rows = ["| what | median (least–most) |", "|---|---|"]
    for name, (text, digits) in names.items():
        values: Sequence[float] = found[name]
        shown = f"{statistics.median(values):,.{digits}f} ({min(values):,.{digits}f}–{max(values):,.{digits}f})"
        rows.append(f"| {text} | {shown} |")
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.path", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=2000, help="of a round (2000)")
    parser.add_argument("--submitters", type=int, default=32, help="at a time (32)")
    parser.add_argument("--users", type=int, default=1, help="who submit in turns (1)")
    parser.add_argument("--model", default="noop", choices=MODELS, help="noop-batch: the engine takes 64 in a call")
    parser.add_argument("--no-api", action="store_true", help="from the admission on")
    parser.add_argument("--profile", action="store_true", help="cProfile; it slows Python down by half")
    parser.add_argument("--functions", action="store_true", help="which SQL functions Postgres spends its time in")
    parser.add_argument("--sort", default="tottime", choices=("tottime", "cumulative"))
    parser.add_argument("--json", type=Path, help="write the numbers there, too")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tessera-path-") as name:
        folder = Path(name)
        logs = os.open(folder / "log", os.O_WRONLY | os.O_CREAT)
        os.dup2(logs, 2)  # as in production: written to a file
        configure_logs("path")
        server = EmbeddedPostgres(folder)
        try:
            info = server.ensure_running()
            postmaster = int((folder / "postgres" / "data" / "postmaster.pid").read_text().split()[0])

            async def run() -> dict[str, list[float]]:
                await migrate(info.dsn)
                await seed(info.dsn)
                if options.functions:
                    admin = await asyncpg.connect(info.admin_dsn)
                    await admin.execute("ALTER SYSTEM SET track_functions = 'all'")
                    await admin.execute("SELECT pg_reload_conf()")
                    await admin.close()
                return await measure(options, info.dsn, postmaster, folder)

            found = uvloop.run(run())
        finally:
            server.stop()
    print(table(found))
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

# ruff: noqa: T201 (it prints a table)
"""What a long queue costs: a decision's time, the scheduler's memory, the seconds to rebuild it from Postgres.

``python -m benchmarks.depth`` fills a database of its own with 1,000, 30,000 and 1,000,000 queued jobs, has a process
rebuild the scheduler's mirror from it and decide, while this one goes on submitting. No Ray.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import asyncpg
import psutil

from benchmarks.queue_jobs import FILL, MODELS, WORKERS
from tessera.admission import Admission, Submission
from tessera.artifacts import FolderStore
from tessera.catalog import Catalog, Model
from tessera.ids import new_id
from tessera.jobs import Kind
from tessera.local.postgres import EmbeddedPostgres
from tessera.policy import FreeWorker, Start
from tessera.scheduler.board import DeviceSpec
from tessera.scheduler.dispatcher import Dispatcher
from tessera.store.database import connect
from tessera.store.migrations import migrate, seed

DEPTHS = (1_000, 30_000, 1_000_000)
DECISIONS = 2_000


def catalog() -> Catalog:
    """Two light models and two that do not fit the device together."""
    return Catalog(
        tuple(
            Model(
                id=name,
                kind=Kind(kind),
                engine="noop",
                title=name,
                description="",
                price="",
                vram_mib=vram,
                load_s=20.0,
            )
            for name, kind, vram in MODELS
        )
    )


async def child(dsn: str, folder: Path) -> dict[str, Any]:
    """Rebuild and decide in this process; its memory is that of a scheduler with nothing else."""
    me = psutil.Process()
    scheduler = Dispatcher(
        dsn=dsn,
        workers=[],
        devices=[DeviceSpec(name="gpu", vram_mib=16_000), DeviceSpec(name="cpu")],
        artifacts=FolderStore(folder),
        catalog=catalog(),
        holder="benchmark",
    )
    before = me.memory_full_info().uss
    connection = await connect(dsn, name="benchmark")
    began, busy = time.perf_counter(), time.process_time()
    await scheduler._rebuild(connection)  # what a new leader does first
    rebuilt_s, busy_s = time.perf_counter() - began, time.process_time() - busy
    memory = me.memory_full_info()
    policy, now = scheduler.board.policy, time.time()
    workers = [
        FreeWorker(name=name, device=device, models=frozenset(models), free=2, slots=2)
        for name, device, models in WORKERS
    ]
    for name, device, models in WORKERS:
        policy.found_resident(device, name, models[0], now)
    times: list[float] = []
    for n in range(DECISIONS):
        began = time.perf_counter()
        actions = policy.plan(workers, now + n * 0.01)
        for action in actions:
            policy.apply(action, now + n * 0.01)
        times.append(time.perf_counter() - began)
        for action in actions:  # each run ends at once and comes back, so that slots, caps and depth stay as they are
            if isinstance(action, Start):
                policy.ended(action.job, now + n * 0.01)
                policy.queue.add(action.job)
            elif device_loading(policy, action.device):
                policy.loaded(action.device, now + n * 0.01, 1.0)
    await connection.close()
    times.sort()
    return {
        "jobs": len(scheduler.board.mirror.jobs),
        "rebuilt_s": rebuilt_s,
        "rebuilt_cpu_s": busy_s,
        "memory_mib": memory.uss / 2**20,
        "jobs_mib": (memory.uss - before) / 2**20,
        "decision_p50_us": times[len(times) // 2] * 1e6,
        "decision_p99_us": times[len(times) * 99 // 100] * 1e6,
        "decision_max_us": times[-1] * 1e6,
    }


def device_loading(policy: Any, device: str) -> bool:
    """Whether a load is under way there."""
    return policy.devices[device].loading is not None


async def submit_while(dsn: str, process: asyncio.subprocess.Process, user: Any) -> list[float]:
    """Submissions that go on meanwhile; their seconds, one after another."""
    admission, times = Admission(dsn), []
    ended = asyncio.create_task(process.wait())
    while not ended.done():
        began = time.perf_counter()
        job = Submission(id=new_id(), user_id=user, kind="text", model=MODELS[0][0], input={"prompt": "go"}, cost_mt=1)
        await admission.submit(job)
        times.append(time.perf_counter() - began)
        await asyncio.sleep(0.02)
    await admission.close()
    return times


async def measure(server: EmbeddedPostgres, depth: int, home: Path) -> dict[str, Any]:
    """One depth: fill, rebuild and decide in a child, submit meanwhile."""
    info = server.ensure_running()
    name = f"depth_{depth}"
    admin = await asyncpg.connect(info.admin_dsn)
    await admin.execute(f"CREATE DATABASE {name} OWNER tessera")
    await admin.close()
    dsn = info.dsn.rsplit("/", 1)[0] + f"/{name}"
    await migrate(dsn)
    await seed(dsn)
    connection = await asyncpg.connect(dsn)
    print(f"· filling {depth:,} jobs", file=sys.stderr)
    await connection.execute("SET statement_timeout = 0")
    for statement in FILL:
        await connection.execute(statement.replace(":depth", str(depth)))
    await connection.execute("ANALYZE")
    user = await connection.fetchval("SELECT id FROM users WHERE name = 'bench-0'")
    await connection.close()
    print("· rebuilding and deciding", file=sys.stderr)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "benchmarks.depth", "--child", dsn, "--folder", str(home),
        stdout=subprocess.PIPE, env=os.environ,
    )  # fmt: skip
    reading = asyncio.create_task(process.stdout.read())  # type: ignore[union-attr]
    times = await submit_while(dsn, process, user)
    result: dict[str, Any] = json.loads(await reading)
    return {"depth": depth, **result, "submit_p50_ms": statistics.median(times) * 1000, "submitted": len(times)}


async def run(depths: list[int]) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory(prefix="tessera-depth-") as folder:
        server = EmbeddedPostgres(Path(folder))
        try:
            return [await measure(server, depth, Path(folder)) for depth in depths]
        finally:
            server.stop()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.depth", description=__doc__)
    parser.add_argument("--depths", default=",".join(map(str, DEPTHS)), help="comma-separated numbers of queued jobs")
    parser.add_argument("--json", type=Path, help="write the numbers there, too")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(asyncio.run(child(options.child, options.folder))))
        return
    rows = asyncio.run(run([int(depth) for depth in options.depths.split(",")]))
    print(
        "| queued jobs | decision p50 | p99 | longest of 2,000 | scheduler's memory | its jobs"
        " | rebuilt in | submissions meanwhile |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for row in rows:
        print(
            f"| {row['depth']:,} | {row['decision_p50_us']:.0f} µs | {row['decision_p99_us']:.0f} µs"
            f" | {row['decision_max_us'] / 1000:.1f} ms"
            f" | {row['memory_mib']:.0f} MiB | {row['jobs_mib']:.0f} MiB"
            f" | {row['rebuilt_s']:.1f} s ({row['rebuilt_cpu_s']:.1f} s of CPU)"
            f" | {row['submitted']} at p50 {row['submit_p50_ms']:.1f} ms |"
        )
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

"""Start a platform of its own, measure it, end it, and print Markdown tables (``--json FILE`` beside them)."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform as machine
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from benchmarks.load import Load, run_load, session
from tessera.local.runtime import short_dir_path

CONNECTIONS = 32
REQUESTS = 3000
RUNS = 5
LATENCY_JOBS = 200
NOOP = {"kind": "text", "model": "noop", "input": {"prompt": "go", "max_tokens": 1}}


@dataclass(frozen=True)
class Home:
    """An installation for this run only."""

    path: Path
    environment: dict[str, str]

    def tessera(self, *arguments: str) -> float:
        """Run a command of the CLI; returns its seconds. Raises CalledProcessError."""
        started = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "tessera.cli", *arguments],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=sys.stderr,
            check=True,
        )
        return time.perf_counter() - started

    def memory(self) -> list[tuple[str, int, float]]:
        """(part, processes, MiB of proportional memory) of everything that this home runs, largest first."""
        done = subprocess.run(
            [sys.executable, "-m", "tessera.cli", "status", "--json"],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            check=True,
        )
        parts = json.loads(done.stdout)["parts"]
        rows = [
            (part["name"], len(part["processes"]), sum(process["memory_mib"] for process in part["processes"]))
            for part in parts
        ]
        return sorted(rows, key=lambda row: -row[2])


async def latency(url: str, key: str) -> Load:
    """Submit until completed of single no-op jobs on an idle platform, by ``Prefer: wait``."""
    async with session(url, key, 1) as client:

        async def one() -> int:
            async with client.post("/v1/jobs", json=NOOP, headers={"Prefer": "wait=30"}) as answer:
                job = await answer.json()
                return 200 if job.get("state") == "completed" else answer.status

        await run_load(1, 20, one, expect=200)
        return await run_load(1, LATENCY_JOBS, one, expect=200)


async def submissions(url: str, key: str) -> tuple[list[Load], list[Load], list[float]]:
    """Runs of durable submissions, runs of the floor (a route that does nothing), and jobs completed per second."""
    loads, floors, drained = [], [], []
    async with session(url, key, CONNECTIONS) as client:

        async def submit() -> int:
            async with client.post("/v1/jobs", json=NOOP) as answer:
                await answer.read()
                return answer.status

        async def nothing() -> int:
            async with client.get("/healthz") as answer:
                await answer.read()
                return answer.status

        for _ in range(RUNS):
            floors.append(await run_load(CONNECTIONS, REQUESTS, nothing, expect=200))
            started = time.perf_counter()
            loads.append(await run_load(CONNECTIONS, REQUESTS, submit, expect=202))
            await drain(client)
            drained.append(REQUESTS / (time.perf_counter() - started))
    return loads, floors, drained


async def drain(client: aiohttp.ClientSession) -> None:
    """Wait until no job is left."""
    async with asyncio.timeout(300):
        while True:
            left = 0
            for state in ("queued", "running"):
                async with client.get("/v1/jobs", params={"state": state, "limit": 1}) as answer:
                    left += len((await answer.json())["data"])
            if not left:
                return
            await asyncio.sleep(0.02)


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows])


def measure(home: Home) -> tuple[str, dict[str, Any]]:
    """The report as Markdown and as data."""
    first = home.tessera("up")
    home.tessera("down")
    second = home.tessera("up")
    credentials = tomllib.loads((home.path / "credentials.toml").read_text())
    url, key = credentials["url"], credentials["api_key"]
    time.sleep(15)  # let what starts lazily start
    memory = home.memory()
    single = asyncio.run(latency(url, key))
    loads, floors, drained = asyncio.run(submissions(url, key))
    accepted = statistics.median(load.per_second for load in loads)
    floor = statistics.median(load.per_second for load in floors)
    completed = statistics.median(drained)
    failures = single.failures + sum(load.failures for load in [*loads, *floors])
    total = sum(size for _, _, size in memory)
    median = sorted(loads, key=lambda load: load.per_second)[RUNS // 2]
    rows = [
        ["ready, first `tessera up` (packages installed)", f"{first:.1f} s"],
        ["ready, second `tessera up` after `tessera down`", f"{second:.1f} s"],
        ["memory idle, all processes (PSS)", f"{total:.0f} MiB"],
        [f"one job, submit to completed, p50 of {LATENCY_JOBS}", f"{single.percentile_ms(0.5):.1f} ms"],
        [f"one job, submit to completed, p99 of {LATENCY_JOBS}", f"{single.percentile_ms(0.99):.1f} ms"],
        [f"accepted submissions at {CONNECTIONS} connections, median of {RUNS}", f"{accepted:.0f} /s"],
        [
            "… p50 / p99 of an accepted submission",
            f"{median.percentile_ms(0.5):.1f} / {median.percentile_ms(0.99):.1f} ms",
        ],
        ["… beside a route that does nothing, same run", f"{floor:.0f} /s (ratio {accepted / floor:.2f})"],
        [
            f"whole jobs through the no-op engine, median of {RUNS}",
            f"{completed:.0f} /s (ratio {completed / floor:.2f})",
        ],
        ["requests with an unexpected answer", str(failures)],
    ]
    text = [
        f"{os.cpu_count()} cores, Python {machine.python_version()}, {time.strftime('%Y-%m-%d')}",
        table(["what", "measured"], rows),
        table(
            ["part, idle", "processes", "MiB (PSS)"],
            [[part, str(count), f"{size:.0f}"] for part, count, size in memory] + [["all", "", f"{total:.0f}"]],
        ),
    ]
    data = {
        "up_first_s": first,
        "up_second_s": second,
        "memory_mib": {part: size for part, _, size in memory},
        "job_p50_ms": single.percentile_ms(0.5),
        "job_p99_ms": single.percentile_ms(0.99),
        "accepted_per_s": accepted,
        "floor_per_s": floor,
        "completed_per_s": completed,
        "failures": failures,
    }
    return "\n\n".join(text), data


def main() -> int:
    """Run the benchmark; the exit code is 1 when a request got an unexpected answer."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers there too")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tessera-bench-") as folder:
        path = Path(folder) / "home"
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("TESSERA_", "RAY_", "DATABASE_URL"))}
        home = Home(path, {**clean, "TESSERA_HOME": str(path), "TESSERA_NOOP": "1"})
        try:
            text, data = measure(home)
        finally:
            home.tessera("down")
            shutil.rmtree(short_dir_path(path), ignore_errors=True)
    sys.stdout.write(text + "\n")
    if arguments.json:
        arguments.json.write_text(json.dumps(data, indent=2) + "\n")
    return 1 if data["failures"] else 0


if __name__ == "__main__":
    sys.exit(main())

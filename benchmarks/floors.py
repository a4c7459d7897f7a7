"""What Tessera is measured beside, in the same run: Postgres' commits, procrastinate, a bare call of a Serve handle."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import asyncpg

from benchmarks.home import Home

PEERS = Path(__file__).parent / "peers"
SCHEMA = "bench_procrastinate"
INSTALL = ("procrastinate>=3.10", "psycopg[binary,pool]>=3.2", "uvloop>=0.21")


async def commits(dsn: str, connections: int, seconds: float = 2.0) -> float:
    """Commits per second of one small row each, as many connections at a time."""
    first = await asyncpg.connect(dsn)
    await first.execute("CREATE TABLE IF NOT EXISTS bench_commits (id bigserial PRIMARY KEY, said text)")
    pool = [first, *[await asyncpg.connect(dsn) for _ in range(connections - 1)]]
    statements = [await each.prepare("INSERT INTO bench_commits (said) VALUES ($1)") for each in pool]
    until = time.perf_counter() + seconds
    done = 0

    async def go_on(statement: Any) -> None:
        nonlocal done
        while time.perf_counter() < until:
            await statement.fetch("as much as a small job has to say")
            done += 1

    began = time.perf_counter()
    await asyncio.gather(*(go_on(each) for each in statements))
    rate = done / (time.perf_counter() - began)
    await first.execute("DROP TABLE bench_commits")
    for each in pool:
        await each.close()
    return rate


@dataclass(frozen=True)
class Setting:
    """How procrastinate is run: so many worker processes, each with so many tasks at a time."""

    processes: int
    concurrency: int

    @property
    def words(self) -> str:
        return f"{self.processes} worker{'s' * (self.processes > 1)} of concurrency {self.concurrency}"


SETTINGS = (Setting(1, 1), Setting(1, 10), Setting(1, 30), Setting(1, 100), Setting(2, 10), Setting(2, 30))


class Procrastinate:
    """Its latest version in a virtual environment of its own, on the platform's Postgres, in a schema of its own."""

    def __init__(self, home: Home, folder: Path, tasks: int) -> None:
        self._python = folder / "bin" / "python"
        self._folder = folder
        self._dsn = home.settings.database_url
        self._tasks = tasks
        self.version = ""
        self.best: Setting | None = None
        self.tried: dict[Setting, float] = {}

    async def setup(self) -> Setting:
        """Install, make its tables, find its best setting. Raises CalledProcessError where it cannot be had."""
        if not self._python.exists():
            await asyncio.to_thread(self._install)
        sql = await asyncpg.connect(self._dsn)
        await sql.execute(f"DROP SCHEMA IF EXISTS {SCHEMA} CASCADE")
        await sql.execute(f"CREATE SCHEMA {SCHEMA}")
        await sql.close()
        self.version = str((await self._call("setup"))["version"])
        for setting in SETTINGS:
            self.tried[setting] = await self.drained_per_s(setting)
        self.best = max(self.tried, key=lambda each: self.tried[each])
        return self.best

    def _install(self) -> None:
        subprocess.run([sys.executable, "-m", "venv", str(self._folder)], check=True, stdout=sys.stderr)
        pip = [str(self._python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, *INSTALL], check=True, stdout=sys.stderr)

    async def drained_per_s(self, setting: Setting) -> float:
        """Defer, then drain; the tasks drained in a second."""
        found = await self._call("drain", *map(str, (self._tasks, setting.concurrency, setting.processes)))
        return float(found["drained_per_s"])

    async def streamed_per_s(self, setting: Setting) -> float:
        """Defer one by one, 32 under way, and run meanwhile; the tasks done in a second."""
        found = await self._call("stream", *map(str, (self._tasks, setting.concurrency, setting.processes)))
        return float(found["streamed_per_s"])

    async def _call(self, *arguments: str) -> dict[str, Any]:
        dsn = self._dsn + ("&" if "?" in self._dsn else "?") + "options=" + quote(f"-c search_path={SCHEMA}")
        return await answer_of([str(self._python), str(PEERS / "procrastinate_noop.py"), dsn, *arguments], None)


async def serve_floor(home: Home, command: str) -> None:
    """Put the application that does nothing up beside the ingress, or take it away (``up``, ``down``)."""
    replicas = [str(home.settings.cluster.ingress.replicas)] if command == "up" else []
    await answer_of([sys.executable, str(PEERS / "serve_floor.py"), command, *replicas], home.driver_environment())


async def handle_calls(home: Home, calls: int, rounds: int) -> dict[str, list[float]]:
    """Calls per second of Serve's bare handle, by how many are under way at a time; as many values as rounds."""
    command = [sys.executable, str(PEERS / "serve_handle.py"), str(rounds), str(calls), *map(str, (1, 16, 64))]
    return await answer_of(command, home.driver_environment())


async def answer_of(command: list[str], environment: dict[str, str] | None) -> dict[str, Any]:
    """Run a process; its last line is the JSON answer. Raises CalledProcessError."""
    process = await asyncio.create_subprocess_exec(
        *command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, env=environment
    )
    out, _ = await process.communicate()
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command[:2])
    found: dict[str, Any] = json.loads(out.decode().strip().splitlines()[-1])
    return found

"""An installation for one run only: a platform with the no-op workers, in a temporary home."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg

from tessera.config import Settings, cluster_file
from tessera.ids import new_id
from tessera.local.ray_head import RayHead
from tessera.local.runtime import short_dir_path
from tessera.store.database import connect
from tessera.store.operators import make_key

# The no-op engine once more, as one that takes small jobs in batches.
BATCH_WORKER = """
[[workers]]
name = "noop-batch"
engine = "noop"
models = ["noop-batch"]
node = "pc2"
device = "pc2-cpu"
slots = 256
options = { batch_max = 64 }
"""
STARTS = 3
UNLIMITED = 1_000_000_000


@dataclass(frozen=True)
class User:
    """A user with limits that no benchmark reaches, and his key."""

    id: UUID
    key: str


class Home:
    """``up`` and ``down`` it; everything that it runs is gone afterwards."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "home"
        cluster = folder / "cluster.toml"
        cluster.write_text(cluster_file({}).read_text(encoding="utf-8") + BATCH_WORKER, encoding="utf-8")
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("TESSERA_", "RAY_", "DATABASE_URL"))}
        self.environment = {
            **clean,
            "TESSERA_HOME": str(self.path),
            "TESSERA_NOOP": "1",
            "TESSERA_CLUSTER": str(cluster),
        }

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

    def up(self) -> float:
        """Start the platform; returns the seconds of the try that succeeded. Raises CalledProcessError.

        On a busy machine a step may exceed its time: the same command goes on where it stopped.
        """
        for _ in range(STARTS - 1):
            try:
                return self.tessera("up")
            except subprocess.CalledProcessError:
                sys.stderr.write("· the platform did not start in its time; the same again\n")
        return self.tessera("up")

    def close(self) -> None:
        """End everything, whatever state it is in."""
        self.tessera("down")
        shutil.rmtree(short_dir_path(self.path), ignore_errors=True)

    @property
    def settings(self) -> Settings:
        """Where its parts listen."""
        return Settings.from_environment(self.environment)

    @property
    def url(self) -> str:
        """The API's address."""
        return str(tomllib.loads((self.path / "credentials.toml").read_text())["url"])

    def driver_environment(self) -> dict[str, str]:
        """The environment of a process that talks to its Ray cluster."""
        return RayHead(self.path, self.settings.cluster, self.environment).driver_environment()

    def parts(self) -> list[dict[str, Any]]:
        """What it runs: each part's name and processes."""
        done = subprocess.run(
            [sys.executable, "-m", "tessera.cli", "status", "--json"],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            check=True,
        )
        found: list[dict[str, Any]] = json.loads(done.stdout)["parts"]
        return found

    def kill(self, part: str) -> None:
        """SIGKILL to the oldest process of a part."""
        pid = next(each["processes"][0]["pid"] for each in self.parts() if each["name"] == part)
        os.kill(pid, signal.SIGKILL)

    async def users(self, count: int) -> list[User]:
        """New users, made by hand."""
        sql = await connect(self.settings.database_url, name="tessera-bench")
        made = []
        for n in range(count):
            user = new_id()
            await sql.execute(
                "INSERT INTO users (id, name, plan_id, daily_mt, max_queued, max_running, submissions_per_min,"
                " requests_per_min) VALUES ($1, $2, 'pro', $3, $4, 10000, 60000000, 60000000)",
                user, f"bench-{n}-{user}", UNLIMITED, UNLIMITED,
            )  # fmt: skip
            key_id, key, digest = make_key()
            await sql.execute(
                "INSERT INTO api_keys (id, user_id, secret_sha256, name, scopes)"
                " VALUES ($1, $2, $3, 'bench', '{jobs,read}')",
                key_id, user, digest,
            )  # fmt: skip
            made.append(User(user, key))
        await sql.close()
        return made

    async def sql(self) -> asyncpg.Connection:
        """A look behind the API."""
        return await connect(self.settings.database_url, name="tessera-bench")

"""The platform of a test run: ``tessera up`` in a home and on ports of its own, and ``tessera down``."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from tessera.local.runtime import short_dir_path
from tests.acceptance.http import Answer, Api

UP_TIMEOUT_S = 400


@dataclass(frozen=True)
class Platform:
    """A running installation, and the ways to reach and to hurt it."""

    home: Path
    url: str
    key: str
    environment: Mapping[str, str]

    @property
    def api(self) -> Api:
        """The API as the operator."""
        return Api(self.url, self.key)

    def cli(self, *arguments: str, timeout: float = 120, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run ``tessera`` as a user would."""
        done = subprocess.run(
            [sys.executable, "-m", "tessera.cli", *arguments],
            env=dict(self.environment),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        if check and done.returncode != 0:
            pytest.fail(f"tessera {' '.join(arguments)} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}")
        return done

    def new_user(self, plan: str = "pro") -> Api:
        """The API as a new user."""
        name = f"user-{time.monotonic_ns()}"
        made = json.loads(self.cli("users", "create", name, "--plan", plan, "--json").stdout)
        return Api(self.url, made["api_key"])

    def process(self, title: str) -> psutil.Process:
        """The process of this platform whose Ray title contains ``title`` (``SchedulerActor``, ``ServeReplica:…``)."""
        found = self.processes(title)
        assert found, f"no process of this platform is called {title}"
        return found[0]

    def processes(self, title: str) -> list[psutil.Process]:
        """All of them. They are told from those of others by the home in their environment."""
        mine = []
        for process in psutil.process_iter():
            try:
                if title in " ".join(process.cmdline()) and process.environ().get("TESSERA_HOME") == str(self.home):
                    mine.append(process)
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
        return mine

    def settings(self) -> dict[str, Any]:
        """What ``up`` wrote down."""
        return json.loads((self.home / "platform.json").read_text())


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running_platform() -> Iterator[Platform]:
    """A platform that lives as long as the block."""
    with tempfile.TemporaryDirectory(prefix="tessera-acceptance-") as folder:
        home = Path(folder) / "home"
        environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("TESSERA_", "RAY_", "DATABASE_URL"))},
            "TESSERA_HOME": str(home),
            "TESSERA_NOOP": "1",
            "TESSERA_PORT": str(free_port()),  # 8000 is left to whoever uses this machine meanwhile
            "NO_COLOR": "1",
        }
        command = [sys.executable, "-m", "tessera.cli"]
        try:
            up = subprocess.run(
                [*command, "up"],
                env=environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=UP_TIMEOUT_S,
                check=False,
            )
            assert up.returncode == 0, f"tessera up failed:\n{up.stdout}\n{up.stderr}"
            credentials = tomllib.loads((home / "credentials.toml").read_text())
            yield Platform(home, credentials["url"], credentials["api_key"], environment)
        finally:
            down = subprocess.run(
                [*command, "down"],
                env=environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=120,
                check=False,
            )
            if down.returncode == 0:
                shutil.rmtree(short_dir_path(home), ignore_errors=True)  # its sockets and Ray's logs


def wait_ready(api: Api, seconds: float = 90) -> None:
    """Wait until everything is online, as a test before may have hurt it."""
    end = time.monotonic() + seconds
    answer: Answer | None = None
    while time.monotonic() < end:
        try:
            answer = api.get("/readyz")
            if answer.status == 200 and not answer.json["offline"]:
                return
        except OSError:
            pass
        time.sleep(0.3)
    pytest.fail(f"the platform did not become ready: {answer}")

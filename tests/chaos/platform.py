"""The platform that the chaos suite hurts: a home and ports of its own, by ``tessera up``, on one or two nodes.

A process is found by what the platform itself knows of it (the recorded head and its descendants, the postmaster's
file, the second node's own tree), never by a name alone: other installations on the machine have the same names.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tomllib
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from tessera.config import Settings, load_cluster
from tessera.local import deploy, rest, runtime
from tessera.local.platform import Platform
from tessera.local.processes import ProcessRecord, family
from tests.chaos.nodes import SecondNode

UP_TIMEOUT_S = 420.0

# Beside the workers of the head node, both kinds on the second one: noop for texts, preview for bytes that have to
# travel to the store of the head.
CLUSTER = """\
[ingress]
replicas = 2
min_free_disk_mib = 16  # the store's own file system is small (faults.py): full means full

[[nodes]]
name = "pc2"
{head_address}
  [[nodes.devices]]
  name = "pc2-cpu"
  kind = "cpu"
  vram_mib = 4096

{second}
[[workers]]
name = "noop"
engine = "noop"
models = ["noop"]
node = "pc2"
device = "pc2-cpu"
slots = 12

[[workers]]
name = "preview"
engine = "preview"
models = ["preview-image", "preview-speech", "preview-text"]
node = "pc2"
device = "pc2-cpu"
slots = 2
"""

SECOND = """\
[[nodes]]
name = "pc1"
{address}
  [[nodes.devices]]
  name = "pc1-cpu"
  kind = "cpu"
  vram_mib = 4096

[[workers]]
name = "noop-far"
engine = "noop"
models = ["noop"]
node = "pc1"
device = "pc1-cpu"
slots = 12

[[workers]]
name = "preview-far"
engine = "preview"
models = ["preview-image", "preview-speech"]
node = "pc1"
device = "pc1-cpu"
slots = 2
"""


class DidNotStart(Exception):
    """The platform of the run could not be brought up; the message holds what 'up' said."""


@dataclass(kw_only=True)
class Installation:
    """One platform under one home. ``node`` is the second one, None for a cluster of one node."""

    home: Path
    environ: dict[str, str]
    node: SecondNode | None = None
    url: str = ""
    key: str = ""
    _platform: Platform = field(init=False)

    def __post_init__(self) -> None:
        self._platform = Platform(self.home, self.environ)

    # ------------------------------------------------------------------ up and down

    async def up(self) -> None:
        """``tessera up``; the second node joins as soon as there is a head. Raises DidNotStart."""
        self.home.mkdir(parents=True, exist_ok=True)
        log = (self.home.parent / "up.log").open("wb")
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "tessera.cli", "up"),
            env=self.environ,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
        log.close()
        joined = asyncio.create_task(self._join()) if self.node is not None else None
        try:
            async with asyncio.timeout(UP_TIMEOUT_S):
                code = await process.wait()
                if joined is not None and code == 0:
                    await joined
        except TimeoutError:
            code = -1
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
            if joined is not None:
                joined.cancel()
        if code != 0:
            raise DidNotStart((self.home.parent / "up.log").read_text(errors="replace")[-6000:])
        credentials = tomllib.loads((self.home / "credentials.toml").read_text())
        self.url, self.key = credentials["url"], credentials["api_key"]

    async def _join(self) -> None:
        """Start the second node once the head has written that it runs."""
        assert self.node is not None
        mark = runtime.short_dir_path(self.home) / "ray" / "ray_current_cluster"
        while not mark.exists():  # noqa: ASYNC110 (another process writes it)
            await asyncio.sleep(0.2)
        head = self._platform.head(load_cluster(self.environ))
        self.node.prepare(head.environment(), head.recorded_ports()["gcs"])
        await self.node.start()

    def down(self) -> bool:
        """``tessera down``; whether it ended well."""
        done = subprocess.run(
            [sys.executable, "-m", "tessera.cli", "down"],
            env=self.environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=180,
            check=False,
        )
        if done.returncode == 0:
            shutil.rmtree(runtime.short_dir_path(self.home), ignore_errors=True)  # its sockets and Ray's logs
        return done.returncode == 0

    # ------------------------------------------------------------------ its parts

    def settings(self) -> Settings:
        """What ``up`` wrote down."""
        return Settings.load(self.home)

    def session_logs(self) -> Path:
        """Where Ray and Serve write theirs."""
        return runtime.short_dir_path(self.home) / "ray" / "session_latest" / "logs"

    def postmaster(self) -> ProcessRecord | None:
        """Postgres's first process."""
        return self._platform.postgres.postmaster()

    def processes(self, *titles: str) -> list[psutil.Process]:
        """The processes of both nodes whose Ray title begins with one of ``titles``."""
        records = self._platform.head(self.settings().cluster).processes()
        if self.node is not None and (own := self.node.record()) is not None:
            records += family([own])
        found = {}
        for record in records:
            try:
                process = psutil.Process(record.pid)
                if title_of(process).startswith(titles):
                    found[process.pid] = process
            except psutil.Error:
                continue
        return list(found.values())

    def roles(self) -> dict[str, int]:
        """How many processes each role has: what must be there again before a fault counts as over."""
        counted = dict.fromkeys(("scheduler", "controller", "proxy", "haproxy", "ingress", "workers"), 0)
        prefixes = {
            "ray::SchedulerActor": "scheduler",
            "ray::ServeController": "controller",
            "ray::ProxyActor": "proxy",
            "ray::HAProxyManager": "proxy",
            "haproxy": "haproxy",
            "ray::ServeReplica:control:": "ingress",
            "ray::ServeReplica:worker-": "workers",
        }
        for process in self.processes(*prefixes):
            try:
                title = title_of(process)
            except psutil.Error:
                continue
            for prefix, role in prefixes.items():
                if title.startswith(prefix):
                    counted[role] += 1
                    break
        return counted

    def applications(self) -> dict[str, str]:
        """Serve's own word on its applications; empty while it does not answer."""
        settings = self.settings()
        token = self._platform.head(settings.cluster).token()
        try:
            state = deploy.Serve(settings.dashboard_url, token, None).state()
        except (rest.Unreachable, OSError):
            return {}
        return {
            name: found.status
            if all(replica.get("state") == "RUNNING" for replica in found.replicas) or found.status != "RUNNING"
            else "REPLACING"
            for name, found in state.applications.items()
        }

    def driver_environment(self) -> dict[str, str]:
        """For a process that talks to the cluster."""
        return self._platform.head(self.settings().cluster).driver_environment()

    def runs_of_workers(self) -> dict[str, list[str]]:
        """What each worker itself says it knows, asked by a short Ray driver: worker → runs."""
        names = [worker.name for worker in self.settings().cluster.enabled_workers()]
        done = subprocess.run(
            [sys.executable, "-m", "tests.chaos.ask_workers", *names],
            env=self.driver_environment(),
            cwd=Path(__file__).parents[2],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )
        if done.returncode != 0:
            raise RuntimeError(f"the workers could not be asked: {done.stderr[-800:]}")
        answer: dict[str, list[str]] = json.loads(done.stdout.strip().splitlines()[-1])
        return answer


def title_of(process: psutil.Process) -> str:
    """What a Ray worker calls itself; else the program's name, ``haproxy`` for one."""
    text = " ".join(process.cmdline()).strip()
    return text if text.startswith("ray::") else str(process.name())


def kill(process: psutil.Process | ProcessRecord, number: signal.Signals = signal.SIGKILL) -> bool:
    """Signal exactly this process; False when it was gone."""
    try:
        if isinstance(process, ProcessRecord):
            return process.signal(number)
        process.send_signal(number)
    except psutil.Error:
        return False
    return True


def make(folder: Path, *, node: SecondNode | None, port: int) -> Installation:
    """An installation in ``folder``, with a cluster file of its own."""
    home = folder / "home"
    second = ""
    head_address = ""
    if node is not None:
        head_address = f'address = "{node.head_address}"' if node.head_address else ""
        second = SECOND.format(address=f'address = "{node.address}"' if node.address else "")
    cluster = folder / "cluster.toml"
    cluster.write_text(CLUSTER.format(head_address=head_address, second=second), encoding="utf-8")
    environ = {
        **{k: v for k, v in os.environ.items() if not k.startswith(("TESSERA_", "RAY_", "DATABASE_URL"))},
        "TESSERA_HOME": str(home),
        "TESSERA_CLUSTER": str(cluster),
        "TESSERA_NOOP": "1",
        "TESSERA_PORT": str(port),
        "NO_COLOR": "1",
    }
    return Installation(home=home, environ=environ, node=node)


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])

"""The second node, pc1: a raylet of its own on this machine, which can be killed, cut off and started again.

As root with ``ip``: in a network namespace of its own, joined by a veth pair, and with a PID namespace of its own, so
that killing its first process is a machine that lost its power. Elsewhere: a second raylet beside the head, with a
process group of its own; then the network cannot be cut. Docs of the kernel: ip-netns(8), veth(4), pid_namespaces(7).
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tessera.local.processes import ProcessRecord, end, family, reap, record_of

PREFIX = "tessera-chaos-"  # of namespaces; the pid of the run follows
LINK = "tch"  # of links on this side, whose names are limited to 15 characters
NODE = "pc1"
SHARE = 100.0
BACK_AFTER_S = 3.0  # what a supervisor with RestartSec=3 waits


class CannotIsolate(Exception):
    """This machine lets us make no network namespaces."""


def isolation_possible() -> bool:
    """Whether namespaces and links can be made here: root, the tools, and a kernel that allows it."""
    if os.geteuid() != 0 or not all(shutil.which(tool) for tool in ("ip", "unshare", "mount")):
        return False
    name = f"{PREFIX}{os.getpid()}-probe"
    if _run("ip", "netns", "add", name) != 0:
        return False
    works = _run("ip", "netns", "exec", name, "unshare", "-p", "-f", "--mount-proc", "true") == 0
    _run("ip", "netns", "delete", name)
    return works


def remove_leftovers() -> list[str]:
    """Namespaces and links of runs whose process is gone; answers their names."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        return []
    removed = []
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=False).stdout
    for line in listed.splitlines():
        name = line.split()[0] if line.split() else ""
        match = re.fullmatch(rf"{PREFIX}(\d+)(-probe)?", name)
        if match and not Path(f"/proc/{match[1]}").exists():
            _end_all_in(name)
            _run("ip", "netns", "delete", name)
            removed.append(name)
    links = subprocess.run(["ip", "-o", "link", "show"], capture_output=True, text=True, check=False).stdout
    for match in re.finditer(rf"^\d+: ({LINK}(\d+))[@:]", links, re.MULTILINE):
        if not Path(f"/proc/{match[2]}").exists():
            _run("ip", "link", "delete", match[1])
            removed.append(match[1])
    return removed


@dataclass(kw_only=True)
class SecondNode:
    """pc1. ``isolated``: in namespaces of its own. ``prepare`` comes before ``start``; ``close`` undoes everything."""

    folder: Path
    isolated: bool
    starts: int = 0
    _environ: dict[str, str] = field(default_factory=dict)
    _gcs_port: int = 0
    _record: ProcessRecord | None = None
    _supervisor: asyncio.Task[None] | None = None
    _closed: bool = False

    @property
    def title(self) -> str:
        """For the report."""
        if self.isolated:
            return "two nodes: the second raylet in its own network and PID namespace"
        return "two nodes: the second raylet beside the head, in the same network (no cut possible)"

    @property
    def namespace(self) -> str:
        return f"{PREFIX}{os.getpid()}"

    @property
    def link(self) -> str:
        """The end of the wire on this side."""
        return f"{LINK}{os.getpid()}"

    @property
    def _subnet(self) -> str:
        return f"10.{97 + os.getpid() // 256 % 100}.{os.getpid() % 256}"  # two runs side by side rarely meet

    @property
    def head_address(self) -> str:
        return f"{self._subnet}.1" if self.isolated else ""

    @property
    def address(self) -> str:
        return f"{self._subnet}.2" if self.isolated else ""

    def wire(self) -> None:
        """Make the namespace and the wire to it. Raises CannotIsolate."""
        if not self.isolated:
            return
        inside = ["ip", "-n", self.namespace]
        for command in (
            ["ip", "netns", "add", self.namespace],
            ["ip", "link", "add", self.link, "type", "veth", "peer", "name", "eth0", "netns", self.namespace],
            ["ip", "address", "add", f"{self.head_address}/30", "dev", self.link],
            ["ip", "link", "set", self.link, "up"],
            [*inside, "link", "set", "lo", "up"],
            [*inside, "address", "add", f"{self.address}/30", "dev", "eth0"],
            [*inside, "link", "set", "eth0", "up"],
            [*inside, "route", "add", "default", "via", self.head_address],
        ):
            if _run(*command) != 0:
                raise CannotIsolate(" ".join(command))

    def prepare(self, head_environment: Mapping[str, str], gcs_port: int) -> None:
        """Learn how to join: the head's environment (token, TLS, Serve's switches) without what marks its processes."""
        self._environ = {name: value for name, value in head_environment.items() if name != "TESSERA_RAY"}
        self._gcs_port = gcs_port

    async def start(self) -> None:
        """Start the raylet, and a supervisor that starts it again whenever it ends."""
        self._spawn()
        if self._supervisor is None:
            self._supervisor = asyncio.create_task(self._supervise(), name="pc1")

    def record(self) -> ProcessRecord | None:
        """The node's first process while it runs."""
        return self._record if self._record is not None and self._record.alive() else None

    def kill(self) -> None:
        """The machine loses its power: every process of it at once. The supervisor starts it again."""
        if self._record is None:
            return
        if self.isolated:
            # The first process of a PID namespace takes all others with it, and it goes with unshare (--kill-child).
            self._record.signal(signal.SIGKILL)
        else:
            end(family([self._record]), ((signal.SIGKILL, 5.0),))

    def cut(self) -> None:
        """Unplug the cable."""
        _must("ip", "link", "set", self.link, "down")

    def mend(self) -> None:
        """Plug it in again. The route inside went with the link."""
        _must("ip", "link", "set", self.link, "up")

    async def close(self) -> None:
        """End the node and take its namespace away."""
        self._closed = True
        if self._supervisor is not None:
            self._supervisor.cancel()
        self.remove()

    def remove(self) -> None:
        """The same without a loop: for exits of every kind."""
        self._closed = True
        if self._record is not None:
            end(family([self._record]), ((signal.SIGKILL, 10.0),))
        if self.isolated:
            _end_all_in(self.namespace)
            _run("ip", "netns", "delete", self.namespace)
            _run("ip", "link", "delete", self.link)

    async def _supervise(self) -> None:
        while not self._closed:
            await asyncio.sleep(0.5)
            if self._record is not None:
                reap(self._record.pid)
            if self.record() is None and not self._closed:
                await asyncio.sleep(BACK_AFTER_S)
                self._spawn()

    def _spawn(self) -> None:
        self.starts += 1
        state = self.folder / "pc1"
        state.mkdir(exist_ok=True)
        ray = [
            sys.executable,
            *("-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats"),
            f"--address={self.head_address or '127.0.0.1'}:{self._gcs_port}",
            "--num-cpus=2",
            f"--resources={json.dumps({NODE: SHARE})}",
            f"--object-store-memory={100 * 2**20}",
        ]
        environ = dict(self._environ)
        if self.isolated:
            # A shell as the first process: it gives the node a session folder of its own where the head has its
            # one (the paths are part of what Ray tells its nodes), then becomes the raylet's parent.
            head_session = Path(self._environ.get("RAY_SERVE_HAPROXY_BINARY_PATH", "/nowhere/x")).parent
            script = (
                f"mount -t tmpfs -o size=256m,mode=0700 tmpfs {head_session} && "
                'mount -t tmpfs -o size=256m tmpfs /dev/shm && exec "$@"'
            )
            ray.append(f"--node-ip-address={self.address}")
            # The first start's node id file would be found by the second.
            command = [
                "ip",
                "netns",
                "exec",
                self.namespace,
                "unshare",
                "-p",
                "-f",
                "-m",
                "--mount-proc",
                "--kill-child",
            ]
            command += ["sh", "-c", script, "sh", *ray]
        else:
            command = ray
        log = (state / "ray.log").open("ab")
        child = subprocess.Popen(
            command,
            env=environ,
            cwd=state,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        log.close()
        child.returncode = 0  # the supervisor waits for it: without this, Popen would warn
        self._record = record_of(child.pid)


def _end_all_in(namespace: str) -> None:
    """SIGKILL to every process inside of a network namespace of ours."""
    listed = subprocess.run(["ip", "netns", "pids", namespace], capture_output=True, text=True, check=False)
    records = [record for pid in listed.stdout.split() if (record := record_of(int(pid))) is not None]
    end(records, ((signal.SIGKILL, 5.0),))


def _run(*command: str) -> int:
    return subprocess.run(command, capture_output=True, check=False).returncode


def _must(*command: str) -> None:
    for _ in range(3):
        if _run(*command) == 0:
            return
        time.sleep(0.1)
    raise RuntimeError(f"failed: {' '.join(command)}")

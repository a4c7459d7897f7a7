"""What is done to the platform. Each fault is one coroutine that returns when its cause is over.

A killed process is over at once: recovery is what is measured. A cut cable or a full disk lasts for a while first, and
recovery is counted from its end.
"""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
import subprocess
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.chaos.platform import Installation, kill, title_of

MOUNT_BYTES = 192 * 2**20


@dataclass(frozen=True, kw_only=True)
class Scene:
    """What a fault may touch. ``choose`` draws from the seed of the run."""

    installation: Installation
    choose: random.Random
    store_is_a_mount: bool


class NothingToHit(Exception):
    """The part is not there just now."""


Inject = Callable[[Scene], Awaitable[str]]


@dataclass(frozen=True, kw_only=True)
class Fault:
    """``inject`` answers what exactly was hit. ``bound_s``: within it everything must be normal again.

    ``probe``: the job that shows it, 'text' which does nothing or 'speech' which makes a file.
    """

    name: str
    title: str
    inject: Inject
    two_nodes: bool = False
    network: bool = False
    root: bool = False
    bound_s: float = 180.0
    probe: str = "text"


def _one(scene: Scene, *titles: str) -> psutil.Process:
    found = sorted(scene.installation.processes(*titles), key=lambda process: process.pid)
    if not found:
        raise NothingToHit(" ".join(titles))
    return scene.choose.choice(found)


async def _kill(scene: Scene, *titles: str) -> str:
    process = await asyncio.to_thread(_one, scene, *titles)
    name = title_of(process).removeprefix("ray::")
    if not kill(process):
        raise NothingToHit(f"{' '.join(titles)} ended by itself")
    return f"{name}, pid {process.pid}"


async def _scheduler(scene: Scene) -> str:
    return await _kill(scene, "ray::SchedulerActor")


async def _engine(scene: Scene) -> str:
    workers = [worker.application for worker in scene.installation.settings().cluster.enabled_workers()]
    name = scene.choose.choice(sorted(workers))
    return await _kill(scene, f"ray::ServeReplica:{name}:")


async def _ingress(scene: Scene) -> str:
    return await _kill(scene, "ray::ServeReplica:control:")


async def _controller(scene: Scene) -> str:
    return await _kill(scene, "ray::ServeController")


async def _proxy(scene: Scene) -> str:
    return await _kill(scene, "ray::HAProxyManager", "ray::ProxyActor")


async def _haproxy(scene: Scene) -> str:
    return await _kill(scene, "haproxy")


async def _node(scene: Scene) -> str:
    node = scene.installation.node
    if node is None or (record := node.record()) is None:
        raise NothingToHit("pc1")
    node.kill()
    return f"pc1, pid {record.pid} and all below it"


async def _postgres(scene: Scene, number: signal.Signals) -> str:
    record = await asyncio.to_thread(scene.installation.postmaster)
    if record is None or not kill(record, number):
        raise NothingToHit("postgres")
    return f"pid {record.pid}"


async def _postgres_kill(scene: Scene) -> str:
    return await _postgres(scene, signal.SIGKILL)


async def _postgres_restart(scene: Scene) -> str:
    # SIGINT is 'fast': what pg_ctl restart and every supervisor send.
    return await _postgres(scene, signal.SIGINT)


async def _full(scene: Scene) -> str:
    """No byte more fits into the artifact store, for some seconds."""
    store = _store(scene)
    lasts_s = scene.choose.uniform(4, 10)
    if scene.store_is_a_mount:
        filler = store / "filler"
        await asyncio.to_thread(_fill, filler)
        try:
            await asyncio.sleep(lasts_s)
        finally:
            filler.unlink(missing_ok=True)
        return f"tmpfs full for {lasts_s:.1f} s"
    aside = store.with_name("artifacts-aside")
    store.rename(aside)
    store.write_bytes(b"")  # a file where the folder was: nothing can be written below it
    try:
        await asyncio.sleep(lasts_s)
    finally:
        store.unlink()
        aside.rename(store)
    return f"folder away for {lasts_s:.1f} s"


async def _read_only(scene: Scene) -> str:
    """The artifact store's file system is remounted read-only, as a kernel does after an error of a disk."""
    store = _store(scene)
    lasts_s = scene.choose.uniform(4, 10)
    for _ in range(100):  # EBUSY while a file is open for writing
        if await asyncio.to_thread(_remount, store, "ro"):
            break
        await asyncio.sleep(0.05)
    else:
        raise NothingToHit("a moment without an open file in the store")
    try:
        await asyncio.sleep(lasts_s)
    finally:
        _remount(store, "rw")
    return f"read-only for {lasts_s:.1f} s"


def _cut(seconds: float) -> Inject:
    async def cut(scene: Scene) -> str:
        node = scene.installation.node
        if node is None:
            raise NothingToHit("pc1")
        starts = node.starts
        node.cut()
        try:
            await asyncio.sleep(seconds)
        finally:
            node.mend()
        return f"cut for {seconds:.0f} s" + (", its raylet ended meanwhile" if node.starts > starts else "")

    return cut


FAULTS = (
    Fault(name="scheduler", title="kill -9: scheduler actor", inject=_scheduler),
    Fault(name="engine", title="kill -9: engine replica", inject=_engine),
    Fault(name="ingress", title="kill -9: ingress replica", inject=_ingress),
    Fault(name="controller", title="kill -9: Serve's controller", inject=_controller),
    Fault(name="proxy", title="kill -9: Serve's proxy actor", inject=_proxy),
    Fault(name="haproxy", title="kill -9: HAProxy", inject=_haproxy),
    Fault(name="node", title="kill -9: worker node pc1", inject=_node, two_nodes=True, bound_s=300),
    Fault(name="postgres", title="kill -9: Postgres", inject=_postgres_kill),
    Fault(name="restart", title="restart of Postgres", inject=_postgres_restart),
    Fault(name="full", title="artifact folder full", inject=_full, probe="speech"),
    Fault(name="readonly", title="artifact folder read-only", inject=_read_only, root=True, probe="speech"),
    Fault(name="cut5", title="network cut, 5 s", inject=_cut(5), two_nodes=True, network=True, bound_s=300),
    Fault(name="cut30", title="network cut, 30 s", inject=_cut(30), two_nodes=True, network=True, bound_s=300),
    Fault(name="cut90", title="network cut, 90 s", inject=_cut(90), two_nodes=True, network=True, bound_s=300),
)
SHORT = ("scheduler", "engine", "ingress", "postgres")


def mount_store(home: Path) -> bool:
    """Put a small file system under the artifact store of a home to come; False where we may not."""
    store = home / "artifacts"
    store.mkdir(parents=True, mode=0o700, exist_ok=True)
    if os.geteuid() != 0 or shutil.which("mount") is None:
        return False
    options = f"size={MOUNT_BYTES},mode=0700"
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tessera-chaos", str(store)], check=False)
    return done.returncode == 0


def unmount_store(home: Path) -> None:
    """Undo ``mount_store``; safe to repeat."""
    store = home / "artifacts"
    if store.is_mount():
        subprocess.run(["umount", "-l", str(store)], capture_output=True, check=False)


def _store(scene: Scene) -> Path:
    return scene.installation.home / "artifacts"


def _remount(store: Path, how: str) -> bool:
    done = subprocess.run(["mount", "-o", f"remount,{how}", str(store)], capture_output=True, check=False)
    return done.returncode == 0


def _fill(path: Path) -> None:
    block = b"\0" * 2**20
    with path.open("wb", buffering=0) as file:
        while True:
            try:
                if file.write(block) == 0:
                    return
            except OSError:
                if len(block) <= 1:
                    return
                block = block[: len(block) // 16]

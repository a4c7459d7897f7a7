"""What runs: the parts of a platform with their processes, memory, ports and state, looked at from outside.

It starts nothing and asks nobody for longer than a moment; a part that does not answer is shown as such.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import psutil

from tessera.config import Settings
from tessera.local import bots, deploy, keeper_process, processes, rest
from tessera.local.platform import Platform
from tessera.local.processes import ProcessRecord


class PartState(StrEnum):
    """The condition of a part."""

    RUNNING = "running"
    STARTING = "starting"  # its process is there, it does not take work yet
    UNHEALTHY = "unhealthy"  # it runs and does not do what it should
    STOPPED = "stopped"
    EXTERNAL = "external"  # not ours: DATABASE_URL or RAY_ADDRESS names it


@dataclass(frozen=True, kw_only=True)
class ProcessInfo:
    """One process of a part. ``memory_mib`` is its proportional share (PSS), so that sums are what is really used."""

    pid: int
    title: str
    memory_mib: float
    ports: tuple[str, ...]  # address:port that it listens on


@dataclass(frozen=True, kw_only=True)
class PartStatus:
    """One part: postgres, ray, dashboard, serve, ingress, scheduler, keeper, and each worker by its name."""

    name: str
    state: PartState
    detail: str = ""
    processes: tuple[ProcessInfo, ...] = ()

    @property
    def memory_mib(self) -> float:
        """Of all its processes."""
        return sum(process.memory_mib for process in self.processes)

    @property
    def pid(self) -> int | None:
        """Its first process."""
        return self.processes[0].pid if self.processes else None

    @property
    def ports(self) -> tuple[str, ...]:
        """Where it listens."""
        return tuple(port for process in self.processes for port in process.ports)


@dataclass(frozen=True, kw_only=True)
class PlatformStatus:
    """The platform of one home. ``ready`` is what ``/readyz`` says."""

    home: Path
    url: str | None
    dashboard_url: str | None
    ready: bool
    parts: tuple[PartStatus, ...]

    @property
    def memory_mib(self) -> float:
        """Of everything."""
        return sum(part.memory_mib for part in self.parts)


def status(platform: Platform) -> PlatformStatus:
    """Look at everything of this home once; about a second."""
    settings = platform.settings()
    found = look_at_processes(platform, settings)
    ready = settings is not None and _is_ready(settings)
    serve = _ask_serve(platform, settings, running="serve" in found)
    parts = [_postgres(settings, found), *_ray(settings, found)]
    if settings is not None:
        parts.append(_application("ingress", deploy.CONTROL, found, serve))
        parts += [
            _application(worker.name, worker.application, found, serve) for worker in settings.cluster.enabled_workers()
        ]
    scheduler = _simple("scheduler", found)
    if settings is not None and settings.ray_external:
        state = PartState.RUNNING if ready else PartState.UNHEALTHY  # its process is not ours to see
        scheduler = PartStatus(name="scheduler", state=state, detail="in the joined cluster")
    parts += [scheduler, _simple("keeper", found)]
    parts += [_simple(f"bots-{name}", found) for name in bots.wanted(platform.home)]
    return PlatformStatus(
        home=platform.home,
        url=settings.http_url if settings is not None else None,
        dashboard_url=settings.dashboard_url if settings is not None else None,
        ready=ready,
        parts=tuple(parts),
    )


def look_at_processes(platform: Platform, settings: Settings | None) -> dict[str, list[ProcessInfo]]:
    """Every process of this home under the name of its part."""
    records: list[tuple[str | None, ProcessRecord]] = [("postgres", record) for record in platform.postgres.running()]
    if settings is not None and not settings.ray_external:
        records += [(None, record) for record in platform.head(settings.cluster).processes()]
    keeper = processes.load_record(keeper_process.record_file(platform.home))
    if keeper is not None:
        records.append(("keeper", keeper))
    for name in bots.PLATFORMS:
        running = processes.load_record(bots.record_file(platform.home, name))
        if running is not None:
            records.append((f"bots-{name}", running))
    listening = listening_ports(record.pid for _, record in records)
    found: dict[str, list[ProcessInfo]] = {}
    # What the keeper has started again are its descendants: the first name given to a pid counts.
    seen: set[int] = set()
    for part, record in records:
        if record.pid in seen:
            continue
        seen.add(record.pid)
        with suppress(psutil.Error):
            process = psutil.Process(record.pid)
            title = _title(process)
            name = part or _part_of(process, title)
            info = ProcessInfo(
                pid=record.pid, title=title, memory_mib=_memory_mib(process), ports=tuple(listening.get(record.pid, ()))
            )
            found.setdefault(name, []).append(info)
    return found


def listening_ports(pids: Iterable[int]) -> dict[int, list[str]]:
    """address:port of every listening TCP socket of these processes."""
    wanted = set(pids)
    found: dict[int, list[str]] = {}
    for connection in psutil.net_connections("tcp"):
        if connection.status == psutil.CONN_LISTEN and connection.pid in wanted:
            found.setdefault(connection.pid, []).append(_shown(connection.laddr.ip, connection.laddr.port))
    for ports in found.values():
        ports.sort()
    return found


def _shown(address: str, port: int) -> str:
    address = address.removeprefix("::ffff:")  # IPv4 on a socket of IPv6
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def _part_of(process: psutil.Process, title: str) -> str:
    """Which part a process of Ray belongs to; workers rename themselves to what they run."""
    if title.startswith("ray::ServeReplica:"):
        application = title.split(":")[3]
        return "ingress" if application == deploy.CONTROL else application.removeprefix("worker-")
    if title.startswith("ray::SchedulerActor"):
        return "scheduler"
    if title.startswith(("ray::ServeController", "ray::ProxyActor", "ray::HAProxyManager", "haproxy")):
        return "serve"
    if title.startswith(("ray-dashboard", "dashboard", "ray::DashboardAgent")):
        return "dashboard"
    with suppress(psutil.Error):
        parent = process.parent()
        if parent is not None and _title(parent) == "dashboard":
            return "dashboard"
    return "ray"


def _title(process: psutil.Process) -> str:
    """A short name: what a worker calls itself, else the program."""
    command: list[str] = process.cmdline()
    text = " ".join(command)
    if text.startswith(("ray::", "ray-dashboard")):
        return text.strip().split(" ")[0].split(".")[0]
    for mark, name in (
        ("ray.scripts.scripts", "ray start"),
        ("ray.util.client.server", "ray client server"),
        ("dashboard/dashboard.py", "dashboard"),
        ("log_monitor.py", "log monitor"),
        ("multiprocessing.", "dashboard helper"),
        ("tessera.local.keeper", "keeper"),
    ):
        if mark in text:
            return name
    if text.startswith("postgres: "):
        return text.split(": ", 2)[-1].strip() or "postgres"
    return str(process.name())


def _memory_mib(process: psutil.Process) -> float:
    try:
        return float(process.memory_full_info().pss) / 2**20
    except psutil.AccessDenied:
        return float(process.memory_info().rss) / 2**20
    except psutil.Error:
        return 0.0


def _postgres(settings: Settings | None, found: dict[str, list[ProcessInfo]]) -> PartStatus:
    if settings is not None and settings.database_external:
        return PartStatus(name="postgres", state=PartState.EXTERNAL, detail="DATABASE_URL names it")
    own = sorted(found.get("postgres", []), key=lambda process: (not process.ports, process.pid))
    state = PartState.RUNNING if any(process.ports for process in own) else PartState.STOPPED
    return PartStatus(name="postgres", state=state, processes=tuple(own))


def _ray(settings: Settings | None, found: dict[str, list[ProcessInfo]]) -> list[PartStatus]:
    if settings is not None and settings.ray_external:
        return [PartStatus(name="ray", state=PartState.EXTERNAL, detail=f"joined {settings.ray_address}")]
    head = found.get("ray", [])
    state = PartState.RUNNING if any(process.title == "raylet" for process in head) else PartState.STOPPED
    if head and state == PartState.STOPPED:
        state = PartState.STARTING
    return [
        PartStatus(name="ray", state=state, processes=tuple(head)),
        _simple("dashboard", found),
        _simple("serve", found),
    ]


def _simple(name: str, found: dict[str, list[ProcessInfo]]) -> PartStatus:
    own = tuple(found.get(name, ()))
    return PartStatus(name=name, state=PartState.RUNNING if own else PartState.STOPPED, processes=own)


def _application(
    name: str, application: str, found: dict[str, list[ProcessInfo]], serve: deploy.ServeState | None
) -> PartStatus:
    own = tuple(found.get(name, ()))
    known = serve.applications.get(application) if serve is not None else None
    if known is None:
        return PartStatus(name=name, state=PartState.STOPPED, processes=own)
    states = {"RUNNING": PartState.RUNNING, "DEPLOYING": PartState.STARTING}
    detail = known.message.strip().splitlines()[0] if known.message.strip() else ""
    return PartStatus(name=name, state=states.get(known.status, PartState.UNHEALTHY), detail=detail, processes=own)


def _ask_serve(platform: Platform, settings: Settings | None, *, running: bool) -> deploy.ServeState | None:
    if settings is None or not (running or settings.ray_external):
        return None
    head = platform.head(settings.cluster)
    try:
        return deploy.Serve(settings.dashboard_url, head.token(), None).state()
    except (rest.Unreachable, OSError):
        return None


def _is_ready(settings: Settings) -> bool:
    try:
        return rest.request("GET", f"{settings.http_url}/readyz", timeout_s=3.0).status == 200
    except rest.Unreachable:
        return False

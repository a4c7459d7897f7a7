"""Looks at this machine and this home, says what is wrong and how it is put right. Changes nothing."""

from __future__ import annotations

import asyncio
import os
import resource
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from ipaddress import ip_address
from pathlib import Path

import psutil

from tessera.config import CREDENTIALS_FILE, PLATFORM_FILE, SECRET_FILE, ConfigError, Settings, load_cluster
from tessera.errors import TesseraError
from tessera.local import bots, engines, keeper_process, ports, processes, rest, runtime
from tessera.local.platform import Platform
from tessera.local.postgres import PostgresError, find_binaries
from tessera.local.status import look_at_processes
from tessera.store import database, migrations


class Verdict(StrEnum):
    """How a finding is to be taken."""

    OK = "ok"
    WARN = "warn"  # it works, and something should be done
    FAIL = "fail"  # it does not work until something is done


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that was looked at. ``fix`` is empty where all is well."""

    check: str
    verdict: Verdict
    detail: str
    fix: str = ""


@dataclass(frozen=True, kw_only=True)
class Listener:
    """One listening port. ``guard`` says what keeps strangers out of one that the network can reach."""

    part: str
    process: str
    pid: int
    address: str
    port: int
    open_to_network: bool
    guard: str = ""


@dataclass(frozen=True, kw_only=True)
class DoctorReport:
    """Everything that was found. ``healthy`` is False when a finding fails."""

    home: Path
    findings: tuple[Finding, ...]
    listeners: tuple[Listener, ...]

    @property
    def healthy(self) -> bool:
        """Whether nothing fails."""
        return all(finding.verdict != Verdict.FAIL for finding in self.findings)


def examine(platform: Platform, node: str | None = None) -> DoctorReport:
    """Run every check; a few seconds, and up to a minute for each engine with a server.

    ``node``: the node of the cluster file that this machine is, whose engines are looked at; the head unless said.
    """
    settings = platform.settings()
    listeners = tuple(_listeners(platform, settings))
    findings: list[Finding] = []
    checks: list[Callable[[], Finding]] = [
        _python,
        lambda: _cluster_file(platform),
        lambda: _home(platform.home),
        lambda: _disk(platform.home),
        _memory,
        _shared_memory,
        _open_files,
        _clock,
        _gpu,
        lambda: _binaries(platform),
        lambda: _private_files(platform.home),
    ]
    if settings is None:
        fix = "run 'make up' (or 'tessera up')"
        findings.append(Finding(check="platform", verdict=Verdict.WARN, detail="never started in this home", fix=fix))
        checks.append(lambda: _default_port(platform))
    else:
        checks += [
            lambda: _database(settings),
            lambda: _ray(platform, settings),
            lambda: _api(settings),
            lambda: _keeper(platform),
            lambda: _bots(platform),
        ]
    findings += [_looked(check) for check in checks]
    findings += _engines(platform, node)
    findings.append(_network(listeners))
    return DoctorReport(home=platform.home, findings=tuple(findings), listeners=listeners)


def _looked(check: Callable[[], Finding]) -> Finding:
    try:
        return check()
    except Exception as error:  # noqa: BLE001 (a check that breaks is a finding, not the end of the examination)
        return Finding(check="doctor", verdict=Verdict.WARN, detail=f"a check could not be made: {error}")


# ------------------------------------------------------------------ engines


def _engines(platform: Platform, node: str | None) -> list[Finding]:
    """One finding for each worker of this node that has a server or files of its own."""
    try:
        cluster = load_cluster(platform.environ)
    except ConfigError:
        return []  # told already
    names = [each.name for each in cluster.nodes]
    if node is not None and node not in names:
        fix = f"use one of {', '.join(names)}"
        return [Finding(check="engines", verdict=Verdict.FAIL, detail=f"there is no node '{node}'", fix=fix)]
    looks = engines.look_at_engines(cluster, node or cluster.head.name)
    verdicts = {engines.Look.WORKS: Verdict.OK, engines.Look.LACKS: Verdict.WARN, engines.Look.FAILS: Verdict.FAIL}
    return [
        Finding(check=f"engine {look.worker}", verdict=verdicts[look.look], detail=look.detail, fix=look.fix)
        for look in looks
    ]


# ------------------------------------------------------------------ ports


def _listeners(platform: Platform, settings: Settings | None) -> Iterator[Listener]:
    for part, found in look_at_processes(platform, settings).items():
        for process in found:
            for shown in process.ports:
                address, _, port = shown.rpartition(":")
                address = address.strip("[]")
                reachable = not ip_address(address).is_loopback
                guard = ""
                if reachable and _uses_tls(process.pid):
                    guard = "asks for a certificate of this cluster"
                elif reachable and settings is not None and int(port) == settings.http_port:
                    guard = "the API: asks for a key"
                yield Listener(
                    part=part,
                    process=process.title,
                    pid=process.pid,
                    address=address,
                    port=int(port),
                    open_to_network=reachable,
                    guard=guard,
                )


def _uses_tls(pid: int) -> bool:
    """Whether Ray opens this process's ports with certificates; HAProxy, its child, knows nothing of them."""
    with suppress(psutil.Error):
        process = psutil.Process(pid)
        return bool(process.name() != "haproxy" and process.environ().get("RAY_USE_TLS") == "1")
    return False


def _network(listeners: tuple[Listener, ...]) -> Finding:
    name = "network"
    if not listeners:
        return Finding(check=name, verdict=Verdict.OK, detail="nothing of this home listens")
    bare = [listener for listener in listeners if listener.open_to_network and not listener.guard]
    guarded = [listener for listener in listeners if listener.open_to_network and listener.guard]
    if bare:
        named = ", ".join(f"{item.address}:{item.port} ({item.process})" for item in bare)
        return Finding(
            check=name,
            verdict=Verdict.WARN,
            detail=f"open to the network without a guard: {named}",
            fix='close them with a firewall, or set host = "127.0.0.1" in the cluster file',
        )
    if guarded:
        return Finding(
            check=name,
            verdict=Verdict.OK,
            detail=f"{len(guarded)} of {len(listeners)} ports can be reached from the network; each one is guarded",
        )
    return Finding(check=name, verdict=Verdict.OK, detail=f"all {len(listeners)} ports listen on loopback only")


def _default_port(platform: Platform) -> Finding:
    asked = platform.environ.get("TESSERA_PORT", "")
    port = int(asked) if asked.isdecimal() else load_cluster(platform.environ).ingress.port
    if ports.is_free(port, "127.0.0.1"):
        return Finding(check="port", verdict=Verdict.OK, detail=f"{port} is free")
    what = (
        "choose another TESSERA_PORT" if asked else "nothing to do: 'up' takes a free one; TESSERA_PORT names another"
    )
    return Finding(check="port", verdict=Verdict.WARN, detail=f"{port} is taken by another program", fix=what)


# ------------------------------------------------------------------ the machine


def _python() -> Finding:
    version = ".".join(str(part) for part in sys.version_info[:3])
    if (3, 11) <= sys.version_info[:2] <= (3, 13):
        return Finding(check="python", verdict=Verdict.OK, detail=f"{version}; all nodes need this very version")
    fix = "install one of those, then 'make clean' and 'make up PYTHON=…'"
    return Finding(check="python", verdict=Verdict.FAIL, detail=f"{version}; Ray needs 3.11, 3.12 or 3.13", fix=fix)


def _cluster_file(platform: Platform) -> Finding:
    try:
        cluster = load_cluster(platform.environ)
    except ConfigError as error:
        return Finding(check="cluster file", verdict=Verdict.FAIL, detail=str(error), fix="correct it as it says")
    detail = f"{len(cluster.nodes)} node(s), {len(cluster.enabled_workers())} enabled worker(s)"
    return Finding(check="cluster file", verdict=Verdict.OK, detail=detail)


def _home(home: Path) -> Finding:
    windows = home.parts[:2] == ("/", "mnt") and "microsoft" in Path("/proc/version").read_text().lower()
    if windows:
        fix = "set TESSERA_HOME to a folder inside of WSL, such as ~/.tessera"
        return Finding(check="home", verdict=Verdict.FAIL, detail=f"{home} is on a Windows drive", fix=fix)
    if home.exists() and (home.stat().st_uid != os.geteuid()):
        fix = "run as that user, or set TESSERA_HOME to another folder"
        return Finding(check="home", verdict=Verdict.FAIL, detail=f"{home} belongs to another user", fix=fix)
    short = runtime.short_dir_path(home)
    if short.exists() and short.lstat().st_uid != os.geteuid():
        fix = "remove it, or set TESSERA_HOME to another folder"
        return Finding(check="home", verdict=Verdict.FAIL, detail=f"{short} belongs to another user", fix=fix)
    return Finding(check="home", verdict=Verdict.OK, detail=f"{home}; sockets in {short}")


def _disk(home: Path) -> Finding:
    folder = next(path for path in (home, *home.parents) if path.exists())
    free_gib = shutil.disk_usage(folder).free / 2**30
    detail = f"{free_gib:.1f} GiB free for {home}"
    if free_gib < 1:
        return Finding(
            check="disk", verdict=Verdict.FAIL, detail=detail, fix="make room: results cannot be stored soon"
        )
    if free_gib < 5:
        return Finding(check="disk", verdict=Verdict.WARN, detail=detail, fix="make room before it becomes urgent")
    return Finding(check="disk", verdict=Verdict.OK, detail=detail)


def _memory() -> Finding:
    total_gib = psutil.virtual_memory().total / 2**30
    free_gib = psutil.virtual_memory().available / 2**30
    detail = f"{free_gib:.1f} of {total_gib:.1f} GiB available"
    if total_gib < 3.5:
        fix = "4 GiB are needed: about 2 for the platform at rest, the rest for its work"
        return Finding(check="memory", verdict=Verdict.WARN, detail=detail, fix=fix)
    if free_gib < 1:
        return Finding(check="memory", verdict=Verdict.WARN, detail=detail, fix="end what else takes memory here")
    return Finding(check="memory", verdict=Verdict.OK, detail=detail)


def _shared_memory() -> Finding:
    total_mib = shutil.disk_usage("/dev/shm").total / 2**20 if Path("/dev/shm").exists() else 0  # noqa: S108
    if total_mib < 240:
        fix = "nothing must be done (Ray uses files in /tmp); in Docker, --shm-size=512m is faster"
        return Finding(check="shared memory", verdict=Verdict.WARN, detail=f"{total_mib:.0f} MiB", fix=fix)
    return Finding(check="shared memory", verdict=Verdict.OK, detail=f"{total_mib:.0f} MiB in /dev/shm")


def _open_files() -> Finding:
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 8192:
        fix = "raise it: 'ulimit -Hn' shows it, /etc/security/limits.conf or the service's LimitNOFILE= sets it"
        return Finding(check="open files", verdict=Verdict.WARN, detail=f"at most {hard}", fix=fix)
    return Finding(check="open files", verdict=Verdict.OK, detail="unlimited" if hard < 0 else f"at most {hard}")


def _clock() -> Finding:
    year = datetime.now(UTC).year
    if year < 2026:
        return Finding(check="clock", verdict=Verdict.FAIL, detail=f"it says {year}", fix="set the date; use NTP")
    with suppress(OSError, subprocess.TimeoutExpired):
        said = subprocess.run(
            ["timedatectl", "show", "--property=NTPSynchronized", "--value"],
            capture_output=True,
            text=True,
            check=False,
            timeout=5,
        )
        if said.returncode == 0 and said.stdout.strip() == "no":
            fix = "timedatectl set-ntp true (webhook signatures and token certificates depend on the time)"
            return Finding(check="clock", verdict=Verdict.WARN, detail="not synchronised", fix=fix)
    return Finding(check="clock", verdict=Verdict.OK, detail=f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC")


def _gpu() -> Finding:
    with suppress(OSError, subprocess.TimeoutExpired):
        said = subprocess.run(
            ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            check=False,
            timeout=10,
        )
        if said.returncode == 0 and said.stdout.strip():
            return Finding(check="gpu", verdict=Verdict.OK, detail="; ".join(said.stdout.strip().splitlines()))
    return Finding(check="gpu", verdict=Verdict.OK, detail="none seen; the preview engines need none")


def _binaries(platform: Platform) -> Finding:
    if platform.environ.get("DATABASE_URL"):
        return Finding(check="postgres binaries", verdict=Verdict.OK, detail="not needed: DATABASE_URL is set")
    try:
        return Finding(check="postgres binaries", verdict=Verdict.OK, detail=str(find_binaries()))
    except PostgresError as error:
        return Finding(check="postgres binaries", verdict=Verdict.FAIL, detail=str(error), fix=error.fix)


def _private_files(home: Path) -> Finding:
    name = "secrets"
    wide = []
    paths = [
        home / PLATFORM_FILE,
        home / CREDENTIALS_FILE,
        home / SECRET_FILE,
        home / bots.KEY_FILE,
        home / "ray" / "auth_token",
        home / "ray" / "tls" / "key.pem",
    ]
    paths.append(home / "postgres" / "secrets.json")
    there = [path for path in paths if path.exists()]
    wide = [path for path in there if stat.S_IMODE(path.stat().st_mode) & 0o077]
    if wide:
        named = " ".join(str(path) for path in wide)
        fix = f"chmod 600 {named}; if others use this machine, make new keys too"
        return Finding(check=name, verdict=Verdict.FAIL, detail=f"others can read {named}", fix=fix)
    return Finding(check=name, verdict=Verdict.OK, detail=f"{len(there)} files, each readable by its owner only")


# ------------------------------------------------------------------ the platform


def _bots(platform: Platform) -> Finding:
    """The bots that should run, how each of them is, and those that have no token."""
    found = bots.ask(platform.home, platform.environ)
    without = [bot for tokens in found.values() for bot in tokens.missing]
    ready = [bot for tokens in found.values() for bot in tokens.ready]
    if not bots.wanted(platform.home):
        if ready:
            detail = f"{len(ready)} have a token and were not started"
            return Finding(check="bots", verdict=Verdict.WARN, detail=detail, fix="run 'make up' with the same tokens")
        return Finding(check="bots", verdict=Verdict.OK, detail="none has a token; docs/bots.md says how to get one")
    ill: list[str] = []
    up = 0
    for name in bots.wanted(platform.home):
        told = bots.health(platform.home, name)
        if told is None:
            ill.append(f"the {name} bots do not answer ('tessera logs' shows bots-{name})")
            continue
        for bot, condition in told.get("bots", {}).items():
            if condition["state"] == "up":
                up += 1
            elif condition["state"] != "off":
                ill.append(f"{bot} is {condition['state']}: {condition['detail'] or 'no reason given'}")
    if ill:
        fix = "correct the token that is refused and run 'make up'; the other bots go on meanwhile"
        return Finding(check="bots", verdict=Verdict.FAIL, detail="; ".join(ill), fix=fix)
    more = f"; without a token: {', '.join(without)}" if without else ""
    return Finding(check="bots", verdict=Verdict.OK, detail=f"{up} up{more}")


def _database(settings: Settings) -> Finding:
    try:
        revision, server = asyncio.run(_ask_database(settings.database_url))
    except (TesseraError, OSError) as error:
        fix = "run 'make up'; 'tessera logs postgres' shows why it ended"
        if settings.database_external:
            fix = "is the server that DATABASE_URL names up, and can it be reached from here?"
        return Finding(check="database", verdict=Verdict.FAIL, detail=f"not reached: {error}", fix=fix)
    head = migrations.head()
    if revision != head:
        fix = "run 'make up': it applies the migrations"
        return Finding(check="database", verdict=Verdict.FAIL, detail=f"at {revision}, the code at {head}", fix=fix)
    return Finding(check="database", verdict=Verdict.OK, detail=f"PostgreSQL {server}, migrations at {revision}")


async def _ask_database(dsn: str) -> tuple[str | None, str]:
    connection = await database.connect(dsn, name="tessera-doctor")
    try:
        version = str(connection.get_settings().server_version)
    finally:
        await connection.close()
    return await migrations.current(dsn), version


def _ray(platform: Platform, settings: Settings) -> Finding:
    head = platform.head(settings.cluster)
    if not settings.ray_external and not head.alive():
        fix = "run 'make up'; 'tessera logs ray' shows why it ended"
        return Finding(check="ray", verdict=Verdict.FAIL, detail="does not run", fix=fix)
    answer = rest.request("GET", f"{settings.dashboard_url}/api/version", token=head.token())
    found = (answer.json() or {}).get("ray_version", "?")
    return Finding(check="ray", verdict=Verdict.OK, detail=f"{found} at {settings.ray_address}")


def _api(settings: Settings) -> Finding:
    try:
        answer = rest.request("GET", f"{settings.http_url}/readyz", timeout_s=5.0)
    except rest.Unreachable:
        fix = "run 'make up'; 'tessera logs ingress' shows why it is away"
        return Finding(check="api", verdict=Verdict.FAIL, detail=f"{settings.http_url} does not answer", fix=fix)
    said = answer.json() or {}
    offline = ", ".join(said.get("offline", []))
    if answer.status != 200:
        return Finding(
            check="api", verdict=Verdict.FAIL, detail=f"not ready: {answer.text()[:200]}", fix="see 'tessera logs'"
        )
    if offline:
        fix = "'tessera logs' with the worker's name shows why; its jobs wait until it is back"
        return Finding(check="api", verdict=Verdict.WARN, detail=f"ready; offline workers: {offline}", fix=fix)
    return Finding(check="api", verdict=Verdict.OK, detail=f"{settings.http_url} is ready, all workers are online")


def _keeper(platform: Platform) -> Finding:
    if processes.load_record(keeper_process.record_file(platform.home)) is None:
        fix = "run 'make up': without it nothing restarts Postgres or Ray"
        return Finding(check="keeper", verdict=Verdict.WARN, detail="does not run", fix=fix)
    return Finding(check="keeper", verdict=Verdict.OK, detail="watches Postgres, Ray and Serve")

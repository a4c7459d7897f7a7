"""The logs of all parts as one stream: which files belong to which part, their last lines, and what is added.

Ray gives each worker process files of its own, named by ids; their first lines say which actor wrote them.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from tessera.local.deploy import CONTROL
from tessera.local.platform import Platform

POLL_S = 0.3
RESCAN_S = 2.0
TAIL_BYTES = 256 * 1024

_TIME = re.compile(r"(\d{4}-\d\d-\d\d)[T ](\d\d:\d\d:\d\d)(?:[.,](\d{1,6}))?\s?(Z|UTC|\+00:00)?")
_ACTOR = re.compile(r":actor_name:(\S+)")


@dataclass(frozen=True, kw_only=True)
class LogLine:
    """One line. ``at`` is None where the line carries no time (a traceback)."""

    part: str
    file: str
    text: str
    at: datetime | None


def parts(platform: Platform) -> list[str]:
    """The names that ``logs`` knows, whether they have files yet or not."""
    settings = platform.settings()
    workers = [worker.name for worker in settings.cluster.enabled_workers()] if settings is not None else []
    return ["postgres", "ray", "dashboard", "serve", "ingress", "scheduler", "keeper", *workers]


def last(platform: Platform, wanted: Collection[str] = (), *, lines: int = 20) -> list[LogLine]:
    """The last lines of each wanted part (all parts by default), merged by time."""
    found: dict[str, list[LogLine]] = {}
    for part, path in _sources(platform, wanted):
        found.setdefault(part, []).extend(_read(part, path, max(0, _size(path) - TAIL_BYTES))[0])
    kept = [line for group in found.values() for line in _by_time(group)[-lines:]]
    return _by_time(kept)


def follow(
    platform: Platform,
    wanted: Collection[str] = (),
    *,
    lines: int = 20,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[LogLine]:
    """The last lines, then every new one, for ever. Files that appear (a restart) are taken up."""
    offsets = {path: _size(path) for _part, path in _sources(platform, wanted)}
    yield from last(platform, wanted, lines=lines)
    scanned = time.monotonic()
    sources = _sources(platform, wanted)
    while True:
        fresh: list[LogLine] = []
        for part, path in sources:
            offset = offsets.setdefault(path, 0)
            size = _size(path)
            if size < offset:  # rotated or trimmed
                offset = 0
            if size > offset:
                added, offsets[path] = _read(part, path, offset)
                fresh += added
        yield from _by_time(fresh)
        sleep(POLL_S)
        if time.monotonic() - scanned > RESCAN_S:
            sources, scanned = _sources(platform, wanted), time.monotonic()


def _sources(platform: Platform, wanted: Collection[str]) -> list[tuple[str, Path]]:
    own = platform.home / "logs"
    found = [("postgres", own / "postgres.log"), ("keeper", own / "keeper.log"), ("ray", own / "ray.log")]
    settings = platform.settings()
    if settings is not None and not settings.ray_external:
        found += _session_sources(platform.head(settings.cluster).session_logs())
    return [(part, path) for part, path in found if (not wanted or part in wanted) and path.is_file()]


def _session_sources(session: Path) -> list[tuple[str, Path]]:
    found: list[tuple[str, Path]] = []
    for name in ("gcs_server.err", "raylet.err", "runtime_env_agent.log", "ray_process_exit.log"):
        found.append(("ray", session / name))
    for pattern in ("dashboard.log", "dashboard.err", "dashboard_agent.log", "dashboard_ServeHead.log"):
        found += [("dashboard", path) for path in session.glob(pattern)]
    for path in session.glob("serve/*.log"):
        part = "serve"
        if path.name.startswith(f"replica_{CONTROL}_"):
            part = "ingress"
        elif path.name.startswith("replica_worker-"):
            part = path.name.removeprefix("replica_worker-").rsplit("_", 2)[0]
        found.append((part, path))
    for path in session.glob("worker-*.err"):
        actor = _ACTOR.search(_first_lines(path))
        writer = _part_of_actor(actor.group(1)) if actor else None
        if writer is not None:
            found.append((writer, path))
    return found


def _first_lines(path: Path) -> str:
    try:
        with path.open(errors="replace") as file:
            return file.read(400)
    except OSError:
        return ""


def _part_of_actor(name: str) -> str | None:
    if name.startswith("ServeReplica:"):
        application = name.split(":")[1]
        return "ingress" if application == CONTROL else application.removeprefix("worker-")
    if name.startswith("SchedulerActor"):
        return "scheduler"
    return "serve" if name.startswith(("ServeController", "ProxyActor", "HAProxyManager")) else None


def _read(part: str, path: Path, offset: int) -> tuple[list[LogLine], int]:
    """The whole lines from an offset on, and where the rest begins."""
    try:
        with path.open("rb") as file:
            file.seek(offset)
            data = file.read()
    except OSError:
        return [], offset
    end = data.rfind(b"\n") + 1
    found = []
    at: datetime | None = None
    for text in data[:end].decode(errors="replace").splitlines():
        if not text or text.startswith((":job_id:", ":actor_name:", ":task_name:")):
            continue
        # A line without a time (a traceback) stays with the one before it.
        at = _time_of(text) or at
        found.append(LogLine(part=part, file=path.name, text=text, at=at))
    return found, offset + end


def _time_of(text: str) -> datetime | None:
    match = _TIME.search(text[:2000])
    if match is None:
        return None
    day, clock, fraction, zone = match.groups()
    naive = datetime.fromisoformat(f"{day}T{clock}.{(fraction or '0').ljust(6, '0')}")
    # Our own logs and those of Postgres are in UTC and say so; Ray writes local time.
    return naive.replace(tzinfo=UTC) if zone else naive.astimezone(UTC)


def _by_time(lines: list[LogLine]) -> list[LogLine]:
    earliest = datetime.min.replace(tzinfo=UTC)
    return sorted(lines, key=lambda line: line.at or earliest)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0

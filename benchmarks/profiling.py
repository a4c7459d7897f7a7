"""Where a job's time goes: the CPU of each part per job, and where in its code, by py-spy's samples.

``make bench`` does it at its end, ``python -m benchmarks --only profile`` alone. Both look at the running platform from
outside while no-op jobs stream through. https://github.com/benfred/py-spy
"""

from __future__ import annotations

import asyncio
import resource
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg
import psutil

from benchmarks import measures
from benchmarks.home import Home, User
from benchmarks.report import Report, say, table

CLIENTS = "the clients of this benchmark"
SAMPLED = ("ingress", "scheduler", "noop")
SAMPLES_PER_S = 100
IDLE_S = 4.0
SHOWN = 12
# What a frame of the platform is called by: everything below it counts as its own cost.
OURS = ("tessera/", "deployments/")
LIBRARIES = (
    "asyncpg",
    "ray",
    "fastapi",
    "starlette",
    "uvicorn",
    "structlog",
    "pydantic",
    "prometheus_client",
    "orjson",
)


async def cpu_per_job(home: Home, report: Report, sql: asyncpg.Connection, user: User, jobs: int) -> None:
    """A table of microseconds of CPU a job, by part, and of jobs per second meanwhile."""
    before = _cpu_s(home)
    began = time.perf_counter()
    whole = await measures.whole_jobs(home.url, sql, [user], 32, jobs)
    seconds = time.perf_counter() - began
    after = _cpu_s(home)
    began = time.perf_counter()
    await asyncio.sleep(IDLE_S)
    resting = _cpu_s(home)
    idle_s = time.perf_counter() - began
    found = []
    for part, used in after.items():
        # What a part takes all the time, jobs or not, is no job's; least of all the looking at it.
        own = used - before.get(part, 0.0) - max(0.0, resting.get(part, used) - used) / idle_s * seconds
        found.append((own / jobs * 1e6, part))
    found.sort(reverse=True)
    total = sum(us for us, _ in found if us > 0)
    report.data["profile_us"] = {part: us for us, part in found}
    rows = [[part, f"{us:,.0f}", f"{us / total:.0%}"] for us, part in found if us > 0.01 * total]
    report.section(
        f"Where a job's time goes, by part ({jobs:,} jobs, 32 connections, {whole.jobs_per_s:,.0f} jobs/s)",
        table(["part", "µs of CPU a job", "part of all"], [*rows, ["all", f"{total:,.0f}", ""]]),
    )


def _cpu_s(home: Home) -> dict[str, float]:
    """Seconds of CPU that each part has had, and this process."""
    found: dict[str, float] = {}
    for part in home.parts():
        for process in part["processes"]:
            try:
                times = psutil.Process(process["pid"]).cpu_times()
            except psutil.Error:
                continue
            found[part["name"]] = found.get(part["name"], 0.0) + times.user + times.system
    own = resource.getrusage(resource.RUSAGE_SELF)
    found[CLIENTS] = own.ru_utime + own.ru_stime
    return found


@dataclass
class Samples:
    """Of one process: how often each place was on the CPU. ``within``: it or what it called; ``at``: where it was."""

    total: int = 0
    within: Counter[str] = field(default_factory=Counter)
    at: Counter[str] = field(default_factory=Counter)


def read_samples(raw: str) -> Samples:
    """py-spy's raw format: the frames of a stack from the outermost on, and how often it was seen."""
    found = Samples()
    for line in raw.splitlines():
        stack, _, count = line.rpartition(" ")
        if not stack or not count.isdigit():
            continue
        frames = [frame for each in stack.split(";") if (frame := each.strip())]
        seen = int(count)
        found.total += seen
        found.within.update(dict.fromkeys({_place(frame) for frame in frames} - {""}, seen))
        found.at[_library(frames)] += seen
    return found


def _place(frame: str) -> str:
    """``function (module.py)`` of a frame of ours, without the line; else nothing."""
    name, _, where = frame.partition(" (")
    for package in OURS:
        if package in where and "site-packages" not in where:
            path = package + where.split(package, 1)[1].rsplit(":", 1)[0].rstrip(")")
            return f"{name} ({path})"
    return ""


def _library(frames: list[str]) -> str:
    """Whose code the innermost frames are: the first package from within that somebody can name."""
    for frame in reversed(frames):
        if _place(frame):
            return "tessera"
        for library in LIBRARIES:
            if f"{library}/" in frame or f"{library}." in frame.partition(" (")[2]:
                return library
    return "Python and asyncio"


async def samples(
    home: Home, report: Report, sql: asyncpg.Connection, user: User, *, seconds: float, rate: float, folder: Path
) -> None:
    """Tables of where the ingress, the scheduler and the no-op worker spend their CPU, by samples. Needs py-spy."""
    tool = folder / "py-spy" / "bin" / "py-spy"
    await asyncio.to_thread(_install, tool)
    pids = {part["name"]: part["processes"][0]["pid"] for part in home.parts() if part["name"] in SAMPLED}
    stop = asyncio.Event()

    async def load() -> None:
        while not stop.is_set():
            await measures.whole_jobs(home.url, sql, [user], 32, max(32, int(rate)))

    streaming = asyncio.create_task(load())
    try:
        await asyncio.sleep(1.0)
        for name in SAMPLED:
            say(f"samples of {name} for {seconds:.0f} s")
            out = folder / f"{name}.raw"
            process = await asyncio.create_subprocess_exec(
                str(tool), "record", "--pid", str(pids[name]), "--duration", str(round(seconds)),
                "--rate", str(SAMPLES_PER_S), "--format", "raw", "--nonblocking", "--output", str(out),
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
            )  # fmt: skip
            _, told = await process.communicate()
            if process.returncode:
                raise RuntimeError(f"py-spy: {told.decode(errors='replace').strip()[-200:]}")
            _tell(report, name, read_samples(out.read_text(encoding="utf-8")))
    finally:
        stop.set()
        await streaming


def _install(tool: Path) -> None:
    if not tool.exists():
        subprocess.run([sys.executable, "-m", "venv", str(tool.parent.parent)], check=True, stdout=sys.stderr)
        pip = [str(tool.parent / "pip"), "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "py-spy"], check=True, stdout=sys.stderr)


def _tell(report: Report, name: str, found: Samples) -> None:
    def share(count: int) -> str:
        return f"{count / max(1, found.total):.0%}"

    report.data.setdefault("samples", {})[name] = {
        "total": found.total,
        "within": dict(found.within.most_common(40)),
        "at": dict(found.at.most_common()),
    }
    report.section(
        f"Inside {name}, {found.total:,} samples on the CPU",
        "Whose code: "
        + ", ".join(f"{whose} {share(count)}" for whose, count in found.at.most_common(8))
        + ".\n\n"
        + table(
            ["function, with what it calls", "part of the samples"],
            [[f"`{place}`", share(count)] for place, count in found.within.most_common(SHOWN)],
        ),
    )

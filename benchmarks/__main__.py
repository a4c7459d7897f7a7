"""Start a platform of its own, measure it beside its peers, end it; Markdown tables on stdout and in build/.

Whatever cannot be measured here is said in the tables, with the reason, and the rest goes on.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform as machine
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import aiohttp

from benchmarks import devices, floors, measures
from benchmarks.home import Home, User
from benchmarks.load import Load, run_load, session
from benchmarks.measures import percentile, spread

BUILD = Path(__file__).resolve().parent.parent / "build"
CONNECTIONS = (1, 32, 128)
REQUESTS = {1: 300, 32: 2000, 128: 3000}
JOBS = 3000
LATENCY_JOBS = 200
DEPTHS = "1000,10000,100000,1000000"
T = TypeVar("T")


def say(text: str) -> None:
    """Progress, on stderr."""
    sys.stderr.write(f"· {text}\n")


class Report:
    """Rows of the tables, the numbers behind them, and what could not be measured."""

    def __init__(self) -> None:
        self.rows: list[list[str]] = []
        self.targets: list[list[str]] = []
        self.more: list[str] = []
        self.data: dict[str, Any] = {}
        self.unexpected = 0

    def row(self, what: str, measured: str, **numbers: Any) -> None:
        """A line of the main table."""
        self.rows.append([what, measured])
        self.data.update(numbers)

    def target(self, claim: str, measured: float, least: float, goal: float | None = None, unit: str = "×") -> None:
        """A claim, held when so much is measured at least; below 0 they are limits from above."""
        held = measured >= least if least >= 0 else measured <= -least
        reached = "" if goal is None else f", goal {goal:g}{unit}: {'yes' if measured >= goal else 'no'}"
        bound = f"≥ {least:g}{unit}" if least >= 0 else f"< {-least:g}{unit}"
        self.targets.append([claim, f"{measured:.2f}{unit}", f"{bound}: {'yes' if held else '**no**'}{reached}"])

    async def tried(self, what: str, work: Callable[[], Awaitable[T]]) -> T | None:
        """A measurement, or None and a line that says why there is none."""
        say(what)
        try:
            return await work()
        except (Exception, subprocess.CalledProcessError) as error:  # noqa: BLE001 (one of many; the rest goes on)
            self.rows.append([what, f"not measured: {type(error).__name__}: {str(error)[:120]}"])
            return None


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows])


async def latency(url: str, user: User) -> Load:
    """Submit until completed of single no-op jobs on an idle platform, by ``Prefer: wait``."""
    async with session(url, user.key, 1) as client:

        async def one() -> int:
            async with client.post("/v1/jobs", json=measures.body(), headers={"Prefer": "wait=30"}) as answer:
                job = await answer.json()
                return 200 if job.get("state") == "completed" else answer.status

        await run_load(1, 20, one, expect=200)
        return await run_load(1, LATENCY_JOBS, one, expect=200)


async def rounds(home: Home, report: Report, folder: Path, count: int) -> float:
    """Everything that is compared, in turns: what changes on the machine meanwhile meets all alike."""
    url = home.url
    sql = await home.sql()
    [hot, *many] = await home.users(33)
    dsn = home.settings.database_url
    peer: floors.Procrastinate | None = floors.Procrastinate(home, folder / "peer")
    assert peer is not None
    if await report.tried("procrastinate: install, find its best concurrency", peer.setup) is None and not peer.best:
        peer = None
    seen: dict[str, list[Any]] = {}

    def note(name: str, value: Any) -> None:
        seen.setdefault(name, []).append(value)

    single = await latency(url, hot)
    for number in range(count):
        say(f"round {number + 1} of {count}")
        for connections in CONNECTIONS:
            note(f"floor {connections}", await measures.floor(url, connections, REQUESTS[connections]))
        note("commits 1", await floors.commits(dsn, 1, 1.0))
        note("commits 32", await floors.commits(dsn, 32, 1.0))
        await asyncio.to_thread(home.tessera, "pause", "text", "--message", "A benchmark of submissions alone.")
        await asyncio.sleep(1.5)  # the scheduler reads it within a second
        for connections in CONNECTIONS:
            load = await measures.submissions(url, [hot], connections, REQUESTS[connections])
            note(f"submit {connections}", load)
        note("submit many", await measures.submissions(url, many, 32, REQUESTS[32]))
        await asyncio.to_thread(home.tessera, "unpause", "text")
        began, left = time.perf_counter(), sum(REQUESTS.values()) + REQUESTS[32]
        await measures.drained(sql, [hot, *many])
        note("backlog", left / (time.perf_counter() - began))
        note("floor again", await measures.floor(url, 32, REQUESTS[32]))
        note("whole", await measures.whole_jobs(url, sql, [hot], 32, JOBS))
        note("whole 128", await measures.whole_jobs(url, sql, [hot], 128, JOBS))
        note("batch", await measures.whole_jobs(url, sql, [hot], 32, JOBS, model="noop-batch"))
        note("batch 128", await measures.whole_jobs(url, sql, [hot], 128, JOBS, model="noop-batch"))
        if peer is not None:
            note("peer", await peer.drain(peer.best))
    handle = await report.tried("Serve's bare handle call", lambda: floors.handle_calls(home))
    tell(report, seen, single, peer, handle)
    rate = statistics.median(each.jobs_per_s for each in seen["whole"])
    for load in (0.1, 0.7):
        reached = await report.tried(
            f"submit → engine's first line at {load:.0%} load",
            lambda load=load: measures.to_the_engine(url, sql, hot, per_second=rate * load),  # type: ignore[misc]
        )
        if reached is not None:
            p50, p99 = percentile(reached.ms, 0.5), percentile(reached.ms, 0.99)
            report.row(
                f"submit → engine's first line at {load:.0%} of {rate:,.0f} jobs/s: p50 / p99 of {len(reached.ms):,}",
                f"{p50:.1f} / {p99:.1f} ms",
                **{f"reach_{load:.0%}_ms": [p50, p99]},
            )
            if load == 0.1:
                report.target("submit → engine p50 at 10 % load", p50, -12, unit=" ms")
                report.target("submit → engine p99 at 10 % load", p99, -60, unit=" ms")
    streams = await report.tried("1,000 open event streams", lambda: measures.event_streams(url, hot))
    if streams is not None:
        opened, delays = streams
        report.row(
            f"an event's way to its reader, {opened:,} open streams: p50 / p99 of {len(delays):,}",
            f"{percentile(delays, 0.5):.1f} / {percentile(delays, 0.99):.1f} ms",
            streams=opened,
            event_ms=[percentile(delays, 0.5), percentile(delays, 0.99)],
        )
    for part in ("scheduler", "noop", "postgres"):
        took = await report.tried(
            f"recovery after SIGKILL of {part}",
            lambda part=part: measures.recovery(home, hot, part),  # type: ignore[misc]
        )
        if took is not None:
            name = f"SIGKILL of {part} until a job goes the whole way again"
            report.row(name, f"{took:.1f} s", **{f"recovery_{part}_s": took})
    await sql.close()
    return rate


def tell(
    report: Report,
    seen: dict[str, list[Any]],
    single: Load,
    peer: floors.Procrastinate | None,
    handle: dict[str, float] | None,
) -> None:
    """The rows of the rounds, and the claims."""
    middle = statistics.median

    def ratio(ours: list[float], theirs: list[float]) -> float:
        return middle(a / b for a, b in zip(ours, theirs, strict=True))

    report.row(
        f"one job, submit to completed, p50 / p99 of {LATENCY_JOBS}",
        f"{single.percentile_ms(0.5):.1f} / {single.percentile_ms(0.99):.1f} ms",
        job_ms=[single.percentile_ms(0.5), single.percentile_ms(0.99)],
    )
    per_s = {
        name: [
            each.per_second if isinstance(each, Load) else each.jobs_per_s if isinstance(each, measures.Whole) else each
            for each in values
        ]
        for name, values in seen.items()
        if name != "peer"
    }
    loads = [each for values in seen.values() for each in values if isinstance(each, Load)]
    loads += [each.submitted for values in seen.values() for each in values if isinstance(each, measures.Whole)]
    report.unexpected = single.failures + sum(load.failures for load in loads)
    for connections in CONNECTIONS:
        ours, theirs = per_s[f"submit {connections}"], per_s[f"floor {connections}"]
        times = [f"{middle(load.percentile_ms(s) for load in seen[f'submit {connections}']):.1f}" for s in (0.5, 0.99)]
        report.row(
            f"durable submissions at {connections} connection{'s' * (connections > 1)}, /s; p50 / p99",
            f"{spread(ours)}; {' / '.join(times)} ms; {ratio(ours, theirs):.2f} of the floor",
            **{f"submit_{connections}_per_s": ours, f"floor_{connections}_per_s": theirs},
        )
        report.row(f"the floor at {connections}: a route of the same application that does nothing", spread(theirs))
    report.row(
        "Postgres' commits of one row, /s at 1 / 32 connections",
        f"{spread(per_s['commits 1'])} / {spread(per_s['commits 32'])}",
        commits={"1": per_s["commits 1"], "32": per_s["commits 32"]},
    )
    hot_many = ratio(per_s["submit many"], per_s["submit 32"])
    report.row(
        "submissions of 32 users instead of one, two ingress replicas, 32 connections",
        f"{spread(per_s['submit many'])}: {hot_many:.2f} × the hot user's",
        submit_many_per_s=per_s["submit many"],
    )
    names = {
        "whole": "whole jobs, one engine call each, 32 connections, /s",
        "whole 128": "… 128 connections, /s",
        "batch": "whole jobs, the engine takes them in batches, 32 connections, /s",
        "batch 128": "… 128 connections, /s",
    }
    for name, text in names.items():
        submitted = [each.submitted.per_second for each in seen[name]]
        report.row(
            text,
            f"{spread(per_s[name])} (submitted meanwhile {middle(submitted):,.0f})",
            **{name.replace(" ", "_") + "_per_s": per_s[name]},
        )
    meanwhile = [each.submitted.per_second for each in seen["whole"]]
    report.row(
        "submissions while their jobs run on the same cores, of the floor",
        f"{ratio(meanwhile, per_s['floor again']):.2f}",
        submit_while_running_per_s=meanwhile,
    )
    report.row("a backlog, drained, jobs/s", spread(per_s["backlog"]), backlog_per_s=per_s["backlog"])
    if peer is not None:
        drained = [each["drained_per_s"] for each in seen["peer"]]
        deferred = [each["deferred_per_s"] for each in seen["peer"]]
        tried = ", ".join(f"{each}: {rate:,.0f}" for each, rate in peer.tried.items())
        report.row(
            f"procrastinate {peer.version}, no-op tasks drained, /s, at its best concurrency {peer.best}",
            f"{spread(drained)} (tried {tried}; deferred in batches {middle(deferred):,.0f})",
            procrastinate={"version": peer.version, "concurrency": peer.best, "drained": drained, "tried": peer.tried},
        )
        best = [max(a, b) for a, b in zip(per_s["whole"], per_s["whole 128"], strict=True)]
        batch = [max(a, b) for a, b in zip(per_s["batch"], per_s["batch 128"], strict=True)]
        report.target("whole jobs ÷ procrastinate's drained tasks, one engine call each", ratio(best, drained), 2, 3)
        report.target("whole jobs ÷ procrastinate's drained tasks, in batches", ratio(batch, drained), 4, 5)
    if handle is not None:
        shown = " / ".join(f"{rate:,.0f}" for rate in handle.values())
        report.row(f"Serve's bare handle call, /s at {' / '.join(handle)} at a time", shown, handle_per_s=handle)
    durable = ratio(per_s["submit 32"], per_s["floor 32"])
    report.target("durable submissions ÷ no-op requests, 32 connections", durable, 0.4, 0.6)
    report.target("32 users ÷ one hot user", hot_many, -1.5)


def profile(home: Home, report: Report, rate: float) -> None:
    """Where a job's time goes: the CPU of each part while jobs stream through, by job."""

    async def measure() -> list[list[str]]:
        [user] = await home.users(1)
        sql = await home.sql()
        before = cpu(home)
        began = time.perf_counter()
        await measures.whole_jobs(home.url, sql, [user], 32, JOBS)
        seconds = time.perf_counter() - began
        after = cpu(home)
        idle_s = 5.0
        await asyncio.sleep(idle_s)
        resting = cpu(home)
        await sql.close()
        rows = []
        for part, used in after.items():
            # What a part takes all the time, jobs or not, is no job's.
            own = used - before.get(part, 0.0) - (resting.get(part, used) - used) / idle_s * seconds
            rows.append((own / JOBS * 1e6, part))
        rows.sort(reverse=True)
        total = sum(us for us, _ in rows)
        report.data["profile_us"] = {part: us for us, part in rows}
        return [[part, f"{us:,.0f}", f"{us / total:.0%}"] for us, part in rows if us > 0.01 * total]

    rows = asyncio.run(report.tried("a profile of where a job's time goes", measure))
    if rows is not None:
        report.more.append("Where a job's time goes:\n\n" + table(["part", "µs of CPU a job", "part of all"], rows))


def cpu(home: Home) -> dict[str, float]:
    """Seconds of CPU that each part has had, and this process."""
    import psutil

    found: dict[str, float] = {}
    for part in home.parts():
        for process in part["processes"]:
            try:
                times = psutil.Process(process["pid"]).cpu_times()
            except psutil.Error:
                continue
            found[part["name"]] = found.get(part["name"], 0.0) + times.user + times.system
    own = resource.getrusage(resource.RUSAGE_SELF)
    found["the clients of this benchmark"] = own.ru_utime + own.ru_stime
    return found


def measure(home: Home, folder: Path, report: Report, count: int) -> None:
    """All that needs a running platform."""
    say("starting a platform")
    report.row("ready, `tessera up` in a new home", f"{(up_s := home.up()):.1f} s", up_s=up_s)
    time.sleep(10)  # let what starts lazily start
    parts = sorted(
        (
            (part["name"], len(part["processes"]), sum(p["memory_mib"] for p in part["processes"]))
            for part in home.parts()
        ),
        key=lambda part: -part[2],
    )
    total = sum(size for _, _, size in parts)
    report.row("memory idle, all processes (PSS)", f"{total:,.0f} MiB", memory_mib={n: size for n, _, size in parts})
    memory = [[part, str(processes), f"{size:,.0f}"] for part, processes, size in parts] + [
        ["all", "", f"{total:,.0f}"]
    ]
    rate = asyncio.run(rounds(home, report, folder, count))
    profile(home, report, rate)
    report.more.append(table(["part, idle", "processes", "MiB (PSS)"], memory))


def alone(report: Report, folder: Path, depths: str) -> None:
    """What needs no platform: the cost of a decision against devices and depth."""
    say("decisions against devices")
    found = devices.table()
    report.data["decision_us_by_devices"] = dict(found)
    report.more.append(table(["devices", "a decision"], [[f"{n:,}", f"{us:.0f} µs"] for n, us in found]))
    if not depths:
        return
    say(f"decisions against depth: {depths}")
    out = folder / "depth.json"
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.depth", "--depths", depths, "--json", str(out)],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        report.more.append(f"decisions against depth: not measured, exit code {done.returncode}")
        return
    report.more.append(done.stdout.strip())
    report.data["depth"] = json.loads(out.read_text(encoding="utf-8"))


def write(report: Report, seconds: float, count: int, extra: Path | None) -> None:
    """The tables on stdout, and both forms into build/."""
    gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 30
    head = (
        f"{os.cpu_count()} cores ({machine.machine()}), {gib} GiB,"
        f" Python {machine.python_version()}, Ray {version('ray')}, asyncpg {version('asyncpg')},"
        f" Tessera {version('tessera')}, {time.strftime('%Y-%m-%d')}; load average at the end"
        f" {os.getloadavg()[1]:.1f}; medians of {count} (least–most); {seconds / 60:.0f} minutes."
    )
    report.rows.append(["requests with an unexpected answer", str(report.unexpected)])
    text = "\n\n".join(
        [
            head,
            table(["target", "measured", "held"], report.targets),
            table(["what", "measured"], report.rows),
            *report.more,
        ]
    )
    data = json.dumps({**report.data, "targets": report.targets, "unexpected": report.unexpected}, indent=2) + "\n"
    BUILD.mkdir(exist_ok=True)
    (BUILD / "bench.md").write_text(text + "\n", encoding="utf-8")
    for path in (BUILD / "bench.json", extra):
        if path is not None:
            path.write_text(data, encoding="utf-8")
    sys.stdout.write(text + "\n")
    say(f"written: {BUILD / 'bench.md'}, {BUILD / 'bench.json'}")


def main() -> int:
    """Run the benchmark; the exit code is 1 when a request got an unexpected answer."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers there too")
    parser.add_argument("--rounds", type=int, default=5, help="how often each is measured (5)")
    parser.add_argument("--depths", default=DEPTHS, help=f"numbers of queued jobs ({DEPTHS}); '' leaves this out")
    arguments = parser.parse_args()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # 1,000 streams, and their other ends
    report, began = Report(), time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="tessera-bench-") as name:
        folder = Path(name)
        home = Home(folder)
        try:
            measure(home, folder, report, arguments.rounds)
        except (subprocess.CalledProcessError, aiohttp.ClientError, TimeoutError) as error:
            report.rows.append(["the platform", f"not measured to the end: {type(error).__name__}: {error}"])
            report.unexpected += 1
        finally:
            home.close()
        alone(report, folder, arguments.depths)
    write(report, time.perf_counter() - began, arguments.rounds, arguments.json)
    return 1 if report.unexpected else 0


if __name__ == "__main__":
    sys.exit(main())

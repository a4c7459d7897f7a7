"""The rounds: everything that is compared, in turns, so that what changes on the machine meanwhile meets all alike.

Each measurement of a round stands alone: one that fails leaves a gap there and a line in the report, and ratios are
taken over the rounds that have both of their sides.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg

from benchmarks import floors, measures
from benchmarks.home import Home, User
from benchmarks.load import Load
from benchmarks.report import Report, say, spread, table
from benchmarks.sizes import Sizes

CONNECTIONS = (1, 32, 128)
LOADS = (0.1, 0.7)
PAUSE_MESSAGE = "A benchmark of submissions alone."


@dataclass
class Found:
    """What the rounds have seen, by name and round."""

    values: dict[str, dict[int, Any]] = field(default_factory=dict)

    def note(self, name: str, number: int, value: Any) -> None:
        if value is not None:
            self.values.setdefault(name, {})[number] = value

    def all(self, name: str) -> list[Any]:
        """In the order of the rounds, without those that failed."""
        return list(self.values.get(name, {}).values())

    def per_second(self, name: str) -> list[float]:
        return [_rate(value) for value in self.all(name)]

    def ratio(self, ours: Sequence[str], theirs: str) -> float | None:
        """The median of the rounds' ratios; of several of ours the best in each round. None without any round."""
        rounds = self.values.get(theirs, {})
        found = []
        for number, other in rounds.items():
            mine = [_rate(self.values[name][number]) for name in ours if number in self.values.get(name, {})]
            if mine:
                found.append(max(mine) / _rate(other))
        return statistics.median(found) if found else None


def _rate(value: Any) -> float:
    if isinstance(value, Load):
        return value.per_second
    return float(value.jobs_per_s if isinstance(value, measures.Whole) else value)


class Rounds:
    """All rounds on one running platform."""

    def __init__(self, home: Home, report: Report, sizes: Sizes, folder: Path) -> None:
        self._home, self._report, self._sizes = home, report, sizes
        self._peer = floors.Procrastinate(home, folder / "peer", sizes.tasks)
        self._found = Found()
        self.users: list[User] = []
        self.rounds = 0
        self.handle: dict[str, list[float]] | None = None

    async def run(self) -> None:
        """Measure, then tell. Raises where not even users can be made."""
        sql = await self._home.sql()
        try:
            self.users = await self._home.users(33)
            await self._report.attempt("a FastAPI application that does nothing", self._put_up_floor)
            if await self._report.attempt("procrastinate: install, find its best setting", self._peer.setup) is None:
                say("procrastinate is left out")
            began = time.monotonic()
            for number in range(self._sizes.rounds):
                if number and time.monotonic() - began > 60 * self._sizes.minutes:
                    say(f"{self._sizes.minutes:g} minutes are over: {number} rounds")
                    break
                await self._round(number, sql)
                self.rounds = number + 1
            await floors.serve_floor(self._home, "down")
            self.handle = await self._report.attempt(
                "Serve's bare handle call",
                lambda: floors.handle_calls(self._home, self._sizes.handle_calls, self.rounds),
            )
        finally:
            self._tell()  # of a run that is interrupted, too
            await sql.close()

    async def _put_up_floor(self) -> bool:
        await floors.serve_floor(self._home, "up")
        await asyncio.sleep(2)  # HAProxy takes it over
        return True

    @property
    def whole_per_s(self) -> float:
        """Whole jobs a second so far, one engine call each."""
        return statistics.median(self._found.per_second("whole") or [100.0])

    async def _round(self, number: int, sql: asyncpg.Connection) -> None:
        home, sizes, url = self._home, self._sizes, self._home.url
        [hot, *many] = self.users
        dsn = home.settings.database_url
        began = time.perf_counter()

        async def note(name: str, work: Callable[[], Awaitable[Any]]) -> None:
            value = await self._report.attempt(f"{name}, round {number + 1}", work)
            self._found.note(name, number, value)
            if value is not None:
                shown = f"{_rate(value):,.0f} /s" if isinstance(value, Load | measures.Whole | float) else "done"
                say(f"round {number + 1} of {sizes.rounds}: {name}: {shown}")

        for connections in CONNECTIONS:
            requests = sizes.requests[connections]
            await note(f"floor {connections}", lambda c=connections, r=requests: measures.floor(url, c, r))  # type: ignore[misc]
        await note("health", lambda: measures.health(url, 32, sizes.requests[32]))
        await note("commits 1", lambda: floors.commits(dsn, 1, sizes.commits_s))
        await note("commits 32", lambda: floors.commits(dsn, 32, sizes.commits_s))
        await self._submissions(note, sql, hot, many)
        await note("floor again", lambda: measures.floor(url, 32, sizes.requests[32]))
        for name, model in (("whole", "noop"), ("batch", "noop-batch")):
            for connections, more in ((32, ""), (128, " 128")):
                await note(
                    name + more,
                    lambda c=connections, m=model: measures.whole_jobs(url, sql, [hot], c, sizes.jobs, model=m),  # type: ignore[misc]
                )
        if self._peer.best is not None:
            best = self._peer.best
            await note("peer", lambda: self._peer.drained_per_s(best))
            await note("peer stream", lambda: self._peer.streamed_per_s(best))
        await note("single", lambda: measures.one_at_a_time(url, hot, sizes.latency_jobs))
        for load in LOADS:
            rate = self.whole_per_s * load
            await note(
                f"reach {load:.0%}",
                lambda rate=rate: measures.to_the_engine(url, sql, hot, per_second=rate, seconds=sizes.load_s),  # type: ignore[misc]
            )
        await note("streams", lambda: measures.event_streams(url, many, sizes.streams))
        say(f"round {number + 1} of {sizes.rounds}: {time.perf_counter() - began:.0f} s in all")

    async def _submissions(self, note: Any, sql: asyncpg.Connection, hot: User, many: Sequence[User]) -> None:
        """Submissions alone, with everything behind them at rest, then the backlog that they leave."""
        home, sizes, url = self._home, self._sizes, self._home.url
        await asyncio.to_thread(home.tessera, "pause", "text", "--message", PAUSE_MESSAGE)
        try:
            await asyncio.sleep(1.5)  # the scheduler reads it within a second
            for connections in CONNECTIONS:
                requests = sizes.requests[connections]
                await note(
                    f"submit {connections}",
                    lambda c=connections, r=requests: measures.submissions(url, [hot], c, r),
                )
            await note("submit many", lambda: measures.submissions(url, many, 32, sizes.requests[32]))
        finally:
            await asyncio.to_thread(home.tessera, "unpause", "text")
        left = sum(sizes.requests.values()) + sizes.requests[32]

        async def backlog() -> float:
            began = time.perf_counter()
            await measures.drained(sql, [hot, *many])
            return left / (time.perf_counter() - began)

        await note("backlog", backlog)

    # ------------------------------------------------------------------ telling

    def _tell(self) -> None:
        found, report = self._found, self._report
        loads = [value for of in found.values.values() for value in of.values() if isinstance(value, Load)]
        loads += [value.submitted for name in ("whole", "whole 128", "batch", "batch 128") for value in found.all(name)]
        report.unexpected += sum(load.failures for load in loads)
        report.data["rounds_done"] = self.rounds
        report.data["rounds"] = {
            name: found.per_second(name) for name in found.values if not name.startswith(("reach", "streams", "single"))
        }
        self._tell_submissions()
        self._tell_whole_jobs()
        self._tell_times()

    def _tell_submissions(self) -> None:
        found, report, middle = self._found, self._report, statistics.median
        for connections in CONNECTIONS:
            name, over = f"submit {connections}", f"{connections} connection{'s' * (connections > 1)}"
            if found.all(name):
                times = [spread([load.percentile_ms(share) for load in found.all(name)], 1) for share in (0.5, 0.99)]
                share = found.ratio([name], f"floor {connections}")
                report.row(
                    f"durable submissions, {over}, /s",
                    spread(found.per_second(name)) + ("" if share is None else f": {share:.2f} of the floor"),
                )
                report.row("… p50 and p99, ms", f"{times[0]} and {times[1]}")
            if found.all(f"floor {connections}"):
                report.row(
                    f"the floor, {over}: the same request to a FastAPI route that does nothing, /s",
                    spread(found.per_second(f"floor {connections}")),
                )
        if found.all("health"):
            report.row("GET /healthz, 32 connections, /s", spread(found.per_second("health")))
        for connections in (1, 32):
            if found.all(f"commits {connections}"):
                report.row(
                    f"the ceiling: Postgres' commits of one row, {connections} at a time, /s",
                    spread(found.per_second(f"commits {connections}")),
                )
        if (durable := found.ratio(["submit 32"], "floor 32")) is not None:
            report.at_least("durable submissions ÷ no-op requests, 32 connections", durable, 0.4, 0.6)
        if (hot_many := found.ratio(["submit many"], "submit 32")) is not None:
            report.row(
                "submissions of 32 users in turns, two ingress replicas, 32 connections, /s",
                f"{spread(found.per_second('submit many'))}: {hot_many:.2f} × the hot user's",
            )
            report.below("32 users ÷ one hot user, submissions", hot_many, 1.5)
        if found.all("whole") and (meanwhile := found.all("floor again")):
            rates = [each.submitted.per_second for each in found.all("whole")]
            part = middle(rates) / middle([_rate(each) for each in meanwhile])
            report.row("submissions while their jobs run, /s", f"{spread(rates)}: {part:.2f} of the floor")

    def _tell_whole_jobs(self) -> None:
        found, report, peer = self._found, self._report, self._peer
        names = {
            "whole": "whole jobs, one engine call each, 32 connections, /s",
            "whole 128": "… 128 connections, /s",
            "batch": "whole jobs, the engine takes them in batches, 32 connections, /s",
            "batch 128": "… 128 connections, /s",
            "backlog": "a backlog, drained, jobs/s",
        }
        for name, text in names.items():
            if found.all(name):
                report.row(text, spread(found.per_second(name)))
        if found.all("peer") and peer.best is not None:
            tried = [[each.words, f"{rate:,.0f}"] for each, rate in peer.tried.items()]
            report.row(
                f"procrastinate {peer.version}, no-op tasks drained, {peer.best.words}, /s",
                spread(found.per_second("peer")),
                procrastinate={"version": peer.version, "best": peer.best.words, "tried": dict(tried)},
            )
            if streamed := found.per_second("peer stream"):
                report.row("… deferred one by one, 32 under way, and run meanwhile, /s", spread(streamed))
            # Like beside like: from a full queue, and from a caller's hand.
            for text, ours, theirs in (
                ("a backlog drained ÷ procrastinate's tasks drained", ["backlog"], "peer"),
                ("whole jobs ÷ procrastinate's tasks deferred and run", ["whole", "whole 128"], "peer stream"),
            ):
                if (ratio := found.ratio(ours, theirs)) is not None:
                    report.row(text, f"{ratio:.2f}×")
            report.section(f"procrastinate {peer.version}: the settings tried", table(["workers", "tasks/s"], tried))
            for text, ours, least, goal in (
                ("whole jobs ÷ procrastinate's tasks, one engine call each", ["whole", "whole 128"], 2, 3),
                ("whole jobs ÷ procrastinate's tasks, in batches", ["batch", "batch 128"], 4, 5),
            ):
                if (ratio := found.ratio(ours, "peer")) is not None:
                    report.at_least(text, ratio, least, goal)
        if self.handle is not None:
            for concurrency, rates in self.handle.items():
                report.row(f"Serve's bare handle call, {concurrency} at a time, /s", spread(rates))
            report.data["handle_per_s"] = self.handle

    def _tell_times(self) -> None:
        found, report, middle = self._found, self._report, statistics.median
        if singles := found.all("single"):
            times = [spread([load.percentile_ms(share) for load in singles], 1) for share in (0.5, 0.99)]
            report.row("one job at rest, submit to completed: p50 and p99, ms", f"{times[0]} and {times[1]}")
        for load in LOADS:
            if reached := found.all(f"reach {load:.0%}"):
                p50, p99 = ([measures.percentile(each.ms, share) for each in reached] for share in (0.5, 0.99))
                rate = middle(each.rate for each in reached)
                report.row(
                    f"submit → the engine's first line at {load:.0%} load ({rate:,.0f} jobs/s): p50 and p99, ms",
                    f"{spread(p50, 1)} and {spread(p99, 1)}",
                    **{f"reach_{load:.0%}_ms": {"p50": p50, "p99": p99, "jobs": [len(each.ms) for each in reached]}},
                )
                if load == LOADS[0]:
                    report.below("submit → engine, p50 at 10 % load", middle(p50), 12, " ms")
                    report.below("submit → engine, p99 at 10 % load", middle(p99), 60, " ms")
        if streams := found.all("streams"):
            p50, p99 = ([measures.percentile(each.ms, share) for each in streams] for share in (0.5, 0.99))
            report.row(
                f"an event's way to its reader with {streams[0].opened:,} open streams: p50 and p99, ms",
                f"{spread(p50, 1)} and {spread(p99, 1)}",
                streams={"opened": [each.opened for each in streams], "p50_ms": p50, "p99_ms": p99},
            )

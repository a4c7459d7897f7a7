"""One chaos run: load, a fault at a random moment, normal again, quiet, the books; and again until the time is over."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import asyncpg

from tests.chaos.checks import Breach, Checker
from tests.chaos.faults import Fault, NothingToHit, Scene
from tests.chaos.load import NO_ANSWER, Load, User
from tests.chaos.platform import Installation
from tests.chaos.report import Injection, Report

PROBE_IN_TIME_S = 5.0  # a job that does nothing, from its submission to its end: else the platform is not normal
DRAIN_S = 150.0  # two leases, a node that comes back, and the backoffs after them
WARM_S = (3.0, 8.0)  # of load before a fault: enough that every kind of job is somewhere on its way
ASK_WORKERS_EVERY = 4  # asking the workers costs a Ray driver's start


@dataclass(kw_only=True)
class Run:
    """One run over one installation that is up."""

    installation: Installation
    load: Load
    prober: User
    faults: list[Fault]
    scene: Scene
    report: Report
    say: Callable[[str], None]
    warm_s: tuple[float, float] = WARM_S
    ask_workers_every: int = ASK_WORKERS_EVERY
    began: float = field(default_factory=time.monotonic)
    _checker: Checker = field(init=False)
    _roles: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._checker = Checker(installation=self.installation, load=self.load)

    async def go(self, *, seconds: float, once: bool = False) -> None:
        """Faults in rounds of a random order, each round with all of them, until the time is over."""
        self._roles = await asyncio.to_thread(self.installation.roles)
        self.say(f"normal is: {', '.join(f'{count} {role}' for role, count in self._roles.items())}")
        await self.load.start()
        self.load.resume()
        try:
            await self._rounds(seconds, once)
            self.load.pause()
            await self._finish()
        finally:
            self.report.minutes = (time.monotonic() - self.began) / 60
            self.report.counts = dict(self.load.counts) | {"artifacts read": self._checker.artifacts_read}
            await self.load.close()

    async def _rounds(self, seconds: float, once: bool) -> None:
        while True:
            # A node's fault takes minutes, a process's seconds: twice of these in a round, for the same patience.
            order = [fault for fault in self.faults for _ in range(1 if once or fault.two_nodes else 2)]
            self.scene.choose.shuffle(order)
            for fault in order:
                if not once and time.monotonic() - self.began > seconds:
                    return
                await self._one(fault)
                if self.report.stopped:
                    return
            if once:
                return

    # ------------------------------------------------------------------ one fault

    async def _one(self, fault: Fault) -> None:
        await asyncio.sleep(self.scene.choose.uniform(*self.warm_s))
        in_flight = await self._in_flight()
        before = await self._requeued()
        at = time.monotonic()
        try:
            hit = await fault.inject(self.scene)
        except NothingToHit as nothing:
            self.say(f"{fault.title}: skipped, there was no {nothing}")
            return
        over = time.monotonic() if time.monotonic() - at > 1 else at
        self.say(f"{fault.title}: {hit}, {in_flight} jobs in flight")
        normal_s, whole_s = await self._recover(fault, over)
        breaches = await self._settle(ask_workers=(len(self.report.injections) + 1) % self.ask_workers_every == 0)
        if normal_s is None or whole_s is None:
            what = "never normal" if normal_s is None else f"never whole: {await self._missing()}"
            breaches.append(
                Breach(rule="not_normal_again", subject=fault.name, detail=f"{what} in {fault.bound_s:.0f} s")
            )
            self.report.stopped = f"{fault.title}: {what} within {fault.bound_s:.0f} s"
        self.report.injections.append(
            Injection(
                fault=fault.name,
                hit=hit,
                at_s=at - self.began,
                in_flight=in_flight,
                retried=await self._requeued() - before,
                normal_s=normal_s,
                whole_s=whole_s,
                breaches=tuple(breaches),
            )
        )
        self.say(
            f"    normal after {_seconds(normal_s)}, whole after {_seconds(whole_s)}, quiet; "
            f"{len(self.load.accepted)} jobs so far, {len(self.report.breaches())} breaches"
        )
        for breach in breaches:
            self.say(f"    BREACH {breach}")
        self.load.resume()

    async def _recover(self, fault: Fault, over: float) -> tuple[float | None, float | None]:
        """Seconds from the end of the cause to a probe that went through, and to every part being back."""
        end = over + fault.bound_s
        normal_s: float | None = None
        while time.monotonic() < end:
            if await self._probe(fault):
                normal_s = time.monotonic() - over
                break
        while time.monotonic() < end:
            if not await self._missing() and await self._probe(fault):
                return round(normal_s or 0, 1), round(time.monotonic() - over, 1)
            await asyncio.sleep(0.5)
        return (round(normal_s, 1) if normal_s is not None else None), None

    async def _probe(self, fault: Fault) -> bool:
        """One job; whether it ended in time."""
        body: dict[str, Any] = {"kind": "text", "model": "noop", "input": {"prompt": "probe"}}
        if fault.probe == "speech":
            body = {"kind": "speech", "input": {"text": "Probe."}}
        prefer = {"Prefer": f"wait={PROBE_IN_TIME_S:.0f}"}
        began = time.monotonic()
        try:
            status, answer = await self.load.request(
                self.prober.key, "POST", "/v1/jobs", body, headers=prefer, timeout_s=PROBE_IN_TIME_S
            )
            if status == 200 and answer.get("state") == "completed":
                return True
        except NO_ANSWER:
            pass
        # One every 0.6 s at most: the prober's own limit of submissions is 120 a minute.
        await asyncio.sleep(max(0.0, 0.6 - (time.monotonic() - began)))
        return False

    async def _missing(self) -> str:
        """What is not yet as it was; empty when everything is."""
        try:
            status, ready = await self.load.request(self.prober.key, "GET", "/readyz", timeout_s=5.0)
        except NO_ANSWER as error:
            return f"no answer of /readyz ({type(error).__name__})"
        if status != 200 or ready.get("scheduler") != "ok" or ready.get("offline"):
            return f"/readyz: {status}, scheduler {ready.get('scheduler')}, offline {ready.get('offline')}"
        roles = await asyncio.to_thread(self.installation.roles)
        fewer = {role: f"{roles[role]} of {count}" for role, count in self._roles.items() if roles[role] < count}
        if fewer:
            return f"processes: {fewer}"
        applications = await asyncio.to_thread(self.installation.applications)
        other = {name: status for name, status in applications.items() if status != "RUNNING"}
        return f"applications: {other or 'Serve does not answer'}" if other or not applications else ""

    # ------------------------------------------------------------------ quiet, and the books

    async def _settle(self, *, ask_workers: bool) -> list[Breach]:
        """Pause, wait for every client and job to be done, and look."""
        self.load.pause()
        await self.load.quiet(DRAIN_S)
        await self._all_final(DRAIN_S)
        breaches = await self._checker.check()
        if ask_workers:
            breaches += await self._orphans()
        return breaches

    async def _all_final(self, timeout_s: float) -> None:
        end = time.monotonic() + timeout_s
        while await self._in_flight() and time.monotonic() < end:  # noqa: ASYNC110 (Postgres has no event for it)
            await asyncio.sleep(0.3)

    async def _orphans(self) -> list[Breach]:
        """Runs that a worker still has though no job does. An acknowledgement may be on its way: asked twice."""
        for attempt in range(3):
            try:
                runs = await asyncio.to_thread(self.installation.runs_of_workers)
            except (RuntimeError, subprocess.TimeoutExpired) as error:
                runs = {"?": [str(error)]}
            if not any(runs.values()):
                return []
            await asyncio.sleep(2 + 4 * attempt)
        return [
            Breach(rule="orphan_run", subject=run, detail=f"on {worker}") for worker, own in runs.items() for run in own
        ]

    async def _finish(self) -> None:
        self.report.after_all += await self._settle(ask_workers=True)
        self.report.audit = await asyncio.to_thread(self._audit)
        if self.report.audit.startswith("exit 1"):
            self.report.after_all.append(Breach(rule="audit", subject="tessera audit", detail=self.report.audit))
        for breach in self.report.after_all:
            self.say(f"    BREACH {breach}")

    def _audit(self) -> str:
        """The platform's own look at its books, where it has one."""
        command = [sys.executable, "-m", "tessera.cli", "audit"]
        done = subprocess.run(
            command,
            env=self.installation.environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        if done.returncode not in (0, 1) or "No such command" in done.stderr:
            return "there is no command 'tessera audit' here"
        lines = done.stdout.strip().splitlines() or done.stderr.strip().splitlines()
        return f"exit {done.returncode}: {lines[-1] if lines else ''}"

    async def _in_flight(self) -> int:
        return await self._count(
            "SELECT count(*) FROM jobs WHERE user_id = ANY ($1) AND state IN ('created', 'queued', 'running')"
        )

    async def _requeued(self) -> int:
        """Runs that were put back, apart from those of jobs that were asked to fail."""
        return await self._count(
            "SELECT count(*) FROM attempts a JOIN jobs j ON j.id = a.job_id WHERE a.outcome = 'requeued'"
            " AND j.user_id = ANY ($1) AND coalesce(j.input ->> 'prompt', '') NOT LIKE 'fail %'"
        )

    async def _count(self, sql: str) -> int:
        users: list[UUID] = [user.id for user in self.load.users]
        for _ in range(20):
            try:
                connection = await asyncpg.connect(self.installation.settings().database_url, timeout=5)
                try:
                    return int(await connection.fetchval(sql, users, timeout=10))
                finally:
                    await connection.close()
            except (TimeoutError, OSError, asyncpg.PostgresError):
                await asyncio.sleep(1)
        return -1


def _seconds(value: float | None) -> str:
    return "NEVER" if value is None else f"{value:.1f} s"

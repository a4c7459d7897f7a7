"""The dispatcher: asks the policy, claims, starts runs; and the terms in which the whole scheduler works.

A term begins with the leader's lock, a rebuilt mirror and a reconciliation with the workers; any
error of Postgres ends it, and the next term begins from Postgres alone. So there is one way to recover, and it is used
often.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import asyncpg
import structlog

from tessera.artifacts import ArtifactStore
from tessera.catalog import Catalog
from tessera.errors import Busy, Unavailable
from tessera.jobs import JobState, Kind, Tier
from tessera.pace import Pace
from tessera.policy import FreeWorker, Load, Served, Start
from tessera.runs import Ending, Outcome, RunKey, RunSpec, StartAnswer, WorkerAway, WorkerPort
from tessera.scheduler.board import Board, DeviceSpec
from tessera.scheduler.drains import follow_drains, read_drains
from tessera.scheduler.finisher import Finisher
from tessera.scheduler.follower import follow
from tessera.scheduler.leadership import LeadershipLost, Term, is_fenced, leadership
from tessera.scheduler.leases import GATHER_S, LEASE_S, Leases
from tessera.scheduler.links import WorkerLink
from tessera.scheduler.maintenance import Maintenance
from tessera.scheduler.mirror import Mirror, MirroredJob
from tessera.scheduler.notifier import Notifier
from tessera.scheduler.pauses import follow_pauses, read_exclusions, read_pauses
from tessera.scheduler.residency import Residency
from tessera.store.database import connect, fetch_settled, is_outage
from tessera.store.queries import load

log = structlog.get_logger(__name__)

RUN_TIMEOUT_S = 3600.0
NO_PROGRESS_S = 120.0
MAX_CLAIM = 256  # jobs in one commit
GAP_S = 0.01  # between two claims while jobs stream in (tessera/pace.py)
REPLAYED_S = 600.0  # how much of the past counts after a restart
MAX_REPLAYED = 20_000  # and how many runs of it


@dataclass(frozen=True, kw_only=True)
class WorkerSpec:
    """A configured worker and the way to reach it."""

    name: str
    models: Sequence[str]
    slots: int
    port: WorkerPort
    node: str = ""
    device: str = "cpu"
    run_timeout_s: float = RUN_TIMEOUT_S
    no_progress_s: float = NO_PROGRESS_S


class Dispatcher:
    """One scheduler process. ``run`` leads, or waits to lead, until it is cancelled."""

    def __init__(
        self,
        *,
        dsn: str,
        workers: Sequence[WorkerSpec],
        artifacts: ArtifactStore,
        catalog: Catalog,
        holder: str,
        devices: Sequence[DeviceSpec] = (DeviceSpec(name="cpu"),),
        notifier: Notifier | None = None,
        lease_s: float = LEASE_S,
        random_source: Callable[[], float] = random.random,
    ) -> None:
        self.board = Board(notifier or Notifier(), catalog, devices)
        self._specs = {spec.name: spec for spec in workers}
        self.leading = False
        self._stopping = False
        self._dsn = dsn
        self._holder = holder
        self._lease_s = lease_s
        self._random = random_source
        self._queries = load()
        self._device_of = {spec.name: spec.device for spec in workers}
        self._residency = Residency(self.board)
        self._finisher = Finisher(self.board, catalog, random_source)
        self._leases = Leases(self.board, self._finisher, artifacts, lease_s, self._run_spec)
        self.maintenance = Maintenance(dsn, artifacts, healthy=self._healthy)
        for spec in workers:
            self.board.links[spec.name] = WorkerLink(
                spec.name,
                spec.port,
                models=spec.models,
                slots=spec.slots,
                node=spec.node,
                device=spec.device,
                on_events=self.board.notifier.publish,
                on_outcome=self._finisher.take,
                on_change=self.board.changed.set,
            )

    # ------------------------------------------------------------------ terms

    async def run(self) -> None:
        """Lead term after term. Ends only by cancellation."""
        for link in self.board.links.values():
            link.start()
        terms = asyncio.create_task(self._terms(), name="terms")
        try:
            await asyncio.wait({terms})
        finally:
            # One cancel is not enough: before Python 3.13 a TaskGroup that unwinds from an error loses it.
            self._stopping = True
            while not terms.done():
                terms.cancel()
                await asyncio.wait({terms}, timeout=1)
            await asyncio.gather(*(link.stop() for link in self.board.links.values()))
        await terms  # it ends by itself only by a bug, which is raised here

    async def _terms(self) -> None:
        while not self._stopping:
            try:
                async with leadership(self._dsn, self._holder) as term:
                    await self._term(term)
            except* (Unavailable, LeadershipLost) as lost:
                log.warning("term_ended", why="; ".join(str(e) for e in _leaves(lost)))
            except* Exception as failed:
                outage = all(is_outage(e) or is_fenced(e) for e in _leaves(failed))
                log.log(30 if outage else 40, "term_ended", exc_info=None if outage else failed, why=str(failed))
            finally:
                self.leading = False
            await asyncio.sleep(0.2 + 0.3 * self._random())

    async def _term(self, term: Term) -> None:
        self.board.terms += 1
        with contextlib.ExitStack() as opened:  # what is open is closed, however far it came
            connection = await connect(self._dsn, name="tessera-dispatch", by_index=True)
            opened.callback(connection.terminate)
            finisher = await connect(self._dsn, name="tessera-finish", by_index=True)
            opened.callback(finisher.terminate)
            feed = await connect(self._dsn, name="tessera-feed", by_index=True)
            opened.callback(feed.terminate)
            orders = await connect(self._dsn, name="tessera-orders")
            opened.callback(orders.terminate)
            started = time.monotonic()
            await self._rebuild(orders)  # which reads whole tables
            log.info("rebuilt", jobs=len(self.board.mirror.jobs), seconds=round(time.monotonic() - started, 3))
            async with asyncio.TaskGroup() as group:
                group.create_task(term.guard(), name="guard")
                group.create_task(follow(self.board, feed), name="feed")
                group.create_task(follow_drains(self.board, orders), name="drains")
                group.create_task(self._finisher.run(term, finisher), name="finish")
                group.create_task(self._lead(term, connection), name="lead")
                group.create_task(self.maintenance.run(), name="maintenance")

    async def _lead(self, term: Term, connection: asyncpg.Connection) -> None:
        lock = asyncio.Lock()  # one connection, four loops
        await self._readopt(term, connection)
        self.leading = True
        self.board.changed.set()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._dispatch_loop(term, connection, lock), name="dispatch")
            group.create_task(self._leases.run(term, connection, lock), name="leases")
            group.create_task(self._due_loop(term, connection, lock), name="due")
            group.create_task(follow_pauses(self.board, connection, lock), name="pauses")

    def _healthy(self) -> bool:
        """Whether the service is up, as its users mean it: somebody leads, and some worker can be reached."""
        return self.leading and any(link.online for link in self.board.links.values())

    async def _rebuild(self, connection: asyncpg.Connection) -> None:
        """All live jobs in one snapshot, and what was served lately, so that a restart forgives nobody anything."""
        mirror, now = self.board.new_mirror(), time.time()
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            with _no_collections():
                await self._read_jobs(mirror, connection, now)
        self.board.mirror = mirror
        self._residency = Residency(self.board)
        for link in self.board.links.values():
            link.assigned = {job.key for job in mirror.running.values() if job.worker == link.name}

    async def _read_jobs(self, mirror: Mirror, connection: asyncpg.Connection, now: float) -> None:
        mirror.seq = await connection.fetchval(self._queries["newest_seq"].positional)
        lately = await connection.fetch(self._queries["served_lately"].positional, REPLAYED_S, MAX_REPLAYED)
        mirror.policy.replay([_served(row) for row in lately], self._device_of)
        async for row in connection.cursor(self._queries["live_jobs"].positional, prefetch=5000):
            mirror.load(row, now)

    async def _readopt(self, term: Term, connection: asyncpg.Connection) -> None:
        """Before anything is dispatched: renew all running leases once, and hear what the workers still run."""
        running = list(self.board.mirror.running.values())
        await self._leases.renew(term, connection, running)
        await read_drains(self.board, connection)
        await read_pauses(self.board, connection)
        await read_exclusions(self.board, connection)
        waiting = [asyncio.create_task(link.listed.wait()) for link in self.board.links.values()]
        if waiting:
            await asyncio.wait(waiting, timeout=GATHER_S)
        for task in waiting:
            task.cancel()
        cancels: dict[str, list[RunKey]] = {}
        for job in running:
            if job.cancel_asked and job.worker is not None:
                cancels.setdefault(job.worker, []).append(job.key)
        for name, keys in cancels.items():
            if name in self.board.links:
                await self.board.links[name].cancel(keys)

    # ------------------------------------------------------------------ dispatch

    async def _dispatch_loop(self, term: Term, connection: asyncpg.Connection, lock: asyncio.Lock) -> None:
        pace = Pace(GAP_S)
        while True:
            await self.board.changed.wait()
            again = True
            while again:
                await pace.pause()
                self.board.changed.clear()
                again = await self._dispatch(term, connection, lock, pace)

    async def _dispatch(self, term: Term, connection: asyncpg.Connection, lock: asyncio.Lock, pace: Pace) -> bool:
        """One decision: claim in one commit, then start. Returns whether another may follow at once."""
        now = time.time()
        mirror = self.board.mirror
        mirror.wake_due(now)
        self._residency.sync(now)
        chosen = self._choose(mirror, now)
        pace.round(len(chosen))
        if not chosen:
            return False
        jobs = [job for job, _ in chosen]
        claims = [
            {"job_id": str(job.id), "attempt": job.attempt, "worker": worker, "ord": n}
            for n, (job, worker) in enumerate(chosen)
        ]
        query = self._queries["claim_batch"]
        try:
            async with lock:
                rows = await fetch_settled(
                    connection,
                    query.positional,
                    *query.arguments({"epoch": term.epoch, "claims": claims, "lease_s": self._lease_s}),
                )
        except BaseException:
            for job in jobs:
                mirror.not_claimed(job, now)
            raise
        claimed = {row["job_id"]: row for row in rows}
        starts: dict[str, list[RunSpec]] = {}
        refused: list[MirroredJob] = []
        for job in jobs:
            row = claimed.get(job.id)
            if mirror.jobs.get(job.id) is not job:
                continue  # it ended, the feed says, while it was being claimed: the claim was refused
            if row is None:
                mirror.not_claimed(job, now)
                refused.append(job)
                continue
            mirror.claimed(job, row["worker"], row["attempt"], now)
            self.board.links[row["worker"]].assigned.add(job.key)
            starts.setdefault(row["worker"], []).append(self._run_spec(row))
        # One call per worker, all at once; dispatch goes on meanwhile, for a slot is taken by the claim.
        for worker, specs in starts.items():
            self.board.spawn(self._start(worker, specs))
        if refused:
            await self._look_again(connection, lock, refused)
        return bool(claimed)

    def _choose(self, mirror: Mirror, now: float) -> list[tuple[MirroredJob, str]]:
        """Ask the policy until it has nothing more, at most a batch; loads go on beside. Jobs and their workers."""
        chosen: list[tuple[MirroredJob, str]] = []
        policy = mirror.policy
        workers: dict[str, dict[str, FreeWorker]] = {device: {} for device in policy.devices}
        for worker in self.board.workers(now):
            workers[worker.device][worker.name] = worker
        for device, of in workers.items():
            policy.tell(device, list(of.values()))
        while len(chosen) < MAX_CLAIM:
            actions = policy.decide(now)
            if not actions:
                break
            for action in actions:
                policy.apply(action, now)
                if isinstance(action, Start):
                    job = mirror.jobs[action.job.id]
                    job.claiming = True
                    chosen.append((job, action.worker))
                    of = workers[action.device]
                    of[action.worker] = replace(of[action.worker], free=of[action.worker].free - 1)
                    policy.tell(action.device, list(of.values()))
                elif isinstance(action, Load):
                    self._residency.start(action)
        return chosen

    async def _look_again(
        self, connection: asyncpg.Connection, lock: asyncio.Lock, refused: Sequence[MirroredJob]
    ) -> None:
        """Jobs that could not be claimed: cancelled, ended or capped meanwhile. Take them as Postgres has them now."""
        async with lock:
            rows = await connection.fetch(self._queries["jobs_as_they_are"].positional, [job.id for job in refused])
        found = {row["id"]: row for row in rows}
        for job in refused:
            row = found.get(job.id)
            if self.board.mirror.jobs.get(job.id) is not job or job.running:
                continue  # the feed was faster
            if row is None or row["state"] != JobState.QUEUED:
                self.board.mirror.remove(job.id, time.time())
            else:
                self.board.mirror.load(row, time.time())

    async def _start(self, worker: str, specs: Sequence[RunSpec]) -> None:
        link = self.board.links[worker]
        try:
            answers = await link.begin(specs)
        except WorkerAway as away:
            # It may have started them: its list of runs, or the end of the lease, will tell.
            log.warning("start_unanswered", worker=worker, runs=len(specs), why=str(away))
            return
        # A cancel that was asked for while the claim was on its way found no run to stop.
        jobs = [self.board.mirror.jobs.get(spec.job_id) for spec in specs]
        keys = {spec.key for spec in specs}
        asked = [job.key for job in jobs if job is not None and job.cancel_asked and job.key in keys]
        if asked:
            await link.cancel(asked)
        for spec, answer in answers:
            if answer is StartAnswer.BUSY:
                busy = Busy()
                error = {"code": busy.code, "message": busy.message, "retryable": busy.retryable}
                outcome = Outcome(job_id=spec.job_id, attempt=spec.attempt, ending=Ending.FAILED, error=error)
                self._finisher.take(worker, outcome)

    def _run_spec(self, row: Mapping[str, Any]) -> RunSpec:
        spec = self._specs[row["worker"]]
        return RunSpec(
            job_id=row["job_id"],
            attempt=row["attempt"],
            kind=Kind(row["kind"]),
            model=row["model"],
            input=row["input"],
            request_id=row["request_id"],
            timeout_s=spec.run_timeout_s,
            no_progress_s=spec.no_progress_s,
        )

    # ------------------------------------------------------------------ leases and times

    async def _due_loop(self, term: Term, connection: asyncpg.Connection, lock: asyncio.Lock) -> None:
        """not_before, backoffs, deadlines, and pauses of workers that failed."""
        before = time.time()
        while True:
            await asyncio.sleep(0.25)
            now = time.time()
            times = (self.board.mirror.next_change(), self.board.failures.next_change(before))
            if any(due is not None and due <= now for due in times):
                self.board.changed.set()
            before = now
            expired = self.board.mirror.take_expired(now)
            async with lock:
                await connection.fetchval(self._queries["promote_due_jobs"].positional, term.epoch)
                if expired:
                    message = "The job's deadline passed before it could start. Its tokens are returned."
                    error = {"code": "deadline_passed", "message": message, "retryable": True}
                    rows = [
                        {"ord": n, "job_id": str(job.id), "to_state": "expired", "error": error, "reason": "deadline"}
                        for n, job in enumerate(expired)
                    ]
                    ending = self._queries["end_waiting_batch"]
                    asked = ending.arguments({"epoch": term.epoch, "jobs": rows})
                    await fetch_settled(connection, ending.positional, *asked)


def _served(row: Mapping[str, Any]) -> Served:
    return Served(
        tier=Tier(row["tier"]),
        user_id=row["user_id"],
        model=row["model"],
        worker=row["worker"],
        cost_mt=row["cost_mt"],
        seconds=row["seconds"],
        ended_at=row["finished_at"].timestamp(),
    )


@contextlib.contextmanager
def _no_collections() -> Iterator[None]:
    """Millions of objects that are here to stay: the garbage collector would look through them again and again."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def _leaves(group: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    found: list[BaseException] = []
    for error in group.exceptions:
        found += _leaves(error) if isinstance(error, BaseExceptionGroup) else [error]
    return found

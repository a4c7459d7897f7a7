"""The dispatcher: follows the feed, asks the policy, claims, starts runs, and makes their outcomes durable.

It works in terms. A term begins with the leader's lock, a rebuilt mirror and a reconciliation with the workers; any
error of Postgres ends it, and the next term begins from Postgres alone. So there is one way to recover, and it is used
often.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import asyncpg
import structlog

from tessera.catalog import Catalog
from tessera.errors import BadOutput, TesseraError, Unavailable
from tessera.jobs import JobState, Kind
from tessera.policy import plan
from tessera.ports import ArtifactPort, Place, WorkerStatus
from tessera.retries import decide
from tessera.runs import (
    Ending,
    Outcome,
    RunKey,
    RunSpec,
    StartAnswer,
    WorkerAway,
    WorkerPort,
    manifest_name,
    outcome_from_bytes,
)
from tessera.scheduler.estimates import Estimates
from tessera.scheduler.leadership import LeadershipLost, Term, leadership
from tessera.scheduler.links import WorkerLink
from tessera.scheduler.mirror import Mirror, MirroredJob
from tessera.scheduler.notifier import Notifier
from tessera.scheduler.outcomes import WORKER_LOST, ended_row, failed_row
from tessera.store.database import connect, is_outage
from tessera.store.queries import load

log = structlog.get_logger(__name__)

LEASE_S = 30.0
HEARTBEAT_S = 10.0
POLL_S = 1.0  # the guarantee; NOTIFY only shortens it
FEED_PAGE = 2000
MAX_FINISH = 256  # outcomes in one commit
GATHER_S = 5.0  # a new leader waits so long for online workers to list their runs before it dispatches

RUN_TIMEOUT_S = 3600.0
NO_PROGRESS_S = 120.0


@dataclass(frozen=True, kw_only=True)
class WorkerSpec:
    """A configured worker and the way to reach it."""

    name: str
    models: Sequence[str]
    slots: int
    port: WorkerPort


class Dispatcher:
    """One scheduler process. ``run`` leads, or waits to lead, until it is cancelled."""

    def __init__(
        self,
        *,
        dsn: str,
        workers: Sequence[WorkerSpec],
        artifacts: ArtifactPort,
        catalog: Catalog,
        holder: str,
        notifier: Notifier | None = None,
        lease_s: float = LEASE_S,
        random_source: Callable[[], float] = random.random,
    ) -> None:
        self.notifier = notifier or Notifier()
        self.mirror = Mirror()
        self.leading = False
        self.estimates = Estimates()
        self._dsn = dsn
        self._artifacts = artifacts
        self._catalog = catalog
        self._holder = holder
        self._lease_s = lease_s
        self._random = random_source
        self._queries = load()
        self._changed = asyncio.Event()
        self._fed = asyncio.Event()
        self._outcomes: dict[RunKey, tuple[str, Outcome]] = {}
        self._arrived = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()  # the loop itself keeps only weak references
        self._links = {
            spec.name: WorkerLink(
                spec.name,
                spec.port,
                models=spec.models,
                slots=spec.slots,
                on_events=self.notifier.publish,
                on_outcome=self._take,
                on_change=self._changed.set,
            )
            for spec in workers
        }

    # ------------------------------------------------------------------ terms

    async def run(self) -> None:
        """Lead term after term. Ends only by cancellation."""
        for link in self._links.values():
            link.start()
        try:
            while True:
                try:
                    async with leadership(self._dsn, self._holder) as term:
                        await self._term(term)
                except* (Unavailable, LeadershipLost) as lost:
                    log.warning("term_ended", why="; ".join(str(e) for e in _leaves(lost)))
                except* Exception as failed:
                    outage = all(is_outage(e) or _is_fenced(e) for e in _leaves(failed))
                    log.log(30 if outage else 40, "term_ended", exc_info=None if outage else failed, why=str(failed))
                finally:
                    self.leading = False
                await asyncio.sleep(0.2 + 0.3 * self._random())
        finally:
            await asyncio.gather(*(link.stop() for link in self._links.values()))

    async def _term(self, term: Term) -> None:
        connection = await connect(self._dsn, name="tessera-dispatch")
        finisher = await connect(self._dsn, name="tessera-finish")
        feed = await connect(self._dsn, name="tessera-feed")
        try:
            started = time.monotonic()
            await self._rebuild(connection)
            log.info("rebuilt", jobs=len(self.mirror.jobs), seconds=round(time.monotonic() - started, 3))
            async with asyncio.TaskGroup() as group:
                group.create_task(term.guard(), name="guard")
                group.create_task(self._follow_feed(feed), name="feed")
                group.create_task(self._finish_loop(term, finisher), name="finish")
                group.create_task(self._lead(term, connection), name="lead")
        finally:
            for each in (connection, finisher, feed):
                each.terminate()

    async def _lead(self, term: Term, connection: asyncpg.Connection) -> None:
        lock = asyncio.Lock()  # one connection, three loops
        await self._readopt(term, connection)
        self.leading = True
        self._changed.set()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._dispatch_loop(term, connection, lock), name="dispatch")
            group.create_task(self._lease_loop(term, connection, lock), name="leases")
            group.create_task(self._due_loop(term, connection, lock), name="due")

    async def _rebuild(self, connection: asyncpg.Connection) -> None:
        mirror = Mirror()
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            mirror.seq = await connection.fetchval(self._queries["newest_seq"].positional)
            async for row in connection.cursor(self._queries["live_jobs"].positional, prefetch=5000):
                mirror.load(row)
        self.mirror = mirror
        for link in self._links.values():
            link.assigned = {job.key for job in mirror.jobs.values() if job.worker == link.name}

    async def _readopt(self, term: Term, connection: asyncpg.Connection) -> None:
        """Before anything is dispatched: renew all running leases once, and hear what the workers still run."""
        running = [job for job in self.mirror.jobs.values() if job.running]
        await self._renew(term, connection, running)
        waiting = [asyncio.create_task(link.listed.wait()) for link in self._links.values()]
        if waiting:
            await asyncio.wait(waiting, timeout=GATHER_S)
        for task in waiting:
            task.cancel()
        cancels: dict[str, list[RunKey]] = {}
        for job in running:
            if job.cancel_asked and job.worker is not None:
                cancels.setdefault(job.worker, []).append(job.key)
        for name, keys in cancels.items():
            if name in self._links:
                await self._links[name].cancel(keys)

    # ------------------------------------------------------------------ the feed

    async def _follow_feed(self, connection: asyncpg.Connection) -> None:
        await connection.add_listener("tessera_feed", lambda *_: self._fed.set())
        query = self._queries["feed_after"]
        while True:
            self._fed.clear()
            while True:
                rows = await connection.fetch(
                    query.positional, *query.arguments({"after": self.mirror.seq, "limit": FEED_PAGE})
                )
                now = datetime.now(UTC)
                for row in rows:
                    job = self.mirror.apply(row, now)
                    if job is not None and job.worker in self._links:
                        self._spawn(self._links[job.worker].cancel([job.key]))
                    if row["type"] in ("cancelled", "expired", "failed", "completed", "queued"):
                        self.notifier.forget(row["job_id"])
                if rows:
                    self._changed.set()
                if len(rows) < FEED_PAGE:
                    break
            try:
                await asyncio.wait_for(self._fed.wait(), POLL_S)
            except TimeoutError:
                continue

    # ------------------------------------------------------------------ dispatch

    async def _dispatch_loop(self, term: Term, connection: asyncpg.Connection, lock: asyncio.Lock) -> None:
        while True:
            await self._changed.wait()
            self._changed.clear()
            while await self._dispatch(term, connection, lock):
                pass

    async def _dispatch(self, term: Term, connection: asyncpg.Connection, lock: asyncio.Lock) -> bool:
        """One decision: claim in one commit, then start. Returns whether another may follow at once."""
        now = datetime.now(UTC)
        self.mirror.wake_due(now)
        chosen = plan(self.mirror.snapshot(link.free() for link in self._links.values()), now)
        if not chosen:
            return False
        jobs = [self.mirror.jobs[assignment.job_id] for assignment in chosen]
        for job in jobs:
            job.claiming = True
        claims = [{"job_id": str(a.job_id), "worker": a.worker, "ord": n} for n, a in enumerate(chosen)]
        query = self._queries["claim_batch"]
        try:
            async with lock:
                rows = await connection.fetch(
                    query.positional,
                    *query.arguments({"epoch": term.epoch, "claims": claims, "lease_s": self._lease_s}),
                )
        finally:
            for job in jobs:
                job.claiming = False
        claimed = {row["job_id"]: row for row in rows}
        starts: dict[str, list[RunSpec]] = {}
        refused: list[MirroredJob] = []
        for job in jobs:
            row = claimed.get(job.id)
            if row is None:
                refused.append(job)
                continue
            self.mirror.set_running(job, row["worker"], row["attempt"], now, now)
            self._links[row["worker"]].assigned.add(job.key)
            starts.setdefault(row["worker"], []).append(_run_spec(row))
        # One call per worker, all at once; dispatch goes on meanwhile, for a slot is taken by the claim.
        for worker, specs in starts.items():
            self._spawn(self._start(worker, specs))
        if refused:
            await self._look_again(connection, lock, refused)
        return bool(claimed)

    async def _look_again(
        self, connection: asyncpg.Connection, lock: asyncio.Lock, refused: Sequence[MirroredJob]
    ) -> None:
        """Jobs that could not be claimed: cancelled, ended or capped meanwhile. Take them as Postgres has them now."""
        async with lock:
            rows = await connection.fetch(self._queries["jobs_as_they_are"].positional, [job.id for job in refused])
        found = {row["id"]: row for row in rows}
        for job in refused:
            row = found.get(job.id)
            if self.mirror.jobs.get(job.id) is not job or job.running:
                continue  # the feed was faster
            if row is None or row["state"] != JobState.QUEUED:
                self.mirror.remove(job.id)
            else:
                self.mirror.load(row)

    async def _start(self, worker: str, specs: Sequence[RunSpec]) -> None:
        link = self._links[worker]
        try:
            answers = await link.begin(specs)
        except WorkerAway as away:
            # It may have started them: its list of runs, or the end of the lease, will tell.
            log.warning("start_unanswered", worker=worker, runs=len(specs), why=str(away))
            return
        for spec, answer in answers:
            if answer is StartAnswer.BUSY:
                error = {"code": "engine_busy", "message": "The worker had no free slot.", "retryable": True}
                self._take(worker, Outcome(job_id=spec.job_id, attempt=spec.attempt, ending=Ending.FAILED, error=error))

    # ------------------------------------------------------------------ outcomes

    def _take(self, worker: str, outcome: Outcome) -> None:
        """An outcome came in; the finish loop makes it durable, and only then is it acknowledged."""
        self._outcomes[outcome.key] = (worker, outcome)
        self._arrived.set()

    async def _finish_loop(self, term: Term, connection: asyncpg.Connection) -> None:
        self._arrived.set()  # for what came in between two terms
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            while self._outcomes:
                batch = dict(list(self._outcomes.items())[:MAX_FINISH])
                try:
                    await self._finish(term, connection, batch)
                except asyncpg.PostgresError as error:
                    if is_outage(error) or _is_fenced(error):
                        raise
                    log.exception("finish_row_by_row", jobs=len(batch))
                    await self._finish_singly(term, connection, batch)

    async def _finish_singly(
        self, term: Term, connection: asyncpg.Connection, batch: Mapping[RunKey, tuple[str, Outcome]]
    ) -> None:
        """One outcome that Postgres cannot store must hold up neither the others nor its own job."""
        for key, (worker, outcome) in batch.items():
            try:
                await self._finish(term, connection, {key: (worker, outcome)})
            except asyncpg.PostgresError as error:
                if is_outage(error) or _is_fenced(error):
                    raise
                log.error("outcome_not_storable", job_id=str(key[0]), attempt=key[1], error=type(error).__name__)
                refused = BadOutput("The engine's result cannot be stored. The tokens are returned.")
                failed = Outcome(
                    job_id=key[0],
                    attempt=key[1],
                    ending=Ending.FAILED,
                    error={"code": refused.code, "message": refused.message, "retryable": refused.retryable},
                )
                await self._finish(term, connection, {key: (worker, failed)})

    async def _finish(
        self, term: Term, connection: asyncpg.Connection, batch: Mapping[RunKey, tuple[str, Outcome]]
    ) -> None:
        now = datetime.now(UTC)
        rows: list[dict[str, Any]] = []
        for key, (worker, outcome) in batch.items():
            job = self.mirror.jobs.get(outcome.job_id)
            if job is None or job.key != key or not job.running:
                continue  # a late result of an old attempt: nothing to write, the worker may forget it
            rows.append({"ord": len(rows), **await self._row(connection, job, worker, outcome, now)})
        final: dict[UUID, str] = {}
        if rows:
            query = self._queries["finish_batch"]
            answers = await connection.fetch(
                query.positional, *query.arguments({"epoch": term.epoch, "outcomes": rows})
            )
            final = {row["job_id"]: row["state"] for row in answers}
        sent = {row["job_id"]: row for row in rows}
        acks: dict[str, list[RunKey]] = {}
        for key, (worker, outcome) in batch.items():
            self._outcomes.pop(key, None)
            link = self._links.get(worker)
            if link is not None:
                link.ended(key)
                acks.setdefault(worker, []).append(key)
            row = sent.get(str(key[0]))
            state = final.get(key[0])
            if state is None or row is None:
                log.info("late_outcome", job_id=str(key[0]), attempt=key[1], ending=outcome.ending)
                continue
            job = self.mirror.jobs.get(key[0])
            if job is None or job.key != key or not job.running:
                continue  # the feed was faster
            self.notifier.forget(job.id)
            if state == JobState.QUEUED:
                self.mirror.requeue(job, row["retry_at"], counted=bool(row["failed"]))
            else:
                if state == JobState.COMPLETED and job.started_at is not None:
                    self.estimates.learn(worker, job.model, job.cost_mt, (now - job.started_at).total_seconds())
                self.mirror.remove(job.id)
        for worker, keys in acks.items():
            self._spawn(self._links[worker].ack(keys))
        self._changed.set()

    async def _row(
        self, connection: asyncpg.Connection, job: MirroredJob, worker: str, outcome: Outcome, now: datetime
    ) -> dict[str, Any]:
        if outcome.ending is Ending.CANCELLED and not job.cancel_asked:
            # Nobody asked for it here: an interruption that hit the wrong run, or a cancel of an earlier leader.
            asked = await connection.fetchval(self._queries["cancel_asked"].positional, job.id)
            if not asked:
                interrupted = {"code": "interrupted", "message": "The run was interrupted.", "retryable": True}
                return failed_row(job.key, interrupted, decide("interrupted", failures=job.failures), now)
        if outcome.ending is not Ending.FAILED:
            return ended_row(job, outcome, self._catalog)
        error: Mapping[str, Any] = outcome.error or WORKER_LOST
        killed = 0
        if error["code"] == "worker_lost":
            killed = await connection.fetchval(self._queries["workers_that_were_lost"].positional, job.id, worker)
        verdict = decide(str(error["code"]), failures=job.failures, workers_killed=killed, jitter=self._random())
        log.info("run_failed", job_id=str(job.id), attempt=job.attempt, code=error["code"], verdict=str(verdict))
        return failed_row(job.key, error, verdict, now)

    # ------------------------------------------------------------------ leases and times

    async def _renew(self, term: Term, connection: asyncpg.Connection, jobs: Sequence[MirroredJob]) -> None:
        if not jobs:
            return
        query = self._queries["renew_leases"]
        values = {
            "epoch": term.epoch,
            "lease_s": self._lease_s,
            "job_ids": [job.id for job in jobs],
            "attempts": [job.attempt for job in jobs],
        }
        await connection.fetch(query.positional, *query.arguments(values))

    async def _lease_loop(self, term: Term, connection: asyncpg.Connection, lock: asyncio.Lock) -> None:
        """Renew the leases of runs that their workers report; find those that no worker has any more."""
        missing: dict[RunKey, float] = {}
        strays: dict[RunKey, int] = {}
        began = time.monotonic()
        renewed = 0.0
        while True:
            await asyncio.sleep(min(1.0, self._lease_s / 10))
            now = time.monotonic()
            alive: list[MirroredJob] = []
            for job in [job for job in self.mirror.jobs.values() if job.running]:
                key = job.key
                link = self._links.get(job.worker or "")
                if key in self._outcomes:
                    continue
                if link is not None and link.online and key in link.running:
                    missing.pop(key, None)
                    alive.append(job)
                    continue
                since = missing.setdefault(key, now)
                # An online worker that does not list the run has lost it, once a start could have arrived; a silent
                # one keeps it for a whole lease.
                patience = 3.0 if link is not None and link.online else self._lease_s
                if now - since >= patience and now - began >= min(patience, GATHER_S):
                    missing.pop(key, None)
                    await self._lost(job)
            for key in [key for key in missing if key[0] not in self.mirror.jobs]:
                del missing[key]
            await self._cancel_strays(strays)
            if now - renewed >= self._lease_s / 3:
                renewed = now
                async with lock:
                    await self._renew(term, connection, alive)

    async def _cancel_strays(self, strays: dict[RunKey, int]) -> None:
        """Runs that a worker lists and that are no job's present attempt: a start that arrived too late."""
        listed = {key: link for link in self._links.values() if link.online for key in link.running}
        for key in [key for key in strays if key not in listed]:
            del strays[key]
        for key, link in listed.items():
            job = self.mirror.jobs.get(key[0])
            if job is not None and job.key == key and job.running:
                strays.pop(key, None)
                continue
            strays[key] = strays.get(key, 0) + 1
            if strays[key] == 3:  # seen three times in a row: not only a list that is older than an outcome
                log.warning("stray_run", job_id=str(key[0]), attempt=key[1], worker=link.name)
                await link.cancel([key])

    async def _lost(self, job: MirroredJob) -> None:
        """No worker has this run any more. A manifest says that it had ended well; else it is run again."""
        name = manifest_name(*job.key)
        outcome = Outcome(job_id=job.id, attempt=job.attempt, ending=Ending.FAILED, error=WORKER_LOST)
        try:
            manifest = await self._artifacts.get_manifest(name)
            if manifest is not None:
                outcome = outcome_from_bytes(manifest)
                log.info("run_collected", job_id=str(job.id), attempt=job.attempt)
        except (TesseraError, ValueError) as error:
            log.warning("manifest_unreadable", job_id=str(job.id), why=str(error))
        worker = job.worker or ""
        link = self._links.get(worker)
        if link is not None and outcome.ending is Ending.FAILED:
            # Whatever may still run there is cancelled before, or as soon as it is back.
            self._spawn(link.cancel([job.key]))
        self._take(worker, outcome)

    async def _due_loop(self, term: Term, connection: asyncpg.Connection, lock: asyncio.Lock) -> None:
        """not_before, backoffs and deadlines."""
        while True:
            await asyncio.sleep(0.25)
            now = datetime.now(UTC)
            due = self.mirror.next_change()
            if due is not None and due <= now:
                self._changed.set()
            expired = self.mirror.take_expired(now)
            async with lock:
                await connection.fetchval(self._queries["promote_due_jobs"].positional, term.epoch)
                if expired:
                    message = "The job's deadline passed before it could start. Its tokens are returned."
                    error = {"code": "deadline_passed", "message": message, "retryable": True}
                    rows = [
                        {"ord": n, "job_id": str(job.id), "to_state": "expired", "error": error, "reason": "deadline"}
                        for n, job in enumerate(expired)
                    ]
                    await connection.fetch(self._queries["end_waiting_batch"].positional, rows)

    # ------------------------------------------------------------------ what others ask

    def workers(self) -> list[WorkerStatus]:
        """All configured workers."""
        return [link.status() for link in self._links.values()]

    def places(self, job_ids: Sequence[UUID]) -> dict[UUID, Place]:
        """The places of those of the jobs that wait or run here."""
        found: dict[UUID, Place] = {}
        now = datetime.now(UTC)
        slots = {model: sum(x.slots for x in self._links.values() if model in x.models) for model in self._models()}
        for job_id in job_ids:
            job = self.mirror.jobs.get(job_id)
            if job is None:
                continue
            own_s = self.estimates.seconds(job.model, job.cost_mt)
            if job.running:
                elapsed = (now - job.started_at).total_seconds() if job.started_at else 0.0
                left = max(0.2, own_s - elapsed)
                found[job_id] = Place(position=0, eta_low_s=round(left * 0.7, 1), eta_high_s=round(left * 1.8, 1))
                continue
            ahead = self.mirror.ahead_of(job)
            waiting_s = ahead * own_s / max(1, slots.get(job.model, 1))
            total = waiting_s + own_s
            found[job_id] = Place(
                position=ahead + 1, eta_low_s=round(total * 0.6, 1), eta_high_s=round(total * 2 + 1, 1)
            )
        return found

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _models(self) -> set[str]:
        return {model for link in self._links.values() for model in link.models}


def _run_spec(row: Mapping[str, Any]) -> RunSpec:
    return RunSpec(
        job_id=row["job_id"],
        attempt=row["attempt"],
        kind=Kind(row["kind"]),
        model=row["model"],
        input=row["input"],
        request_id=row["request_id"],
        timeout_s=RUN_TIMEOUT_S,
        no_progress_s=NO_PROGRESS_S,
    )


def _is_fenced(error: BaseException) -> bool:
    """Another scheduler has taken over (assert_leader's own SQLSTATE)."""
    return isinstance(error, asyncpg.PostgresError) and error.sqlstate == "TS001"


def _leaves(group: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    found: list[BaseException] = []
    for error in group.exceptions:
        found += _leaves(error) if isinstance(error, BaseExceptionGroup) else [error]
    return found

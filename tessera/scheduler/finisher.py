"""Making outcomes durable: batched, fenced by the attempt, acknowledged to the worker only after the commit."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import asyncpg
import structlog

from tessera.catalog import Catalog
from tessera.errors import BadOutput
from tessera.jobs import JobState
from tessera.pace import Pace
from tessera.retries import decide
from tessera.runs import Ending, Outcome, RunKey
from tessera.scheduler.board import Board
from tessera.scheduler.leadership import Term, is_fenced
from tessera.scheduler.mirror import MirroredJob
from tessera.scheduler.outcomes import WORKER_LOST, ended_row, failed_row
from tessera.store.database import fetch_settled, is_outage
from tessera.store.queries import load

log = structlog.get_logger(__name__)

MAX_FINISH = 256  # outcomes in one commit
GAP_S = 0.01  # between two commits while outcomes stream in (tessera/pace.py)


class Finisher:
    """Takes outcomes in at any time; ``run`` writes them down during a term, and what is not durable outlives it."""

    def __init__(self, board: Board, catalog: Catalog, random_source: Callable[[], float]) -> None:
        self._board = board
        self._catalog = catalog
        self._random = random_source
        self._queries = load()
        self._outcomes: dict[RunKey, tuple[str, Outcome]] = {}
        self._arrived = asyncio.Event()

    def take(self, worker: str, outcome: Outcome) -> None:
        """An outcome came in from this worker.

        The first one counts: a run that is called lost is cancelled too, and the answer to that is no news. Only a
        result is better than what was known.
        """
        if outcome.key in self._outcomes and outcome.ending is not Ending.COMPLETED:
            return
        self._outcomes[outcome.key] = (worker, outcome)
        self._arrived.set()

    def holds(self, key: RunKey) -> bool:
        """Whether the outcome of this run is known and only waits for its commit."""
        return key in self._outcomes

    async def run(self, term: Term, connection: asyncpg.Connection) -> None:
        self._arrived.set()  # for what came in between two terms
        pace = Pace(GAP_S)
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            while self._outcomes:
                await pace.pause()
                pace.round(len(self._outcomes))
                batch = dict(list(self._outcomes.items())[:MAX_FINISH])
                try:
                    await self._finish(term, connection, batch)
                except asyncpg.PostgresError as error:
                    if is_outage(error) or is_fenced(error):
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
                if is_outage(error) or is_fenced(error):
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
        at = now.timestamp()
        rows: list[dict[str, Any]] = []
        for key, (worker, outcome) in batch.items():
            job = self._board.mirror.jobs.get(outcome.job_id)
            if job is None or job.key != key or not job.running:
                continue  # a late result of an old attempt: nothing to write, the worker may forget it
            rows.append({"ord": len(rows), **await self._row(connection, job, worker, outcome, now)})
        final: dict[UUID, str] = {}
        if rows:
            query = self._queries["finish_batch"]
            answers = await fetch_settled(
                connection, query.positional, *query.arguments({"epoch": term.epoch, "outcomes": rows})
            )
            final = {row["job_id"]: row["state"] for row in answers}
        sent = {row["job_id"]: row for row in rows}
        acks: dict[str, list[RunKey]] = {}
        for key, (worker, outcome) in batch.items():
            self._outcomes.pop(key, None)
            link = self._board.links.get(worker)
            if link is not None:
                link.ended(key)
                acks.setdefault(worker, []).append(key)
            row = sent.get(str(key[0]))
            state = final.get(key[0])
            if state is None or row is None:
                self._board.ended["late"] += 1
                log.info("late_outcome", job_id=str(key[0]), attempt=key[1], ending=outcome.ending)
                continue
            self._board.ended["retried" if state == JobState.QUEUED else state] += 1
            job = self._board.mirror.jobs.get(key[0])
            if job is None or job.key != key or not job.running:
                continue  # the feed was faster
            self._board.notifier.forget(job.id)
            if state == JobState.QUEUED:
                self._board.mirror.requeue(job, row["retry_at"].timestamp(), at, counted=bool(row["failed"]))
            else:
                if state == JobState.COMPLETED:
                    self._board.estimates.learn(worker, job.model, job.cost_mt, max(0.0, at - job.started_at))
                self._board.mirror.remove(job.id, at)
            self._judge(worker, job, outcome, at)
        for worker, keys in acks.items():
            self._board.links[worker].ack(keys)
        self._board.changed.set()

    def _judge(self, worker: str, job: MirroredJob, outcome: Outcome, at: float) -> None:
        """What the end of a run says of its worker."""
        if outcome.ending is Ending.COMPLETED:
            self._board.failures.succeeded(worker, job.model)
        elif outcome.ending is Ending.FAILED:
            code = str((outcome.error or WORKER_LOST)["code"])
            for name in self._board.failures.failed(worker, job.model, job.id, code, at):
                log.warning("left_out", what=name, code=code)

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

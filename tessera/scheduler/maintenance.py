"""What the leader does now and then: it clears away what is past its time, and compares the books.

Every step is a small batch and safe to repeat, so a term may end at any moment. Nothing here touches the ledger or the
usage of a day, and books that disagree are told, never repaired. Only an outage of Postgres ends ``run``; whatever else
goes wrong in one task is logged and counted, and the others go on.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import structlog

from tessera.artifacts import ArtifactStore, collect_garbage
from tessera.errors import TesseraError, Unavailable
from tessera.store.database import Database

log = structlog.get_logger(__name__)

BATCH = 1000  # rows in one statement: some 20 ms, far below what a waiting submission would notice
MAX_BATCHES = 200  # in one go; the rest is for the next time
MINUTE_S, HOUR_S, DAY_S = 60.0, 3600.0, 86_400.0
BATCH_DAYS = 30  # how long a batch that has ended can be looked at; OpenAI keeps its files as long
MAX_BATCHES_AT_ONCE = 20  # each may take 50,000 lines with it
QUIET_START_S = 30.0  # a new leader has jobs to re-adopt first

Clock = Callable[[], datetime]


async def prune_idempotency_keys(db: Database, now: datetime, limit: int = BATCH) -> int:
    """Forget Idempotency-Keys older than 24 hours; returns how many."""
    return await db.execute("prune_idempotency_keys", now=now, limit=limit)


async def prune_operator_answers(db: Database, now: datetime, limit: int = BATCH) -> int:
    """Forget the Idempotency-Keys of operators' acts after 24 hours; returns how many."""
    return await db.execute("prune_operator_answers", now=now, limit=limit)


async def prune_request_rates(db: Database, now: datetime, limit: int = BATCH) -> int:
    """Forget the request rates of users who have been quiet for an hour; returns how many."""
    return await db.execute("prune_request_rates", now=now, limit=limit)


async def expire_uploads(db: Database, now: datetime, limit: int = BATCH) -> int:
    """Mark uploads past their time as gone; returns how many."""
    return await db.execute("expire_uploads", now=now, limit=limit)


async def expire_batch_files(db: Database, now: datetime, limit: int = BATCH) -> int:
    """Mark files of batches past their time as gone; returns how many."""
    return await db.execute("expire_batch_files", now=now, limit=limit)


async def prune_batches(db: Database, now: datetime, limit: int = BATCH) -> int:
    """Delete batches that ended BATCH_DAYS ago, with their lines; returns how many."""
    return await db.execute("prune_batches", now=now, days=BATCH_DAYS, limit=min(limit, MAX_BATCHES_AT_ONCE))


async def expire_artifacts(db: Database, now: datetime, limit: int = BATCH) -> int:
    """Mark artifacts past their user's retention as gone; returns how many."""
    return await db.execute("expire_artifacts", now=now, limit=limit)


async def prune_jobs(db: Database, now: datetime, limit: int = BATCH) -> int:
    """Delete jobs a week past retention, with all that hangs on them but the ledger; returns how many."""
    return await db.execute("prune_jobs", now=now, limit=limit)


async def prune_deliveries(db: Database, now: datetime, limit: int = BATCH) -> int:
    """Forget deliveries a month after their end, with their log; returns how many."""
    return await db.execute("prune_deliveries", now=now, limit=limit)


async def prune_inbox(db: Database, now: datetime, limit: int = BATCH) -> int:
    """Forget updates of the bots three days after they were finished; returns how many."""
    return await db.execute("prune_inbox", now=now, limit=limit)


async def erase_deleted(db: Database, now: datetime, limit: int = BATCH) -> int:
    """Erase what jobs brought that ended after their user had deleted the account; returns how many jobs."""
    row = await db.row("erase_deleted", now=now, limit=limit)
    return row["erased"] if row is not None else 0


async def prune_link_codes(db: Database, now: datetime, limit: int = BATCH) -> int:
    """Forget link codes that have expired; returns how many."""
    return await db.execute("prune_link_codes", now=now, limit=limit)


async def prune_link_tries(db: Database, now: datetime, limit: int = BATCH) -> int:
    """Forget who tried link codes, an hour later; returns how many."""
    return await db.execute("prune_link_tries", now=now, limit=limit)


async def prune_former_identities(db: Database, now: datetime, limit: int = BATCH) -> int:
    """Forget identities that left an account on a day that is over, but for the banned; returns how many."""
    return await db.execute("prune_former_identities", now=now, limit=limit)


async def prune_carried_use(db: Database, now: datetime, limit: int = BATCH) -> int:
    """Forget what was carried from account to account on a day that is over; returns how many."""
    return await db.execute("prune_carried_use", now=now, limit=limit)


async def note_minute(db: Database, now: datetime, *, ok: bool) -> int:
    """Write down whether this minute was up. A minute that nobody wrote down counts as down."""
    return await db.execute("note_minute", now=now, ok=ok)


async def compare_books(db: Database, now: datetime) -> int:
    """Compare ledger, usage_daily and the hot rows; logs each difference (at most 100) and returns how many."""
    found = await db.rows("mismatches", at=now)
    for row in found:
        log.error("books_disagree", **{key: str(value) for key, value in row.items()})
    return len(found)


async def prune_manifests(db: Database, store: ArtifactStore, limit: int = BATCH) -> int:
    """Delete manifests of runs whose jobs have ended: their outcome is in the database. Returns how many."""
    jobs: dict[str, UUID] = {}
    for name in await store.manifests():
        job_id = _job_of(name)
        if job_id is not None:
            jobs[name] = job_id
    names, deleted = list(jobs), 0
    for start in range(0, len(names), limit):
        batch = names[start : start + limit]
        rows = await db.rows("live_among", ids=[jobs[name] for name in batch])
        live = {row["id"] for row in rows}
        for name in batch:
            if jobs[name] not in live:
                await store.delete_manifest(name)
                deleted += 1
    return deleted


async def collect_blobs(db: Database, store: ArtifactStore, now: datetime) -> int:
    """Delete the files that nothing references any more (tessera.artifacts.collect_garbage); returns how many."""

    async def referenced(hashes: Sequence[str]) -> set[str]:
        kept: set[str] = set()
        for start in range(0, len(hashes), BATCH):
            rows = await db.rows("referenced_hashes", hashes=list(hashes[start : start + BATCH]), now=now)
            kept.update(row["sha256"] for row in rows)
        return kept

    return (await collect_garbage(store, referenced)).deleted


def _job_of(manifest: str) -> UUID | None:
    """The job of a run's manifest (tessera.runs.manifest_name), None for another name."""
    job_id, _, attempt = manifest.rpartition(".")
    try:
        return UUID(job_id) if attempt.isdigit() else None
    except ValueError:
        return None


async def drain(batch: Callable[[int], Awaitable[int]], limit: int = BATCH) -> int:
    """Run a batch until it finds less than a whole one, at most MAX_BATCHES times; returns how many rows in all."""
    total = 0
    for _ in range(MAX_BATCHES):
        done = await batch(limit)
        total += done
        if done < limit:
            break
        await asyncio.sleep(0.01)  # whoever waits for these rows goes first
    return total


@dataclass(kw_only=True)
class Tally:
    """What a task has done so far, for metrics. ``last`` is the count of its last run."""

    runs: int = 0
    failures: int = 0
    last: int = 0
    total: int = 0
    last_at: datetime | None = None
    seconds: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Task:
    """Something that is done every ``every_s`` seconds; returns a count."""

    name: str
    every_s: float
    work: Callable[[Database, datetime], Awaitable[int]]


class Maintenance:
    """The leader's housekeeping. ``healthy`` says whether the service is up, for the uptime report."""

    def __init__(
        self,
        dsn: str,
        artifacts: ArtifactStore,
        *,
        healthy: Callable[[], bool] = lambda: True,
        clock: Clock = lambda: datetime.now(UTC),
        quiet_start_s: float = QUIET_START_S,
    ) -> None:
        self._dsn = dsn
        self._clock = clock
        self._quiet_start_s = quiet_start_s
        self.tasks: tuple[Task, ...] = (
            Task(name="note_minute", every_s=MINUTE_S, work=lambda db, now: note_minute(db, now, ok=healthy())),
            Task(
                name="prune_idempotency_keys",
                every_s=10 * MINUTE_S,
                work=lambda db, now: drain(lambda limit: prune_idempotency_keys(db, now, limit)),
            ),
            Task(
                name="prune_operator_answers",
                every_s=10 * MINUTE_S,
                work=lambda db, now: drain(lambda limit: prune_operator_answers(db, now, limit)),
            ),
            Task(
                name="prune_request_rates",
                every_s=HOUR_S,
                work=lambda db, now: drain(lambda limit: prune_request_rates(db, now, limit)),
            ),
            Task(
                name="expire_uploads",
                every_s=10 * MINUTE_S,
                work=lambda db, now: drain(lambda limit: expire_uploads(db, now, limit)),
            ),
            Task(
                name="expire_batch_files",
                every_s=10 * MINUTE_S,
                work=lambda db, now: drain(lambda limit: expire_batch_files(db, now, limit)),
            ),
            Task(name="prune_batches", every_s=HOUR_S, work=prune_batches),
            Task(
                name="expire_artifacts",
                every_s=10 * MINUTE_S,
                work=lambda db, now: drain(lambda limit: expire_artifacts(db, now, limit)),
            ),
            Task(
                name="prune_jobs", every_s=HOUR_S, work=lambda db, now: drain(lambda limit: prune_jobs(db, now, limit))
            ),
            Task(
                name="prune_deliveries",
                every_s=HOUR_S,
                work=lambda db, now: drain(lambda limit: prune_deliveries(db, now, limit)),
            ),
            Task(
                name="prune_inbox",
                every_s=HOUR_S,
                work=lambda db, now: drain(lambda limit: prune_inbox(db, now, limit)),
            ),
            Task(
                name="erase_deleted",
                every_s=MINUTE_S,
                work=lambda db, now: drain(lambda limit: erase_deleted(db, now, limit)),
            ),
            Task(
                name="prune_link_codes",
                every_s=HOUR_S,
                work=lambda db, now: drain(lambda limit: prune_link_codes(db, now, limit)),
            ),
            Task(
                name="prune_link_tries",
                every_s=HOUR_S,
                work=lambda db, now: drain(lambda limit: prune_link_tries(db, now, limit)),
            ),
            Task(
                name="prune_former_identities",
                every_s=HOUR_S,
                work=lambda db, now: drain(lambda limit: prune_former_identities(db, now, limit)),
            ),
            Task(
                name="prune_carried_use",
                every_s=HOUR_S,
                work=lambda db, now: drain(lambda limit: prune_carried_use(db, now, limit)),
            ),
            Task(name="prune_manifests", every_s=HOUR_S, work=lambda db, now: prune_manifests(db, artifacts)),
            Task(name="compare_books", every_s=HOUR_S, work=compare_books),
            Task(name="collect_blobs", every_s=DAY_S / 4, work=lambda db, now: collect_blobs(db, artifacts, now)),
        )
        self.tallies: dict[str, Tally] = {task.name: Tally() for task in self.tasks}

    async def run(self) -> None:
        """Do what is due, until cancelled. Raises Unavailable when Postgres is away; then run it again later."""
        db = Database.open(self._dsn, pool_size=1, name="tessera-maintenance")
        try:
            began = time.monotonic()
            due = {task.name: began + self._quiet_start_s for task in self.tasks}
            due["note_minute"] = began
            while True:
                for task in self.tasks:
                    if due[task.name] <= time.monotonic():
                        due[task.name] = time.monotonic() + task.every_s
                        await self.do(db, task)
                await asyncio.sleep(max(0.05, min(due.values()) - time.monotonic()))
        finally:
            await db.close()

    async def do(self, db: Database, task: Task) -> None:
        """Do one task now and count it. Raises Unavailable when Postgres is away, and nothing else."""
        tally = self.tallies[task.name]
        began = time.monotonic()
        try:
            tally.last = await task.work(db, self._clock())
        except Unavailable as error:
            await db.row("ping")  # raises when it is Postgres that is away; else it is the artifact store
            self._failed(task, tally, error)
        except TesseraError as error:
            self._failed(task, tally, error)
        except Exception:
            tally.failures += 1
            log.exception("maintenance_failed", task=task.name)
        else:
            tally.runs += 1
            tally.total += tally.last
            tally.last_at = self._clock()
            tally.seconds = time.monotonic() - began
            if tally.last and task.name != "note_minute":
                log.info("maintenance", task=task.name, count=tally.last, seconds=round(tally.seconds, 3))

    @staticmethod
    def _failed(task: Task, tally: Tally, error: TesseraError) -> None:
        tally.failures += 1
        log.warning("maintenance_failed", task=task.name, code=error.code, why=error.message)

    def counts(self) -> dict[str, dict[str, Any]]:
        """What each task has done in this term, as data for metrics and explanations."""
        return {
            name: {
                "runs": tally.runs,
                "failures": tally.failures,
                "last": tally.last,
                "total": tally.total,
                "last_at": tally.last_at.isoformat() if tally.last_at else None,
                "seconds": round(tally.seconds, 3),
            }
            for name, tally in self.tallies.items()
        }

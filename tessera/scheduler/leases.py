"""Leases: renewed while a worker reports the run, and what is done when no worker has it any more."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

import asyncpg
import structlog

from tessera.errors import TesseraError
from tessera.ports import ArtifactPort
from tessera.runs import Ending, Outcome, RunKey, manifest_name, outcome_from_bytes
from tessera.scheduler.board import Board
from tessera.scheduler.finisher import Finisher
from tessera.scheduler.leadership import Term
from tessera.scheduler.links import WorkerLink
from tessera.scheduler.mirror import MirroredJob
from tessera.scheduler.outcomes import WORKER_LOST
from tessera.store.queries import load

log = structlog.get_logger(__name__)

LEASE_S = 30.0
GATHER_S = 5.0  # a new leader waits so long for online workers to list their runs
# An online worker that does not list a run for so long never got its start. A start takes milliseconds, but may
# take the CALL_TIMEOUT_S of scheduler/actor.py on a loaded machine and still arrive: twice that.
NOT_LISTED_S = 10.0
STRAY_LOOKS = 3  # a run is a stray when it was seen so often in a row: not only a list older than an outcome


class Leases:
    """Watches over all running jobs during a term."""

    def __init__(self, board: Board, finisher: Finisher, artifacts: ArtifactPort, lease_s: float) -> None:
        self._board = board
        self._finisher = finisher
        self._artifacts = artifacts
        self._lease_s = lease_s
        self._queries = load()

    async def renew(self, term: Term, connection: asyncpg.Connection, jobs: Sequence[MirroredJob]) -> None:
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

    async def run(self, term: Term, connection: asyncpg.Connection, lock: asyncio.Lock) -> None:
        """Renew the leases of runs that their workers report; find those that no worker has any more."""
        missing: dict[RunKey, float] = {}
        strays: dict[RunKey, int] = {}
        renewed = 0.0
        while True:
            await asyncio.sleep(min(1.0, self._lease_s / 10))
            now = time.monotonic()
            alive: list[MirroredJob] = []
            for job in list(self._board.mirror.running.values()):
                key = job.key
                link = self._board.links.get(job.worker or "")
                if self._finisher.holds(key):
                    continue
                if link is not None and link.online and key in link.running:
                    missing.pop(key, None)
                    alive.append(job)
                    continue
                since = missing.setdefault(key, now)
                if now - since >= self._patience_s(link, key):
                    missing.pop(key, None)
                    await self._lost(job)
            for key in [key for key in missing if key[0] not in self._board.mirror.jobs]:
                del missing[key]
            await self._cancel_strays(strays)
            if now - renewed >= self._lease_s / 3:
                renewed = now
                async with lock:
                    await self.renew(term, connection, alive)

    def _patience_s(self, link: WorkerLink | None, key: RunKey) -> float:
        """How long a run may be missing: not at all when its process is gone, a whole lease when nobody can tell."""
        if link is None or not link.online:
            return self._lease_s
        return 0.0 if link.died_with_its_process(key) else NOT_LISTED_S

    async def _cancel_strays(self, strays: dict[RunKey, int]) -> None:
        """Runs that a worker lists and that are no job's present attempt: a start that arrived too late."""
        listed = {key: link for link in self._board.links.values() if link.online for key in link.running}
        for key in [key for key in strays if key not in listed]:
            del strays[key]
        for key, link in listed.items():
            job = self._board.mirror.jobs.get(key[0])
            if job is not None and job.key == key and job.running:
                strays.pop(key, None)
                continue
            strays[key] = strays.get(key, 0) + 1
            if strays[key] == STRAY_LOOKS:
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
        link = self._board.links.get(worker)
        if link is not None and outcome.ending is Ending.FAILED:
            # Whatever may still run there is cancelled before, or as soon as it is back.
            self._board.spawn(link.cancel([job.key]))
        self._finisher.take(worker, outcome)

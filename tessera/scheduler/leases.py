"""Leases: renewed while a worker reports the run, and what is done when no worker has it any more.

A run that is missing is looked for before it is run again: in the manifests of the artifact store, then on its worker,
whose backend may have it still or have finished it, though the worker's own process is another one.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from uuid import UUID

import asyncpg
import structlog

from tessera.errors import TesseraError
from tessera.ports import ArtifactPort
from tessera.runs import (
    Ending,
    Outcome,
    RunKey,
    RunSpec,
    StartAnswer,
    WorkerAway,
    manifest_name,
    outcome_from_bytes,
)
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
    """Watches over all running jobs during a term. ``spec`` makes a run of a row of run_specs, with its timeouts."""

    def __init__(
        self,
        board: Board,
        finisher: Finisher,
        artifacts: ArtifactPort,
        lease_s: float,
        spec: Callable[[Mapping[str, Any]], RunSpec],
    ) -> None:
        self._board = board
        self._finisher = finisher
        self._artifacts = artifacts
        self._lease_s = lease_s
        self._spec = spec
        self._queries = load()
        self._missing: dict[RunKey, float] = {}  # run → since when no worker lists it
        self._sought: set[RunKey] = set()  # somebody is being asked for these right now

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
        """Renew the leases of runs that their workers report; look for those that no worker lists any more."""
        missing = self._missing = {}
        strays: dict[RunKey, int] = {}
        renewed = 0.0
        while True:
            await asyncio.sleep(min(1.0, self._lease_s / 10))
            now = time.monotonic()
            alive: list[MirroredJob] = []
            sought: list[MirroredJob] = []
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
                if now - since >= self._patience_s(link, key) and key not in self._sought:
                    sought.append(job)
            for key in [key for key in missing if key[0] not in self._board.mirror.running]:
                del missing[key]
            if sought:
                await self._seek(sought, connection, lock)
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

    async def _seek(self, jobs: Sequence[MirroredJob], connection: asyncpg.Connection, lock: asyncio.Lock) -> None:
        """Ask for runs beside the loop, worker by worker: one that does not answer must not keep leases waiting."""
        query = self._queries["run_specs"]
        values = {"job_ids": [job.id for job in jobs], "attempts": [job.attempt for job in jobs]}
        async with lock:
            rows = await connection.fetch(query.positional, *query.arguments(values))
        specs = {row["job_id"]: self._spec(row) for row in rows}
        of: dict[str, list[MirroredJob]] = {}
        for job in jobs:
            of.setdefault(job.worker or "", []).append(job)
            self._sought.add(job.key)
        for worker, theirs in of.items():
            self._board.spawn(self._find(worker, theirs, specs))

    async def _find(self, worker: str, jobs: Sequence[MirroredJob], specs: Mapping[UUID, RunSpec]) -> None:
        """Manifest, then the worker and its backend; only what neither has is run again."""
        keys = [job.key for job in jobs]
        try:
            left = [job for job in jobs if not await self._collected(worker, job)]
            link = self._board.links.get(worker)
            answers: Mapping[RunKey, StartAnswer] = {}
            if link is not None and link.online:
                # Whose user wants its end is not taken up again: the cancel reaches the backend, too.
                wanted = [specs[job.id] for job in left if job.id in specs and not job.cancel_asked]
                answers = await self._adopted(link, wanted) if wanted else {}
            for job in left:
                self._answered(worker, job, answers.get(job.key, StartAnswer.LOST))
        finally:
            self._sought.difference_update(keys)

    async def _collected(self, worker: str, job: MirroredJob) -> bool:
        """Whether a manifest says how the run has ended."""
        try:
            manifest = await self._artifacts.get_manifest(manifest_name(*job.key))
            if manifest is None:
                return False
            outcome = outcome_from_bytes(manifest)
        except (TesseraError, ValueError) as error:
            log.warning("manifest_unreadable", job_id=str(job.id), why=str(error))
            return False
        log.info("run_collected", job_id=str(job.id), attempt=job.attempt)
        self._finisher.take(worker, outcome)
        return True

    async def _adopted(self, link: WorkerLink, specs: Sequence[RunSpec]) -> Mapping[RunKey, StartAnswer]:
        try:
            answers = await link.adopt(specs)
        except WorkerAway as away:
            log.info("adoption_unanswered", worker=link.name, runs=len(specs), why=str(away))
            answers = [StartAnswer.BUSY] * len(specs)
        return {spec.key: answer for spec, answer in zip(specs, answers, strict=True)}

    def _answered(self, worker: str, job: MirroredJob, answer: StartAnswer) -> None:
        """What a worker has said of a missing run. Nobody knows is no answer: it is asked again, for a lease."""
        if self._board.mirror.running.get(job.id) is not job or self._finisher.holds(job.key):
            return  # it has ended meanwhile; a run that was taken up for nothing is found as a stray
        link = self._board.links.get(worker)
        since = self._missing.get(job.key, time.monotonic())
        if answer in (StartAnswer.STARTED, StartAnswer.KNOWN):
            self._missing.pop(job.key, None)
            log.info("run_goes_on", job_id=str(job.id), attempt=job.attempt, worker=worker)
            if job.cancel_asked and link is not None:
                self._board.spawn(link.cancel([job.key]))  # it was asked for while nobody had the run
        elif answer is StartAnswer.LOST or time.monotonic() - since >= self._lease_s + NOT_LISTED_S:
            self._missing.pop(job.key, None)
            if link is not None:
                # Whatever may still run there is cancelled before, or as soon as it is back.
                self._board.spawn(link.cancel([job.key]))
            lost = Outcome(job_id=job.id, attempt=job.attempt, ending=Ending.FAILED, error=WORKER_LOST)
            self._finisher.take(worker, lost)

"""Runs as the scheduler and its workers speak of them: what is started, what is told back, how it ended.

A run is one attempt of a job on a worker. It belongs to the worker, not to a caller's stream: ``start`` is idempotent
and returns at once, one ``watch`` stream per worker tells of all its runs and can be opened again, and an outcome stays
until it is acknowledged. Pure values; all of them cross Ray.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any, Protocol
from uuid import UUID

import orjson

from tessera.jobs import Kind
from tessera.ports import LiveEvent, StoredFile

RunKey = tuple[UUID, int]  # job and attempt


@dataclass(frozen=True, kw_only=True)
class RunSpec:
    """One attempt as the scheduler hands it to a worker.

    ``input`` is the job's stored input; its reserved key ``_files`` names the content hashes of the input's files.
    ``timeout_s`` bounds the whole run, ``no_progress_s`` the silence between two of its events.
    """

    job_id: UUID
    attempt: int
    kind: Kind
    model: str
    input: Mapping[str, Any]
    request_id: str = ""
    timeout_s: float = 3600.0
    no_progress_s: float = 120.0

    @property
    def key(self) -> RunKey:
        return (self.job_id, self.attempt)


class Ending(StrEnum):
    """How a run ended, as its worker saw it."""

    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a run ended. ``error`` is {code, message, retryable} of a failed one; ``executed`` (0…1) how far it came.

    ``cost_units`` is the engine's own measure where the price is only known afterwards (text tokens). ``asked`` is how
    many files the job had asked for, None where a kind has no count: what is missing is not charged.
    """

    job_id: UUID
    attempt: int
    ending: Ending
    output: Mapping[str, Any] | None = None
    files: Sequence[StoredFile] = ()
    cost_units: int | None = None
    asked: int | None = None
    executed: float = 0.0
    error: Mapping[str, Any] | None = None

    @property
    def key(self) -> RunKey:
        return (self.job_id, self.attempt)


@dataclass(frozen=True, kw_only=True)
class RunInfo:
    """A run that a worker knows: still going (``outcome`` None), or ended and not yet acknowledged."""

    job_id: UUID
    attempt: int
    outcome: Outcome | None = None

    @property
    def key(self) -> RunKey:
        return (self.job_id, self.attempt)


@dataclass(frozen=True, kw_only=True)
class WorkerReport:
    """What a worker says of itself. ``instance`` changes with every new process: its runs before that are gone.

    ``resident`` are the models that its engine has loaded.
    """

    name: str
    instance: str
    slots: int
    models: Sequence[str]
    runs: Sequence[RunInfo]
    healthy: bool = True
    message: str = ""
    resident: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class WatchBatch:
    """One item of a worker's watch stream; an empty one is its heartbeat. ``running`` are the runs that go on.

    ``resident`` are the models that its engine has loaded, as of its last load, unload or heartbeat. ``away`` says why
    its engine cannot work at the moment (its backend is gone, or hangs); "" while it can.
    """

    instance: str
    events: Sequence[LiveEvent] = ()
    outcomes: Sequence[Outcome] = ()
    running: Sequence[RunKey] = field(default=())
    resident: Sequence[str] = ()
    away: str = ""


class StartAnswer(StrEnum):
    """What became of a start."""

    STARTED = "started"
    KNOWN = "known"  # it runs already, or has ended and waits for its ack: nothing was done
    BUSY = "busy"  # no free slot, or (of an adoption) the backend does not answer: ask again later
    LOST = "lost"  # only of an adoption: the backend does not know this attempt, it must be run again


class WorkerPort(Protocol):
    """A worker, wherever it is. Every call has a timeout of its own and raises WorkerAway when it is not answered."""

    async def report(self) -> WorkerReport: ...

    async def start(self, specs: Sequence[RunSpec]) -> Sequence[StartAnswer]: ...

    async def adopt(self, specs: Sequence[RunSpec]) -> Sequence[StartAnswer]:
        """Take up runs that a lost process of this worker had begun, wherever the backend still has them.

        STARTED: the backend has the attempt (waiting, running or done) and the run goes on under it, or is collected.
        KNOWN: this process has the run. LOST: the backend knows nothing of it, or it has failed or was cancelled
        there. BUSY: no free slot to watch it with, or the backend does not answer: it may still have the run.
        """
        ...

    async def ensure(self, model: str) -> None:
        """Load a model; returns once it is resident. Takes as long as loading takes. Raises EngineError."""
        ...

    async def release(self, models: Sequence[str] | None = None) -> None:
        """Unload these models, None: all, and give their memory back.

        Never under a run that uses them: then it raises Busy, and nothing was unloaded. Raises EngineError.
        """
        ...

    async def cancel(self, keys: Sequence[RunKey]) -> None: ...

    async def ack(self, keys: Sequence[RunKey]) -> None: ...

    def watch(self) -> AsyncIterator[WatchBatch]:
        """All that happens from now on, with every outcome not yet acknowledged first; a heartbeat every 2 s."""
        ...


class WorkerAway(Exception):
    """The worker did not answer: whatever was asked of it may or may not have happened."""


def manifest_name(job_id: UUID, attempt: int) -> str:
    """The name of the manifest that a worker leaves in the artifact store when a run has ended."""
    return f"{job_id}.{attempt}"


def outcome_to_bytes(outcome: Outcome) -> bytes:
    """The outcome as the manifest's JSON."""
    return orjson.dumps(asdict(outcome))


def outcome_from_bytes(data: bytes) -> Outcome:
    """The inverse of ``outcome_to_bytes``. Raises ValueError for anything else."""
    try:
        value = orjson.loads(data)
        return Outcome(
            **{
                **value,
                "job_id": UUID(value["job_id"]),
                "ending": Ending(value["ending"]),
                "files": [StoredFile(**file) for file in value["files"]],
            }
        )
    except (orjson.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"not an outcome manifest: {error}") from error

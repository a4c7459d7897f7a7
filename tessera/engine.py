"""The Engine protocol: how any inference backend is driven, and what it tells back.

One protocol, one conformance suite (``tests/conformance``). The worker (``deployments/worker.py``) wraps an engine with
start, watch, list_runs, ack, the outcome manifest and the timeouts; an engine itself never touches Postgres or the
artifact store. Pure values only: everything here crosses Ray.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol, runtime_checkable
from uuid import UUID, uuid5

from tessera.errors import TesseraError
from tessera.jobs import Kind


def backend_id(job_id: UUID, attempt: int) -> str:
    """The id under which a backend knows one attempt (ComfyUI's prompt_id, KoboldCPP's genkey).

    It is derived, never stored: whoever knows the job and the attempt can cancel or find the run.
    """
    return str(uuid5(job_id, str(attempt)))


@dataclass(frozen=True, kw_only=True)
class InputFile:
    """An input file (upload or artifact) as an engine gets it: its bytes and the media type found by content."""

    media_type: str
    data: bytes


@dataclass(frozen=True, kw_only=True)
class EngineJob:
    """What an engine needs to know of a job.

    ``input`` is the validated input of the kind, as JSON data with every default filled in (``tessera.inputs``);
    ``files`` holds the bytes of the input's file fields (``image``, ``mask``, ``upload``) under the field's name.
    """

    id: UUID
    kind: Kind
    model: str
    input: Mapping[str, Any]
    files: Mapping[str, InputFile] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How much of the run is done: ``fraction`` in 0…1, never falling; ``note`` a word for a person, or None."""

    fraction: float
    note: str | None = None


@dataclass(frozen=True, kw_only=True)
class Preview:
    """A small picture of the unfinished result (JPEG or PNG bytes, a few tens of KiB)."""

    media_type: str
    data: bytes


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """A piece of text. ``offset`` counts characters of the text before it, so that a reader can detect a gap."""

    offset: int
    text: str


@dataclass(frozen=True, kw_only=True)
class Output:
    """One finished file. ``index`` counts from 0; width and height in pixels, duration in seconds, where they apply."""

    index: int
    media_type: str
    data: bytes
    width: int | None = None
    height: int | None = None
    duration_s: float | None = None


@dataclass(frozen=True, kw_only=True)
class Done:
    """The run is complete.

    ``output`` is the job's JSON output (text, transcription; always with ``engine`` and, for previews,
    ``preview: true``). ``cost_units`` is what was really used where the price is only known afterwards
    (text tokens of a text), else None: the job's exact price stands.
    """

    output: Mapping[str, Any]
    cost_units: int | None = None


EngineEvent = Progress | Preview | Chunk | Output | Done


@dataclass(frozen=True, kw_only=True)
class Health:
    """The answer to a probe: really working, not only answering."""

    ok: bool
    version: str
    message: str = ""
    fingerprint: str = ""


@dataclass(frozen=True, kw_only=True)
class Capacity:
    """Slots and load of an engine. ``free_mib`` is None where the device does not tell.

    ``batch_max``: how many small jobs of one model the engine takes in one call of ``run_batch`` (``BatchEngine``).
    ``detached``: runs go on in the backend when this process ends, and the next one attaches to them.
    """

    slots: int
    running: int
    queued: int = 0
    free_mib: int | None = None
    batch_max: int = 1
    detached: bool = False


@dataclass(frozen=True, kw_only=True)
class Models:
    """Which models can be run, which are resident, and the seconds that loading each takes."""

    available: Sequence[str]
    resident: Sequence[str]
    switch_s: Mapping[str, float] = field(default_factory=dict)


class CancelState(StrEnum):
    """What became of a cancel."""

    CANCELLED = "cancelled"  # the run was known and has stopped or will within a second
    UNKNOWN = "unknown"  # no such run here: lost, or never started
    FINISHED = "finished"  # too late, the run had ended


class RunState(StrEnum):
    """What a backend knows of one attempt."""

    PENDING = "pending"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"
    LOST = "lost"


class Engine(Protocol):
    """One inference backend. All methods are safe to repeat; ``run`` once per (job, attempt).

    ``run`` ends with exactly one ``Done``, or raises an ``EngineError`` / ``InvalidInput``. When a run is cancelled
    its iterator ends without ``Done`` within a second. For an attempt that the backend has already (``reconcile``
    says pending, running or done, after this process was replaced) ``run`` attaches to it and never submits it again.
    """

    async def probe(self) -> Health: ...

    async def capacity(self) -> Capacity: ...

    async def models(self) -> Models: ...

    async def ensure(self, model: str) -> None:
        """Load a model; returns once it is resident, at once when it is already.

        Raises ModelMissing, OutOfMemory when it does not fit beside what is loaded, or another EngineError.
        """
        ...

    async def release(self, models: Sequence[str] | None = None) -> None:
        """Unload these models (None: all) and free their memory; one that is not resident is no error.

        Raises Busy when a run uses one of them: then nothing was unloaded.
        """
        ...

    def run(self, job: EngineJob, attempt: int) -> AsyncIterator[EngineEvent]: ...

    async def cancel(self, job_id: UUID, attempt: int) -> CancelState: ...

    async def reconcile(self, job_id: UUID, attempt: int) -> RunState: ...


@runtime_checkable
class BatchEngine(Protocol):
    """What an engine has besides when it takes several small jobs in one call: ``Capacity.batch_max`` is above 1."""

    def run_batch(
        self, jobs: Sequence[tuple[EngineJob, int]]
    ) -> AsyncIterator[tuple[UUID, EngineEvent | TesseraError | None]]:
        """Run jobs of one model, each with its attempt, together; tell of each by its id, in any order.

        Each ends with exactly one ``Done``, with the error that ``run`` would have raised, or, when it was cancelled,
        with None within a second. What is raised ends all that have not ended.
        """
        ...

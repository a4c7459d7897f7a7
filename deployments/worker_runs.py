"""One run as its worker knows it, and what its outcome is. It drives nothing and tells nobody."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import Any

import structlog

from tessera.engine import Progress
from tessera.errors import BadOutput, EngineError, Stuck, TesseraError
from tessera.ports import StoredFile
from tessera.runs import Ending, Outcome, RunSpec

log = structlog.get_logger(__name__)


@dataclass
class Run:
    """One run: what was asked for, how far it is, what is to be told of it.

    ``given_up`` is set when it is waited for no more.
    """

    spec: RunSpec
    task: asyncio.Task[None] | None = None
    started: float = field(default_factory=time.monotonic)
    last_event: float = field(default_factory=time.monotonic)
    fraction: float = 0.0
    cancel_asked: bool = False
    stuck: bool = False
    outcome: Outcome | None = None
    given_up: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    cancelled_at: float | None = None
    files: list[StoredFile] = field(default_factory=list)
    text_sent: int = 0
    pending_text: list[str] = field(default_factory=list)
    pending_progress: Progress | None = None
    last_preview: float = 0.0
    has_manifest: bool = False


def outcome_of(run: Run, work: asyncio.Task[Any]) -> Outcome:
    """What became of a run whose work is over, by its own result or by what it was ended with."""
    if run.stuck or not work.done() or work.cancelled():
        return failed(run, Stuck())
    failure = work.exception()
    if failure is not None:
        return failure_of(run, failure)
    found = work.result()
    if isinstance(found, Outcome):
        return found
    return ended_without_done(run)


def ended_without_done(run: Run) -> Outcome:
    """What it means that the engine has ended a run and not said Done: its cancel, if one was asked for."""
    if run.stuck:
        return failed(run, Stuck())
    if run.cancel_asked:
        return _cancelled(run)
    return failed(run, BadOutput("The engine stopped without a result."))


def failure_of(run: Run, failure: BaseException) -> Outcome:
    """What an error of the engine means for a run."""
    if run.stuck:
        return failed(run, Stuck())
    if run.cancel_asked and isinstance(failure, EngineError):
        return _cancelled(run)
    if isinstance(failure, TesseraError):
        return failed(run, failure)
    log.error("engine_bug", job_id=str(run.spec.job_id), exc_info=failure)
    return failed(run, EngineError())


def failed(run: Run, error: TesseraError) -> Outcome:
    """The outcome of a run that failed with this error."""
    told = {"code": error.code, "message": error.message, "retryable": error.retryable}
    return Outcome(
        job_id=run.spec.job_id, attempt=run.spec.attempt, executed=run.fraction, ending=Ending.FAILED, error=told
    )


def _cancelled(run: Run) -> Outcome:
    return Outcome(job_id=run.spec.job_id, attempt=run.spec.attempt, executed=run.fraction, ending=Ending.CANCELLED)

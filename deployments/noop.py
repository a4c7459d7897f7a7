"""The noop engine: does nothing, at once. For benchmarks, and with directives in its prompt for tests of failures.

The model ``noop`` is off by default; ``exit`` ends the worker's process, which is how a poison job is made.
"""

from __future__ import annotations

import asyncio
import os
from collections import OrderedDict
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from uuid import UUID

from tessera.engine import CancelState, Capacity, Done, EngineEvent, EngineJob, Health, Models, Progress, RunState
from tessera.errors import BadOutput, Busy, InvalidInput, Lost, ModelMissing, OutOfMemory, Stuck, TesseraError

VERSION = "noop/1"
MODEL = "noop"
REMEMBERED_RUNS = 4096
PROGRESS_INTERVAL_S = 0.1
EXIT_STATUS = 13

FAILURES: dict[str, type[TesseraError]] = {
    "invalid": InvalidInput,
    "oom": OutOfMemory,
    "lost": Lost,
    "stuck": Stuck,
    "bad": BadOutput,
}


@dataclass(kw_only=True)
class _Run:
    """One attempt as this engine knows it."""

    state: RunState = RunState.PENDING
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)


class NoopEngine:
    """An engine (``tessera.engine.Engine``) whose runs end at once with an empty text.

    The prompt may hold one directive: ``sleep 2.5`` (seconds, with progress every 0.1 s; a cancel ends it),
    ``fail invalid|oom|lost|stuck|bad`` (raises that error), ``exit`` (ends the process with status 13).
    ``slots``: runs at a time; one more raises Busy.
    """

    def __init__(self, slots: int = 1) -> None:
        if slots < 1:
            raise ValueError("slots must be at least 1")
        self._slots = slots
        self._running = 0
        self._runs: OrderedDict[tuple[UUID, int], _Run] = OrderedDict()

    async def probe(self) -> Health:
        return Health(ok=True, version=VERSION, fingerprint=VERSION)

    async def capacity(self) -> Capacity:
        return Capacity(slots=self._slots, running=self._running)

    async def models(self) -> Models:
        return Models(available=(MODEL,), resident=(MODEL,), switch_s={MODEL: 0.0})

    async def ensure(self, model: str) -> None:
        if model != MODEL:
            raise ModelMissing(f"The noop engine serves noop only, not {model}.")

    def run(self, job: EngineJob, attempt: int) -> AsyncIterator[EngineEvent]:
        """Start one attempt. Raises RuntimeError when this attempt was already run here."""
        if (job.id, attempt) in self._runs:
            raise RuntimeError(f"attempt {attempt} of {job.id} was already run here")
        run = self._runs[(job.id, attempt)] = _Run()
        self._forget_old()
        return self._events(job, run)

    async def cancel(self, job_id: UUID, attempt: int) -> CancelState:
        run = self._runs.get((job_id, attempt))
        if run is None:
            return CancelState.UNKNOWN
        if run.state not in (RunState.PENDING, RunState.RUNNING, RunState.CANCELLED):
            return CancelState.FINISHED
        run.state = RunState.CANCELLED
        run.cancelled.set()
        return CancelState.CANCELLED

    async def reconcile(self, job_id: UUID, attempt: int) -> RunState:
        run = self._runs.get((job_id, attempt))
        return run.state if run is not None else RunState.LOST

    async def _events(self, job: EngineJob, run: _Run) -> AsyncIterator[EngineEvent]:
        if run.cancelled.is_set():
            return
        if job.model != MODEL or self._running >= self._slots:
            run.state = RunState.FAILED
            raise Busy() if job.model == MODEL else ModelMissing(f"The noop engine serves noop only, not {job.model}.")
        run.state = RunState.RUNNING
        self._running += 1
        try:
            words = str(job.input.get("prompt") or "").split()
            match words:
                case ["exit"]:
                    os._exit(EXIT_STATUS)
                case ["fail", name] if name in FAILURES:
                    raise FAILURES[name]()
                case ["sleep", seconds] if _is_seconds(seconds):
                    async for progress in _slept(float(seconds), run.cancelled):
                        yield progress
            if run.cancelled.is_set():
                return
            run.state = RunState.DONE
            yield Done(output=_empty_output(), cost_units=0)
        finally:
            self._running -= 1
            if run.state is RunState.RUNNING:
                # Left early: by its reader, or by one of the errors above.
                run.state = RunState.FAILED

    def _forget_old(self) -> None:
        while len(self._runs) > REMEMBERED_RUNS:
            oldest = next(iter(self._runs))
            if self._runs[oldest].state in (RunState.PENDING, RunState.RUNNING):
                self._runs.move_to_end(oldest)
                return
            del self._runs[oldest]


def _empty_output() -> dict[str, object]:
    usage = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
    return {"text": "", "finish_reason": "stop", "usage": usage, "engine": VERSION}


def _is_seconds(word: str) -> bool:
    try:
        return 0.0 <= float(word) <= 3600.0
    except ValueError:
        return False


async def _slept(seconds: float, cancelled: asyncio.Event) -> AsyncIterator[Progress]:
    """Sleep with a progress event every 0.1 s; returns early once ``cancelled`` is set."""
    loop = asyncio.get_running_loop()
    start = loop.time()
    while (passed := loop.time() - start) < seconds and not cancelled.is_set():
        yield Progress(fraction=passed / seconds, note="sleeping")
        try:
            async with asyncio.timeout(min(PROGRESS_INTERVAL_S, max(0.0, seconds - passed))):
                await cancelled.wait()
        except TimeoutError:
            continue

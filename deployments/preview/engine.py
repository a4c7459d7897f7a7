"""PreviewEngine: one engine for the six preview models, each kind a generator of events run in a thread of its own.

The event loop never waits for the work: a thread runs the kind's generator and hands each event to the loop. Who may
still answer is decided under one lock: once ``cancel`` said ``cancelled``, no ``Done`` comes out any more.
"""

from __future__ import annotations

import asyncio
import importlib
import threading
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol, cast
from uuid import UUID

from deployments.preview.flag import CancelFlag, Cancelled
from tessera.engine import CancelState, Capacity, Done, EngineEvent, EngineJob, Health, Models, Progress, RunState
from tessera.errors import Busy, EngineError, InvalidInput, ModelMissing, OutOfMemory, TesseraError
from tessera.jobs import Kind

VERSION = "preview/1"

KIND_OF_MODEL: dict[str, Kind] = {f"preview-{kind.value}": kind for kind in Kind}

REMEMBERED_RUNS = 1024  # ended runs that reconcile still knows; a worker acknowledges outcomes within seconds
LEAVE_AFTER_S = 0.8  # of the second in which a cancelled run has to end
PROGRESS_INTERVAL_S = 0.1  # as fast as an eye follows


class KindModule(Protocol):
    """What a kind's module offers."""

    ENGINE: str

    def check(self) -> None:
        """Raises EngineError where the kind cannot work on this machine."""

    def run(self, job: EngineJob, flag: CancelFlag, **options: float) -> Iterator[EngineEvent]:
        """The events of one run, the last one Done; ``options`` are the engine's own for that kind.

        Raises InvalidInput, EngineError or Cancelled.
        """


@dataclass(kw_only=True)
class _Run:
    """One attempt as this engine knows it. ``state`` changes only under the engine's lock."""

    job: EngineJob
    state: RunState = RunState.PENDING
    flag: CancelFlag = field(default_factory=CancelFlag)
    leave: Callable[[], None] | None = None  # ends the wait for the run


@dataclass(frozen=True, kw_only=True)
class _End:
    """The last thing in a run's queue: it ended, with an error or without."""

    error: TesseraError | None = None


class PreviewEngine:
    """The preview models as one engine (``tessera.engine.Engine``).

    ``models``: the ids that this worker serves; only their libraries are imported. ``slots``: runs at a time; one more
    raises Busy. ``tokens_per_s``: the pace of streamed text, so that streaming can be seen; 0 means no pacing.
    """

    def __init__(
        self, models: Sequence[str] = tuple(KIND_OF_MODEL), slots: int = 1, *, tokens_per_s: float = 100.0
    ) -> None:
        unknown = [model for model in models if model not in KIND_OF_MODEL]
        if unknown:
            raise ModelMissing(f"The preview engine has no model {unknown[0]}. It has {', '.join(KIND_OF_MODEL)}.")
        if slots < 1:
            raise ValueError("slots must be at least 1")
        self._models = tuple(models)
        self._slots = slots
        self._tokens_per_s = tokens_per_s
        self._kinds: dict[Kind, KindModule] = {
            kind: cast(KindModule, importlib.import_module(f"deployments.preview.{kind.value}"))
            for kind in (KIND_OF_MODEL[model] for model in self._models)
        }
        self._lock = threading.Lock()
        self._runs: OrderedDict[tuple[UUID, int], _Run] = OrderedDict()

    async def probe(self) -> Health:
        try:
            for module in self._kinds.values():
                await asyncio.to_thread(module.check)
        except EngineError as error:
            return Health(ok=False, version=VERSION, message=error.message)
        names = " ".join(sorted(module.ENGINE for module in self._kinds.values()))
        return Health(ok=True, version=VERSION, fingerprint=names)

    async def capacity(self) -> Capacity:
        with self._lock:
            return Capacity(slots=self._slots, running=self._running())

    async def models(self) -> Models:
        return Models(available=self._models, resident=self._models, switch_s=dict.fromkeys(self._models, 0.0))

    async def ensure(self, model: str) -> None:
        if model not in self._models:
            raise ModelMissing(f"This worker does not serve {model}. It serves {', '.join(self._models)}.")

    async def release(self, models: Sequence[str] | None = None) -> None:
        """Previews hold no weights: there is nothing to unload, and ``models`` goes on calling them resident."""

    def run(self, job: EngineJob, attempt: int) -> AsyncIterator[EngineEvent]:
        """Start one attempt. It is known to ``reconcile`` from here on; the work starts with the first step.

        Raises RuntimeError when this attempt was already run here.
        """
        with self._lock:
            if (job.id, attempt) in self._runs:
                raise RuntimeError(f"attempt {attempt} of {job.id} was already run here")
            run = self._runs[(job.id, attempt)] = _Run(job=job)
            self._forget_old()
        return self._events(run)

    async def cancel(self, job_id: UUID, attempt: int) -> CancelState:
        with self._lock:
            run = self._runs.get((job_id, attempt))
            if run is None:
                return CancelState.UNKNOWN
            if run.state not in (RunState.PENDING, RunState.RUNNING, RunState.CANCELLED):
                return CancelState.FINISHED
            run.flag.set()
            if run.leave is not None:
                # A step that cannot be interrupted may go on in its thread; whoever waits for the run does not.
                asyncio.get_running_loop().call_later(LEAVE_AFTER_S, run.leave)
            if run.state is RunState.PENDING:
                run.state = RunState.CANCELLED
            return CancelState.CANCELLED

    async def reconcile(self, job_id: UUID, attempt: int) -> RunState:
        with self._lock:
            run = self._runs.get((job_id, attempt))
            if run is None:
                return RunState.LOST
            return RunState.CANCELLED if run.state is RunState.RUNNING and run.flag.is_set() else run.state

    async def _events(self, run: _Run) -> AsyncIterator[EngineEvent]:
        if not self._admit(run):
            return
        loop = asyncio.get_running_loop()
        queue: asyncio.Queue[EngineEvent | _End] = asyncio.Queue()
        run.leave = lambda: queue.put_nowait(_End())

        def put(item: EngineEvent | _End) -> None:
            # The loop may be closed by now when its owner left in the middle of a run.
            if not loop.is_closed():
                loop.call_soon_threadsafe(queue.put_nowait, item)

        threading.Thread(target=self._work, args=(run, put), name=f"preview-{run.job.kind.value}", daemon=True).start()
        try:
            while True:
                item = await queue.get()
                if isinstance(item, _End):
                    if item.error is not None:
                        raise item.error
                    return
                yield item
        finally:
            run.flag.set()  # whoever leaves early wants no result; after the end it changes nothing

    def _admit(self, run: _Run) -> bool:
        """Give the run a slot. False when it was cancelled before it began. Raises ModelMissing, InvalidInput, Busy."""
        job = run.job
        with self._lock:
            if run.state is not RunState.PENDING:
                return False
            refusal: TesseraError | None = None
            if job.model not in self._models:
                refusal = ModelMissing(f"This worker does not serve {job.model}. The tokens are returned.")
            elif KIND_OF_MODEL[job.model] is not job.kind:
                refusal = InvalidInput(
                    f"The model {job.model} is of kind {KIND_OF_MODEL[job.model].value}, not {job.kind.value}. "
                    "Nothing was charged; choose a model of that kind."
                )
            elif self._running() >= self._slots:
                refusal = Busy()
            if refusal is not None:
                run.state = RunState.FAILED
                raise refusal
            run.state = RunState.RUNNING
            return True

    def _work(self, run: _Run, put: Callable[[EngineEvent | _End], None]) -> None:
        """Run in a thread: drive the kind's generator to its end, whatever that is."""
        error: TesseraError | None = None
        state = RunState.FAILED
        try:
            for event in _coalesced(self._generator(run)):
                run.flag.check()
                if isinstance(event, Done):
                    with self._lock:
                        run.flag.check()
                        run.state = state = RunState.DONE
                put(event)
            if state is not RunState.DONE:
                error = EngineError("The preview engine ended without a result. The tokens are returned.")
        except Cancelled:
            state = RunState.CANCELLED
        except TesseraError as caught:
            error = caught
        except MemoryError:
            error = OutOfMemory()
        except Exception as caught:  # noqa: BLE001 a thread has no caller: the run's reader gets the error instead
            error = EngineError(
                f"The preview engine failed ({type(caught).__name__}: {caught}). The tokens are returned."
            )
            error.__cause__ = caught
        with self._lock:
            run.state = state
        put(_End(error=error))

    def _generator(self, run: _Run) -> Iterator[EngineEvent]:
        module = self._kinds[run.job.kind]
        options = {"tokens_per_s": self._tokens_per_s} if run.job.kind is Kind.TEXT else {}
        return module.run(run.job, run.flag, **options)

    def _running(self) -> int:
        return sum(run.state is RunState.RUNNING for run in self._runs.values())

    def _forget_old(self) -> None:
        ended = [key for key, run in self._runs.items() if run.state not in (RunState.PENDING, RunState.RUNNING)]
        for key in ended[: max(0, len(ended) - REMEMBERED_RUNS)]:
            del self._runs[key]


def _coalesced(events: Iterator[EngineEvent]) -> Iterator[EngineEvent]:
    """The same events with progress that never falls and comes at most ten times a second."""
    reached, told_at = -1.0, float("-inf")
    for event in events:
        if isinstance(event, Progress):
            now = time.monotonic()
            if event.fraction < reached or (now - told_at < PROGRESS_INTERVAL_S and event.fraction < 1.0):
                continue
            reached, told_at = event.fraction, now
        yield event

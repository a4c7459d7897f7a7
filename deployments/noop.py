"""The noop engine: does nothing, at once. For benchmarks, and for tests of everything that goes wrong around an engine.

The model ``noop`` is off by default. With directives in its prompt a run takes its time or fails; ``exit`` ends the
worker's process, which is how a poison job is made. The models ``noop-a``, ``noop-b`` and ``noop-c`` pretend to have
weights: they have to be loaded, share a device that counts its memory, and refuse to run before. With a backend
(``noop_backend.py``) its runs outlive this process.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from uuid import UUID

from deployments.noop_backend import NoopBackend
from tessera.catalog import NOOP, NOOP_BATCH, NOOP_HEAVY
from tessera.engine import (
    CancelState,
    Capacity,
    Done,
    EngineEvent,
    EngineJob,
    Health,
    Models,
    Progress,
    RunState,
    backend_id,
)
from tessera.errors import (
    BadOutput,
    Busy,
    ContentWithheld,
    EngineError,
    InvalidInput,
    Lost,
    ModelMissing,
    OutOfMemory,
    Stuck,
    TesseraError,
)

VERSION = "noop/1"
MODEL = NOOP.id
VRAM_MIB = {model.id: model.vram_mib for model in (NOOP, NOOP_BATCH, *NOOP_HEAVY)}
REMEMBERED_RUNS = 4096
PROGRESS_INTERVAL_S = 0.1
EXIT_STATUS = 13

FAILURES: dict[str, type[TesseraError]] = {
    "invalid": InvalidInput,
    "oom": OutOfMemory,
    "lost": Lost,
    "stuck": Stuck,
    "bad": BadOutput,
    "withheld": ContentWithheld,
}


@dataclass(kw_only=True)
class _Run:
    """One attempt as this engine knows it. ``id`` is the backend's."""

    id: str
    model: str
    state: RunState = RunState.PENDING
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)


class NoopDevice:
    """The memory of a device that does not exist. Several engines may share one; ``vram_mib`` None is without end."""

    def __init__(self, vram_mib: int | None = None) -> None:
        self.vram_mib = vram_mib
        self._taken: dict[tuple[int, str], int] = {}  # (engine, model) → MiB

    @property
    def used_mib(self) -> int:
        """What is loaded, or being loaded."""
        return sum(self._taken.values())

    def take(self, owner: object, model: str) -> None:
        """Memory for a model. Raises OutOfMemory."""
        wanted = VRAM_MIB[model]
        if self.vram_mib is not None and self.used_mib + wanted > self.vram_mib:
            raise OutOfMemory(
                f"{model} needs {wanted} MiB, and {self.used_mib} of the {self.vram_mib} MiB of this device are taken. "
                "The tokens are returned."
            )
        self._taken[(id(owner), model)] = wanted

    def give(self, owner: object, model: str) -> None:
        """The model's memory is free again."""
        self._taken.pop((id(owner), model), None)


class NoopEngine:
    """An engine (``tessera.engine.Engine``) whose runs end at once with an empty text.

    The prompt may hold one directive: ``sleep 2.5`` (seconds, with progress every 0.1 s; a cancel ends it),
    ``fail invalid|oom|lost|stuck|bad|withheld`` (raises that error), ``exit`` (ends the process with status 13),
    ``clock`` (the text is when the run reached the engine, in seconds since the epoch: benchmarks measure the way).
    ``models``: those of the catalogue that it serves. ``slots``: runs at a time; one more raises Busy.
    ``device``: whose memory its heavy models take; ``load_s`` and ``unload_s``: how long that takes.
    ``backend``: keeps the runs; without one they end with this object. ``batch_max``: jobs that one call takes.
    """

    def __init__(
        self,
        models: Sequence[str] = (MODEL,),
        slots: int = 1,
        *,
        device: NoopDevice | None = None,
        load_s: float = 0.2,
        unload_s: float = 0.0,
        backend: NoopBackend | None = None,
        batch_max: int = 1,
    ) -> None:
        unknown = [model for model in models if model not in VRAM_MIB]
        if unknown:
            raise ModelMissing(f"The noop engine has no model {unknown[0]}. It has {', '.join(VRAM_MIB)}.")
        if slots < 1:
            raise ValueError("slots must be at least 1")
        self._models = tuple(models)
        self._slots = slots
        self._device = device or NoopDevice()
        self._load_s = load_s
        self._unload_s = unload_s
        self._backend = backend
        self._batch_max = batch_max
        self._resident = {model for model in models if VRAM_MIB[model] == 0}
        self._switching = asyncio.Lock()
        self._running: list[str] = []  # the models of the runs that go on
        self._runs: OrderedDict[tuple[UUID, int], _Run] = OrderedDict()

    async def probe(self) -> Health:
        return Health(ok=True, version=VERSION, fingerprint=VERSION)

    async def capacity(self) -> Capacity:
        limit = self._device.vram_mib
        return Capacity(
            slots=self._slots,
            running=len(self._running),
            free_mib=None if limit is None else limit - self._device.used_mib,
            batch_max=self._batch_max,
            detached=self._backend is not None,
        )

    async def models(self) -> Models:
        return Models(
            available=self._models,
            resident=tuple(model for model in self._models if model in self._resident),
            switch_s={model: self._load_s if VRAM_MIB[model] else 0.0 for model in self._models},
        )

    async def ensure(self, model: str) -> None:
        self._check_served(model)
        async with self._switching:
            if model in self._resident:
                return
            self._device.take(self, model)
            try:
                await asyncio.sleep(self._load_s)
            except BaseException:
                self._device.give(self, model)
                raise
            self._resident.add(model)

    async def release(self, models: Sequence[str] | None = None) -> None:
        async with self._switching:
            wanted = self._models if models is None else models
            going = {model for model in wanted if model in self._resident and VRAM_MIB[model]}
            if used := going.intersection(self._running):
                raise Busy(f"{', '.join(sorted(used))} cannot be unloaded: a run uses it. Nothing was unloaded.")
            self._resident -= going  # from here on nothing may run on them
            if going:
                await asyncio.sleep(self._unload_s)
            for model in going:
                self._device.give(self, model)

    def run(self, job: EngineJob, attempt: int) -> AsyncIterator[EngineEvent]:
        """Start one attempt, or attach to it where the backend has it from a process before this one.

        Raises RuntimeError when this attempt was already run here.
        """
        if (job.id, attempt) in self._runs:
            raise RuntimeError(f"attempt {attempt} of {job.id} was already run here")
        run = self._runs[(job.id, attempt)] = _Run(id=backend_id(job.id, attempt), model=job.model)
        self._forget_old()
        return self._events(job, run)

    async def run_batch(
        self, jobs: Sequence[tuple[EngineJob, int]]
    ) -> AsyncIterator[tuple[UUID, EngineEvent | TesseraError | None]]:
        """Jobs without a directive end at once; the others go on side by side, as ``run`` would have them."""
        told: asyncio.Queue[tuple[UUID, EngineEvent | TesseraError | None]] = asyncio.Queue()
        longer: list[asyncio.Task[None]] = []

        # All are known from here on, so that a cancel finds those that are further back.
        runs = [(job, self.run(job, attempt)) for job, attempt in jobs]

        async def follow(job: EngineJob, events: AsyncIterator[EngineEvent]) -> None:
            try:
                async for event in events:
                    told.put_nowait((job.id, event))
                    if isinstance(event, Done):
                        return
                told.put_nowait((job.id, None))
            except TesseraError as error:
                told.put_nowait((job.id, error))

        try:
            for job, events in runs:
                if self._backend is not None or _read(str(job.input.get("prompt") or "")) != _Asked():
                    longer.append(asyncio.create_task(follow(job, events)))
                    continue
                async for event in events:
                    yield job.id, event
            left = len(longer)
            while left:
                found = await told.get()
                left -= found[1] is None or isinstance(found[1], Done | TesseraError)
                yield found
        finally:
            for task in longer:
                task.cancel()
            await asyncio.gather(*longer, return_exceptions=True)

    async def cancel(self, job_id: UUID, attempt: int) -> CancelState:
        run = self._runs.get((job_id, attempt))
        if self._backend is not None:
            state = self._backend.cancel(backend_id(job_id, attempt))
            if state is not CancelState.UNKNOWN:
                if run is not None and state is CancelState.CANCELLED:
                    run.cancelled.set()
                return state
        if run is None:
            return CancelState.UNKNOWN
        if run.state not in (RunState.PENDING, RunState.RUNNING, RunState.CANCELLED):
            return CancelState.FINISHED
        run.state = RunState.CANCELLED
        run.cancelled.set()
        return CancelState.CANCELLED

    async def reconcile(self, job_id: UUID, attempt: int) -> RunState:
        if self._backend is not None:
            state = self._backend.state(backend_id(job_id, attempt))
            if state is not RunState.LOST:
                return state
        run = self._runs.get((job_id, attempt))
        return run.state if run is not None else RunState.LOST

    async def _events(self, job: EngineJob, run: _Run) -> AsyncIterator[EngineEvent]:
        if run.cancelled.is_set():
            return
        attached = self._backend is not None and self._backend.find(run.id) is not None
        try:
            if not attached:
                self._admit(run)
        except EngineError:
            run.state = RunState.FAILED
            raise
        run.state = RunState.RUNNING
        began_at = time.time()
        self._running.append(run.model)
        try:
            asked = _read(str(job.input.get("prompt") or ""))
            if self._backend is None:
                work = _worked(asked, run.cancelled)
            else:
                if not attached:
                    self._backend.submit(run.id, asked.seconds, asked.failure)
                work = _followed(self._backend, run)
            if asked.exits and not attached:
                os._exit(EXIT_STATUS)
            async for progress in work:
                yield progress
            if run.cancelled.is_set():
                run.state = RunState.CANCELLED
                return
            run.state = RunState.DONE
            yield Done(output=_output(f"{began_at:.6f}" if asked.clock else ""), cost_units=0)
        finally:
            self._running.remove(run.model)
            if run.state is RunState.RUNNING:
                # Left early: by its reader, or by one of the errors above.
                run.state = RunState.FAILED

    def _admit(self, run: _Run) -> None:
        """Raises ModelMissing, Busy, or EngineError for a model that nobody has loaded."""
        self._check_served(run.model)
        if len(self._running) >= self._slots:
            raise Busy()
        if run.model not in self._resident:
            # Counted as a failure on purpose: a scheduler that sends a run before its model is there shows in tests.
            raise EngineError(f"{run.model} is not loaded. The tokens are returned.")

    def _check_served(self, model: str) -> None:
        if model not in self._models:
            raise ModelMissing(f"This noop engine serves {', '.join(self._models)}, not {model}.")

    def _forget_old(self) -> None:
        while len(self._runs) > REMEMBERED_RUNS:
            oldest = next(iter(self._runs))
            if self._runs[oldest].state in (RunState.PENDING, RunState.RUNNING):
                self._runs.move_to_end(oldest)
                return
            del self._runs[oldest]


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """What a prompt asks for."""

    seconds: float = 0.0
    failure: str = ""
    exits: bool = False
    clock: bool = False


def _read(prompt: str) -> _Asked:
    match prompt.split():
        case ["exit"]:
            return _Asked(exits=True)
        case ["clock"]:
            return _Asked(clock=True)
        case ["fail", name] if name in FAILURES:
            return _Asked(failure=name)
        case ["sleep", seconds] if _is_seconds(seconds):
            return _Asked(seconds=float(seconds))
    return _Asked()


async def _worked(asked: _Asked, cancelled: asyncio.Event) -> AsyncIterator[Progress]:
    """The work itself, where no backend does it: sleep with progress; returns early once ``cancelled`` is set."""
    if asked.failure:
        raise FAILURES[asked.failure]()
    loop = asyncio.get_running_loop()
    start = loop.time()
    while (passed := loop.time() - start) < asked.seconds and not cancelled.is_set():
        yield Progress(fraction=passed / asked.seconds, note="sleeping")
        await _either(min(PROGRESS_INTERVAL_S, max(0.0, asked.seconds - passed)), cancelled)


async def _followed(backend: NoopBackend, run: _Run) -> AsyncIterator[Progress]:
    """What the backend says of a run until it has ended there; a cancel by anybody sets ``run.cancelled``."""
    while True:
        match backend.state(run.id):
            case RunState.PENDING:
                yield Progress(fraction=0.0, note="waiting in the backend")
            case RunState.RUNNING:
                yield Progress(fraction=backend.fraction(run.id), note="sleeping")
            case RunState.FAILED:
                found = backend.find(run.id)
                raise FAILURES[found.failure if found is not None else "lost"]()
            case RunState.CANCELLED:
                run.cancelled.set()
                return
            case RunState.LOST:
                raise Lost
            case RunState.DONE:
                return
        await _either(PROGRESS_INTERVAL_S, run.cancelled)


async def _either(seconds: float, cancelled: asyncio.Event) -> None:
    """Wait that long, or until ``cancelled`` is set."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await cancelled.wait()


def _is_seconds(word: str) -> bool:
    try:
        return 0.0 <= float(word) <= 3600.0
    except ValueError:
        return False


def _output(text: str) -> dict[str, object]:
    usage = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
    return {"text": text, "finish_reason": "stop", "usage": usage, "engine": VERSION}

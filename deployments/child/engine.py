"""What engines over a subprocess have in common: runs with states, slots, cancels, and models that come and go.

An engine says which call of the subprocess is a run's (``_wanted``) and what its events mean (``_events_of``).
"""

from __future__ import annotations

import abc
import asyncio
import contextlib
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import structlog

from deployments.child import frames
from deployments.child.process import Call, ChildProcess
from tessera.engine import CancelState, Capacity, Done, EngineEvent, EngineJob, Health, Models, Progress, RunState
from tessera.errors import Busy, EngineError, InvalidInput, Lost, ModelMissing, TesseraError
from tessera.jobs import Kind

log = structlog.get_logger(__name__)

REMEMBERED_RUNS = 1024
LEAVE_AFTER_S = 0.8  # of the second in which a cancelled run has to end
DEAF_AFTER_S = 60.0  # a cancelled call that still computes then is ended with its process: a slot is worth more


@dataclass(frozen=True, kw_only=True)
class ModelFile:
    """A file that the operator must have: its path below the folder of models, and where it can be had."""

    path: str
    source: str = ""


@dataclass(kw_only=True)
class ChildRun:
    """One attempt as this engine knows it."""

    job: EngineJob
    state: RunState = RunState.PENDING
    cancelled: bool = False
    queue: asyncio.Queue[EngineEvent | _End] = field(default_factory=asyncio.Queue)
    task: asyncio.Task[None] | None = None
    call: Call | None = None

    @property
    def ended(self) -> bool:
        return self.state not in (RunState.PENDING, RunState.RUNNING)


@dataclass(frozen=True, kw_only=True)
class _End:
    """The last thing in a run's queue."""

    error: TesseraError | None = None


class ChildEngine(abc.ABC):
    """An engine (``tessera.engine.Engine``) whose work is done in a subprocess.

    ``models``: those that it serves. ``kind``: what they make. ``loads_itself``: those that a run may load, because
    nobody plans their memory; the others have to be loaded by ``ensure`` before.
    """

    name: str  # of the engine, as results tell it
    title: str  # what people call the subprocess

    def __init__(
        self, child: ChildProcess, models: Sequence[str], *, kind: Kind, slots: int, loads_itself: frozenset[str]
    ) -> None:
        if slots < 1:
            raise ValueError("slots must be at least 1")
        self.child = child
        self._models = tuple(models)
        self._kind = kind
        self._slots = slots
        self._loads_itself = loads_itself
        self._loaded: dict[str, int] = {}  # model → the generation of the subprocess that has it
        self._took_s: dict[str, float] = {}
        self._switching = asyncio.Lock()
        self._runs: OrderedDict[tuple[UUID, int], ChildRun] = OrderedDict()
        self._going: list[ChildRun] = []
        self._chores: set[asyncio.Task[None]] = set()

    # ------------------------------------------------------------------ what each engine says of itself

    @abc.abstractmethod
    def version(self) -> str:
        """The library and its version."""

    @abc.abstractmethod
    def check_files(self, model: str) -> None:
        """Raises ModelMissing, with the files and where they can be had. May block: it is called in a thread."""

    @abc.abstractmethod
    def load_arguments(self, model: str) -> Mapping[str, Any]:
        """The arguments of the subprocess's call ``load``."""

    @abc.abstractmethod
    def generate(self, run: ChildRun) -> AsyncGenerator[EngineEvent, None]:
        """The events of one run, the last one Done. ``follow`` makes the call. Raises TesseraError."""

    def note_loaded(self, model: str, said: Mapping[str, Any]) -> None:  # noqa: B027 (not every engine wants to know)
        """What the subprocess said of a model that it has loaded."""

    def load_s(self, model: str) -> float:
        """How long loading a model takes, as far as it is known before it was loaded."""
        return 5.0

    # ------------------------------------------------------------------ Engine

    async def start(self) -> None:  # noqa: B027 (part of what a replica asks of every engine that lives)
        """Nothing to do: the subprocess is started when it is needed."""

    async def close(self) -> None:
        """End the subprocess and what runs in it."""
        await self.child.stop()
        tasks = [run.task for run in self._going if run.task is not None]
        for task in (*tasks, *self._chores):
            task.cancel()
        await asyncio.gather(*tasks, *self._chores, return_exceptions=True)

    async def probe(self) -> Health:
        missing: list[str] = []
        for model in self._models:
            try:
                await asyncio.to_thread(self.check_files, model)
            except ModelMissing as error:
                missing.append(error.message)
        rests_s = self.child.rests_s()
        if rests_s > LEAVE_AFTER_S and not self.child.alive:
            message = f"The {self.title} keeps ending; it is started again in {rests_s:.0f} s."
            return Health(ok=False, version=self.version(), message=message)
        if len(missing) == len(self._models):
            return Health(ok=False, version=self.version(), message=missing[0])
        return Health(ok=True, version=self.version(), message=" ".join(missing), fingerprint=self.version())

    async def capacity(self) -> Capacity:
        return Capacity(slots=self._slots, running=len(self._going))

    async def models(self) -> Models:
        return Models(
            available=await asyncio.to_thread(self._there),
            resident=tuple(model for model in self._models if self._is_loaded(model)),
            switch_s={model: self._took_s.get(model, self.load_s(model)) for model in self._models},
        )

    async def ensure(self, model: str) -> None:
        self._check_served(model)
        async with self._switching:
            await self._load(model)

    async def release(self, models: Sequence[str] | None = None) -> None:
        async with self._switching:
            wanted = set(self._models if models is None else models)
            loaded = [model for model in self._models if self._is_loaded(model)]
            going = [model for model in loaded if model in wanted]
            used = sorted({run.job.model for run in self._going}.intersection(going))
            if used:
                raise Busy(f"{', '.join(used)} cannot be unloaded: a run uses it. Nothing was unloaded.")
            if not going:
                return
            if len(going) == len(loaded) and not self._going:
                self._loaded.clear()
                await self.child.stop()  # the only way to give back all of a device's memory
                return
            for model in going:
                self._loaded.pop(model, None)
                await self.child.call("unload", model=model)

    def run(self, job: EngineJob, attempt: int) -> AsyncIterator[EngineEvent]:
        """Start one attempt. Raises RuntimeError when this attempt was already run here."""
        if (job.id, attempt) in self._runs:
            raise RuntimeError(f"attempt {attempt} of {job.id} was already run here")
        run = self._runs[(job.id, attempt)] = ChildRun(job=job)
        self._forget_old()
        return self._events(run)

    async def cancel(self, job_id: UUID, attempt: int) -> CancelState:
        run = self._runs.get((job_id, attempt))
        if run is None:
            return CancelState.UNKNOWN
        if run.ended:
            return CancelState.CANCELLED if run.state is RunState.CANCELLED else CancelState.FINISHED
        self._cancel(run)
        return CancelState.CANCELLED

    async def reconcile(self, job_id: UUID, attempt: int) -> RunState:
        run = self._runs.get((job_id, attempt))
        return RunState.LOST if run is None else run.state  # a subprocess ends with its replica

    # ------------------------------------------------------------------ models

    def _check_served(self, model: str) -> None:
        if model not in self._models:
            raise ModelMissing(f"This worker does not serve {model}. The tokens are returned.")

    def _there(self) -> tuple[str, ...]:
        """The models whose files are there."""
        found = []
        for model in self._models:
            with contextlib.suppress(ModelMissing):
                self.check_files(model)
                found.append(model)
        return tuple(found)

    def _is_loaded(self, model: str) -> bool:
        return self.child.alive and self._loaded.get(model) == self.child.generation

    async def _load(self, model: str) -> None:
        if self._is_loaded(model):
            return
        await asyncio.to_thread(self.check_files, model)
        began = time.monotonic()
        await self.child.start()
        try:
            said = await self.child.call("load", model=model, **self.load_arguments(model))
        except Lost as error:
            what = error.message.partition(". ")[0]
            raise EngineError(f"{what} while it loaded {model}. The tokens are returned.") from error
        self.note_loaded(model, said)
        self._loaded[model] = self.child.generation
        self._took_s[model] = time.monotonic() - began

    async def _require(self, model: str) -> None:
        if self._is_loaded(model):
            return
        if model in self._loads_itself:
            async with self._switching:
                await self._load(model)
            return
        await asyncio.to_thread(self.check_files, model)
        raise EngineError(f"{model} is not loaded. The tokens are returned; it is loaded and the job tried again.")

    # ------------------------------------------------------------------ runs

    async def _events(self, run: ChildRun) -> AsyncIterator[EngineEvent]:
        if run.state is not RunState.PENDING:
            return
        try:
            self._admit(run)
        except TesseraError:
            run.state = RunState.FAILED
            raise
        run.state = RunState.RUNNING
        self._going.append(run)
        run.task = asyncio.create_task(self._drive(run), name=f"{self.name}-{run.job.id}")
        try:
            while True:
                item = await run.queue.get()
                if isinstance(item, _End):
                    if item.error is not None and not run.cancelled:
                        raise item.error
                    return
                if not run.cancelled:
                    yield item
        finally:
            if not run.ended:  # its reader has left: nobody wants the rest
                self._cancel(run)

    def _admit(self, run: ChildRun) -> None:
        self._check_served(run.job.model)
        if run.job.kind is not self._kind:
            raise InvalidInput(
                f"The model {run.job.model} is of kind {self._kind.value}, not {run.job.kind.value}. "
                "Nothing was charged."
            )
        if len(self._going) >= self._slots:
            raise Busy()

    async def _drive(self, run: ChildRun) -> None:
        """Drive one run to its end and tell it; the one place where its state ends."""
        error: TesseraError | None = None
        try:
            run.queue.put_nowait(Progress(fraction=0.0))
            await self._require(run.job.model)
            async with contextlib.aclosing(self.generate(run)) as events:
                async for event in events:
                    if run.cancelled:
                        continue
                    if isinstance(event, Done):
                        run.state = RunState.DONE
                        self.child.settled()
                    run.queue.put_nowait(event)
            if not run.ended:
                error = EngineError("The engine ended without a result. The tokens are returned.")
        except TesseraError as caught:
            error = caught
        except asyncio.CancelledError:
            error = Lost()
            raise
        except Exception as caught:
            log.exception("child_engine_bug", engine=self.name)
            error = EngineError(f"The engine failed ({type(caught).__name__}). The tokens are returned.")
        finally:
            if not run.ended:
                run.state = RunState.FAILED
            self._going.remove(run)
            run.queue.put_nowait(_End(error=error))

    async def follow(self, run: ChildRun, op: str, **arguments: Any) -> AsyncGenerator[frames.Frame, None]:
        """The frames of a call, to its very end: the slot is free when the subprocess is. None come after a cancel."""
        if run.cancelled:
            return
        run.call = await self.child.begin(op, **arguments)
        if run.cancelled:
            await run.call.cancel()
        async with contextlib.aclosing(run.call.frames()) as answers:
            async for frame in answers:
                if not run.cancelled:
                    yield frame

    def _cancel(self, run: ChildRun) -> None:
        run.cancelled = True
        run.state = RunState.CANCELLED
        if run.task is not None:
            # Its reader leaves within the second; the slot stays taken until the subprocess has let go.
            asyncio.get_running_loop().call_later(LEAVE_AFTER_S, run.queue.put_nowait, _End())
            self._do(self._see_it_end(run))
            if run.call is not None:
                self._do(run.call.cancel())

    async def _see_it_end(self, run: ChildRun) -> None:
        assert run.task is not None
        await asyncio.wait({run.task}, timeout=DEAF_AFTER_S)
        if not run.task.done():
            log.warning("child_deaf_to_cancel", engine=self.name)
            self.child.kill()

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        chore = asyncio.create_task(work)
        self._chores.add(chore)
        chore.add_done_callback(self._chores.discard)

    def _forget_old(self) -> None:
        ended = [key for key, run in self._runs.items() if run.ended]
        for key in ended[: max(0, len(ended) - REMEMBERED_RUNS)]:
            del self._runs[key]

"""The worker: wraps any engine with start, watch, report, cancel, ack, the outcome manifest and the timeouts.

One per Serve deployment, the same for all engines. Runs belong to it: a scheduler that dies and comes back finds them
with ``report`` and hears of their outcomes again until it acknowledges them. It never touches Postgres; bytes go to the
artifact store and only what was measured of them goes on. ``deployments/app.py`` makes it a Serve deployment.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import time
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import structlog

from tessera.engine import Chunk, Done, Engine, EngineJob, InputFile, Output, Preview, Progress, RunState
from tessera.errors import (
    BadOutput,
    Busy,
    EngineError,
    InvalidInput,
    StorageFull,
    Stuck,
    TesseraError,
    UnsupportedMedia,
)
from tessera.jobs import EventType, Kind
from tessera.media import Media, inspect, thumbnail
from tessera.ports import ArtifactPort, LiveEvent, StoredFile
from tessera.runs import (
    Ending,
    Outcome,
    RunInfo,
    RunKey,
    RunSpec,
    StartAnswer,
    WatchBatch,
    WorkerReport,
    manifest_name,
    outcome_to_bytes,
)

log = structlog.get_logger(__name__)

HEARTBEAT_S = 2.0  # a quarter of the time after which the scheduler calls a silent worker away
FLUSH_S = 0.1  # ephemeral events leave about 10 times a second and job: more than an eye follows
PREVIEW_EVERY_S = 0.5
CANCEL_GRACE_S = 10.0  # a run that was cancelled and has not ended by then is abandoned as stuck
RECONCILE_TIMEOUT_S = 2.0  # less than the scheduler's own timeout of the call, so that it gets an answer
MODELS_TIMEOUT_S = 1.0  # a heartbeat waits for it
MANIFEST_AFTER_S = 1.0  # a shorter run without files is cheaper to run again than to write down
MAX_UNACKED = 10_000
# What a backend still has of a lost process's run: it can be attached to, and is not submitted again.
ATTACHABLE = frozenset({RunState.PENDING, RunState.RUNNING, RunState.DONE})
MAKES_FILES = frozenset({Kind.IMAGE, Kind.VIDEO, Kind.SPEECH, Kind.MUSIC})


@dataclass
class _Run:
    spec: RunSpec
    task: asyncio.Task[None] | None = None
    started: float = field(default_factory=time.monotonic)
    last_event: float = field(default_factory=time.monotonic)
    fraction: float = 0.0
    cancel_asked: bool = False
    stuck: bool = False
    outcome: Outcome | None = None
    text_sent: int = 0
    pending_text: list[str] = field(default_factory=list)
    pending_progress: Progress | None = None
    last_preview: float = 0.0
    has_manifest: bool = False


class Worker:
    """Runs jobs on one engine, at most ``slots`` at a time. All methods are safe to repeat."""

    def __init__(
        self, *, name: str, engine: Engine, artifacts: ArtifactPort, slots: int, models: Sequence[str]
    ) -> None:
        self.name = name
        self.instance = uuid4().hex
        self._engine = engine
        self._artifacts = artifacts
        self._slots = slots
        self._models = tuple(models)
        self._runs: dict[RunKey, _Run] = {}
        self._watchers: set[asyncio.Queue[WatchBatch]] = set()
        self._dirty: set[RunKey] = set()
        self._flusher: asyncio.Task[None] | None = None
        self._closing = False
        self._resident: tuple[str, ...] = ()
        self._switching = asyncio.Lock()  # one load or unload at a time
        self._unloading: frozenset[str] = frozenset()
        self._switches: set[asyncio.Task[None]] = set()

    # ------------------------------------------------------------------ what the scheduler calls

    async def report(self) -> WorkerReport:
        """What this worker is and every run it knows."""
        health = await self._engine.probe()
        await self._look_at_models()
        return WorkerReport(
            name=self.name,
            instance=self.instance,
            slots=self._slots,
            models=self._models,
            runs=[RunInfo(job_id=k[0], attempt=k[1], outcome=run.outcome) for k, run in self._runs.items()],
            healthy=health.ok,
            message=health.message,
            resident=self._resident,
        )

    async def start(self, specs: Sequence[RunSpec]) -> list[StartAnswer]:
        """Start runs and return at once. A run that is known already is left alone."""
        return [self._start(spec) for spec in specs]

    def _start(self, spec: RunSpec) -> StartAnswer:
        if spec.key in self._runs:
            return StartAnswer.KNOWN
        going = sum(1 for run in self._runs.values() if run.outcome is None)
        if going >= self._slots or self._closing or len(self._runs) >= MAX_UNACKED or spec.model in self._unloading:
            return StartAnswer.BUSY
        run = _Run(spec)
        self._runs[spec.key] = run
        run.task = asyncio.create_task(self._supervise(run), name=f"run-{spec.job_id}.{spec.attempt}")
        if self._flusher is None:
            self._flusher = asyncio.create_task(self._flush_loop(), name="flusher")
        return StartAnswer.STARTED

    async def adopt(self, specs: Sequence[RunSpec]) -> list[StartAnswer]:
        """Take up runs that the backend still has from a lost process of this worker, each under its own attempt."""
        return await asyncio.gather(*(self._adopt(spec) for spec in specs))

    async def _adopt(self, spec: RunSpec) -> StartAnswer:
        if spec.key in self._runs:
            return StartAnswer.KNOWN
        try:
            async with asyncio.timeout(RECONCILE_TIMEOUT_S):
                state = await self._engine.reconcile(*spec.key)
        except (EngineError, OSError) as error:  # a TimeoutError is an OSError
            # Nobody knows: to call it lost would run it a second time beside itself.
            log.warning("adoption_unanswered", job_id=str(spec.job_id), attempt=spec.attempt, why=str(error))
            return StartAnswer.BUSY
        if state not in ATTACHABLE:
            return StartAnswer.LOST
        answer = self._start(spec)
        log.info("run_adopted", job_id=str(spec.job_id), attempt=spec.attempt, state=state, answer=answer)
        return answer

    async def ensure(self, model: str) -> None:
        """Load a model; returns once it is resident. Raises EngineError. It goes on when the caller leaves."""
        await self._switch(self._load(model), name=f"load-{model}")

    async def release(self, models: Sequence[str] | None = None) -> None:
        """Unload models, None: all. Raises Busy, with nothing unloaded, when a run uses one of them."""
        await self._switch(self._unload(self._models if models is None else models), name="unload")

    async def _switch(self, work: Coroutine[Any, Any, None], *, name: str) -> None:
        """A load or an unload belongs to the worker: half of one, by a caller that hangs up, would be neither."""
        task = asyncio.create_task(work, name=name)
        self._switches.add(task)
        task.add_done_callback(self._switched)
        await asyncio.shield(task)

    def _switched(self, task: asyncio.Task[None]) -> None:
        self._switches.discard(task)
        if not task.cancelled() and (failure := task.exception()) is not None:
            log.warning("switch_failed", switch=task.get_name(), why=str(failure))  # its caller may have left

    async def _load(self, model: str) -> None:
        async with self._switching:
            started = time.monotonic()
            try:
                await self._engine.ensure(model)
            finally:
                await self._look_at_models()
            log.info("model_loaded", model=model, seconds=round(time.monotonic() - started, 3))

    async def _unload(self, models: Sequence[str]) -> None:
        async with self._switching:
            used = {run.spec.model for run in self._runs.values() if run.outcome is None}.intersection(models)
            if used:
                raise Busy(f"{', '.join(sorted(used))} cannot be unloaded: a run uses it. Nothing was unloaded.")
            self._unloading = frozenset(models)  # a run that came now would find its model gone
            try:
                await self._engine.release(models)
            finally:
                self._unloading = frozenset()
                await self._look_at_models()
            log.info("models_unloaded", resident=self._resident)

    async def _look_at_models(self) -> None:
        """Ask the engine what is resident; the watch streams hear of it with their next item."""
        with contextlib.suppress(EngineError, OSError):  # a TimeoutError is an OSError
            async with asyncio.timeout(MODELS_TIMEOUT_S):
                found = tuple((await self._engine.models()).resident)
            if found != self._resident:
                self._resident = found
                self._tell(self._batch())

    async def cancel(self, keys: Sequence[RunKey]) -> None:
        """Ask the engine to stop runs; their outcome comes on the watch stream. Unknown ones are told as cancelled."""
        for key in keys:
            run = self._runs.get(key)
            if run is None:
                # Not of this process, or acknowledged long ago. The backend may still have it from a lost process.
                await self._cancel_in_backend(key)
                self._tell(self._batch(outcomes=[Outcome(job_id=key[0], attempt=key[1], ending=Ending.CANCELLED)]))
            elif run.outcome is None and not run.cancel_asked:
                run.cancel_asked = True
                await self._engine.cancel(*key)

    async def _cancel_in_backend(self, key: RunKey) -> None:
        try:
            async with asyncio.timeout(RECONCILE_TIMEOUT_S):
                await self._engine.cancel(*key)
        except (EngineError, OSError) as error:  # a TimeoutError is an OSError
            log.warning("cancel_unanswered", job_id=str(key[0]), attempt=key[1], why=str(error))

    async def ack(self, keys: Sequence[RunKey]) -> None:
        """The outcomes are durable in Postgres: forget them and their manifests."""
        for key in keys:
            run = self._runs.get(key)
            if run is None or run.outcome is None:
                continue
            del self._runs[key]
            if run.has_manifest:
                with contextlib.suppress(TesseraError):
                    await self._artifacts.delete_manifest(manifest_name(*key))

    async def watch(self) -> AsyncIterator[WatchBatch]:
        """Every outcome not yet acknowledged, then all that happens; an empty batch at least every 2 s."""
        queue: asyncio.Queue[WatchBatch] = asyncio.Queue()
        await self._look_at_models()
        self._watchers.add(queue)
        try:
            ended = [run.outcome for run in self._runs.values() if run.outcome is not None]
            yield self._batch(outcomes=ended)
            while True:
                try:
                    async with asyncio.timeout(HEARTBEAT_S):
                        batch = await queue.get()
                except TimeoutError:
                    await self._look_at_models()
                    yield self._batch()
                    continue
                events, outcomes = list(batch.events), list(batch.outcomes)
                while not queue.empty():  # whatever else is there travels in the same item
                    more = queue.get_nowait()
                    events += more.events
                    outcomes += more.outcomes
                yield self._batch(events=events, outcomes=outcomes)
        finally:
            self._watchers.discard(queue)

    async def healthy(self) -> bool:
        """Whether the engine answers its probe."""
        return (await self._engine.probe()).ok

    async def close(self) -> None:
        """End: cancel what runs, and its jobs are found lost and run again. What outlives this process is left alone:
        the next one adopts it."""
        self._closing = True
        going = [run for run in self._runs.values() if run.outcome is None]
        detached = False
        with contextlib.suppress(Exception):
            async with asyncio.timeout(2):
                detached = (await self._engine.capacity()).detached
        for run in going:
            if not detached:
                with contextlib.suppress(Exception):
                    async with asyncio.timeout(2):
                        await self._engine.cancel(*run.spec.key)
            if run.task is not None:
                run.task.cancel()
        for switch in self._switches:
            switch.cancel()
        await asyncio.gather(*(run.task for run in going if run.task), *self._switches, return_exceptions=True)
        if self._flusher is not None:
            self._flusher.cancel()

    # ------------------------------------------------------------------ one run

    async def _supervise(self, run: _Run) -> None:
        """Drive one run to its outcome, whatever the engine does."""
        spec = run.spec
        structlog.contextvars.bind_contextvars(
            job_id=str(spec.job_id), attempt=spec.attempt, request_id=spec.request_id, worker=self.name
        )
        work = asyncio.create_task(self._run(run))
        watchdog = asyncio.create_task(self._watchdog(run))
        try:
            await asyncio.wait({work, watchdog}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                work.cancel()
                await asyncio.wait({work}, timeout=1)
            outcome = self._outcome(run, work)
        except asyncio.CancelledError:
            work.cancel()
            raise
        finally:
            watchdog.cancel()
        if self._writes_manifest(run, outcome):
            try:
                await self._artifacts.put_manifest(manifest_name(*spec.key), outcome_to_bytes(outcome))
                run.has_manifest = True
            except Exception:
                # Without it the run would only be repeated if this process and the scheduler both died now.
                log.exception("manifest_not_written")
        self._flush(run)
        run.outcome = outcome
        log.info("run_ended", ending=outcome.ending, seconds=round(time.monotonic() - run.started, 3))
        self._tell(self._batch(outcomes=[outcome]))

    def _outcome(self, run: _Run, work: asyncio.Task[Outcome | None]) -> Outcome:
        key: dict[str, Any] = {"job_id": run.spec.job_id, "attempt": run.spec.attempt, "executed": run.fraction}
        if run.stuck or not work.done() or work.cancelled():
            return Outcome(**key, ending=Ending.FAILED, error=_error(Stuck()))
        failure = work.exception()
        if failure is None:
            outcome = work.result()
            if outcome is not None:
                return outcome
            if run.cancel_asked:
                return Outcome(**key, ending=Ending.CANCELLED)
            return Outcome(**key, ending=Ending.FAILED, error=_error(BadOutput("The engine stopped without a result.")))
        if run.cancel_asked and isinstance(failure, EngineError):
            return Outcome(**key, ending=Ending.CANCELLED)
        if isinstance(failure, TesseraError):
            return Outcome(**key, ending=Ending.FAILED, error=_error(failure))
        log.error("engine_bug", exc_info=failure)
        return Outcome(**key, ending=Ending.FAILED, error=_error(EngineError()))

    async def _run(self, run: _Run) -> Outcome | None:
        """The engine's events up to its Done; None when its iterator ended without one."""
        spec = run.spec
        try:
            job = EngineJob(
                id=spec.job_id,
                kind=spec.kind,
                model=spec.model,
                input={name: value for name, value in spec.input.items() if not name.startswith("_")},
                files=await self._files(spec.input.get("_files", {})),
            )
        except StorageFull:
            raise
        except TesseraError as error:
            raise InvalidInput(
                f"An input file can no longer be read ({error.message}). The tokens are returned; upload it again."
            ) from error
        files: list[StoredFile] = []
        async with contextlib.aclosing(self._engine.run(job, spec.attempt)) as events:  # type: ignore[type-var]
            async for event in events:
                run.last_event = time.monotonic()
                match event:
                    case Progress():
                        run.fraction = max(run.fraction, min(1.0, event.fraction))
                        run.pending_progress = replace(event, fraction=run.fraction)
                        self._dirty.add(spec.key)
                    case Chunk():
                        run.pending_text.append(event.text)
                        self._dirty.add(spec.key)
                        if event.offset == 0:
                            self._flush(run)  # the first words at once
                    case Preview():
                        self._preview(run, event)
                    case Output():
                        files.append(await self._store(event))
                    case Done():
                        run.fraction = 1.0
                        if not files and spec.kind in MAKES_FILES:
                            raise BadOutput("The engine said that it was done and delivered no file.")
                        return Outcome(
                            job_id=spec.job_id,
                            attempt=spec.attempt,
                            ending=Ending.COMPLETED,
                            output=dict(event.output),
                            files=files,
                            cost_units=event.cost_units,
                            asked=spec.input.get("count"),
                            executed=1.0,
                        )
        return None

    async def _files(self, named: Mapping[str, Mapping[str, str]]) -> dict[str, InputFile]:
        return {
            name: InputFile(media_type=file["media_type"], data=await self._artifacts.get(file["sha256"]))
            for name, file in named.items()
        }

    async def _store(self, output: Output) -> StoredFile:
        """Bytes first, into the artifact store; from here on only what was measured of them."""
        found, small = await asyncio.to_thread(_examine, output)
        return StoredFile(
            sha256=await self._artifacts.put(output.data),
            media_type=output.media_type,
            bytes=len(output.data),
            width=output.width or found.width,
            height=output.height or found.height,
            duration_s=round(seconds, 3) if (seconds := output.duration_s or found.duration_s) else None,
            thumbnail_sha256=await self._artifacts.put(small) if small is not None else None,
        )

    async def _watchdog(self, run: _Run) -> None:
        """Return when the run must be given up: too long in all, silent for too long, or deaf to a cancel."""
        spec = run.spec
        cancelled_at: float | None = None
        while True:
            await asyncio.sleep(0.25)
            now = time.monotonic()
            if run.cancel_asked:
                cancelled_at = cancelled_at or now
                if now - cancelled_at > CANCEL_GRACE_S:
                    log.warning("run_deaf_to_cancel")
                    return
            elif now - run.started > spec.timeout_s or now - run.last_event > spec.no_progress_s:
                log.warning("run_stuck", seconds=round(now - run.started, 1))
                run.stuck = run.cancel_asked = True
                with contextlib.suppress(Exception):
                    async with asyncio.timeout(CANCEL_GRACE_S):
                        await self._engine.cancel(*spec.key)

    # ------------------------------------------------------------------ telling

    def _preview(self, run: _Run, preview: Preview) -> None:
        now = time.monotonic()
        if now - run.last_preview < PREVIEW_EVERY_S:
            return
        run.last_preview = now
        data = {"media_type": preview.media_type, "data_base64": base64.b64encode(preview.data).decode()}
        self._tell(self._batch(events=[self._event(run, EventType.PREVIEW, data)]))

    async def _flush_loop(self) -> None:
        while True:
            await asyncio.sleep(FLUSH_S)
            for key in list(self._dirty):
                run = self._runs.get(key)
                if run is not None:
                    self._flush(run)

    def _flush(self, run: _Run) -> None:
        """Send what has gathered of one run's progress and text."""
        self._dirty.discard(run.spec.key)
        events = []
        if run.pending_progress is not None:
            progress, run.pending_progress = run.pending_progress, None
            events.append(
                self._event(run, EventType.PROGRESS, {"fraction": round(progress.fraction, 4), "note": progress.note})
            )
        if run.pending_text:
            text, run.pending_text = "".join(run.pending_text), []
            events.append(self._event(run, EventType.CHUNK, {"offset": run.text_sent, "text": text}))
            run.text_sent += len(text)
        if events:
            self._tell(self._batch(events=events))

    def _event(self, run: _Run, kind: EventType, data: Mapping[str, Any]) -> LiveEvent:
        return LiveEvent(job_id=run.spec.job_id, attempt=run.spec.attempt, type=kind, at=datetime.now(UTC), data=data)

    def _batch(self, *, events: Sequence[LiveEvent] = (), outcomes: Sequence[Outcome] = ()) -> WatchBatch:
        return WatchBatch(
            instance=self.instance,
            events=events,
            outcomes=outcomes,
            running=self._going(),
            resident=self._resident,
        )

    def _tell(self, batch: WatchBatch) -> None:
        for queue in self._watchers:
            queue.put_nowait(batch)

    def _going(self) -> tuple[RunKey, ...]:
        return tuple(key for key, run in self._runs.items() if run.outcome is None)

    def _writes_manifest(self, run: _Run, outcome: Outcome) -> bool:
        return outcome.ending is Ending.COMPLETED and (
            bool(outcome.files) or time.monotonic() - run.started > MANIFEST_AFTER_S
        )


def _examine(output: Output) -> tuple[Media, bytes | None]:
    """Measure an engine's file and make its small picture; raises BadOutput when it is not what it says it is."""
    try:
        found = inspect(output.data)
    except UnsupportedMedia as error:
        raise BadOutput(f"The engine's file cannot be read: {error.message}") from error
    if found.media_type.partition("/")[0] != output.media_type.partition("/")[0]:
        raise BadOutput(f"The engine said {output.media_type} and delivered {found.media_type}.")
    return found, thumbnail(output.data, found.media_type)


def _error(error: TesseraError) -> dict[str, Any]:
    return {"code": error.code, "message": error.message, "retryable": error.retryable}

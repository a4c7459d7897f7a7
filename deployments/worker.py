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
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import structlog

from deployments.engine_health import EngineHealth
from deployments.worker_runs import Run, ended_without_done, failed, failure_of, outcome_of
from tessera.engine import (
    BatchEngine,
    Chunk,
    Done,
    Engine,
    EngineEvent,
    EngineJob,
    InputFile,
    Output,
    Preview,
    Progress,
    RunState,
)
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
from tessera.logs import bind
from tessera.media.inspecting import TEXT_TYPES, Media, inspect, thumbnail
from tessera.pace import Pace
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
WATCHDOG_S = 0.25
GAP_S = 0.005  # between two items of a watch stream while outcomes stream in (tessera/pace.py)
# What a backend still has of a lost process's run: it can be attached to, and is not submitted again.
ATTACHABLE = frozenset({RunState.PENDING, RunState.RUNNING, RunState.DONE})
_News = tuple[Sequence[LiveEvent], Sequence[Outcome]]
MAKES_FILES = frozenset({Kind.IMAGE, Kind.VIDEO, Kind.SPEECH, Kind.MUSIC})


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
        self._runs: dict[RunKey, Run] = {}
        self._watchers: set[asyncio.Queue[_News]] = set()
        self._dirty: set[RunKey] = set()
        self._loops: list[asyncio.Task[None]] = []
        self._beside: set[asyncio.Task[None]] = set()
        self._going_count = 0
        self._batch_max = 1  # until the engine has said what it takes
        self._closing = False
        self._resident: tuple[str, ...] = ()
        self._health = EngineHealth(engine, self._tell)
        self._probing: asyncio.Task[None] | None = None
        self._switching = asyncio.Lock()  # one load or unload at a time
        self._unloading: frozenset[str] = frozenset()
        self._switches: set[asyncio.Task[None]] = set()

    # ------------------------------------------------------------------ what the scheduler calls

    async def report(self) -> WorkerReport:
        """What this worker is and every run it knows."""
        health = await self._engine.probe()
        await self._look_at_models()
        await self._look_at_capacity()
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
        """Start runs and return at once. A run that is known already is left alone.

        Those of one model go to the engine together, as many as it takes in one call.
        """
        answers: list[StartAnswer] = []
        of_model: dict[str, list[Run]] = {}
        for spec in specs:
            answer, run = self._accept(spec)
            answers.append(answer)
            if run is not None:
                of_model.setdefault(spec.model, []).append(run)
        for runs in of_model.values():
            for first in range(0, len(runs), self._batch_max):
                self._begin(runs[first : first + self._batch_max])
        return answers

    def _start(self, spec: RunSpec) -> StartAnswer:
        answer, run = self._accept(spec)
        if run is not None:
            self._begin([run])
        return answer

    def _accept(self, spec: RunSpec) -> tuple[StartAnswer, Run | None]:
        """The answer to a start, and the run that is to begin."""
        if spec.key in self._runs:
            return StartAnswer.KNOWN, None
        full = self._going_count >= self._slots or len(self._runs) >= MAX_UNACKED
        if full or self._closing or spec.model in self._unloading:
            return StartAnswer.BUSY, None
        run = self._runs[spec.key] = Run(spec)
        self._going_count += 1
        return StartAnswer.STARTED, run

    def _begin(self, runs: Sequence[Run]) -> None:
        first = runs[0].spec
        work = self._supervise(runs[0]) if len(runs) == 1 else self._supervise_batch(runs)
        task = asyncio.create_task(work, name=f"run-{first.job_id}.{first.attempt}")
        for run in runs:
            run.task = task
        if not self._loops:
            self._loops = [
                asyncio.create_task(self._flush_loop(), name="flusher"),
                asyncio.create_task(self._watchdog(), name="watchdog"),
            ]

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
                self._tell()

    async def _look_at_capacity(self) -> None:
        """How many jobs the engine takes in one call. Whoever does not say takes one."""
        if isinstance(self._engine, BatchEngine):
            with contextlib.suppress(EngineError, OSError):  # a TimeoutError is an OSError
                async with asyncio.timeout(MODELS_TIMEOUT_S):
                    self._batch_max = max(1, (await self._engine.capacity()).batch_max)

    async def cancel(self, keys: Sequence[RunKey]) -> None:
        """Ask the engine to stop runs; their outcome comes on the watch stream. Unknown ones are told as cancelled."""
        for key in keys:
            run = self._runs.get(key)
            if run is None:
                # Not of this process, or acknowledged long ago. The backend may still have it from a lost process.
                await self._cancel_in_backend(key)
                self._tell(outcomes=[Outcome(job_id=key[0], attempt=key[1], ending=Ending.CANCELLED)])
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
        queue: asyncio.Queue[_News] = asyncio.Queue()
        pace = Pace(GAP_S)
        await self._look_at_models()
        await self._look_at_capacity()
        if self._probing is None and not self._closing:
            self._probing = asyncio.create_task(self._health.watch(), name="probe")
            self._beside.add(self._probing)
        self._watchers.add(queue)
        try:
            ended = [run.outcome for run in self._runs.values() if run.outcome is not None]
            yield self._batch(outcomes=ended)
            while True:
                try:
                    async with asyncio.timeout(HEARTBEAT_S):
                        news = await queue.get()
                except TimeoutError:
                    await self._look_at_models()
                    yield self._batch()
                    continue
                await pace.pause()
                events, outcomes = list(news[0]), list(news[1])
                while not queue.empty():  # whatever else is there travels in the same item
                    more = queue.get_nowait()
                    events += more[0]
                    outcomes += more[1]
                pace.round(len(outcomes))
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
        tasks = {run.task for run in going if run.task is not None}
        await asyncio.gather(*tasks, *self._switches, return_exceptions=True)
        for task in (*self._loops, *self._beside):
            task.cancel()

    # ------------------------------------------------------------------ one run

    async def _supervise(self, run: Run) -> None:
        """Drive one run to its outcome, whatever the engine does."""
        spec = run.spec
        bind(job_id=str(spec.job_id), attempt=spec.attempt, request_id=spec.request_id, worker=self.name)
        work = asyncio.create_task(self._run(run))
        try:
            waited: set[asyncio.Future[Any]] = {work, run.given_up}
            await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                work.cancel()
                await asyncio.wait({work}, timeout=1)
        except asyncio.CancelledError:
            work.cancel()
            raise
        await self._end(run, outcome_of(run, work))

    async def _supervise_batch(self, runs: Sequence[Run]) -> None:
        """Drive runs that the engine has in one call; each ends when the engine says so, or when it is given up."""
        bind(worker=self.name)
        work = asyncio.create_task(self._run_batch(runs))
        try:
            while (left := [run for run in runs if run.outcome is None]) and not work.done():
                waited: set[asyncio.Future[Any]] = {work, *(run.given_up for run in left)}
                await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
                for run in left:
                    if run.given_up.done() and run.outcome is None:
                        await self._end(run, failed(run, Stuck()))
            if not work.done():
                work.cancel()
                await asyncio.wait({work}, timeout=1)
        except asyncio.CancelledError:
            work.cancel()
            raise
        for run in runs:
            if run.outcome is None:
                await self._end(run, outcome_of(run, work))

    async def _end(self, run: Run, outcome: Outcome) -> None:
        """The outcome is known: written down where that is worth it, and told."""
        if self._writes_manifest(run, outcome):
            try:
                await self._artifacts.put_manifest(manifest_name(*run.spec.key), outcome_to_bytes(outcome))
                run.has_manifest = True
            except Exception:
                # Without it the run would only be repeated if this process and the scheduler both died now.
                log.exception("manifest_not_written", job_id=str(run.spec.job_id))
        self._flush(run)
        run.outcome = outcome
        self._going_count -= 1
        log.info(
            "run_ended",
            job_id=str(run.spec.job_id),
            attempt=run.spec.attempt,
            ending=outcome.ending,
            seconds=round(time.monotonic() - run.started, 3),
        )
        self._tell(outcomes=[outcome])

    async def _run(self, run: Run) -> Outcome | None:
        """The engine's events up to its Done; None when its iterator ended without one."""
        job = await self._job(run.spec)
        if run.cancel_asked:
            return None  # the engine was asked before it knew of the run
        async with contextlib.aclosing(self._engine.run(job, run.spec.attempt)) as events:  # type: ignore[type-var]
            async for event in events:
                outcome = await self._take(run, event)
                if outcome is not None:
                    return outcome
        return None

    async def _run_batch(self, runs: Sequence[Run]) -> None:
        """All the events of one call, each to its run; a run that has ended hears nothing more."""
        assert isinstance(self._engine, BatchEngine)
        jobs: list[tuple[EngineJob, int]] = []
        by_id: dict[UUID, Run] = {}
        for run in runs:
            if run.cancel_asked:  # the engine was asked before it knew of the run
                await self._end(run, ended_without_done(run))
                continue
            try:
                jobs.append((await self._job(run.spec), run.spec.attempt))
                by_id[run.spec.job_id] = run
            except TesseraError as error:  # its files: the others have theirs
                await self._end(run, failure_of(run, error))
        if not jobs:
            return
        async with contextlib.aclosing(self._engine.run_batch(jobs)) as events:  # type: ignore[type-var]
            async for job_id, event in events:
                run = by_id[job_id]
                if run.outcome is not None:
                    continue
                if event is None:
                    await self._end(run, ended_without_done(run))
                    continue
                try:
                    if isinstance(event, TesseraError):
                        raise event
                    outcome = await self._take(run, event)
                except TesseraError as error:  # the engine's, or of an output that is bad or cannot be stored
                    outcome = failure_of(run, error)
                if outcome is not None:
                    await self._end(run, outcome)

    async def _job(self, spec: RunSpec) -> EngineJob:
        """The job as an engine gets it. Raises InvalidInput for a file that is gone, or StorageFull."""
        try:
            files = await self._files(spec.input["_files"]) if "_files" in spec.input else {}
        except StorageFull:
            raise
        except TesseraError as error:
            raise InvalidInput(
                f"An input file can no longer be read ({error.message}). The tokens are returned; upload it again."
            ) from error
        return EngineJob(
            id=spec.job_id,
            kind=spec.kind,
            model=spec.model,
            input={name: value for name, value in spec.input.items() if not name.startswith("_")},
            files=files,
        )

    async def _take(self, run: Run, event: EngineEvent) -> Outcome | None:
        """One event of a run; the outcome when it was the last."""
        spec = run.spec
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
                run.files.append(await self._store(event))
            case Done():
                run.fraction = 1.0
                if not run.files and spec.kind in MAKES_FILES:
                    raise BadOutput("The engine said that it was done and delivered no file.")
                return Outcome(
                    job_id=spec.job_id,
                    attempt=spec.attempt,
                    ending=Ending.COMPLETED,
                    output=dict(event.output),
                    files=run.files,
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

    async def _watchdog(self) -> None:
        """Give up what runs for too long in all, is silent for too long, or is deaf to a cancel."""
        while True:
            await asyncio.sleep(WATCHDOG_S)
            now = time.monotonic()
            for run in list(self._runs.values()):
                if run.outcome is None and not run.given_up.done():
                    self._look_after(run, now)

    def _look_after(self, run: Run, now: float) -> None:
        spec = run.spec
        which = {"job_id": str(spec.job_id), "attempt": spec.attempt, "request_id": spec.request_id}
        if run.cancel_asked:
            run.cancelled_at = run.cancelled_at or now
            if now - run.cancelled_at > CANCEL_GRACE_S:
                log.warning("run_deaf_to_cancel", **which)
                run.given_up.set_result(None)
        elif now - run.started > spec.timeout_s or now - run.last_event > spec.no_progress_s:
            log.warning("run_stuck", seconds=round(now - run.started, 1), **which)
            run.stuck = run.cancel_asked = True
            task = asyncio.create_task(self._cancel_stuck(spec.key))  # beside: an engine that hangs may not answer
            self._beside.add(task)
            task.add_done_callback(self._beside.discard)

    async def _cancel_stuck(self, key: RunKey) -> None:
        with contextlib.suppress(Exception):
            async with asyncio.timeout(CANCEL_GRACE_S):
                await self._engine.cancel(*key)

    # ------------------------------------------------------------------ telling

    def _preview(self, run: Run, preview: Preview) -> None:
        now = time.monotonic()
        if now - run.last_preview < PREVIEW_EVERY_S:
            return
        run.last_preview = now
        data = {"media_type": preview.media_type, "data_base64": base64.b64encode(preview.data).decode()}
        self._tell(events=[self._event(run, EventType.PREVIEW, data)])

    async def _flush_loop(self) -> None:
        while True:
            await asyncio.sleep(FLUSH_S)
            for key in list(self._dirty):
                run = self._runs.get(key)
                if run is not None:
                    self._flush(run)

    def _flush(self, run: Run) -> None:
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
            self._tell(events=events)

    def _event(self, run: Run, kind: EventType, data: Mapping[str, Any]) -> LiveEvent:
        return LiveEvent(job_id=run.spec.job_id, attempt=run.spec.attempt, type=kind, at=datetime.now(UTC), data=data)

    def _batch(self, *, events: Sequence[LiveEvent] = (), outcomes: Sequence[Outcome] = ()) -> WatchBatch:
        return WatchBatch(
            instance=self.instance,
            events=events,
            outcomes=outcomes,
            running=self._going(),
            resident=self._resident,
            away=self._health.away,
        )

    def _tell(self, *, events: Sequence[LiveEvent] = (), outcomes: Sequence[Outcome] = ()) -> None:
        for queue in self._watchers:
            queue.put_nowait((events, outcomes))

    def _going(self) -> tuple[RunKey, ...]:
        return tuple(key for key, run in self._runs.items() if run.outcome is None)

    def _writes_manifest(self, run: Run, outcome: Outcome) -> bool:
        return outcome.ending is Ending.COMPLETED and (
            bool(outcome.files) or time.monotonic() - run.started > MANIFEST_AFTER_S
        )


def _examine(output: Output) -> tuple[Media, bytes | None]:
    """Measure an engine's file and make its small picture; raises BadOutput when it is not what it says it is."""
    if output.media_type in TEXT_TYPES:
        try:
            output.data.decode()
        except UnicodeDecodeError as error:
            raise BadOutput(f"The engine said {output.media_type} and delivered what is no text.") from error
        return Media(media_type=output.media_type), None
    try:
        found = inspect(output.data)
    except UnsupportedMedia as error:
        raise BadOutput(f"The engine's file cannot be read: {error.message}") from error
    if found.media_type.partition("/")[0] != output.media_type.partition("/")[0]:
        raise BadOutput(f"The engine said {output.media_type} and delivered {found.media_type}.")
    return found, thumbnail(output.data, found.media_type)

"""ComfyUI as an Engine: which prompt stands for which attempt, one at a time, cancelled exactly, found again.

An attempt's prompt has the id ``backend_id(job, attempt)``. The server keeps it whatever becomes of this process: a new
one attaches to what waits or runs, and collects what has ended. Before a new prompt is sent, those that were cancelled
or given up are confirmed gone; the server's interrupt is global, and could hit the next one.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing, suppress
from typing import Any
from uuid import UUID, uuid4

import structlog

from deployments.comfyui import binding, failures, pictures
from deployments.comfyui.attempts import STATE_OF, Attempt, forget_old, retrieved, shielded
from deployments.comfyui.binding import Bound, Expected
from deployments.comfyui.client import BadAnswer, ComfyClient, Found, PromptState, Refused, ServerAway, Stats, file_refs
from deployments.comfyui.outputs import output_of, verify
from deployments.comfyui.progress import ProgressTracker
from deployments.comfyui.run import GOING, Cancelled, Patience, PromptRun, unless
from deployments.comfyui.selftest import tiny_job
from deployments.comfyui.stock import Stock
from deployments.comfyui.workflows import Graph, Workflow, workflow_for
from deployments.supervised import SupervisedProcess
from tessera.engine import (
    CancelState,
    Capacity,
    Done,
    EngineEvent,
    EngineJob,
    Health,
    Models,
    Output,
    Progress,
    RunState,
    backend_id,
)
from tessera.errors import (
    BadOutput,
    Busy,
    InvalidInput,
    Lost,
    ModelMissing,
    OutOfMemory,
    Stuck,
    TesseraError,
)
from tessera.manifests import Mode, Parameter

log = structlog.get_logger(__name__)

CANCEL_S = 0.7  # of the second in which a cancelled run has to end
PROBE_S = 5.0
SWEEP_S = 900.0  # after that an operator has to look: a prompt that no interrupt reaches for so long never ends
SEED_BITS = 53
AWAY = (ServerAway, BadAnswer)
ENDED = (RunState.DONE, RunState.FAILED, RunState.LOST)


class ComfyEngine:
    """An engine (``tessera.engine.Engine``) on one ComfyUI server.

    ``workflows``: of each served model. ``supervisor``: the server's process where it is ours; its runs end with it.
    """

    def __init__(
        self,
        url: str,
        workflows: Mapping[str, Mapping[Mode, Workflow]],
        *,
        patience: Patience | None = None,
        supervisor: SupervisedProcess | None = None,
        client: ComfyClient | None = None,
    ) -> None:
        self._client = client or ComfyClient(url)
        self._workflows = workflows
        self._patience = patience or Patience()
        self._supervisor = supervisor
        self._runs: OrderedDict[tuple[UUID, int], Attempt] = OrderedDict()
        self._active: list[str] = []  # the models of the runs that are being followed
        self._occupied = False  # a prompt of this process is on the server, or about to be
        self._leaving: dict[str, asyncio.Task[None]] = {}  # prompts that have to be gone before the next one
        self._resident: dict[str, None] = {}
        self._stock = Stock(self._client, workflows)
        self._stuck: str | None = None  # the prompt that showed that the server is dead
        self._stats: Stats | None = None
        self._stats_at = 0.0
        self._loading = asyncio.Lock()

    async def start(self) -> None:
        """Start the server, where it is ours. Returns at once: the probe says when it is up."""
        if self._supervisor is not None:
            self._supervisor.start()

    async def close(self) -> None:
        """Close connections, end the server where it is ours. Prompts of another's server go on."""
        sweepers = list(self._leaving.values())
        for task in sweepers:
            task.cancel()
        await asyncio.gather(*sweepers, return_exceptions=True)
        await self._client.close()
        if self._supervisor is not None:
            await self._supervisor.stop()

    # ------------------------------------------------------------------ what it is and has

    async def probe(self) -> Health:
        """Whether it is a ComfyUI, answers sensibly, and works off its queue."""
        try:
            async with asyncio.timeout(PROBE_S):
                stats = await self._look_at_stats()
                if await self._client.is_kobold():
                    text = f"{self._client.url} is a KoboldCPP, no ComfyUI."
                    return Health(ok=False, version=stats.version, message=text)
                queue = await self._client.queue()
        except TimeoutError:
            known = self._stats.version if self._stats is not None else "unknown"
            if self._active or self._occupied:
                return Health(ok=True, version=f"comfyui/{known}", message="It works, and answers late.")
            return Health(ok=False, version=known, message=self._why_away(ServerAway(why="no answer in time")))
        except AWAY as error:
            self._resident.clear()
            return Health(ok=False, version="unknown", message=self._why_away(error))
        if self._stuck is not None:
            if self._stuck in (*queue.running, *queue.pending):
                text = "ComfyUI answers and works on nothing: its worker has died. Restart it; no job was lost."
                return Health(ok=False, version=stats.version, message=text)
            self._stuck = None
        with suppress(*AWAY):
            await self._stock.look()
        lacks = "; ".join(f"{model}: {why}" for model, why in self._stock.missing.items())
        return Health(
            ok=True, version=f"comfyui/{stats.version}", message=lacks, fingerprint=f"{stats.version} {stats.device}"
        )

    async def capacity(self) -> Capacity:
        free_mib: int | None = None
        if time.monotonic() - self._stats_at > 2.0:
            with suppress(*AWAY, TimeoutError):
                async with asyncio.timeout(1.0):
                    await self._look_at_stats()
        if self._stats is not None and self._stats.device_type != "cpu":
            free_mib = self._stats.free_mib
        return Capacity(slots=1, running=len(self._active), free_mib=free_mib, detached=self._supervisor is None)

    async def models(self) -> Models:
        loads = {
            name: next((w.manifest.entry.load_s for w in modes.values() if w.manifest.entry is not None), 30.0)
            for name, modes in self._workflows.items()
        }
        return Models(
            available=[model for model in self._workflows if model not in self._stock.missing],
            resident=list(self._resident),
            switch_s=loads,
        )

    async def ensure(self, model: str) -> None:
        """Load a model by the smallest run that needs all of it; ComfyUI knows no other way."""
        modes = self._served(model)
        async with self._loading:
            if model in self._resident:
                return
            await self._slot()
            try:
                await self._warm(modes.get(Mode.TEXT) or next(iter(modes.values())))
            finally:
                self._occupied = False
            self._resident[model] = None

    async def release(self, models: Sequence[str] | None = None) -> None:
        """Unload these models. ComfyUI unloads all or none: those that go with them are told as not resident, too."""
        wanted = set(self._resident if models is None else models)
        if used := wanted.intersection(self._active):
            raise Busy(f"{', '.join(sorted(used))} cannot be unloaded: a run uses it. Nothing was unloaded.")
        if not wanted.intersection(self._resident):
            return
        if self._active or self._occupied:
            raise Busy("The image server frees its memory only between two runs. Nothing was unloaded.")
        await self._free()

    async def self_test(self) -> str:
        """A real tiny job that needs no model: says in words what it showed. Raises EngineError."""
        return await tiny_job(self._client, self._patience)

    # ------------------------------------------------------------------ runs

    def run(self, job: EngineJob, attempt: int) -> AsyncIterator[EngineEvent]:
        """Start one attempt, or attach to it where the server has it from a process before this one.

        Raises RuntimeError when this attempt was already run here and not left.
        """
        known = self._runs.get((job.id, attempt))
        if known is not None and known.state is not None:
            raise RuntimeError(f"attempt {attempt} of {job.id} was already run here")
        run = self._runs[(job.id, attempt)] = Attempt(id=backend_id(job.id, attempt), model=job.model)
        forget_old(self._runs)
        return self._events(job, run)

    async def cancel(self, job_id: UUID, attempt: int) -> CancelState:
        run = self._runs.get((job_id, attempt))
        prompt_id = backend_id(job_id, attempt)
        if run is None or run.state is None:
            return await self._cancel_unknown((job_id, attempt), prompt_id)
        if run.state is RunState.CANCELLED:
            return CancelState.CANCELLED
        if run.state in ENDED:
            return CancelState.FINISHED
        run.stopping = True
        if run.sent:
            try:
                async with asyncio.timeout(CANCEL_S):
                    found = await self._stop_once(prompt_id)
            except (*AWAY, TimeoutError):
                pass  # nobody can say now: the run ends here, and the prompt as soon as the server is back
            else:
                if found.state in (PromptState.SUCCEEDED, PromptState.FAILED):
                    run.stopping = False
                    return CancelState.FINISHED  # its reader brings the end
            self._sweep(prompt_id, run.posting)
        run.state = RunState.CANCELLED
        run.cancelled.set()
        return CancelState.CANCELLED

    async def reconcile(self, job_id: UUID, attempt: int) -> RunState:
        run = self._runs.get((job_id, attempt))
        if run is not None and run.state is not None and run.state is not RunState.LOST:
            return run.state
        return STATE_OF[(await self._client.find(backend_id(job_id, attempt))).state]

    # ------------------------------------------------------------------ one run

    async def _events(self, job: EngineJob, run: Attempt) -> AsyncIterator[EngineEvent]:
        if run.cancelled.is_set():
            return
        self._active.append(job.model)
        try:
            async with aclosing(self._driven(job, run)) as events:
                async for event in events:
                    yield event
            run.state = RunState.DONE
        except Cancelled:
            run.state = RunState.CANCELLED
        except Lost as error:
            if not run.stopping:
                run.state = RunState.LOST
                self._note(job, run, error)
                self._leave_nothing(run)
                raise
            run.state = RunState.CANCELLED
        except (GeneratorExit, asyncio.CancelledError):
            # The reader has left. The prompt goes on: whoever asks next is told what the server says of it.
            run.state = None if run.sent else RunState.LOST
            raise
        except TesseraError as error:
            run.state = RunState.FAILED
            self._note(job, run, error)
            self._leave_nothing(run)
            raise
        finally:
            self._active.remove(job.model)

    async def _driven(self, job: EngineJob, run: Attempt) -> AsyncGenerator[EngineEvent, None]:
        """The whole of a run, in order. Raises Cancelled as soon as the run is."""
        workflow = workflow_for(self._served(job.model), job.model, job.input)
        sizes = await asyncio.to_thread(pictures.measured, job)
        expected = binding.expected_of(workflow, job, sizes)
        found: Found | None = None
        until = time.monotonic() + self._patience.away_s
        while found is None:
            try:
                found = await unless(run.cancelled, self._client.find(run.id))
            except ServerAway as error:
                # It may be starting. Waiting here is cheaper for all than to come back every second.
                if time.monotonic() > until:
                    raise ServerAway(self._why_away(error), **error.details) from error
                yield Progress(fraction=0.0, note="waiting for the image server to come back")
                await unless(run.cancelled, asyncio.sleep(self._patience.poll_s))
        if found.state is not PromptState.ABSENT:
            run.sent = True
            if found.state in GOING:
                run.state = RunState.RUNNING if found.state is PromptState.RUNNING else RunState.PENDING
            log.info("comfyui_attached", prompt_id=run.id, state=found.state)
            seed = binding.seed_in(workflow, found.graph)
            async for event in self._followed(job, run, workflow, found, None, expected, seed):
                yield event
            return
        if self._occupied:
            raise Busy()
        self._occupied = True
        try:
            async for progress in self._until_free(run):
                yield progress
            given = job.input.get("seed")
            seed = int(given) if given is not None else secrets.randbits(SEED_BITS)
            stored = await unless(run.cancelled, pictures.uploaded(self._client, job, sizes, run.id))
            bound = binding.bind(workflow, job, seed=seed, pictures=stored, prefix=f"tessera/{run.id}")
            async for event in self._followed(job, run, workflow, None, bound, expected, seed):
                yield event
        finally:
            self._occupied = False

    async def _followed(
        self,
        job: EngineJob,
        run: Attempt,
        workflow: Workflow,
        found: Found | None,
        bound: Bound | None,
        expected: Expected,
        seed: int | None,
    ) -> AsyncIterator[EngineEvent]:
        """Send the prompt, unless the server has it (``found``); follow it; bring its files."""
        if found is None or found.state in GOING:
            graph = bound.graph if bound is not None else workflow.graph
            tracker = ProgressTracker(run.id, graph, workflow.manifest.outputs)
            async with PromptRun(self._client, run.id, tracker, run.cancelled, self._patience) as prompt:
                try:
                    if bound is not None:
                        await self._submit(run, workflow, bound.graph)
                    async with aclosing(prompt.follow()) as events:
                        async for event in events:
                            if prompt.running and run.state is RunState.PENDING:
                                run.state = RunState.RUNNING
                            yield event
                except (Stuck, Busy) as error:
                    await self._give_up(run, stuck=isinstance(error, Stuck))
                    raise
                found = prompt.found
        if run.cancelled.is_set():
            raise Cancelled
        match found.state:
            case PromptState.INTERRUPTED:
                # Not by us: a cancel of ours would have ended the run before. It is tried again under a new id.
                raise Lost("The image server was told by somebody else to stop this run. It is started anew.")
            case PromptState.FAILED:
                raise await self._failure(failures.of_execution(found.error, workflow.manifest))
        self._resident[job.model] = None
        files = file_refs(found.outputs, workflow.manifest.outputs)
        if len(files) < expected.count:
            raise BadOutput(
                f"The image server delivered {len(files)} of {expected.count} files. The job is tried again."
            )
        async for output in self._fetched(run, files, expected):
            yield output
        stats = self._stats or await self._look_at_stats()
        yield Done(
            output={
                "engine": f"comfyui/{stats.version}",
                "workflow": workflow.manifest.name,
                "seed": seed if Parameter.SEED in workflow.manifest.bind else None,
                **({"width": expected.width, "height": expected.height} if expected.width is not None else {}),
            }
        )

    async def _fetched(self, run: Attempt, files: Sequence[Any], expected: Expected) -> AsyncIterator[Output]:
        for index, file in enumerate(files[: expected.count]):
            data = await self._download(run, file)
            yield output_of(index, await unless(run.cancelled, asyncio.to_thread(verify, data, expected)))

    async def _download(self, run: Attempt, file: Any) -> bytes:
        """A file, asked for again while the server is away for a moment. The result exists: it is worth the wait."""
        until = time.monotonic() + self._patience.away_s
        while True:
            try:
                return await unless(run.cancelled, self._client.download(file, max_bytes=self._patience.download_bytes))
            except AWAY as error:
                if time.monotonic() > until:
                    raise Lost("The image server stopped answering before its result was fetched.") from error
                await unless(run.cancelled, asyncio.sleep(self._patience.poll_s))

    async def _until_free(self, run: Attempt) -> AsyncIterator[Progress]:
        """Wait until nothing is left on the server: what was cancelled, what a lost process began, what others run."""
        began, idle_since = time.monotonic(), None
        while True:
            queue = await unless(run.cancelled, self._client.queue())
            if not (queue.running or queue.pending or self._leaving):
                return
            now = time.monotonic()
            idle_since = (idle_since or now) if queue.pending and not queue.running else None
            if idle_since is not None and now - idle_since > self._patience.dead_s:
                self._stuck = queue.pending[0]
                raise Stuck("The image server takes jobs and begins none: it has to be restarted. Nothing was charged.")
            if now - began > self._patience.queue_s:
                raise Busy("The image server works for somebody else. The job keeps its place.")
            yield Progress(fraction=0.0, note="waiting for the image server to be free")
            await unless(run.cancelled, asyncio.sleep(min(0.5, self._patience.poll_s)))

    async def _submit(self, run: Attempt, workflow: Workflow, graph: Graph) -> None:
        """Queue the prompt; returns once the server has it. Raises what its refusal means, or Lost."""
        if run.cancelled.is_set():
            raise Cancelled
        run.sent = True
        # Half of a POST is worse than none: a cancel lets it come to its end, and the sweep then finds the prompt.
        run.posting = asyncio.create_task(self._post(run.id, workflow, graph))
        run.posting.add_done_callback(retrieved)
        try:
            await unless(run.cancelled, shielded(run.posting))
        except ServerAway as error:
            if (await self._arrived(run)) is False:
                self._sweep(run.id, None)
                raise Busy(None, why=str(error)) from error
        except BadAnswer:
            self._sweep(run.id, None)  # it may have been taken all the same
            raise
        except TesseraError:
            run.sent = False
            raise

    async def _post(self, prompt_id: str, workflow: Workflow, graph: Graph) -> None:
        try:
            node_errors = await self._client.submit(prompt_id, graph, client_id=prompt_id)
        except Refused as refused:
            # A file in a subfolder is refused by its bare name: write it as this server does, and ask once more.
            mended = await self._stock.resolved(graph)
            if mended == graph:
                raise failures.of_refusal(refused.error, refused.node_errors, workflow.manifest) from refused
            try:
                node_errors = await self._client.submit(prompt_id, mended, client_id=prompt_id)
            except Refused as again:
                raise failures.of_refusal(again.error, again.node_errors, workflow.manifest) from again
        if node_errors:
            # It runs what is left of the graph: not what was asked for.
            self._sweep(prompt_id, None)
            raise failures.of_refusal({}, node_errors, workflow.manifest)

    async def _arrived(self, run: Attempt) -> bool | None:
        """After a POST without an answer: whether the server has the prompt; None when it does not answer at all."""
        began, patience_s = time.monotonic(), self._patience.away_s
        while time.monotonic() - began < patience_s:
            try:
                found = await unless(run.cancelled, self._client.find(run.id))
                if found.state is not PromptState.ABSENT:
                    return True
                await unless(run.cancelled, asyncio.sleep(min(0.5, self._patience.poll_s)))
                return (await unless(run.cancelled, self._client.find(run.id))).state is not PromptState.ABSENT
            except AWAY as error:
                if isinstance(error, ServerAway) and error.is_late:
                    patience_s = self._patience.silent_s
                await unless(run.cancelled, asyncio.sleep(self._patience.poll_s))
        self._sweep(run.id, None)
        raise Lost("The image server stopped answering when it was given the job. It is started anew.")

    async def _give_up(self, run: Attempt, *, stuck: bool) -> None:
        self._sweep(run.id, run.posting)
        if stuck:
            self._stuck = run.id
            if self._supervisor is not None:
                self._supervisor.restart()

    async def _failure(self, error: TesseraError) -> TesseraError:
        """Before an error is told: memory is freed after OutOfMemory, so that the one retry has all of it."""
        if isinstance(error, OutOfMemory):
            with suppress(*AWAY):
                await self._free()
        return error

    # ------------------------------------------------------------------ cancelling

    async def _cancel_unknown(self, key: tuple[UUID, int], prompt_id: str) -> CancelState:
        """Cancel what another process began. Where the server is away, it goes first when it is back."""
        try:
            found = await self._client.find(prompt_id)
            if found.state is PromptState.ABSENT:
                return CancelState.UNKNOWN
            if found.state in GOING:
                found = await self._stop_once(prompt_id)
        except (*AWAY, asyncio.CancelledError):  # the caller's own patience may end it
            self._sweep(prompt_id, None)
            raise
        match found.state:
            case PromptState.SUCCEEDED | PromptState.FAILED:
                return CancelState.FINISHED
        if found.state in GOING:
            self._sweep(prompt_id, None)
        self._runs[key] = Attempt(id=prompt_id, model="", state=RunState.CANCELLED)
        return CancelState.CANCELLED

    async def _stop_once(self, prompt_id: str) -> Found:
        """Delete it if it waits, interrupt it if it runs, and say where it is then.

        A deletion does nothing to a run, and an interrupt nothing to one that waits, so both are sent. The interrupt
        only after a look: an older server heeds no id, and would stop whatever runs.
        """
        await self._client.delete_pending(prompt_id)
        if prompt_id in (await self._client.queue()).running:
            await self._client.interrupt(prompt_id)
        return await self._client.find(prompt_id)

    def _leave_nothing(self, run: Attempt) -> None:
        """The run is over for us, and the server may not know it: it did not answer, or not sensibly. The job's next
        attempt has an id of its own and would wait behind the work of this one."""
        if run.sent:
            self._sweep(run.id, run.posting)

    def _sweep(self, prompt_id: str, posting: asyncio.Task[Any] | None) -> None:
        """Stop a prompt until it is confirmed gone; no new one is sent before."""
        if prompt_id not in self._leaving:
            self._leaving[prompt_id] = asyncio.create_task(self._swept(prompt_id, posting), name=f"sweep-{prompt_id}")

    async def _swept(self, prompt_id: str, posting: asyncio.Task[Any] | None) -> None:
        until = time.monotonic() + SWEEP_S
        try:
            if posting is not None:
                await asyncio.wait({posting}, timeout=60)
            while time.monotonic() < until:
                with suppress(*AWAY):
                    if (await self._stop_once(prompt_id)).state not in GOING:
                        return
                await asyncio.sleep(min(0.5, self._patience.poll_s))
            log.error("comfyui_prompt_does_not_end", prompt_id=prompt_id, url=self._client.url)
        finally:
            self._leaving.pop(prompt_id, None)

    # ------------------------------------------------------------------ memory and models

    async def _warm(self, workflow: Workflow) -> None:
        prompt_id = str(uuid4())
        values = binding.warm_values(workflow.manifest, prefix=f"tessera/warm-{prompt_id}")
        values.update(await pictures.placeholders(self._client, workflow.manifest.bind))
        graph = binding.put(workflow, values)
        run = Attempt(id=prompt_id, model=workflow.manifest.model)
        tracker = ProgressTracker(prompt_id, graph, workflow.manifest.outputs)
        try:
            async with PromptRun(self._client, prompt_id, tracker, run.cancelled, self._patience) as prompt:
                await self._submit(run, workflow, graph)
                async for _ in prompt.follow():
                    pass
        except (Stuck, Busy) as error:
            await self._give_up(run, stuck=isinstance(error, Stuck))
            raise
        except asyncio.CancelledError:
            self._sweep(prompt_id, run.posting)
            raise
        match prompt.found.state:
            case PromptState.INTERRUPTED:
                raise Lost("Loading the model was stopped by somebody else.")
            case PromptState.FAILED:
                raise await self._failure(failures.of_execution(prompt.found.error, workflow.manifest))

    async def _slot(self) -> None:
        """Wait until no prompt of this process is on the server, and take the place."""
        while True:
            if not (self._occupied or self._leaving):
                self._occupied = True
                return
            await asyncio.sleep(min(0.2, self._patience.poll_s))

    async def _free(self) -> None:
        before = await self._look_at_stats()
        await self._client.free()
        self._resident.clear()
        if before.device_type == "cpu" or before.free_mib is None:
            return
        # It answers before it acts: wait until the memory is seen to come back, or stays as it is.
        for _ in range(10):
            await asyncio.sleep(0.2)
            now = await self._look_at_stats()
            if now.free_mib is not None and now.free_mib > before.free_mib:
                return

    def _served(self, model: str) -> Mapping[Mode, Workflow]:
        if model not in self._workflows:
            raise ModelMissing(
                f"This worker serves {', '.join(self._workflows)}, not {model}. The tokens are returned."
            )
        return self._workflows[model]

    async def _look_at_stats(self) -> Stats:
        self._stats = await self._client.stats()
        self._stats_at = time.monotonic()
        return self._stats

    # ------------------------------------------------------------------ beside it

    def _why_away(self, error: TesseraError) -> str:
        if self._supervisor is not None:
            return f"ComfyUI is not up: {self._supervisor.describe()}."
        why = error.details.get("why") or error.message
        return f"ComfyUI at {self._client.url} does not answer ({why}). Start it; jobs keep their places."

    def _note(self, job: EngineJob, run: Attempt, error: TesseraError) -> None:
        """What the operator needs to know of a failure; a person gets the message alone."""
        if not isinstance(error, InvalidInput | Busy):
            log.warning(
                "comfyui_run_failed",
                job_id=str(job.id),
                prompt_id=run.id,
                model=job.model,
                code=error.code,
                why=error.message,
                details=error.details,
            )

"""KoboldEngine: one KoboldCPP server as an engine. One run at a time, for that is how the server works.

What is believed: a run is complete when the server said how it ended; else it is lost. Our own flag says whether it was
cancelled, for the server ends an aborted run as if it had reached its length. Every run has a key of its own
(``backend_id``), and no abort is ever sent without one. A slot is free again when the server has let go of the run, not
when its reader has left.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

import structlog

from deployments.koboldcpp.answer import Answer
from deployments.koboldcpp.client import KoboldClient, Piece, Unreachable, Usage, Version
from deployments.koboldcpp.switching import KoboldModel, Switcher
from deployments.supervised import SupervisedProcess
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
    Busy,
    EngineError,
    InvalidInput,
    Lost,
    ModelMissing,
    OutOfMemory,
    Stuck,
    TesseraError,
)
from tessera.jobs import Kind

log = structlog.get_logger(__name__)

ENGINE = "koboldcpp"
REMEMBERED_RUNS = 1024
LEAVE_AFTER_S = 0.8  # of the second in which a cancelled run has to end
STOP_TIMEOUT_S = 30.0  # so long an abort is repeated; then the connection is cut, which stops the run, too
ABORT_EVERY_S = 0.25
AFTER_STOP_S = 1.0  # a server that does not notice its stop sequence itself is stopped by us
ABORT_TIMEOUT_S = 2.0  # an abort is answered at once, or by a server that is gone
BREATH_S = 10.0  # how often a run that still reads its prompt tells that it is alive
COUNT_SLACK = 2  # versions may count the last token or not
MAX_SEED = 2**31 - 1  # the server's seed is a C int, and it draws one itself for 0 and below


@dataclass(frozen=True, kw_only=True)
class Timeouts:
    """How long a run may wait: to be begun by a server that works for somebody else, for the first token (the prompt
    is read, minutes on a CPU), and for each further one."""

    queue_s: float = 60.0
    prompt_s: float = 600.0
    token_s: float = 60.0


@dataclass(kw_only=True)
class _Run:
    """One attempt as this engine knows it."""

    job: EngineJob
    key: str
    state: RunState = RunState.PENDING
    cancelled: bool = False
    queue: asyncio.Queue[EngineEvent | _End] = field(default_factory=asyncio.Queue)
    task: asyncio.Task[None] | None = None  # follows the server's stream; done means that the server has let go

    @property
    def ended(self) -> bool:
        return self.state not in (RunState.PENDING, RunState.RUNNING)


@dataclass(frozen=True, kw_only=True)
class _End:
    """The last thing in a run's queue."""

    error: TesseraError | None = None


class KoboldEngine:
    """A KoboldCPP server (``tessera.engine.Engine``).

    ``models``: those that it serves, in the order of the configuration. ``gen_limit``: what the server was started with
    as ``--genlimit``, or None.
    """

    def __init__(
        self,
        client: KoboldClient,
        models: Sequence[KoboldModel],
        *,
        timeouts: Timeouts | None = None,
        load_timeout_s: float = 600.0,
        gen_limit: int | None = None,
    ) -> None:
        self._client = client
        self._models: Mapping[str, KoboldModel] = {model.id: model for model in models}
        self._timeouts = timeouts or Timeouts()
        self._gen_limit = gen_limit
        self._switcher = Switcher(client, models, load_timeout_s=load_timeout_s)
        self._supervisor: SupervisedProcess | None = None
        self._switching = False
        self._runs: OrderedDict[tuple[UUID, int], _Run] = OrderedDict()
        self._going: list[_Run] = []  # those that the server may still work on
        self._chores: set[asyncio.Task[None]] = set()

    @property
    def switching(self) -> bool:
        """Whether a model is being loaded or unloaded: the server's port is closed then for a while."""
        return self._switching

    def supervise(self, supervisor: SupervisedProcess) -> None:
        """Have the server's process as our own: it begins with ``start`` and ends with ``close``."""
        self._supervisor = supervisor

    async def start(self) -> None:
        """Start the server, where it is ours. Returns at once: the probe says when it is up."""
        if self._supervisor is not None:
            self._supervisor.start()

    async def close(self) -> None:
        """Stop what runs, close the connections, and end the server where it is ours."""
        for run in list(self._going):
            await self._abort_soon(run)
            if run.task is not None:
                run.task.cancel()
        tasks = [run.task for run in self._going if run.task is not None]
        for chore in self._chores:
            chore.cancel()
        await asyncio.gather(*tasks, *self._chores, return_exceptions=True)
        await self._client.close()
        if self._supervisor is not None:
            await self._supervisor.stop()

    # ------------------------------------------------------------------ what it is

    async def probe(self) -> Health:
        try:
            version = await self._client.version()
            loaded = await self._switcher.loaded()
        except EngineError as error:
            if self._supervisor is not None and not self._supervisor.up:
                return Health(ok=False, version="", message=f"KoboldCPP is not up: {self._supervisor.describe()}.")
            return Health(ok=self._switching, version="", message=error.message)
        return Health(
            ok=True,
            version=f"koboldcpp/{version.version}",
            message="" if loaded else "no model is loaded",
            fingerprint=f"{version.version} {loaded or '-'}",
        )

    async def version(self) -> Version:
        """What the server says of itself. Raises EngineError."""
        return await self._client.version()

    async def capacity(self) -> Capacity:
        return Capacity(slots=1, running=len(self._going))

    async def models(self) -> Models:
        if self._switching:  # its port may be closed
            return Models(available=tuple(self._models), resident=(), switch_s=self._switcher.switch_s())
        return Models(
            available=await self._switcher.available(),
            resident=await self._switcher.resident(),
            switch_s=self._switcher.switch_s(),
        )

    async def self_test(self) -> str:
        """Have the loaded model write a few words; loads none. Raises Busy while it works, EngineError."""
        resident = await self._switcher.resident()
        if not resident:
            return "none of these models is loaded, so none was tried"
        if self._going or not (await self._client.perf()).idle:
            raise Busy()
        given = {"prompt": "Say hello.", "max_tokens": 4, "temperature": 0.0}
        job = EngineJob(id=uuid4(), kind=Kind.TEXT, model=resident[0], input=given)
        async for event in self.run(job, 1):
            if isinstance(event, Done):
                return f"{resident[0]} wrote {event.output['usage']['completion_tokens']} text tokens"
        raise EngineError(f"{resident[0]} wrote nothing.")

    async def ensure(self, model: str) -> None:
        wanted = self._served(model)
        async with self._alone():
            await self._switcher.load(wanted)

    async def release(self, models: Sequence[str] | None = None) -> None:
        names = set(self._models if models is None else models)
        used = sorted(names.intersection(run.job.model for run in self._going))
        if used:
            raise Busy(f"{', '.join(used)} cannot be unloaded: a run uses it. Nothing was unloaded.")
        if not names.intersection(await self._switcher.resident()):
            return
        async with self._alone():
            await self._switcher.unload()

    @contextlib.asynccontextmanager
    async def _alone(self) -> AsyncIterator[None]:
        """The server without runs of ours, and none that begins: a switch cuts whatever runs. Raises Busy."""
        if self._switching:
            raise Busy("Another model is being loaded. The job keeps its place.")
        if self._going:
            raise Busy("A run uses the model that is loaded. Nothing was unloaded; it is tried again afterwards.")
        self._switching = True
        try:
            yield
        finally:
            self._switching = False

    def _served(self, model: str) -> KoboldModel:
        found = self._models.get(model)
        if found is None:
            raise ModelMissing(f"This worker does not serve {model}. The tokens are returned.")
        return found

    # ------------------------------------------------------------------ runs

    def run(self, job: EngineJob, attempt: int) -> AsyncIterator[EngineEvent]:
        """Start one attempt. Raises RuntimeError when this attempt was already run here."""
        if (job.id, attempt) in self._runs:
            raise RuntimeError(f"attempt {attempt} of {job.id} was already run here")
        run = self._runs[(job.id, attempt)] = _Run(job=job, key=backend_id(job.id, attempt))
        self._forget_old()
        return self._events(run)

    async def cancel(self, job_id: UUID, attempt: int) -> CancelState:
        run = self._runs.get((job_id, attempt))
        if run is None:
            # A process before this one may have begun it. Its key is its own: whatever stops is that run.
            with contextlib.suppress(EngineError):
                if await self._client.abort(backend_id(job_id, attempt)):
                    await self._until_idle()
            return CancelState.UNKNOWN
        if run.ended:
            return CancelState.CANCELLED if run.state is RunState.CANCELLED else CancelState.FINISHED
        self._cancel(run)
        return CancelState.CANCELLED

    async def reconcile(self, job_id: UUID, attempt: int) -> RunState:
        run = self._runs.get((job_id, attempt))
        if run is not None:
            return run.state
        # The server ends a stream whose reader is gone, and what it wrote cannot be attached to: such a run is lost.
        # It is lost only once it does not go on any more, or the next attempt would stand in line behind it.
        if await self._client.abort(backend_id(job_id, attempt)):
            await self._until_idle()
        return RunState.LOST

    def _cancel(self, run: _Run) -> None:
        run.cancelled = True
        run.state = RunState.CANCELLED
        if run.task is None:
            return
        # Its reader leaves within the second; the slot stays taken until the server has let go.
        asyncio.get_running_loop().call_later(LEAVE_AFTER_S, run.queue.put_nowait, _End())
        self._do(self._stop(run))

    async def _events(self, run: _Run) -> AsyncIterator[EngineEvent]:
        if run.state is not RunState.PENDING:
            return
        try:
            self._admit(run)
        except TesseraError:
            run.state = RunState.FAILED
            raise
        run.state = RunState.RUNNING
        self._going.append(run)
        run.task = asyncio.create_task(self._follow(run), name=f"koboldcpp-{run.key}")
        try:
            while True:
                item = await run.queue.get()
                if isinstance(item, _End):
                    if item.error is not None and not run.cancelled:
                        raise item.error
                    return
                if run.cancelled:
                    continue
                yield item
        finally:
            if not run.ended:  # its reader has left: nobody wants the rest
                self._cancel(run)

    def _admit(self, run: _Run) -> None:
        self._served(run.job.model)
        if run.job.kind is not Kind.TEXT:
            raise InvalidInput(
                f"The model {run.job.model} writes text and makes no {run.job.kind.value}. Nothing was charged."
            )
        if self._switching:
            raise Busy("The model is being loaded. The job keeps its place.")
        if self._going:
            raise Busy("The language model answers somebody else. The job keeps its place.")

    async def _follow(self, run: _Run) -> None:
        """Drive one run to its end and tell it; the one place where its state ends."""
        error: TesseraError | None = None
        try:
            async for event in self._generate(run):
                if run.cancelled:
                    continue
                if isinstance(event, Done):
                    run.state = RunState.DONE
                run.queue.put_nowait(event)
            if not run.cancelled and run.state is not RunState.DONE:
                error = Lost()
        except TesseraError as caught:
            error = caught
            await self._abort_soon(run)  # whatever it was, nobody reads on
        except asyncio.CancelledError:
            error = Lost()
            raise
        finally:
            if not run.ended:
                run.state = RunState.FAILED
            self._going.remove(run)
            run.queue.put_nowait(_End(error=error))

    async def _generate(self, run: _Run) -> AsyncIterator[EngineEvent]:
        given, model = run.job.input, self._models[run.job.model]
        yield Progress(fraction=0.0, note="reading the prompt")
        try:
            await self._require(model)
            prompt = model.template.render(given)
            max_tokens, prompt_tokens = await self._fitting(model, prompt, int(given.get("max_tokens") or 256))
        except Unreachable as error:
            raise Busy(f"{error.message} It keeps its place.") from error
        wanted = self._wanted(run, model, prompt, max_tokens)
        answer = Answer(stops=wanted["stop"], max_tokens=max_tokens, prompt_tokens=prompt_tokens)
        async with contextlib.aclosing(self._read(wanted)) as pieces:
            async for piece in pieces:
                if piece is None:
                    yield Progress(fraction=answer.fraction, note="reading the prompt")
                    continue
                was_stopped = answer.stopped
                for event in answer.take(piece):
                    yield event
                if answer.stopped and not was_stopped:
                    self._do(self._stop(run, after_s=AFTER_STOP_S))
        if run.cancelled:
            return
        for event in answer.end():
            yield event
        await self._check_end(run, answer)
        usage = answer.usage or await self._counted(answer)
        if answer.server_reason == "length" and not answer.stopped:
            await self._check_length(answer, usage)
        yield Progress(fraction=1.0)
        yield Done(
            output={
                "text": answer.text,
                "finish_reason": answer.finish_reason,
                "usage": {
                    "prompt_tokens": usage.prompt_tokens,
                    "completion_tokens": usage.completion_tokens,
                    "total_tokens": usage.prompt_tokens + usage.completion_tokens,
                },
                "engine": ENGINE,
            },
            cost_units=usage.prompt_tokens + usage.completion_tokens,
        )

    async def _require(self, model: KoboldModel) -> None:
        """Raises unless this model is the one that is loaded."""
        if model.id in await self._switcher.resident():
            return
        await self._switcher.check_there(model)  # ModelMissing where its file is not
        raise EngineError(f"{model.id} is not loaded. The tokens are returned; it is loaded and the job tried again.")

    async def _fitting(self, model: KoboldModel, prompt: str, max_tokens: int) -> tuple[int, int]:
        """The tokens that may be generated, and those of the prompt. Raises InvalidInput, with the numbers, where they
        do not fit: the server would cut the beginning off and say nothing."""
        context = await self._client.context_tokens()
        prompt_tokens = await self._client.count_tokens(prompt)
        if prompt_tokens == 0 and prompt:  # what it says of a text that is longer than it can take
            raise InvalidInput(
                f"The text is too long for {model.id}: {len(prompt)} characters are more than KoboldCPP can count, and "
                f"{context} text tokens fit. Nothing was charged; shorten the prompt.",
                context_tokens=context,
            )
        if prompt_tokens + max_tokens > context:
            raise InvalidInput(
                f"The text is too long for {model.id}: {prompt_tokens} text tokens of prompt and {max_tokens} to "
                f"generate are {prompt_tokens + max_tokens}, and {context} fit. Nothing was charged; shorten the "
                "prompt or 'max_tokens'.",
                prompt_tokens=prompt_tokens,
                max_tokens=max_tokens,
                context_tokens=context,
            )
        # The server keeps a fifth of the context for the prompt, however short that is.
        longest = context - max(min(context - 4, 16), int(context * 0.2))
        return min(max_tokens, longest, self._gen_limit or max_tokens), prompt_tokens

    def _wanted(self, run: _Run, model: KoboldModel, prompt: str, max_tokens: int) -> dict[str, Any]:
        given = run.job.input
        seed = given.get("seed")
        temperature = given.get("temperature")
        top_p = given.get("top_p")
        return {
            "temperature": 0.7 if temperature is None else float(temperature),
            "top_p": 1.0 if top_p is None else float(top_p),
            "top_k": 0,
            "min_p": 0.0,
            "rep_pen": 1.0,
            **model.sampling,
            "prompt": prompt,
            "max_tokens": max_tokens,
            "max_length": max_tokens,
            "seed": server_seed(seed),
            "stop": [*(given.get("stop") or ()), *model.template.stops],
            "trim_stop": False,  # we have to see the sequence: the server says 'length' when one ended the run
            "ban_eos_token": False,
            "genkey": run.key,
        }

    async def _read(self, wanted: Mapping[str, Any]) -> AsyncGenerator[Piece | None, None]:
        """The pieces of the run's stream; None now and then while the server reads the prompt.

        It is read to its end even after a cancel: the end says that the server has let go. Raises Busy, Stuck, Lost.
        """
        begun = False
        limits = self._timeouts
        async with contextlib.aclosing(self._client.stream(wanted)) as stream:
            while True:
                began = time.monotonic()
                limit_s = limits.token_s if begun else limits.queue_s + limits.prompt_s
                step = asyncio.ensure_future(anext(stream, None))
                try:
                    while not (await asyncio.wait({step}, timeout=min(BREATH_S, limit_s)))[0]:
                        if time.monotonic() - began >= limit_s:
                            raise Stuck(f"KoboldCPP wrote nothing for {limit_s:g} s. The tokens are returned.")
                        if not begun:
                            yield None
                    piece = step.result()
                except Unreachable as error:
                    raise Busy(error.message) from error
                finally:
                    if not step.done():
                        step.cancel()
                        await asyncio.gather(step, return_exceptions=True)
                if piece is None:
                    return
                begun = True
                yield piece

    async def _check_end(self, run: _Run, answer: Answer) -> None:
        """Raises where the stream's end is not the end of a run."""
        model = run.job.model
        if answer.server_reason is None and not answer.stopped:
            raise Lost("KoboldCPP ended in the middle of the text. The job is started anew.")
        if answer.server_reason == "error":
            if model not in await self._switcher.resident():
                raise EngineError(f"{model} was unloaded under the run. The tokens are returned.")
            raise OutOfMemory(
                f"KoboldCPP could not compute this text with {model}, most often for want of memory. "
                "The tokens are returned; shorten the prompt."
            )

    async def _check_length(self, answer: Answer, usage: Usage) -> None:
        """Raises Lost where a run that ended as if by its length did not reach it: then somebody has stopped it."""
        generated = usage.completion_tokens
        if generated >= answer.max_tokens - COUNT_SLACK:
            return
        if (await self._client.perf()).stopped:  # at a sequence that the text does not show
            answer.server_reason = "stop"
            return
        if not generated:
            raise Lost("KoboldCPP ended the run without a word. The job is started anew.")
        raise Lost(
            f"Somebody stopped the run in KoboldCPP after {generated} of {answer.max_tokens} text tokens. "
            "The job is started anew."
        )

    async def _counted(self, answer: Answer) -> Usage:
        """The server's count from its counters: for versions that do not send one with the stream."""
        try:
            generated = (await self._client.perf()).last_tokens
            if generated <= 0 and answer.text:  # not of this run: its process was replaced
                generated = max(1, await self._client.count_tokens(answer.text) - 1)
        except Unreachable as error:
            raise Lost("KoboldCPP ended before it said how much it wrote. The job is started anew.") from error
        return Usage(prompt_tokens=answer.prompt_tokens, completion_tokens=generated)

    # ------------------------------------------------------------------ stopping

    async def _abort_soon(self, run: _Run) -> None:
        with contextlib.suppress(EngineError, TimeoutError):
            async with asyncio.timeout(ABORT_TIMEOUT_S):
                await self._client.abort(run.key)

    async def _stop(self, run: _Run, *, after_s: float = 0.0) -> None:
        """Have the server let go of a run: abort it by its key, again and again, until its stream has ended."""
        assert run.task is not None
        if after_s:
            await asyncio.wait({run.task}, timeout=after_s)
        deadline = time.monotonic() + STOP_TIMEOUT_S
        while not run.task.done() and time.monotonic() < deadline:
            # An abort that comes before the run itself does nothing, so one is not enough.
            await self._abort_soon(run)
            await asyncio.wait({run.task}, timeout=ABORT_EVERY_S)
        if not run.task.done():
            log.warning("koboldcpp_deaf_to_abort", key=run.key)
            run.task.cancel()  # cuts the connection
            await asyncio.gather(run.task, return_exceptions=True)

    async def _until_idle(self) -> None:
        """Wait until the server works for nobody. Raises Busy when it does not come to rest."""
        deadline = time.monotonic() + STOP_TIMEOUT_S
        while True:
            perf = await self._client.perf()
            if perf.idle and perf.queue == 0:
                return
            if time.monotonic() > deadline:
                raise Busy("KoboldCPP still works on a run that was stopped. The job keeps its place.")
            await asyncio.sleep(0.1)

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        chore = asyncio.create_task(work)
        self._chores.add(chore)
        chore.add_done_callback(self._chores.discard)

    def _forget_old(self) -> None:
        ended = [key for key, run in self._runs.items() if run.ended]
        for key in ended[: max(0, len(ended) - REMEMBERED_RUNS)]:
            del self._runs[key]


def server_seed(seed: object) -> int:
    """The seed as the server takes it: 1…2³¹−1, the same for the same; drawn at random for None."""
    if seed is None:
        return 1 + secrets.randbelow(MAX_SEED - 1)
    return 1 + int(str(seed)) % (MAX_SEED - 1)

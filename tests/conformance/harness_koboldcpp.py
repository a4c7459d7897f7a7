"""KoboldCPP: its fake, and the real server of ``KOBOLDCPP_URL`` with whatever model it has loaded."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Mapping, Sequence

from deployments.koboldcpp.client import KoboldClient
from deployments.koboldcpp.engine import KoboldEngine, Timeouts
from deployments.koboldcpp.switching import KoboldModel
from deployments.koboldcpp.templates import templates
from tessera.engine import Engine, EngineJob, backend_id
from tests.conformance.cases import until
from tests.conformance.harness import Harness, HarnessKind, HarnessMaker, NotRun
from tests.conformance.real_server import RealServer, real_server
from tests.conformance.test_preview import job
from tests.fakes.koboldcpp import FakeKobold

PROMPT = "Tell a long story about a lighthouse."
CHATML = templates()["chatml"]


class KoboldHarness(Harness):
    """The fake, started with an admin folder that has two models' files."""

    name = "koboldcpp (fake)"
    kind = HarnessKind.FAKE
    models_are_loaded_first = True
    tokens = (24, 8000)  # of the quick and the slow job

    async def open(self) -> None:
        self.server = FakeKobold(
            model="first", options=["first.gguf", "second.kcpps"], endless=True, token_s=0.01, load_s=0.1
        )
        self._engines: list[KoboldEngine] = []
        await self.server.start()

    async def close(self) -> None:
        for engine in self._engines:
            await engine.close()
        await self.server.close()

    def engine(self) -> Engine:
        engine = KoboldEngine(
            KoboldClient(self.server.url),
            [
                KoboldModel(id="text-first", template=CHATML, file="first.gguf", load_s=1),
                KoboldModel(id="text-second", template=CHATML, file="second.kcpps", name="second", load_s=1),
                KoboldModel(id="text-gone", template=CHATML, file="gone.gguf"),
            ],
            timeouts=Timeouts(queue_s=5, prompt_s=30, token_s=5),
            load_timeout_s=20,
        )
        self._engines.append(engine)
        return engine

    def quick(self) -> EngineJob:
        return self._asked("text-first", self.tokens[0])

    def slow(self) -> EngineJob:
        return self._asked("text-first", self.tokens[1])

    def bad(self) -> EngineJob:
        """A prompt that does not fit."""
        return dataclasses.replace(self.quick(), input={**self.quick().input, "prompt": "word " * 20_000})

    def of_missing_model(self) -> EngineJob:
        return self._asked("text-gone", self.tokens[0])

    async def submissions(self, job: EngineJob, attempt: int) -> int | None:
        return sum(run.key == backend_id(job.id, attempt) for run in self.server.runs)

    async def kill(self) -> None:
        await self.server.kill()

    async def start(self) -> None:
        await self.server.start()

    async def delay_answers(self, seconds: float) -> None:
        self.server.delay_s = seconds

    async def answer_garbage(self, on: bool) -> None:
        self.server.garbage = on

    async def break_connections(self) -> None:
        await until(self._is_writing)  # before that there is no connection to break
        self.server.cut()

    async def run_out_of_memory_once(self) -> None:
        self.server.fail_runs = 1

    async def deliver_too_much_once(self) -> None:
        self.server.flood_runs = 1

    async def _is_writing(self) -> bool:
        return any(run.text and not run.ended for run in self.server.runs)

    @staticmethod
    def _asked(model: str, max_tokens: int) -> EngineJob:
        return job("text", model=model, prompt=PROMPT, max_tokens=max_tokens, seed=7)


class _Shared(KoboldEngine):
    """An engine on a server that is not ours to switch: its memory is left alone."""

    async def release(self, models: Sequence[str] | None = None) -> None:
        if self._going:
            await super().release(models)
        raise NotRun("this server's model is not ours to unload")


class RealKobold(RealServer, KoboldHarness):
    """A server that was given by its address. It is only asked, never switched, for it may not be ours alone; one that
    was given by its command, too, is killed, and its model is unloaded where its admin folder has it under its name."""

    name = "koboldcpp (real)"
    kind = HarnessKind.REAL
    probe_path = "/api/extra/version"

    async def open(self) -> None:
        self._engines = []
        self._address = await self.connect()
        client = KoboldClient(self._address)
        try:
            await client.version()
            loaded, context = await client.model(), await client.context_tokens()
            options = await client.options() if self.process is not None else []
        finally:
            await client.close()
        if loaded is None:
            raise AssertionError(f"{self.url} has no model loaded")
        self._name = loaded
        self._file = next((file for file in options if file.rpartition(".")[0] == loaded), None)
        longest = max(16, int(context * 0.7) - 64)
        self.tokens = (min(16, longest), longest)
        # A server of ours that was restarted has the model that its command names.
        self.models_are_loaded_first = self._file is not None

    async def close(self) -> None:
        for engine in self._engines:
            await engine.close()
        await self.line.cut()

    def engine(self) -> Engine:
        # A model without training may end at once: its end mark is banned, so that a slow job is slow.
        always = {"ban_eos_token": True}
        plain = templates()["none"]
        first = KoboldModel(id="text-first", template=plain, file=self._file, name=self._name, sampling=always)
        gone = KoboldModel(id="text-gone", template=plain, file="no-such-model.gguf")
        make = _Shared if self._file is None else KoboldEngine
        engine = make(KoboldClient(self._address), [first, gone])
        self._engines.append(engine)
        return engine

    async def submissions(self, job: EngineJob, attempt: int) -> int | None:
        return None

    async def break_connections(self) -> None:
        await asyncio.sleep(0.3)  # until it writes: before that there is no connection to break
        await RealServer.break_connections(self)

    async def deliver_too_much_once(self) -> None:
        raise NotRun("this server cannot be made to deliver too much")


def harnesses(environ: Mapping[str, str]) -> list[HarnessMaker]:
    """The fake, and the real one where it is named."""
    server = real_server(environ, "KOBOLDCPP")
    return [KoboldHarness, *([type("RealKoboldCpp", (RealKobold,), server)] if server is not None else [])]

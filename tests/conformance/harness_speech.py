"""Speech: ONNX Runtime and espeak-ng in their subprocess, on a network that is made here and hums."""

from __future__ import annotations

import dataclasses
import functools
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from deployments.speech.engine import SpeechEngine, SpeechModel
from tessera.engine import Engine, EngineJob
from tests.conformance.cases import until
from tests.conformance.harness import Harness, HarnessKind, HarnessMaker
from tests.conformance.test_preview import job
from tests.fakes.tiny_kokoro import make_tiny_kokoro

NO_SERVER = "a pipe to a process of its own is its server"
# Hours of speech: an hour is hummed in seconds.
LONG = " ".join(f"The keeper of the lighthouse counted {number} ships that night." for number in range(330))


@functools.cache
def tiny_network() -> tuple[Path, Path]:
    """The network's file and its voices', made once."""
    return make_tiny_kokoro(Path(tempfile.mkdtemp(prefix="tiny-kokoro-")))


class SpeechHarness(Harness):
    """One slot; the network has to be loaded first."""

    name = "speech"
    kind = HarnessKind.LIBRARY
    models_are_loaded_first = True
    without: ClassVar[Mapping[str, str]] = {
        "a slow server is waited for": NO_SERVER,
        "garbage answers never end as done": "tests/unit/test_child_process.py has it",
        "a broken connection ends no other run": NO_SERVER,
        "out of memory is told as that": "tests/unit/test_child_process.py has it",
        "an oversized output is refused": "speech is as long as its text",
    }

    async def open(self) -> None:
        self._engines: list[SpeechEngine] = []

    async def close(self) -> None:
        for engine in self._engines:
            await engine.close()

    def engine(self) -> Engine:
        network, voices = tiny_network()
        engine = SpeechEngine(
            [
                SpeechModel(id="kokoro", network=network, voices=voices),
                SpeechModel(id="kokoro-gone", network=network.parent / "gone.onnx", voices=voices, source="there"),
            ],
            threads=1,
        )
        self._engines.append(engine)
        return engine

    def quick(self) -> EngineJob:
        return job("speech", model="kokoro", text="Good morning. The kettle is on.", voice="alloy", format="opus")

    def slow(self) -> EngineJob:
        return job("speech", model="kokoro", text=LONG[:20_000], voice="af_heart", speed=0.25, format="mp3")

    def bad(self) -> EngineJob:
        return dataclasses.replace(self.quick(), input={**self.quick().input, "voice": "af_nobody"})

    def of_missing_model(self) -> EngineJob:
        return dataclasses.replace(self.quick(), model="kokoro-gone")

    async def kill(self) -> None:
        for engine in self._engines:
            if engine.child.pid is not None:
                engine.child.kill()
                await until(functools.partial(self._is_dead, engine))

    @staticmethod
    async def _is_dead(engine: SpeechEngine) -> bool:
        return not engine.child.alive

    async def start(self) -> None:
        """It is started again when it is needed."""


def harnesses(environ: Mapping[str, str]) -> list[HarnessMaker]:
    """The library needs no server."""
    return [SpeechHarness]

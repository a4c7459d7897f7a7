"""Whisper: the real library in its subprocess, on a model with random weights that is made here."""

from __future__ import annotations

import dataclasses
import functools
import io
import tempfile
import wave
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from deployments.whisper.engine import WhisperEngine, WhisperModel
from tessera.engine import Engine, EngineJob, InputFile
from tests.conformance.cases import until
from tests.conformance.harness import Harness, HarnessKind, HarnessMaker
from tests.conformance.test_preview import job, recording
from tests.fakes.tiny_whisper import make_tiny_whisper

NO_SERVER = "a pipe to a process of its own is its server"
# Few tokens; and a model without training convinces itself of nothing, so it would try all temperatures: quick jobs ask
# for the last one only.
FAST: Mapping[str, Any] = {"beam_size": 1, "max_new_tokens": 16, "vad_filter": False}


@functools.cache
def tiny_model() -> Path:
    """The model's folder, made once."""
    return make_tiny_whisper(Path(tempfile.mkdtemp(prefix="tiny-whisper-")))


@functools.cache
def long_recording() -> InputFile:
    """An hour of noise, in 28 MB."""
    noise = np.random.default_rng(1).integers(60, 196, 8000 * 60, dtype=np.uint8)
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(1)
        writer.setframerate(8000)
        writer.writeframes(np.tile(noise, 60).tobytes())
    return InputFile(media_type="audio/wav", data=buffer.getvalue())


class WhisperHarness(Harness):
    """One slot; its models have to be loaded first."""

    name = "whisper"
    kind = HarnessKind.LIBRARY
    models_are_loaded_first = True
    without: ClassVar[Mapping[str, str]] = {
        "a slow server is waited for": NO_SERVER,
        "garbage answers never end as done": "tests/unit/test_child_process.py has it",
        "a broken connection ends no other run": NO_SERVER,
        "out of memory is told as that": "tests/unit/test_whisper.py reads it from the library's own words",
        "an oversized output is refused": "a transcript is as long as its recording",
    }

    async def open(self) -> None:
        self._engines: list[WhisperEngine] = []

    async def close(self) -> None:
        for engine in self._engines:
            await engine.close()

    def engine(self) -> Engine:
        folder = tiny_model()
        engine = WhisperEngine(
            [
                WhisperModel(id="whisper-quick", folder=folder, options=FAST),
                WhisperModel(id="whisper-gone", folder=folder / "gone", source="https://example.org/whisper"),
            ],
            device="cpu",
            threads=1,
        )
        self._engines.append(engine)
        return engine

    def quick(self) -> EngineJob:
        given: dict[str, Any] = {"word_timestamps": True, "temperature": 1.0, "formats": ["srt", "vtt", "json", "txt"]}
        return job("transcription", model="whisper-quick", files={"upload": recording(6)}, upload="upl_1", **given)

    def slow(self) -> EngineJob:
        return job("transcription", model="whisper-quick", files={"upload": long_recording()}, upload="upl_1")

    def bad(self) -> EngineJob:
        broken = InputFile(media_type="audio/wav", data=b"RIFF and then nothing that is sound" * 9)
        return dataclasses.replace(self.quick(), files={"upload": broken})

    def of_missing_model(self) -> EngineJob:
        return dataclasses.replace(self.quick(), model="whisper-gone")

    async def kill(self) -> None:
        for engine in self._engines:
            if engine.child.pid is not None:
                engine.child.kill()
                await until(functools.partial(self._is_dead, engine))

    @staticmethod
    async def _is_dead(engine: WhisperEngine) -> bool:
        return not engine.child.alive

    async def start(self) -> None:
        """It is started again when it is needed."""


def harnesses(environ: Mapping[str, str]) -> list[HarnessMaker]:
    """The library needs no server."""
    return [WhisperHarness]

"""SpeechEngine: Kokoro's voices and espeak-ng's, in a subprocess of the replica's own."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from deployments import espeak
from deployments.child.engine import ChildEngine, ChildRun
from deployments.child.process import ChildProcess
from deployments.preview.speech import resolve_voice
from deployments.speech.voices import offered, resolve
from tessera.engine import Done, EngineEvent, Output, Progress
from tessera.errors import InvalidInput, ModelMissing
from tessera.jobs import Kind

KOKORO, ESPEAK = "kokoro", "espeak-ng"
PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


@dataclass(frozen=True, kw_only=True)
class SpeechModel:
    """A model that a worker serves. ``network`` None: espeak-ng alone, which is always there.

    ``voices``: the file, or the folder, of the network's voices. ``source``: where both can be had, for messages.
    """

    id: str
    network: Path | None = None
    voices: Path | None = None
    source: str = ""
    load_s: float = 3.0


class SpeechEngine(ChildEngine):
    """Text to speech (``tessera.engine.Engine``). ``device``: cpu or cuda; ``threads``: of the CPU, 0 for all."""

    name = "speech"
    title = "speech process"

    def __init__(
        self,
        models: Sequence[SpeechModel],
        *,
        slots: int = 1,
        device: str = "cpu",
        threads: int = 0,
        loads_itself: frozenset[str] = frozenset(),
    ) -> None:
        super().__init__(
            ChildProcess("deployments.speech.child", name=self.title),
            [model.id for model in models],
            kind=Kind.SPEECH,
            slots=slots,
            loads_itself=loads_itself,
        )
        self._known = {model.id: model for model in models}
        self._provider = PROVIDERS[device]
        self._threads = threads
        self._voices: dict[str, list[str]] = {}

    def version(self) -> str:
        return f"{self.name}/onnxruntime {version('onnxruntime')}, espeakng-loader {version('espeakng-loader')}"

    def load_s(self, model: str) -> float:
        return self._known[model].load_s

    def check_files(self, model: str) -> None:
        known = self._known[model]
        wanted = [path for path in (known.network, known.voices) if path is not None]
        missing = [path for path in wanted if not path.exists()]
        if missing:
            source = f" They are at {known.source}." if known.source else ""
            names = " and ".join(str(path) for path in missing)
            raise ModelMissing(
                f"The files of {model} are missing: {names}.{source} The tokens are returned; choose another model."
            )

    def load_arguments(self, model: str) -> Mapping[str, Any]:
        known = self._known[model]
        return {
            "path": None if known.network is None else str(known.network),
            "voices": None if known.voices is None else str(known.voices),
            "threads": self._threads,
            "provider": self._provider,
        }

    def note_loaded(self, model: str, said: Mapping[str, Any]) -> None:
        self._voices[model] = list(said["voices"])

    async def self_test(self) -> str:
        """Have espeak-ng say a word; loads no network. Raises EngineError."""
        await self.child.start()
        plain = {"voice": None, "language": "en", "pitch": espeak.DEFAULT_PITCH, "speed": 1.0, "format": "opus"}
        said = await self.child.call("speak", model="", text="Ready.", **plain)
        return f"espeak-ng said a word of {said['duration_s']:.1f} s"

    async def generate(self, run: ChildRun) -> AsyncGenerator[EngineEvent, None]:
        given = run.job.input
        name = str(given.get("voice") or "en")
        voice, language, pitch = self._voice(run.job.model, name)
        file, end, reached = bytearray(), None, 0.0
        async for head, body in self.follow(
            run,
            "speak",
            model=run.job.model,
            text=str(given["text"]),
            voice=voice,
            language=language,
            pitch=pitch,
            speed=float(given.get("speed") or 1.0),
            format=str(given.get("format") or "wav"),
        ):
            if "end" in head:
                end = head["end"]
            elif head["event"] == "file":
                file += body
            else:
                reached = max(reached, min(0.98, float(head["fraction"]) * 0.98))
                yield Progress(fraction=reached, note="speaking")
        if end is None:
            return
        yield Progress(fraction=1.0)
        yield Output(index=0, media_type=end["media_type"], data=bytes(file), duration_s=end["duration_s"])
        output: dict[str, Any] = {
            "duration_s": round(float(end["duration_s"]), 3),
            "voice": voice or name,
            "format": given.get("format") or "wav",
            "characters": len(str(given["text"])),
            "engine": KOKORO if voice is not None else ESPEAK,
        }
        yield Done(output=output if voice is not None else {**output, "preview": True})

    def _voice(self, model: str, name: str) -> tuple[str | None, str, int]:
        """The network's voice (None: espeak-ng's), the language, and espeak-ng's pitch. Raises InvalidInput."""
        there = self._voices.get(model, [])
        voice = resolve(name, there) if there else None
        if voice is not None:
            return voice.name, voice.language, espeak.DEFAULT_PITCH
        if there and name.strip().lower()[1:3] in ("f_", "m_"):
            some = ", ".join(offered(there)[:12])
            raise InvalidInput(f"{model} has no voice {name[:64]!r}. Nothing was charged; it has {some} and others.")
        # A language that the network does not speak: better a plain voice than none.
        language, pitch = resolve_voice(name)
        return None, language, pitch

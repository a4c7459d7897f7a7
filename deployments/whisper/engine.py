"""WhisperEngine: faster-whisper in a subprocess of the replica's own, for a failure of CUDA ends the whole process."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from deployments.child.engine import ChildEngine, ChildRun
from deployments.child.process import ChildProcess
from deployments.transcripts import transcript_files
from tessera.engine import Chunk, Done, EngineEvent, EngineJob, Progress
from tessera.errors import InvalidInput, ModelMissing
from tessera.jobs import Kind

ENGINE = "faster-whisper"
# Without the tokenizer the library would download it; without the others it cannot load.
FILES = ("model.bin", "config.json", "tokenizer.json")
VOCABULARIES = ("vocabulary.json", "vocabulary.txt")
# What recordings of people need: silence makes Whisper invent words, and its own last words make it repeat them.
DEFAULTS: Mapping[str, Any] = {"vad_filter": True, "condition_on_previous_text": False, "beam_size": 5}
TEMPERATURES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)  # tried in turn where the words do not convince the model itself
MAX_PROMPT_CHARS = 800  # about as much as the model's window for it takes


@dataclass(frozen=True, kw_only=True)
class WhisperModel:
    """A model that a worker serves: a folder in CTranslate2's format. ``source``: where it can be had, for messages.

    ``options`` are the library's own for ``transcribe``, beside and above ``DEFAULTS``.
    """

    id: str
    folder: Path
    source: str = ""
    load_s: float = 10.0
    options: Mapping[str, Any] = field(default_factory=dict)


class WhisperEngine(ChildEngine):
    """Speech to text (``tessera.engine.Engine``).

    ``device``: cpu, cuda or auto; ``compute_type``: None takes int8 on a CPU and float16 on a GPU. ``threads``: of the
    CPU, 0 for as many as CTranslate2 likes.
    """

    name = ENGINE
    title = "transcription process"

    def __init__(
        self,
        models: Sequence[WhisperModel],
        *,
        slots: int = 1,
        device: str = "auto",
        compute_type: str | None = None,
        threads: int = 0,
        loads_itself: frozenset[str] = frozenset(),
    ) -> None:
        super().__init__(
            ChildProcess("deployments.whisper.child", name=self.title),
            [model.id for model in models],
            kind=Kind.TRANSCRIPTION,
            slots=slots,
            loads_itself=loads_itself,
        )
        self._folders = {model.id: model for model in models}
        self._device = device
        self._compute_type = compute_type
        self._threads = threads
        self._languages: dict[str, list[str]] = {}

    def version(self) -> str:
        return f"{ENGINE}/{version('faster-whisper')} ctranslate2/{version('ctranslate2')}"

    def load_s(self, model: str) -> float:
        return self._folders[model].load_s

    def check_files(self, model: str) -> None:
        """Raises ModelMissing. The library itself would ask a hub for what is not there."""
        known = self._folders[model]
        missing = [name for name in FILES if not (known.folder / name).is_file()]
        if not any((known.folder / name).is_file() for name in VOCABULARIES):
            missing.append(VOCABULARIES[0])
        if missing:
            source = f" They are at {known.source}." if known.source else ""
            raise ModelMissing(
                f"The files of {model} are missing: {', '.join(missing)} in {known.folder}.{source} "
                "The tokens are returned; choose another model."
            )

    def load_arguments(self, model: str) -> Mapping[str, Any]:
        return {
            "path": str(self._folders[model].folder),
            "device": self._device,
            # "auto" is the fastest that the device can do; on a CPU that is int8, on a GPU float16 or int8_float16.
            "compute_type": self._compute_type or ("int8" if self._device == "cpu" else "auto"),
            "threads": self._threads,
            "workers": self._slots,
        }

    def note_loaded(self, model: str, said: Mapping[str, Any]) -> None:
        self._languages[model] = list(said["languages"])

    async def self_test(self) -> str:
        """Start the library and ask what it sees; loads no model. Raises EngineError."""
        await self.child.start()
        said = await self.child.call("about", device=self._device)
        return f"the library starts and computes on the {said['device']} with {', '.join(said['computes'])}"

    async def generate(self, run: ChildRun) -> AsyncGenerator[EngineEvent, None]:
        given = run.job.input
        self._check(run.job)
        upload = run.job.files["upload"]
        descriptor, path = tempfile.mkstemp(prefix="tessera-recording-")  # decoded from there, never as a whole
        try:
            await asyncio.to_thread(_write, descriptor, upload.data)
            transcript = _Transcript(words_wanted=bool(given.get("word_timestamps")))
            async for head, _body in self.follow(
                run,
                "transcribe",
                model=run.job.model,
                path=path,
                language=given.get("language"),
                translate=bool(given.get("translate")),
                prompt=str(given.get("prompt") or "")[:MAX_PROMPT_CHARS],
                words=bool(given.get("word_timestamps")),
                options=self._options(run.job),
            ):
                for event in transcript.take(head):
                    yield event
            if transcript.end is None:
                return
            output = {**transcript.output(), "engine": ENGINE}
            yield Progress(fraction=1.0)
            for file in transcript_files(output, given.get("formats") or ()):
                yield file
            yield Done(output=output)
        finally:
            await asyncio.to_thread(Path(path).unlink, missing_ok=True)

    def _check(self, job: EngineJob) -> None:
        upload = job.files.get("upload")
        if upload is None or not upload.data:
            raise InvalidInput("The recording is missing or empty. Nothing was charged; upload an audio file.")
        language, known = job.input.get("language"), self._languages.get(job.model, [])
        if language is not None and known and language not in known:
            some = ", ".join(known[:12])
            raise InvalidInput(
                f"{job.model} does not know the language {language!r}. Nothing was charged; leave 'language' out, or "
                f"choose one of {some}{' …' if len(known) > 12 else ''}."
            )
        if job.input.get("translate") and known == ["en"]:
            raise InvalidInput(
                f"{job.model} knows English only and cannot translate. Nothing was charged; choose another model."
            )

    def _options(self, job: EngineJob) -> Mapping[str, Any]:
        lowest = float(job.input.get("temperature") or 0.0)
        temperatures = [lowest, *(each for each in TEMPERATURES if each > lowest)]
        return {**DEFAULTS, "temperature": temperatures, **self._folders[job.model].options}


class _Transcript:
    """What the subprocess has told so far."""

    def __init__(self, *, words_wanted: bool) -> None:
        self.end: Mapping[str, Any] | None = None
        self._segments: list[dict[str, Any]] = []
        self._words: list[dict[str, Any]] = []
        self._words_wanted = words_wanted
        self._total_s = 0.0
        self._length = 0
        self._reached = 0.0

    def take(self, head: Mapping[str, Any]) -> list[EngineEvent]:
        """The events of the next frame."""
        if "end" in head:
            self.end = head["end"]
            return []
        match head["event"]:
            case "begun":
                self._total_s = float(head["total_s"])
            case "heard":
                return self._progress(float(head["at_s"]))
            case "segment":
                return [*self._chunk(head), *self._progress(float(head["end_s"]))]
        return []

    def output(self) -> dict[str, Any]:
        """The whole transcript, as every transcription model gives it."""
        assert self.end is not None
        output: dict[str, Any] = {
            "text": "".join(segment["text"] for segment in self._segments).strip(),
            "language": self.end["language"],
            "duration_s": round(float(self.end["duration_s"]), 3),
            "segments": [{**segment, "text": segment["text"].strip()} for segment in self._segments],
        }
        if self._words_wanted:
            output["words"] = self._words
        return output

    def _chunk(self, head: Mapping[str, Any]) -> list[EngineEvent]:
        text = _storable(str(head["text"]))
        if not text.strip():
            return []
        # A model that is unsure may go back in time; subtitles may not.
        start_s = max(float(head["start_s"]), self._segments[-1]["start_s"] if self._segments else 0.0)
        end_s = max(float(head["end_s"]), start_s)
        self._segments.append({"start_s": round(start_s, 2), "end_s": round(end_s, 2), "text": text})
        self._words += [
            {
                "start_s": round(word["start_s"], 2),
                "end_s": round(max(word["start_s"], word["end_s"]), 2),
                "text": _storable(word["text"]),
            }
            for word in head["words"]
        ]
        shown = text if self._length else text.lstrip()
        chunk = Chunk(offset=self._length, text=shown)
        self._length += len(shown)
        return [chunk]

    def _progress(self, at_s: float) -> list[EngineEvent]:
        if self._total_s <= 0:
            return [Progress(fraction=self._reached, note="listening")]
        self._reached = max(self._reached, min(0.99, at_s / self._total_s))
        return [Progress(fraction=self._reached, note="listening")]


def _storable(text: str) -> str:
    return text.replace("\x00", "").encode("utf-8", "ignore").decode("utf-8")


def _write(descriptor: int, data: bytes) -> None:
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)

"""The subprocess that speaks: holds the networks, espeak-ng, and the encoders. Nothing here knows of jobs.

``python -m deployments.speech.child``. A cancel is heard between two pieces of the text, a sentence at most.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import av
import av.filter
import numpy as np
from numpy.typing import NDArray

from deployments import espeak
from deployments.child.main import Call, serve
from deployments.sound import encoder
from deployments.speech.joining import Joiner, pcm
from deployments.speech.kokoro import RATE_HZ, SPEEDS, Kokoro, check_words, phonemes_of
from deployments.speech.sentences import Pause, Piece, pieces
from tessera.errors import EngineError, InvalidInput, OutOfMemory

PIECE_CHARS = 280  # about 20 s of speech: the grain of progress and cancel
BODY_BYTES = 1 << 20

Samples = NDArray[np.float32]


class Speaker:
    """The voices of one process."""

    def __init__(self) -> None:
        self._models: dict[str, Kokoro] = {}
        self._loading = threading.Lock()

    def load(self, call: Call) -> Mapping[str, Any]:
        """``{model, path, voices, threads, provider}`` → the names of its voices; ``path`` None is espeak-ng."""
        wanted = call.head
        espeak.check()
        if wanted["path"] is None:
            return {"voices": []}
        with self._loading:
            if wanted["model"] not in self._models:
                self._models[wanted["model"]] = Kokoro(
                    Path(wanted["path"]),
                    Path(wanted["voices"]),
                    threads=wanted["threads"],
                    provider=wanted["provider"],
                )
        return {"voices": self._models[wanted["model"]].voices}

    def unload(self, call: Call) -> Mapping[str, Any]:
        """``{model}``: forget it."""
        with self._loading:
            self._models.pop(call.head["model"], None)
        return {}

    def speak(self, call: Call) -> Mapping[str, Any]:
        """``{model, text, voice, language, pitch, speed, format}`` → events ``spoken`` with a fraction and ``file``
        with bytes, then ``{media_type, duration_s, rate_hz}``. ``voice`` None is espeak-ng's of that language."""
        wanted = call.head
        text = espeak.plain(str(wanted["text"]))
        check_words(text)
        parts = pieces(text, limit=PIECE_CHARS, language=str(wanted["language"]))
        network = None if wanted["voice"] is None else self._models[wanted["model"]]
        rate_hz = espeak.SAMPLE_RATE_HZ if network is None else RATE_HZ
        speed = float(wanted["speed"])
        of_network = min(max(speed, SPEEDS[0]), SPEEDS[1])
        say = _espeak(wanted, speed, call) if network is None else _kokoro(network, wanted, of_network)
        tempo = 1.0 if network is None else speed / of_network
        made, stretched = encoder(str(wanted["format"]), rate_hz), _Tempo(tempo, rate_hz)
        samples = 0
        for sound in _spoken(call, parts, say, Joiner(rate_hz), 1.0 if network is not None else speed):
            data = pcm(stretched.add(sound))
            samples += len(data) // 2
            made.add(data)
        data = pcm(stretched.end())
        made.add(data)
        samples += len(data) // 2
        if samples == 0:
            raise InvalidInput("There is nothing in 'text' that can be spoken. Nothing was charged; send words.")
        media_type, file = made.finish()
        for start in range(0, len(file), BODY_BYTES):
            call.tell("file", body=file[start : start + BODY_BYTES])
        return {"media_type": media_type, "duration_s": samples / rate_hz, "rate_hz": rate_hz}


Say = Callable[[str], Iterator[Samples]]


def _spoken(call: Call, parts: list[Piece], say: Say, joiner: Joiner, speed: float) -> Iterator[Samples]:
    """The sound of all pieces as it is ready, told as it goes on."""
    total = max(1, sum(len(part.text) for part in parts))
    done = 0
    for part in parts:
        call.check()
        sounds = list(say(part.text))
        for index, sound in enumerate(sounds):
            pause = part.pause if index == len(sounds) - 1 else Pause.CLAUSE
            yield joiner.add(sound, pause.value / speed)
        done += len(part.text)
        call.tell("spoken", fraction=done / total)
    yield joiner.end()


def _kokoro(network: Kokoro, wanted: Mapping[str, Any], speed: float) -> Say:
    def say(text: str) -> Iterator[Samples]:
        for phonemes in phonemes_of(text, str(wanted["language"])):
            try:
                yield network.speak(phonemes, str(wanted["voice"]), speed)
            except Exception as error:  # ONNX Runtime's own classes have no common base
                said = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
                if "alloc" in said.lower() or "memory" in said.lower():
                    raise OutOfMemory(f"The voice has too little memory ({said}). The tokens are returned.") from error
                raise EngineError(f"The voice failed ({said}). The tokens are returned.") from error

    return say


def _espeak(wanted: Mapping[str, Any], speed: float, call: Call) -> Say:
    def say(text: str) -> Iterator[Samples]:
        spoken = espeak.speak(text, str(wanted["language"]), int(wanted["pitch"]), speed, call.is_cancelled)
        yield np.frombuffer(spoken, "<i2").astype(np.float32) / 32768.0

    return say


class _Tempo:
    """Makes speech faster or slower without changing its pitch: for speeds at which the network itself would slur."""

    def __init__(self, factor: float, rate_hz: int) -> None:
        self._rate_hz = rate_hz
        self._graph: av.filter.Graph | None = None
        self._at = 0
        if abs(factor - 1.0) > 0.001:
            graph = self._graph = av.filter.Graph()
            source = graph.add_abuffer(sample_rate=rate_hz, format="flt", layout="mono")
            tempo, sink = graph.add("atempo", f"{factor:.4f}"), graph.add("abuffersink")
            source.link_to(tempo)
            tempo.link_to(sink)
            graph.configure()

    def add(self, samples: Samples) -> Samples:
        if self._graph is None or not len(samples):
            return samples
        frame = av.AudioFrame.from_ndarray(samples.reshape(1, -1), format="flt", layout="mono")
        frame.sample_rate, frame.pts = self._rate_hz, self._at
        self._at += len(samples)
        self._graph.push(frame)
        return self._ready()

    def end(self) -> Samples:
        if self._graph is None:
            return np.zeros(0, np.float32)
        self._graph.push(None)
        return self._ready()

    def _ready(self) -> Samples:
        assert self._graph is not None
        parts: list[Samples] = []
        while True:
            try:
                parts.append(np.asarray(self._graph.pull().to_ndarray()[0], np.float32))
            except (av.error.BlockingIOError, av.error.EOFError):
                return np.concatenate(parts) if parts else np.zeros(0, np.float32)


def main() -> None:
    """Answer the replica until it is gone."""
    speaker = Speaker()
    serve({"load": speaker.load, "unload": speaker.unload, "speak": speaker.speak})


if __name__ == "__main__":
    main()

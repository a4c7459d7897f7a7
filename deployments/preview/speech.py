"""Speech: espeak-ng, whose library and data come in the wheel of espeakng-loader.

The library is global to the process and not re-entrant: one lock guards it, held for one sentence at a time, so that
several runs take turns and a cancel lands between sentences. It keeps the phase of its oscillators from one sentence to
the next: the same text gives the same words in the same time, not the same samples. The C interface:
https://github.com/espeak-ng/espeak-ng/blob/master/src/include/espeak-ng/speak_lib.h
"""

from __future__ import annotations

import ctypes
import io
import re
import threading
import unicodedata
import wave
from collections.abc import Iterator
from functools import cache
from typing import Any, Protocol

import av
import espeakng_loader
import numpy as np

from deployments.preview.flag import CancelFlag
from tessera.engine import Done, EngineEvent, EngineJob, Output, Progress
from tessera.errors import EngineError, InvalidInput

ENGINE = "preview-speech/1"
SAMPLE_RATE_HZ = 22_050

# name → (espeak voice, pitch 0…99, variant). The names of OpenAI's catalogue, each an English of its own colour.
VOICES: dict[str, tuple[str, int, str]] = {
    "alloy": ("en-us", 52, "f2"),
    "ash": ("en-us", 40, "m3"),
    "ballad": ("en", 46, "m1"),
    "coral": ("en-us", 60, "f4"),
    "echo": ("en-us", 44, "m7"),
    "fable": ("en", 55, "f5"),
    "nova": ("en-us", 64, "f1"),
    "onyx": ("en-us", 24, "m2"),
    "sage": ("en", 50, "f3"),
    "shimmer": ("en-us", 72, "f3"),
    "verse": ("en-us", 50, "m4"),
}

# Language tags that people write and espeak-ng names otherwise.
ALIASES = {"en-gb": "en", "en-uk": "en", "pt-pt": "pt", "zh": "cmn", "es-es": "es", "fr-fr": "fr-fr", "de-de": "de"}
SOME_VOICES = "alloy, nova, onyx, en, en-us, en-gb, de, es, fr, it, pt, ru"

_DEFAULT_PITCH = 50
_NORMAL_WPM = 175
_MIN_WPM = 80  # espeak-ng speaks no slower; the rest of a slow speed comes from gaps between the words
_SENTENCE_CHARS = 300  # spoken in a few milliseconds: the grain of progress and cancel

# From speak_lib.h.
_RETRIEVAL, _DONT_EXIT, _CHARS_UTF8 = 1, 0x8000, 1
_RATE, _PITCH, _WORD_GAP = 1, 3, 7

_lock = threading.Lock()

_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)


def check() -> None:
    """Raises EngineError where espeak-ng does not load."""
    with _lock:
        _library()


def run(job: EngineJob, flag: CancelFlag) -> Iterator[EngineEvent]:
    """Speak ``input.text``: one Output in the format asked for, then Done."""
    given = job.input
    voice, pitch = resolve_voice(str(given.get("voice") or "en"))
    text = plain(str(given["text"]))
    pieces = sentences(text)
    speed = float(given.get("speed") or 1.0)
    format_ = str(given.get("format") or "wav")
    encoder: _Encoder = _Wav() if format_ == "wav" else _Compressed(format_)
    silence, samples, done_chars, total_chars = b"", 0, 0, max(1, sum(map(len, pieces)))
    yield Progress(fraction=0.0, note="speaking")
    for piece in pieces:
        flag.check()
        spoken = _speak(piece, voice, pitch, speed, flag)
        pcm = silence + spoken if spoken else b""
        # The library leaves no pause after the last sentence of a call, and each call is one sentence here.
        silence = b"\0\0" * round(SAMPLE_RATE_HZ * (0.34 if piece[-1] in ".!?…:。！？" else 0.16) / speed)
        encoder.add(pcm)
        samples += len(pcm) // 2
        done_chars += len(piece)
        yield Progress(fraction=0.98 * done_chars / total_chars, note="speaking")
    if samples == 0:
        raise InvalidInput("There is nothing in 'text' that can be spoken. Nothing was charged; send words.")
    flag.check()
    media_type, data = encoder.finish()
    duration_s = samples / SAMPLE_RATE_HZ
    yield Progress(fraction=1.0)
    yield Output(index=0, media_type=media_type, data=data, duration_s=duration_s)
    yield Done(
        output={
            "duration_s": round(duration_s, 3),
            "voice": given.get("voice") or "en",
            "format": format_,
            "characters": len(str(given["text"])),
            "engine": ENGINE,
            "preview": True,
        }
    )


def resolve_voice(name: str) -> tuple[str, int]:
    """The espeak-ng voice and pitch for a voice's name. Raises InvalidInput, naming some that exist."""
    lowered = name.strip().lower().replace("_", "-")
    if lowered in VOICES:
        voice, pitch, variant = VOICES[lowered]
        return f"{voice}+{variant}", pitch
    # A voice's name becomes a path inside the library: nothing but names of voices may get there.
    if re.fullmatch(r"[a-z]{2,3}(-[a-z0-9]{2,8}){0,3}(\+(f[1-5]|m[1-8]|croak|klatt[2-6]?|whisper|whisperf))?", lowered):
        base, plus, variant = lowered.partition("+")
        voice = ALIASES.get(base, base) + plus + variant
        with _lock:
            if _library().espeak_SetVoiceByName(voice.encode()) == 0:
                return voice, _DEFAULT_PITCH
    raise InvalidInput(
        f"There is no voice {name[:64]!r}. Nothing was charged; choose a language or a name, such as {SOME_VOICES}."
    )


def plain(text: str) -> str:
    """The text without control characters: espeak-ng reads commands after a character 1; nothing else is special,
    because neither SSML nor phoneme mode is switched on. Line ends stay: they end a sentence."""
    return "".join(
        char if char in "\n\t" or unicodedata.category(char) not in ("Cc", "Cs", "Co") else " " for char in text
    )


def sentences(text: str) -> list[str]:
    """The text in pieces of at most 300 characters, cut at sentence ends, else at commas, else at spaces."""
    pieces: list[str] = []
    for line in re.split(r"\n+|(?<=[.!?…;])\s+|(?<=[。！？])", text):
        rest = line.strip()
        while len(rest) > _SENTENCE_CHARS:
            head = rest[:_SENTENCE_CHARS]
            cut = max(head.rfind(", "), head.rfind(": ")) + 1 or head.rfind(" ") + 1 or _SENTENCE_CHARS
            pieces.append(rest[:cut].strip())
            rest = rest[cut:].strip()
        if rest:
            pieces.append(rest)
    return [piece for piece in pieces if piece]


def pace(speed: float) -> tuple[int, int]:
    """Words per minute, and the gap between words in units of 10 ms, for a speed (1 is normal)."""
    wpm = _NORMAL_WPM * speed
    if wpm >= _MIN_WPM:
        return round(wpm), 0
    return _MIN_WPM, round(100 * (60.0 / wpm - 60.0 / _MIN_WPM))


def _speak(text: str, voice: str, pitch: int, speed: float, flag: CancelFlag) -> bytes:
    """One sentence as 22,050 Hz mono s16 samples. Raises EngineError where the library refuses."""
    pcm = bytearray()

    def take(samples: Any, count: int, _events: Any) -> int:
        if samples and count > 0:
            pcm.extend(ctypes.string_at(samples, 2 * count))
        return int(flag.is_set())  # 1 stops the synthesis

    callback = _Callback(take)
    wpm, gap = pace(speed)
    encoded = text.encode() + b"\0"
    with _lock:
        library = _library()
        library.espeak_SetSynthCallback(callback)
        library.espeak_SetVoiceByName(voice.encode())
        library.espeak_SetParameter(_RATE, wpm, 0)
        library.espeak_SetParameter(_PITCH, pitch, 0)
        library.espeak_SetParameter(_WORD_GAP, gap, 0)
        status = library.espeak_Synth(encoded, len(encoded), 0, 1, 0, _CHARS_UTF8, None, None)
        library.espeak_Synchronize()
    flag.check()
    if status != 0:
        raise EngineError(f"espeak-ng refused the text (status {status}). The tokens are returned.")
    return bytes(pcm)


@cache
def _library() -> ctypes.CDLL:
    """The loaded and initialised library. The caller holds the lock."""
    try:
        library = ctypes.CDLL(espeakng_loader.get_library_path())
    except OSError as error:
        raise EngineError(f"espeak-ng does not load: {error}") from error
    data_path = str(espeakng_loader.get_data_path()).encode()
    if library.espeak_Initialize(_RETRIEVAL, 0, data_path, _DONT_EXIT) != SAMPLE_RATE_HZ:
        raise EngineError("espeak-ng does not find its data. Install espeakng-loader again.")
    return library


class _Encoder(Protocol):
    def add(self, pcm: bytes) -> None: ...

    def finish(self) -> tuple[str, bytes]: ...


class _Wav:
    """PCM WAV: the samples as they are."""

    def __init__(self) -> None:
        self._buffer = io.BytesIO()
        self._writer = wave.open(self._buffer, "wb")  # noqa: SIM115 closed in finish; a run that is cancelled drops it
        self._writer.setnchannels(1)
        self._writer.setsampwidth(2)
        self._writer.setframerate(SAMPLE_RATE_HZ)

    def add(self, pcm: bytes) -> None:
        self._writer.writeframes(pcm)

    def finish(self) -> tuple[str, bytes]:
        self._writer.close()
        return "audio/wav", self._buffer.getvalue()


class _Compressed:
    """MP3, or Ogg Opus (always 48 kHz), encoded while it is spoken."""

    def __init__(self, format_: str) -> None:
        self._buffer = io.BytesIO()
        self._media_type = "audio/mpeg" if format_ == "mp3" else "audio/ogg"
        self._container = av.open(self._buffer, "w", format="mp3" if format_ == "mp3" else "ogg")
        codec, rate_hz, bit_rate = (
            ("libmp3lame", SAMPLE_RATE_HZ, 64_000) if format_ == "mp3" else ("libopus", 48_000, 32_000)
        )
        stream = self._container.add_stream(codec, rate=rate_hz)
        assert isinstance(stream, av.AudioStream)
        self._stream = stream
        self._stream.bit_rate = bit_rate
        self._stream.layout = "mono"
        self._resampler = av.AudioResampler(format=self._stream.format.name, layout="mono", rate=rate_hz)
        self._samples = 0

    def add(self, pcm: bytes) -> None:
        if not pcm:
            return
        array = np.frombuffer(pcm, dtype=np.int16).reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(array, format="s16", layout="mono")
        frame.sample_rate = SAMPLE_RATE_HZ
        frame.pts = self._samples
        self._samples += array.shape[1]
        for resampled in self._resampler.resample(frame):
            self._container.mux(self._stream.encode(resampled))

    def finish(self) -> tuple[str, bytes]:
        for resampled in self._resampler.resample(None):
            self._container.mux(self._stream.encode(resampled))
        self._container.mux(self._stream.encode(None))
        self._container.close()
        return self._media_type, self._buffer.getvalue()

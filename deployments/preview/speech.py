"""Speech: espeak-ng, in many languages and in eleven colours of English."""

from __future__ import annotations

import re
from collections.abc import Iterator

from deployments.espeak import DEFAULT_PITCH, SAMPLE_RATE_HZ, check, knows, pace, plain, speak
from deployments.preview.flag import CancelFlag
from deployments.sound import encoder
from tessera.engine import Done, EngineEvent, EngineJob, Output, Progress
from tessera.errors import InvalidInput

__all__ = ["ENGINE", "check", "pace", "plain", "resolve_voice", "run", "sentences"]

ENGINE = "preview-speech/1"

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

_SENTENCE_CHARS = 300  # spoken in a few milliseconds: the grain of progress and cancel


def run(job: EngineJob, flag: CancelFlag) -> Iterator[EngineEvent]:
    """Speak ``input.text``: one Output in the format asked for, then Done."""
    given = job.input
    voice, pitch = resolve_voice(str(given.get("voice") or "en"))
    text = plain(str(given["text"]))
    pieces = sentences(text)
    speed = float(given.get("speed") or 1.0)
    format_ = str(given.get("format") or "wav")
    made = encoder(format_, SAMPLE_RATE_HZ)
    silence, samples, done_chars, total_chars = b"", 0, 0, max(1, sum(map(len, pieces)))
    yield Progress(fraction=0.0, note="speaking")
    for piece in pieces:
        flag.check()
        spoken = speak(piece, voice, pitch, speed, flag.is_set)
        flag.check()
        pcm = silence + spoken if spoken else b""
        # The library leaves no pause after the last sentence of a call, and each call is one sentence here.
        silence = b"\0\0" * round(SAMPLE_RATE_HZ * (0.34 if piece[-1] in ".!?…:。！？" else 0.16) / speed)
        made.add(pcm)
        samples += len(pcm) // 2
        done_chars += len(piece)
        yield Progress(fraction=0.98 * done_chars / total_chars, note="speaking")
    if samples == 0:
        raise InvalidInput("There is nothing in 'text' that can be spoken. Nothing was charged; send words.")
    flag.check()
    media_type, data = made.finish()
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
        if knows(voice):
            return voice, DEFAULT_PITCH
    raise InvalidInput(
        f"There is no voice {name[:64]!r}. Nothing was charged; choose a language or a name, such as {SOME_VOICES}."
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

"""Music: composed and synthesised bar by bar into a WAV file, in memory that grows with the file only.

44.1 kHz stereo s16. Each bar's notes are mixed into a short buffer that slides along; a reverb convolves block by
block; the finished samples get the exact gain that puts the highest peak at -1 dBFS.
"""

from __future__ import annotations

import hashlib
import math
import random
import struct
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from deployments.preview.flag import CancelFlag
from deployments.preview.music_score import Note, Score
from deployments.preview.music_sounds import RATE_HZ, Band, Samples, texture
from deployments.preview.music_styles import plan
from tessera.engine import Done, EngineEvent, EngineJob, Output, Progress

ENGINE = "preview-music/1"

PEAK = 10 ** (-1 / 20)  # -1 dBFS
_TAIL_S = 6.0  # no sound rings longer past the end of its bar than this; what would is faded by its own envelope
_REVERB_S = 2.2
_HEADER_BYTES = 44


def check() -> None:
    """Always works: nothing but NumPy is needed."""


def run(job: EngineJob, flag: CancelFlag) -> Iterator[EngineEvent]:
    """Compose and render ``input.duration_s`` seconds: one WAV Output, then Done."""
    prompt, seed = str(job.input["prompt"]), int(job.input.get("seed") or 0)
    duration_s = float(job.input.get("duration_s") or 10.0)
    frames = round(duration_s * RATE_HZ)
    digest = hashlib.sha256(f"{seed}\n{prompt}".encode()).hexdigest()
    asked = plan(prompt, random.Random(digest))  # noqa: S311 music is no secret
    beat_s = 60.0 / asked.bpm
    bar_s = beat_s * asked.style.beats
    bars = max(1, math.ceil(duration_s / bar_s - 0.25))
    score = Score(asked, bars, digest)
    file = bytearray(_HEADER_BYTES + 4 * frames)
    file[:_HEADER_BYTES] = _header(frames)
    target = np.frombuffer(file, dtype="<i2", offset=_HEADER_BYTES).reshape(frames, 2)
    mixer = _Mixer(asked.style.wet, asked.style.texture, int(digest[:8], 16))
    written, peak = 0, 1
    yield Progress(fraction=0.0, note=f"composing {asked.style.name}")
    for bar in range(bars + math.ceil(_TAIL_S / bar_s) + 1):
        if written >= frames:
            break
        flag.check()
        start, end = round(bar * bar_s * RATE_HZ), round((bar + 1) * bar_s * RATE_HZ)
        for note in score.bar(bar) if bar < bars else ():
            mixer.add(note, beat_s)
            flag.check()
        block = mixer.take(end - start)[:, : frames - written]
        target[written : written + block.shape[1]] = np.round(block.T * 32_767)
        peak = max(peak, int(np.abs(target[written : written + block.shape[1]].astype(np.int32)).max(initial=0)))
        written += block.shape[1]
        yield Progress(fraction=0.95 * written / frames, note=f"playing bar {min(bar + 1, bars)} of {bars}")
    _finish(target, peak, flag)
    flag.check()
    yield Progress(fraction=1.0)
    yield Output(index=0, media_type="audio/wav", data=bytes(file), duration_s=frames / RATE_HZ)
    yield Done(
        output={
            "duration_s": round(frames / RATE_HZ, 3),
            "style": asked.style.name,
            "bpm": round(asked.bpm, 1),
            "scale": asked.style.scale,
            "seed": seed,
            "engine": ENGINE,
            "preview": True,
        }
    )


class _Mixer:
    """A buffer that slides along the piece: notes go in where they sound, finished samples come out in order."""

    def __init__(self, wet: float, texture_name: str, seed: int) -> None:
        self._band = Band(seed)
        self._wet = wet
        self._dry = np.zeros((2, 0), dtype=np.float32)
        self._texture = texture(texture_name, seed) if texture_name else None
        self._position = 0
        self._impulse = _impulse(seed)
        self._ringing = np.zeros((2, 0), dtype=np.float32)

    def add(self, note: Note, beat_s: float) -> None:
        """Mix a note into the bar that begins at the buffer's start."""
        sound = self._band.play(note.sound, note.pitch, note.beats * beat_s)[..., : round((_TAIL_S + 4) * RATE_HZ)]
        start = max(0, round(note.beat * beat_s * RATE_HZ))
        missing = start + sound.shape[-1] - self._dry.shape[1]
        if missing > 0:
            self._dry = np.concatenate((self._dry, np.zeros((2, missing), dtype=np.float32)), axis=1)
        angle = (note.pan + 1) * math.pi / 4
        gain = np.array([[math.cos(angle)], [math.sin(angle)]], dtype=np.float32) * np.float32(note.velocity)
        self._dry[:, start : start + sound.shape[-1]] += gain * sound

    def take(self, frames: int) -> Samples:
        """The next samples, stereo, never beyond ±1."""
        if self._dry.shape[1] < frames:
            self._dry = np.pad(self._dry, ((0, 0), (0, frames - self._dry.shape[1])))
        dry, self._dry = self._dry[:, :frames], self._dry[:, frames:]
        wet = self._reverb(dry)
        out = dry * np.float32(1 - 0.5 * self._wet) + wet * np.float32(self._wet)
        if self._texture is not None:
            at = (self._position + np.arange(frames)) % self._texture.shape[1]
            out = out + 0.35 * self._texture[:, at]
        self._position += frames
        # A soft knee: linear for quiet music, bending where many instruments meet.
        limited: Samples = np.tanh(0.62 * out).astype(np.float32)
        return limited

    def _reverb(self, dry: Samples) -> Samples:
        """Convolution with the room, block by block: what rings past the block is kept for the next."""
        total = dry.shape[1] + self._impulse.shape[1] - 1
        size = 1 << (total - 1).bit_length()
        spectrum = np.fft.rfft(dry, size, axis=1) * np.fft.rfft(self._impulse, size, axis=1)
        wet = np.fft.irfft(spectrum, size, axis=1)[:, :total].astype(np.float32)
        kept = min(self._ringing.shape[1], total)
        wet[:, :kept] += self._ringing[:, :kept]
        self._ringing = wet[:, dry.shape[1] :]
        return wet[:, : dry.shape[1]]


def _impulse(seed: int) -> Samples:
    """A room: noise that decays, its highs faster than its lows, with some early echoes."""
    rng = np.random.default_rng(seed)
    n = round(_REVERB_S * RATE_HZ)
    t = np.arange(n) / RATE_HZ
    # Part of the room is the same on both sides, so that the music keeps its middle and survives a mono speaker.
    bright = (0.6 * rng.standard_normal(n) + 0.8 * rng.standard_normal((2, n))) * np.exp(-5.0 * t)
    dark = np.cumsum(0.7 * rng.standard_normal(n) + 0.7 * rng.standard_normal((2, n)), axis=1)
    dark = (dark - np.roll(dark, 24, axis=1)) / math.sqrt(24) * np.exp(-2.9 * t)
    out = (0.5 * bright + dark) * np.clip((t - 0.012) / 0.02, 0, 1)
    for delay_s, gain in ((0.017, 5.0), (0.029, -4.0), (0.041, 3.2), (0.059, -2.4)):
        out[0, round(delay_s * RATE_HZ)] += gain
        out[1, round((delay_s + 0.004) * RATE_HZ)] += gain
    out *= np.clip((_REVERB_S - t) / 0.2, 0, 1)
    result: Samples = (out / np.sqrt((out**2).sum(axis=1, keepdims=True)) * 1.1).astype(np.float32)
    return result


def _finish(target: NDArray[np.int16], peak: int, flag: CancelFlag) -> None:
    """Fade in and out, and bring the highest peak to -1 dBFS, in place and in pieces."""
    frames = len(target)
    fade_in = min(round(0.02 * RATE_HZ), frames // 10)
    fade_out = min(round(2.5 * RATE_HZ), frames // 5)
    gain = PEAK * 32_767 / peak
    for start in range(0, frames, RATE_HZ * 4):
        flag.check()
        piece = target[start : start + RATE_HZ * 4]
        at = np.arange(start, start + len(piece))
        shape = np.clip(at / max(1, fade_in), 0, 1) * np.clip((frames - 1 - at) / max(1, fade_out), 0, 1) ** 1.5
        piece[:] = np.round(piece * (gain * shape)[:, None])


def _header(frames: int) -> bytes:
    """The header of a WAV file: PCM, stereo, 16 bit (http://soundfile.sapp.org/doc/WaveFormat/)."""
    size = 4 * frames
    return struct.pack(
        "<4sI4s4sIHHIIHH4sI",
        *(b"RIFF", 36 + size, b"WAVE", b"fmt ", 16, 1, 2, RATE_HZ, 4 * RATE_HZ, 4, 16, b"data", size),
    )

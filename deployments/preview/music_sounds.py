"""The instruments of the preview music: notes and drums as samples, made of sines and noise.

Every sound is a pure function of pitch and length; ``Band`` remembers what it made, because music repeats itself.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

RATE_HZ = 44_100

Samples = NDArray[np.floating[Any]]  # mono (n,) or stereo (2, n)

_REMEMBERED_BYTES = 96 * 2**20


class Band:
    """All instruments, with a bounded memory of the notes they played last."""

    def __init__(self, seed: int) -> None:
        self._noise = np.random.default_rng(seed).standard_normal(4 * RATE_HZ).astype(np.float32)
        self._kept: OrderedDict[tuple[str, int, int], Samples] = OrderedDict()
        self._kept_bytes = 0

    def play(self, sound: str, pitch: int, seconds: float) -> Samples:
        """A note at full velocity; the caller must not change it."""
        key = (sound, pitch, 0 if sound in DRUM_SOUNDS else round(seconds * 50))
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        if sound in DRUM_SOUNDS:
            made = DRUM_SOUNDS[sound](self._noise)
        else:
            made = INSTRUMENTS[sound](440.0 * 2 ** ((pitch - 69) / 12), max(0.05, seconds), self._noise)
        made = made.astype(np.float32)
        self._kept[key] = made
        self._kept_bytes += made.nbytes
        while self._kept_bytes > _REMEMBERED_BYTES:
            self._kept_bytes -= self._kept.popitem(last=False)[1].nbytes
        return made


def _time(seconds: float) -> Samples:
    return np.arange(round(seconds * RATE_HZ), dtype=np.float32) / np.float32(RATE_HZ)


def _envelope(n: int, attack_s: float, release_s: float, held_s: float) -> Samples:
    """Rises in ``attack_s``, holds until ``held_s``, falls to zero in ``release_s``; smooth, so that nothing clicks."""
    t = np.arange(n, dtype=np.float32) / np.float32(RATE_HZ)
    rise = np.clip(t / max(attack_s, 1e-4), 0, 1)
    fall = np.clip((held_s + release_s - t) / max(release_s, 1e-4), 0, 1)
    shape: Samples = (np.sin(rise * np.pi / 2) ** 2 * np.sin(fall * np.pi / 2) ** 2).astype(np.float32)
    return shape


def _partials(f: float, t: Samples, amplitudes: Sequence[tuple[float, float, float]]) -> Samples:
    """Sum of (ratio, amplitude, decays per second) sines that lie below the limit of hearing."""
    out = np.zeros_like(t)
    for ratio, amplitude, decay in amplitudes:
        if f * ratio < 16_000:
            wave = np.sin(np.float32(2 * np.pi * f * ratio) * t + np.float32(ratio * 1.7))
            out += np.float32(amplitude) * wave * (np.exp(np.float32(-decay) * t) if decay else 1)
    return out


def _saw(f: float, t: Samples, bright: float, closing: float = 0.0) -> Samples:
    """A saw of additive partials; ``bright`` in Hz is where it rolls off, ``closing`` how fast it gets darker."""
    out = np.zeros_like(t)
    for k in range(1, int(min(40, 12_000 / f)) + 1):
        weight = 1 / k / (1 + (k * f / bright) ** 2)
        if weight > 2e-3:
            out += (
                np.float32(weight)
                * np.sin(np.float32(2 * np.pi * f * k) * t)
                * (np.exp(np.float32(-closing * k * 0.35) * t) if closing else 1)
            )
    return out


def _piano(f: float, seconds: float, noise: Samples) -> Samples:
    held = seconds + 0.15
    t = _time(held + 0.35)
    slow = 0.55 + f / 900
    amplitudes = []
    for k in range(1, 13):
        stretched = k * (1 + 0.0004 * k * k) ** 0.5
        amplitude = (1 / k**1.25) * (0.6 if k == 7 else 1.0)
        amplitudes.append((stretched * 1.0004, 0.55 * amplitude, slow * (0.7 + 0.45 * k)))
        amplitudes.append((stretched * 0.9995, 0.45 * amplitude, slow * (0.35 + 0.4 * k)))
    out = _partials(f, t, amplitudes)
    knock = min(len(t), 1200)
    out[:knock] += 0.05 * noise[:knock] * np.exp(-np.arange(knock, dtype=np.float32) / 180)
    return 0.42 * out * _envelope(len(t), 0.003, 0.32, held)


def _epiano(f: float, seconds: float, _noise: Samples) -> Samples:
    t = _time(seconds + 0.4)
    bell = 0.25 * np.sin(2 * np.pi * f * 14 * t) * np.exp(-9 * t) if f * 14 < 15_000 else 0.0
    index = 1.1 * np.exp(-2.2 * t) + 0.15
    body = np.sin(2 * np.pi * f * t + index * np.sin(2 * np.pi * f * t)) * np.exp(-1.1 * t)
    tremolo = 1 + 0.12 * np.sin(2 * np.pi * 4.6 * t)
    out: Samples = 0.36 * (body + bell) * tremolo * _envelope(len(t), 0.004, 0.35, seconds)
    return out


def _pad(f: float, seconds: float, _noise: Samples) -> Samples:
    t = _time(seconds + 1.6)
    sides = []
    for detune in (0.9965, 1.0035):
        voice = _saw(f * detune, t, 700) + 0.8 * _saw(f * (2 - detune) * 1.001, t, 600)
        sides.append(voice * (1 + 0.15 * np.sin(2 * np.pi * 0.31 * t + detune * 900)))
    return 0.2 * np.stack(sides) * _envelope(len(t), min(0.9, seconds / 2), 1.6, seconds)


def _strings(f: float, seconds: float, _noise: Samples) -> Samples:
    t = _time(seconds + 0.5)
    vibrato = t + np.float32(0.0022 / 5.3) * np.sin(2 * np.pi * 5.3 * t) * np.clip(t * 2, 0, 1) / np.float32(2 * np.pi)
    sides = [_saw(f * detune, vibrato, 1600) + 0.7 * _saw(f / detune, vibrato, 1500) for detune in (0.9975, 1.003)]
    return 0.2 * np.stack(sides) * _envelope(len(t), min(0.12, seconds / 3), 0.45, seconds)


def _violin(f: float, seconds: float, noise: Samples) -> Samples:
    t = _time(seconds + 0.3)
    depth = np.clip((t - 0.15) * 3, 0, 1) * np.float32(0.006 / (2 * np.pi * 5.8))
    bent = t + depth * np.sin(2 * np.pi * 5.8 * t)
    bow = 0.012 * noise[: len(t)] if len(t) <= len(noise) else 0.0
    return 0.3 * (_saw(f, bent, 2600) + bow) * _envelope(len(t), 0.07, 0.25, seconds)


def _brass(f: float, seconds: float, _noise: Samples) -> Samples:
    t = _time(seconds + 0.3)
    swell = np.clip(t / 0.18, 0, 1)
    dark, bright = _saw(f, t, 500), _saw(f * 1.002, t, 1900)
    out_: Samples = 0.34 * (dark * (1 - 0.6 * swell) + 0.75 * bright * swell) * _envelope(len(t), 0.06, 0.28, seconds)
    return out_


def _flute(f: float, seconds: float, noise: Samples) -> Samples:
    t = _time(seconds + 0.2)
    bent = t + np.clip((t - 0.2) * 2, 0, 1) * np.float32(0.004 / (2 * np.pi * 5)) * np.sin(2 * np.pi * 5 * t)
    tone = _partials(f, bent, [(1, 1, 0), (2, 0.28, 0), (3, 0.1, 0), (4, 0.03, 0)])
    breath = 0.02 * np.convolve(np.resize(noise, len(t)), np.ones(8, np.float32) / 8, "same")
    return 0.34 * (tone + breath) * _envelope(len(t), 0.06, 0.15, seconds)


def _organ(f: float, seconds: float, _noise: Samples) -> Samples:
    t = _time(seconds + 0.12)
    tone = _partials(
        f, t, [(0.5, 0.5, 0), (1, 0.8, 0), (2, 0.6, 0), (3, 0.3, 0), (4, 0.3, 0), (6, 0.15, 0), (8, 0.12, 0)]
    )
    return 0.22 * tone * _envelope(len(t), 0.02, 0.1, seconds)


def _struck(
    ratios: list[tuple[float, float, float]], gain: float, tail_s: float
) -> Callable[[float, float, Samples], Samples]:
    """Bars and bells: partials that ring on after the note, whatever its length."""

    def play(f: float, seconds: float, _noise: Samples) -> Samples:
        t = _time(max(seconds, 0.3) + tail_s)
        return gain * _partials(f, t, ratios) * _envelope(len(t), 0.002, tail_s, max(seconds, 0.3))

    return play


def _plucked(damping: float, gain: float) -> Callable[[float, float, Samples], Samples]:
    """A string after Karplus and Strong (https://ccrma.stanford.edu/~jos/pasp/Karplus_Strong_Algorithm.html), one
    period at a time. The filter's half sample of delay is part of the period; the rest is tuned by resampling."""

    def play(f: float, seconds: float, noise: Samples) -> Samples:
        total_s = seconds + 0.25
        period = max(2, round(RATE_HZ / f - 0.5))
        rounds = int(total_s * RATE_HZ / period) + 3
        start = np.convolve(noise[:period], np.ones(3, np.float32) / 3, "same").astype(np.float32)
        out = np.empty((rounds, period), dtype=np.float32)
        out[0] = start - start.mean()
        before = np.float32(0.0)
        keep = np.float32(damping ** (110 / f if f > 110 else 1))
        for k in range(1, rounds):
            previous = out[k - 1]
            out[k, 1:] = keep * 0.5 * (previous[1:] + previous[:-1])
            out[k, 0] = keep * 0.5 * (previous[0] + before)
            before = previous[-1]
        t = _time(total_s)
        at = np.arange(len(t)) * (f * (period + 0.5) / RATE_HZ)
        string = np.interp(at, np.arange(out.size), out.ravel()).astype(np.float32)
        out_: Samples = gain * string * _envelope(len(t), 0.002, 0.22, seconds)
        return out_

    return play


def _bass(f: float, seconds: float, _noise: Samples) -> Samples:
    t = _time(seconds + 0.1)
    tone = _partials(f, t, [(1, 1, 0.7), (2, 0.5, 1.6), (3, 0.22, 3), (4, 0.1, 4), (5, 0.06, 6)])
    return 0.5 * tone * _envelope(len(t), 0.008, 0.09, seconds)


def _contrabass(f: float, seconds: float, noise: Samples) -> Samples:
    t = _time(seconds + 0.2)
    tone = _partials(f, t, [(1, 1, 1.2), (2.003, 0.55, 2), (3.006, 0.3, 3), (4.01, 0.16, 4.5), (5.02, 0.08, 6)])
    n = min(len(t), 900)
    tone[:n] += 0.1 * noise[:n] * np.exp(-np.arange(n, dtype=np.float32) / 120)
    return 0.5 * tone * _envelope(len(t), 0.006, 0.18, seconds)


def _sub(f: float, seconds: float, _noise: Samples) -> Samples:
    t = _time(seconds + 0.8)
    return 0.42 * _partials(f, t, [(1, 1, 0), (2, 0.22, 0), (3, 0.06, 0)]) * _envelope(len(t), 0.25, 0.8, seconds)


def _synth_bass(f: float, seconds: float, _noise: Samples) -> Samples:
    t = _time(seconds + 0.08)
    tone = np.tanh(1.6 * (_saw(f, t, 900, closing=6) + 0.6 * np.sin(2 * np.pi * f * t)))
    out_: Samples = 0.36 * tone * _envelope(len(t), 0.004, 0.07, seconds)
    return out_


def _saws(f: float, seconds: float, _noise: Samples) -> Samples:
    t = _time(seconds + 0.18)
    sides = [
        _saw(f * detune, t, 3200, closing=2.5) + _saw(f / detune, t, 3000, closing=2.5) for detune in (0.996, 1.0045)
    ]
    return 0.2 * np.stack(sides) * _envelope(len(t), 0.005, 0.16, seconds)


def _lead(f: float, seconds: float, _noise: Samples) -> Samples:
    t = _time(seconds + 0.22)
    bent = t + np.clip((t - 0.25) * 2, 0, 1) * np.float32(0.005 / (2 * np.pi * 5.5)) * np.sin(2 * np.pi * 5.5 * t)
    return 0.24 * (_saw(f, bent, 2800) + _saw(f * 1.004, bent, 2600)) * _envelope(len(t), 0.012, 0.2, seconds)


def _power(f: float, seconds: float, _noise: Samples) -> Samples:
    t = _time(seconds + 0.08)
    out_: Samples = 0.17 * np.tanh(4 * _saw(f, t, 2200)) * np.exp(-0.8 * t) * _envelope(len(t), 0.003, 0.07, seconds)
    return out_


def _square(f: float, seconds: float, _noise: Samples) -> Samples:
    t = _time(seconds + 0.03)
    odd = [(k, 1 / k, 0.0) for k in range(1, 22, 2)]
    out_: Samples = 0.2 * _partials(f, t, odd) * np.exp(-1.2 * t) * _envelope(len(t), 0.003, 0.03, seconds)
    return out_


def _triangle(f: float, seconds: float, _noise: Samples) -> Samples:
    t = _time(seconds + 0.03)
    return (
        0.5 * _partials(f, t, [(k, 1 / k**2, 0.0) for k in range(1, 12, 2)]) * _envelope(len(t), 0.003, 0.03, seconds)
    )


INSTRUMENTS: dict[str, Callable[[float, float, Samples], Samples]] = {
    "piano": _piano,
    "epiano": _epiano,
    "pad": _pad,
    "strings": _strings,
    "violin": _violin,
    "brass": _brass,
    "flute": _flute,
    "organ": _organ,
    "bell": _struck([(1, 0.7, 1.1), (2.0, 0.35, 1.8), (2.76, 0.22, 2.8), (5.4, 0.1, 5)], 0.36, 1.6),
    "vibes": _struck([(1, 0.9, 1.4), (4, 0.18, 5), (10, 0.04, 12)], 0.44, 0.5),
    "marimba": _struck([(1, 1, 6), (3.98, 0.3, 14), (9.2, 0.1, 30)], 0.6, 0.25),
    "musicbox": _struck([(2, 0.6, 2.2), (1, 0.35, 2.0), (5.9, 0.14, 6), (10.7, 0.05, 12)], 0.38, 0.9),
    "pluck": _struck([(1, 0.6, 5), (2, 0.4, 8), (3, 0.25, 11), (4, 0.15, 14), (5, 0.1, 17)], 0.45, 0.15),
    "guitar": _plucked(0.996, 0.75),
    "harp": _plucked(0.998, 0.8),
    "bass": _bass,
    "contrabass": _contrabass,
    "sub": _sub,
    "synth bass": _synth_bass,
    "saw": _saws,
    "lead": _lead,
    "power": _power,
    "square": _square,
    "triangle": _triangle,
}


def _kick(noise: Samples, low: float = 46, high: float = 110, seconds: float = 0.42) -> Samples:
    t = _time(seconds)
    phase = 2 * np.pi * (low * t + (high / 28) * (1 - np.exp(-28 * t)))
    out = np.sin(phase) * np.exp(-7 * t / (seconds / 0.42))
    out[:300] += 0.25 * noise[:300] * np.exp(-np.arange(300, dtype=np.float32) / 40)
    out_: Samples = 0.85 * out * _envelope(len(t), 0.001, 0.08, seconds - 0.08)
    return out_


def _noise_hit(noise: Samples, seconds: float, decay: float, highpass: int, gain: float, tone: float = 0.0) -> Samples:
    t = _time(seconds)
    raw = noise[: len(t)]
    for _ in range(highpass):
        raw = np.diff(raw, prepend=raw[:1]) * 0.6
    out = raw * np.exp(-decay * t)
    if tone:
        out = out * 0.6 + np.sin(2 * np.pi * tone * t) * np.exp(-22 * t)
    out_: Samples = gain * out * _envelope(len(t), 0.001, seconds * 0.3, seconds * 0.7)
    return out_


def _clap(noise: Samples) -> Samples:
    out = np.zeros(round(0.3 * RATE_HZ), dtype=np.float32)
    hit = _noise_hit(noise[5000:], 0.2, 24, 1, 0.3)
    for delay_s in (0.0, 0.011, 0.023):
        start = round(delay_s * RATE_HZ)
        out[start : start + len(hit)] += hit
    return out


DRUM_SOUNDS: dict[str, Callable[[Samples], Samples]] = {
    "kick": _kick,
    "taiko": lambda noise: 0.9 * _kick(noise, 72, 70, 0.8),
    "lowtaiko": lambda noise: 1.0 * _kick(noise, 48, 50, 1.1),
    "snare": lambda noise: _noise_hit(noise, 0.26, 17, 1, 0.42, 185),
    "gated": lambda noise: _noise_hit(noise, 0.34, 6, 1, 0.34, 170),
    "rim": lambda noise: _noise_hit(noise, 0.09, 60, 1, 0.4, 420),
    "brush": lambda noise: _noise_hit(noise, 0.3, 12, 2, 0.16),
    "hat": lambda noise: _noise_hit(noise[9000:], 0.09, 55, 3, 0.24),
    "pedal": lambda noise: _noise_hit(noise[3000:], 0.06, 80, 3, 0.2),
    "shaker": lambda noise: _noise_hit(noise[7000:], 0.08, 40, 3, 0.12),
    "ride": lambda noise: _noise_hit(noise[11000:], 0.5, 9, 3, 0.13),
    "cymbal": lambda noise: _noise_hit(noise[13000:], 2.4, 1.9, 2, 0.3),
    "clap": _clap,
    "chipsnare": lambda noise: _noise_hit(np.repeat(noise[:4000], 6), 0.14, 22, 0, 0.16),
    "chiphat": lambda noise: _noise_hit(np.repeat(noise[:4000], 2), 0.04, 70, 1, 0.16),
}


def texture(name: str, seed: int) -> Samples:
    """Twelve seconds of stereo background that loop without a seam: noise shaped in the frequency domain."""
    rng = np.random.default_rng(seed)
    n = 12 * RATE_HZ
    f = np.maximum(np.fft.rfftfreq(n, 1 / RATE_HZ), 1.0)
    shapes = {
        "rain": 1 / (1 + (900 / f) ** 2) / (1 + (f / 7000) ** 2),
        "sea": 1 / (1 + (f / 420) ** 1.6) / (1 + (60 / f) ** 2),
        "wind": 1 / (1 + ((f - 380) / 130) ** 2),
        "crackle": 1 / (1 + (f / 1500) ** 2) / (1 + (300 / f) ** 2),
    }
    out = np.empty((2, n), dtype=np.float32)
    t = np.arange(n) / n * 2 * np.pi
    for side in (0, 1):
        spectrum = np.fft.rfft(rng.standard_normal(n)) * shapes[name]
        wave = np.fft.irfft(spectrum, n)
        wave /= np.abs(wave).max()
        if name in ("sea", "wind"):
            wave *= 0.45 + 0.4 * np.sin(2 * t + 0.6 * side) + 0.15 * np.sin(5 * t + side)
        if name == "crackle":
            wave *= 0.25
            places = rng.integers(0, n - 80, 130)
            for place in places:
                wave[place : place + 60] += rng.uniform(0.1, 0.7) * np.exp(-np.arange(60) / 9) * rng.choice((-1, 1))
        out[side] = wave
    gain = {"rain": 0.16, "sea": 0.3, "wind": 0.16, "crackle": 0.05}[name]
    return gain * out

"""A recording as windows of 16 kHz sound, decoded as it is needed: memory does not grow with its length.

An hour as the library would load it takes gigabytes (samples, frames and spectrum all at once). Here some minutes at a
time are in memory, cut where it is quiet, so that no word is cut.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import av.error
import numpy as np
from numpy.typing import NDArray

from tessera.errors import InvalidInput, UnsupportedMedia
from tessera.media.inspecting import inspect

SAMPLE_RATE_HZ = 16_000
WINDOW_S = 240.0  # measured: 0.35 GiB more than the model at its peak
SEARCH_S = 30.0  # at the window's end, in which the quietest place is looked for
QUIET_S = 0.2  # the length of that place

Samples = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Window:
    """A part of a recording: where it starts, in seconds, and its samples. ``last``: nothing comes after it."""

    start_s: float
    samples: Samples
    last: bool

    @property
    def end_s(self) -> float:
        """Where it ends, in seconds from the start of the recording."""
        return self.start_s + len(self.samples) / SAMPLE_RATE_HZ


def windows(path: Path, *, window_s: float = WINDOW_S) -> Iterator[Window]:
    """The recording in order, without gaps. Raises InvalidInput where it is no sound that FFmpeg can read."""
    limit = round(window_s * SAMPLE_RATE_HZ)
    parts: list[Samples] = []
    held, start = 0, 0
    with closing(_decoded(path)) as decoded:
        for part in decoded:
            parts.append(part)
            held += len(part)
            while held >= limit:
                samples = np.concatenate(parts)
                cut = quietest(samples[:limit], window_s)
                yield Window(start_s=start / SAMPLE_RATE_HZ, samples=samples[:cut], last=False)
                rest = samples[cut:].copy()
                parts, held, start = [rest], len(rest), start + cut
    rest = np.concatenate(parts) if parts else np.zeros(0, np.float32)
    yield Window(start_s=start / SAMPLE_RATE_HZ, samples=rest, last=True)


def quietest(samples: Samples, window_s: float = WINDOW_S) -> int:
    """Where to cut: the middle of the quietest place near the end."""
    search = min(len(samples) // 2, round(min(SEARCH_S, window_s / 4) * SAMPLE_RATE_HZ))
    grain = max(1, round(QUIET_S * SAMPLE_RATE_HZ))
    tail = samples[len(samples) - search :]
    if len(tail) < 2 * grain:
        return len(samples)
    energy = np.concatenate([[0.0], np.cumsum(np.square(tail, dtype=np.float64))])
    loudness = energy[grain:] - energy[:-grain]
    # The latest of the quietest places: a longer window is a better one.
    place = len(loudness) - 1 - int(np.argmin(loudness[::-1]))
    return len(samples) - search + place + grain // 2


def length_s(path: Path) -> float:
    """How long the recording is, 0 where that cannot be told before it was decoded."""
    try:
        return inspect(path).duration_s or 0.0
    except UnsupportedMedia:  # of a kind that uploads do not take, and FFmpeg may still read
        pass
    try:
        with av.open(str(path), "r") as container:
            return container.duration / av.time_base if container.duration else 0.0
    except (av.error.FFmpegError, ValueError, OSError):
        return 0.0


def _decoded(path: Path) -> Generator[Samples, None, None]:
    """About a second at a time."""
    try:
        with av.open(str(path), "r", metadata_errors="ignore") as container:
            if not container.streams.audio:
                raise InvalidInput(
                    "The file has no sound. Nothing was charged; upload an audio or video file with speech."
                )
            stream = container.streams.audio[0]
            resampler = av.AudioResampler(format="s16", layout="mono", rate=SAMPLE_RATE_HZ)
            pending: list[Any] = []
            count = heard = 0
            for frame in _frames(container, stream):
                for resampled in resampler.resample(frame):
                    pending.append(resampled.to_ndarray()[0])
                    count += len(pending[-1])
                if pending and (count >= SAMPLE_RATE_HZ or frame is None):
                    heard += count
                    yield np.concatenate(pending).astype(np.float32) / 32768.0
                    pending, count = [], 0
            if not heard:
                raise InvalidInput("The recording holds nothing that can be heard. Nothing was charged.")
    except (av.error.FFmpegError, ValueError, OSError) as error:
        raise InvalidInput(
            f"The recording cannot be decoded ({type(error).__name__}). Nothing was charged; "
            "upload it as WAV, MP3, FLAC, Ogg, M4A or WebM."
        ) from error


def _frames(container: Any, stream: Any) -> Iterator[Any]:
    """The frames, then None, which empties a resampler. A broken packet in the middle is left out, as players do."""
    decoded = 0
    for packet in container.demux(stream):
        try:
            for frame in packet.decode():
                decoded += 1
                frame.pts = None  # gaps in the timestamps are not filled: they would shift nothing but the end
                yield frame
        except av.error.InvalidDataError:
            if not decoded:
                raise
    yield None

"""Small files of every type that the API takes, made by the libraries that people use."""

from __future__ import annotations

import io
import wave
from fractions import Fraction
from typing import Any

import av
import numpy as np
from PIL import Image


def picture(kind: str, width: int = 100, height: int = 70, mode: str = "RGB") -> bytes:
    """A picture in a format of Pillow's."""
    out = io.BytesIO()
    noise = Image.effect_noise((width, height), 60).convert(mode)
    noise.save(out, kind)
    return out.getvalue()


def sound(seconds: float = 2.0, rate: int = 16_000) -> bytes:
    """A WAV."""
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((np.sin(np.arange(int(seconds * rate)) / 9) * 8000).astype(np.int16).tobytes())
    return out.getvalue()


def recording(container: str, codec: str, seconds: float = 2.0) -> bytes:
    """Compressed sound."""
    return _encode(container, seconds, audio=codec)


def clip(
    container: str, codec: str = "libx264", audio: str | None = None, seconds: float = 2.0, black: int = 0
) -> bytes:
    """A clip of 64×48 at 12 frames a second, whose first ``black`` frames are black."""
    return _encode(container, seconds, video=codec, audio=audio, black=black)


def _encode(
    container: str, seconds: float, *, video: str | None = None, audio: str | None = None, black: int = 0
) -> bytes:
    out = io.BytesIO()
    with av.open(out, "w", format=container) as file:
        frames: Any = None
        samples: Any = None
        if video is not None:
            frames = file.add_stream(video, rate=12)
            frames.width, frames.height, frames.pix_fmt = 64, 48, "yuv420p"
        if audio is not None:
            samples = file.add_stream(audio, rate=48_000)
            samples.layout = "mono"
        if frames is not None:
            for number in range(int(12 * seconds)):
                level = 0 if number < black else 200
                frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), level, np.uint8), "rgb24")
                file.mux(frames.encode(frame))
            file.mux(frames.encode())
        if samples is not None:
            size = samples.codec_context.frame_size or 1024
            for start in range(0, int(48_000 * seconds) - size + 1, size):
                wave_form = (np.sin(np.arange(start, start + size) / 20) * 8000).astype(np.int16).reshape(1, -1)
                part = av.AudioFrame.from_ndarray(wave_form, format="s16", layout="mono")
                part.sample_rate, part.pts, part.time_base = 48_000, start, Fraction(1, 48_000)
                file.mux(samples.encode(part))
            file.mux(samples.encode())
    return out.getvalue()

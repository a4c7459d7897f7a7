"""Sound files from samples as they come: WAV, MP3, and Ogg Opus as Telegram wants its voice messages."""

from __future__ import annotations

import io
import wave
from typing import Protocol

import av
import numpy as np

OPUS_RATE_HZ = 48_000  # the codec's own; players of voice messages expect it
MP3_BITS_PER_S, OPUS_BITS_PER_S = 64_000, 32_000  # transparent for one voice
MP3_RATES_HZ = (8_000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000)


class Encoder(Protocol):
    """One file in the making. ``add`` takes mono s16 samples, ``finish`` gives media type and bytes, once."""

    def add(self, pcm: bytes) -> None: ...

    def finish(self) -> tuple[str, bytes]: ...


def encoder(format_: str, rate_hz: int) -> Encoder:
    """For ``wav``, ``mp3`` or ``opus``, from samples of this rate."""
    return _Wav(rate_hz) if format_ == "wav" else _Compressed(format_, rate_hz)


class _Wav:
    """PCM WAV: the samples as they are."""

    def __init__(self, rate_hz: int) -> None:
        self._buffer = io.BytesIO()
        self._writer = wave.open(self._buffer, "wb")  # noqa: SIM115 closed in finish; a run that is cancelled drops it
        self._writer.setnchannels(1)
        self._writer.setsampwidth(2)
        self._writer.setframerate(rate_hz)

    def add(self, pcm: bytes) -> None:
        self._writer.writeframes(pcm)

    def finish(self) -> tuple[str, bytes]:
        self._writer.close()
        return "audio/wav", self._buffer.getvalue()


class _Compressed:
    """MP3, or Ogg Opus, encoded while it is spoken."""

    def __init__(self, format_: str, rate_hz: int) -> None:
        is_mp3 = format_ == "mp3"
        self._rate_hz = rate_hz
        self._buffer = io.BytesIO()
        self._media_type = "audio/mpeg" if is_mp3 else "audio/ogg"
        self._container = av.open(self._buffer, "w", format="mp3" if is_mp3 else "ogg")
        out_hz = (rate_hz if rate_hz in MP3_RATES_HZ else 44_100) if is_mp3 else OPUS_RATE_HZ
        stream = self._container.add_stream("libmp3lame" if is_mp3 else "libopus", rate=out_hz)
        assert isinstance(stream, av.AudioStream)
        self._stream = stream
        self._stream.bit_rate = MP3_BITS_PER_S if is_mp3 else OPUS_BITS_PER_S
        self._stream.layout = "mono"
        self._resampler = av.AudioResampler(format=self._stream.format.name, layout="mono", rate=out_hz)
        self._samples = 0

    def add(self, pcm: bytes) -> None:
        if not pcm:
            return
        array = np.frombuffer(pcm, dtype=np.int16).reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(array, format="s16", layout="mono")
        frame.sample_rate = self._rate_hz
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

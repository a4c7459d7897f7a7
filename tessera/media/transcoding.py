"""Pictures and sounds in another format than an engine has made them in, and masks as engines want them.

CPU work: call it in a thread. What it is given was made by our engines, or has been through ``inspecting.inspect``.
"""

from __future__ import annotations

import io
from pathlib import Path

import av
import av.error
import numpy as np
from PIL import Image

from tessera.errors import BadOutput, UnsupportedMedia
from tessera.media.inspecting import IMAGE_TYPES

PCM_RATE_HZ = 24_000  # what OpenAI's pcm is: 24 kHz, 16 bits, one channel, little endian, without a header

# format → (FFmpeg's container, codec, sample rate, bits per second, media type); None keeps the rate or has none.
_SOUNDS: dict[str, tuple[str, str, int | None, int | None, str]] = {
    "mp3": ("mp3", "libmp3lame", None, 64_000, "audio/mpeg"),
    "opus": ("ogg", "libopus", 48_000, 32_000, "audio/ogg"),
    "aac": ("adts", "aac", None, 64_000, "audio/aac"),
    "flac": ("flac", "flac", None, None, "audio/flac"),
    "wav": ("wav", "pcm_s16le", None, None, "audio/wav"),
    "pcm": ("s16le", "pcm_s16le", PCM_RATE_HZ, None, "audio/pcm"),
}
SOUND_TYPES = {name: media_type for name, (_, _, _, _, media_type) in _SOUNDS.items()}
_MP3_RATES = (8_000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000)

_PICTURES = {"png": "PNG", "jpeg": "JPEG", "webp": "WEBP"}
PICTURE_TYPES = {name: f"image/{name}" for name in _PICTURES}
OPAQUE = 128  # alpha from here on counts as covered


def sound(data: bytes, wanted: str) -> bytes:
    """A recording as mp3, opus, aac, flac, wav or pcm, in one channel. Raises BadOutput where it cannot be read."""
    container, codec, rate_hz, bit_rate, _ = _SOUNDS[wanted]
    out = io.BytesIO()
    try:
        with av.open(io.BytesIO(data), "r") as source, av.open(out, "w", format=container) as target:
            if not source.streams.audio:
                raise BadOutput("The engine's recording has no sound. The tokens are returned.")
            given = source.streams.audio[0]
            rate = rate_hz or (given.rate if codec != "libmp3lame" or given.rate in _MP3_RATES else 44_100)
            stream = target.add_stream(codec, rate=rate)
            assert isinstance(stream, av.AudioStream)
            if bit_rate is not None:
                stream.bit_rate = bit_rate
            stream.layout = "mono"
            resampler = av.AudioResampler(
                format=stream.format.name, layout="mono", rate=rate, frame_size=stream.codec_context.frame_size or None
            )
            for frame in source.decode(given):
                for resampled in resampler.resample(frame):
                    target.mux(stream.encode(resampled))
            for resampled in resampler.resample(None):
                target.mux(stream.encode(resampled))
            target.mux(stream.encode(None))
    except (av.error.FFmpegError, ValueError) as error:
        raise BadOutput(f"The engine's recording cannot be turned into {wanted}. The tokens are returned.") from error
    return out.getvalue()


def picture(data: bytes, wanted: str, quality: int = 90) -> bytes:
    """A picture as png, jpeg or webp. ``quality`` 1–100 is of the latter two."""
    with Image.open(io.BytesIO(data)) as image:
        out = io.BytesIO()
        if wanted == "jpeg":
            image.convert("RGB").save(out, "JPEG", quality=quality)
        else:
            image.save(out, _PICTURES[wanted], **({"quality": quality} if wanted == "webp" else {}))
    return out.getvalue()


def mask_of_alpha(path: Path) -> bytes | None:
    """What is transparent in a picture, as a mask that is white there and black elsewhere (PNG). None where nothing is.

    Raises UnsupportedMedia where it cannot be read.
    """
    try:
        with Image.open(path, formats=tuple(IMAGE_TYPES)) as image:
            if not image.has_transparency_data:
                return None
            alpha = np.asarray(image.convert("RGBA").getchannel("A"))
    except (OSError, SyntaxError, ValueError) as error:
        raise UnsupportedMedia("The picture cannot be read. Nothing was stored; save it anew as PNG.") from error
    if alpha.min(initial=255) >= OPAQUE:
        return None
    out = io.BytesIO()
    Image.fromarray(np.where(alpha < OPAQUE, 255, 0).astype(np.uint8), "L").save(out, "PNG")
    return out.getvalue()

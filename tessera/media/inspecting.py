"""What a file really is: its media type by content, its measures, and a small picture of it.

Names and declared types are never believed. Everything here is CPU work on untrusted bytes: call it in a thread, never
on an event loop. Only the listed containers are opened, each by its own demuxer, so that a playlist or a script inside
an upload is not followed. https://mimesniff.spec.whatwg.org/
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import av
import av.error
from PIL import Image, ImageOps, UnidentifiedImageError

from tessera.errors import PayloadTooLarge, UnsupportedMedia

Source = bytes | Path

MAX_IMAGE_BYTES = 30 << 20
MAX_IMAGE_PX = 50_000_000  # decoded as RGBA this takes 200 MB, what one thread may hold for a moment
THUMBNAIL_PX = 512
BLACK_LEVEL = 16  # mean luma of a frame that shows nothing yet: clips often fade in
MAX_FADE_FRAMES = 48  # two seconds at 24 frames a second; who fades in longer gets the brightest frame so far

IMAGE_TYPES = {
    "PNG": "image/png",
    "JPEG": "image/jpeg",
    "WEBP": "image/webp",
    "GIF": "image/gif",
    "BMP": "image/bmp",
    "TIFF": "image/tiff",
}
# What Pillow's decoders raise on broken bytes, as its fuzzers have it.
BROKEN_IMAGE = (
    UnidentifiedImageError,
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    KeyError,
    IndexError,
    OverflowError,
    TypeError,
    AttributeError,
    struct.error,
    zlib.error,
)
KNOWN = "PNG, JPEG, WebP, GIF, BMP, TIFF; WAV, MP3, FLAC, Ogg, M4A, AAC; MP4, MOV, WebM, MKV, AVI"

# media type → what a file of it is called.
EXTENSIONS = {
    "image/png": "png",
    "image/jpeg": "jpg",
    "image/webp": "webp",
    "image/gif": "gif",
    "image/bmp": "bmp",
    "image/tiff": "tiff",
    "audio/wav": "wav",
    "audio/mpeg": "mp3",
    "audio/flac": "flac",
    "audio/ogg": "ogg",
    "audio/mp4": "m4a",
    "audio/aac": "aac",
    "audio/webm": "weba",
    "video/mp4": "mp4",
    "video/quicktime": "mov",
    "video/webm": "webm",
    "video/x-matroska": "mkv",
    "video/x-msvideo": "avi",
    "video/ogg": "ogv",
    "text/plain": "txt",
    "text/vtt": "vtt",
    "application/x-subrip": "srt",
    "application/json": "json",
}
TEXT_TYPES = frozenset({"text/plain", "text/vtt", "application/x-subrip", "application/json"})  # always in UTF-8


@dataclass(frozen=True, kw_only=True)
class Media:
    """What was found. width and height in pixels as shown (turned by EXIF); duration in seconds; None where neither
    applies."""

    media_type: str
    width: int | None = None
    height: int | None = None
    duration_s: float | None = None


def extension(media_type: str) -> str:
    """The ending of a file of this type, without the dot; ``bin`` for one that is not known."""
    return EXTENSIONS.get(media_type.partition(";")[0].strip(), "bin")


def inspect(source: Source) -> Media:
    """Find out and measure a picture, a recording or a clip, reading all of it.

    Raises UnsupportedMedia, with the reason, for any other type, for a broken file, and for a picture of more than
    50 million pixels; PayloadTooLarge for one of more than 30 MiB.
    """
    head = _head(source)
    if not head:
        raise UnsupportedMedia("The file is empty. Nothing was stored; send its bytes in the multipart field 'file'.")
    image_type = _image_type(head)
    if image_type is not None:
        return _inspect_image(source, image_type)
    demuxer = _demuxer(head)
    if demuxer is not None:
        return _inspect_stream(source, demuxer)
    raise UnsupportedMedia(f"This is not a file of a known type. Nothing was stored; known are {KNOWN}.")


def thumbnail(data: bytes, media_type: str) -> bytes | None:
    """A small picture (at most 512 px; JPEG, or WebP where there is transparency) of an image or of a video.

    None for types that have no look, and for files that cannot be read: a missing thumbnail is never an error.
    """
    try:
        if media_type.startswith("image/"):
            with open_image(data) as image:
                image.draft("RGB", (THUMBNAIL_PX * 2, THUMBNAIL_PX * 2))  # JPEG decodes at a fraction, far faster
                return _small(image)
        if media_type.startswith("video/"):
            return _small(_first_real_frame(data))
    except (UnsupportedMedia, OSError, ValueError, av.error.FFmpegError):
        return None
    return None


def thumbnail_type(data: bytes) -> str:
    """The media type of what ``thumbnail`` has made."""
    return "image/webp" if data[:4] == b"RIFF" else "image/jpeg"


# ------------------------------------------------------------------ what it is


def _head(source: Source) -> bytes:
    if isinstance(source, bytes):
        return source[:64]
    with source.open("rb") as file:
        return file.read(64)


def _image_type(head: bytes) -> str | None:
    """Pillow's name of the image format that these first bytes are of."""
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if head.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    if head[:6] in (b"GIF87a", b"GIF89a"):
        return "GIF"
    if head[:2] == b"BM" and len(head) >= 26:
        return "BMP"
    if head[:4] in (b"II*\x00", b"MM\x00*"):
        return "TIFF"
    return None


def _demuxer(head: bytes) -> str | None:
    """FFmpeg's name of the demuxer for these first bytes."""
    if head[:4] in (b"RIFF", b"RF64") and head[8:12] == b"WAVE":
        return "wav"
    if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
        return "avi"
    if head[:4] == b"fLaC":
        return "flac"
    if head[:4] == b"OggS":
        return "ogg"
    if head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"):
        return "mov"
    if head[:4] == b"\x1aE\xdf\xa3":
        return "matroska"
    if head[:3] == b"ID3":
        return "mp3"
    if len(head) >= 4 and head[0] == 0xFF and head[1] & 0xE0 == 0xE0:
        return "aac" if head[1] & 0x06 == 0 else "mp3"  # the layer bits are 00 in ADTS only
    return None


# ------------------------------------------------------------------ pictures


@contextmanager
def open_image(source: Source) -> Iterator[Image.Image]:
    """Open a picture without decoding it; refuses what Pillow does not know, and what is too large to decode."""
    file: Any = io.BytesIO(source) if isinstance(source, bytes) else source
    try:
        with Image.open(file, formats=tuple(IMAGE_TYPES)) as image:
            if image.width * image.height > MAX_IMAGE_PX:
                raise UnsupportedMedia(
                    f"The picture has {image.width}×{image.height} pixels, more than {MAX_IMAGE_PX // 1_000_000}"
                    " million. Nothing was stored; send a smaller one."
                )
            yield image
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):  # Pillow's own limits are above ours
        raise UnsupportedMedia(
            f"The picture has more than {MAX_IMAGE_PX // 1_000_000} million pixels. Nothing was stored; send a smaller"
            " one."
        ) from None
    except BROKEN_IMAGE as error:
        raise UnsupportedMedia(
            "The picture is broken or incomplete and cannot be read. Nothing was stored; save it anew as PNG or JPEG."
        ) from error


def demuxer_of(source: Source) -> str | None:
    """FFmpeg's name of the demuxer for a recording or clip, None for anything else."""
    head = _head(source)
    return None if _image_type(head) is not None else _demuxer(head)


def _inspect_image(source: Source, image_type: str) -> Media:
    size = len(source) if isinstance(source, bytes) else source.stat().st_size
    if size > MAX_IMAGE_BYTES:
        raise PayloadTooLarge(
            f"The picture has {size / (1 << 20):.0f} MiB, more than {MAX_IMAGE_BYTES >> 20}. Nothing was stored;"
            " save it smaller, or as JPEG."
        )
    with open_image(source) as image:
        image.load()  # a picture cut short is found here, not an hour later in an engine
        turned = image.getexif().get(0x0112) in (5, 6, 7, 8)  # EXIF orientation by a quarter
        width, height = (image.height, image.width) if turned else (image.width, image.height)
        return Media(
            media_type=IMAGE_TYPES.get(image.format or "", IMAGE_TYPES[image_type]), width=width, height=height
        )


def _small(image: Image.Image) -> bytes:
    image = ImageOps.exif_transpose(image)
    image.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX), Image.Resampling.LANCZOS, reducing_gap=2.0)
    out = io.BytesIO()
    if image.has_transparency_data:
        image.convert("RGBA").save(out, "WEBP", quality=80, method=2)
    else:
        if image.mode.startswith("I"):  # 16 bits of grey: convert() would cut instead of scale
            image = image.point(lambda value: value / 256).convert("L")
        image.convert("RGB").save(out, "JPEG", quality=82, optimize=True)
    return out.getvalue()


# ------------------------------------------------------------------ sound and clips


@contextmanager
def open_container(source: Source, demuxer: str) -> Iterator[Any]:
    """Open a recording or clip by this demuxer and no other. Raises UnsupportedMedia for what breaks inside, too."""
    file: IO[bytes] = io.BytesIO(source) if isinstance(source, bytes) else source.open("rb")
    with file:
        try:
            with av.open(file, format=demuxer, metadata_errors="replace") as container:
                yield container
        except (av.error.FFmpegError, ValueError, OSError, EOFError, IndexError, AttributeError, TypeError) as error:
            raise UnsupportedMedia(
                "The recording or clip is broken and cannot be read. Nothing was stored; save it anew, as WAV or MP4."
            ) from error


def _inspect_stream(source: Source, demuxer: str) -> Media:
    with open_container(source, demuxer) as container:
        video = next((s for s in container.streams.video if not is_cover(s)), None)
        stream = video or next(iter(container.streams.audio), None)
        if stream is None:
            raise UnsupportedMedia("The file holds neither sound nor moving pictures. Nothing was stored.")
        if video is not None and video.width * video.height > MAX_IMAGE_PX:
            raise UnsupportedMedia("The clip's pictures are too large. Nothing was stored; send a smaller clip.")
        if next(container.decode(stream), None) is None:
            raise UnsupportedMedia("The file holds no sound and no picture that can be read. Nothing was stored.")
    duration_s = max(
        (_measure_s(source, demuxer, s) for s in ("audio", "video")),
        default=0.0,
    )
    if duration_s <= 0:
        raise UnsupportedMedia("The recording has no length: it holds nothing. Nothing was stored.")
    return Media(
        media_type=_stream_type(demuxer, _head(source), is_video=video is not None),
        width=video.width if video is not None else None,
        height=video.height if video is not None else None,
        duration_s=round(duration_s, 3),
    )


def _measure_s(source: Source, demuxer: str, kind: str) -> float:
    """The length of the first stream of a kind, from its packets: a header may say anything, and prices follow it.

    It is the larger of what the timestamps and what the packets' own samples come to.
    """
    with open_container(source, demuxer) as container:
        stream = next((s for s in getattr(container.streams, kind) if not is_cover(s)), None)
        if stream is None or stream.time_base is None:
            return 0.0
        first: int | None = None
        end, total, packets = 0, 0, 0
        for packet in container.demux(stream):
            if packet.size == 0:
                continue
            packets += 1
            total += packet.duration or 0
            if packet.pts is not None:
                first = packet.pts if first is None else min(first, packet.pts)
                end = max(end, packet.pts + (packet.duration or 0))
        context = stream.codec_context
        by_time = float(max(end - (first or 0), total) * stream.time_base)
        frame_size = getattr(context, "frame_size", 0) or 0
        rate = getattr(context, "sample_rate", 0) or 0
        by_samples = packets * frame_size / rate if kind == "audio" and frame_size > 1 and rate else 0.0
        return max(by_time, by_samples)


def is_cover(stream: Any) -> bool:
    """Whether a video stream is only the picture on a record's sleeve."""
    return bool(stream.type == "video" and int(stream.disposition) & int(av.stream.Disposition.attached_pic))


def _stream_type(demuxer: str, head: bytes, *, is_video: bool) -> str:
    match demuxer:
        case "mov":
            if is_video:
                return "video/quicktime" if head[8:12] == b"qt  " or head[4:8] != b"ftyp" else "video/mp4"
            return "audio/mp4"
        case "matroska":
            if b"webm" in head:
                return "video/webm" if is_video else "audio/webm"
            return "video/x-matroska" if is_video else "audio/webm"
        case "ogg":
            return "video/ogg" if is_video else "audio/ogg"
        case "avi":
            return "video/x-msvideo"
    return {"wav": "audio/wav", "mp3": "audio/mpeg", "flac": "audio/flac", "aac": "audio/aac"}[demuxer]


def _first_real_frame(data: bytes) -> Image.Image:
    """The first frame that is not black; where all of the first two seconds are, the brightest of them."""
    demuxer = _demuxer(data[:64])
    if demuxer is None:
        raise UnsupportedMedia
    best: Image.Image | None = None
    best_level = -1.0
    with open_container(data, demuxer) as container:
        for number, frame in enumerate(container.decode(video=0)):
            picture = frame.to_image()
            sample = picture.convert("L").resize((16, 16)).tobytes()
            level = sum(sample) / len(sample)
            if level > best_level:
                best, best_level = picture, level
            if level > BLACK_LEVEL or number >= MAX_FADE_FRAMES:
                break
    if best is None:
        raise UnsupportedMedia
    return best

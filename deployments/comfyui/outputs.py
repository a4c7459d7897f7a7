"""Whether what a server delivered is what was asked for. Pure CPU work: call it in a thread."""

from __future__ import annotations

import io
from dataclasses import dataclass

from PIL import Image

from deployments.comfyui.binding import Expected
from tessera.engine import Output
from tessera.errors import BadOutput, PayloadTooLarge, UnsupportedMedia
from tessera.jobs import Kind
from tessera.media.inspecting import Media, inspect

FAMILIES = {Kind.IMAGE: "image", Kind.VIDEO: "video", Kind.MUSIC: "audio", Kind.SPEECH: "audio"}
AGAIN = "The job is tried again."
PREVIEW_PX = 384
PREVIEW_BYTES = 48 * 1024
TOLERANCE_S, TOLERANCE = 0.75, 0.05  # codecs round to their frames, and models to their latents


@dataclass(frozen=True, kw_only=True)
class Verified:
    """A file that is what it should be."""

    data: bytes
    media: Media


def verify(data: bytes, expected: Expected) -> Verified:
    """Raises BadOutput unless the file is a readable one of the kind, size and length asked for."""
    try:
        media = inspect(data)
    except (UnsupportedMedia, PayloadTooLarge) as error:
        raise BadOutput(f"The image server's file cannot be read. {AGAIN}", why=error.message) from error
    family = media.media_type.partition("/")[0]
    wanted = FAMILIES[expected.kind]
    animated = expected.kind is Kind.VIDEO and media.media_type in ("image/webp", "image/gif")
    if family != wanted and not animated:
        raise BadOutput(f"The image server delivered {media.media_type} instead of {wanted}. {AGAIN}")
    if expected.width is not None and (media.width, media.height) != (expected.width, expected.height):
        raise BadOutput(
            f"The image server delivered {media.width} × {media.height} pixels instead of "
            f"{expected.width} × {expected.height}. {AGAIN}"
        )
    if expected.duration_s is not None and media.duration_s is not None:
        slack = max(TOLERANCE_S, TOLERANCE * expected.duration_s)
        if abs(media.duration_s - expected.duration_s) > slack:
            raise BadOutput(
                f"The image server delivered {media.duration_s:.1f} s instead of {expected.duration_s:.1f} s. {AGAIN}"
            )
    return Verified(data=data, media=media)


def output_of(index: int, verified: Verified) -> Output:
    """A verified file as an engine hands it on."""
    media = verified.media
    return Output(
        index=index,
        media_type=media.media_type,
        data=verified.data,
        width=media.width,
        height=media.height,
        duration_s=media.duration_s,
    )


def small_preview(data: bytes, media_type: str) -> tuple[str, bytes] | None:
    """A preview of a few tens of KiB; None for bytes that are no picture."""
    try:
        with Image.open(io.BytesIO(data), formats=("JPEG", "PNG")) as picture:
            if len(data) <= PREVIEW_BYTES:
                picture.verify()
                return (Image.MIME.get(picture.format or "", media_type), data)
            picture.thumbnail((PREVIEW_PX, PREVIEW_PX))
            out = io.BytesIO()
            picture.convert("RGB").save(out, "JPEG", quality=75)
            return "image/jpeg", out.getvalue()
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None

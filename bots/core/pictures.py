"""Files made fit for a chat: several pictures in one grid, what is too large made smaller, the end of a clip.

Blocking work on bytes; callers run it in a thread.
"""

from __future__ import annotations

import io
import math

import av
from PIL import Image, UnidentifiedImageError

from bots.core.views import Media

GAP_PX = 8
MAX_PIXELS = 60_000_000  # more than any result; a picture of a person that claims more is not opened
PHOTO_SIDES_PX = 9_000  # Telegram takes width + height up to 10,000
QUALITIES = (90, 80, 68)


class UnreadableFile(Exception):
    """The bytes are no picture or clip that can be read."""


def grid(pictures: list[Media], *, side_px: int = 1024) -> Media:
    """Two to four pictures as one, each numbered by its place: left to right, then down."""
    opened = [_open(picture.data).convert("RGB") for picture in pictures]
    columns = 2
    rows = math.ceil(len(opened) / columns)
    scale = min(1.0, side_px / max(max(image.size) for image in opened))
    width = round(max(image.width for image in opened) * scale)
    height = round(max(image.height for image in opened) * scale)
    sheet = Image.new("RGB", (columns * width + GAP_PX, rows * height + (rows - 1) * GAP_PX), (18, 18, 20))
    for number, image in enumerate(opened):
        small = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.LANCZOS)
        sheet.paste(small, ((number % columns) * (width + GAP_PX), (number // columns) * (height + GAP_PX)))
    first = pictures[0]
    return Media(
        name="grid.jpg",
        media_type="image/jpeg",
        data=_jpeg(sheet, 90),
        spoiler=first.spoiler,
        width=sheet.width,
        height=sheet.height,
    )


def smaller(media: Media, limit_bytes: int) -> Media | None:
    """The same with at most ``limit_bytes``, None when that cannot be done with dignity."""
    try:
        if media.is_video:
            return _smaller_clip(media, limit_bytes)
        return _smaller_picture(media, limit_bytes) if media.is_image else None
    except (UnreadableFile, av.FFmpegError):
        return None


def as_photo(media: Media, limit_bytes: int) -> Media:
    """A picture as a photo of Telegram may be: below the limit of bytes and of width + height."""
    image = _open(media.data)
    if len(media.data) <= limit_bytes and image.width + image.height <= PHOTO_SIDES_PX:
        return media
    return _smaller_picture(media, limit_bytes) or media


def last_frame(clip: bytes) -> bytes:
    """The last picture of a clip as PNG. Raises UnreadableFile."""
    last = None
    try:
        with av.open(io.BytesIO(clip), "r") as container:
            for frame in container.decode(video=0):
                last = frame
    except av.FFmpegError as error:
        raise UnreadableFile(str(error)) from error
    if last is None:
        raise UnreadableFile("a clip without a picture")
    out = io.BytesIO()
    Image.fromarray(last.to_ndarray(format="rgb24")).save(out, "PNG")
    return out.getvalue()


def is_picture(data: bytes) -> bool:
    """Whether these bytes are a picture that can be started from."""
    try:
        return _open(data).format in ("JPEG", "PNG", "WEBP")
    except UnreadableFile:
        return False


def _open(data: bytes) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(data))
        if image.width * image.height > MAX_PIXELS:
            raise UnreadableFile("more pixels than can be handled")
        image.load()
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError) as error:
        raise UnreadableFile(str(error)) from error
    return image


def _jpeg(image: Image.Image, quality: int) -> bytes:
    out = io.BytesIO()
    image.convert("RGB").save(out, "JPEG", quality=quality, optimize=True)
    return out.getvalue()


def _smaller_picture(media: Media, limit_bytes: int) -> Media | None:
    image = _open(media.data)
    scale = min(1.0, PHOTO_SIDES_PX / (image.width + image.height))
    for _ in range(5):
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        small = image if scale == 1.0 else image.resize(size, Image.Resampling.LANCZOS)
        for quality in QUALITIES:
            data = _jpeg(small, quality)
            if len(data) <= limit_bytes:
                return Media(
                    name=media.name.rsplit(".", 1)[0] + ".jpg",
                    media_type="image/jpeg",
                    data=data,
                    spoiler=media.spoiler,
                    width=small.width,
                    height=small.height,
                )
        scale *= 0.7
    return None


def _smaller_clip(media: Media, limit_bytes: int) -> Media | None:
    duration_s = media.duration_s or 4.0
    for share in (0.85, 0.5, 0.3):
        bits_per_s = int(limit_bytes * 8 * share / max(duration_s, 0.25))
        if bits_per_s < 60_000:
            return None
        data = _encode(media.data, bits_per_s, halve=share < 0.6)
        if len(data) <= limit_bytes:
            return Media(
                name=media.name, media_type="video/mp4", data=data, spoiler=media.spoiler, duration_s=media.duration_s
            )
    return None


def _encode(clip: bytes, bits_per_s: int, *, halve: bool) -> bytes:
    out = io.BytesIO()
    with av.open(io.BytesIO(clip), "r") as source, av.open(out, "w", format="mp4") as target:
        video = source.streams.video[0]
        divisor = 2 if halve else 1
        stream = target.add_stream("libx264", rate=video.average_rate)
        stream.width, stream.height = video.width // divisor // 2 * 2, video.height // divisor // 2 * 2
        stream.pix_fmt, stream.bit_rate = "yuv420p", bits_per_s
        for frame in source.decode(video):
            target.mux(stream.encode(frame.reformat(stream.width, stream.height, "yuv420p")))
        target.mux(stream.encode())
    return out.getvalue()

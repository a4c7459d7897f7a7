"""Pictures that users send: opened safely, turned upright, brought to size; and those that go out, as PNG or JPEG."""

from __future__ import annotations

import io
import struct

import numpy as np
from PIL import Image, ImageFilter, ImageOps
from PIL.PngImagePlugin import PngInfo

from deployments.preview.flag import CancelFlag, CancellableBytes
from tessera.engine import EngineJob, Preview
from tessera.errors import InvalidInput

MAX_PIXELS = 48_000_000  # more than any telephone's camera takes; decoded it is 144 MB
SOFTWARE = "Tessera preview"

# Only formats whose decoders are Pillow's own and plain: EPS, for one, would start Ghostscript.
_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "MPO", "ICO", "PPM", "TGA", "JPEG2000", "AVIF")
_BROKEN = (
    OSError, SyntaxError, ValueError, TypeError, EOFError, KeyError, IndexError, OverflowError, struct.error,
    Image.DecompressionBombError, Image.DecompressionBombWarning,
)  # fmt: skip

PREVIEW_SIDE_PX = 384
PREVIEW_MAX_BYTES = 40_000


def opened(job: EngineJob, name: str) -> Image.Image:
    """The picture in ``job.files[name]``, upright, as RGB or, where anything in it is transparent, RGBA.

    Raises InvalidInput where it is absent, larger than 48 megapixels, or cannot be decoded.
    """
    file = job.files.get(name)
    if file is None or not file.data:
        raise InvalidInput(
            f"The file of '{name}' is missing or empty. Nothing was charged; upload a PNG, JPEG or WebP."
        )
    try:
        with Image.open(io.BytesIO(file.data), formats=_FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise InvalidInput(
                    f"The picture in '{name}' has {image.width} × {image.height} pixels; at most "
                    f"{MAX_PIXELS // 1_000_000} megapixels can be read. Nothing was charged; send it smaller."
                )
            image.load()
            upright = ImageOps.exif_transpose(image)
            return _plain(upright)
    except Image.DecompressionBombError as error:
        raise InvalidInput(
            f"The picture in '{name}' unpacks to far more pixels than can be read (at most "
            f"{MAX_PIXELS // 1_000_000} megapixels). Nothing was charged; send it smaller."
        ) from error
    except Image.DecompressionBombWarning as error:
        raise InvalidInput(
            f"The picture in '{name}' has more pixels than can be read (at most {MAX_PIXELS // 1_000_000} megapixels). "
            "Nothing was charged; send it smaller."
        ) from error
    except _BROKEN as error:
        raise InvalidInput(
            f"The picture in '{name}' cannot be decoded. Nothing was charged; send a PNG, JPEG, WebP, GIF or TIFF file."
        ) from error


def _plain(image: Image.Image) -> Image.Image:
    """RGB, or RGBA where something is transparent; 16-bit and floating samples are scaled to 8 bits."""
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image, dtype=np.float32)
        top = 65_535.0 if image.mode.startswith("I;16") or values.max(initial=0) > 255 else 255.0
        return Image.fromarray((values / top * 255).clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        opaque = np.asarray(rgba.getchannel("A")).min(initial=255) == 255
        return rgba.convert("RGB") if opaque else rgba
    return image.convert("RGB")


def on_white(image: Image.Image, ground: int = 255) -> Image.Image:
    """Without transparency: laid on white, or on the grey given."""
    if image.mode != "RGBA":
        return image.convert("RGB")
    paper = Image.new("RGBA", image.size, (ground, ground, ground, 255))
    return Image.alpha_composite(paper, image).convert("RGB")


def fitted(image: Image.Image, width: int, height: int) -> Image.Image:
    """Filling width × height, cut at the middle where the proportions differ."""
    if image.size == (width, height):
        return image
    return ImageOps.fit(image, (width, height), Image.Resampling.LANCZOS)


def sharpened(image: Image.Image, flag: CancelFlag, *, radius: float = 1.2, percent: int = 60) -> Image.Image:
    """Sharpened in bands of rows, so that a cancel lands between them."""
    band, margin = 384, 8
    if image.mode == "RGBA":
        rgb = sharpened(image.convert("RGB"), flag, radius=radius, percent=percent)
        rgb.putalpha(image.getchannel("A"))
        return rgb
    out = Image.new(image.mode, image.size)
    mask = ImageFilter.UnsharpMask(radius=radius, percent=percent, threshold=2)
    for top in range(0, image.height, band):
        flag.check()
        start, end = max(0, top - margin), min(image.height, top + band + margin)
        piece = image.crop((0, start, image.width, end)).filter(mask)
        out.paste(piece.crop((0, top - start, image.width, min(image.height, top + band) - start)), (0, top))
    return out


def png(image: Image.Image, flag: CancelFlag) -> bytes:
    """The picture as a PNG that names its software and nothing else. Raises Cancelled."""
    info = PngInfo()
    info.add_text("Software", SOFTWARE)
    buffer = CancellableBytes(flag)
    image.save(buffer, "PNG", pnginfo=info, compress_level=4)
    return buffer.getvalue()


def preview(image: Image.Image) -> Preview:
    """A small JPEG of at most 40 KB."""
    small = image.convert("RGB")
    small.thumbnail((PREVIEW_SIDE_PX, PREVIEW_SIDE_PX), Image.Resampling.BILINEAR)
    for quality in (78, 60, 40, 20):
        buffer = io.BytesIO()
        small.save(buffer, "JPEG", quality=quality)
        if buffer.tell() <= PREVIEW_MAX_BYTES:
            break
    return Preview(media_type="image/jpeg", data=buffer.getvalue())

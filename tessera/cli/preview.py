"""A small picture as characters: two pixels to a cell, by the upper half block."""

from __future__ import annotations

import io

from rich.color import Color
from rich.style import Style
from rich.text import Text


def thumbnail(data: bytes, *, columns: int, rows: int) -> Text | None:
    """The picture in at most this many cells, or None when it cannot be read (a preview is never worth a failure)."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data)) as opened:
            if opened.width * opened.height > 4_000_000:  # a preview is small; this is not one
                return None
            picture = opened.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
    scale = min(columns / picture.width, 2 * rows / picture.height)
    width, height = max(1, round(picture.width * scale)), max(2, round(picture.height * scale) // 2 * 2)
    pixels = picture.resize((width, height)).tobytes()

    def color(x: int, y: int) -> Color:
        start = 3 * (y * width + x)
        return Color.from_rgb(*pixels[start : start + 3])

    text = Text(no_wrap=True)
    for y in range(0, height, 2):
        text.append("  ")
        for x in range(width):
            text.append("▀", Style(color=color(x, y), bgcolor=color(x, y + 1)))
        text.append("\n")
    return text

"""The canvas: layers painted back to front, kept for the video engine when it asks for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from deployments.preview.noise import Field
from deployments.preview.palette import Colour

Picture = NDArray[np.floating[Any]]  # (height, width, 3), 0…1 as shown


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One thing painted: colours and coverage of a rectangle whose corner is at (left, top).

    ``near`` is 0 at the horizon and 1 at the viewer's feet; ``motion`` tells the video engine how it moves (still,
    drift, water, twinkle, glow, sway, fly, float). ``glow`` layers are light: they are added, not laid over.
    """

    name: str
    rgb: Picture
    alpha: Field
    left: int = 0
    top: int = 0
    near: float = 0.0
    motion: str = "still"
    glow: bool = False


@dataclass(kw_only=True)
class Canvas:
    """The picture so far, and the layers it is made of when ``keep`` is set."""

    width: int
    height: int
    keep: bool = False
    rgb: Picture = field(init=False)
    layers: list[Layer] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rgb = np.zeros((self.height, self.width, 3), dtype=np.float32)

    @property
    def unit(self) -> float:
        """The length that things are measured in: a hundredth of the shorter side; more in a panorama, so that things
        do not vanish there, but never so much that they do not fit."""
        shorter, longer = min(self.width, self.height), max(self.width, self.height)
        return min(max(shorter, 0.6 * longer), 1.6 * shorter) / 100

    def add(self, layer: Layer) -> None:
        """Lay a layer over the picture; what lies outside is cut off."""
        height, width = layer.alpha.shape
        top, left = max(0, layer.top), max(0, layer.left)
        bottom, right = min(self.height, layer.top + height), min(self.width, layer.left + width)
        if self.keep:
            self.layers.append(layer)
        if bottom <= top or right <= left:
            return
        inner = (slice(top - layer.top, bottom - layer.top), slice(left - layer.left, right - layer.left))
        view = self.rgb[top:bottom, left:right]
        blend(view, layer.rgb[inner], layer.alpha[inner], glow=layer.glow)


def blend(view: Picture, rgb: Picture, alpha: Field, *, glow: bool) -> None:
    """Lay colours over a part of a picture, in place. Light screens: it brightens and never goes beyond white."""
    cover = alpha[..., None]
    if glow:
        view += (1 - view) * np.clip(rgb * cover, 0, 1)
    else:
        view += (rgb - view) * cover


def flat(shape: tuple[int, int], tone: Colour) -> Picture:
    """One colour."""
    return np.broadcast_to(np.array(tone, dtype=np.float32), (*shape, 3))


def ramp(stops: Sequence[Colour], places: Sequence[float], at: Field) -> Picture:
    """Colours of a gradient at the given places (0…1)."""
    out = np.empty((*at.shape, 3), dtype=np.float32)
    for channel in range(3):
        out[..., channel] = np.interp(at, places, [stop[channel] for stop in stops])
    return out


def between(a: Colour | Picture, b: Colour | Picture, share: Field) -> Picture:
    """Per pixel from ``a`` (share 0) to ``b`` (share 1)."""
    first, second = np.asarray(a, dtype=np.float32), np.asarray(b, dtype=np.float32)
    out: Picture = first + (second - first) * share[..., None]
    return out


class Sprite:
    """A small drawing in its own coordinates, anti-aliased: x from -1 to 1 over the width, y from 0 at the foot up to
    ``aspect`` × 2 at the top, so that a unit is the same length both ways."""

    SUPERSAMPLING = 3

    def __init__(self, width: float, aspect: float = 1.0) -> None:
        self.width = max(2, round(width))
        self.height = max(2, round(width * aspect))
        self._scale = self.width * self.SUPERSAMPLING / 2
        size = (self.width * self.SUPERSAMPLING, self.height * self.SUPERSAMPLING)
        self._image = Image.new("RGBA", size, (0, 0, 0, 0))
        self._draw = ImageDraw.Draw(self._image)

    def _at(self, x: float, y: float) -> tuple[float, float]:
        return ((x + 1) * self._scale, self._image.height - y * self._scale)

    def polygon(self, points: Sequence[tuple[float, float]], tone: Colour, alpha: float = 1.0) -> None:
        self._draw.polygon([self._at(x, y) for x, y in points], fill=_rgba(tone, alpha))

    def box(self, x0: float, y0: float, x1: float, y1: float, tone: Colour, alpha: float = 1.0) -> None:
        self.polygon([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], tone, alpha)

    def ellipse(self, x: float, y: float, rx: float, ry: float, tone: Colour, alpha: float = 1.0) -> None:
        (left, top), (right, bottom) = self._at(x - rx, y + ry), self._at(x + rx, y - ry)
        self._draw.ellipse((left, top, max(left, right), max(top, bottom)), fill=_rgba(tone, alpha))

    def line(self, points: Sequence[tuple[float, float]], width: float, tone: Colour, alpha: float = 1.0) -> None:
        pixels = max(1, round(width * self._scale))
        self._draw.line([self._at(x, y) for x, y in points], fill=_rgba(tone, alpha), width=pixels, joint="curve")

    def curve(self, points: Sequence[tuple[float, float]], tone: Colour, alpha: float = 1.0) -> None:
        """A closed smooth shape through the points."""
        self.polygon(rounded(points), tone, alpha)

    def layer(
        self, name: str, x: float, foot: float, *, near: float, motion: str = "still", mirrored: bool = False
    ) -> Layer:
        """The drawing as a layer whose foot stands at (x, foot) on the canvas."""
        small = self._image.reduce(self.SUPERSAMPLING)
        if mirrored:
            small = small.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        pixels = np.asarray(small, dtype=np.float32) / 255
        return Layer(
            name=name,
            rgb=pixels[..., :3],
            alpha=pixels[..., 3],
            left=round(x - self.width / 2),
            top=round(foot - self.height),
            near=near,
            motion=motion,
        )


def _rgba(tone: Colour, alpha: float) -> tuple[int, int, int, int]:
    return (*(max(0, min(255, round(part * 255))) for part in tone), round(alpha * 255))  # type: ignore[return-value]


def rounded(points: Sequence[tuple[float, float]], steps: int = 8) -> list[tuple[float, float]]:
    """A closed Catmull-Rom curve through the points."""
    out = []
    n = len(points)
    for i in range(n):
        (x0, y0), (x1, y1), (x2, y2), (x3, y3) = (points[(i + k - 1) % n] for k in range(4))
        for step in range(steps):
            t = step / steps
            a, b, c, d = -t + 2 * t**2 - t**3, 2 - 5 * t**2 + 3 * t**3, t + 4 * t**2 - 3 * t**3, t**3 - t**2
            out.append(((a * x0 + b * x1 + c * x2 + d * x3) / 2, (a * y0 + b * y1 + c * y2 + d * y3) / 2))
    return out


def glow_layer(
    name: str,
    width: int,
    height: int,
    x: float,
    y: float,
    radius: float,
    tone: Colour,
    strength: float,
    *,
    near: float = 0.0,
    motion: str = "glow",
) -> Layer:
    """A soft light around (x, y)."""
    reach = int(radius * 3) + 1
    left, top = max(0, round(x) - reach), max(0, round(y) - reach)
    right, bottom = min(width, round(x) + reach), min(height, round(y) + reach)
    ys, xs = np.mgrid[top : max(bottom, top + 1), left : max(right, left + 1)].astype(np.float32)
    far = ((xs - np.float32(x)) ** 2 + (ys - np.float32(y)) ** 2) / np.float32(radius**2)
    edge = np.clip(1 - far / 9, 0, 1)
    alpha = np.float32(strength) * (0.65 * np.exp(-far * 3) + 0.35 / (1 + 3 * far)) * edge
    return Layer(
        name=name,
        rgb=flat(alpha.shape, tone),
        alpha=alpha.astype(np.float32),
        left=left,
        top=top,
        near=near,
        motion=motion,
        glow=True,
    )

"""Animals and people, mostly as silhouettes against the light."""

from __future__ import annotations

import math

import numpy as np

from deployments.preview.canvas import Canvas, Sprite
from deployments.preview.palette import Colour, Palette, mix, scale


def silhouette(palette: Palette, tone: Colour | None, share: float = 0.8) -> Colour:
    """Nearly black in the colour of the shade; an animal's own colour shows through."""
    dark = mix(scale(palette.deep, 0.5), (0.03, 0.03, 0.05), 0.55)
    return mix(tone, dark, share) if tone else dark


def paint_cat(
    canvas: Canvas, palette: Palette, x: float, foot: float, size: float, *, mirrored: bool, tone: Colour | None = None
) -> None:
    """A sitting cat seen from behind at an angle, tail round its feet, with a rim of light."""
    for rim in (True, False):
        sprite = Sprite(size, aspect=1.35)
        body = (
            mix(silhouette(palette, tone, 0.55), palette.sun, 0.55)
            if rim
            else silhouette(palette, tone, 0.55 if tone else 0.8)
        )
        shift = 0.022 if rim else 0.0
        sprite.curve(
            [
                (x_ - shift, y_ + shift)
                for x_, y_ in (
                    (-0.42, 0.02),
                    (-0.52, 0.3),
                    (-0.46, 0.68),
                    (-0.3, 1.05),
                    (-0.22, 1.36),
                    (-0.24, 1.55),
                    (0.2, 1.55),
                    (0.2, 1.36),
                    (0.24, 1.05),
                    (0.34, 0.6),
                    (0.4, 0.2),
                    (0.34, 0.02),
                )
            ],
            body,
        )
        sprite.curve(
            [
                (x_ - shift, y_ + shift)
                for x_, y_ in (
                    (-0.4, 1.72),
                    (-0.34, 1.5),
                    (-0.14, 1.38),
                    (0.1, 1.38),
                    (0.3, 1.5),
                    (0.36, 1.72),
                    (0.28, 1.94),
                    (0.1, 2.04),
                    (-0.14, 2.04),
                    (-0.32, 1.94),
                )
            ],
            body,
        )
        for side in (-1, 1):
            sprite.polygon(
                [
                    (-0.02 + side * 0.36 - shift, 1.8 + shift),
                    (-0.02 + side * 0.33 - shift, 2.36 + shift),
                    (-0.02 + side * 0.07 - shift, 2.02 + shift),
                ],
                body,
            )
        sprite.line(
            [
                (x_ - shift, y_ + shift)
                for x_, y_ in _arc(((0.25, 0.1), (0.6, 0.06), (0.82, 0.3), (0.8, 0.68), (0.66, 0.92), (0.7, 1.1)))
            ],
            0.12,
            body,
        )
        sprite.ellipse(0.7 - shift, 1.12 + shift, 0.062, 0.07, body)
        sprite.ellipse(-0.2 - shift, 0.08 + shift, 0.2, 0.09, body)
        sprite.ellipse(0.16 - shift, 0.08 + shift, 0.18, 0.09, body)
        canvas.add(sprite.layer("cat", x, foot, near=0.9, mirrored=mirrored))


def _arc(points: tuple[tuple[float, float], ...]) -> list[tuple[float, float]]:
    """An open smooth curve through the points (Catmull-Rom)."""
    padded = (points[0], *points, points[-1])
    out = []
    for i in range(1, len(padded) - 2):
        (x0, y0), (x1, y1), (x2, y2), (x3, y3) = padded[i - 1 : i + 3]
        for step in range(9):
            t = step / 8
            a, b, c, d = -t + 2 * t**2 - t**3, 2 - 5 * t**2 + 3 * t**3, t + 4 * t**2 - 3 * t**3, t**3 - t**2
            out.append(((a * x0 + b * x1 + c * x2 + d * x3) / 2, (a * y0 + b * y1 + c * y2 + d * y3) / 2))
    return out


def paint_dog(
    canvas: Canvas, palette: Palette, x: float, foot: float, size: float, *, mirrored: bool, tone: Colour | None = None
) -> None:
    """A fox-like dog standing in profile; a wolf when it is dark."""
    for rim in (True, False):
        sprite = Sprite(size, aspect=0.95)
        body = (
            mix(silhouette(palette, tone, 0.5), palette.sun, 0.5)
            if rim
            else silhouette(palette, tone, 0.5 if tone else 0.85)
        )
        s = 0.018 if rim else 0.0

        def at(points: tuple[tuple[float, float], ...], shift: float = s) -> list[tuple[float, float]]:
            return [(px - shift, py + shift) for px, py in points]

        sprite.curve(
            at(
                (
                    (-0.5, 0.72),
                    (-0.52, 0.98),
                    (-0.2, 1.06),
                    (0.2, 1.02),
                    (0.45, 1.1),
                    (0.52, 0.86),
                    (0.38, 0.66),
                    (0.05, 0.66),
                    (-0.25, 0.62),
                )
            ),
            body,
        )
        for leg in (-0.46, -0.33, 0.28, 0.42):
            sprite.polygon(
                at(
                    (
                        (leg - 0.07, 0.8),
                        (leg + 0.09, 0.8),
                        (leg + 0.045, 0.35),
                        (leg + 0.06, 0.0),
                        (leg - 0.045, 0.0),
                        (leg - 0.04, 0.36),
                    )
                ),
                body,
            )
        sprite.curve(
            at(
                (
                    (0.36, 0.95),
                    (0.46, 1.28),
                    (0.58, 1.44),
                    (0.7, 1.4),
                    (0.96, 1.26),
                    (0.95, 1.2),
                    (0.74, 1.17),
                    (0.6, 1.02),
                )
            ),
            body,
        )
        sprite.polygon(at(((0.5, 1.38), (0.5, 1.68), (0.64, 1.42))), body)
        sprite.polygon(at(((0.58, 1.4), (0.63, 1.66), (0.7, 1.4))), body)
        sprite.curve(
            at(((-0.44, 0.95), (-0.62, 0.92), (-0.86, 0.6), (-0.96, 0.36), (-0.82, 0.4), (-0.66, 0.56), (-0.5, 0.78))),
            body,
        )
        canvas.add(sprite.layer("dog", x, foot, near=0.9, mirrored=mirrored))


def paint_birds(
    canvas: Canvas,
    palette: Palette,
    area: tuple[float, float, float, float],
    rng: np.random.Generator,
    *,
    count: int,
    pale: bool,
) -> None:
    """A flock in the rectangle (left, top, right, bottom); ``pale`` for gulls against dark skies."""
    left, top, right, bottom = area
    cx, cy = rng.uniform(left, right), rng.uniform(top, bottom)
    tone = mix(palette.lit, (1, 1, 1), 0.5) if pale else silhouette(palette, None)
    for _ in range(count):
        size = canvas.unit * float(rng.uniform(1.2, 3.6))
        flap = float(rng.uniform(-0.12, 0.42))
        sprite = Sprite(size * 2, aspect=0.6)
        for side in (-1, 1):
            wing = _arc(
                (
                    (0.0, 0.5),
                    (side * 0.28, 0.58 + flap * 0.7),
                    (side * 0.58, 0.56 + flap * 0.8),
                    (side * 0.97, 0.4 + flap * 0.4),
                )
            )
            under = [(px, py - 0.11 * (1 - abs(px)) - 0.01) for px, py in reversed(wing)]
            sprite.polygon(wing + under, tone)
        sprite.ellipse(0, 0.48, 0.11, 0.06, tone)
        x, y = cx + float(rng.normal(0, 0.13)) * (right - left), cy + float(rng.normal(0, 0.2)) * (bottom - top)
        canvas.add(sprite.layer("bird", x, y, near=0.3, motion="fly", mirrored=bool(rng.random() < 0.5)))


def paint_person(
    canvas: Canvas,
    palette: Palette,
    x: float,
    foot: float,
    size: float,
    *,
    coat: Colour | None,
    hat: bool,
    mirrored: bool,
    near: float = 0.8,
) -> None:
    """A wanderer seen from behind, coat in the wind."""
    for rim in (True, False):
        sprite = Sprite(size * 0.55, aspect=1.85)
        dark = silhouette(palette, None)
        cloth = silhouette(palette, coat, 0.42) if coat else dark
        if rim:
            dark, cloth = mix(dark, palette.sun, 0.5), mix(cloth, palette.sun, 0.5)
        s = 0.03 if rim else 0.0
        for leg in (-0.17, 0.15):
            sprite.polygon(
                [(leg - 0.12 - s, 1.2 + s), (leg + 0.12 - s, 1.2 + s), (leg + 0.09 - s, s), (leg - 0.1 - s, s)], dark
            )
        sprite.curve(
            [
                (px - s, py + s)
                for px, py in (
                    (-0.36, 2.55),
                    (-0.46, 1.9),
                    (-0.5, 1.1),
                    (-0.42, 0.8),
                    (0.1, 0.86),
                    (0.66, 0.72),
                    (0.56, 1.2),
                    (0.42, 1.9),
                    (0.36, 2.55),
                    (0.16, 2.74),
                    (-0.16, 2.74),
                )
            ],
            cloth,
        )
        sprite.ellipse(-s, 3.0 + s, 0.2, 0.26, dark if hat else mix(dark, (0.4, 0.25, 0.18), 0.3))
        if hat:
            sprite.ellipse(-s, 3.16 + s, 0.42, 0.07, dark)
            sprite.ellipse(-s, 3.26 + s, 0.2, 0.17, dark)
        sprite.line([(0.52 - s, 2.1 + s), (0.62 - s, s)], 0.045, dark)
        canvas.add(sprite.layer("person", x, foot, near=near, mirrored=mirrored))


def paint_whale(canvas: Canvas, palette: Palette, x: float, water: float, size: float, *, mirrored: bool) -> None:
    """A tail above the water."""
    sprite = Sprite(size, aspect=0.8)
    tone = mix(silhouette(palette, (0.25, 0.32, 0.4), 0.35), palette.haze, 0.15)
    sprite.curve(
        [
            (-0.22, 0.0),
            (-0.12, 0.5),
            (-0.06, 0.9),
            (-0.3, 1.16),
            (-0.66, 1.3),
            (-0.92, 1.5),
            (-0.5, 1.48),
            (-0.16, 1.34),
            (0.0, 1.22),
            (0.16, 1.34),
            (0.5, 1.48),
            (0.92, 1.5),
            (0.66, 1.3),
            (0.3, 1.16),
            (0.06, 0.9),
            (0.12, 0.5),
            (0.26, 0.0),
        ],
        tone,
    )
    canvas.add(sprite.layer("whale", x, water, near=0.6, mirrored=mirrored))


def paint_mushrooms(
    canvas: Canvas, palette: Palette, x: float, foot: float, size: float, rng: np.random.Generator, cap: Colour
) -> None:
    """A group of toadstools."""
    for _ in range(7):
        s = size * float(rng.uniform(0.35, 1.0))
        sprite = Sprite(s, aspect=1.1)
        light = palette.light
        stem = (0.9 * light[0], 0.86 * light[1], 0.76 * light[2])
        own = (cap[0] * light[0], cap[1] * light[1], cap[2] * light[2])
        sprite.curve([(-0.16, 0), (-0.12, 0.6), (-0.14, 1.1), (0.14, 1.1), (0.12, 0.6), (0.19, 0)], stem)
        sprite.curve(
            [
                (-0.8, 1.05),
                (-0.66, 1.5),
                (-0.3, 1.86),
                (0.3, 1.86),
                (0.66, 1.5),
                (0.8, 1.05),
                (0.3, 0.94),
                (-0.3, 0.94),
            ],
            own,
        )
        for k in range(6):
            angle = 0.4 + 2.4 * k / 5
            sprite.ellipse(
                0.5 * math.cos(angle),
                1.16 + 0.46 * math.sin(angle),
                0.085,
                0.065,
                (0.97 * light[0], 0.95 * light[1], 0.9 * light[2]),
            )
        canvas.add(
            sprite.layer(
                "mushroom",
                x + float(rng.normal(0, 0.6)) * size,
                foot + float(rng.uniform(-0.1, 0.25)) * size,
                near=0.95,
            )
        )

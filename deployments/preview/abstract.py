"""What is painted when no word of the prompt names a thing: folded light, in the colours that it names. Pure."""

from __future__ import annotations

import colorsys

import numpy as np

from deployments.preview.canvas import Canvas, Layer, ramp
from deployments.preview.noise import looked_up, resized, smooth, tile
from deployments.preview.palette import Colour, mix


def paint_abstract(canvas: Canvas, colours: tuple[Colour, ...], rng: np.random.Generator) -> None:
    """Silk-like folds: noise bent by noise, lit from one side."""
    height, width = canvas.height, canvas.width
    rows, columns = max(2, height // 2), max(2, width // 2)
    field, soft = tile(rng, 512, 2.3), tile(rng, 512, 2.9)
    ys, xs = np.mgrid[0:rows, 0:columns].astype(np.float32)
    span = 190.0 / max(rows, columns)
    u, v = xs * span, ys * span
    first = looked_up(soft, v + 40, u)
    second = looked_up(soft, v + 200 + 10 * first, u + 90)
    bent = looked_up(field, v * 0.8 + 26 * first, u * 0.8 + 26 * second)
    folds = np.sin(bent * 3.4 + 2.6 * second + first) + 0.3 * np.sin(bent * 9.0 + 4 * first) + 0.1 * np.sin(bent * 23.0)
    slope_y, slope_x = np.gradient(folds)
    light = np.clip(0.5 + (slope_x * 0.8 - slope_y) * 0.42 / span, 0, 1.4)
    stops = _stops(colours, rng)
    place = np.clip(0.5 + 0.26 * folds + 0.12 * second, 0, 1)
    rgb = ramp(stops, tuple(np.linspace(0, 1, len(stops))), place) * (0.34 + 0.8 * light)[..., None]
    rgb += (smooth(1.0, 1.4, light) * 0.35)[..., None]
    full = np.stack([resized(np.clip(rgb[..., c], 0, 1), height, width) for c in range(3)], axis=-1)
    canvas.add(Layer(name="folds", rgb=np.clip(full, 0, 1), alpha=np.ones((height, width), np.float32), motion="drift"))


def _stops(colours: tuple[Colour, ...], rng: np.random.Generator) -> list[Colour]:
    """Five colours from deep to bright that belong together."""
    if colours:
        first, last = colours[0], colours[-1]
        return [
            mix(first, (0.02, 0.02, 0.08), 0.82),
            mix(first, (0.05, 0.02, 0.12), 0.4),
            first,
            mix(first, last, 0.6),
            mix(last, (1.0, 0.97, 0.9), 0.7),
        ]
    hue = float(rng.random())
    step = float(rng.choice((0.08, 0.12, -0.1, 0.42)))
    tones = ((0.0, 0.75, 0.12), (0.3, 0.72, 0.38), (0.7, 0.68, 0.72), (1.0, 0.6, 0.95), (1.1, 0.16, 1.0))
    return [colorsys.hsv_to_rgb((hue + step * share) % 1, saturation, value) for share, saturation, value in tones]

"""Random fields and a little array arithmetic: the raw material of clouds, water, rock and brushwork. Pure."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Field = NDArray[np.floating[Any]]  # float32 as a rule: half the memory and time


def fbm(
    rng: np.random.Generator,
    height: int,
    width: int,
    cell: float,
    octaves: int = 5,
    *,
    gain: float = 0.5,
    stretch: float = 1.0,
) -> Field:
    """Fractal noise of mean 0 and deviation 1; ``cell`` is the size of its largest shapes in pixels, ``stretch`` how
    many times wider than high they are."""
    out = np.zeros((height, width), dtype=np.float32)
    size, weight = max(2.0, cell), 1.0
    for _ in range(octaves):
        if size < 1.5:
            break
        rows, columns = height / size, width / (size * stretch)
        grid = rng.random((int(rows) + 4, int(columns) + 4), dtype=np.float32)
        image = Image.fromarray(grid).resize(
            (width, height), Image.Resampling.BICUBIC, box=(1.0, 1.0, 1.0 + columns, 1.0 + rows)
        )
        out += np.float32(weight) * np.asarray(image)
        size /= 2
        weight *= gain
    return normal(out)


def soft_fbm(
    rng: np.random.Generator,
    height: int,
    width: int,
    cell: float,
    octaves: int = 4,
    *,
    gain: float = 0.5,
    stretch: float = 1.0,
) -> Field:
    """``fbm`` made at half the size and enlarged: four times cheaper, for what is soft anyway."""
    small = fbm(rng, max(2, height // 2), max(2, width // 2), cell / 2, octaves, gain=gain, stretch=stretch)
    return resized(small, height, width)


def tile(rng: np.random.Generator, size: int, power: float, *, stretch: float = 1.0) -> Field:
    """A square of noise that repeats without a seam, of mean 0 and deviation 1: its spectrum falls with ``power``."""
    fy = np.fft.fftfreq(size)[:, None] * size
    fx = np.fft.rfftfreq(size)[None, :] * size * stretch
    radius = np.sqrt(fx**2 + fy**2)
    radius[0, 0] = 1.0
    shape = radius ** (-power)
    shape[radius < 2.0] = 0.0
    spectrum = np.fft.rfft2(rng.standard_normal((size, size))) * shape
    return normal(np.fft.irfft2(spectrum, (size, size)).astype(np.float32))


def normal(a: Field) -> Field:
    """Shifted and scaled to mean 0 and deviation 1."""
    deviation = float(a.std())
    out: Field = ((a - a.mean()) / np.float32(deviation or 1.0)).astype(np.float32)
    return out


def line(rng: np.random.Generator, width: int, cell: float, octaves: int = 5, *, gain: float = 0.5) -> Field:
    """One-dimensional fractal noise in about -1…1."""
    out = np.zeros(width, dtype=np.float32)
    x = np.arange(width, dtype=np.float32)
    size, weight, total = max(2.0, cell), 1.0, 0.0
    for _ in range(octaves):
        if size < 1.5:
            break
        knots = rng.uniform(-1, 1, int(width / size) + 4).astype(np.float32)
        at = x / np.float32(size) + np.float32(rng.random())
        left = at.astype(np.int32)
        part = at - left
        part = part * part * (3 - 2 * part)
        out += np.float32(weight) * (knots[left] * (1 - part) + knots[left + 1] * part)
        total += weight
        size /= 2
        weight *= gain
    return out / np.float32(total or 1.0)


def smooth(low: float | Field, high: float | Field, a: Field) -> Field:
    """0 below ``low``, 1 above ``high``, an S between; falling where ``high`` is the lower. The two are not equal."""
    start, end = np.asarray(low, dtype=np.float32), np.asarray(high, dtype=np.float32)
    t = np.clip((a - start) / (end - start), 0, 1)
    out: Field = t * t * (3 - 2 * t)
    return out


def resized(a: Field, height: int, width: int) -> Field:
    """The field at another size, smoothly."""
    image = Image.fromarray(np.ascontiguousarray(a, dtype=np.float32))
    return np.asarray(image.resize((width, height), Image.Resampling.BICUBIC))


def blurred(a: Field, radius: float) -> Field:
    """A soft blur of about ``radius`` pixels: the field made small and large again."""
    height, width = a.shape
    factor = max(1.0, radius)
    if factor <= 1.0:
        return a
    small_height, small_width = max(2, round(height / factor)), max(2, round(width / factor))
    image = Image.fromarray(np.ascontiguousarray(a, dtype=np.float32))
    small = image.resize((small_width, small_height), Image.Resampling.BOX)
    return np.asarray(small.resize((width, height), Image.Resampling.BICUBIC))


def looked_up(field: Field, y: Field, x: Field) -> Field:
    """The repeating field at real-valued places, between its samples linearly."""
    rows, columns = field.shape
    y0, x0 = np.floor(y).astype(np.int32), np.floor(x).astype(np.int32)
    fy, fx = (y - y0).astype(np.float32), (x - x0).astype(np.float32)
    flat = field.ravel()
    top, bottom = (y0 % rows) * columns, ((y0 + 1) % rows) * columns
    left, right = x0 % columns, (x0 + 1) % columns
    upper = flat[top + left] * (1 - fx) + flat[top + right] * fx
    lower = flat[bottom + left] * (1 - fx) + flat[bottom + right] * fx
    out: Field = upper * (1 - fy) + lower * fy
    return out

"""Mountains as a real landscape: a height field seen from the plain, with light, snow, woods and air. Pure.

Each column of the picture looks along slices of the field from near to far and keeps what rises above all before it.
"""

from __future__ import annotations

import numpy as np

from deployments.preview.canvas import Canvas, Layer, between
from deployments.preview.noise import Field, looked_up, smooth, tile
from deployments.preview.palette import Palette, mix, scale

_SLICES = 300
_NEAREST, _FARTHEST = 1.0, 5.5  # in heights of the camera's view; what is nearer is other layers' ground


def paint_terrain(
    canvas: Canvas,
    palette: Palette,
    horizon: float,
    light: float,
    rng: np.random.Generator,
    *,
    snow: float,
    tall: float,
    woods: bool,
) -> None:
    """Mountains that rise from the horizon; ``light`` -1 from the left … 1 from the right; ``snow`` 0 none … 1 deep;
    ``tall`` their height, 1 fills a good half of the sky."""
    width = canvas.width
    columns = max(8, width // 2)
    depth = (_NEAREST + (_FARTHEST - _NEAREST) * np.linspace(0, 1, _SLICES, dtype=np.float32) ** 1.3)[:, None]
    across = np.linspace(-0.5, 0.5, columns, dtype=np.float32)[None, :] * np.float32(width / canvas.height * 1.15)
    x = across * depth
    heights = _heights(x, depth, rng)
    reach = horizon * 1.28 * tall
    crest = horizon - heights * reach / depth
    shown = np.minimum.accumulate(crest, axis=0)
    top = max(0, int(shown[-1].min()) - 2)
    bottom = min(canvas.height, round(horizon) + 2)
    if bottom - top < 3:
        return
    rgb = _colours(palette, heights, x, depth, light, rng, snow, woods)
    rows = np.arange(top, bottom, dtype=np.float32)
    index = np.empty((len(rows), columns), dtype=np.float32)
    places = np.arange(_SLICES, dtype=np.float32)
    for column in range(columns):
        index[:, column] = np.interp(-rows, -shown[::1, column] + 1e-4 * places, places)
    left = np.clip(index.astype(np.int32), 0, _SLICES - 2)
    part = (index - left)[..., None]
    at = np.arange(columns)[None, :]
    picture = rgb[left, at] * (1 - part) + rgb[left + 1, at] * part
    wide = np.repeat(picture, 2, axis=1)
    wide = wide if wide.shape[1] >= width else np.concatenate((wide, wide[:, -1:]), axis=1)
    soft = wide[:, :width].copy()
    soft[:, 1:-1] = 0.25 * wide[:, : width - 2] + 0.5 * wide[:, 1 : width - 1] + 0.25 * wide[:, 2:width]
    edge = np.interp(np.arange(width) / 2, np.arange(columns), shown[-1]).astype(np.float32)
    alpha = smooth(-0.8, 0.9, rows[:, None] - edge[None, :])
    canvas.add(Layer(name="mountains", rgb=np.clip(soft, 0, 1).astype(np.float32), alpha=alpha, top=top, near=0.1))


def _heights(x: Field, depth: Field, rng: np.random.Generator) -> Field:
    """Ridged noise: sharp crests with smaller crests on them, rising from low foothills in front."""
    field, soft = tile(rng, 512, 2.0), tile(rng, 512, 2.4)
    shift = rng.uniform(0, 512, 6)
    bend = 16 * looked_up(soft, depth * 34 + shift[0], x * 34 + shift[1])
    total, weight, share = np.zeros_like(x), np.ones_like(x), 0.52
    frequency = 44.0
    for octave in range(5):
        n = looked_up(
            field, depth * frequency + bend + shift[2] * (octave + 1), x * frequency + bend + shift[3] * (octave + 1)
        )
        ridge = np.clip(1 - np.abs(n) * 0.85, 0, 1) ** 1.5
        total += np.float32(share) * ridge * weight
        weight = np.clip(ridge * 1.5, 0.08, 1)
        share *= 0.47
        frequency *= 2.05
        bend = bend * 2.05
    massif = 0.5 + 0.5 * np.tanh(0.9 * looked_up(soft, depth * 22 + shift[4], x * 22 + shift[5]))
    rise = 0.1 + 0.9 * smooth(1.15, 3.2, depth)
    out: Field = (total * (0.32 + 0.85 * massif) * rise).astype(np.float32)
    return out


def _colours(
    palette: Palette,
    heights: Field,
    x: Field,
    depth: Field,
    light: float,
    rng: np.random.Generator,
    snow: float,
    woods: bool,
) -> Field:
    """The colour of each point of the field, as seen through the air between."""
    slope_x = np.gradient(heights, axis=1) / np.gradient(x, axis=1)
    slope_z = np.gradient(heights, axis=0) / np.gradient(depth, axis=0)
    length = np.sqrt(slope_x**2 + slope_z**2 + 0.5)
    # A slope that rises to the right faces left: it is lit by light from the left.
    facing = (-slope_x * light * 0.85 - slope_z * -0.28 + 0.24) / length
    shade = np.clip(0.3 + 0.75 * facing, 0, 1)
    grain = tile(rng, 256, 1.1)
    fine = looked_up(grain, depth * 260 + heights * 200, x * 260)
    steep = np.sqrt(slope_x**2 + slope_z**2)
    rock_dark, rock_lit = (
        mix(scale(palette.rock, 0.4), palette.dark, 0.32),
        mix(palette.rock, palette.sun, 0.5 - 0.25 * palette.dusk),
    )
    rgb = between(rock_dark, rock_lit, np.clip(shade + 0.06 * fine, 0, 1))
    if woods:
        green_dark, green_lit = (
            mix(scale(palette.grass, 0.36), palette.deep, 0.35),
            mix(palette.grass, palette.sun, 0.15),
        )
        cover = smooth(0.34, 0.2, heights + 0.05 * fine + 0.04 * steep)
        rgb = between(rgb, between(green_dark, green_lit, np.clip(shade * 0.75 + 0.12 * fine, 0, 1)), 0.85 * cover)
    if snow > 0:
        line_at = 0.52 - 0.42 * snow
        cover = smooth(line_at, line_at + 0.13, heights + 0.055 * fine + 0.07 * facing) * smooth(
            3.4 + 1.5 * snow, 1.6, steep - 0.25 * fine
        )
        blue = mix(mix(palette.dark, palette.sky[1], 0.5), (0.6, 0.7, 0.92), 0.25)
        white = mix(mix(palette.lit, (1, 1, 1), 0.35), palette.sun, 0.3)
        rgb = between(rgb, between(blue, white, np.clip(shade * 1.35 - 0.12, 0, 1)), np.clip(cover, 0, 0.97))
    far = (depth - _NEAREST) / (_FARTHEST - _NEAREST)
    mist = 0.66 * np.clip(far, 0, 1) ** 1.25 + 0.42 * smooth(0.16, 0.0, heights) * smooth(0.05, 0.5, far)
    out: Field = between(rgb, palette.haze, np.clip(mist, 0, 0.9)).astype(np.float32)
    return out

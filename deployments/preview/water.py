"""Water: a plane that mirrors what stands above it, or heavy seas of many waves with foam."""

from __future__ import annotations

import numpy as np

from deployments.preview.canvas import Canvas, Layer, between
from deployments.preview.noise import Field, line, looked_up, smooth, tile
from deployments.preview.palette import Palette, mix, scale


def paint_water(
    canvas: Canvas,
    palette: Palette,
    horizon: float,
    sun_x: float,
    rng: np.random.Generator,
    *,
    roughness: float,
    bottom: float | None = None,
) -> None:
    """The plane from the horizon down to ``bottom``. It mirrors the picture above the horizon as it is now;
    ``roughness`` 0 is a mirror, 1 a fresh breeze."""
    top, end = round(horizon), canvas.height if bottom is None else min(canvas.height, round(bottom))
    height, width = end - top, canvas.width
    if height < 2:
        return
    ys, xs = np.mgrid[0:height, 0:width].astype(np.float32)
    down = (ys + 0.5) / (canvas.height - horizon)
    depth = 1 / (down + 0.03)
    waves = tile(rng, 256, 1.35, stretch=0.4)
    v = depth * 62
    u = (xs - width / 2) / width * depth * 34
    calm = np.clip(down * 5, 0.12, 1)
    slope = (0.65 * looked_up(waves, v * 2.1, u) + 0.5 * looked_up(waves, v * 0.8 + 77, u * 0.5 + 31)) * calm
    amount = (0.25 + 2.6 * roughness) * canvas.unit
    above = max(1, round(horizon) - 1)
    stretch = min(1.0, horizon / max(1, canvas.height - horizon))
    mirror_y = np.clip(horizon - 1 - (ys * stretch) + slope * amount * 1.7, 0, above).astype(np.int32)
    mirror_x = np.clip(xs + slope * amount * 0.35, 0, width - 1).astype(np.int32)
    mirrored = canvas.rgb.reshape(-1, 3)[mirror_y * width + mirror_x]
    body = between(palette.deep, palette.crest, np.clip(0.3 + 0.22 * slope + 0.25 * (1 - down), 0, 1))
    fresnel = np.clip(0.9 - 0.52 * down - 0.2 * roughness * (0.4 + 0.6 * down) + 0.11 * slope, 0.12, 0.95)
    rgb = between(body, mirrored, fresnel) * np.float32(0.95)
    path = np.exp(-(((xs - np.float32(sun_x)) / (width * (0.035 + 0.13 * down * (0.5 + roughness)))) ** 2))
    sparkle = smooth(0.55 - 0.5 * (1 - down), 1.7, slope + 0.55 * path) * path
    strength = 0.85 - 0.25 * palette.dusk
    rgb = between(rgb, palette.sun, np.clip(strength * sparkle, 0, 1))
    haze = smooth(0.1, 0.0, down) * 0.35
    rgb = between(rgb, palette.sky[3], haze)
    canvas.add(
        Layer(
            name="water",
            rgb=np.clip(rgb, 0, 1).astype(np.float32),
            alpha=np.ones((height, width), np.float32),
            top=top,
            near=0.4,
            motion="water",
        )
    )


def paint_heavy_sea(
    canvas: Canvas, palette: Palette, horizon: float, rng: np.random.Generator, *, fury: float, rows: range, total: int
) -> None:
    """Rows of waves, the farthest first; ``rows`` picks some of ``total`` so that things can stand among them."""
    height, width = canvas.height, canvas.width
    streaks, lace = tile(rng, 256, 1.25, stretch=0.5), tile(rng, 256, 1.5)
    x = np.arange(width, dtype=np.float32)
    for row in rows:
        part = (row + 0.35) / total
        base = horizon + (height - horizon) * part**1.55 * 1.02
        tall = canvas.unit * (1.1 + 13.5 * part**1.25) * (0.5 + 0.65 * fury)
        length = canvas.unit * (9 + 62 * part)
        phase = x / length + rng.uniform(0, 7) + 0.75 * line(rng, width, length * 1.3, 3)
        sharp = 1 - np.abs(np.sin(phase * np.pi))
        swell = 0.62 + 0.5 * line(rng, width, length * 2.2, 3)
        profile = tall * (sharp**1.7 * np.clip(swell, 0.12, 1.2)) + 0.07 * tall * line(rng, width, length / 6, 4)
        crest = base - profile
        top = max(0, int(crest.min()) - 2)
        bottom = (
            height if row == total - 1 else min(height, int(base + tall * 0.5) + round(canvas.unit * 16 * part) + 3)
        )
        if bottom <= top:
            continue
        ys = np.arange(top, bottom, dtype=np.float32)[:, None]
        below = (ys - crest[None, :]) / np.float32(max(tall, 1.0))
        lean = np.gradient(crest)[None, :]
        _wave(canvas, palette, below, lean, x, ys, (streaks, lace), part, fury, profile / max(tall, 1.0), top, row)


def _wave(
    canvas: Canvas, palette: Palette, below: Field, lean: Field, x: Field, ys: Field,
    textures: tuple[Field, Field], part: float, fury: float, raised: Field, top: int, row: int,
) -> None:  # fmt: skip
    """One row: dark at its foot, shone through near its crest, foam on top and in a lace down its face."""
    streaks, lace = textures
    grain = 60 / (canvas.unit * (3 + 16 * part))
    along = x[None, :] * grain * 0.35 + below * 5 + row * 57
    streak = looked_up(streaks, below * 26 + 3 * lean + row * 31, along + lean * below * 6)
    web = looked_up(lace, below * 34 * (0.6 + part) + row * 13, x[None, :] * grain * 0.9 + below * 9)
    shine = np.clip(1 - below * 1.5, 0, 1) ** 1.6 * np.clip(raised * 1.15, 0, 1)[None, :]
    tone = between(
        palette.deep, palette.crest, np.clip(0.16 + 0.72 * shine + 0.1 * streak - 0.22 * smooth(0.2, 1.4, below), 0, 1)
    )
    facing = np.clip(0.1 - 0.3 * lean, -0.16, 0.3)  # the side that faces the light's half of the sky
    tone = between(tone, palette.lit, np.clip(facing + 0.07 * streak * (1 - np.clip(below, 0, 1)), 0, 0.4))
    tone = between(tone, mix(palette.haze, palette.sky[3], 0.35), np.full_like(below, 0.62 * (1 - part) ** 2))
    lip = np.clip(raised, 0, 1)[None, :] * (0.035 + 0.14 * fury * part) + 0.012
    foam = smooth(1.0, 0.15, below / lip + 0.32 * web) * smooth(0.15, 0.55, raised + 0.0 * x)[None, :]
    ridges = 1 - np.abs(web) * 1.7
    net = (
        smooth(0.62, 0.95, ridges)
        * np.exp(-(((below - 0.28) / 0.42) ** 2))
        * (0.25 + 0.75 * part)
        * fury
        * np.clip(0.35 + raised, 0, 1)[None, :]
    )
    white = mix(palette.lit, (1, 1, 1), 0.5)
    rgb = between(tone, white, np.clip(np.maximum(foam, 0.75 * net), 0, 0.96))
    alpha = smooth(-0.006, 0.012 + 0.006 / max(part, 0.05), below)
    canvas.add(
        Layer(
            name="wave",
            rgb=np.clip(rgb, 0, 1).astype(np.float32),
            alpha=alpha,
            top=top,
            near=0.15 + 0.85 * part,
            motion="wave",
        )
    )


def paint_spray(canvas: Canvas, palette: Palette, x: float, y: float, size: float, rng: np.random.Generator) -> None:
    """Water thrown up where a wave breaks against rock."""
    reach = max(8, round(size * 2.4))
    ys, xs = np.mgrid[0:reach, 0:reach].astype(np.float32) / reach
    u, v = (xs - 0.5) * 2, 1 - ys
    texture = tile(rng, 128, 1.3)
    flare = looked_up(texture, v * 40 - np.abs(u) * 20, u * 46 / (0.35 + v))
    plume = (
        np.exp(-((u / (0.2 + 0.55 * v)) ** 2)) * smooth(1.02, 0.15, v + 0.2 * flare + 0.25 * u**2) * smooth(0.0, 0.1, v)
    )
    alpha = np.clip(plume * (0.72 + 0.34 * flare), 0, 0.95) * smooth(1.0, 0.8, np.abs(u))
    drops = rng.random((260, 2))
    for across, up in drops:
        px, py = 0.5 + (across - 0.5) * (0.4 + 0.7 * up), 1 - up**0.8
        at_y, at_x = int(py * (reach - 2)), int(np.clip(px, 0, 1) * (reach - 2))
        spot = 1 + int(size > 60)
        alpha[at_y : at_y + spot, at_x : at_x + spot] = np.maximum(
            alpha[at_y : at_y + spot, at_x : at_x + spot], 0.8 * (1 - up)
        )
    tone = mix(palette.lit, (1, 1, 1), 0.45)
    rgb = between(mix(tone, scale(palette.dark, 1.1), 0.35), tone, np.clip(0.6 + 0.35 * flare, 0, 1))
    canvas.add(
        Layer(
            name="spray",
            rgb=rgb,
            alpha=alpha.astype(np.float32),
            left=round(x - reach / 2),
            top=round(y - reach),
            near=0.6,
            motion="glowless",
        )
    )

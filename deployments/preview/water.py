"""Water: a plane that mirrors what stands above it, or heavy seas of many waves with foam."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from deployments.preview.canvas import Canvas, Layer, between
from deployments.preview.noise import Field, blurred, line, looked_up, smooth, tile
from deployments.preview.palette import Palette, mix


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
        tall = canvas.unit * (1.3 + 12.0 * part**1.1) * (0.5 + 0.65 * fury)
        length = canvas.unit * (5 + 19 * part)
        phase = x / length + rng.uniform(0, 7) + 1.5 * line(rng, width, length * 3.4, 3)
        round_ = 0.5 + 0.5 * np.sin(phase + 0.55 * np.sin(phase))
        swell = 0.66 + 0.62 * line(rng, width, length * 5.5, 2)
        profile = tall * (round_**1.9 * np.clip(swell, 0.1, 1.25)) + 0.1 * tall * line(rng, width, length * 0.9, 5)
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
        palette.deep, palette.crest, np.clip(0.2 + 0.8 * shine + 0.12 * streak - 0.34 * smooth(0.15, 1.3, below), 0, 1)
    )
    facing = np.clip(0.1 - 0.3 * lean, -0.16, 0.3)  # the side that faces the light's half of the sky
    tone = between(tone, palette.lit, np.clip(facing + 0.07 * streak * (1 - np.clip(below, 0, 1)), 0, 0.4))
    tone = between(tone, mix(palette.haze, palette.sky[3], 0.35), np.full_like(below, 0.62 * (1 - part) ** 2))
    lip = np.clip(raised, 0, 1)[None, :] ** 1.5 * (0.06 + 0.24 * fury * (0.25 + part)) + 0.012
    foam = smooth(1.0, 0.2, below / lip + 0.55 * web + 0.25 * streak) * smooth(0.2, 0.6, raised)[None, :]
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
    reach = max(12, round(size * 2.6))
    image = Image.new("L", (reach, reach))
    draw = ImageDraw.Draw(image)
    lean = float(rng.normal(0, 0.16))
    for _ in range(520):
        thrown, turn = float(rng.random()) ** 0.8, float(rng.normal(lean, 0.5))
        px = reach * (0.5 + 0.48 * thrown * math.sin(turn) * (1 + 0.5 * thrown))
        py = reach * (1.0 - 0.92 * thrown * math.cos(turn) ** 2 + 0.1 * thrown**2)
        radius = reach * (0.006 + 0.036 * (1 - thrown) ** 1.2) * float(rng.uniform(0.35, 1.25))
        spot = Image.new("L", (max(2, round(2 * radius)),) * 2)
        ImageDraw.Draw(spot).ellipse(
            (0, 0, spot.width - 1, spot.height - 1), fill=round(30 + 95 * (1 - thrown) * float(rng.random()))
        )
        box = (round(px - radius), round(py - radius))
        image.paste(255, box, spot)
    for _ in range(240):
        thrown, turn = float(rng.random()) ** 0.6, float(rng.normal(lean, 0.62))
        px, py = reach * (0.5 + 0.5 * thrown * math.sin(turn)), reach * (1 - 0.97 * thrown * math.cos(turn) ** 2)
        draw.point((px, py), fill=round(210 * (1.05 - thrown)))
    soft = np.asarray(image.filter(ImageFilter.GaussianBlur(max(0.6, reach / 260))), dtype=np.float32) / 255
    ys = np.linspace(1, 0, reach, dtype=np.float32)[:, None]
    alpha = np.clip(soft * 1.25, 0, 0.94) * smooth(0.0, 0.05, ys)
    shade = blurred(soft, reach / 30)
    white = mix(palette.lit, (1, 1, 1), 0.6)
    rgb = between(mix(white, palette.dark, 0.5), white, np.clip(0.35 + 0.9 * shade + 0.2 * (soft - shade), 0, 1))
    canvas.add(
        Layer(
            name="spray",
            rgb=rgb,
            alpha=alpha.astype(np.float32),
            left=round(x - reach / 2),
            top=round(y - reach),
            near=0.6,
        )
    )

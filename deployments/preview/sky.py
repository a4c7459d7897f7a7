"""The sky and what falls from it: gradient, sun, moon, stars, clouds, aurora, lightning, rain, snow, fog."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from PIL import Image, ImageDraw

from deployments.preview.canvas import Canvas, Layer, Picture, between, flat, glow_layer, ramp
from deployments.preview.noise import Field, blurred, fbm, line, looked_up, resized, smooth, soft_fbm, tile
from deployments.preview.palette import Colour, Palette, mix


def paint_sky(
    canvas: Canvas, palette: Palette, horizon: float, sun: tuple[float, float], rng: np.random.Generator
) -> None:
    """The gradient from zenith to horizon, warmer where the light is."""
    height, width = canvas.height, canvas.width
    rows = max(2, min(height, round(horizon) + 4))
    y = (np.arange(rows, dtype=np.float32) / max(1.0, horizon))[:, None]
    x = np.arange(width, dtype=np.float32)[None, :]
    wobble = 0.015 * resized(soft_fbm(rng, 32, 64, 12, 3), rows, width)
    rgb = ramp(palette.sky, (0.0, 0.42, 0.78, 1.0), np.clip(y + wobble, 0, 1))
    near_sun = np.exp(-(((x - sun[0]) / (0.42 * width)) ** 2) - ((y * horizon - sun[1]) / (0.4 * horizon)) ** 2)
    rgb += (np.array(palette.sun, dtype=np.float32) - rgb) * (0.34 * (1 - 0.7 * palette.dusk) * near_sun)[..., None]
    canvas.add(Layer(name="sky", rgb=rgb, alpha=np.ones((rows, width), np.float32)))


def paint_stars(canvas: Canvas, palette: Palette, horizon: float, rng: np.random.Generator, *, dense: bool) -> None:
    """Stars of many sizes, and when dense the band of the Milky Way."""
    height, width = max(2, round(horizon)), canvas.width
    area = height * width / 1e6
    alpha = np.zeros((height, width), dtype=np.float32)
    rgb = np.ones((height, width, 3), dtype=np.float32)
    if dense:
        ys, xs = np.mgrid[0:height, 0:width].astype(np.float32)
        angle = rng.uniform(0.5, 0.9) * rng.choice((-1, 1))
        across = ((xs - width * rng.uniform(0.35, 0.65)) * math.sin(angle) + (ys - height * 0.45) * math.cos(angle)) / (
            0.2 * canvas.height
        )
        cloud = soft_fbm(rng, height, width, canvas.height / 5, 6, gain=0.6)
        band = np.exp(-((across + 0.25 * cloud) ** 2))
        dust = smooth(0.1, 1.3, soft_fbm(rng, height, width, canvas.height / 7, 6, gain=0.6)) * np.exp(
            -((across * 2.2) ** 2)
        )
        light = np.clip(band * (0.5 + 0.22 * cloud) - 0.5 * dust, 0, 1)
        tone = between(mix(palette.sky[2], (0.55, 0.5, 0.9), 0.5), (1.0, 0.86, 0.78), np.clip(band**3 - 0.2, 0, 1))
        canvas.add(Layer(name="milky way", rgb=tone, alpha=0.75 * light, glow=True))
    for count, reach, bright in ((int(1100 * area), 0, 0.55), (int(260 * area), 1, 0.8), (int(46 * area), 2, 1.0)):
        ys = (rng.random(count) ** 1.25 * (height - 1)).astype(int)
        xs = rng.integers(0, width, count)
        strength = (rng.uniform(0.25, 1.0, count) ** 1.5 * bright * (1 - (ys / height) ** 3)).astype(np.float32)
        warm = rng.random(count) < 0.25
        for dy in range(-reach, reach + 1):
            for dx in range(-reach, reach + 1):
                weight = (1.0, 0.45, 0.3, 0.12, 0.08, 0.0, 0.0, 0.0, 0.04)[dx * dx + dy * dy]
                inside = (ys + dy >= 0) & (ys + dy < height) & (xs + dx >= 0) & (xs + dx < width)
                at = (ys[inside] + dy, xs[inside] + dx)
                alpha[at] = np.maximum(alpha[at], strength[inside] * weight)
                rgb[at] = np.where(warm[inside, None], (1.0, 0.86, 0.7), (0.85, 0.92, 1.0))
    canvas.add(Layer(name="stars", rgb=rgb, alpha=alpha, motion="twinkle", glow=True))


def paint_sun(
    canvas: Canvas, palette: Palette, at: tuple[float, float], radius: float, *, bare: bool, striped: bool = False
) -> None:
    """The disc with its glow; without ``bare`` only the glow, as behind clouds. ``striped``: as in the eighties."""
    x, y = at
    canvas.add(glow_layer("sun glow", canvas.width, canvas.height, x, y, radius * 6, palette.sun, 0.5))
    if bare:
        canvas.add(glow_layer("sun halo", canvas.width, canvas.height, x, y, radius * 2.2, palette.sun, 0.75))
        disc = _disc(x, y, radius, mix(palette.sun, (1, 1, 1), 0.15 if striped else 0.5), 1.0)
        if striped:
            down = np.linspace(-1.05, 1.05, disc.alpha.shape[0], dtype=np.float32)[:, None]
            gaps = smooth(0.1, -0.1, np.sin(down * 22) + 0.8 - 1.1 * np.clip(down, 0, 1)) * (down > 0)
            rgb = between((1.0, 0.86, 0.42), (1.0, 0.25, 0.62), np.clip(0.5 + 0.5 * down, 0, 1) + 0 * disc.alpha)
            disc = replace(disc, rgb=rgb, alpha=disc.alpha * (1 - gaps))
        canvas.add(disc)


def paint_moon(
    canvas: Canvas,
    palette: Palette,
    at: tuple[float, float],
    radius: float,
    *,
    crescent: bool,
    rng: np.random.Generator,
) -> None:
    """The moon with its seas; ``crescent`` shows a part of it."""
    x, y = at
    canvas.add(
        glow_layer(
            "moon glow", canvas.width, canvas.height, x, y, radius * 5, mix(palette.sun, palette.sky[2], 0.35), 0.55
        )
    )
    size = max(4, round(radius * 2.3))
    ys, xs = np.mgrid[0:size, 0:size].astype(np.float32)
    u, v = (xs - size / 2) / radius, (ys - size / 2) / radius
    far = np.sqrt(u**2 + v**2)
    disc = smooth(1.0 + 1.2 / radius, 1.0 - 1.2 / radius, far)
    seas = smooth(0.1, 1.5, fbm(rng, size, size, max(4.0, size / 2.2), 5, gain=0.55))
    shade = (0.97 - 0.2 * seas) * (1 - 0.18 * np.clip(far, 0, 1) ** 3)
    if crescent:
        disc = disc * smooth(0.86, 0.98, np.sqrt((u + 0.42) ** 2 + (v + 0.1) ** 2))
    rgb = shade[..., None] * np.array((1.0, 0.97, 0.88), np.float32)
    canvas.add(
        Layer(name="moon", rgb=rgb.astype(np.float32), alpha=disc, left=round(x - size / 2), top=round(y - size / 2))
    )


def _disc(x: float, y: float, radius: float, tone: Colour, strength: float) -> Layer:
    size = max(4, round(radius * 2 + 6))
    ys, xs = np.mgrid[0:size, 0:size].astype(np.float32)
    far = np.sqrt((xs - size / 2) ** 2 + (ys - size / 2) ** 2)
    alpha = strength * smooth(radius + 0.8, radius - 0.8, far)
    return Layer(
        name="disc", rgb=flat(alpha.shape, tone), alpha=alpha, left=round(x - size / 2), top=round(y - size / 2)
    )


def paint_clouds(
    canvas: Canvas,
    palette: Palette,
    horizon: float,
    sun: tuple[float, float],
    rng: np.random.Generator,
    *,
    cover: float,
    heavy: bool,
) -> None:
    """Clouds in perspective, small and flat far away, lit from where the sun stands. ``cover`` 0…1."""
    height, width = max(4, round(horizon) + 2), canvas.width
    half_height, half_width = max(4, height // 2), max(4, width // 2)
    ys, xs = np.mgrid[0:half_height, 0:half_width].astype(np.float32)
    below = 1 - ys / half_height  # 1 at the top, 0 at the horizon
    depth = 1 / (below * 0.95 + 0.13)
    u = (xs - half_width * 0.5) / (0.5 * canvas.height) * depth * 58 + 300
    v = depth * (46 if heavy else 62) * (1.0 + 0.0 * xs)
    shapes = tile(rng, 512, 1.72 if heavy else 1.62, stretch=0.8)
    wide = tile(rng, 512, 2.6)
    density = looked_up(shapes, v, u) * 0.8 + looked_up(wide, v * 0.45 + 90, u * 0.35) * 0.75
    to_sun_x, to_sun_y = (sun[0] / 2 - xs) / width, (sun[1] / 2 - ys) / height
    length = np.sqrt(to_sun_x**2 + to_sun_y**2) + 1e-3
    step = 5.0 + 5.0 * below
    toward = (
        looked_up(shapes, v + to_sun_y / length * step * -0.6, u + to_sun_x / length * step) * 0.8
        + looked_up(wide, v * 0.45 + 90, u * 0.35) * 0.75
    )
    threshold = 1.25 - 2.3 * cover
    alpha = smooth(threshold, threshold + (0.95 if heavy else 0.85), density)
    thick = smooth(threshold + 0.2, threshold + 2.2, density)
    lit = np.clip(0.56 + 0.42 * (density - toward) - 0.42 * thick * (1.25 if heavy else 0.8), 0, 1)
    close = np.exp(-((length / 0.24) ** 2))
    lit = np.clip(lit + 0.5 * close * (1 - thick), 0, 1)
    edge_light = close * (1 - smooth(0.2, 0.9, alpha)) * alpha
    rgb = between(palette.dark, palette.lit, lit)
    rgb = between(rgb, palette.sun, np.clip(0.55 * close * lit + edge_light, 0, 0.9))
    rgb = between(rgb, palette.sky[3], 0.55 * smooth(0.34, 0.0, below))
    alpha = alpha * smooth(0.0, 0.1, below) * (0.97 if heavy else 0.9)
    full = np.stack([resized(rgb[..., channel], height, width) for channel in range(3)], axis=-1)
    canvas.add(
        Layer(
            name="clouds", rgb=np.clip(full, 0, 1), alpha=np.clip(resized(alpha, height, width), 0, 1), motion="drift"
        )
    )


def paint_aurora(canvas: Canvas, horizon: float, rng: np.random.Generator, tint: Colour | None) -> None:
    """Curtains of light."""
    height, width = max(4, round(horizon)), canvas.width
    ys = np.arange(height, dtype=np.float32)[:, None] / height
    alpha: Field = np.zeros((height, width), np.float32)
    rgb: Picture = np.zeros((height, width, 3), np.float32)
    low, high = tint or (0.25, 1.0, 0.55), (0.62, 0.3, 0.95)
    for index in range(3):
        foot = 0.62 - 0.14 * index + 0.16 * line(rng, width, width / 1.6, 4)
        folds = line(rng, width, width / 7, 5, gain=0.6)
        rays = 0.62 + 0.55 * line(rng, width, width / 46, 4, gain=0.7)
        reach = 0.34 + 0.14 * folds
        up = (foot[None, :] - ys) / np.maximum(reach, 0.12)[None, :]
        curtain = np.where(up > 0, np.exp(-2.3 * up) * smooth(0, 0.07, up), 0.0).astype(np.float32)
        curtain = curtain * np.clip(rays + 0.3 * folds, 0, 1.4)[None, :] * (1.0 - 0.22 * index)
        tone = between(low, high, np.clip(up * 1.1 - 0.15, 0, 1))
        rgb = rgb + tone * curtain[..., None]
        alpha = alpha + curtain
    rgb = rgb / np.maximum(alpha, 1e-3)[..., None]
    alpha = np.clip(alpha, 0, 1) * 0.95
    canvas.add(Layer(name="aurora", rgb=rgb.astype(np.float32), alpha=alpha, motion="glow", glow=True))
    canvas.add(
        Layer(
            name="aurora glow",
            rgb=rgb.astype(np.float32),
            alpha=0.4 * blurred(alpha, width / 24),
            motion="glow",
            glow=True,
        )
    )


def paint_lightning(canvas: Canvas, horizon: float, x: float, rng: np.random.Generator) -> None:
    """One forked bolt from the clouds to the horizon, with its light in the air."""
    width, height = canvas.width, max(8, round(horizon))
    image = Image.new("L", (width, height))
    draw = ImageDraw.Draw(image)

    def bolt(px: float, py: float, end: float, size: float, drift: float) -> None:
        points = [(px, py)]
        while py < end:
            px += rng.normal(drift, 0.55) * canvas.unit * 1.5
            py += rng.uniform(0.6, 1.8) * canvas.unit
            points.append((px, py))
            if size > 1.4 and rng.random() < 0.09:
                bolt(px, py, py + (end - py) * rng.uniform(0.2, 0.55), size * 0.5, rng.choice((-1, 1)) * 0.6)
        draw.line(points, fill=255, width=max(1, round(size)))

    bolt(x, height * 0.12, height * 0.99, max(1.5, canvas.unit * 0.38), 0.0)
    core = np.asarray(image, dtype=np.float32) / 255
    halo = blurred(core, canvas.unit * 1.2) * 2.4 + blurred(core, canvas.unit * 7) * 2.5
    tone: Colour = (0.86, 0.9, 1.0)
    canvas.add(
        Layer(
            name="lightning",
            rgb=flat(core.shape, tone),
            alpha=np.clip(blurred(core, 1.2) * 1.1 + halo, 0, 1),
            motion="glow",
            glow=True,
        )
    )


def paint_rainbow(canvas: Canvas, horizon: float, rng: np.random.Generator) -> None:
    """A bow that stands on the horizon."""
    height, width = max(2, round(horizon)), canvas.width
    ys, xs = np.mgrid[0:height, 0:width].astype(np.float32)
    radius = 0.55 * width
    far = np.sqrt((xs - width * rng.uniform(0.4, 0.6)) ** 2 + (ys - horizon - 0.12 * height) ** 2) / radius
    hue = (far - 0.9) / 0.1
    colours = (
        (0.55, 0.2, 0.9),
        (0.2, 0.4, 1.0),
        (0.2, 0.85, 0.4),
        (1.0, 0.95, 0.2),
        (1.0, 0.5, 0.1),
        (1.0, 0.15, 0.15),
    )
    rgb = ramp(colours, (0, 0.2, 0.4, 0.6, 0.8, 1), np.clip(hue, 0, 1))
    alpha = 0.42 * smooth(-0.15, 0.25, hue) * smooth(1.15, 0.75, hue)
    canvas.add(Layer(name="rainbow", rgb=rgb, alpha=alpha, glow=True))


def paint_planet(
    canvas: Canvas,
    palette: Palette,
    at: tuple[float, float],
    radius: float,
    rng: np.random.Generator,
    *,
    ringed: bool,
    tone: Colour,
) -> None:
    """A banded planet, lit from one side, with rings or without."""
    size = round(radius * 4.4)
    ys, xs = np.mgrid[0:size, 0:size].astype(np.float32)
    u, v = (xs - size / 2) / radius, (ys - size / 2) / radius
    tilt = 0.35
    along, across = u * math.cos(tilt) + v * math.sin(tilt), -u * math.sin(tilt) + v * math.cos(tilt)
    far = np.sqrt(u**2 + v**2)
    disc = smooth(1 + 1.2 / radius, 1 - 1.2 / radius, far)
    height = np.sqrt(np.clip(1 - far**2, 0, 1))
    swirl = soft_fbm(rng, size, size, size / 7, 5, stretch=3)
    bands = np.sin(across * 11 + 0.5 * swirl) * 0.5 + 0.35 * np.sin(across * 27 + swirl)
    rgb = between(mix(tone, (0.1, 0.05, 0.1), 0.45), mix(tone, (1.0, 0.93, 0.8), 0.5), np.clip(0.5 + 0.5 * bands, 0, 1))
    light = np.clip(-0.62 * u - 0.38 * v + 0.68 * height, 0, 1)
    rgb = (
        rgb * (0.03 + 1.05 * light)[..., None]
        + np.array(palette.sky[3], np.float32) * (0.5 * disc * (1 - height) ** 3 * (light > 0.05))[..., None]
    )
    canvas.add(
        glow_layer(
            "planet glow",
            canvas.width,
            canvas.height,
            at[0] - radius * 0.3,
            at[1] - radius * 0.2,
            radius * 1.5,
            tone,
            0.3,
            motion="still",
        )
    )
    alpha = disc
    if ringed:
        ring = np.sqrt(along**2 + (across / 0.28) ** 2)
        pattern = (
            smooth(1.3, 1.36, ring)
            * smooth(2.12, 2.04, ring)
            * (0.55 + 0.3 * np.sin(ring * 42) + 0.15 * np.sin(ring * 97))
        )
        in_front = (across > 0) | (far > 1)
        over = np.clip(pattern, 0, 0.9) * in_front
        rgb = between(rgb.astype(np.float32), mix(tone, (1.0, 0.95, 0.85), 0.6), over)
        alpha = np.maximum(disc, over)
    canvas.add(
        Layer(
            name="planet",
            rgb=np.clip(rgb, 0, 1).astype(np.float32),
            alpha=alpha.astype(np.float32),
            left=round(at[0] - size / 2),
            top=round(at[1] - size / 2),
        )
    )


def paint_nebula(canvas: Canvas, rng: np.random.Generator, tones: tuple[Colour, Colour, Colour]) -> None:
    """Glowing gas over the whole sky."""
    height, width = canvas.height, canvas.width
    warp = soft_fbm(rng, height // 2 + 1, width // 2 + 1, height / 6, 4)
    ys, xs = np.mgrid[0 : height // 2 + 1, 0 : width // 2 + 1].astype(np.float32)
    field = tile(rng, 512, 1.75)
    for tone, offset, strength in zip(tones, (0.0, 170.0, 340.0), (0.75, 0.6, 0.6), strict=True):
        gas = looked_up(field, ys * 180 / height + offset + 14 * warp, xs * 180 / height + offset * 1.7 + 11 * warp)
        alpha = strength * smooth(-0.1, 2.0, gas) ** 1.3
        canvas.add(
            Layer(
                name="nebula",
                rgb=flat((height, width), tone),
                alpha=np.clip(resized(alpha, height, width), 0, 1),
                motion="drift",
                glow=True,
            )
        )


def paint_rain(canvas: Canvas, palette: Palette, rng: np.random.Generator, *, strength: float) -> None:
    """Streaks driven by the wind, near ones longer."""
    image = Image.new("L", (canvas.width, canvas.height))
    draw = ImageDraw.Draw(image)
    slant = rng.uniform(0.14, 0.3) * rng.choice((-1, 1))
    for _ in range(int(620 * strength * canvas.width * canvas.height / 1e6) + 12):
        x, y = rng.uniform(-0.2, 1.2) * canvas.width, rng.uniform(-0.1, 1.0) * canvas.height
        length = canvas.unit * rng.uniform(1.5, 7.5)
        draw.line(
            (x, y, x + slant * length, y + length),
            fill=int(rng.uniform(50, 170)),
            width=max(1, round(canvas.unit * 0.1)),
        )
    streaks = np.asarray(image, dtype=np.float32) / 255
    tone = mix(palette.lit, (1, 1, 1), 0.4)
    canvas.add(
        Layer(name="rain", rgb=flat(streaks.shape, tone), alpha=0.3 * blurred(streaks, 1.0), near=1.0, motion="rain")
    )


def paint_snowfall(canvas: Canvas, rng: np.random.Generator) -> None:
    """Flakes near and far."""
    image = Image.new("L", (canvas.width * 2, canvas.height * 2))
    draw = ImageDraw.Draw(image)
    for _ in range(int(900 * canvas.width * canvas.height / 1e6) + 25):
        x, y = rng.uniform(0, image.width), rng.uniform(0, image.height)
        size = canvas.unit * 2 * (0.07 + 0.26 * rng.random() ** 4)
        draw.ellipse((x - size, y - size, x + size, y + size), fill=int(rng.uniform(110, 240)))
    flakes: Field = np.asarray(image.reduce(2), dtype=np.float32) / 255
    canvas.add(Layer(name="snowfall", rgb=flat(flakes.shape, (1, 1, 1)), alpha=0.9 * flakes, near=1.0, motion="snow"))


def paint_fog(canvas: Canvas, palette: Palette, horizon: float, rng: np.random.Generator, *, strength: float) -> None:
    """Banks of mist, thickest around the horizon."""
    height, width = canvas.height, canvas.width
    ys = np.arange(height, dtype=np.float32)[:, None]
    banks = soft_fbm(rng, height, width, height / 5, 4, stretch=4.5)
    around = np.exp(-(((ys - horizon * 1.04) / (0.3 * height)) ** 2))
    alpha = strength * np.clip(around * (0.72 + 0.26 * banks), 0, 0.94)
    tone = mix(palette.haze, palette.sky[3], 0.5)
    canvas.add(
        Layer(name="fog", rgb=flat((height, width), tone), alpha=alpha.astype(np.float32), near=0.3, motion="drift")
    )

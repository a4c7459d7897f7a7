"""Land: mountains, hills, fields, dunes, beaches, forests, cities and rocks, each as layers from far to near."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image, ImageDraw

from deployments.preview.canvas import Canvas, Layer, between, flat
from deployments.preview.noise import Field, blurred, fbm, line, looked_up, smooth, soft_fbm, tile
from deployments.preview.palette import Colour, Palette, mix, scale


def paint_mountains(
    canvas: Canvas,
    palette: Palette,
    horizon: float,
    light: float,
    rng: np.random.Generator,
    *,
    ranges: int = 3,
    snow: bool = True,
    tall: float = 1.0,
) -> None:
    """Ranges one behind the other, paler with distance; ``light`` is -1 from the left … 1 from the right."""
    width = canvas.width
    texture = tile(rng, 512, 1.55)
    for index in range(ranges):
        near = (index + 1) / ranges
        cell = canvas.unit * (58 - 20 * near)
        rough = line(rng, width, cell, 7, gain=0.52)
        peaks = 1 - np.abs(line(rng, width, cell * 0.9, 3, gain=0.45)) * 1.7
        profile = np.clip(0.5 + 0.34 * rough + 0.42 * peaks, 0.05, None)
        profile = profile * (1.0 - 0.48 * near) * horizon * 0.6 * tall
        crest = horizon - profile
        bottom = round(horizon) + 2
        top = max(0, int(crest.min()) - 2)
        if bottom - top < 2:
            continue
        ys = np.arange(top, bottom, dtype=np.float32)[:, None]
        x = np.arange(width, dtype=np.float32)[None, :]
        below = ys - crest[None, :]
        high = below / max(1.0, horizon * 0.6 * tall)
        zoom = 4.6 / canvas.unit
        lean = np.gradient(crest)[None, :]
        warp = 14 * looked_up(texture, ys * zoom * 0.3 + 50, x * zoom * 0.3)
        u, v = (x + below * lean * 0.35) * zoom + warp + 97 * index, below * zoom * 0.55 + warp * 0.8
        step = 2.6
        facets = looked_up(texture, v, u) - looked_up(texture, v - step * 0.7, u + light * step)
        shade = np.clip(0.47 + 0.42 * facets + 0.22 * np.tanh(-lean * light * 1.2), 0, 1)
        rock = between(scale(palette.rock, 0.42), mix(palette.rock, palette.lit, 0.3), shade)
        if snow:
            line_at = 0.24 + 0.09 * looked_up(texture, v * 0.6, u * 0.6 + 200) - 0.12 * (shade - 0.5)
            cover = smooth(line_at + 0.03, line_at - 0.03, high) * smooth(
                0.2, 0.5, 0.75 - 0.35 * np.abs(facets) + 0.0 * high
            )
            white = between(
                mix(palette.dark, (0.62, 0.72, 0.92), 0.5),
                mix(palette.lit, palette.sun, 0.35),
                np.clip(shade * 1.25 - 0.1, 0, 1),
            )
            rock = between(rock, white, np.clip(cover, 0, 0.96))
        air = np.clip((1 - near) * 0.72 + 0.46 * smooth(0.08, 0.75, high) + 0.02, 0, 0.94)
        rgb = between(rock, palette.haze, air)
        alpha = smooth(-0.8, 0.9, below)
        canvas.add(Layer(name="mountains", rgb=np.clip(rgb, 0, 1), alpha=alpha, top=top, near=0.06 + 0.12 * near))


def paint_hills(
    canvas: Canvas, palette: Palette, top_y: float, light: float, rng: np.random.Generator,
    *, layers: int = 4, tone: Colour | None = None, crops: bool = False, snow: bool = False, smoothness: float = 1.0,
) -> list[Field]:  # fmt: skip
    """Rolling land from ``top_y`` to the foot of the picture. Returns the crest line of each layer, far to near."""
    width, height = canvas.width, canvas.height
    grass = tile(rng, 512, 1.25, stretch=0.55)
    crests = []
    for index in range(layers):
        part = index / layers
        near = (index + 1) / layers
        base = top_y + (height - top_y) * part**1.35 * 0.95
        crest = base - canvas.unit * (2.0 + 7.0 * near) * smoothness * line(
            rng, width, canvas.unit * (42 + 46 * near), 2 if smoothness > 0.8 else 4
        )
        crests.append(crest)
        top = max(0, int(crest.min()) - 1)
        if height - top < 2:
            continue
        bottom = (
            height
            if index == layers - 1
            else min(height, round(top_y + (height - top_y) * ((index + 1) / layers) ** 1.35 * 0.95 + canvas.unit * 9))
        )
        ys, x = np.arange(top, bottom, dtype=np.float32)[:, None], np.arange(width, dtype=np.float32)[None, :]
        below = ys - crest[None, :]
        lean = np.gradient(crest)[None, :]
        own = tone or palette.grass
        own = mix(own, palette.ground, float(rng.uniform(0.0, 0.45)) if tone is None else 0.1)
        if snow:
            own = mix(palette.lit, (0.86, 0.9, 1.0), 0.5)
        zoom = 2.6 / canvas.unit * (1.9 - 1.1 * near)
        blades = looked_up(grass, below * zoom * 2.4 + 40 * index, (x + below * 0.4) * zoom + 31 * index)
        lit = np.clip(0.5 + 0.5 * np.tanh(lean * light * 3.2) + (0.07 if snow else 0.17) * blades, 0, 1)
        shadow = mix(scale(own, 0.5), palette.dark, 0.25) if snow else mix(scale(own, 0.42), palette.deep, 0.3)
        bright = mix(own, palette.sun, 0.3 * (1 - 0.6 * palette.dusk))
        rgb = between(shadow, bright, np.clip(lit * 0.9 - 0.16 * smooth(0, canvas.unit * 24, below), 0, 1))
        if crops:
            rows = np.sin(
                (x - width * 0.5 + lean * 90)
                / (canvas.unit * (0.9 + 1.6 * near))
                * (1 + 0.0 * below)
                / (0.25 + below / (canvas.unit * 22))
            )
            rgb = between(
                rgb, scale(own, 0.62), np.clip(0.3 * smooth(0.1, 0.9, rows) * smooth(0, canvas.unit * 2.5, below), 0, 1)
            )
        rgb = between(rgb, palette.haze, np.full_like(below, 0.66 * (1 - near) ** 1.1))
        rim = smooth(canvas.unit * 0.9, 0.0, below) * 0.32 * (1 - 0.5 * palette.dusk)
        rgb = between(rgb, palette.sun, rim)
        canvas.add(
            Layer(name="hills", rgb=np.clip(rgb, 0, 1), alpha=smooth(-0.8, 0.9, below), top=top, near=0.2 + 0.7 * near)
        )
    return crests


def paint_flowers(
    canvas: Canvas, palette: Palette, top_y: float, rng: np.random.Generator, tones: list[Colour], *, rows: bool = False
) -> None:
    """Blossoms in perspective: dots far away, heads with petals near."""
    width, height = canvas.width, canvas.height
    image = Image.new("RGBA", (width * 2, height * 2))
    draw = ImageDraw.Draw(image)
    count = int(2600 * width * height / 1e6) + 60
    for part in np.sort(rng.random(count) ** 1.5):
        y = top_y + (height * 1.02 - top_y) * part
        x = float(rng.uniform(0, width))
        if rows:
            x = width / 2 + (
                round((x - width / 2) / (canvas.unit * (1.2 + 13 * part))) + rng.normal(0, 0.16)
            ) * canvas.unit * (1.2 + 13 * part)
        size = canvas.unit * (0.12 + 1.35 * part**1.6) * rng.uniform(0.7, 1.25)
        tone = mix(
            tones[int(rng.integers(len(tones)))],
            (1, 1, 1) if rng.random() < 0.4 else (0.2, 0.05, 0.1),
            float(rng.uniform(0, 0.25)),
        )
        tone = mix(tone, palette.haze, 0.5 * (1 - part) ** 2)
        tone = (tone[0] * palette.light[0], tone[1] * palette.light[1], tone[2] * palette.light[2])
        px, py, s = 2 * x, 2 * y, 2 * size
        if s > 4:
            stem = mix(scale(palette.grass, 0.7), palette.deep, 0.2)
            draw.line(
                (px, py, px + s * rng.uniform(-0.4, 0.4), py + s * 3.2),
                fill=_bytes(stem),
                width=max(1, round(s * 0.16)),
            )
            turn = rng.uniform(0, 3)
            for petal in range(6):
                angle = turn + petal * math.pi / 3
                cx, cy = px + 0.55 * s * math.cos(angle), py + 0.38 * s * math.sin(angle)
                shade = scale(tone, 0.82 + 0.26 * (petal % 2))
                draw.ellipse((cx - s * 0.42, cy - s * 0.34, cx + s * 0.42, cy + s * 0.34), fill=_bytes(shade))
            draw.ellipse(
                (px - s * 0.24, py - s * 0.18, px + s * 0.24, py + s * 0.18),
                fill=_bytes(mix((0.95, 0.75, 0.2), tone, 0.2)),
            )
        else:
            draw.ellipse((px - s, py - s * 0.8, px + s, py + s * 0.8), fill=_bytes(tone))
    canvas.add(_image_layer("flowers", image.reduce(2), near=0.8))


def paint_dunes(canvas: Canvas, palette: Palette, horizon: float, light: float, rng: np.random.Generator) -> None:
    """Dunes with a sharp ridge between the side in light and the side in shade, and ripples in the sand."""
    width, height = canvas.width, canvas.height
    sand, shade_tone = mix(palette.sun, (0.86, 0.55, 0.28), 0.66), mix(palette.dark, (0.45, 0.24, 0.2), 0.55)
    sand = (sand[0] * palette.light[0], sand[1] * palette.light[1], sand[2] * palette.light[2])
    ripple = tile(rng, 256, 1.4, stretch=0.35)
    for index in range(5):
        near = (index + 1) / 5
        base = horizon + (height - horizon) * (index / 5) ** 1.5
        crest = base - canvas.unit * (2.5 + 10 * near) * (
            np.abs(line(rng, width, canvas.unit * (34 + 70 * near), 2)) * 1.6 - 0.3
        )
        top = max(0, int(crest.min()) - 1)
        if height - top < 2:
            continue
        ys, x = np.arange(top, height, dtype=np.float32)[:, None], np.arange(width, dtype=np.float32)[None, :]
        below = ys - crest[None, :]
        spine = np.cumsum(np.gradient(crest)) * 0.0 + np.gradient(crest)
        slant = (
            (x - below * light * (0.9 + 0.5 * np.tanh(line(rng, width, canvas.unit * 60, 2))[None, :]))
            .clip(0, width - 1)
            .astype(np.int32)
        )
        side = spine[slant] * light
        lit = smooth(-0.08, 0.1, side) * 0.8 + 0.14
        marks = looked_up(
            ripple,
            below * 3.4 / canvas.unit * (1.5 - near) + 9 * index,
            x * 1.1 / canvas.unit * (1.5 - near) + below * 0.1,
        )
        lit = np.clip(lit + 0.07 * marks * near, 0, 1)
        rgb = between(shade_tone, sand, lit)
        rgb = between(rgb, palette.haze, np.full_like(below, 0.7 * (1 - near) ** 1.2))
        canvas.add(
            Layer(name="dunes", rgb=np.clip(rgb, 0, 1), alpha=smooth(-0.8, 0.8, below), top=top, near=0.15 + 0.8 * near)
        )


def paint_beach(canvas: Canvas, palette: Palette, shore: float, rng: np.random.Generator) -> None:
    """Sand in front of the water, wet and mirroring at its edge, with a line of foam."""
    width, height = canvas.width, canvas.height
    edge = shore + canvas.unit * 3.2 * line(rng, width, canvas.unit * 60, 3)
    top = max(0, int(edge.min() - canvas.unit * 4))
    if height - top < 2:
        return
    ys, x = np.arange(top, height, dtype=np.float32)[:, None], np.arange(width, dtype=np.float32)[None, :]
    below = (ys - edge[None, :]) / np.float32(canvas.unit)
    sand = mix(palette.sun, (0.85, 0.7, 0.5), 0.72)
    sand = (sand[0] * palette.light[0], sand[1] * palette.light[1], sand[2] * palette.light[2])
    grain = fbm(rng, height - top, width, canvas.unit * 5, 5, stretch=2.5)
    dry = between(scale(sand, 0.8), sand, np.clip(0.55 + 0.2 * grain, 0, 1))
    wet = between(scale(sand, 0.5), palette.sky[2], np.full_like(below, 0.4))
    rgb = between(wet, dry, smooth(1.5, 7.0, below + 0.8 * grain))
    lace = 1 - np.abs(looked_up(tile(rng, 256, 1.5), ys * 1.6 / canvas.unit, x * 0.9 / canvas.unit)) * 1.6
    foam = smooth(0.5, 0.0, np.abs(below - 0.2)) + 0.7 * smooth(0.3, 0.9, lace) * smooth(-3.5, -0.5, below) * smooth(
        0.8, 0.0, below
    )
    alpha = np.clip(smooth(-0.25, 0.15, below) + foam, 0, 1)
    rgb = between(rgb, mix(palette.lit, (1, 1, 1), 0.5), np.clip(foam, 0, 0.95))
    canvas.add(Layer(name="beach", rgb=np.clip(rgb, 0, 1), alpha=alpha, top=top, near=0.8))


def paint_rocks(
    canvas: Canvas,
    palette: Palette,
    side: float,
    base: float,
    rise: float,
    light: float,
    rng: np.random.Generator,
    *,
    reach: float = 0.62,
    name: str = "rocks",
    grassy: bool = False,
) -> Field:
    """A headland from ``side`` (-1 left, 1 right) that falls to the water at ``base``. Returns its crest."""
    width = canvas.width
    x = np.arange(width, dtype=np.float32)
    along = x / width if side < 0 else 1 - x / width
    body = smooth(reach, reach * 0.42, along) * (0.8 + 0.2 * smooth(reach, 0.0, along))
    broken = line(rng, width, canvas.unit * 22, 6, gain=0.6)
    steps = np.round(broken * 2.5) / 2.5
    crest = (
        base
        + canvas.unit * 3
        - rise * body * (1.0 + 0.16 * broken + 0.16 * steps)
        - canvas.unit * 1.6 * broken * (body > 0.02)
    )
    bottom = min(canvas.height, round(base + canvas.unit * 4))
    top = max(0, int(crest.min()) - 1)
    if bottom - top < 2:
        return crest
    ys = np.arange(top, bottom, dtype=np.float32)[:, None]
    below = ys - crest[None, :]
    texture = tile(rng, 512, 1.4, stretch=1.5)
    zoom = 5.2 / canvas.unit
    warp = 9 * looked_up(texture, ys * zoom * 0.25, x[None, :] * zoom * 0.25 + 60)
    u, v = x[None, :] * zoom + warp, ys * zoom * 0.85 + warp
    facets = looked_up(texture, v, u) - looked_up(texture, v - 2.4, u + light * 3.0)
    cracks = smooth(0.9, 1.3, 1 - np.abs(looked_up(texture, v * 0.7 + 100, u * 0.7)) + 0.35)
    lit = np.clip(
        0.36 + 0.46 * facets + 0.34 * smooth(canvas.unit * 3.5, 0, below) - 0.3 * smooth(0, rise, below), 0, 1
    )
    rgb = between(scale(palette.rock, 0.22), mix(palette.rock, palette.lit, 0.5), lit)
    rgb = between(rgb, scale(palette.rock, 0.16), 0.5 * cracks)
    if grassy:
        turf = smooth(canvas.unit * 3.4, canvas.unit * 0.6, below + canvas.unit * 0.8 * facets)
        rgb = between(
            rgb,
            between(
                scale(palette.grass, 0.55), mix(palette.grass, palette.sun, 0.25), np.clip(0.5 + 0.4 * facets, 0, 1)
            ),
            turf,
        )
    wet = smooth(base - canvas.unit * 3, base + canvas.unit * 2, ys + 0.0 * below)
    rgb = between(rgb, mix(palette.deep, palette.haze, 0.25), 0.5 * wet)
    alpha = smooth(-0.7, 0.8, below) * smooth(0.0, 0.03, body)[None, :]
    canvas.add(Layer(name=name, rgb=np.clip(rgb, 0, 1), alpha=alpha, top=top, near=0.5))
    return crest


def paint_forest(
    canvas: Canvas,
    palette: Palette,
    lines: list[tuple[Field, float, float]],
    rng: np.random.Generator,
    *,
    snow: bool = False,
    broad: float = 0.15,
    density: float = 1.0,
) -> None:
    """Rows of trees; each of ``lines`` is (foot line, tree height in pixels, nearness 0…1), far to near."""
    for feet, tall, near in lines:
        image = Image.new("RGBA", (canvas.width * 2, canvas.height * 2))
        draw = ImageDraw.Draw(image)
        dark = mix(scale(palette.grass, 0.28), palette.deep, 0.4)
        body = mix(scale(palette.grass, 0.6), dark, 0.45)
        dark, body = (mix(tone, palette.haze, 0.74 * (1 - near) ** 1.15) for tone in (dark, body))
        count = max(3, int(canvas.width / (tall * 0.24) * density))
        xs = np.linspace(-0.02, 1.02, count) * canvas.width + rng.normal(0, tall * 0.09, count)
        clump = line(rng, canvas.width, canvas.unit * 26, 3)
        for x in xs:
            at = int(np.clip(x, 0, canvas.width - 1))
            size = tall * float(rng.uniform(0.62, 1.12)) * (1 + 0.3 * float(clump[at]))
            foot = float(feet[at]) + tall * 0.1
            if rng.random() < broad:
                _broad_tree(draw, 2 * x, 2 * foot, 2 * size * 0.75, dark, body, rng)
            else:
                _fir(
                    draw,
                    2 * x,
                    2 * foot,
                    2 * size,
                    dark,
                    body,
                    rng,
                    snow=mix(palette.lit, (0.9, 0.94, 1), 0.6) if snow else None,
                )
        canvas.add(_image_layer("forest", image.reduce(2), near=0.2 + 0.75 * near, motion="sway"))


def _fir(
    draw: ImageDraw.ImageDraw,
    x: float,
    foot: float,
    size: float,
    dark: Colour,
    body: Colour,
    rng: np.random.Generator,
    *,
    snow: Colour | None,
) -> None:
    tiers = int(np.clip(size / 9, 4, 13))
    half = size * float(rng.uniform(0.15, 0.22))
    draw.rectangle((x - size * 0.014, foot - size * 0.2, x + size * 0.014, foot), fill=_bytes(scale(dark, 0.7)))
    lean = float(rng.normal(0, 0.02)) * size
    for tier in range(tiers):
        up = tier / tiers
        y = foot - size * (0.08 + 0.88 * up)
        wide = half * (1 - up) ** 0.85 * float(rng.uniform(0.82, 1.15)) + size * 0.008
        tall = size * 1.75 / tiers
        shift = lean * up
        tone = mix(dark, body, float(rng.uniform(0.1, 0.75)))
        draw.polygon(
            [
                (x + shift - wide, y),
                (x + shift - wide * 0.45, y - tall * 0.22),
                (x + shift, y - tall),
                (x + shift + wide * 0.45, y - tall * 0.22),
                (x + shift + wide, y),
                (x + shift, y - tall * 0.14),
            ],
            fill=_bytes(tone),
        )
        if snow is not None:
            cap = wide * 0.78
            draw.polygon(
                [
                    (x + shift - cap, y - tall * 0.1),
                    (x + shift, y - tall * 0.92),
                    (x + shift + cap * 0.55, y - tall * 0.16),
                    (x + shift, y - tall * 0.34),
                ],
                fill=_bytes(mix(snow, tone, 0.12)),
            )


def _broad_tree(
    draw: ImageDraw.ImageDraw, x: float, foot: float, size: float, dark: Colour, body: Colour, rng: np.random.Generator
) -> None:
    draw.line((x, foot, x, foot - size * 0.5), fill=_bytes(scale(dark, 0.7)), width=max(1, round(size * 0.05)))
    for index in range(26):
        angle, far = rng.uniform(0, 6.3), math.sqrt(rng.random()) * 0.34
        cx, cy = x + size * far * math.cos(angle), foot - size * (0.64 - 0.3 * far * math.sin(angle) * 2)
        r = size * float(rng.uniform(0.07, 0.15))
        tone = mix(dark, body, index / 26 * float(rng.uniform(0.4, 1.1)))
        draw.ellipse((cx - r, cy - r * 0.8, cx + r, cy + r * 0.8), fill=_bytes(tone))


def paint_city(
    canvas: Canvas,
    palette: Palette,
    foot: float,
    light: float,
    rng: np.random.Generator,
    *,
    tall: float = 1.0,
    neon: bool = False,
) -> None:
    """A skyline in rows; windows light up as it gets dark."""
    signs: list[Colour] = [(1.0, 0.25, 0.6), (0.2, 0.9, 1.0), (1.0, 0.75, 0.2), (0.65, 0.35, 1.0)]
    for row in range(4):
        near = (row + 1) / 4
        image = Image.new("RGBA", (canvas.width * 2, canvas.height * 2))
        lights = Image.new("RGBA", (canvas.width * 2, canvas.height * 2))
        draw, lit = ImageDraw.Draw(image), ImageDraw.Draw(lights)
        front = mix(mix(palette.rock, palette.dark, 0.45), palette.haze, 0.78 * (1 - near))
        bright = mix(front, palette.sun, 0.28 * (1 - 0.55 * palette.dusk))
        x = -canvas.unit * 6.0
        while x < canvas.width:
            wide = canvas.unit * float(rng.uniform(4.5, 10.5)) * (0.55 + 0.5 * near)
            centre = 1 - min(1.0, abs(x / canvas.width - 0.5) * 1.6)
            high = (
                canvas.unit
                * (6 + 44 * tall * float(rng.random()) ** 1.9 * (0.35 + 0.65 * centre))
                * (1.08 - 0.5 * near)
                * (1.25 if neon else 1.0)
            )
            _tower(
                draw,
                lit,
                (2 * x, 2 * (x + wide)),
                2 * foot,
                2 * high,
                front,
                bright,
                light,
                palette,
                near,
                2 * canvas.unit,
                rng,
            )
            if neon and rng.random() < 0.5 and near > 0.4:
                tone = signs[int(rng.integers(4))]
                sx, sy = 2 * (x + wide * float(rng.uniform(0.1, 0.8))), 2 * (foot - high * float(rng.uniform(0.3, 0.8)))
                lit.rectangle(
                    (sx, sy, sx + canvas.unit * 1.1, sy + canvas.unit * float(rng.uniform(4, 13))), fill=_bytes(tone)
                )
            x += wide * float(rng.uniform(0.82, 1.12))
        canvas.add(_image_layer("city", image.reduce(2), near=0.1 + 0.5 * near))
        windows = _image_layer("windows", lights.reduce(2), near=0.1 + 0.5 * near, motion="flicker")
        canvas.add(windows)
        if palette.dusk > 0.4:
            halo = np.stack(
                [blurred(windows.rgb[..., c] * windows.alpha, canvas.unit * 2.2) for c in range(3)], axis=-1
            )
            canvas.add(
                Layer(
                    name="window glow",
                    rgb=np.clip(halo * 1.6, 0, 1),
                    alpha=np.full(halo.shape[:2], 0.8 * palette.dusk, np.float32),
                    left=windows.left,
                    top=windows.top,
                    near=windows.near,
                    motion="glow",
                    glow=True,
                )
            )
        if row < 3:
            ys = np.arange(canvas.height, dtype=np.float32)[:, None]
            mist = (
                0.4
                * np.exp(-(((ys - foot) / (canvas.unit * 9)) ** 2))
                * np.ones((1, canvas.width), np.float32)
                * (ys < foot)
            )
            canvas.add(
                Layer(
                    name="city haze",
                    rgb=flat((canvas.height, canvas.width), palette.haze),
                    alpha=mist.astype(np.float32),
                    near=0.1 + 0.5 * near,
                )
            )


def _tower(
    draw: ImageDraw.ImageDraw,
    lit: ImageDraw.ImageDraw,
    span: tuple[float, float],
    foot: float,
    high: float,
    front: Colour,
    bright: Colour,
    light: float,
    palette: Palette,
    near: float,
    unit: float,
    rng: np.random.Generator,
) -> None:
    left, right = span
    top = foot - high
    own = mix(front, bright, float(rng.uniform(0, 0.5)))
    draw.rectangle((left, top, right, foot), fill=_bytes(own))
    edge = (right - left) * 0.3
    sunny = (right - edge, right) if light > 0 else (left, left + edge)
    draw.rectangle((sunny[0], top, sunny[1], foot), fill=_bytes(mix(own, bright, 0.75)))
    middle = (left + right) / 2
    shape = rng.random()
    if shape < 0.22:
        draw.rectangle(
            (left + (right - left) * 0.2, top - high * 0.1, right - (right - left) * 0.2, top), fill=_bytes(own)
        )
        draw.line(
            (middle, top - high * 0.1, middle, top - high * 0.28), fill=_bytes(own), width=max(1, round(unit * 0.2))
        )
    elif shape < 0.36:
        draw.polygon([(left, top), (middle, top - (right - left) * 0.7), (right, top)], fill=_bytes(own))
    step = unit * (0.85 + 0.35 * near)
    share = 0.06 + 0.42 * palette.dusk
    warm: tuple[Colour, ...] = ((1.0, 0.83, 0.5), (1.0, 0.92, 0.7), (0.8, 0.9, 1.0))
    y = top + step * 0.7
    while y < foot - step * 0.5:
        x = left + step * 0.45
        while x < right - step * 0.5:
            if rng.random() < share:
                tone = mix(warm[int(rng.integers(3))], palette.haze, 0.45 * (1 - near))
                lit.rectangle(
                    (x, y, x + step * 0.46, y + step * 0.5), fill=_bytes(scale(tone, float(rng.uniform(0.65, 1.0))))
                )
            elif near > 0.5:
                draw.rectangle((x, y, x + step * 0.46, y + step * 0.5), fill=_bytes(mix(own, palette.sky[1], 0.3)))
            x += step
        y += step


def paint_road(canvas: Canvas, palette: Palette, top_y: float, rng: np.random.Generator) -> None:
    """A winding way into the distance."""
    width, height = canvas.width, canvas.height
    top = round(top_y)
    if height - top < 3:
        return
    ys, x = np.arange(top, height, dtype=np.float32)[:, None], np.arange(width, dtype=np.float32)[None, :]
    t = (ys - top + 0.5) / (height - top)
    bend = width * (0.5 + 0.16 * np.sin(3.4 / (t + 0.35) + rng.uniform(0, 6)) * (1 - 0.4 * t) + 0.05 * (1 - t))
    half = canvas.unit * (0.35 + 17 * t**1.35)
    far = np.abs(x - bend) / half
    tone = mix(mix(palette.ground, palette.sun, 0.35), palette.haze, 0.2)
    rgb = between(tone, scale(tone, 0.7), smooth(0.5, 1.0, far))
    canvas.add(
        Layer(
            name="road",
            rgb=rgb,
            alpha=0.92 * smooth(1.03, 0.94, far + 0.06 * soft_fbm(rng, height - top, width, canvas.unit * 3)),
            top=top,
            near=0.7,
        )
    )


def _image_layer(name: str, image: Image.Image, *, near: float, motion: str = "still") -> Layer:
    """A layer of a whole canvas cut down to what is painted on it."""
    box = image.getbbox() or (0, 0, 1, 1)
    pixels = np.asarray(image.crop(box), dtype=np.float32) / 255
    return Layer(
        name=name, rgb=pixels[..., :3], alpha=pixels[..., 3], left=box[0], top=box[1], near=near, motion=motion
    )


def _bytes(tone: Colour) -> tuple[int, int, int, int]:
    return (
        round(255 * min(1, max(0, tone[0]))),
        round(255 * min(1, max(0, tone[1]))),
        round(255 * min(1, max(0, tone[2]))),
        255,
    )

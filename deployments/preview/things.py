"""Things that stand, sail or fly in a scene, drawn as small sprites in the light of the palette."""

from __future__ import annotations

import math

import numpy as np

from deployments.preview.canvas import Canvas, Layer, Sprite, flat, glow_layer
from deployments.preview.noise import smooth
from deployments.preview.palette import Colour, Palette, mix, scale

_WINDOW: Colour = (1.0, 0.82, 0.42)


def lit_by(palette: Palette, tone: Colour) -> Colour:
    """A thing's own colour in the light of the scene."""
    return (tone[0] * palette.light[0], tone[1] * palette.light[1], tone[2] * palette.light[2])


def _shaded(layer: Layer, light: float, depth: float = 0.5) -> Layer:
    """The layer with one side in shade, as if it were round; ``light`` -1 left … 1 right."""
    width = layer.alpha.shape[1]
    across = np.linspace(-1, 1, width, dtype=np.float32)[None, :, None]
    factor = 1 - depth * smooth(-0.35, 1.0, -across * light) + 0.1 * smooth(0.2, 0.8, across * light)
    return Layer(
        name=layer.name,
        rgb=np.clip(layer.rgb * factor, 0, 1).astype(np.float32),
        alpha=layer.alpha,
        left=layer.left,
        top=layer.top,
        near=layer.near,
        motion=layer.motion,
        glow=layer.glow,
    )


def paint_lighthouse(
    canvas: Canvas, palette: Palette, x: float, foot: float, size: float, light: float, band: Colour
) -> tuple[float, float]:
    """The tower of ``size`` pixels with its lamp off; returns where the lamp is. See ``paint_beams``."""
    white, red = lit_by(palette, (0.96, 0.94, 0.9)), lit_by(palette, band)
    dark, glass = lit_by(palette, (0.16, 0.17, 0.2)), mix((1.0, 0.9, 0.6), (1, 1, 1), 0.25)
    sprite = Sprite(size * 0.42, aspect=2.4)

    def half(y: float) -> float:  # the tower's outline, in sprite units, from foot (0) to gallery (3.6)
        return 0.56 - 0.24 * math.pow(y / 3.6, 0.8)

    top = 3.62
    for index in range(7):
        low, high = top * index / 7, top * (index + 1) / 7
        points = [(-half(low), low), (half(low), low), (half(high), high), (-half(high), high)]
        sprite.polygon(points, white if index % 2 == 0 else red)
    sprite.box(-0.6, 0, 0.6, 0.09, scale(white, 0.6))
    for level, shift in ((0.9, -0.12), (1.8, 0.1), (2.7, -0.04)):
        sprite.box(shift - 0.055, level, shift + 0.055, level + 0.19, mix(dark, _WINDOW, 0.75 * palette.dusk))
    sprite.box(-0.12, 0.0, 0.12, 0.42, dark)
    sprite.ellipse(0, 0.42, 0.12, 0.1, dark)
    sprite.polygon([(-0.34, 3.5), (0.34, 3.5), (0.47, 3.68), (-0.47, 3.68)], scale(white, 0.75))
    sprite.box(-0.5, 3.68, 0.5, 3.74, dark)
    for i in range(9):
        sprite.line([(-0.48 + 0.12 * i, 3.74), (-0.48 + 0.12 * i, 3.92)], 0.018, dark)
    sprite.line([(-0.49, 3.92), (0.49, 3.92)], 0.03, dark)
    body = sprite.layer("lighthouse", x, foot, near=0.5)
    canvas.add(_shaded(body, light, 0.62))
    lamp = Sprite(size * 0.42, aspect=2.4)
    lamp.box(-0.22, 3.74, 0.22, 4.25, mix(glass, palette.sky[2], 0.5 * (1 - palette.dusk)))
    for i in range(5):
        lamp.line([(-0.22 + 0.11 * i, 3.74), (-0.22 + 0.11 * i, 4.25)], 0.02, dark)
    lamp.polygon([(-0.3, 4.24), (0.3, 4.24), (0.16, 4.47), (0, 4.58), (-0.16, 4.47)], red)
    lamp.ellipse(0, 4.62, 0.045, 0.05, dark)
    lamp.line([(0, 4.62), (0, 4.78)], 0.02, dark)
    canvas.add(lamp.layer("lantern", x, foot, near=0.5))
    return x, foot - size * 0.21 * 3.98


def paint_beams(
    canvas: Canvas, palette: Palette, lamp: tuple[float, float], size: float, angle: float, strength: float
) -> None:
    """The lamp's glow and two beams through the air."""
    x, y = lamp
    warm: Colour = (1.0, 0.93, 0.68)
    ys, xs = np.mgrid[0 : canvas.height, 0 : canvas.width].astype(np.float32)
    dx, dy = xs - np.float32(x), ys - np.float32(y)
    far = np.sqrt(dx**2 + dy**2) + 1
    turn = np.arctan2(dy, dx) - np.float32(angle)
    beam = np.zeros_like(far)
    for offset, share in ((0.0, 1.0), (math.pi, 0.62)):
        away = np.abs((turn - offset + math.pi) % (2 * math.pi) - math.pi)
        beam += share * (np.exp(-((away / 0.075) ** 2)) + 0.35 * np.exp(-((away / 0.17) ** 2)))
    reach = size * 2.6
    alpha = strength * np.clip(beam, 0, 1) * np.exp(-far / reach) * smooth(0, size * 0.05, far)
    canvas.add(
        Layer(
            name="beams",
            rgb=flat(alpha.shape, warm),
            alpha=alpha.astype(np.float32),
            near=0.5,
            motion="beam",
            glow=True,
        )
    )
    canvas.add(glow_layer("lamp glow", canvas.width, canvas.height, x, y, size * 0.34, warm, 0.8 * strength, near=0.5))
    canvas.add(glow_layer("lamp", canvas.width, canvas.height, x, y, size * 0.05, (1, 1, 0.94), 1.0, near=0.5))


def paint_house(
    canvas: Canvas,
    palette: Palette,
    x: float,
    foot: float,
    size: float,
    light: float,
    rng: np.random.Generator,
    *,
    wall: Colour | None = None,
    snow: bool = False,
    near: float = 0.6,
) -> None:
    """A small house seen from its corner, with lit windows when it is getting dark and smoke from the chimney."""
    tone = (
        wall or (((0.78, 0.68, 0.55), (0.86, 0.84, 0.78), (0.62, 0.28, 0.2), (0.5, 0.36, 0.26))[int(rng.integers(4))])
    )
    front, side_wall = lit_by(palette, tone), lit_by(palette, scale(tone, 0.55))
    roof = lit_by(palette, (0.95, 0.96, 1.0) if snow else (0.36, 0.18, 0.15))
    dark = lit_by(palette, (0.16, 0.13, 0.13))
    glowing = mix(lit_by(palette, (0.32, 0.42, 0.5)), _WINDOW, min(1.0, palette.dusk * 1.6))
    sprite = Sprite(size, aspect=0.95)
    sprite.box(0.42, 1.1, 0.58, 1.72, side_wall)
    sprite.polygon([(-0.9, 0), (-0.05, 0), (-0.05, 0.82), (-0.475, 1.42), (-0.9, 0.82)], front)
    sprite.polygon([(-0.05, 0), (0.92, 0.0), (0.92, 0.8), (-0.05, 0.82)], side_wall)
    sprite.polygon([(-0.475, 1.46), (0.62, 1.44), (1.0, 0.74), (0.0, 0.74)], roof)
    sprite.polygon([(-0.475, 1.54), (-0.36, 1.46), (-0.9, 0.72), (-1.0, 0.74)], scale(roof, 0.8))
    sprite.box(-0.57, 0, -0.36, 0.5, dark)
    for wx, wy, wide in ((-0.8, 0.5, 0.14), (0.2, 0.3, 0.2), (0.58, 0.3, 0.2)):
        sprite.box(wx, wy, wx + wide, wy + 0.26, glowing)
        sprite.line([(wx + wide / 2, wy), (wx + wide / 2, wy + 0.26)], 0.018, dark)
        sprite.line([(wx, wy + 0.13), (wx + wide, wy + 0.13)], 0.018, dark)
    sprite.box(-0.54, 0.92, -0.41, 1.06, glowing)
    canvas.add(sprite.layer("house", x, foot, near=near, mirrored=light > 0))
    if palette.dusk > 0.3:
        flip = -1 if light > 0 else 1
        for wx in (-0.73, 0.3, 0.68):
            canvas.add(
                glow_layer(
                    "window glow",
                    canvas.width,
                    canvas.height,
                    x + flip * wx * size / 2,
                    foot - 0.21 * size,
                    size * 0.16,
                    _WINDOW,
                    0.65 * palette.dusk,
                    near=near,
                )
            )
    flip = -1 if light > 0 else 1
    for puff in range(9):
        up = puff / 9
        canvas.add(
            glow_layer(
                "smoke",
                canvas.width,
                canvas.height,
                x + flip * size * 0.25 + size * (0.3 * up**1.5) + rng.normal(0, size * 0.015),
                foot - size * (0.88 + 0.5 * up),
                size * (0.035 + 0.09 * up),
                mix(palette.haze, palette.lit, 0.5),
                0.26 * (1 - up),
                near=near,
            )
        )


def paint_castle(
    canvas: Canvas, palette: Palette, x: float, foot: float, size: float, light: float, near: float = 0.35
) -> None:
    """Towers with pointed roofs on a wall."""
    stone, roof = lit_by(palette, (0.68, 0.64, 0.62)), lit_by(palette, (0.3, 0.32, 0.46))
    stone, roof = mix(stone, palette.haze, 0.25), mix(roof, palette.haze, 0.2)
    dark = mix(scale(stone, 0.35), _WINDOW, 0.85 * palette.dusk)
    sprite = Sprite(size, aspect=1.05)
    sprite.box(-0.85, 0, 0.85, 0.6, scale(stone, 0.86))
    for i in range(15):
        sprite.box(-0.85 + 0.117 * i, 0.6, -0.85 + 0.117 * i + 0.066, 0.68, scale(stone, 0.86))
    for tx, wide, high in (
        (-0.85, 0.15, 0.95),
        (0.82, 0.16, 1.05),
        (-0.42, 0.13, 1.22),
        (0.38, 0.14, 1.3),
        (0.0, 0.22, 1.05),
        (0.06, 0.1, 1.6),
    ):
        sprite.box(tx - wide, 0, tx + wide, high, stone)
        edge = wide * 0.55
        sprite.box(
            tx + (edge if light < 0 else -wide), 0, tx + (wide if light < 0 else -edge), high, scale(stone, 0.68)
        )
        sprite.box(tx - wide * 1.15, high - 0.06, tx + wide * 1.15, high, scale(stone, 0.9))
        sprite.polygon([(tx - wide * 1.2, high), (tx, high + wide * 2.6), (tx + wide * 1.2, high)], roof)
        sprite.line([(tx, high + wide * 2.5), (tx, high + wide * 2.5 + 0.1)], 0.012, scale(roof, 0.6))
        sprite.box(tx - 0.028, high - 0.3, tx + 0.028, high - 0.17, dark)
    sprite.box(-0.11, 0, 0.11, 0.26, scale(stone, 0.3))
    sprite.ellipse(0, 0.26, 0.11, 0.11, scale(stone, 0.3))
    canvas.add(sprite.layer("castle", x, foot, near=near))


def paint_boat(
    canvas: Canvas,
    palette: Palette,
    x: float,
    water: float,
    size: float,
    light: float,
    sail: Colour,
    *,
    near: float = 0.5,
    tilt: float = 0.0,
) -> None:
    """A sailing boat, with its reflection."""
    hull, cloth = lit_by(palette, (0.35, 0.2, 0.14)), lit_by(palette, sail)
    cloth = mix(cloth, palette.sun, 0.22)
    sprite = Sprite(size, aspect=1.15)
    shade = scale(cloth, 0.72)

    def leaned(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
        return [(px + tilt * py, py - tilt * px * 0.5) for px, py in points]

    sprite.line(leaned([(0.02, 0.2), (0.02, 2.2)]), 0.03, scale(hull, 0.7))
    sprite.polygon(leaned([(0.07, 0.48), (0.07, 2.12), (0.4, 1.25), (0.74, 0.5)]), cloth)
    sprite.polygon(leaned([(0.07, 0.48), (0.07, 2.12), (0.22, 1.3), (0.3, 0.49)]), shade)
    sprite.polygon(leaned([(-0.03, 0.5), (-0.03, 1.95), (-0.36, 1.1), (-0.66, 0.5)]), scale(cloth, 0.9))
    sprite.polygon(leaned([(-0.88, 0.42), (-0.6, 0.06), (0.62, 0.06), (0.92, 0.44), (0.6, 0.36), (-0.6, 0.34)]), hull)
    sprite.line(leaned([(-0.86, 0.4), (-0.6, 0.34), (0.6, 0.36), (0.9, 0.42)]), 0.035, mix(hull, cloth, 0.6))
    layer = sprite.layer("boat", x, water + size * 0.04, near=near, motion="float", mirrored=light > 0)
    rows = layer.alpha.shape[0]
    fade = np.linspace(0.5, 0.0, rows, dtype=np.float32)[:, None]
    wobble = (np.sin(np.arange(rows) * 0.9) * np.linspace(0, size * 0.02, rows)).astype(int)
    alpha, rgb = layer.alpha[::-1].copy(), layer.rgb[::-1].copy()
    for row in range(rows):
        alpha[row], rgb[row] = np.roll(alpha[row], wobble[row]), np.roll(rgb[row], wobble[row], axis=0)
    canvas.add(
        Layer(
            name="reflection",
            rgb=rgb * 0.8,
            alpha=alpha * fade,
            left=layer.left,
            top=round(water),
            near=near,
            motion="float",
        )
    )
    canvas.add(layer)


def paint_tree(
    canvas: Canvas,
    palette: Palette,
    x: float,
    foot: float,
    size: float,
    light: float,
    rng: np.random.Generator,
    leaf: Colour,
    *,
    bare: bool = False,
    near: float = 0.85,
) -> None:
    """One large tree: branches that fork, and leaves in clusters lit from one side."""
    sprite = Sprite(size, aspect=1.05)
    bark = lit_by(palette, (0.27, 0.19, 0.14))
    tips: list[tuple[float, float]] = []

    def branch(px: float, py: float, angle: float, length: float, width: float, level: int) -> None:
        bend = float(rng.normal(0, 0.16))
        mx, my = px + 0.5 * length * math.cos(angle), py + 0.5 * length * math.sin(angle)
        ex, ey = mx + 0.5 * length * math.cos(angle + bend), my + 0.5 * length * math.sin(angle + bend)
        sprite.line([(px, py), (mx, my), (ex, ey)], width, mix(bark, scale(bark, 0.6), float(rng.random())))
        if level == 0:
            tips.append((ex, ey))
            return
        if level < 3:
            tips.append((ex, ey))
        for side in (-1, 1) if rng.random() < 0.75 else (-1, 0.2, 1):
            branch(
                ex,
                ey,
                angle + side * float(rng.uniform(0.28, 0.62)) + 0.08 * (1.57 - angle),
                length * float(rng.uniform(0.68, 0.84)),
                width * 0.64,
                level - 1,
            )

    sprite.polygon([(-0.16, 0), (-0.06, 0.16), (-0.05, 0.5), (0.05, 0.5), (0.06, 0.16), (0.17, 0)], bark)
    branch(0.0, 0.4, 1.57 + float(rng.normal(0, 0.06)), 0.36, 0.1, 5)
    if not bare:
        own = lit_by(palette, leaf)
        dark, bright = mix(scale(own, 0.36), palette.deep, 0.2), mix(own, palette.sun, 0.38)
        for shade in (0.0, 0.38, 0.75, 1.0):
            for tx, ty in tips:
                for _ in range(11):
                    spread = 0.13 - 0.035 * shade
                    lx, ly = (
                        tx + float(rng.normal(0, spread)) + light * 0.05 * shade,
                        ty + float(rng.normal(0, spread * 0.8)) + 0.06 * shade,
                    )
                    r = float(rng.uniform(0.016, 0.042)) * (1.2 - 0.5 * shade)
                    sprite.ellipse(lx, ly, r * 1.2, r, mix(mix(dark, bright, shade), own, float(rng.uniform(0, 0.5))))
    canvas.add(sprite.layer("tree", x, foot, near=near, motion="sway"))


def paint_palm(canvas: Canvas, palette: Palette, x: float, foot: float, size: float, rng: np.random.Generator) -> None:
    """A palm that leans."""
    sprite = Sprite(size, aspect=1.2)
    trunk, frond = lit_by(palette, (0.4, 0.29, 0.2)), lit_by(palette, (0.2, 0.42, 0.2))
    lean = float(rng.uniform(0.15, 0.4)) * float(rng.choice((-1, 1)))
    path = [(lean * 1.2 * (t / 10) ** 2 - lean * 0.5, 1.72 * t / 10) for t in range(11)]
    for i in range(10):
        sprite.line(path[i : i + 2], 0.085 - 0.0045 * i, mix(trunk, scale(trunk, 0.65), 0.7 * (i % 2)))
    hx, hy = path[-1]
    for k in range(13):
        angle = -0.5 + 4.14 * k / 12 + float(rng.normal(0, 0.08))
        reach = float(rng.uniform(0.5, 0.72))
        spine = [
            (hx + reach * s / 8 * math.cos(angle), hy + reach * s / 8 * math.sin(angle) - 0.5 * (s / 8) ** 2 * reach)
            for s in range(9)
        ]
        sprite.line(spine, 0.02, scale(frond, 0.7))
        for s in range(1, 9):
            sx, sy = spine[s]
            drop = 0.16 * (1 - abs(s - 4) / 7)
            sprite.polygon(
                [(sx, sy + 0.012), (sx + 0.05, sy - drop), (sx - 0.045, sy - drop * 0.9)],
                mix(frond, scale(frond, 0.5), float(rng.random())),
            )
    canvas.add(sprite.layer("palm", x, foot, near=0.85, motion="sway"))


def paint_windmill(
    canvas: Canvas, palette: Palette, x: float, foot: float, size: float, light: float, near: float = 0.6
) -> None:
    """A tower mill with four sails."""
    sprite = Sprite(size, aspect=1.15)
    wall, cap, wood = (lit_by(palette, tone) for tone in ((0.86, 0.8, 0.7), (0.4, 0.22, 0.18), (0.32, 0.24, 0.2)))
    sprite.polygon([(-0.36, 0), (0.36, 0), (0.22, 1.25), (-0.22, 1.25)], wall)
    sprite.polygon(
        [(0.08 * light, 0), (-0.36 * light, 0), (-0.22 * light, 1.25), (0.02 * light, 1.25)], scale(wall, 0.72)
    )
    sprite.polygon([(-0.27, 1.22), (0.27, 1.22), (0.17, 1.46), (0, 1.53), (-0.17, 1.46)], cap)
    sprite.box(-0.08, 0, 0.08, 0.3, scale(wood, 0.6))
    for y in (0.55, 0.9):
        sprite.box(-0.05, y, 0.05, y + 0.13, mix(scale(wood, 0.5), _WINDOW, palette.dusk))
    for k in range(4):
        angle = 0.42 + k * math.pi / 2
        c, s = math.cos(angle), math.sin(angle)
        sprite.line([(0, 1.32), (0.9 * c, 1.32 + 0.9 * s)], 0.035, wood)
        ox, oy = -s * 0.17, c * 0.17
        sprite.polygon(
            [
                (0.2 * c, 1.32 + 0.2 * s),
                (0.88 * c, 1.32 + 0.88 * s),
                (0.88 * c + ox, 1.32 + 0.88 * s + oy),
                (0.2 * c + ox, 1.32 + 0.2 * s + oy),
            ],
            mix(wall, wood, 0.3),
            0.85,
        )
        for j in range(1, 7):
            r = 0.2 + 0.68 * j / 7
            sprite.line([(r * c, 1.32 + r * s), (r * c + ox, 1.32 + r * s + oy)], 0.012, wood)
    canvas.add(sprite.layer("windmill", x, foot, near=near))


def paint_balloon(
    canvas: Canvas, palette: Palette, x: float, y: float, size: float, tones: tuple[Colour, Colour], light: float
) -> None:
    """A hot-air balloon whose basket hangs at y."""
    sprite = Sprite(size, aspect=1.4)
    first, second, wood = (lit_by(palette, tone) for tone in (*tones, (0.45, 0.3, 0.2)))
    for index in range(11):
        half = 0.94 * math.cos(math.asin(min(1.0, index / 11)))
        tone = mix(first if index % 2 else second, palette.sun, 0.12)
        sprite.curve(
            [
                (-half, 1.86),
                (-half * 0.82, 1.25),
                (-0.13 * half, 0.62),
                (0.13 * half, 0.62),
                (half * 0.82, 1.25),
                (half, 1.86),
                (half * 0.62, 2.58),
                (0, 2.74),
                (-half * 0.62, 2.58),
            ],
            tone,
        )
    for rope in (-0.13, 0.13):
        sprite.line([(rope, 0.62), (rope * 0.8, 0.3)], 0.012, scale(wood, 0.6))
    sprite.box(-0.12, 0.08, 0.12, 0.31, wood)
    canvas.add(_shaded(sprite.layer("balloon", x, y, near=0.3, motion="fly"), light, 0.5))


def paint_glow_fire(
    canvas: Canvas, palette: Palette, x: float, foot: float, size: float, rng: np.random.Generator
) -> None:
    """A campfire with its light on the ground."""
    canvas.add(
        glow_layer(
            "fire light",
            canvas.width,
            canvas.height,
            x,
            foot - size * 0.2,
            size * 1.7,
            (1.0, 0.5, 0.15),
            0.75,
            near=0.9,
        )
    )
    sprite = Sprite(size, aspect=1.1)
    wood = (0.2, 0.11, 0.08)
    for angle in (-0.5, 0.5, -0.15):
        sprite.line(
            [
                (-0.5 * math.cos(angle), 0.06 + 0.1 * math.sin(angle) + 0.08),
                (0.5 * math.cos(angle), 0.14 - 0.1 * math.sin(angle)),
            ],
            0.11,
            wood,
        )
    for wide, high, tone in (
        (0.42, 1.5, (0.95, 0.28, 0.06)),
        (0.32, 1.15, (1.0, 0.55, 0.1)),
        (0.2, 0.8, (1.0, 0.85, 0.35)),
        (0.1, 0.5, (1, 1, 0.85)),
    ):
        lean = float(rng.normal(0, 0.05))
        sprite.curve(
            [
                (-wide, 0.32),
                (-wide * 0.7, 0.1),
                (wide * 0.7, 0.1),
                (wide, 0.32),
                (wide * 0.45, high * 0.6),
                (lean, high),
                (-wide * 0.5, high * 0.55),
            ],
            tone,
            1.0,
        )
    canvas.add(sprite.layer("fire", x, foot, near=0.9, motion="glow"))
    for _ in range(26):
        up = float(rng.random())
        canvas.add(
            glow_layer(
                "spark",
                canvas.width,
                canvas.height,
                x + float(rng.normal(0, 0.25)) * size * (0.4 + up),
                foot - size * (0.6 + 1.5 * up),
                canvas.unit * 0.22,
                (1.0, 0.6, 0.2),
                0.9 * (1 - up),
                near=0.9,
            )
        )

"""How a painted scene moves: clouds drift, water ripples, lamps flicker, rain falls, the camera goes by. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageChops

from deployments.preview import pictures, sky, things
from deployments.preview.abstract import paint_abstract
from deployments.preview.canvas import Canvas, Layer
from deployments.preview.finish import finished, graded, vignette
from deployments.preview.flag import CancelFlag
from deployments.preview.image import as_image, as_picture, painting_size
from deployments.preview.palette import PALETTES
from deployments.preview.scene import Scene, generator
from deployments.preview.wish import understood

_PAINTED_PIXELS = (60_000, 270_000)
_MARGIN = 0.06  # of each side, painted beyond the frame for the camera to move into
_LIVELY = frozenset({"oil", "watercolor", "sketch", "ink", "pixel", "neon", "vaporwave", "photo", "minimal"})


@dataclass(frozen=True, kw_only=True)
class _Part:
    """Layers that move together, as one picture with its place on the painted scene."""

    motion: str
    near: float
    glow: bool
    image: Image.Image
    left: int
    top: int
    name: str


def moving_scene(
    prompt: str, seed: int, size: tuple[int, int], frames: int, fps: int, flag: CancelFlag
) -> Callable[[int], Image.Image]:
    """Paint the scene of the prompt; returns what makes frame n of it, at the size asked for."""
    wish, rng = understood(prompt), generator(prompt, seed)
    inner = painting_size(*size, limits=_PAINTED_PIXELS)
    margin_x, margin_y = round(inner[0] * _MARGIN) + 1, round(inner[1] * _MARGIN) + 1
    canvas = Canvas(width=inner[0] + 2 * margin_x, height=inner[1] + 2 * margin_y, keep=True)
    scene: Scene | None = None
    if wish.abstract:
        paint_abstract(canvas, wish.colours, rng)
    else:
        scene = Scene(wish, canvas, rng)
        for _, paint in scene.steps():
            flag.check()
            paint()
    parts = _parts(canvas, flag)
    total_s = frames / fps
    flashes = sorted(float(at) for at in rng.uniform(0.1, 0.95, max(1, round(total_s / 1.6))) * total_s)

    def shoot(number: int) -> Image.Image:
        flag.check()
        t, share = number / fps, number / max(1, frames - 1)
        view = Image.new("RGB", (canvas.width, canvas.height))
        for part in parts:
            _lay(view, part, canvas.unit, t, share, total_s, flashes, margin_x)
        if scene is not None and scene.lamp is not None and scene.palette.dusk > 0.3:
            view = _with_beams(view, scene, t)
        frame = view.crop((margin_x, margin_y, margin_x + inner[0], margin_y + inner[1]))
        zoom = 1 - 0.05 * share
        box = (
            inner[0] * (1 - zoom) / 2,
            inner[1] * (1 - zoom) / 2,
            inner[0] * (1 + zoom) / 2,
            inner[1] * (1 + zoom) / 2,
        )
        frame = frame.resize(inner, Image.Resampling.BICUBIC, box=box)
        rgb = as_picture(frame)
        if wish.style in _LIVELY:
            rgb = finished(rgb, wish.style, generator(prompt, seed, "finish"), canvas.unit, flag)
        else:
            rgb = vignette(graded(rgb, 1.06), 0.16)
        how = Image.Resampling.NEAREST if wish.style == "pixel" else Image.Resampling.BICUBIC
        return as_image(rgb).resize(size, how) if inner != size else as_image(rgb)

    return shoot


def moving_picture(
    picture: Image.Image, prompt: str, seed: int, size: tuple[int, int], frames: int, fps: int, flag: CancelFlag
) -> Callable[[int], Image.Image]:
    """A camera that moves over the picture, with light that passes, and rain or snow where the prompt asks for it."""
    wish, rng = understood(prompt), generator(prompt, seed)
    inner = painting_size(*size, limits=(60_000, 520_000))
    large = pictures.fitted(picture, round(inner[0] * 1.2), round(inner[1] * 1.2))
    flag.check()
    towards = (float(rng.uniform(-1, 1)), float(rng.uniform(-1, 1)))
    inwards = bool(rng.random() < 0.6)
    canvas = Canvas(width=inner[0], height=inner[1], keep=True)
    palette = PALETTES["golden"].tinted(wish.colours)
    if wish.has("rain"):
        sky.paint_rain(canvas, palette, rng, strength=1.0)
    if wish.has("snow"):
        sky.paint_snowfall(canvas, rng)
    falling = _parts(canvas, flag)
    ys, xs = np.mgrid[0 : inner[1], 0 : inner[0]].astype(np.float32)
    along = xs / inner[0] + 0.4 * ys / inner[1]
    tone = np.array(palette.sun, dtype=np.float32)

    def shoot(number: int) -> Image.Image:
        flag.check()
        t, share = number / fps, number / max(1, frames - 1)
        eased = share * share * (3 - 2 * share)
        zoom = 1.2 - 0.14 * (eased if inwards else 1 - eased)
        wide, high = large.width * zoom / 1.2 * 0.97, large.height * zoom / 1.2 * 0.97
        room_x, room_y = large.width - wide, large.height - high
        left = room_x * (0.5 + 0.5 * towards[0] * (2 * eased - 1))
        top = room_y * (0.5 + 0.5 * towards[1] * (2 * eased - 1))
        frame = large.resize(inner, Image.Resampling.BICUBIC, box=(left, top, left + wide, top + high))
        rgb = as_picture(frame)
        ray = np.exp(-(((along - (-0.3 + 2.0 * share)) / 0.32) ** 2))
        rgb = rgb + (1 - rgb) * (0.13 * ray)[..., None] * tone
        rgb = rgb * np.float32(1 + 0.015 * math.sin(2.1 * t))
        view = as_image(rgb)
        for part in falling:
            _lay(view, part, canvas.unit, t, share, frames / fps, [], 0)
        return view.resize(size, Image.Resampling.BICUBIC) if inner != size else view

    return shoot


def _parts(canvas: Canvas, flag: CancelFlag) -> list[_Part]:
    """The canvas's layers, neighbours that move alike put together; what the frame paints itself is left out."""
    groups: list[list[Layer]] = []
    for layer in canvas.layers:
        if layer.name in ("beams", "lamp glow", "lamp"):
            continue
        last = groups[-1][-1] if groups else None
        alike = (
            last is not None
            and last.motion == layer.motion
            and last.glow == layer.glow
            and abs(last.near - layer.near) < 0.12
        )
        if (
            alike
            and layer.motion != "wave"
            and (layer.name == "lightning") == (last is not None and last.name == "lightning")
        ):
            groups[-1].append(layer)
        else:
            groups.append([layer])
    parts = []
    for group in groups:
        flag.check()
        parts.append(_merged(group))
    return parts


def _merged(group: list[Layer]) -> _Part:
    first = group[0]
    left, top = min(layer.left for layer in group), min(layer.top for layer in group)
    right = max(layer.left + layer.alpha.shape[1] for layer in group)
    bottom = max(layer.top + layer.alpha.shape[0] for layer in group)
    if first.glow:
        light = np.zeros((bottom - top, right - left, 3), dtype=np.float32)
        for layer in group:
            height, width = layer.alpha.shape
            view = light[layer.top - top : layer.top - top + height, layer.left - left : layer.left - left + width]
            view += (1 - view) * np.clip(layer.rgb * layer.alpha[..., None], 0, 1)
        image = as_image(light)
    else:
        image = Image.new("RGBA", (right - left, bottom - top))
        for layer in group:
            pixels = np.dstack((np.clip(layer.rgb, 0, 1), np.clip(layer.alpha, 0, 1)))
            image.alpha_composite(
                Image.fromarray((pixels * 255 + 0.5).astype(np.uint8)), (layer.left - left, layer.top - top)
            )
    return _Part(
        motion=first.motion,
        near=sum(layer.near for layer in group) / len(group),
        glow=first.glow,
        image=image,
        left=left,
        top=top,
        name=first.name,
    )


def _lay(
    view: Image.Image,
    part: _Part,
    unit: float,
    t: float,
    share: float,
    total_s: float,
    flashes: list[float],
    margin: int,
) -> None:
    """Put one part onto the frame, where it is at time t."""
    pan = (share - 0.5) * 1.3 * margin * (0.15 + part.near)
    dx, dy, strength, image = -pan, 0.0, 1.0, part.image
    match part.motion:
        case "drift":
            dx += min(unit * 0.9, margin * 0.9 / max(1.0, total_s)) * (t - total_s / 2)
        case "water":
            image = _rippled(image, unit, t)
        case "wave":
            phase = part.near * 9.0
            dx += unit * (1.0 + 2.2 * part.near) * math.sin(1.5 * t + phase)
            dy += unit * (0.3 + 1.5 * part.near) * math.sin(1.9 * t + phase * 1.3)
        case "rain":
            image = _fallen(image, 0.18, 95 * unit * t)
        case "snow":
            image = _fallen(image, 0.12 + 0.1 * math.sin(t), 9 * unit * t)
        case "twinkle":
            strength = 0.85 + 0.15 * math.sin(5 * t)
        case "glow":
            strength = 0.9 + 0.07 * math.sin(7.3 * t + part.near * 40) + 0.03 * math.sin(17.0 * t)
            if part.name == "lightning":
                strength = max((math.exp(-6 * (t - at)) for at in flashes if t >= at), default=0.0)
        case "flicker":
            strength = 0.97 + 0.03 * math.sin(9 * t + part.near * 20)
        case "float":
            dy += unit * 0.45 * math.sin(1.7 * t)
            dx += unit * 0.3 * math.sin(0.9 * t)
        case "fly":
            dx += unit * 1.6 * (t - total_s / 2)
            dy += unit * 0.5 * math.sin(2.3 * t)
        case "sway":
            image = _swayed(image, unit * 0.35 * part.near * math.sin(1.6 * t + part.near * 5))
    if part.glow:
        _shine(view, image, part.left + dx, part.top + dy, strength)
    else:
        _over(view, image, part.left + dx, part.top + dy, margin)


def _over(view: Image.Image, image: Image.Image, x: float, y: float, margin: int) -> None:
    """Lay a picture over the view at a place between pixels, its edge columns stretched to fill what it uncovers."""
    wide = image.width >= view.width - 2
    left, top = math.floor(x), math.floor(y)
    part_x, part_y = x - left, y - top
    moved = image.transform(
        (image.width + 1, image.height + 1),
        Image.Transform.AFFINE,
        (1, 0, -part_x, 0, 1, -part_y),
        Image.Resampling.BILINEAR,
    )
    if wide:
        # Painted to its borders: the half-covered border columns would show as a seam.
        moved = moved.crop((1, 0, moved.width - 1, moved.height))
        left += 1
    view.paste(moved, (left, top), moved)


def _shine(view: Image.Image, image: Image.Image, x: float, y: float, strength: float) -> None:
    if strength <= 0.01:
        return
    if strength < 0.995:
        image = image.point([round(level * strength) for level in range(256)] * 3)
    left, top = round(x), round(y)
    box = (max(0, left), max(0, top), min(view.width, left + image.width), min(view.height, top + image.height))
    if box[2] <= box[0] or box[3] <= box[1]:
        return
    inner = image.crop((box[0] - left, box[1] - top, box[2] - left, box[3] - top))
    view.paste(ImageChops.screen(view.crop(box), inner), box[:2])


def _rippled(image: Image.Image, unit: float, t: float) -> Image.Image:
    """Rows pushed to and fro, the nearer the farther."""
    pixels = np.asarray(image)
    height, width = pixels.shape[:2]
    y = np.arange(height, dtype=np.float32)
    down = (y + 1) / height
    depth = 1 / (down + 0.06)
    push = unit * 0.55 * (0.25 + down) * (np.sin(depth * 5.5 + 2.6 * t) + 0.5 * np.sin(depth * 12.3 - 3.7 * t))
    rows = np.clip(y + unit * 0.3 * (0.2 + down) * np.sin(depth * 8.0 - 2.2 * t), 0, height - 1).astype(np.int32)
    columns = np.arange(width)[None, :] + np.round(push).astype(np.int32)[:, None]
    return Image.fromarray(pixels[rows[:, None], np.clip(columns, 0, width - 1)])


def _fallen(image: Image.Image, slant: float, distance: float) -> Image.Image:
    """Rain or snow after it fell so far, coming in again at the top."""
    return ImageChops.offset(
        image, round(slant * distance) % max(1, image.width), round(distance) % max(1, image.height)
    )


def _swayed(image: Image.Image, push: float) -> Image.Image:
    """Leaning in the wind; the foot stays where it is."""
    shear = push / max(1, image.height)
    return image.transform(
        image.size, Image.Transform.AFFINE, (1, shear, -shear * image.height, 0, 1, 0), Image.Resampling.BILINEAR
    )


def _with_beams(view: Image.Image, scene: Scene, t: float) -> Image.Image:
    """The lighthouse's beams at time t: they turn, bright when they come towards the viewer."""
    assert scene.lamp is not None
    canvas = Canvas(width=view.width, height=view.height)
    canvas.rgb = as_picture(view)
    turn = math.cos(1.5 * t)
    things.paint_beams(
        canvas,
        scene.palette,
        scene.lamp,
        canvas.width * 0.34,
        (0.12 if turn > 0 else math.pi + 0.12),
        (0.3 + 0.62 * scene.palette.dusk) * abs(turn) ** 0.6,
    )
    return as_image(canvas.rgb)

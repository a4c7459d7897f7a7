"""The finish: what a painted scene is made of, brush strokes, washes, pencil, pixels or light. Pure."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from deployments.preview.canvas import Picture, between
from deployments.preview.flag import CancelFlag
from deployments.preview.noise import Field, blurred, fbm, line, resized, smooth
from deployments.preview.palette import Colour


def finished(rgb: Picture, style: str, rng: np.random.Generator, unit: float, flag: CancelFlag) -> Picture:
    """The picture in its style; "" is the house style, a fine gouache. ``unit`` as of the canvas."""
    match style:
        case "oil":
            rgb = painted(
                graded(rgb, 1.06), rng, unit, flag, sizes=(4.4, 2.2, 1.15, 0.62), relief=0.2, share=0.95, faithful=0.8
            )
        case "watercolor":
            rgb = watercolour(rgb, rng, unit)
        case "sketch":
            rgb = pencil(rgb, rng, unit)
        case "ink":
            rgb = ink(rgb, rng, unit)
        case "pixel":
            return pixels(graded(rgb, 1.12))
        case "neon":
            rgb = neon(rgb, unit)
        case "vaporwave":
            rgb = vaporwave(rgb, unit)
        case "minimal":
            rgb = minimal(rgb)
        case "photo":
            rgb = photo(rgb, rng, unit)
        case _:
            rgb = painted(graded(rgb, 1.04), rng, unit, flag, sizes=(1.7, 0.75), relief=0.12, share=0.75, faithful=0.75)
    return np.clip(rgb, 0, 1)


def luminance(rgb: Picture) -> Field:
    out: Field = rgb @ np.array((0.299, 0.587, 0.114), dtype=np.float32)
    return out


def graded(rgb: Picture, saturation: float) -> Picture:
    """A gentle S curve and a little more colour."""
    grey = luminance(rgb)[..., None]
    rich = np.clip(grey + (rgb - grey) * np.float32(saturation), 0, 1)
    out: Picture = rich + np.float32(0.16) * (rich - 0.5) * (1 - np.abs(2 * rich - 1))
    return np.clip(out, 0, 1)


def vignette(rgb: Picture, strength: float) -> Picture:
    height, width = rgb.shape[:2]
    y = np.linspace(-1, 1, height, dtype=np.float32)[:, None] ** 2
    x = np.linspace(-1, 1, width, dtype=np.float32)[None, :] ** 2
    out: Picture = rgb * (1 - np.float32(strength) * smooth(0.5, 2.1, x + y))[..., None]
    return out


def bloomed(rgb: Picture, radius: float, strength: float, threshold: float = 0.7) -> Picture:
    """Bright places shine over their edges."""
    bright = rgb * smooth(threshold, 1.0, luminance(rgb))[..., None]
    halo = np.stack(
        [blurred(bright[..., c], radius) + 0.5 * blurred(bright[..., c], radius * 3) for c in range(3)], axis=-1
    )
    return rgb + (1 - rgb) * np.clip(np.float32(strength) * halo, 0, 1)


def flow(rgb: Picture, unit: float, rng: np.random.Generator) -> tuple[Field, Field]:
    """The direction (dx, dy) in which a brush would go: along edges, and in gentle curves where there are none."""
    grey = luminance(rgb)
    rows, columns = max(8, round(grey.shape[0] / 4)), max(8, round(grey.shape[1] / 4))
    small = resized(grey, rows, columns)
    gy, gx = (np.asarray(slope) for slope in np.gradient(small))
    spread = max(1.5, unit * 1.5 / 4)
    jxx, jyy, jxy = blurred(gx * gx, spread), blurred(gy * gy, spread), blurred(gx * gy, spread)
    angle = 0.5 * np.arctan2(2 * jxy, jxx - jyy) + np.pi / 2
    sure = np.sqrt((jxx - jyy) ** 2 + 4 * jxy**2)
    sure = sure / (sure + 2e-4)
    dx, dy = np.cos(angle), np.sin(angle)
    turn = np.where(dx < 0, -1.0, 1.0)
    wander = 0.75 * fbm(rng, rows, columns, unit * 11 / 4, 2, stretch=1.6)
    dx, dy = dx * turn * sure + (1 - sure) * np.cos(wander), dy * turn * sure + (1 - sure) * np.sin(wander)
    length = np.sqrt(dx**2 + dy**2) + 1e-6
    return (dx / length).astype(np.float32), (dy / length).astype(np.float32)


def painted(
    rgb: Picture,
    rng: np.random.Generator,
    unit: float,
    flag: CancelFlag,
    *,
    sizes: tuple[float, ...],
    relief: float,
    share: float = 1.0,
    faithful: float = 0.5,
) -> Picture:
    """Brush strokes in several sizes, the small ones where there is detail, which ``faithful`` keeps (after Hertzmann
    1998, https://mrl.cs.nyu.edu/publications/painterly98/), with bristles and light on the paint's relief."""
    height, width = rgb.shape[:2]
    dx, dy = flow(rgb, unit, rng)
    down = np.array((height / dx.shape[0], width / dx.shape[1]))
    source = np.asarray(Image.fromarray(_to_bytes(rgb)))
    base = Image.fromarray(source).filter(ImageFilter.GaussianBlur(sizes[0] * unit * 0.5))
    image = base.copy()
    image.putalpha(128)
    draw = ImageDraw.Draw(image)
    grey = luminance(rgb)
    for level, size in enumerate(sizes):
        brush = max(1.5, size * unit)
        guide = (
            np.asarray(Image.fromarray(source).filter(ImageFilter.GaussianBlur(brush * 0.28))) if brush > 3 else source
        )
        step = max(2.0, brush * (0.62 if level < len(sizes) - 1 else 0.8))
        gy, gx = np.mgrid[step / 2 : height : step, step / 2 : width : step]
        y = (gy + rng.uniform(-0.5, 0.5, gy.shape) * step).clip(0, height - 1).ravel()
        x = (gx + rng.uniform(-0.5, 0.5, gx.shape) * step).clip(0, width - 1).ravel()
        if level > 0:
            detail = np.abs(grey - blurred(grey, brush * 2.2))
            detail = blurred(detail, brush)[y.astype(int), x.astype(int)]
            kept = detail > (0.012, 0.02, 0.03)[min(level - 1, 2)] * rng.uniform(0.3, 1.2, detail.shape)
            x, y = x[kept], y[kept]
        order = rng.permutation(len(x))[:14_000]
        x, y = x[order], y[order]
        _strokes(draw, x, y, guide, (dx, dy), down, brush, level, rng, flag)
    flag.check()
    pixels_ = np.asarray(image, dtype=np.float32) / 255
    paint, height_map = pixels_[..., :3], pixels_[..., 3]
    bristle = _bristles(dx, dy, height, width, rng, unit)
    surface = blurred(height_map, max(1.0, unit * 0.12)) * 0.9 + bristle * 0.06
    light = surface - np.roll(np.roll(surface, 1, axis=0), 1, axis=1)
    out = paint * (1 + np.float32(0.05 * relief) * bristle)[..., None]
    out = out + np.clip(light * np.float32(relief), -0.1, 0.13)[..., None]
    sharp = np.abs(grey - blurred(grey, unit * 0.5))
    kept = np.float32(faithful) * smooth(0.02, 0.09, blurred(sharp, unit * 0.3))
    out = rgb + (out - rgb) * (np.float32(share) * (1 - kept))[..., None]
    return vignette(np.clip(out, 0, 1), 0.16)


def _strokes(
    draw: ImageDraw.ImageDraw,
    x: Field,
    y: Field,
    guide: object,
    directions: tuple[Field, Field],
    down: object,
    brush: float,
    level: int,
    rng: np.random.Generator,
    flag: CancelFlag,
) -> None:
    """Curved strokes of one size, each in the colour that the picture has where it begins."""
    if len(x) == 0:
        return
    dx, dy = directions
    colours = np.asarray(guide)
    rows, columns = colours.shape[:2]
    scale_y, scale_x = np.asarray(down)
    half = brush * rng.uniform(0.9, 2.1, len(x)) * (1.15 if level == 0 else 1.0)
    points = [np.stack((x, y), axis=1)]
    for direction in (-1.0, 1.0):
        px, py = x.copy(), y.copy()
        for _ in range(2):
            iy = np.clip(py / scale_y, 0, dx.shape[0] - 1).astype(int)
            ix = np.clip(px / scale_x, 0, dx.shape[1] - 1).astype(int)
            px, py = px + direction * dx[iy, ix] * half * 0.5, py + direction * dy[iy, ix] * half * 0.5
            points.append(np.stack((px, py), axis=1))
    path = np.stack((points[2], points[1], points[0], points[3], points[4]), axis=1).reshape(len(x), -1)
    tones = colours[y.astype(int).clip(0, rows - 1), x.astype(int).clip(0, columns - 1)].astype(np.float32)
    tones = tones * (1 + rng.normal(0, 0.022, (len(x), 1))) + rng.normal(0, 2.6, (len(x), 3))
    fills = np.concatenate((tones.clip(0, 255), rng.uniform(40, 215, (len(x), 1))), axis=1).astype(np.uint8).tolist()
    widths = np.maximum(1, np.round(brush * rng.uniform(0.55, 1.0, len(x)))).astype(int).tolist()
    for index, line_points in enumerate(path.tolist()):
        if index % 1024 == 0:
            flag.check()
        draw.line(line_points, fill=tuple(fills[index]), width=widths[index])


def _bristles(dx: Field, dy: Field, height: int, width: int, rng: np.random.Generator, unit: float) -> Field:
    """Noise smeared along the flow: the marks of the hairs of a brush, of deviation 1."""
    rows, columns = height // 2 + 1, width // 2 + 1
    fx, fy = resized(dx, rows, columns), resized(dy, rows, columns)
    grain = rng.standard_normal((rows, columns)).astype(np.float32)
    ys, xs = np.mgrid[0:rows, 0:columns].astype(np.float32)
    out = grain.copy()
    reach = max(3, round(unit * 0.55))
    for direction in (-1, 1):
        py, px = ys.copy(), xs.copy()
        for _ in range(reach):
            px += direction * fx * 1.2
            py += direction * fy * 1.2
            out += grain.ravel()[
                (np.clip(py, 0, rows - 1).astype(np.int32) * columns) + np.clip(px, 0, columns - 1).astype(np.int32)
            ]
    return resized(out / np.float32(out.std() or 1), height, width)


def watercolour(rgb: Picture, rng: np.random.Generator, unit: float) -> Picture:
    """Transparent washes with dark edges, pigment grain, and paper that stays white at the border."""
    height, width = rgb.shape[:2]
    wobble = fbm(rng, height, width, unit * 5, 4), fbm(rng, height, width, unit * 5, 4)
    ys, xs = np.mgrid[0:height, 0:width].astype(np.float32)
    at_y = np.clip(ys + wobble[0] * unit * 0.5, 0, height - 1).astype(np.int32)
    at_x = np.clip(xs + wobble[1] * unit * 0.5, 0, width - 1).astype(np.int32)
    moved = rgb[at_y, at_x]
    image = Image.fromarray(_to_bytes(moved)).filter(ImageFilter.MedianFilter(5 if unit > 4 else 3))
    soft = np.asarray(image.filter(ImageFilter.GaussianBlur(unit * 0.35)), dtype=np.float32) / 255
    grey = luminance(soft)
    washes = 6.0
    level = grey * washes + 0.28 * fbm(rng, height, width, unit * 9, 4)
    part = level - np.floor(level)
    stepped = (np.floor(level) + smooth(0.25, 0.75, part)) / washes
    tone = soft * ((0.55 * stepped + 0.45 * grey + 0.02) / (grey + 0.02))[..., None]
    edge = np.abs(stepped - blurred(stepped, unit * 0.6))
    grain = fbm(rng, height, width, unit * 0.8, 3)
    density = 1.0 + 1.4 * blurred(edge, 1.2) * 2 + 0.05 * grain + 0.14 * fbm(rng, height, width, unit * 22, 3)
    paper = np.array((0.985, 0.975, 0.945), dtype=np.float32)
    lifted = 0.1 + 0.9 * np.clip(tone, 0, 1)
    wash = paper * np.clip(lifted, 0.03, 1) ** np.clip(density, 0.4, 2.2)[..., None]
    mean = luminance(wash)[..., None]
    wash = np.clip(mean + (wash - mean) * 1.22, 0, 1)
    border = np.minimum(np.minimum(xs, width - 1 - xs), np.minimum(ys, height - 1 - ys)) / unit
    ragged = smooth(2.2, 3.0, border + 0.9 * fbm(rng, height, width, unit * 7, 5))
    rim = np.exp(-(((border + 0.9 * wobble[0] * 0.4 - 3.2) / 0.5) ** 2)) * ragged
    out = between(paper, wash * (1 - 0.1 * rim[..., None]), ragged)
    return out * (1 + 0.012 * grain)[..., None]


def pencil(rgb: Picture, rng: np.random.Generator, unit: float) -> Picture:
    """Graphite on paper: contours, and hatching that grows denser in the dark."""
    height, width = rgb.shape[:2]
    grey = luminance(graded(rgb, 1.0))
    low, high = np.percentile(grey[::4, ::4], (2, 98))
    grey = np.clip((grey - low) / max(0.05, high - low), 0, 1)
    fine = blurred(grey, max(1.0, unit * 0.12))
    gy, gx = np.gradient(fine)
    contour = smooth(0.02, 0.16, np.sqrt(gx**2 + gy**2) * max(1.0, unit / 5))
    ys, xs = np.mgrid[0:height, 0:width].astype(np.float32)
    shake = fbm(rng, height, width, unit * 12, 3)
    tooth = fbm(rng, height, width, 2.4, 2)
    dark = np.zeros_like(grey)
    period = max(3.0, unit * 0.8)
    soft = blurred(grey, unit * 0.35)
    for angle, start in ((0.78, 0.7), (-0.5, 0.46), (1.35, 0.3), (0.15, 0.18)):
        phase = (xs * math.cos(angle) + ys * math.sin(angle) + shake * unit * 0.55) / period * 2 * np.pi
        along = looked_up_line(rng, xs * -math.sin(angle) + ys * math.cos(angle), unit)
        stroke = smooth(-0.35, 0.95, np.sin(phase) + 0.16 * tooth + 0.3 * along)
        dark += 0.34 * stroke * smooth(start, start - 0.34, soft)
    graphite = np.clip(
        dark * (0.92 + 0.22 * tooth) + 0.62 * contour * (0.75 + 0.3 * tooth) + 0.16 * (1 - soft), 0, 0.93
    )
    paper = np.array((0.968, 0.955, 0.925), dtype=np.float32) * (1 + 0.012 * tooth)[..., None]
    lead: Colour = (0.17, 0.17, 0.2)
    return vignette(between(paper.astype(np.float32), lead, graphite), 0.05)


def looked_up_line(rng: np.random.Generator, at: Field, unit: float) -> Field:
    """Pressure along a hatch line."""
    profile = line(rng, 2048, unit * 6, 3)
    out: Field = profile[np.abs(at).astype(np.int32) % 2048]
    return out


def ink(rgb: Picture, rng: np.random.Generator, unit: float) -> Picture:
    """Black ink on warm paper: a few tones of wash, dry brush in the lights, one red seal."""
    height, width = rgb.shape[:2]
    grey = luminance(graded(rgb, 1.0))
    low, high = np.percentile(grey[::4, ::4], (1, 97))
    grey = np.clip((grey - low) / max(0.05, high - low), 0, 1)
    soft = blurred(grey, unit * 0.4)
    dry = fbm(rng, height, width, unit * 2.2, 5, gain=0.6, stretch=3.0)
    pool = fbm(rng, height, width, unit * 18, 4)
    tone = np.zeros_like(grey)
    for level, weight in ((0.72, 0.16), (0.5, 0.24), (0.3, 0.3), (0.15, 0.3)):
        tone += weight * smooth(level + 0.05, level - 0.05, soft + 0.035 * dry + 0.03 * pool)
    edge = smooth(0.03, 0.14, np.abs(grey - blurred(grey, unit * 0.55)))
    tone = np.clip(tone + 0.45 * edge * (0.7 + 0.25 * dry), 0, 1)
    paper = (
        np.array((0.945, 0.915, 0.845), dtype=np.float32)
        * (1 + 0.014 * fbm(rng, height, width, 3.0, 2) + 0.012 * pool)[..., None]
    )
    black: Colour = (0.07, 0.07, 0.085)
    out = between(paper.astype(np.float32), black, tone * 0.94)
    size = max(3, round(unit * 6))
    top, left = height - round(unit * 5) - size, width - round(unit * 5) - size
    if top > 0 and left > 0:
        stamp = 0.86 * smooth(-1.4, -0.6, fbm(rng, size, size, max(2.0, unit), 3))
        mark = np.ones((size, size), np.float32)
        bar = max(1, size // 9)
        for row in (2, 4, 6):
            mark[row * bar : row * bar + max(1, bar // 2), bar : size - bar] = 0.0
        mark[bar : size - bar, size // 2 : size // 2 + max(1, bar // 2)] = 0.0
        view = out[top : top + size, left : left + size]
        view += (np.array((0.72, 0.14, 0.1), np.float32) - view) * (stamp * mark)[..., None]
    return out


def pixels(rgb: Picture) -> Picture:
    """About 160 pixels a side in 28 colours, with an ordered dither."""
    height, width = rgb.shape[:2]
    block = max(1, round(max(height, width) / 170))
    rows, columns = max(1, math.ceil(height / block)), max(1, math.ceil(width / block))
    small = Image.fromarray(_to_bytes(rgb)).resize((columns, rows), Image.Resampling.BOX)
    bayer = np.array(((0, 8, 2, 10), (12, 4, 14, 6), (3, 11, 1, 9), (15, 7, 13, 5)), dtype=np.float32) / 16 - 0.47
    dither = np.tile(bayer, (rows // 4 + 1, columns // 4 + 1))[:rows, :columns]
    shifted = np.asarray(small, dtype=np.float32) + 20 * dither[..., None]
    image = Image.fromarray(shifted.clip(0, 255).astype(np.uint8))
    palette = small.quantize(28, Image.Quantize.MEDIANCUT)
    few = image.quantize(palette=palette, dither=Image.Dither.NONE).convert("RGB")
    large = few.resize((columns * block, rows * block), Image.Resampling.NEAREST)
    return np.asarray(large, dtype=np.float32)[:height, :width] / 255


def neon(rgb: Picture, unit: float) -> Picture:
    """Light that bleeds, colours that split at the edges, a faint raster."""
    out = bloomed(graded(rgb, 1.35), unit * 1.6, 1.15, threshold=0.5)
    shift = max(1, round(unit * 0.16))
    out = np.stack((np.roll(out[..., 0], shift, axis=1), out[..., 1], np.roll(out[..., 2], -shift, axis=1)), axis=-1)
    rows = np.arange(out.shape[0], dtype=np.float32)
    raster = 1 - 0.07 * (np.sin(rows * 2 * np.pi / max(3.0, unit * 0.45)) > 0.3)
    return vignette(out * raster[:, None, None].astype(np.float32), 0.3)


def vaporwave(rgb: Picture, unit: float) -> Picture:
    """Pink light, with a slight split of colours."""
    out = bloomed(graded(rgb, 1.25), unit * 2.2, 0.75, threshold=0.62)
    shift = max(1, round(unit * 0.22))
    out = np.stack((np.roll(out[..., 0], shift, axis=1), out[..., 1], np.roll(out[..., 2], -shift, axis=1)), axis=-1)
    return vignette(out, 0.18)


def minimal(rgb: Picture) -> Picture:
    """Flat shapes in twelve colours, as cut from paper."""
    height, width = rgb.shape[:2]
    image = Image.fromarray(_to_bytes(graded(rgb, 1.1)))
    reach = max(3, min(height, width) // 150) | 1
    image = image.filter(ImageFilter.GaussianBlur(reach)).filter(ImageFilter.MedianFilter(min(reach, 9)))
    few = image.quantize(12, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).convert("RGB")
    few = (
        few.filter(ImageFilter.ModeFilter(min(9, reach + 2)))
        if height * width < 400_000
        else few.filter(ImageFilter.MedianFilter(7))
    )
    out = np.asarray(few, dtype=np.float32) / 255
    return out * np.float32(0.94) + np.float32(0.05)


def photo(rgb: Picture, rng: np.random.Generator, unit: float) -> Picture:
    """Lens and film: bloom, a vignette, fine grain."""
    out = bloomed(graded(rgb, 1.05), unit * 1.8, 0.4, threshold=0.72)
    grain = fbm(rng, rgb.shape[0], rgb.shape[1], 2.2, 1)
    out = out + (0.011 * grain * (1 - np.abs(2 * luminance(out) - 1) * 0.6))[..., None]
    return vignette(out, 0.24)


def _to_bytes(rgb: Picture) -> np.ndarray[tuple[int, int, int], np.dtype[np.uint8]]:
    out: np.ndarray[tuple[int, int, int], np.dtype[np.uint8]] = (np.clip(rgb, 0, 1) * 255 + 0.5).astype(np.uint8)
    return out

"""Images: painted from the words of a prompt, from a picture and words, in a part of a picture, or enlarged.

The same prompt, seed and parameters give the same pixels. A large picture is painted at about a megapixel and enlarged:
its strokes keep their size relative to the picture, and the time to paint it is bounded.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter

from deployments.preview import pictures
from deployments.preview.abstract import paint_abstract
from deployments.preview.canvas import Canvas, Picture
from deployments.preview.finish import finished
from deployments.preview.flag import CancelFlag
from deployments.preview.scene import Scene, generator
from deployments.preview.wish import Wish, understood
from tessera.engine import Done, EngineEvent, EngineJob, Output, Preview, Progress
from tessera.errors import InvalidInput

ENGINE = "preview-image/1"

MAX_SIDE_PX = 4096
_PAINTED_PIXELS = (160_000, 1_100_000)  # smaller pictures are painted larger and reduced, larger ones enlarged
_DEFAULT_STRENGTH = 0.6


def check() -> None:
    """Always works: nothing but NumPy and Pillow is needed."""


@dataclass(frozen=True, kw_only=True)
class _Request:
    """The validated input, with what the platform leaves open filled in."""

    prompt: str
    negative: str
    width: int
    height: int
    count: int
    seed: int
    strength: float
    scale: float | None


def run(job: EngineJob, flag: CancelFlag) -> Iterator[EngineEvent]:
    """``count`` pictures, each an Output, then Done."""
    given = job.input
    strength = given.get("strength")
    request = _Request(
        prompt=str(given.get("prompt") or ""),
        negative=str(given.get("negative_prompt") or ""),
        width=int(given.get("width") or 1024),
        height=int(given.get("height") or 1024),
        count=int(given.get("count") or 1),
        seed=int(given.get("seed") or 0),
        strength=_DEFAULT_STRENGTH if strength is None else float(strength),
        scale=None if given.get("scale") is None else float(given["scale"]),
    )
    has_picture = given.get("image") is not None or "image" in job.files
    source = pictures.opened(job, "image") if has_picture else None
    yield Progress(fraction=0.0, note="sketching")
    size = (request.width, request.height)
    for index in range(request.count):
        done = index / request.count
        if source is not None and request.scale is not None:
            steps = _enlarged(source, request.scale, flag)
        elif source is not None:
            mask = pictures.opened(job, "mask") if given.get("mask") is not None or "mask" in job.files else None
            steps = _changed(source, mask, request, request.seed + index, flag)
        else:
            steps = _from_words(request, request.seed + index, flag)
        image: Image.Image | None = None
        for step in steps:
            if isinstance(step, Progress):
                yield Progress(fraction=done + 0.96 * step.fraction / request.count, note=step.note)
            elif isinstance(step, Preview):
                yield step
            else:
                image = step
        assert image is not None
        flag.check()
        size = image.size
        data = pictures.png(image, flag)
        yield Progress(fraction=(index + 1) / request.count, note="framing")
        yield Output(index=index, media_type="image/png", data=data, width=size[0], height=size[1])
    yield Done(
        output={
            "count": request.count,
            "width": size[0],
            "height": size[1],
            "seed": request.seed,
            "seeds": [request.seed + index for index in range(request.count)],
            "engine": ENGINE,
            "preview": True,
        }
    )


_Step = Progress | Preview | Image.Image


def painting_size(width: int, height: int, limits: tuple[int, int] = _PAINTED_PIXELS) -> tuple[int, int]:
    """The size at which a picture of width × height is painted before it is brought to its own."""
    least, most = limits
    factor = 1.0
    if width * height > most:
        factor = math.sqrt(most / (width * height))
    elif width * height < least:
        factor = min(math.sqrt(least / (width * height)), 16.0, 8192 / max(width, height))
    return max(16, round(width * factor)), max(16, round(height * factor))


def painted_scene(wish: Wish, canvas: Canvas, rng: np.random.Generator, flag: CancelFlag) -> Iterator[Progress]:
    """Paint the wish onto the canvas; tells the share that is painted and what comes next."""
    if wish.abstract:
        paint_abstract(canvas, wish.colours, rng)
        yield Progress(fraction=1.0, note="folding light")
        return
    steps = Scene(wish, canvas, rng).steps()
    for number, (name, paint) in enumerate(steps):
        flag.check()
        yield Progress(fraction=number / len(steps), note=f"painting the {name}")
        paint()


def house_style(wish: Wish) -> str:
    """The style asked for; folded light without one is left smooth."""
    return wish.style or ("photo" if wish.abstract else "")


def as_image(rgb: Picture) -> Image.Image:
    return Image.fromarray((np.clip(rgb, 0, 1) * 255 + 0.5).astype(np.uint8))


def as_picture(image: Image.Image) -> Picture:
    return np.asarray(image.convert("RGB"), dtype=np.float32) / 255


def _from_words(request: _Request, seed: int, flag: CancelFlag) -> Iterator[_Step]:
    wish = understood(request.prompt, request.negative)
    rng = generator(request.prompt, seed)
    width, height = painting_size(request.width, request.height)
    canvas = Canvas(width=width, height=height)
    shown = False
    for progress in painted_scene(wish, canvas, rng, flag):
        yield Progress(fraction=0.6 * progress.fraction, note=progress.note)
        if progress.fraction > 0.5 and not shown:
            shown = True
            yield pictures.preview(as_image(canvas.rgb))
    flag.check()
    yield Progress(fraction=0.6, note="finishing the surface")
    out = as_image(finished(canvas.rgb, house_style(wish), rng, canvas.unit, flag))
    yield pictures.preview(out)
    yield Progress(fraction=0.9, note="framing")
    yield _sized(out, request.width, request.height, wish.style, flag)


def _sized(image: Image.Image, width: int, height: int, style: str, flag: CancelFlag) -> Image.Image:
    """The painted picture at the size asked for."""
    if image.size == (width, height):
        return image
    grows = width * height > image.width * image.height
    flag.check()
    how = Image.Resampling.NEAREST if style == "pixel" and grows else Image.Resampling.LANCZOS
    out = image.resize((width, height), how)
    return sharpen_if(out, flag, grows and style != "pixel")


def sharpen_if(image: Image.Image, flag: CancelFlag, wanted: bool) -> Image.Image:
    flag.check()
    return pictures.sharpened(image, flag, radius=1.6, percent=70) if wanted else image


def _enlarged(source: Image.Image, scale: float, flag: CancelFlag) -> Iterator[_Step]:
    width, height = max(1, round(source.width * scale)), max(1, round(source.height * scale))
    if max(width, height) > MAX_SIDE_PX:
        largest = math.floor(100 * MAX_SIDE_PX / max(source.size)) / 100
        advice = f"use a 'scale' of at most {largest}" if largest >= 1 else "send a smaller picture"
        raise InvalidInput(
            f"Enlarging {source.width} × {source.height} by {scale:g} gives {width} × {height} pixels; at most "
            f"{MAX_SIDE_PX} per side are possible. Nothing was charged; {advice}."
        )
    yield Progress(fraction=0.1, note="enlarging")
    flag.check()
    out = source.resize((width, height), Image.Resampling.LANCZOS)
    yield Progress(fraction=0.6, note="sharpening")
    if scale > 1:
        out = pictures.sharpened(out, flag, radius=0.55 + 0.45 * scale, percent=75)
    yield pictures.preview(out)
    yield out


def _changed(
    source: Image.Image, mask: Image.Image | None, request: _Request, seed: int, flag: CancelFlag
) -> Iterator[_Step]:
    """The picture moved towards what the prompt would show, everywhere or where the mask is white."""
    size = (request.width, request.height)
    original = pictures.fitted(pictures.on_white(source), *size)
    flag.check()
    changed = original
    if request.strength > 0:
        small_size = painting_size(*size)
        wish, rng = understood(request.prompt, request.negative), generator(request.prompt, seed)
        canvas = Canvas(width=small_size[0], height=small_size[1])
        for progress in painted_scene(wish, canvas, rng, flag):
            yield Progress(fraction=0.55 * progress.fraction, note=progress.note)
        small = as_picture(original.resize(small_size, Image.Resampling.LANCZOS))
        mixed = blended(small, canvas.rgb, request.strength)
        surface = finished(mixed, wish.style, rng, canvas.unit, flag)
        share = min(1.0, 1.5 * request.strength)
        mixed = mixed + (surface - mixed) * np.float32(share)
        yield Progress(fraction=0.8, note="finishing the surface")
        flag.check()
        enlarged = as_image(mixed).resize(size, Image.Resampling.LANCZOS)
        changed = (
            _with_detail(
                enlarged, original, as_image(small).resize(size, Image.Resampling.BICUBIC), 1 - request.strength, flag
            )
            if small_size != size
            else enlarged
        )
    if mask is not None:
        changed = _only_inside(original, changed, pictures.fitted(pictures.on_white(mask, 0), *size).convert("L"), flag)
    yield pictures.preview(changed)
    yield changed


def blended(picture: Picture, painted: Picture, strength: float) -> Picture:
    """Between a picture (0) and a painting (1): first its tones follow those of the painting, then its shapes."""
    mean_a, mean_b = picture.mean(axis=(0, 1)), painted.mean(axis=(0, 1))
    dev_a, dev_b = picture.std(axis=(0, 1)) + 1e-3, painted.std(axis=(0, 1)) + 1e-3
    toned = (picture - mean_a) * np.clip(dev_b / dev_a, 0.5, 2.0) + mean_b
    first = picture + (toned - picture) * np.float32(min(1.0, 1.3 * strength))
    shapes = np.float32(strength * strength * (3 - 2 * strength) * (0.55 + 0.45 * strength))
    out: Picture = np.clip(first + (painted - first) * shapes, 0, 1).astype(np.float32)
    return out


def _with_detail(
    image: Image.Image, original: Image.Image, soft: Image.Image, share: float, flag: CancelFlag
) -> Image.Image:
    """The fine detail that the original lost when it was made smaller, put back in part, band by band."""
    out = image.copy()
    for top in range(0, image.height, 256):
        flag.check()
        box = (0, top, image.width, min(image.height, top + 256))
        bands = [np.asarray(each.crop(box), dtype=np.int16) for each in (image, original, soft)]
        values = bands[0] + (share * (bands[1] - bands[2])).astype(np.int16)
        out.paste(Image.fromarray(values.clip(0, 255).astype(np.uint8)), (0, top))
    return out


def _only_inside(original: Image.Image, changed: Image.Image, mask: Image.Image, flag: CancelFlag) -> Image.Image:
    """The change where the mask is white, softly towards its edge; elsewhere exactly the original's pixels."""
    flag.check()
    inside = mask.point([0] * 128 + [255] * 128)
    radius = max(1.0, min(mask.size) / 120)
    soft = np.asarray(inside.filter(ImageFilter.GaussianBlur(radius)), dtype=np.float32) / 255
    alpha = np.where(np.asarray(inside) > 0, np.clip(soft * 2 - 1, 0, 1), 0.0)
    # A mask of thin lines has no inside that a blur leaves: there it applies as it is.
    alpha = np.where((np.asarray(inside) > 0) & (alpha < 0.02) & (soft < 0.5), 1.0, alpha)
    flag.check()
    return Image.composite(changed, original, Image.fromarray((alpha * 255).astype(np.uint8)))

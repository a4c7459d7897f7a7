"""A job's parameters put into a graph: what each is, and where it goes. Pure.

A graph computes with sizes that its model can do; the job asks for any. So a size is rounded up for the graph and cut
back to what was asked for by a node of the graph, where it has one bound to the crop parameters. A graph without one
takes only sizes that need no cut.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from deployments.comfyui.workflows import Graph, Workflow, ancestors
from tessera.engine import EngineJob
from tessera.errors import InvalidInput
from tessera.jobs import Kind
from tessera.manifests import Manifest, Mode, Parameter, Size

DEFAULT_STRENGTH = 0.6  # what the input's description says
NOTHING = "Nothing was charged."


@dataclass(frozen=True, kw_only=True)
class Picture:
    """An input file as the server knows it, with the size that was measured here."""

    name: str
    width: int
    height: int


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What the result must be. None where the graph alone decides."""

    kind: Kind
    count: int = 1
    width: int | None = None
    height: int | None = None
    duration_s: float | None = None


@dataclass(frozen=True, kw_only=True)
class Bound:
    """A graph that is ready to be sent, and what must come out of it."""

    graph: Graph
    expected: Expected


def bind(workflow: Workflow, job: EngineJob, *, seed: int, pictures: Mapping[str, Picture], prefix: str) -> Bound:
    """Put a job into a graph. Raises InvalidInput for what this model cannot do."""
    values, expected = _values(workflow.manifest, job, pictures)
    values[Parameter.SEED] = seed
    values[Parameter.PREFIX] = prefix
    return Bound(graph=put(workflow, values), expected=expected)


def put(workflow: Workflow, values: Mapping[Parameter, Any]) -> Graph:
    """A copy of what the outputs need of the graph, with these values at their places.

    The server itself makes a float of a whole number.
    """
    needed = ancestors(workflow.graph, workflow.manifest.outputs)
    graph = {node: copy.deepcopy(dict(value)) for node, value in workflow.graph.items() if node in needed}
    for parameter, places in workflow.manifest.bind.items():
        if parameter not in values:
            continue
        for place in places:
            node, _, name = place.partition(".")
            if node not in graph:
                continue  # nothing of the result comes from it
            graph[node]["inputs"][name] = values[parameter]
    return graph


def warm_values(manifest: Manifest, *, prefix: str) -> dict[Parameter, Any]:
    """The parameters of the smallest run that loads everything."""
    warm, step = manifest.warm, manifest.size.multiple
    width, height = _up(warm.width, step), _up(warm.height, step)
    frames = _frames(warm.frames, manifest.size.frame_step)
    return {
        Parameter.PROMPT: "a grey square",
        Parameter.SEED: 0,
        Parameter.STEPS: warm.steps,
        Parameter.COUNT: 1,
        Parameter.WIDTH: width,
        Parameter.HEIGHT: height,
        Parameter.CROP_WIDTH: width,
        Parameter.CROP_HEIGHT: height,
        Parameter.CROP_X: 0,
        Parameter.CROP_Y: 0,
        Parameter.SCALED_WIDTH: width,
        Parameter.SCALED_HEIGHT: height,
        Parameter.FRAMES: frames,
        Parameter.CUT_FRAMES: 1,
        Parameter.FPS: 8,
        Parameter.DURATION_S: warm.duration_s,
        Parameter.PREFIX: prefix,
    }


def seed_in(workflow: Workflow, graph: Mapping[str, Any]) -> int | None:
    """The seed that a graph on the server was sent with, or None."""
    for place in workflow.manifest.bind.get(Parameter.SEED, ()):
        node, _, name = place.partition(".")
        found = graph.get(node)
        value = found.get("inputs", {}).get(name) if isinstance(found, dict) else None
        if isinstance(value, int) and not isinstance(value, bool):
            return value
    return None


def expected_of(workflow: Workflow, job: EngineJob, pictures: Mapping[str, Picture]) -> Expected:
    """What a job's result must be. Raises InvalidInput like ``bind``."""
    return _values(workflow.manifest, job, pictures)[1]


def _values(
    manifest: Manifest, job: EngineJob, pictures: Mapping[str, Picture]
) -> tuple[dict[Parameter, Any], Expected]:
    given, bound = job.input, manifest.bind
    values: dict[Parameter, Any] = {Parameter.PROMPT: str(given.get("prompt") or "")}
    for name in (Parameter.NEGATIVE_PROMPT, Parameter.LYRICS):
        if given.get(name.value):  # left out, what the graph says stands
            values[name] = str(given[name.value])
    for name in (Parameter.IMAGE, Parameter.MASK):
        if name in bound:
            if name.value not in pictures:
                raise InvalidInput(f"'{name.value}' is missing: this needs a picture. {NOTHING}")
            values[name] = pictures[name.value].name
    match job.kind:
        case Kind.IMAGE:
            expected = _picture(manifest, given, pictures, values)
        case Kind.VIDEO:
            expected = _clip(manifest, given, values)
        case Kind.MUSIC | Kind.SPEECH:
            expected = _sound(manifest, job.kind, given, values)
        case _:
            raise InvalidInput(f"Workflows make no {job.kind.value}. {NOTHING}")
    return values, expected


def _picture(
    manifest: Manifest, given: Mapping[str, Any], pictures: Mapping[str, Picture], values: dict[Parameter, Any]
) -> Expected:
    count = int(given.get("count") or 1)
    if count > 1 and Parameter.COUNT not in manifest.bind:
        raise InvalidInput(f"This model makes one picture at a time: leave out 'count'. {NOTHING}")
    values[Parameter.COUNT] = count
    strength = given.get("strength")
    values[Parameter.STRENGTH] = DEFAULT_STRENGTH if strength is None else float(strength)
    if manifest.mode is Mode.UPSCALE:
        source, scale = pictures["image"], float(given["scale"])
        width, height = max(1, round(source.width * scale)), max(1, round(source.height * scale))
        if manifest.size.max_px is not None and width * height > manifest.size.max_px:
            raise InvalidInput(
                f"{source.width} × {source.height} times {scale:g} is {width} × {height} pixels; at most "
                f"{manifest.size.max_px // 1_000_000} million can be made here. Use a smaller 'scale'. {NOTHING}"
            )
        values[Parameter.SCALED_WIDTH], values[Parameter.SCALED_HEIGHT] = width, height
        known = Parameter.SCALED_WIDTH in manifest.bind
        return Expected(kind=Kind.IMAGE, count=count, width=width if known else None, height=height if known else None)
    size = _size(manifest, int(given["width"]), int(given["height"]), values)
    return Expected(kind=Kind.IMAGE, count=count, width=size[0], height=size[1])


def _clip(manifest: Manifest, given: Mapping[str, Any], values: dict[Parameter, Any]) -> Expected:
    fps, duration_s = int(given["fps"]), float(given["duration_s"])
    frames = max(1, round(duration_s * fps))
    limits, bound = manifest.size, manifest.bind
    if limits.max_frames is not None and frames > limits.max_frames:
        raise InvalidInput(
            f"{duration_s:g} s at {fps} frames a second are {frames} frames; this model makes at most "
            f"{limits.max_frames}: ask for {limits.max_frames / fps:.1f} s, or fewer frames a second. {NOTHING}"
        )
    computed = _frames(frames, limits.frame_step)
    if computed != frames and Parameter.FRAMES in bound and Parameter.CUT_FRAMES not in bound:
        fits = max(1, computed - limits.frame_step)
        raise InvalidInput(
            f"This model makes {fits} or {computed} frames, not {frames}: change 'duration_s'. {NOTHING}"
        )
    values[Parameter.FRAMES], values[Parameter.CUT_FRAMES] = computed, frames
    values[Parameter.FPS], values[Parameter.DURATION_S] = fps, duration_s
    width, height = _size(manifest, int(given["width"]), int(given["height"]), values)
    timed = (Parameter.FRAMES in bound and Parameter.FPS in bound) or Parameter.DURATION_S in bound
    return Expected(kind=Kind.VIDEO, width=width, height=height, duration_s=frames / fps if timed else None)


def _sound(manifest: Manifest, kind: Kind, given: Mapping[str, Any], values: dict[Parameter, Any]) -> Expected:
    if given.get("lyrics") and Parameter.LYRICS not in manifest.bind:
        raise InvalidInput(f"This model does not sing: leave out 'lyrics', or take one that does. {NOTHING}")
    if given.get("text"):
        values[Parameter.PROMPT] = str(given["text"])
    duration = given.get("duration_s")
    longest = manifest.size.max_duration_s
    if duration is not None and longest is not None and float(duration) > longest:
        raise InvalidInput(f"This model makes at most {longest:g} s: ask for less than {duration:g} s. {NOTHING}")
    if duration is not None:
        values[Parameter.DURATION_S] = float(duration)
    timed = duration is not None and Parameter.DURATION_S in manifest.bind
    return Expected(kind=kind, duration_s=float(duration) if timed and duration is not None else None)


def _size(
    manifest: Manifest, width: int, height: int, values: dict[Parameter, Any]
) -> tuple[int, int] | tuple[None, None]:
    """Put in the sizes; returns what the result must have, or nothing where the graph alone decides."""
    limits, bound = manifest.size, manifest.bind
    if limits.max_px is not None and width * height > limits.max_px:
        side = math.isqrt(limits.max_px)
        raise InvalidInput(
            f"{width} × {height} pixels are more than this model can do: at most as many as {side} × {side}. {NOTHING}"
        )
    wide, high = _rounded(limits, width), _rounded(limits, height)
    crops = Parameter.CROP_WIDTH in bound and Parameter.CROP_HEIGHT in bound
    if Parameter.WIDTH in bound and (wide, high) != (width, height) and not crops:
        raise InvalidInput(
            f"This model makes sizes that are multiples of {limits.multiple}: ask for {wide} × {high} instead of "
            f"{width} × {height}. {NOTHING}"
        )
    values[Parameter.WIDTH], values[Parameter.HEIGHT] = wide, high
    values[Parameter.CROP_WIDTH], values[Parameter.CROP_HEIGHT] = width, height
    values[Parameter.CROP_X], values[Parameter.CROP_Y] = (wide - width) // 2, (high - height) // 2
    sized = crops or (Parameter.WIDTH in bound and Parameter.HEIGHT in bound)
    return (width, height) if sized else (None, None)


def _rounded(limits: Size, pixels: int) -> int:
    # ComfyUI's empty latents begin at 16 pixels, LTX-Video's at 64: the smallest multiple of 16 and of the model's own.
    return max(_up(pixels, limits.multiple), _up(16 if limits.multiple < 32 else 64, limits.multiple))


def _frames(frames: int, step: int) -> int:
    """The next number of frames that the model makes: a multiple of its step, and one."""
    return frames if step == 1 else _up(frames - 1, step) + 1


def _up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple

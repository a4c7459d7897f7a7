"""What the fake ComfyUI makes of a graph: how large and long each value is, and real files at the end of it.

Nothing is drawn. Sizes go through the graph as they do on the real server (latents are cut to multiples of 8, lengths
of video models to theirs), so that a graph that asks for the wrong size gives a file of the wrong size.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import av
import numpy as np
from PIL import Image

LENGTH_STEPS = {"EmptyLTXVLatentVideo": 8, "LTXVImgToVideo": 8}
LENGTHS = (
    *("EmptyHunyuanLatentVideo", "WanImageToVideo", "Wan22ImageToVideoLatent", "HunyuanImageToVideo"),
    *LENGTH_STEPS,
)


@dataclass(frozen=True, kw_only=True)
class Value:
    """What goes through a graph: pictures of a size, so many of them, or seconds of sound."""

    width: int = 0
    height: int = 0
    count: int = 1
    seconds: float = 0.0
    fps: float = 0.0
    colour: int = 0


def is_link(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str)


def order(graph: Mapping[str, Any], outputs: list[str]) -> list[str]:
    """The nodes that these outputs need, each after what it needs."""
    found: list[str] = []

    def visit(node: str) -> None:
        if node in found:
            return
        for value in graph[node]["inputs"].values():
            if is_link(value):
                visit(value[0])
        found.append(node)

    for output in outputs:
        visit(output)
    return found


def signature(graph: Mapping[str, Any], node: str) -> str:
    """Equal where a node and all beneath it are: then the server gives what it has cached."""
    parts = [graph[node]["class_type"]]
    for name, value in sorted(graph[node]["inputs"].items()):
        parts.append(f"{name}={signature(graph, value[0]) + str(value[1]) if is_link(value) else json.dumps(value)}")
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def steps(graph: Mapping[str, Any], node: str) -> int:
    """How many steps a sampler takes; 0 for any other node."""
    name, inputs = graph[node]["class_type"], graph[node]["inputs"]
    if name not in ("KSampler", "KSamplerAdvanced", "SamplerCustom", "SamplerCustomAdvanced"):
        return 0
    if isinstance(inputs.get("steps"), int):
        return int(inputs["steps"])
    sigmas = inputs.get("sigmas")
    return int(graph[sigmas[0]]["inputs"].get("steps", 20)) if is_link(sigmas) else 20


def evaluate(graph: Mapping[str, Any], node: str, before: Mapping[str, Value], pictures: Mapping[str, bytes]) -> Value:
    """What a node gives, from what those before it gave."""
    name, inputs = graph[node]["class_type"], graph[node]["inputs"]
    value = Value()
    for link in inputs.values():
        if is_link(link) and before[link[0]].width + before[link[0]].seconds > 0:
            value = before[link[0]]
            break
    own = {key: given for key, given in inputs.items() if not is_link(given)}
    if name == "LoadImage" or name == "LoadImageMask":
        with Image.open(io.BytesIO(pictures[own["image"]])) as picture:
            return Value(width=picture.width, height=picture.height)
    if name == "ImageUpscaleWithModel":
        return replace(value, width=value.width * 4, height=value.height * 4)
    if name == "ImageCrop":
        return replace(
            value, width=min(own["width"], value.width - own["x"]), height=min(own["height"], value.height - own["y"])
        )
    if "width" in own and "height" in own:
        value = replace(value, width=int(own["width"]), height=int(own["height"]))
        if "Latent" in name:
            value = replace(value, width=value.width // 8 * 8, height=value.height // 8 * 8)
    if name in LENGTHS:
        step = LENGTH_STEPS.get(name, 4)
        value = replace(value, count=(int(own["length"]) - 1) // step * step + 1)
    if name == "ImageFromBatch":
        value = replace(value, count=min(int(own["length"]), value.count - int(own["batch_index"])))
    if "batch_size" in own and name not in LENGTHS:
        value = replace(value, count=int(own["batch_size"]))
    if "amount" in own:
        value = replace(value, count=value.count * int(own["amount"]))
    if "seconds" in own:
        value = replace(value, seconds=float(own["seconds"]))
    if "fps" in own:
        value = replace(value, fps=float(own["fps"]))
    for key in ("seed", "noise_seed", "color"):
        if key in own:
            value = replace(value, colour=int(own[key]))
    return value


def files_of(class_type: str, value: Value) -> tuple[str, list[tuple[str, bytes]]]:
    """What an output node writes: the name of the list in the history, and (extension, bytes) of each file."""
    match class_type:
        case "SaveImage" | "PreviewImage":
            return "images", [("png", picture(value, index)) for index in range(value.count)]
        case "SaveAnimatedWEBP":
            return "images", [("webp", picture(value, 0, "WEBP"))]
        case "SaveVideo":
            return "images", [("mp4", clip(value))]
        case "SaveAudioMP3":
            return "audio", [("mp3", sound(value, "mp3"))]
        case "SaveAudio":
            return "audio", [("flac", sound(value, "flac"))]
    return "text", []


def picture(value: Value, index: int, kind: str = "PNG") -> bytes:
    colour = ((value.colour + index) * 2654435761) & 0xFFFFFF
    image = Image.new("RGB", (value.width, value.height), (colour >> 16, (colour >> 8) & 255, colour & 255))
    out = io.BytesIO()
    image.save(out, kind)
    return out.getvalue()


def clip(value: Value) -> bytes:
    out = io.BytesIO()
    with av.open(out, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=int(value.fps))
        stream.width, stream.height, stream.pix_fmt = value.width, value.height, "yuv420p"
        stream.options = {"preset": "ultrafast"}
        frame = np.full((value.height, value.width, 3), value.colour % 251, dtype=np.uint8)
        for number in range(value.count):
            frame[: value.height // 4] = (number * 16) % 256
            for packet in stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return out.getvalue()


def sound(value: Value, kind: str) -> bytes:
    out = io.BytesIO()
    rate = 44_100
    with av.open(out, "w", format=kind) as container:
        stream = container.add_stream("libmp3lame" if kind == "mp3" else kind, rate=rate)
        stream.layout = "mono"
        t = np.arange(int(rate * value.seconds)) / rate
        samples = (np.sin(2 * np.pi * 220 * t) * 8000).astype(np.int16).reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(samples, format="s16p" if kind == "mp3" else "s16", layout="mono")
        frame.sample_rate = rate
        for packet in stream.encode(frame):
            container.mux(packet)
        for packet in stream.encode(None):
            container.mux(packet)
    return out.getvalue()


def preview_jpeg(fraction: float) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (64, 64), (int(255 * fraction), 64, 128)).save(out, "JPEG", quality=95)
    return out.getvalue()

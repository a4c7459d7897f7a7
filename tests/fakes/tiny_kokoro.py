"""A network with Kokoro's inputs and outputs, written by hand in ONNX's format: the real runtime runs it.

It hums: each input gives a fixed stretch of a tone, louder for higher numbers, faster with the speed, coloured by the
style. What it says means nothing; how long and how loud it is can be told beforehand.
https://github.com/onnx/onnx/blob/main/onnx/onnx.proto
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

SAMPLES = 1200  # of each input, 50 ms
FLOAT, INT64 = 1, 7
VOICES = ("af_heart", "af_nova", "am_adam", "bf_emma", "ef_dora", "ff_siwis", "jf_alpha")


def make_tiny_kokoro(folder: Path) -> tuple[Path, Path]:
    """Write the network and its voices into ``folder``; gives both paths."""
    folder.mkdir(parents=True, exist_ok=True)
    network, voices = folder / "kokoro.onnx", folder / "voices.npz"
    network.write_bytes(_model())
    random = np.random.default_rng(1)
    styles = {name: random.normal(0, 0.1, (511, 1, 256)).astype(np.float32) for name in VOICES}
    with voices.open("wb") as file:
        np.savez(file, **styles)
    return network, voices


def _model() -> bytes:
    t = np.arange(SAMPLES) / SAMPLES
    wave = np.sin(2 * np.pi * 10 * t) * np.sin(np.pi * t)  # each stretch begins and ends at nothing
    nodes = [
        # How loud each input is: its number / 400, and a little of the style.
        _node("Cast", ["tokens"], ["numbers"], _attribute("to", FLOAT)),
        _node("Mul", ["numbers", "scale"], ["loud"]),
        _node("ReduceMean", ["style"], ["colour"], _attribute("keepdims", 1)),
        _node("Mul", ["colour", "little"], ["shade"]),
        _node("Add", ["loud", "shade"], ["loudness"]),
        _node("Reshape", ["loudness", "column"], ["rows"]),
        # A tone for each of them, one after the other, then shorter by the speed.
        _node("Mul", ["rows", "wave"], ["tones"]),
        _node("Div", ["one", "speed"], ["slowness"]),
        _node("Concat", ["one", "slowness"], ["scales"], _attribute("axis", 0)),
        _node("Resize", ["tones", "", "scales"], ["stretched"]),
        _node("Reshape", ["stretched", "flat"], ["audio"]),
    ]
    constants = [
        _tensor("scale", np.array([1 / 400], np.float32)),
        _tensor("little", np.array([0.01], np.float32)),
        _tensor("wave", wave.astype(np.float32).reshape(1, -1)),
        _tensor("one", np.array([1.0], np.float32)),
        _tensor("column", np.array([-1, 1], np.int64)),
        _tensor("flat", np.array([-1], np.int64)),
    ]
    inputs = [
        _value("tokens", INT64, (1, "count")),
        _value("style", FLOAT, (1, 256)),
        _value("speed", FLOAT, (1,)),
    ]
    graph = b"".join(
        [
            *(_field(1, node) for node in nodes),
            _field(2, b"tiny"),
            *(_field(5, tensor) for tensor in constants),
            *(_field(11, value) for value in inputs),
            _field(12, _value("audio", FLOAT, ("length",))),
        ]
    )
    return _number(1, 8) + _field(7, graph) + _field(8, _field(1, b"") + _number(2, 13))


# ------------------------------------------------------------------ protobuf


def _varint(value: int) -> bytes:
    value &= (1 << 64) - 1
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _field(field: int, data: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(data)) + data


def _attribute(name: str, value: int) -> bytes:
    return _field(1, name.encode()) + _number(3, value) + _number(20, 2)


def _node(kind: str, inputs: Sequence[str], outputs: Sequence[str], *attributes: bytes) -> bytes:
    parts = [_field(1, name.encode()) for name in inputs] + [_field(2, name.encode()) for name in outputs]
    return b"".join([*parts, _field(4, kind.encode()), *(_field(5, attribute) for attribute in attributes)])


def _tensor(name: str, array: np.ndarray) -> bytes:
    kind = FLOAT if array.dtype == np.float32 else INT64
    dims = b"".join(_number(1, size) for size in array.shape)
    return dims + _number(2, kind) + _field(8, name.encode()) + _field(9, array.tobytes())


def _value(name: str, kind: int, shape: Sequence[int | str]) -> bytes:
    dims = b"".join(
        _field(1, _number(1, size) if isinstance(size, int) else _field(2, size.encode())) for size in shape
    )
    return _field(1, name.encode()) + _field(2, _field(1, _number(1, kind) + _field(2, dims)))

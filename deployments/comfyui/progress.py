"""One true fraction of a whole run from what a ComfyUI socket says of its nodes. Pure.

A node counts by what it usually costs: a sampler far more than saving a file. Nodes that the server has cached count as
done. The fraction never falls, and reaches 1 only when the run has ended.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeGuard

from deployments.comfyui.workflows import Graph, ancestors

MOST = 0.99  # until the files are here
PREVIEW, PREVIEW_WITH_METADATA = 1, 4  # of https://github.com/comfyanonymous/ComfyUI/blob/master/protocol.py
PREVIEW_TYPES = {1: "image/jpeg", 2: "image/png"}

# (words in the class's name, weight, what is told): the first that fits. The weights are shares of a usual run's time.
KINDS: tuple[tuple[tuple[str, ...], float, str], ...] = (
    (("ksamplerselect", "samplereuler", "scheduler"), 0.2, "preparing"),
    (("sampler",), 60.0, "drawing"),
    (("upscalewithmodel", "ultimatesdupscale"), 30.0, "enlarging"),
    (("loader", "load"), 5.0, "loading the model"),
    (("vaedecode", "decode"), 8.0, "developing"),
    (("textencode", "cliptext"), 2.0, "reading the prompt"),
    (("encode",), 3.0, "preparing"),
    (("save", "create", "combine"), 2.0, "saving"),
)


@dataclass(frozen=True, kw_only=True)
class Told:
    """How far the run is, and a word for a person."""

    fraction: float
    note: str


class ProgressTracker:
    """Takes the socket's messages of one prompt; says how far it is."""

    def __init__(self, prompt_id: str, graph: Graph, outputs: tuple[str, ...]) -> None:
        self._prompt_id = prompt_id
        run = ancestors(graph, outputs) or set(graph)
        self._weights = {node: _kind(graph[node]["class_type"])[0] for node in run}
        self._words = {node: _kind(graph[node]["class_type"])[1] for node in run}
        self._parts: dict[str, float] = dict.fromkeys(run, 0.0)
        self._current: str | None = None
        self._fraction = 0.0
        self._note = "starting"
        self.ended = False  # the server said that the prompt has ended: time to look at the history
        self.heard = 0  # counts the signs of life of the prompt

    @property
    def told(self) -> Told:
        """How far the run is by now."""
        return Told(fraction=self._fraction, note=self._note)

    def take(self, text: str) -> None:
        """A text message. What is of another prompt, of no known shape or no JSON changes nothing."""
        try:
            message = json.loads(text)
        except ValueError:
            return
        if not isinstance(message, dict) or not isinstance(data := message.get("data"), dict):
            return
        event, prompt = message.get("type"), data.get("prompt_id")
        if prompt is not None and prompt != self._prompt_id:
            return
        match event:
            case "execution_start":
                self.heard += 1
            case "execution_cached":
                self._cached(data.get("nodes"))
            case "progress_state":
                self._states(data.get("nodes"))
            case "executing":
                self._executing(data)
            case "progress":
                node = data.get("node") or self._current
                self._part(node, data.get("value"), data.get("max"))
            case "executed":
                self._finish(data.get("node"))
            case "execution_success" | "execution_error" | "execution_interrupted":
                self.heard += 1
                self.ended = prompt == self._prompt_id
        self._count()

    def _cached(self, nodes: Any) -> None:
        self.heard += 1
        for node in nodes if isinstance(nodes, list) else ():
            self._finish(node)

    def _states(self, nodes: Any) -> None:
        if not isinstance(nodes, dict):
            return
        for name, state in nodes.items():
            if not isinstance(state, dict):
                continue
            # A node that was expanded into others is shown as the one that stands in the graph.
            node = name if name in self._parts else state.get("display_node_id")
            if state.get("state") == "finished":
                if name in self._parts:
                    self._finish(node)
            elif state.get("state") == "running":
                if self._knows(node):
                    self._current = node
                self._part(node, state.get("value"), state.get("max"))

    def _executing(self, data: Mapping[str, Any]) -> None:
        node = data.get("node")
        self.heard += 1
        if node is None:
            self.ended = data.get("prompt_id") == self._prompt_id
            return
        if self._current is not None and self._current != node:
            self._finish(self._current)
        shown = node if self._knows(node) else data.get("display_node")
        if self._knows(shown):
            self._current = shown
            self._note = self._words[shown]

    def _part(self, node: Any, value: Any, most: Any) -> None:
        if not self._knows(node) or not _is_number(value) or not _is_number(most) or most <= 0:
            return
        part = min(1.0, max(0.0, value / most))
        if part != self._parts[node]:
            self.heard += 1
        self._parts[node] = max(self._parts[node], part)
        self._note = f"{self._words[node]}, step {int(value)} of {int(most)}" if most > 1 else self._words[node]

    def _finish(self, node: Any) -> None:
        if self._knows(node) and self._parts[node] < 1.0:
            self._parts[node] = 1.0
            self.heard += 1

    def _knows(self, node: Any) -> TypeGuard[str]:
        return isinstance(node, str) and node in self._parts

    def _count(self) -> None:
        whole = sum(self._weights.values()) or 1.0
        done = sum(self._weights[node] * part for node, part in self._parts.items())
        self._fraction = max(self._fraction, min(MOST, done / whole))


def preview_of(data: bytes, prompt_id: str) -> tuple[str, bytes] | None:
    """The media type and the picture of a binary message; None for one that is no picture of this prompt."""
    if len(data) < 8:
        return None
    (event,) = struct.unpack_from(">I", data)
    if event == PREVIEW:
        (kind,) = struct.unpack_from(">I", data, 4)
        return (PREVIEW_TYPES[kind], data[8:]) if kind in PREVIEW_TYPES else None
    if event == PREVIEW_WITH_METADATA:
        (length,) = struct.unpack_from(">I", data, 4)
        try:
            about = json.loads(data[8 : 8 + length])
        except ValueError:
            return None
        if not isinstance(about, dict) or about.get("prompt_id") not in (None, prompt_id):
            return None
        return str(about.get("image_type") or "image/jpeg"), data[8 + length :]
    return None


def _kind(class_type: str) -> tuple[float, str]:
    name = class_type.lower()
    for words, weight, told in KINDS:
        if any(word in name for word in words):
            return weight, told
    return 0.5, "preparing"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)

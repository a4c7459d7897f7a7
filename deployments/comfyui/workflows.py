"""A workflow as the engine uses it: a graph in ComfyUI's API format, with its manifest.

Which of a model's workflows a job needs follows from its input: a scale, a mask, a picture, or words alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tessera.errors import InvalidInput, ModelMissing
from tessera.manifests import Manifest, Mode

Graph = Mapping[str, Mapping[str, Any]]

WORDS = {
    Mode.TEXT: "from words",
    Mode.IMAGE: "from a picture ('image')",
    Mode.INPAINT: "in a part of a picture ('mask')",
    Mode.UPSCALE: "larger ('scale')",
}


class GraphError(Exception):
    """The file is not a graph that can be run. The message says what it is and what to do."""


@dataclass(frozen=True, kw_only=True)
class Workflow:
    """A graph and its manifest, checked against each other."""

    manifest: Manifest
    graph: Graph


def parse_graph(text: str, *, where: str) -> Graph:
    """A graph in API format. Raises GraphError, with advice for what ComfyUI also exports."""
    try:
        data = json.loads(text)
    except ValueError as error:
        raise GraphError(f"{where} is not JSON ({error}). In ComfyUI use Workflow → Export (API).") from error
    if not isinstance(data, dict) or not data:
        raise GraphError(f"{where} holds no graph. In ComfyUI use Workflow → Export (API).")
    if isinstance(data.get("nodes"), list):
        raise GraphError(
            f"{where} is a workflow as ComfyUI's editor saves it, which cannot be run as it is. Open it in ComfyUI and "
            "use Workflow → Export (API); in older versions switch on 'Dev mode' in the settings, then Save (API)."
        )
    if isinstance(data.get("prompt"), dict):
        data = data["prompt"]  # what is sent to /prompt: the graph with its envelope
    for node, value in data.items():
        if not isinstance(value, dict) or not isinstance(value.get("class_type"), str):
            raise GraphError(f"{where}: node '{node}' has no class_type. In ComfyUI use Workflow → Export (API).")
        if not isinstance(value.get("inputs"), dict):
            raise GraphError(f"{where}: node '{node}' ({value['class_type']}) has no inputs: the file is incomplete.")
    for node, value in data.items():
        for name, given in value["inputs"].items():
            if is_link(given) and given[0] not in data:
                raise GraphError(
                    f"{where}: input '{name}' of node '{node}' comes from node '{given[0]}', which is gone."
                )
    graph: Graph = data
    return graph


def is_link(value: Any) -> bool:
    """Whether an input comes from another node: ``["4", 1]`` is output 1 of node 4."""
    return (
        isinstance(value, list)
        and len(value) == 2
        and isinstance(value[0], str)
        and isinstance(value[1], int)
        and not isinstance(value[1], bool)
    )


def load_workflow(manifest: Manifest) -> Workflow:
    """Read the graph of a manifest and compare the two. Raises GraphError."""
    file = manifest.graph_file
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise GraphError(f"{file} cannot be read ({error}).") from error
    graph = parse_graph(text, where=str(file))
    for node in manifest.outputs:
        if node not in graph:
            raise GraphError(f"{manifest.name}.toml: outputs names node '{node}', which {file.name} does not have.")
    for parameter, places in manifest.bind.items():
        for place in places:
            node, _, name = place.partition(".")
            if node not in graph or name not in graph[node]["inputs"]:
                raise GraphError(
                    f"{manifest.name}.toml: bind.{parameter.value} names '{place}', which {file.name} lacks."
                )
    return Workflow(manifest=manifest, graph=graph)


def load_workflows(manifests: Iterable[Manifest], models: Sequence[str]) -> dict[str, dict[Mode, Workflow]]:
    """The workflows of these models. Raises GraphError, and for a model without any ModelMissing."""
    found: dict[str, dict[Mode, Workflow]] = {model: {} for model in models}
    for manifest in manifests:
        if manifest.model in found:
            found[manifest.model][manifest.mode] = load_workflow(manifest)
    for model, modes in found.items():
        if not modes:
            raise ModelMissing(
                f"There is no workflow for the model {model}: 'tessera workflows list' shows those that there are, "
                "'tessera workflows add' makes one."
            )
    return found


def mode_of(given: Mapping[str, Any]) -> Mode:
    """What a job starts from."""
    if given.get("scale") is not None:
        return Mode.UPSCALE
    if given.get("mask") is not None:
        return Mode.INPAINT
    return Mode.IMAGE if given.get("image") is not None else Mode.TEXT


def workflow_for(workflows: Mapping[Mode, Workflow], model: str, given: Mapping[str, Any]) -> Workflow:
    """The workflow that a job needs. Raises InvalidInput where the model cannot do that."""
    mode = mode_of(given)
    if mode not in workflows:
        able = ", ".join(WORDS[each] for each in workflows)
        raise InvalidInput(f"The model {model} does not work {WORDS[mode]}; it works {able}. Nothing was charged.")
    return workflows[mode]


def ancestors(graph: Graph, nodes: Iterable[str]) -> set[str]:
    """These nodes and all that they need: what the server really runs."""
    found: set[str] = set()
    waiting = list(nodes)
    while waiting:
        node = waiting.pop()
        if node in found or node not in graph:
            continue
        found.add(node)
        waiting += [value[0] for value in graph[node]["inputs"].values() if is_link(value)]
    return found


def graph_path(folder: Path, name: str) -> Path:
    """Where the graph of a workflow lies."""
    return folder / f"{name}.json"

"""A workflow compared with what a server has: which node, which input, which file is missing. By name.

``/object_info`` says for each node which inputs it takes, and for each list the values that it knows: those of a
loader are the files in its folder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from deployments.comfyui.workflows import Graph, Workflow, ancestors, is_link
from tessera.manifests import ModelFile, Parameter

UPLOADED = frozenset({Parameter.IMAGE, Parameter.MASK})


class Lack(StrEnum):
    """What kind of thing is missing."""

    NODE = "node"
    INPUT = "input"
    FILE = "file"
    VALUE = "value"


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One thing that keeps a workflow from running on a server. ``name`` is the node, input, file or value."""

    lack: Lack
    name: str
    message: str


def check(workflow: Workflow, infos: Mapping[str, Any]) -> list[Problem]:
    """What is missing. ``infos``: /object_info, of all classes or at least those of the graph."""
    graph, problems = workflow.graph, list[Problem]()
    sources = {file.name: file for file in workflow.manifest.files}
    places = {place for names in workflow.manifest.bind.values() for place in names}
    uploaded = {place for parameter in UPLOADED for place in workflow.manifest.bind.get(parameter, ())}
    needed = ancestors(graph, workflow.manifest.outputs)  # the rest is not sent
    for node, value in graph.items():
        if node not in needed:
            continue
        info = infos.get(value["class_type"])
        if not isinstance(info, dict):
            problems.append(_no_node(value["class_type"], node))
            continue
        required, optional = _inputs(info, "required"), _inputs(info, "optional")
        for name in required:
            if name not in value["inputs"] and "." not in name:
                text = f"node {node} ({value['class_type']}) needs an input '{name}', which the graph does not give."
                problems.append(Problem(lack=Lack.INPUT, name=f"{node}.{name}", message=text))
        for name, given in value["inputs"].items():
            spec = required.get(name, optional.get(name))
            if spec is None:
                if f"{node}.{name}" in places:
                    text = f"node {node} ({value['class_type']}) has no input '{name}' on this server."
                    problems.append(Problem(lack=Lack.INPUT, name=f"{node}.{name}", message=text))
                continue
            if is_link(given) or f"{node}.{name}" in uploaded:
                continue
            choices = choices_of(spec)
            if choices is not None and isinstance(given, str) and resolve(given, choices) is None:
                problems.append(_no_value(node, value["class_type"], name, given, sources))
    return problems


def resolved(graph: Graph, infos: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """A copy whose file names are written as this server writes them: in a subfolder, or with a backslash."""
    copied = {node: {**value, "inputs": dict(value["inputs"])} for node, value in graph.items()}
    for value in copied.values():
        info = infos.get(value["class_type"])
        if not isinstance(info, dict):
            continue
        specs = {**_inputs(info, "optional"), **_inputs(info, "required")}
        for name, given in value["inputs"].items():
            choices = choices_of(specs[name]) if name in specs and isinstance(given, str) else None
            if choices is not None and (found := resolve(given, choices)) is not None:
                value["inputs"][name] = found
    return copied


def resolve(name: str, choices: Sequence[str]) -> str | None:
    """The server's way of writing a choice, or None. A file may lie in a subfolder, if only one has that name."""
    if name in choices:
        return name
    same = [choice for choice in choices if choice.replace("\\", "/") == name.replace("\\", "/")]
    if not same:
        base = name.replace("\\", "/").rpartition("/")[2]
        same = [choice for choice in choices if choice.replace("\\", "/").rpartition("/")[2] == base and "." in base]
    return same[0] if len(same) == 1 else None


def choices_of(spec: Any) -> list[str] | None:
    """The values that an input may have, or None where it is not a choice. Both shapes that ComfyUI has used."""
    if not isinstance(spec, list) or not spec:
        return None
    values: Any = None
    if isinstance(spec[0], list):
        values = spec[0]
    elif spec[0] == "COMBO" and len(spec) > 1 and isinstance(spec[1], dict):
        values = spec[1].get("options")
    if not isinstance(values, list):
        return None
    return [value for value in values if isinstance(value, str)]


def is_upload(spec: Any) -> bool:
    """Whether an input is a picture that is uploaded, so that its list says nothing."""
    return isinstance(spec, list) and len(spec) > 1 and isinstance(spec[1], dict) and bool(spec[1].get("image_upload"))


def _inputs(info: Mapping[str, Any], kind: str) -> dict[str, Any]:
    found = info.get("input")
    kept = found.get(kind) if isinstance(found, dict) else None
    return kept if isinstance(kept, dict) else {}


def _no_node(class_type: str, node: str) -> Problem:
    text = f"the node '{class_type}' (node {node} of the graph) is not installed. Install the extension that has it."
    return Problem(lack=Lack.NODE, name=class_type, message=text)


def _no_value(node: str, class_type: str, name: str, given: str, sources: Mapping[str, ModelFile]) -> Problem:
    if given in sources:
        file = sources[given]
        where = f" It is at {file.source}." if file.source else ""
        text = f"the file '{given}' is not in models/{file.folder}.{where}"
        return Problem(lack=Lack.FILE, name=given, message=text)
    if "." in given and name.endswith(("_name", "_name1", "_name2", "_name3")):
        text = f"the file '{given}' is not there ({name} of node {node}, {class_type})."
        return Problem(lack=Lack.FILE, name=given, message=text)
    text = f"'{given}' is no value of {name} (node {node}, {class_type}) on this server."
    return Problem(lack=Lack.VALUE, name=f"{node}.{name}", message=text)

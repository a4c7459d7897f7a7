"""A proposal written as a manifest that a person can read and correct."""

from __future__ import annotations

import json

from deployments.comfyui.proposals import Proposal
from tessera.jobs import Kind
from tessera.manifests import Parameter

PRICES = {
    Kind.IMAGE: "width × height / 1024² tokens each",
    Kind.VIDEO: "width × height / 1024² tokens for each 8 frames",
    Kind.MUSIC: "1 token for 30 s",
}
FRAME_STEPS = {"LTXV": 8, "Wan": 4, "Hunyuan": 4}


def manifest_text(
    proposal: Proposal, *, model: str, title: str, vram_mib: int, licence: str, licence_url: str, frame_step: int = 1
) -> str:
    """The TOML of a workflow's manifest."""
    entry = {
        "kind": proposal.kind.value,
        "title": title,
        "description": f"{title}: a workflow of this installation's own.",
        "price": PRICES[proposal.kind],
        "vram_mib": vram_mib,
        "licence": licence,
        "licence_url": licence_url,
    }
    lines = [f"# {title}. Proposed by 'tessera workflows add': read it, and correct what is wrong."]
    lines += [f"# {doubt}" for doubt in proposal.doubts]
    lines += ["", f"model = {_toml(model)}", f"mode = {_toml(proposal.mode.value)}"]
    lines += [f"outputs = {_toml(proposal.outputs)}", "", "[entry]"]
    lines += [f"{name} = {_toml(value)}" for name, value in entry.items()]
    lines += ["", "# A parameter of a job → the inputs that take it, as node.input.", "[bind]"]
    lines += [f"{p.value} = {_toml(proposal.bind[p])}" for p in Parameter if p in proposal.bind]
    lines += ["", "[size]", f"multiple = {proposal.multiple}"]
    if frame_step > 1:
        lines += [f"frame_step = {frame_step}"]
    for name, folder in proposal.files:
        lines += ["", "[[files]]", f"name = {_toml(name)}", f"folder = {_toml(folder)}", 'source = ""']
    return "\n".join(lines) + "\n"


def frame_step_of(classes: list[str]) -> int:
    """By how many frames the lengths differ that a video model makes; 1 where no known one is in the graph."""
    for class_type in classes:
        for word, step in FRAME_STEPS.items():
            if word in class_type:
                return step
    return 1


def _toml(value: object) -> str:
    # A string, a whole number or a list of strings is written in TOML as in JSON.
    return json.dumps(value, ensure_ascii=False)

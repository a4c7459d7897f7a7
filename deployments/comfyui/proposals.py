"""A manifest for a graph that nobody has prepared: found by following its links. Pure.

From the files that it saves back to the sampler, from there to what it starts from: the prompt at ``positive``, the
negative prompt at ``negative``, the size at the latent. What the server says of each node tells the rest: which inputs
are numbers, which are choices of files. A proposal is for a person to read and correct: it says what it is unsure of.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from deployments.comfyui import checking
from deployments.comfyui.workflows import Graph, ancestors, is_link
from tessera.jobs import Kind
from tessera.manifests import Mode, Parameter

# Which folder of ComfyUI's models a loader's input reads, by the input's name (ComfyUI's own loaders).
FOLDERS = {
    "ckpt_name": "checkpoints",
    "unet_name": "diffusion_models",
    "vae_name": "vae",
    "lora_name": "loras",
    "control_net_name": "controlnet",
    "clip_name": "text_encoders",
    "clip_name1": "text_encoders",
    "clip_name2": "text_encoders",
    "clip_name3": "text_encoders",
    "style_model_name": "style_models",
    "gligen_name": "gligen",
    "model_name": "upscale_models",
}
TEXTS = ("text", "prompt", "tags", "text_g", "text_l", "clip_l", "t5xxl", "caption")
NO_TEXT = ("clip", "vae", "model", "image", "control_net", "pixels", "mask", "clip_vision_output")
SEEDS = ("seed", "noise_seed")
# Links that lead away from the picture: to models, words, and what only steers a sampler.
BESIDE = (
    "model", "clip", "vae", "positive", "negative", "conditioning", "guider", "noise", "sigmas", "sampler", "mask",
    "control_net", "upscale_model", "clip_vision", "clip_vision_output", "audio",
)  # fmt: skip
# Nodes that change the size by a factor of their own: the size asked for cannot be had behind them.
BY_A_FACTOR = ("upscalewithmodel", "scaleby", "totalpixels", "latentupscaleby", "imagestitch", "upscalebymodel")
SAVES_VIDEO = ("video", "animated", "webm", "gif")
SAVES_SOUND = ("audio", "music", "sound", "speech")


@dataclass(kw_only=True)
class Proposal:
    """What was found. ``doubts`` are for a person, each a sentence; ``files`` are (name, folder)."""

    kind: Kind
    mode: Mode
    outputs: list[str]
    bind: dict[Parameter, list[str]] = field(default_factory=dict)
    files: list[tuple[str, str]] = field(default_factory=list)
    multiple: int = 8
    doubts: list[str] = field(default_factory=list)


def propose(graph: Graph, infos: Mapping[str, Any]) -> Proposal:
    """Propose bindings. ``infos`` is /object_info, or nothing where no server was asked: then names alone decide."""
    return _Reader(graph, infos).proposal()


class _Reader:
    def __init__(self, graph: Graph, infos: Mapping[str, Any]) -> None:
        self._graph = graph
        self._infos = infos
        self._bind: dict[Parameter, list[str]] = {}
        self._doubts: list[str] = []

    def proposal(self) -> Proposal:
        outputs = self._outputs()
        kind = self._kind(outputs)
        run = ancestors(self._graph, outputs)
        samplers = sorted((node for node in run if self._is_sampler(node)), key=_by_number)
        for output in outputs:
            if "filename_prefix" in self._inputs(output):
                self._add(Parameter.PREFIX, output, "filename_prefix")
        for sampler in samplers:
            self._read_sampler(sampler)
        if Parameter.PROMPT not in self._bind:
            self._read_any_prompt(run)
        self._read_numbers(run, kind)
        if kind is not Kind.MUSIC:
            self._read_result_size(outputs[0])
        mode = self._read_pictures(run, kind)
        if mode is Mode.UPSCALE:
            for asked, scaled in (
                (Parameter.WIDTH, Parameter.SCALED_WIDTH),
                (Parameter.HEIGHT, Parameter.SCALED_HEIGHT),
            ):
                if asked in self._bind:
                    self._bind[scaled] = self._bind.pop(asked)
        if not samplers and kind is not Kind.IMAGE:
            self._doubts.append("There is no sampler that is known: look at the progress of a first job.")
        self._say_what_is_missing(mode, kind)
        return Proposal(
            kind=kind,
            mode=mode,
            outputs=outputs,
            bind=self._bind,
            files=sorted(set(self._files(run))),
            multiple=self._multiple(),
            doubts=self._doubts,
        )

    # ------------------------------------------------------------------ the ends

    def _outputs(self) -> list[str]:
        found = [node for node in self._graph if self._is_output(node)]
        saving = [node for node in found if "preview" not in self._class(node).lower()]
        kept = sorted(saving or found, key=_by_number)
        if not kept:
            # Nobody knows the class: what gives nothing to others is the end.
            used = {link[0] for value in self._graph.values() for link in value["inputs"].values() if is_link(link)}
            kept = sorted((node for node in self._graph if node not in used), key=_by_number)
            self._doubts.append(f"No output node is known: node {', '.join(kept)} is taken, as nothing follows it.")
        if len(kept) > 1:
            names = ", ".join(f"{node} ({self._class(node)})" for node in kept)
            self._doubts.append(f"The graph saves in {len(kept)} places: {names}. Keep only the result.")
        return kept

    def _is_output(self, node: str) -> bool:
        info = self._infos.get(self._class(node))
        if isinstance(info, dict) and "output_node" in info:
            return bool(info["output_node"])
        return self._class(node).startswith(("Save", "Preview")) or self._class(node).endswith("_VideoCombine")

    def _kind(self, outputs: list[str]) -> Kind:
        names = " ".join(self._class(node).lower() for node in outputs)
        if any(word in names for word in SAVES_SOUND):
            return Kind.MUSIC
        return Kind.VIDEO if any(word in names for word in SAVES_VIDEO) else Kind.IMAGE

    def _is_sampler(self, node: str) -> bool:
        inputs = self._inputs(node)
        return ("latent_image" in inputs or "latent" in inputs) and (
            "sampler" in self._class(node).lower() or "sampler_name" in inputs or "sigmas" in inputs
        )

    # ------------------------------------------------------------------ from the sampler upwards

    def _read_sampler(self, node: str) -> None:
        inputs = self._inputs(node)
        for name, parameter in (("positive", Parameter.PROMPT), ("negative", Parameter.NEGATIVE_PROMPT)):
            if is_link(inputs.get(name)):
                self._read_texts(inputs[name][0], parameter, ("positive",) if name == "positive" else ("negative",))
        for name in ("guider", "noise"):
            if is_link(inputs.get(name)):
                self._read_helper(inputs[name][0])
        self._add_seed(node)
        if is_link(inputs.get("sigmas")):
            self._add_value(Parameter.STEPS, inputs["sigmas"][0], "steps")
        self._add_value(Parameter.STEPS, node, "steps")
        start = inputs.get("latent_image", inputs.get("latent"))
        if is_link(start):
            self._read_size(start[0])

    def _read_helper(self, node: str) -> None:
        """A guider has the conditioning, a noise node has the seed."""
        for name, link in self._inputs(node).items():
            if is_link(link) and name in ("conditioning", "positive", "cond1"):
                self._read_texts(link[0], Parameter.PROMPT, ("positive", "conditioning"))
            elif is_link(link) and name == "negative":
                self._read_texts(link[0], Parameter.NEGATIVE_PROMPT, ("negative",))
        self._add_seed(node)

    def _read_texts(self, node: str, parameter: Parameter, sides: tuple[str, ...], depth: int = 0) -> None:
        """The texts behind a conditioning. A node with both sides is followed on the side that one comes from."""
        if depth > 20 or node not in self._graph:
            return
        if self._class(node) == "ConditioningZeroOut":
            return  # an empty negative made of the prompt: not a text of its own
        inputs = self._inputs(node)
        texts = [name for name in TEXTS if isinstance(inputs.get(name), str)]
        for name in texts:
            self._add(parameter, node, name)
        if isinstance(inputs.get("lyrics"), str) and parameter is Parameter.PROMPT:
            self._add(Parameter.LYRICS, node, "lyrics")
        for name in TEXTS:
            if is_link(inputs.get(name)):
                self._read_string(inputs[name][0], parameter)
        if texts:
            return
        both = "positive" in inputs and "negative" in inputs
        for name, link in inputs.items():
            if is_link(link) and (name in sides if both else name not in NO_TEXT):
                self._read_texts(link[0], parameter, sides, depth + 1)

    def _read_string(self, node: str, parameter: Parameter) -> None:
        """A text that comes from a node of its own (a primitive)."""
        for name, value in self._inputs(node).items():
            if isinstance(value, str):
                self._add(parameter, node, name)
                return

    def _read_any_prompt(self, run: set[str]) -> None:
        for node in sorted(run, key=_by_number):
            for name in ("text", "prompt", "tags"):
                if isinstance(self._inputs(node).get(name), str):
                    self._add(Parameter.PROMPT, node, name)
                    self._doubts.append(f"No sampler leads to a prompt: the text of node {node} is taken.")
                    return

    def _read_size(self, node: str, depth: int = 0) -> None:
        if depth > 20 or node not in self._graph:
            return
        inputs = self._inputs(node)
        if _is_number(inputs.get("width")) and _is_number(inputs.get("height")):
            self._add(Parameter.WIDTH, node, "width")
            self._add(Parameter.HEIGHT, node, "height")
            for name, parameter in (("batch_size", Parameter.COUNT), ("length", Parameter.FRAMES)):
                if _is_number(inputs.get(name)):
                    self._add(parameter, node, name)
            return
        if _is_number(inputs.get("amount")):
            self._add(Parameter.COUNT, node, "amount")
        for name, link in inputs.items():
            if is_link(link) and name not in ("model", "clip", "vae", "positive", "negative", "mask"):
                self._read_size(link[0], depth + 1)

    def _read_result_size(self, output: str) -> None:
        """The size is that of the last node before the end that has one: what a result is checked against."""
        node: str | None = output
        seen: set[str] = set()
        while node is not None and node not in seen:
            seen.add(node)
            inputs, name = self._inputs(node), self._class(node).lower()
            if any(word in name for word in BY_A_FACTOR):
                for parameter in (Parameter.WIDTH, Parameter.HEIGHT):
                    self._bind.pop(parameter, None)
                self._doubts.append(
                    f"Node {node} ({self._class(node)}) changes the size by a factor of its own: put an ImageScale "
                    "behind it to have the size that is asked for."
                )
                return
            if _is_number(inputs.get("width")) and _is_number(inputs.get("height")):
                if "crop" not in name:
                    if f"{node}.width" not in self._bind.get(Parameter.WIDTH, []):
                        self._bind.update({Parameter.WIDTH: [], Parameter.HEIGHT: []})
                        self._read_size(node)
                    return
                self._bind.update({Parameter.CROP_WIDTH: [f"{node}.width"], Parameter.CROP_HEIGHT: [f"{node}.height"]})
                for place, parameter in (("x", Parameter.CROP_X), ("y", Parameter.CROP_Y)):
                    self._add_value(parameter, node, place)
            node = next(
                (v[0] for n, v in inputs.items() if is_link(v) and n not in BESIDE and v[0] in self._graph), None
            )

    # ------------------------------------------------------------------ everywhere else

    def _read_numbers(self, run: set[str], kind: Kind) -> None:
        if Parameter.SEED not in self._bind:
            for node in sorted(run, key=_by_number):
                self._add_seed(node)
        if Parameter.WIDTH not in self._bind and kind is not Kind.MUSIC:
            for node in sorted(run, key=_by_number):
                if self._class(node).startswith("Empty") and _is_number(self._inputs(node).get("width")):
                    self._read_size(node)
        if kind is not Kind.IMAGE:
            many = self._bind.pop(Parameter.COUNT, None)  # one clip, one piece
            if kind is Kind.VIDEO and many is not None:
                self._bind.setdefault(Parameter.FRAMES, many)  # the pictures of a batch are the frames of the clip
        for node in sorted(run, key=_by_number):
            inputs = self._inputs(node)
            if kind is Kind.VIDEO:
                for name in ("fps", "frame_rate"):
                    self._add_value(Parameter.FPS, node, name)
            if kind is Kind.MUSIC:
                for name in ("seconds", "seconds_total", "duration"):
                    if _is_number(inputs.get(name)):
                        self._add(Parameter.DURATION_S, node, name)

    def _read_pictures(self, run: set[str], kind: Kind) -> Mode:
        pictures = [n for n in sorted(run, key=_by_number) if self._class(n) in ("LoadImage", "LoadImageOutput")]
        masks = [n for n in sorted(run, key=_by_number) if self._class(n) == "LoadImageMask"]
        for node in pictures[:1]:
            self._add(Parameter.IMAGE, node, "image")
        if len(pictures) > 1:
            self._doubts.append(f"There are {len(pictures)} pictures: the first (node {pictures[0]}) is the job's.")
        for node in masks[:1]:
            self._add(Parameter.MASK, node, "image")
        if not pictures:
            return Mode.TEXT
        if masks:
            return Mode.INPAINT
        if kind is Kind.IMAGE and not any(self._is_sampler(node) for node in run):
            enlarges = any("scale" in self._class(node).lower() for node in run)
            return Mode.UPSCALE if enlarges else Mode.IMAGE
        if kind is Kind.IMAGE:
            for node in run:
                if self._is_sampler(node):
                    self._add_value(Parameter.STRENGTH, node, "denoise")
        return Mode.IMAGE

    def _say_what_is_missing(self, mode: Mode, kind: Kind) -> None:
        if Parameter.PREFIX not in self._bind:
            self._doubts.append("No output has a filename_prefix: use SaveImage, SaveVideo or SaveAudioMP3 at the end.")
        if Parameter.PROMPT not in self._bind and mode is not Mode.UPSCALE:
            self._bind[Parameter.PROMPT] = []
            self._doubts.append(
                "No prompt was found: a person's words change nothing. If a node takes them, name it and its input "
                "under [bind] prompt."
            )
        if Parameter.SEED not in self._bind and mode is not Mode.UPSCALE:
            self._doubts.append("No seed was found: the same job twice may give the same result.")
        if Parameter.WIDTH not in self._bind and mode is Mode.TEXT and kind is not Kind.MUSIC:
            self._doubts.append("No size was found: results have the graph's own size, and it is not checked.")

    def _files(self, run: set[str]) -> Iterator[tuple[str, str]]:
        for node in run:
            specs = self._specs(node)
            for name, value in self._inputs(node).items():
                if not isinstance(value, str) or "." not in value or name == "filename_prefix":
                    continue
                is_choice = name in specs and checking.choices_of(specs[name]) is not None
                if name in FOLDERS or (is_choice and not checking.is_upload(specs[name])):
                    yield value, FOLDERS.get(name, "of its loader")

    def _multiple(self) -> int:
        """The step of the size's input, as its node tells it; 8 where it does not."""
        for place in self._bind.get(Parameter.WIDTH, []):
            node, _, name = place.partition(".")
            spec = self._specs(node).get(name)
            more = spec[1] if isinstance(spec, list) and len(spec) > 1 and isinstance(spec[1], dict) else {}
            if isinstance(more.get("step"), int):
                return max(1, int(more["step"]))
        return 8

    # ------------------------------------------------------------------ beneath

    def _add(self, parameter: Parameter, node: str, name: str) -> None:
        places = self._bind.setdefault(parameter, [])
        if f"{node}.{name}" not in places:
            places.append(f"{node}.{name}")

    def _add_value(self, parameter: Parameter, node: str, name: str) -> None:
        if _is_number(self._inputs(node).get(name)):
            self._add(parameter, node, name)

    def _add_seed(self, node: str) -> None:
        inputs = self._inputs(node)
        if inputs.get("add_noise") == "disable":
            return  # the second half of a split sampling: its seed does nothing
        for name in SEEDS:
            if is_link(inputs.get(name)):
                source = inputs[name][0]
                for given, value in self._inputs(source).items():
                    if _is_number(value):
                        self._add(Parameter.SEED, source, given)
            else:
                self._add_value(Parameter.SEED, node, name)

    def _class(self, node: str) -> str:
        return str(self._graph[node]["class_type"])

    def _inputs(self, node: str) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self._graph[node]["inputs"] if node in self._graph else {}
        return found

    def _specs(self, node: str) -> dict[str, Any]:
        info = self._infos.get(self._class(node))
        inputs = info.get("input") if isinstance(info, dict) else None
        found: dict[str, Any] = {}
        for kind in ("required", "optional"):
            kept = inputs.get(kind) if isinstance(inputs, dict) else None
            found.update(kept if isinstance(kept, dict) else {})
        return found


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _by_number(node: str) -> tuple[int, str]:
    return (int(node), "") if node.isdecimal() else (1 << 30, node)

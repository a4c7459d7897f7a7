"""The manifest of a ComfyUI workflow: what a graph is for, which of its inputs take what, which files it needs. Pure.

A workflow is two files of one name in a folder: the graph as ComfyUI exports it (``sdxl.json``, its API format), and
this manifest (``sdxl.toml``). Several workflows may serve one model, each for another ``mode``: from words, from a
picture, in a part of a picture, larger. One of them carries the model's entry for the catalogue.

::

    model = "sdxl"                     # the catalogue's id
    mode = "text"                      # text, image, inpaint or upscale
    outputs = ["9"]                    # the nodes whose files are the result

    [entry]                            # of the catalogue; in one manifest of a model
    kind = "image"
    title = "Stable Diffusion XL"
    description = "…"
    price = "width × height / 1024² tokens each"
    vram_mib = 9000
    licence_url = "https://…"

    [bind]                             # a parameter → the inputs that take it, as "node.input"
    prompt = ["6.text"]
    seed = ["3.seed"]

    [[files]]                          # what the operator must have
    name = "sd_xl_base_1.0.safetensors"
    folder = "checkpoints"
    source = "https://…"
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from enum import StrEnum
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from tessera.jobs import Kind

SHIPPED = Path(__file__).resolve().parent.parent / "deployments" / "workflows"
OPERATORS_FOLDER = "workflows"  # in TESSERA_HOME

ModelId = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,62}$")]
# The first dot ends the node's id: ComfyUI's newer inputs may have dots in their names, its ids have none.
Place = Annotated[str, Field(pattern=r"^[^.\s]+\.\S+$")]


class ManifestError(Exception):
    """The manifest cannot be used. The message names the file and the entry to correct."""


class Mode(StrEnum):
    """What a job of a model starts from."""

    TEXT = "text"  # words alone
    IMAGE = "image"  # a picture and words
    INPAINT = "inpaint"  # a picture, a mask and words
    UPSCALE = "upscale"  # a picture that is to be larger


class Parameter(StrEnum):
    """What can be bound to inputs of a graph. Sizes are in pixels, times in seconds."""

    PROMPT = "prompt"  # bound to nothing: a graph that takes no words, which a person may say all the same
    NEGATIVE_PROMPT = "negative_prompt"
    LYRICS = "lyrics"
    SEED = "seed"
    STEPS = "steps"  # set only while a model is being loaded; else the graph's own number stands
    COUNT = "count"
    STRENGTH = "strength"  # how much of the picture may change, 0…1
    IMAGE = "image"  # the uploaded picture's name on the server
    MASK = "mask"  # likewise; white is what changes
    WIDTH = "width"  # what the graph computes with: the size asked for, rounded up to [size] multiple
    HEIGHT = "height"
    CROP_WIDTH = "crop_width"  # exactly the size asked for, for a node that cuts it out of the middle
    CROP_HEIGHT = "crop_height"
    CROP_X = "crop_x"
    CROP_Y = "crop_y"
    SCALED_WIDTH = "scaled_width"  # the picture's own size times the scale asked for
    SCALED_HEIGHT = "scaled_height"
    FRAMES = "frames"  # what the graph computes with: rounded up to a multiple of [size] frame_step, and one
    CUT_FRAMES = "cut_frames"  # exactly the frames asked for, for a node that drops the rest
    FPS = "fps"
    DURATION_S = "duration_s"
    PREFIX = "prefix"  # of the output file's name: new for each attempt, or a repeated run would get the old file


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Entry(_Frozen):
    """The model in the catalogue. ``vram_mib`` is what all its models and its work take together at usual sizes."""

    kind: Kind
    title: str = Field(min_length=1)
    description: str = Field(min_length=1)
    price: str = Field(min_length=1)
    vram_mib: int = Field(ge=0)
    load_s: float = Field(default=30.0, gt=0)
    licence: str = Field(min_length=1)
    licence_url: str = Field(default="", pattern=r"^(https://.+)?$")  # empty: not known, of an operator's own
    aliases: tuple[str, ...] = ()
    flat_mt: int | None = Field(default=None, ge=1)
    examples: tuple[dict[str, Any], ...] = ()


class Size(_Frozen):
    """What sizes and lengths the graph can do. None: without a limit of its own."""

    multiple: int = Field(default=8, ge=1)
    frame_step: int = Field(default=1, ge=1)
    max_px: int | None = Field(default=None, ge=1)  # width × height
    max_frames: int | None = Field(default=None, ge=1)
    max_duration_s: float | None = Field(default=None, gt=0)


class Warm(_Frozen):
    """The smallest run that loads everything: what ``ensure`` sends."""

    width: int = Field(default=64, ge=16)
    height: int = Field(default=64, ge=16)
    frames: int = Field(default=1, ge=1)
    duration_s: float = Field(default=1.0, gt=0)
    steps: int = Field(default=1, ge=1)


class ModelFile(_Frozen):
    """A file that must lie in a folder of ComfyUI's ``models``, and the page that it can be had from."""

    name: str = Field(min_length=1)
    folder: str = Field(min_length=1)
    source: str = Field(default="", pattern=r"^(https://.+)?$")
    size_mib: int | None = Field(default=None, ge=0)


class Manifest(_Frozen):
    """One workflow. ``name`` is the name of its two files; ``folder`` is where they lie."""

    name: str
    folder: Path
    model: ModelId
    mode: Mode = Mode.TEXT
    outputs: tuple[str, ...] = Field(min_length=1)
    entry: Entry | None = None
    bind: dict[Parameter, tuple[Place, ...]]
    size: Size = Size()
    warm: Warm = Warm()
    files: tuple[ModelFile, ...] = ()

    @model_validator(mode="after")
    def _usable(self) -> Self:
        if Parameter.PREFIX not in self.bind:
            raise ValueError("bind.prefix is missing: a repeated job would get the file of the one before")
        needed = {Mode.IMAGE: "image", Mode.INPAINT: "image mask", Mode.UPSCALE: "image"}.get(self.mode, "prompt")
        for name in needed.split():
            if Parameter(name) not in self.bind:
                advice = "; 'prompt = []' says that the graph takes no words" if name == "prompt" else ""
                raise ValueError(f"bind.{name} is missing: mode '{self.mode.value}' needs it{advice}")
        for parameter, places in self.bind.items():
            if not places and parameter is not Parameter.PROMPT:
                raise ValueError(f"bind.{parameter.value} names no input: write one, or leave the line out")
        return self

    @property
    def graph_file(self) -> Path:
        """The graph, in ComfyUI's API format."""
        return self.folder / f"{self.name}.json"


def parse_manifest(text: str, *, name: str, folder: Path) -> Manifest:
    """Check the text of a manifest. Raises ManifestError."""
    where = folder / f"{name}.toml"
    try:
        return Manifest.model_validate({**tomllib.loads(text), "name": name, "folder": folder})
    except tomllib.TOMLDecodeError as error:
        raise ManifestError(f"{where} is not valid TOML: {error}. Correct it there.") from error
    except ValidationError as error:
        lines = [
            f"{'.'.join(str(part) for part in item['loc']) or 'the file'}: {item['msg'].removeprefix('Value error, ')}"
            for item in error.errors(include_url=False)
        ]
        raise ManifestError(f"{where} has entries to correct: {'; '.join(lines)}.") from error


def read_manifests(*folders: Path) -> tuple[list[Manifest], list[str]]:
    """The workflows of these folders and what is wrong with others, in words.

    A later folder's workflow takes the place of an earlier one's of the same model and mode: the operator's own win.
    """
    found: dict[tuple[str, Mode], Manifest] = {}
    problems: list[str] = []
    for folder in folders:
        for file in sorted(folder.glob("*.toml")) if folder.is_dir() else ():
            try:
                manifest = parse_manifest(file.read_text(encoding="utf-8"), name=file.stem, folder=folder)
            except ManifestError as error:
                problems.append(str(error))
                continue
            except (OSError, UnicodeDecodeError) as error:
                problems.append(f"{file} cannot be read ({error}).")
                continue
            key = (manifest.model, manifest.mode)
            if key in found and found[key].folder == folder:
                problems.append(
                    f"{file} and {found[key].name}.toml are both for {manifest.model}, mode {manifest.mode}."
                )
                continue
            found[key] = manifest
    return list(found.values()), problems


@lru_cache(maxsize=1)
def shipped() -> tuple[Manifest, ...]:
    """The workflows that come with Tessera."""
    manifests, problems = read_manifests(SHIPPED)
    if problems:
        raise ManifestError(" ".join(problems))
    return tuple(manifests)


def installed(home: Path | None) -> tuple[list[Manifest], list[str]]:
    """The shipped workflows and those of an operator's home, and what is wrong with the latter."""
    return read_manifests(SHIPPED, *([home / OPERATORS_FOLDER] if home is not None else []))


def entries(manifests: Iterable[Manifest]) -> Mapping[str, Entry]:
    """The catalogue's entry of each model; of one with several the last."""
    return {manifest.model: manifest.entry for manifest in manifests if manifest.entry is not None}

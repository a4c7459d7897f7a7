"""The catalogue of models: what can be asked for, by which names, and which engine runs it. Pure.

Aliases let programs written for other services work unchanged (OpenAI's model and voice names among them).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tessera import cards, manifests
from tessera.errors import UnknownModel
from tessera.jobs import Kind


@dataclass(frozen=True, kw_only=True)
class Model:
    """A catalogue entry. ``vram_mib`` is what it occupies while resident; 0 runs on any CPU.

    ``load_s`` is how long loading it takes, as far as is known before it was seen to load.
    """

    id: str
    kind: Kind
    engine: str
    title: str
    description: str
    price: str  # in words, for people
    vram_mib: int = 0
    load_s: float = 0.0
    aliases: tuple[str, ...] = ()
    preview: bool = False
    hidden: bool = False  # usable, but not listed nor a default
    flat_mt: int | None = None  # a fixed price instead of the kind's formula
    examples: tuple[Mapping[str, Any], ...] = field(default=())
    voices: tuple[str, ...] = ()  # of a speech model: names to choose from; languages by their tag work too
    licence_url: str = ""  # where the terms of its weights stand


PREVIEW_MODELS: tuple[Model, ...] = (
    Model(
        id="preview-image",
        kind=Kind.IMAGE,
        engine="preview",
        title="Preview pictures",
        description="Paints a scene from the prompt's words by rules, on any CPU. A preview: no neural network.",
        price="width × height / 1024² tokens each",
        aliases=("dall-e-2", "dall-e-3", "gpt-image-1"),
        preview=True,
        examples=({"prompt": "a lighthouse in a storm, oil painting", "width": 1024, "height": 768},),
    ),
    Model(
        id="preview-video",
        kind=Kind.VIDEO,
        engine="preview",
        title="Preview clips",
        description="Animates the preview picture into an H.264 clip, on any CPU. A preview: no neural network.",
        price="width × height / 1024² tokens for each 8 frames",
        aliases=("sora-2",),
        preview=True,
        examples=({"prompt": "waves under a full moon", "duration_s": 2},),
    ),
    Model(
        id="preview-text",
        kind=Kind.TEXT,
        engine="preview",
        title="Preview answers",
        description="Answers from the text that it is given and continues by templates. A preview: no language model.",
        price="1 token for 2,000 text tokens, prompt and answer",
        aliases=("gpt-4o-mini", "gpt-4o", "gpt-3.5-turbo"),
        preview=True,
        examples=({"prompt": "Write a short poem about the sea.", "max_tokens": 128},),
    ),
    Model(
        id="preview-transcription",
        kind=Kind.TRANSCRIPTION,
        engine="preview",
        title="Preview transcripts",
        description="Finds English words in a recording with pocketsphinx, on any CPU. A preview: many are wrong.",
        price="1 token for 5 minutes",
        aliases=("whisper-1",),
        preview=True,
    ),
    Model(
        id="preview-speech",
        kind=Kind.SPEECH,
        engine="preview",
        title="Preview voices",
        description="Reads text aloud with espeak-ng: clear, robotic, in many languages.",
        price="1 token for 1,000 characters",
        aliases=("tts-1", "tts-1-hd", "gpt-4o-mini-tts"),
        preview=True,
        examples=({"text": "Good morning. The kettle is on.", "voice": "en-gb"},),
        voices=(
            *("alloy", "ash", "ballad", "coral", "echo", "fable", "nova", "onyx", "sage", "shimmer", "verse"),
            *("en", "en-gb", "en-us", "de", "es", "fr", "it", "nl", "pl", "pt", "ru", "sv", "tr", "uk", "zh"),
        ),
    ),
    Model(
        id="preview-music",
        kind=Kind.MUSIC,
        engine="preview",
        title="Preview music",
        description="Composes and synthesises a short piece from the prompt's mood, on any CPU.",
        price="1 token for 30 s",
        preview=True,
        examples=({"prompt": "a calm piano in the rain", "duration_s": 10},),
    ),
)

NOOP = Model(
    id="noop",
    kind=Kind.TEXT,
    engine="noop",
    title="Nothing at all",
    description="Ends at once with an empty text: for benchmarks and tests.",
    price="0.001 tokens",
    hidden=True,
    flat_mt=1,
)

NOOP_BATCH = replace(
    NOOP,
    id="noop-batch",
    title="Nothing at all, many at once",
    description="Ends at once with an empty text: for benchmarks of an engine that takes small jobs in batches.",
)

# Two of them fit the simulated device of cluster.toml, three do not.
NOOP_HEAVY: tuple[Model, ...] = tuple(
    Model(
        id=f"noop-{letter}",
        kind=Kind.TEXT,
        engine="noop",
        title=f"Nothing, with weights ({letter.upper()})",
        description="Ends at once with an empty text, once it is loaded: for tests of loading and of memory.",
        price="0.001 tokens",
        vram_mib=6000,
        load_s=0.5,
        hidden=True,
        flat_mt=1,
    )
    for letter in ("a", "b", "c")
)


@dataclass(frozen=True)
class Catalog:
    """The models of this installation, by id and alias."""

    models: tuple[Model, ...]

    def resolve(self, kind: Kind, name: str | None) -> Model:
        """The model of this name or alias, or the kind's default. Raises UnknownModel with those that there are."""
        of_kind = [m for m in self.models if m.kind == kind]
        if name is None:
            default = next((m for m in of_kind if not m.hidden), None)
            if default is None:
                raise UnknownModel(f"No model of kind {kind.value} is installed here: GET /v1/models lists what is.")
            return default
        for model in of_kind:
            if name == model.id or name in model.aliases:
                return model
        known = ", ".join(m.id for m in of_kind if not m.hidden) or "none"
        raise UnknownModel(f"There is no {kind.value} model {name[:64]!r}. Known are: {known}.", known=known)

    def by_id(self, model_id: str) -> Model | None:
        """The model of exactly this id, or None."""
        return next((m for m in self.models if m.id == model_id), None)


def catalog_of(served: Iterable[str], *, home: Path | None = None) -> Catalog:
    """The catalogue entries of those models that some configured worker serves.

    ``home``: the installation whose own workflows and model cards count, beside the shipped ones.
    """
    order = tuple(dict.fromkeys(served))  # of the configuration: the first of a kind is its default
    wanted = set(order)
    built_in = tuple(m for m in (*PREVIEW_MODELS, NOOP, NOOP_BATCH, *NOOP_HEAVY) if m.id in wanted)
    if wanted <= {model.id for model in built_in}:
        return Catalog(built_in)
    workflows = manifests.entries(manifests.installed(home)[0])
    by_card = cards.installed(home)[0]
    return Catalog(
        (
            *(_of_entry(name, entry, "comfyui") for name, entry in workflows.items() if name in wanted),
            *(_of_entry(card.id, card.entry, card.engine, card.voices) for card in map(by_card.get, order) if card),
            *built_in,
        )
    )


def _of_entry(name: str, entry: manifests.Entry, engine: str, voices: tuple[str, ...] = ()) -> Model:
    """A model from its entry in a workflow's manifest, or in a model card."""
    return Model(
        id=name,
        kind=entry.kind,
        engine=engine,
        title=entry.title,
        description=entry.description,
        price=entry.price,
        vram_mib=entry.vram_mib,
        load_s=entry.load_s,
        aliases=entry.aliases,
        flat_mt=entry.flat_mt,
        examples=entry.examples,
        voices=voices,
        licence_url=entry.licence_url,
    )

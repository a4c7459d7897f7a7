"""Model cards: what is known of a model that KoboldCPP, Whisper or the speech engine runs. Pure, but for its files.

A card is one TOML file, named like the model. Those that come with Tessera lie in ``deployments/cards``, an operator's
own in ``cards`` of the home; of two for one model the operator's counts.

::

    engine = "koboldcpp"               # koboldcpp, whisper or speech

    [entry]                            # of the catalogue, as in a workflow's manifest
    kind = "text"
    title = "Qwen 2.5 7B"
    description = "…"
    price = "1 token for 2,000 text tokens, prompt and answer"
    vram_mib = 7000                    # with its context, at the size that the server was started with
    licence = "Apache 2.0"
    licence_url = "https://…"

    [run]                              # what its engine wants to know (docs/engines.md)
    template = "chatml"
    file = "qwen2.5-7b.gguf"

    [[files]]                          # what the operator must have
    name = "qwen2.5-7b.gguf"
    source = "https://…"
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tessera.manifests import Entry

SHIPPED = Path(__file__).resolve().parent.parent / "deployments" / "cards"
OPERATORS_FOLDER = "cards"  # in TESSERA_HOME


class CardError(Exception):
    """A model card cannot be used. The message names the file and the entry to correct."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class CardFile(_Frozen):
    """A file, or a folder of files, that the operator must have, and the page that it can be had from."""

    name: str = Field(min_length=1)
    source: str = Field(default="", pattern=r"^(https://.+)?$")
    size_mib: int | None = Field(default=None, ge=0)


class Card(_Frozen):
    """One model. ``id`` is the name of its file; ``run`` is its engine's to read."""

    id: str = Field(pattern=r"^[a-z][a-z0-9-]{0,62}$")
    engine: Literal["koboldcpp", "whisper", "speech"]
    entry: Entry
    voices: tuple[str, ...] = ()
    run: dict[str, Any] = Field(default_factory=dict)
    files: tuple[CardFile, ...] = ()


def parse_card(text: str, *, name: str, where: str) -> Card:
    """Check the text of a card. Raises CardError."""
    try:
        return Card.model_validate({**tomllib.loads(text), "id": name})
    except tomllib.TOMLDecodeError as error:
        raise CardError(f"{where} is not valid TOML: {error}. Correct it there.") from error
    except ValidationError as error:
        lines = [
            f"{'.'.join(str(part) for part in item['loc']) or 'the file'}: {item['msg'].removeprefix('Value error, ')}"
            for item in error.errors(include_url=False)
        ]
        raise CardError(f"{where} has entries to correct: {'; '.join(lines)}.") from error


def read_cards(*folders: Path) -> tuple[Mapping[str, Card], list[str]]:
    """The cards of these folders by model, a later folder's before an earlier one's, and what is wrong with others."""
    found: dict[str, Card] = {}
    problems: list[str] = []
    for folder in folders:
        for file in sorted(folder.glob("*.toml")) if folder.is_dir() else ():
            try:
                found[file.stem] = parse_card(file.read_text(encoding="utf-8"), name=file.stem, where=str(file))
            except CardError as error:
                problems.append(str(error))
            except (OSError, UnicodeDecodeError) as error:
                problems.append(f"{file} cannot be read ({error}).")
    return found, problems


@lru_cache(maxsize=1)
def shipped() -> Mapping[str, Card]:
    """The cards that come with Tessera."""
    cards, problems = read_cards(SHIPPED)
    if problems:
        raise CardError(" ".join(problems))
    return cards


def installed(home: Path | None) -> tuple[Mapping[str, Card], list[str]]:
    """The shipped cards and those of an operator's home, and what is wrong with the latter."""
    if home is None:
        return shipped(), []
    own, problems = read_cards(home / OPERATORS_FOLDER)
    return {**shipped(), **own}, problems

"""The commands of a bot and their options, for the lists that the platforms show."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from bots.core.options import MAX_COUNT, MAX_SEED, RATIOS


class OptionType(StrEnum):
    """What a platform asks for."""

    TEXT = "text"
    WHOLE = "whole"
    REAL = "real"
    YES_NO = "yes_no"
    FILE = "file"


@dataclass(frozen=True, kw_only=True)
class Option:
    """An option of a command; its description is the message ``option-NAME``."""

    name: str
    type: OptionType = OptionType.TEXT
    required: bool = False
    completes: bool = False  # offers values while one types
    choices: tuple[str, ...] = ()
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, kw_only=True)
class Command:
    """A command. Its description is the message ``command-NAME``, its name in a language ``name-NAME``."""

    name: str
    options: tuple[Option, ...] = ()
    for_admins: bool = False


_PROMPT = Option(name="prompt")
_COMMON = (
    Option(name="model", completes=True),
    Option(name="ratio", choices=RATIOS),
    Option(name="seed", type=OptionType.WHOLE, low=0, high=MAX_SEED - 1),
    Option(name="spoiler", type=OptionType.YES_NO),
)
_IMAGE = (
    Command(
        name="imagine",
        options=(
            _PROMPT,
            *_COMMON,
            Option(name="count", type=OptionType.WHOLE, low=1, high=MAX_COUNT),
            Option(name="negative"),
            Option(name="image", type=OptionType.FILE),
        ),
    ),
)
_VIDEO = (
    Command(
        name="video",
        options=(_PROMPT, *_COMMON, Option(name="duration", type=OptionType.REAL, low=0.5, high=16)),
    ),
    Command(
        name="animate",
        options=(Option(name="image", type=OptionType.FILE, required=True), _PROMPT, *_COMMON),
    ),
)
_BOTH = (
    Command(name="history"),
    Command(name="usage"),
    Command(name="plans"),
    Command(name="settings"),
    Command(name="cancel"),
    Command(name="help"),
    Command(name="link", options=(Option(name="code"),)),
    Command(name="report"),
    Command(name="terms"),
    Command(name="privacy"),
    Command(name="rules", for_admins=True),
)


def commands_of(kind: str) -> tuple[Command, ...]:
    """The commands of a bot of this kind (image, video), the most wanted first."""
    return (*(_IMAGE if kind == "image" else _VIDEO), *_BOTH)

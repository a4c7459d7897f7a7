"""Options in a prompt's text, ``a fox in the snow --ar 16:9 --seed 7``, and what they make of a job's input. Pure.

Telephones turn two hyphens into a dash; ``—ar`` is read like ``--ar``.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from typing import Any

MAX_COUNT = 4  # what one message can show, and its buttons name
SIDE_STEP = 16
MAX_SEED = 2**53
RATIOS = ("1:1", "3:2", "2:3", "4:3", "3:4", "16:9", "9:16", "21:9")

_OPTION = re.compile(r"(?:^|\s)(?:--|—|–)([a-zA-Z][\w-]*)(?:[ =]|$)")

# Every spelling that is understood, and the option that it means.
_NAMES = {
    "ar": "ratio",
    "aspect": "ratio",
    "ratio": "ratio",
    "seed": "seed",
    "n": "count",
    "count": "count",
    "no": "negative",
    "negative": "negative",
    "model": "model",
    "m": "model",
    "spoiler": "spoiler",
    "strength": "strength",
    "duration": "duration",
    "d": "duration",
}


class BadOption(Exception):
    """An option that cannot be used. ``name`` as it was written, ``value``, and ``hint``: what would be right."""

    def __init__(self, name: str, value: str, hint: str) -> None:
        self.name = name
        self.value = value
        self.hint = hint
        super().__init__(f"--{name} {value}: {hint}")


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What a person asks for. None means: as the person's settings, then the bot's defaults say."""

    prompt: str = ""
    ratio: str | None = None
    seed: int | None = None
    count: int | None = None
    negative: str | None = None
    model: str | None = None
    spoiler: bool | None = None
    strength: float | None = None
    duration_s: float | None = None

    def over(self, other: Wish) -> Wish:
        """This wish, completed by another."""
        missing = {
            name: getattr(other, name)
            for name in self.__dataclass_fields__
            if name != "prompt" and getattr(self, name) is None
        }
        return replace(self, prompt=self.prompt or other.prompt, **missing)

    def text(self) -> str:
        """As it would be typed: the form that a person edits."""
        parts = [self.prompt]
        for flag, value in (
            ("ar", self.ratio),
            ("seed", self.seed),
            ("count", self.count if self.count not in (None, 1) else None),
            ("no", self.negative),
            ("model", self.model),
            ("strength", self.strength),
            ("duration", f"{self.duration_s:g}" if self.duration_s is not None else None),
        ):
            if value is not None and value != "":
                parts.append(f"--{flag} {value}")
        if self.spoiler:
            parts.append("--spoiler")
        return " ".join(part for part in parts if part)


def parse(text: str) -> Wish:
    """Read a text with options. Raises BadOption; a spelling that is no option of ours stays in the prompt."""
    found = [match for match in _OPTION.finditer(text) if match[1].lower() in _NAMES]
    prompt = " ".join(text[: found[0].start()].split()) if found else " ".join(text.split())
    values: dict[str, Any] = {}
    rest = []
    for number, match in enumerate(found):
        end = found[number + 1].start() if number + 1 < len(found) else len(text)
        name = _NAMES[match[1].lower()]
        words = text[match.end() : end].strip().split()
        if name == "negative":  # the only option of several words
            values[name] = " ".join(words)
            continue
        if name == "spoiler":
            values[name] = True
            rest += words
            continue
        if not words:
            raise BadOption(match[1], "", _HINTS[name])
        values[name] = words[0]
        rest += words[1:]
    if rest:
        prompt = " ".join([prompt, *rest]).strip()
    return wish_of(prompt, values)


_HINTS = {
    "ratio": "16:9",
    "seed": "7",
    "count": f"1–{MAX_COUNT}",
    "model": "preview-image",
    "strength": "0.1–1",
    "duration": "0.5–16",
}


def wish_of(prompt: str, values: dict[str, Any]) -> Wish:
    """A wish from options as a person typed or chose them. Raises BadOption."""
    return Wish(
        prompt=prompt,
        ratio=_ratio(values["ratio"]) if values.get("ratio") else None,
        seed=_whole("seed", values["seed"], 0, MAX_SEED - 1) if values.get("seed") not in (None, "") else None,
        count=_whole("count", values["count"], 1, MAX_COUNT) if values.get("count") not in (None, "") else None,
        negative=str(values["negative"]).strip() or None if values.get("negative") else None,
        model=str(values["model"]) if values.get("model") else None,
        spoiler=bool(values["spoiler"]) if values.get("spoiler") is not None else None,
        strength=_real("strength", values["strength"], 0.1, 1) if values.get("strength") not in (None, "") else None,
        duration_s=_real("duration", values["duration"], 0.5, 16) if values.get("duration") not in (None, "") else None,
    )


def _ratio(value: Any) -> str:
    match = re.fullmatch(r"(\d{1,4})\s*[:x×/]\s*(\d{1,4})", str(value).strip().lower())
    if match is None or not (1 / 4 <= int(match[1]) / max(1, int(match[2])) <= 4) or "0" in (match[1], match[2]):
        raise BadOption("ar", str(value), _HINTS["ratio"])
    divisor = math.gcd(int(match[1]), int(match[2]))
    return f"{int(match[1]) // divisor}:{int(match[2]) // divisor}"


def _whole(name: str, value: Any, low: int, high: int) -> int:
    text = str(value).strip()
    if not re.fullmatch(r"\d{1,17}", text) or not low <= int(text) <= high:
        raise BadOption(name, text, _HINTS[name])
    return int(text)


def _real(name: str, value: Any, low: float, high: float) -> float:
    text = str(value).strip().rstrip("s").replace(",", ".")
    if not re.fullmatch(r"\d{0,4}(\.\d{1,4})?", text) or text in ("", ".") or not low <= float(text) <= high:
        raise BadOption(name, text, _HINTS[name])
    return float(text)


def size_of(ratio: str, area_px: int, step: int = SIDE_STEP) -> tuple[int, int]:
    """Width and height of about this ratio whose area does not exceed ``area_px``; multiples of ``step``."""
    wide, high = (int(part) for part in ratio.split(":"))
    height = math.sqrt(area_px * high / wide)
    width = area_px / height
    return max(step * 4, int(width) // step * step), max(step * 4, int(height) // step * step)

"""The words of the bots: Fluent files, one per language, and how the numbers of this domain are said.

A message that a language lacks is said in English; a test makes sure that none is missing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from fluent.runtime import FluentBundle, FluentResource

FOLDER = Path(__file__).parent / "locales"
DEFAULT = "en"
LANGUAGES: Mapping[str, str] = {
    "en": "English",
    "de": "Deutsch",
    "es": "Español",
    "pt": "Português",
    "ru": "Русский",
}


class MissingMessage(LookupError):
    """No language has a message of this name, or its words cannot be put together: a mistake in the code."""


@dataclass(frozen=True)
class Words:
    """The messages in one language: ``words("queue-place", place=3)``."""

    language: str
    _bundles: tuple[FluentBundle, ...]

    def __call__(self, name: str, /, **values: Any) -> str:
        """The message in this language, else in English. Raises MissingMessage."""
        for bundle in self._bundles:
            if not bundle.has_message(name):
                continue
            pattern = bundle.get_message(name).value
            if pattern is None:
                continue
            text, errors = bundle.format_pattern(pattern, values)
            if errors:
                raise MissingMessage(f"{name} in {self.language}: {errors[0]}")
            return str(text)
        raise MissingMessage(name)

    def has(self, name: str) -> bool:
        """Whether there is such a message."""
        return any(bundle.has_message(name) for bundle in self._bundles)


class Messages:
    """All languages, read once."""

    def __init__(self, folder: Path = FOLDER) -> None:
        bundles = {}
        for language in LANGUAGES:
            bundle = FluentBundle([language], use_isolating=False)
            bundle.add_resource(FluentResource((folder / f"{language}.ftl").read_text(encoding="utf-8")))
            bundles[language] = bundle
        self._words = {
            language: Words(language, (bundle,) if language == DEFAULT else (bundle, bundles[DEFAULT]))
            for language, bundle in bundles.items()
        }

    def words(self, language: str) -> Words:
        """The messages of a language that ``choose`` has given."""
        return self._words[language]

    def all(self) -> Mapping[str, Words]:
        """Every language."""
        return self._words


def choose(wishes: Iterable[str | None], offered: Iterable[str]) -> str:
    """The first wish (``de``, ``pt-BR``) that is offered, else English, else what is offered first."""
    known = tuple(offered)
    for wish in wishes:
        language = (wish or "").replace("_", "-").split("-")[0].lower()
        if language in known:
            return language
    return DEFAULT if DEFAULT in known or not known else known[0]


def number(value: float, words: Words) -> str:
    """A number with at most three places, as the language writes it."""
    text = f"{value:.3f}".rstrip("0").rstrip(".") if value != int(value) else str(int(value))
    return text if words.language == "en" else text.replace(".", ",")


def seconds(value: float, words: Words) -> str:
    """A span of time in its largest fitting unit."""
    if value < 10:
        return words("span-seconds", n=number(round(value, 1), words))
    if value < 90:
        return words("span-seconds", n=str(round(value)))
    if value < 5400:
        return words("span-minutes", n=str(round(value / 60)))
    return words("span-hours", n=number(round(value / 3600, 1), words))


def clock(until: datetime, now: datetime) -> str:
    """How long until a moment, as h:mm, rounded up: it is never over before it says so."""
    minutes = max(0, -int(-(until - now).total_seconds() // 60))
    return f"{minutes // 60}:{minutes % 60:02d}"

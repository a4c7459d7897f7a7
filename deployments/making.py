"""What the makers of engines have in common: options that are known, and secrets and folders that they name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tessera import cards
from tessera.cards import Card
from tessera.config import ConfigError, WorkerConfig


def known_options(worker: WorkerConfig, known: Iterable[str]) -> Mapping[str, Any]:
    """The worker's options. Raises ConfigError for one that its engine does not have."""
    unknown = sorted(set(worker.options) - {"niceness", *known})
    if unknown:
        has = ", ".join(sorted({"niceness", *known}))
        raise ConfigError(f"worker '{worker.name}': {worker.engine} has no option '{unknown[0]}'; it has {has}")
    return worker.options


def cards_of(worker: WorkerConfig, home: Path) -> list[Card]:
    """The cards of the models that a worker serves. Raises ConfigError where one is missing or another engine's."""
    there, problems = cards.installed(home)
    beside = f" Beside that: {' '.join(problems)}" if problems else ""
    for model in worker.models:
        if model not in there or there[model].engine != worker.engine:
            of_engine = ", ".join(name for name, card in there.items() if card.engine == worker.engine)
            raise ConfigError(
                f"worker '{worker.name}': there is no card of a model '{model}' for {worker.engine}; write "
                f"{home / cards.OPERATORS_FOLDER / model}.toml (docs/engines.md), or use one of: {of_engine}.{beside}"
            )
    return [there[model] for model in worker.models]


def run_of(card: Card, known: Iterable[str]) -> Mapping[str, Any]:
    """The card's ``[run]``. Raises ConfigError for an entry that its engine does not have."""
    unknown = sorted(set(card.run) - set(known))
    if unknown:
        raise ConfigError(f"the card of {card.id}: run has no entry '{unknown[0]}'; it has {', '.join(sorted(known))}")
    return card.run


def source_of(card: Card) -> str:
    """Where the files of a model can be had, in words."""
    return " and ".join(dict.fromkeys(file.source for file in card.files if file.source))


def secret(worker: WorkerConfig, option: str) -> str:
    """The password in the file that an option names; empty where none is named. Raises ConfigError."""
    named = worker.options.get(option)
    if named is None:
        return ""
    try:
        return Path(str(named)).expanduser().read_text(encoding="utf-8").strip()
    except OSError as error:
        raise ConfigError(f"worker '{worker.name}': {option} cannot be read ({error.strerror}: {named})") from error


def folder_of(worker: WorkerConfig, home: Path, name: str) -> Path:
    """The folder of the worker's models: its option ``folder``, else ``models/<name>`` of the home."""
    named = worker.options.get("folder")
    return home / "models" / name if named is None else Path(str(named)).expanduser()

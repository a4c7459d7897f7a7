"""The engine of a worker, from its entry in cluster.toml and the cards of its models.

``options``: ``folder`` of the models (``models/speech`` of the home unless said); ``device`` (cpu, cuda); ``threads``
of the CPU.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from deployments.making import cards_of, folder_of, known_options, run_of, source_of
from deployments.speech.engine import PROVIDERS, SpeechEngine, SpeechModel
from tessera.config import ConfigError, WorkerConfig, find_home

KNOWN = ("folder", "device", "threads")
RUN = ("network", "voices")


def make_speech(worker: WorkerConfig, environ: Mapping[str, str] | None = None) -> SpeechEngine:
    """Raises ConfigError for an entry that cannot work. Files that are missing are told by the probe and by runs."""
    options = known_options(worker, KNOWN)
    device = str(options.get("device", "cpu"))
    if device not in PROVIDERS:
        raise ConfigError(f"worker '{worker.name}': device is one of {', '.join(PROVIDERS)}, not {device!r}")
    home = find_home(os.environ if environ is None else environ, Path.cwd())
    folder = folder_of(worker, home, "speech")
    models = []
    for card in (found := cards_of(worker, home)):
        run = run_of(card, RUN)
        if ("network" in run) != ("voices" in run):
            raise ConfigError(f"the card of {card.id}: run needs both 'network' and 'voices', or neither")
        models.append(
            SpeechModel(
                id=card.id,
                network=folder / str(run["network"]) if "network" in run else None,
                voices=folder / str(run["voices"]) if "voices" in run else None,
                source=source_of(card),
                load_s=card.entry.load_s,
            )
        )
    return SpeechEngine(
        models,
        slots=worker.slots,
        device=device,
        threads=int(options.get("threads", 0)),
        loads_itself=frozenset(card.id for card in found if card.entry.vram_mib == 0),
    )

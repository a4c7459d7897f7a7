"""The engine of a worker, from its entry in cluster.toml and the cards of its models.

``options``: ``folder`` of the models (``models/whisper`` of the home unless said); ``device`` (auto, cpu, cuda);
``compute_type`` (int8, int8_float16, float16 …; found out unless said); ``threads`` of the CPU.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from deployments.making import cards_of, folder_of, known_options, run_of, source_of
from deployments.whisper.engine import WhisperEngine, WhisperModel
from tessera.config import ConfigError, WorkerConfig, find_home

KNOWN = ("folder", "device", "compute_type", "threads")
DEVICES = ("auto", "cpu", "cuda")
RUN = ("folder", "options")


def make_whisper(worker: WorkerConfig, environ: Mapping[str, str] | None = None) -> WhisperEngine:
    """Raises ConfigError for an entry that cannot work. Files that are missing are told by the probe and by runs."""
    options = known_options(worker, KNOWN)
    device = str(options.get("device", "auto"))
    if device not in DEVICES:
        raise ConfigError(f"worker '{worker.name}': device is one of {', '.join(DEVICES)}, not {device!r}")
    if device == "cuda" and worker.num_gpus == 0:
        raise ConfigError(
            f"worker '{worker.name}': set num_gpus, 0.2 for example; Ray hides GPUs from a worker without"
        )
    home = find_home(os.environ if environ is None else environ, Path.cwd())
    folder = folder_of(worker, home, "whisper")
    found = cards_of(worker, home)
    return WhisperEngine(
        [
            WhisperModel(
                id=card.id,
                folder=folder / str(run_of(card, RUN).get("folder", card.id)),
                source=source_of(card),
                load_s=card.entry.load_s,
                options=dict(card.run.get("options", {})),
            )
            for card in found
        ],
        slots=worker.slots,
        device=device,
        compute_type=options.get("compute_type"),
        threads=int(options.get("threads", 0)),
        loads_itself=frozenset(card.id for card in found if card.entry.vram_mib == 0),
    )

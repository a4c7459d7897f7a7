"""Which engine class an engine's name in cluster.toml stands for. Imported lazily: a worker loads only its own."""

from __future__ import annotations

from pathlib import Path

from tessera.config import ConfigError, WorkerConfig
from tessera.engine import Engine

KNOWN = "preview, comfyui, koboldcpp, whisper, speech or noop"


def make_engine(worker: WorkerConfig) -> Engine:
    """The engine of a worker, made from its entry in cluster.toml. Raises ConfigError for an unknown name."""
    match worker.engine:
        case "preview":
            from deployments.preview.engine import PreviewEngine

            return PreviewEngine(models=worker.models, slots=worker.slots)
        case "noop":
            from deployments.noop import NoopDevice, NoopEngine
            from deployments.noop_backend import NoopBackend

            options = worker.options
            return NoopEngine(
                worker.models,
                slots=worker.slots,
                device=NoopDevice(int(options["vram_mib"]) if "vram_mib" in options else None),
                load_s=float(options.get("load_s", 0.2)),
                unload_s=float(options.get("unload_s", 0.0)),
                batch_max=int(options.get("batch_max", 1)),
                backend=NoopBackend(Path(options["backend"])) if "backend" in options else None,
            )
        case "comfyui":
            from deployments.comfyui.making import make_comfyui

            return make_comfyui(worker)
        case "koboldcpp":
            from deployments.koboldcpp.making import make_koboldcpp

            return make_koboldcpp(worker)
        case "whisper":
            from deployments.whisper.making import make_whisper

            return make_whisper(worker)
        case "speech":
            from deployments.speech.making import make_speech

            return make_speech(worker)
        case unknown:
            raise ConfigError(f"worker '{worker.name}' uses engine '{unknown}', which does not exist: use {KNOWN}")

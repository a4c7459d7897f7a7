"""Which engine class an engine's name in cluster.toml stands for. Imported lazily: a worker loads only its own."""

from __future__ import annotations

from tessera.config import ConfigError, WorkerConfig
from tessera.engine import Engine


def make_engine(worker: WorkerConfig) -> Engine:
    """The engine of a worker, made from its entry in cluster.toml. Raises ConfigError for an unknown name."""
    match worker.engine:
        case "preview":
            from deployments.preview.engine import PreviewEngine

            return PreviewEngine(models=worker.models, slots=worker.slots)
        case "noop":
            from deployments.noop import NoopEngine

            return NoopEngine(slots=worker.slots)
        case unknown:
            raise ConfigError(
                f"worker '{worker.name}' uses engine '{unknown}', which does not exist: use preview or noop"
            )

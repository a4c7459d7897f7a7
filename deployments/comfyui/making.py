"""The engine of a worker, from its entry in cluster.toml.

``options``: ``url`` (http://127.0.0.1:8188 unless said); ``command``, to supervise a server of one's own, with
``folder`` (where it is run), ``env``, ``start_s``, ``stop_s`` and ``log``; and any of the times of ``Patience``.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deployments.comfyui.client import BadAnswer, ComfyClient, ServerAway
from deployments.comfyui.engine import ComfyEngine
from deployments.comfyui.run import Patience
from deployments.comfyui.workflows import GraphError, load_workflows
from deployments.supervised import Manners, SupervisedProcess
from tessera import manifests
from tessera.config import ConfigError, WorkerConfig, find_home
from tessera.errors import ModelMissing

LOADING_S = 300.0  # while it loads a large model it answers nothing, and must not be ended for that
DEFAULT_URL = "http://127.0.0.1:8188"
TIMES = {field.name for field in dataclasses.fields(Patience)}
SUPERVISION = ("command", "folder", "env", "start_s", "stop_s", "log")
KNOWN = ("url", "niceness", *SUPERVISION, *sorted(TIMES))


def make_comfyui(worker: WorkerConfig, environ: Mapping[str, str] | None = None) -> ComfyEngine:
    """Raises ConfigError for an entry that cannot work: an unknown option, a model without a workflow, two slots."""
    options = dict(worker.options)
    unknown = sorted(set(options) - set(KNOWN))
    if unknown:
        raise ConfigError(f"worker '{worker.name}': comfyui has no option '{unknown[0]}'; it has {', '.join(KNOWN)}")
    if worker.slots != 1:
        raise ConfigError(f"worker '{worker.name}': ComfyUI runs one prompt at a time; set slots = 1")
    home = find_home(os.environ if environ is None else environ, Path.cwd())
    found, problems = manifests.installed(home)
    try:
        workflows = load_workflows(found, worker.models)
        patience = Patience(**{name: type(getattr(Patience, name))(options[name]) for name in TIMES & set(options)})
    except (GraphError, ModelMissing, TypeError, ValueError) as error:
        beside = f" Beside that: {' '.join(problems)}" if problems else ""
        raise ConfigError(f"worker '{worker.name}': {error}{beside}") from error
    client = ComfyClient(str(options.get("url", DEFAULT_URL)))
    supervisor = _supervisor(worker.name, options, client, home) if "command" in options else None
    return ComfyEngine(client.url, workflows, patience=patience, supervisor=supervisor, client=client)


def _supervisor(name: str, options: Mapping[str, Any], client: ComfyClient, home: Path) -> SupervisedProcess:
    async def healthy() -> bool:
        try:
            await client.stats()
        except (ServerAway, BadAnswer):
            return False
        return True

    manners = Manners(
        start_s=float(options.get("start_s", Manners.start_s)),
        stop_s=float(options.get("stop_s", Manners.stop_s)),
        sick_s=LOADING_S,
    )
    folder = options.get("folder")
    return SupervisedProcess(
        options["command"],
        name=name,
        log_file=Path(options.get("log") or home / "logs" / f"{name}-server.log").expanduser(),
        healthy=healthy,
        cwd=None if folder is None else Path(folder).expanduser(),
        env={key: str(value) for key, value in dict(options.get("env", {})).items()},
        manners=manners,
    )

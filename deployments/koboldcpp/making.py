"""The engine of a worker, from its entry in cluster.toml and the cards of its models.

``options``: ``url`` (http://127.0.0.1:5001 unless said); ``password_file`` and ``admin_password_file``; ``gen_limit``
where the server was started with ``--genlimit``; ``load_timeout_s``, ``queue_s``, ``prompt_s``, ``token_s``;
``command``, to supervise a server of one's own, with ``cwd``, ``env``, ``start_s``, ``stop_s`` and ``log``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deployments.koboldcpp.client import KoboldClient
from deployments.koboldcpp.engine import KoboldEngine, Timeouts
from deployments.koboldcpp.switching import KoboldModel
from deployments.koboldcpp.templates import templates
from deployments.making import cards_of, known_options, run_of, secret
from deployments.supervised import Manners, SupervisedProcess
from tessera.cards import Card
from tessera.config import ConfigError, WorkerConfig, find_home
from tessera.errors import EngineError

DEFAULT_URL = "http://127.0.0.1:5001"
SUPERVISION = ("command", "cwd", "env", "start_s", "stop_s", "log")
TIMES = ("queue_s", "prompt_s", "token_s")
KNOWN = ("url", "password_file", "admin_password_file", "gen_limit", "load_timeout_s", *TIMES, *SUPERVISION)
RUN = ("template", "file", "name", "sampling")


def make_koboldcpp(worker: WorkerConfig, environ: Mapping[str, str] | None = None) -> KoboldEngine:
    """Raises ConfigError for an entry that cannot work: an unknown option or template, a missing card, two slots."""
    options = known_options(worker, KNOWN)
    if worker.slots != 1:
        raise ConfigError(f"worker '{worker.name}': KoboldCPP runs one request at a time; set slots = 1")
    home = find_home(os.environ if environ is None else environ, Path.cwd())
    client = KoboldClient(
        str(options.get("url", DEFAULT_URL)),
        password=secret(worker, "password_file"),
        admin_password=secret(worker, "admin_password_file"),
    )
    try:
        engine = KoboldEngine(
            client,
            [_model(card) for card in cards_of(worker, home)],
            timeouts=Timeouts(**{name: float(options[name]) for name in TIMES if name in options}),
            load_timeout_s=float(options.get("load_timeout_s", 600.0)),
            gen_limit=int(options["gen_limit"]) if "gen_limit" in options else None,
        )
    except (TypeError, ValueError) as error:
        raise ConfigError(f"worker '{worker.name}': {error}") from error
    if "command" in options:
        engine.supervise(_supervisor(worker.name, options, client, engine, home))
    return engine


def _model(card: Card) -> KoboldModel:
    run = run_of(card, RUN)
    template = templates().get(str(run.get("template", "chatml")))
    if template is None:
        raise ConfigError(
            f"the card of {card.id}: there is no template {run['template']!r}: use {', '.join(templates())}"
        )
    return KoboldModel(
        id=card.id,
        template=template,
        file=run.get("file"),
        name=run.get("name"),
        sampling=dict(run.get("sampling", {})),
        load_s=card.entry.load_s,
    )


def _supervisor(
    name: str, options: Mapping[str, Any], client: KoboldClient, engine: KoboldEngine, home: Path
) -> SupervisedProcess:
    async def healthy() -> bool:
        if engine.switching:  # its port is closed while a model is loaded
            return True
        try:
            await client.version()
        except EngineError:
            return False
        return True

    cwd = options.get("cwd")
    return SupervisedProcess(
        options["command"],
        name=name,
        log_file=Path(options.get("log") or home / "logs" / f"{name}-server.log").expanduser(),
        healthy=healthy,
        cwd=None if cwd is None else Path(cwd).expanduser(),
        env={key: str(value) for key, value in dict(options.get("env", {})).items()},
        manners=Manners(
            start_s=float(options.get("start_s", Manners.start_s)), stop_s=float(options.get("stop_s", Manners.stop_s))
        ),
    )

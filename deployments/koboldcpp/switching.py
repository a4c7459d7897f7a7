"""Which model a KoboldCPP server has loaded, and how it gets another one.

The server can be told to load another file when it was started with ``--admin --admindir FOLDER``. It says yes before
it acts, then cuts what runs, ends its process and comes back as a new one: whether that has happened is told by its
uptime. A load that fails brings the first model back instead: so what came back is compared by name, always.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from deployments.koboldcpp.client import KoboldClient, Perf, Unreachable
from deployments.koboldcpp.templates import Template
from tessera.errors import Busy, EngineError, ModelMissing

UNLOAD = "unload_model"
POLL_S = 0.2
OPTIONS_EVERY_S = 30.0
IDLE_TIMEOUT_S = 60.0  # so long another client's run is waited for before it would be cut
# Two uptimes that differ by less than this from the time between them are of one process.
UPTIME_SLACK_S = 0.05


@dataclass(frozen=True, kw_only=True)
class KoboldModel:
    """A model that a worker serves.

    ``file``: the ``.kcpps`` or ``.gguf`` in the admin folder that loads it; None: it is what the server was started
    with. ``name``: what the server calls it once it is loaded, the name of the model's file without its ending; it is
    needed for a ``.kcpps``, which names another file. ``sampling``: settings of the server's own
    (``top_k``, ``min_p``, ``rep_pen`` …) that suit this model. ``load_s``: how long loading it takes, as far as known.
    """

    id: str
    template: Template
    file: str | None = None
    name: str | None = None
    sampling: Mapping[str, Any] = field(default_factory=dict)
    load_s: float = 30.0


class Switcher:
    """Loads and unloads the models of one server. One call at a time; the caller keeps runs away meanwhile."""

    def __init__(self, client: KoboldClient, models: Sequence[KoboldModel], *, load_timeout_s: float) -> None:
        self._client = client
        self._models = tuple(models)
        self._load_timeout_s = load_timeout_s
        self._names = {model.id: name for model in models if (name := model.name or called(model.file))}
        for model in models:
            if model.file is not None and model.id not in self._names:
                raise ValueError(f"{model.id} is loaded by {model.file}: what KoboldCPP calls it then must be named")
        self._took_s: dict[str, float] = {}
        self._options: frozenset[str] = frozenset()
        self._options_until = 0.0

    async def loaded(self) -> str | None:
        """The server's name of what is loaded, None for nothing. Raises EngineError."""
        return await self._client.model()

    async def resident(self) -> tuple[str, ...]:
        """Which of our models that is; the one of a server that cannot switch is whatever it was started with."""
        loaded = await self._client.model()
        if loaded is None:
            return ()
        known = tuple(model.id for model in self._models if self._names.get(model.id) == loaded)
        if known:
            return known
        fixed = [model for model in self._models if model.file is None and model.name is None]
        return (fixed[0].id,) if len(fixed) == 1 and len(self._models) == 1 else ()

    async def available(self) -> tuple[str, ...]:
        """Which of our models are loaded or could be. Asked anew now and then: a worker looks every two seconds."""
        if self._options_until < time.monotonic():
            self._options = frozenset(await self._client.options())
            self._options_until = time.monotonic() + OPTIONS_EVERY_S
        resident = await self.resident()
        return tuple(model.id for model in self._models if model.id in resident or model.file in self._options)

    def switch_s(self) -> dict[str, float]:
        """The seconds that loading each model took last time, or is said to take."""
        return {model.id: self._took_s.get(model.id, model.load_s) for model in self._models}

    async def check_there(self, model: KoboldModel) -> None:
        """Raises ModelMissing where the server cannot load this model, with what has to be done."""
        if model.file is None:
            loaded = await self._client.model()
            if loaded is None:
                raise EngineError(
                    f"KoboldCPP has no model loaded, and {model.id} names no file. The tokens are returned."
                )
            raise ModelMissing(
                f"KoboldCPP has {loaded} loaded, not {model.id}, and no file is named that would load it. "
                "The tokens are returned; choose another model."
            )
        there = await self._client.options()
        if model.file not in there:
            what = (
                f"it has {', '.join(there[:20])}" if there else "it shows none (is it started with --admin --admindir?)"
            )
            raise ModelMissing(
                f"KoboldCPP does not find {model.file}, which loads {model.id}, in its admin folder; {what}. "
                "The tokens are returned; choose another model."
            )

    async def load(self, model: KoboldModel) -> None:
        """Load a model; at once when it is loaded already. Raises ModelMissing, Busy, or EngineError."""
        if model.id in await self.resident():
            return
        await self.check_there(model)
        assert model.file is not None
        before = await self._at_rest()
        began = time.monotonic()
        await self._ask(model.file)
        name = await self._back(before, began)
        if name is None:
            raise EngineError(
                f"KoboldCPP came back without a model instead of {model.id}: its log says why, most often memory. "
                "The tokens are returned."
            )
        if name != self._names[model.id]:
            raise EngineError(
                f"KoboldCPP came back with {name} instead of {self._names[model.id]} for {model.id}: its log says why, "
                "most often memory. The tokens are returned."
            )
        self._took_s[model.id] = time.monotonic() - began

    async def unload(self) -> None:
        """Unload whatever is loaded. Raises Busy, or EngineError where the server cannot do that."""
        if await self._client.model() is None:
            return
        before = await self._at_rest()
        began = time.monotonic()
        await self._ask(UNLOAD)
        if (name := await self._back(before, began)) is not None:
            raise EngineError(f"KoboldCPP came back with {name} loaded. Its memory was not freed.")

    async def _at_rest(self) -> Perf:
        """Wait until the server works for nobody: a switch cuts what runs, other people's runs too. Raises Busy."""
        deadline = time.monotonic() + IDLE_TIMEOUT_S
        while True:
            perf = await self._client.perf()
            if perf.idle and perf.queue == 0:
                return perf
            if time.monotonic() > deadline:
                raise Busy("KoboldCPP works for somebody else. Nothing was unloaded; it is tried again.")
            await asyncio.sleep(POLL_S)

    async def _ask(self, file: str) -> None:
        if not await self._client.reload(file):
            raise EngineError(
                "KoboldCPP does not take another model: start it with --admin --admindir FOLDER, and set "
                "admin_password where it has one. Nothing was unloaded."
            )

    async def _back(self, before: Perf, asked_at: float) -> str | None:
        """Wait for the new process and tell what it has loaded. Raises EngineError after the load's own timeout."""
        while True:
            waited = time.monotonic() - asked_at
            with contextlib.suppress(Unreachable):  # the port is closed while a model is loaded
                perf = await self._client.perf()
                if perf.uptime_s < before.uptime_s + waited - UPTIME_SLACK_S:
                    return await self._client.model()
            if waited > self._load_timeout_s:
                raise EngineError(
                    f"KoboldCPP did not come back within {self._load_timeout_s:g} s of being asked for another model. "
                    "The tokens are returned; its log says why."
                )
            await asyncio.sleep(POLL_S)


def called(file: str | None) -> str | None:
    """What the server calls a model file: its name without the ending and unusual characters. None for a ``.kcpps``."""
    if file is None or not file.lower().endswith(".gguf"):
        return None
    return re.sub(r"[^\w.\-]", "", file[: -len(".gguf")])

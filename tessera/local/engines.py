"""Looks at the servers and libraries that the workers of a node use: whether they are there, the right ones, and work.

An engine is asked as its worker would ask it. A server that a worker supervises is only looked at, never started: its
worker does that.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol, runtime_checkable

from deployments.engines import make_engine
from tessera.config import ClusterConfig, ConfigError, WorkerConfig
from tessera.engine import Engine
from tessera.errors import Busy, TesseraError

WITHOUT_SERVER = frozenset({"preview", "noop"})
PROBE_S, TEST_S = 30.0, 60.0


class Look(StrEnum):
    """How an engine was found."""

    WORKS = "works"
    LACKS = "lacks"  # it works, and something that a model needs is not there
    FAILS = "fails"


@dataclass(frozen=True, kw_only=True)
class EngineLook:
    """One worker's engine. ``fix`` is empty where all is well."""

    worker: str
    look: Look
    detail: str
    fix: str = ""


@runtime_checkable
class Testable(Protocol):
    """An engine that can run a tiny job without loading anything."""

    async def self_test(self) -> str:
        """What it showed, in words. Raises TesseraError."""
        ...


def look_at_engines(cluster: ClusterConfig, node: str) -> list[EngineLook]:
    """All enabled workers of a node whose engine has a server or files of its own. Up to a minute and a half each."""
    chosen = [w for w in cluster.enabled_workers() if w.node == node and w.engine not in WITHOUT_SERVER]
    return [asyncio.run(_look(worker)) for worker in chosen]


async def _look(worker: WorkerConfig) -> EngineLook:
    guide = "docs/engines.md tells how it is installed"
    unsupervised = {name: value for name, value in worker.options.items() if name != "command"}
    try:
        engine = make_engine(worker.model_copy(update={"options": unsupervised}))
    except ConfigError as error:
        return EngineLook(worker=worker.name, look=Look.FAILS, detail=str(error), fix="correct the cluster file")
    except TesseraError as error:
        return EngineLook(worker=worker.name, look=Look.FAILS, detail=error.message, fix=guide)
    try:
        return await _asked(worker, engine, guide)
    except (TesseraError, OSError) as error:  # a TimeoutError is an OSError
        why = error.message if isinstance(error, TesseraError) else f"no answer within {PROBE_S:.0f} s"
        return EngineLook(worker=worker.name, look=Look.FAILS, detail=why, fix=guide)
    finally:
        close = getattr(engine, "close", None)
        if close is not None:
            with suppress(TesseraError, OSError):
                await _awaited(close())


async def _asked(worker: WorkerConfig, engine: Engine, guide: str) -> EngineLook:
    async with asyncio.timeout(PROBE_S):
        health = await engine.probe()
        capacity, models = await engine.capacity(), await engine.models()
    if not health.ok:
        fix = "'tessera logs' with the worker's name shows more" if "command" in worker.options else guide
        return EngineLook(worker=worker.name, look=Look.FAILS, detail=health.message, fix=fix)
    missing = [model for model in worker.models if model not in models.available]
    told = [health.version, f"{len(models.available)} of {len(worker.models)} models there"]
    if capacity.free_mib is not None:
        told.append(f"{capacity.free_mib} MiB of VRAM free")
    if isinstance(engine, Testable):
        try:
            async with asyncio.timeout(TEST_S):
                told.append(await engine.self_test())
        except Busy:
            told.append("busy, so no test job was run")
        except TimeoutError:
            detail = f"{'; '.join(told)}; a tiny job did not end within {TEST_S:.0f} s"
            return EngineLook(worker=worker.name, look=Look.FAILS, detail=detail, fix="restart the server")
    detail = "; ".join(told)
    if missing:
        lacks = f"{detail}. Missing: {', '.join(missing)}{f' ({health.message})' if health.message else ''}"
        fix = f"'tessera workflows check {missing[0]}' names the files" if worker.engine == "comfyui" else guide
        return EngineLook(worker=worker.name, look=Look.LACKS, detail=lacks, fix=fix)
    return EngineLook(worker=worker.name, look=Look.WORKS, detail=detail)


async def _awaited(value: Any) -> None:
    if isinstance(value, Awaitable):
        await value

"""Whether a worker's engine works: its backend may be gone, hung or another program while the replica itself is fine.

The worker tells the scheduler with its heartbeats, which gives it no job meanwhile: a queue whose only backend is away
waits in its places, instead of being started and put back again and again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from tessera.engine import Engine
from tessera.errors import EngineError

log = structlog.get_logger(__name__)

EVERY_S = 5.0
TIMEOUT_S = 10.0  # a ComfyUI that loads a model answers after many seconds; its engine knows that it works
BAD_PROBES = 2  # in a row, before it counts as away: one may have met a restart


class EngineHealth:
    """Probes one engine while ``watch`` runs. ``away`` says what is wrong, for the operator; "" while it works."""

    def __init__(self, engine: Engine, on_change: Callable[[], None]) -> None:
        self.away = ""
        self._engine = engine
        self._on_change = on_change
        self._bad = 0

    async def watch(self) -> None:
        """Probe until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(EVERY_S)

    async def look(self) -> None:
        """One probe."""
        try:
            async with asyncio.timeout(TIMEOUT_S):
                health = await self._engine.probe()
            wrong = "" if health.ok else health.message or "its engine does not work"
        except TimeoutError:
            wrong = f"its engine did not answer a probe for {TIMEOUT_S:.0f} s"
        except (EngineError, OSError) as error:
            wrong = str(error) or type(error).__name__
        self._bad = self._bad + 1 if wrong else 0
        away = wrong if self._bad >= BAD_PROBES else ""
        if bool(away) != bool(self.away):
            log.warning("engine_away" if away else "engine_back", why=away)
            self.away = away
            self._on_change()
        self.away = away

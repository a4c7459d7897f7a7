"""How much waits and runs, asked of Postgres at most once a second however many want to know."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from tessera.api.services import Services
from tessera.store.database import Row

CACHE_S = 1.0
# The route is open to everybody, and counting reads each waiting job: it must never take more than a tenth of one
# connection's time, however long the queue is.
REST = 9


@dataclass(frozen=True, kw_only=True, slots=True)
class Depth:
    """The counts by kind and tier, and the pauses, of one moment."""

    as_of: datetime
    lines: Sequence[Row]
    pauses: Sequence[Row]


class DepthGauge:
    """One per application."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._until = 0.0
        self._known: Depth | None = None
        self._asking = asyncio.Lock()

    async def get(self) -> Depth:
        """The last count, a second old or nine times as long as it took. Raises Unavailable."""
        async with self._asking:
            if self._known is None or time.monotonic() >= self._until:
                began = time.monotonic()
                self._known = None
                as_of = self._services.clock()
                lines = await self._services.db.rows("queue_depth")
                pauses = await self._services.db.rows("live_pauses")
                self._known = Depth(as_of=as_of, lines=lines, pauses=pauses)
                ended = time.monotonic()
                self._until = ended + max(CACHE_S, REST * (ended - began))
            return self._known

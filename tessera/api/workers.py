"""What the scheduler says of its workers, asked at most once a second however many want to know."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

import structlog

from tessera.ports import SchedulerPort, WorkerStatus

log = structlog.get_logger(__name__)

WORKERS_TIMEOUT_S = 0.8
WORKERS_CACHE_S = 1.0  # open to everybody, so it must not become a way to keep the scheduler busy


class Workers:
    """What the scheduler last said of its workers; None while it does not answer."""

    def __init__(self, scheduler: SchedulerPort) -> None:
        self._scheduler = scheduler
        self._until = 0.0
        self._known: Sequence[WorkerStatus] | None = None
        self._asking = asyncio.Lock()

    async def get(self) -> Sequence[WorkerStatus] | None:
        """At most a second old."""
        async with self._asking:
            if time.monotonic() >= self._until:
                try:
                    async with asyncio.timeout(WORKERS_TIMEOUT_S):
                        self._known = await self._scheduler.workers()
                except Exception as error:  # noqa: BLE001 (whatever it is: the workers are not known)
                    log.info("workers_unknown", error=type(error).__name__)
                    self._known = None
                self._until = time.monotonic() + WORKERS_CACHE_S
            return self._known

"""Watermarks: what stops new work before something is full, so that what was accepted can still be finished.

Past one of them submissions and uploads answer 503, readers go on, and ``/readyz`` says which. Looked at every few
seconds, never per request.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field

import structlog

from tessera.artifacts import ArtifactStore
from tessera.config import IngressConfig
from tessera.errors import TesseraError, Unavailable
from tessera.store.database import Database

log = structlog.get_logger(__name__)

EVERY_S = 5.0
RETRY_AFTER_S = 30.0


@dataclass
class Watermarks:
    """The state of one ingress replica. ``start`` and ``close`` it once; before the first look nothing is refused."""

    limits: IngressConfig
    db: Database
    artifacts: ArtifactStore
    over: dict[str, str] = field(default_factory=dict)  # name → what to tell, for those that are passed
    _task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to look."""
        self._task = asyncio.create_task(self._run(), name="watermarks")

    async def close(self) -> None:
        """Stop looking."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    def check(self) -> None:
        """Raises Unavailable past a watermark. Nothing was accepted then."""
        if self.over:
            raise Unavailable(next(iter(self.over.values())), retry_after_s=RETRY_AFTER_S)

    async def look(self) -> None:
        """Look at each once. One that cannot be read stays as it was."""
        with contextlib.suppress(TesseraError):
            row = await self.db.row("backlog")
            waiting = int(row["waiting"]) if row is not None else 0
            self._set(
                "backlog",
                waiting >= self.limits.max_backlog,
                f"{waiting:,} jobs wait already, as many as this service holds. Nothing was accepted or charged;"
                " try again later.",
            )
        free = await asyncio.to_thread(self.artifacts.free_mib)
        self._set(
            "disk",
            free is not None and free < self.limits.min_free_disk_mib,
            "The store for results is nearly full. Nothing was accepted or charged; try again later."
            " The operator finds what to do in docs/troubleshooting.md.",
        )

    def _set(self, name: str, passed: bool, words: str) -> None:
        if passed and name not in self.over:
            log.error("watermark_passed", watermark=name)
        if not passed and name in self.over:
            log.info("watermark_left", watermark=name)
        if passed:
            self.over[name] = words
        else:
            self.over.pop(name, None)

    async def _run(self) -> None:
        while True:
            try:
                await self.look()
            except Exception:
                log.exception("watermarks_failed")
            await asyncio.sleep(EVERY_S)

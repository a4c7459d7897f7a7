"""Ephemeral events on their way to subscribers: progress, previews and text, never through Postgres.

It keeps what a late reader of a running job needs (the last progress, the text so far) and fans everything out to the
ingress replicas. A subscriber that falls behind loses old ephemeral events, never slows the others.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from uuid import UUID

from tessera.jobs import EventType
from tessera.ports import LiveEvent

HEARTBEAT_S = 5.0
MAX_BEHIND = 2000  # batches that one subscriber may lie behind
MAX_KEPT_JOBS = 4096
MAX_TEXT_CHARS = 200_000


class Notifier:
    """Fans out the ephemeral events of all running jobs."""

    def __init__(self) -> None:
        self._subscribers: set[asyncio.Queue[Sequence[LiveEvent]]] = set()
        self._progress: OrderedDict[UUID, LiveEvent] = OrderedDict()
        self._text: OrderedDict[UUID, LiveEvent] = OrderedDict()

    def publish(self, events: Sequence[LiveEvent]) -> None:
        """Hand events to all subscribers and remember what a late reader needs."""
        for event in events:
            if event.type is EventType.PROGRESS:
                self._keep(self._progress, event)
            elif event.type is EventType.CHUNK:
                self._append(event)
        for queue in self._subscribers:
            if queue.qsize() >= MAX_BEHIND:
                queue.get_nowait()
            queue.put_nowait(events)

    def forget(self, job_id: UUID) -> None:
        """The run is over: its text is durable or void."""
        self._progress.pop(job_id, None)
        self._text.pop(job_id, None)

    def so_far(self, job_id: UUID) -> list[LiveEvent]:
        """The last progress of a running job, and its text so far as one chunk."""
        return [kept[job_id] for kept in (self._progress, self._text) if job_id in kept]

    async def subscribe(self) -> AsyncIterator[Sequence[LiveEvent]]:
        """All events from now on, in batches, an empty one at least every 5 s."""
        queue: asyncio.Queue[Sequence[LiveEvent]] = asyncio.Queue()
        self._subscribers.add(queue)
        try:
            yield ()
            while True:
                try:
                    async with asyncio.timeout(HEARTBEAT_S):
                        batch = list(await queue.get())
                except TimeoutError:
                    yield ()
                    continue
                while not queue.empty():
                    batch += queue.get_nowait()
                yield batch
        finally:
            self._subscribers.discard(queue)

    def _append(self, event: LiveEvent) -> None:
        before = self._text.get(event.job_id)
        text = str(event.data["text"])
        if before is not None and before.attempt == event.attempt:
            text = (str(before.data["text"]) + text)[:MAX_TEXT_CHARS]
        self._keep(self._text, replace(event, data={"offset": 0, "text": text}))

    def _keep(self, kept: OrderedDict[UUID, LiveEvent], event: LiveEvent) -> None:
        kept[event.job_id] = event
        kept.move_to_end(event.job_id)
        if len(kept) > MAX_KEPT_JOBS:
            kept.popitem(last=False)

"""A SchedulerPort without a scheduler: the test says what happens, and whether it answers at all."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from tessera.errors import Unavailable
from tessera.jobs import EventType
from tessera.ports import Explanation, LiveEvent, Place, WorkerStatus


class FakeScheduler:
    """``down`` makes every call raise Unavailable, and ends subscriptions."""

    def __init__(self) -> None:
        self.down = False
        self.known_places: dict[UUID, Place] = {}
        self.known_so_far: dict[UUID, list[LiveEvent]] = {}
        self.known_workers: list[WorkerStatus] = []
        self.known_explanations: dict[UUID, Explanation] = {}
        self.asked_so_far = 0
        self.asked_places = 0
        self.asked_explain = 0
        self.subscribed = asyncio.Event()
        self._readers: list[asyncio.Queue[Sequence[LiveEvent]]] = []

    def tell(self, job_id: UUID, attempt: int, event_type: EventType, **data: Any) -> None:
        """An ephemeral event, to every subscription."""
        self.tell_all([live(job_id, attempt, event_type, **data)])

    def tell_all(self, events: Sequence[LiveEvent]) -> None:
        """Several at once."""
        for reader in self._readers:
            reader.put_nowait(events)

    async def subscribe(self) -> AsyncGenerator[Sequence[LiveEvent]]:
        self._check()
        queue: asyncio.Queue[Sequence[LiveEvent]] = asyncio.Queue()
        self._readers.append(queue)
        self.subscribed.set()
        try:
            while True:
                try:
                    async with asyncio.timeout(0.2):
                        events = await queue.get()
                except TimeoutError:
                    events = []
                self._check()
                yield events
        finally:
            self._readers.remove(queue)

    async def so_far(self, job_id: UUID) -> Sequence[LiveEvent]:
        self._check()
        self.asked_so_far += 1
        return self.known_so_far.get(job_id, [])

    async def places(self, job_ids: Sequence[UUID]) -> Mapping[UUID, Place]:
        self._check()
        self.asked_places += 1
        return {job_id: self.known_places[job_id] for job_id in job_ids if job_id in self.known_places}

    async def workers(self) -> Sequence[WorkerStatus]:
        self._check()
        return self.known_workers

    async def explain(self, job_id: UUID) -> Explanation | None:
        self._check()
        self.asked_explain += 1
        return self.known_explanations.get(job_id)

    def _check(self) -> None:
        if self.down:
            raise Unavailable


def live(job_id: UUID, attempt: int, event_type: EventType, **data: Any) -> LiveEvent:
    """An ephemeral event of now."""
    return LiveEvent(job_id=job_id, attempt=attempt, type=event_type, at=datetime.now(UTC), data=data)

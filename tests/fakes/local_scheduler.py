"""A SchedulerPort without Ray: the real dispatcher in this process, as the scheduler's actor asks it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from uuid import UUID

from tessera.ports import Explanation, LiveEvent, Place, WorkerStatus
from tessera.scheduler import insight
from tessera.scheduler.dispatcher import Dispatcher
from tessera.scheduler.explain import explain


class LocalScheduler:
    """Answers from the dispatcher's board."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher

    async def subscribe(self) -> AsyncIterator[Sequence[LiveEvent]]:
        async for batch in self._dispatcher.board.notifier.subscribe():
            yield batch

    async def so_far(self, job_id: UUID) -> Sequence[LiveEvent]:
        return self._dispatcher.board.notifier.so_far(job_id)

    async def places(self, job_ids: Sequence[UUID]) -> Mapping[UUID, Place]:
        return insight.places(self._dispatcher.board, job_ids)

    async def workers(self) -> Sequence[WorkerStatus]:
        return insight.workers(self._dispatcher.board)

    async def explain(self, job_id: UUID) -> Explanation | None:
        return explain(self._dispatcher.board, job_id)

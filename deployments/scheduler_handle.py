"""The scheduler as the ingress reaches it: a port over the named actor, found again whenever it was restarted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any
from uuid import UUID

import ray
from ray.exceptions import RayError

from tessera.errors import Unavailable
from tessera.ports import Explanation, LiveEvent, Place, WorkerStatus
from tessera.scheduler.actor import ACTOR_NAME, NAMESPACE

CALL_TIMEOUT_S = 2.0  # a restarted actor is back in 3.6–3.9 s: better to answer without it than to wait for it


class ActorScheduler:
    """tessera.ports.SchedulerPort over the actor's handle."""

    def __init__(self) -> None:
        self._handle: Any = None

    async def _actor(self) -> Any:
        if self._handle is None:
            try:
                # A lookup asks the GCS and blocks: off the loop.
                self._handle = await asyncio.to_thread(ray.get_actor, ACTOR_NAME, NAMESPACE)
            except ValueError as error:
                raise Unavailable("The scheduler is not up at the moment.", retry_after_s=2) from error
        return self._handle

    async def _call(self, method: str, *arguments: object) -> Any:
        actor = await self._actor()
        try:
            async with asyncio.timeout(CALL_TIMEOUT_S):
                return await getattr(actor, method).remote(*arguments)
        except (RayError, TimeoutError) as error:
            self._handle = None
            raise Unavailable("The scheduler does not answer at the moment.", retry_after_s=2) from error

    async def subscribe(self) -> AsyncIterator[Sequence[LiveEvent]]:
        actor = await self._actor()
        try:
            async for reference in actor.subscribe.options(num_returns="streaming").remote():
                yield await reference
        except RayError as error:
            self._handle = None
            raise Unavailable("The scheduler's stream has ended.", retry_after_s=2) from error

    async def so_far(self, job_id: UUID) -> Sequence[LiveEvent]:
        events: Sequence[LiveEvent] = await self._call("so_far", job_id)
        return events

    async def places(self, job_ids: Sequence[UUID]) -> Mapping[UUID, Place]:
        places: Mapping[UUID, Place] = await self._call("places", list(job_ids))
        return places

    async def workers(self) -> Sequence[WorkerStatus]:
        workers: Sequence[WorkerStatus] = await self._call("workers")
        return workers

    async def explain(self, job_id: UUID) -> Explanation | None:
        explanation: Explanation | None = await self._call("explain", job_id)
        return explanation

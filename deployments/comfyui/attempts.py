"""One attempt at a job as this process knows it, and the request that gave it to the server."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from deployments.comfyui.client import PromptState
from tessera.engine import RunState

REMEMBERED_RUNS = 1024
STATE_OF = {
    PromptState.PENDING: RunState.PENDING,
    PromptState.RUNNING: RunState.RUNNING,
    PromptState.SUCCEEDED: RunState.DONE,
    PromptState.FAILED: RunState.FAILED,
    PromptState.INTERRUPTED: RunState.CANCELLED,
    PromptState.ABSENT: RunState.LOST,
}


@dataclass(kw_only=True)
class Attempt:
    """One attempt as this process knows it. ``sent``: the server may have it; ``state`` None: its reader has left."""

    id: str
    model: str
    state: RunState | None = RunState.PENDING
    sent: bool = False
    stopping: bool = False  # a cancel is being carried out: that the prompt ends now is our own doing
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)
    posting: asyncio.Task[Any] | None = None


def retrieved(task: asyncio.Task[Any]) -> None:
    """A POST whose run was cancelled meanwhile fails unheard; its sweep finds what it has left."""
    if not task.cancelled():
        task.exception()


def shielded(task: asyncio.Task[Any]) -> Coroutine[Any, Any, Any]:
    """Waits for a task that goes on when the waiting is ended."""

    async def waited() -> Any:
        return await asyncio.shield(task)

    return waited()


def forget_old(attempts: OrderedDict[tuple[UUID, int], Attempt]) -> None:
    """Forget the oldest that have ended, so that not too many are remembered."""
    for key in list(attempts):
        if len(attempts) <= REMEMBERED_RUNS:
            return
        if attempts[key].state not in (RunState.PENDING, RunState.RUNNING):
            del attempts[key]

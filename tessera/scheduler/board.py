"""What the parts of the scheduler share in one process: the mirror, the links, and who is told of what.

Each part owns its loop and its statements (``dispatcher``, ``finisher``, ``leases``, ``follower``); none keeps a
copy of what is here. No I/O.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Coroutine
from typing import Any

from tessera.scheduler.estimates import Estimates
from tessera.scheduler.links import WorkerLink
from tessera.scheduler.mirror import Mirror
from tessera.scheduler.notifier import Notifier


class Board:
    """The scheduler's shared state. ``mirror`` is replaced at the start of every term."""

    def __init__(self, notifier: Notifier) -> None:
        self.mirror = Mirror()
        self.links: dict[str, WorkerLink] = {}
        self.notifier = notifier
        self.estimates = Estimates()
        self.changed = asyncio.Event()  # something happened after which another decision may be possible
        self.ended: Counter[str] = Counter()
        self.terms = 0
        self._tasks: set[asyncio.Task[None]] = set()  # the loop itself keeps only weak references

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run something beside the loops, without waiting for it."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

"""The rate of requests other than submissions: one count per user for all replicas, taken in small portions.

The count is GCRA's theoretical arrival time in Postgres (``take_requests``), and a write to Postgres for each read
would cost more than most reads. So a replica takes a thirtieth of a minute's allowance at once, spends it in memory for
at most two seconds, and gives the rest back when it takes the next portion. However many replicas there are, together
they never grant more than the minute has; a replica that dies takes at most one portion with it.
https://en.wikipedia.org/wiki/Generic_cell_rate_algorithm

Submissions, which cost something, are counted one by one (``admission.py``).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from tessera.api.context import RateState
from tessera.errors import RateLimited

PORTIONS = 30  # of a minute's allowance: two seconds' worth, as long as a portion is kept
KEEP_S = 2.0  # as long as a key is remembered (auth.CACHE_S): a caller who asks slowly costs one more statement with it
MAX_USERS = 20_000  # 6 MB; beyond it those who have been quiet are forgotten


@dataclass(frozen=True, kw_only=True, slots=True)
class Portion:
    """What Postgres granted: ``granted`` requests, with ``remaining`` left for everybody after them.

    ``retry_after_s`` says when the next one is free, where none was granted.
    """

    granted: int
    remaining: int
    retry_after_s: float | None


Take = Callable[
    [UUID, int, int, int], Coroutine[Any, Any, Portion]
]  # user, per minute, how many wanted, how many given back


@dataclass(slots=True)
class _Held:
    """What this replica holds for a user. ``blocked_until``: nothing is to be had before."""

    left: int = 0
    shared: int = 0  # what was left for everybody at the last taking
    until: float = 0.0
    blocked_until: float = 0.0
    taking: asyncio.Task[None] | None = None


class RequestLimiter:
    """Spends the portions of this replica. One per application."""

    def __init__(self, take: Take, clock: Callable[[], float] = time.monotonic) -> None:
        self._take = take
        self._clock = clock
        self._held: dict[UUID, _Held] = {}

    async def take(self, user_id: UUID, per_min: int) -> RateState:
        """Count one request. A refused one is not counted. Raises RateLimited, or Unavailable as the taking does."""
        held = self._held.get(user_id)
        if held is None:
            self._forget_the_quiet()
            held = self._held[user_id] = _Held()
        while held.left <= 0 or held.until < self._clock():
            if self._clock() < held.blocked_until:
                raise _refused(per_min, held.blocked_until - self._clock())
            await self._fetch(held, user_id, per_min)
        held.left -= 1
        return RateState(policy="requests", limit=per_min, remaining=held.shared + held.left)

    async def _fetch(self, held: _Held, user_id: UUID, per_min: int) -> None:
        """Take a portion, once for all requests that wait for it."""
        if held.taking is None:
            held.taking = asyncio.create_task(self._refill(held, user_id, per_min))
            held.taking.add_done_callback(lambda task: task.cancelled() or task.exception())  # whoever waits gets it
        # Shielded: the request that began the taking may be gone before it ends, and others wait for it.
        await asyncio.shield(held.taking)

    async def _refill(self, held: _Held, user_id: UUID, per_min: int) -> None:
        """All of it in the task itself: whoever sees the task done must see what it brought, or would ask for ever."""
        back, held.left = held.left, 0
        try:
            portion = await self._take(user_id, per_min, max(1, per_min // PORTIONS), back)
        finally:
            held.taking = None
        now = self._clock()
        held.left, held.shared, held.until = portion.granted, portion.remaining, now + KEEP_S
        if portion.retry_after_s is not None:
            held.blocked_until = now + portion.retry_after_s

    def _forget_the_quiet(self) -> None:
        if len(self._held) < MAX_USERS:
            return
        now = self._clock()
        self._held = {user: held for user, held in self._held.items() if held.taking is not None or held.until > now}


def _refused(per_min: int, wait_s: float) -> RateLimited:
    return RateLimited(
        f"More than {per_min} requests in a minute. Nothing was done; try again in {wait_s:.1f} s, and follow a job by"
        " its events instead of asking again.",
        retry_after_s=wait_s,
        limit=per_min,
        remaining=0,
    )

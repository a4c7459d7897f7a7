"""The rate of requests other than submissions, per user and replica, by GCRA.

Kept in memory on purpose: a read is not worth a write to Postgres. With N replicas a user gets up to N times the limit;
submissions, which cost something, are counted in Postgres (``admission.py``).
https://en.wikipedia.org/wiki/Generic_cell_rate_algorithm
"""

from __future__ import annotations

import time
from collections.abc import Callable
from uuid import UUID

from tessera.api.context import RateState
from tessera.errors import RateLimited

WINDOW_S = 60.0
MAX_USERS = 20_000  # 3 MB; beyond it those who have been quiet for a minute are forgotten


class RequestLimiter:
    """Holds a theoretical arrival time per user."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._tat: dict[UUID, float] = {}

    def take(self, user_id: UUID, per_min: int) -> RateState:
        """Count one request. Raises RateLimited when the minute's are used up; a refused one is not counted."""
        now = self._clock()
        step = WINDOW_S / per_min
        tat = max(self._tat.get(user_id, 0.0), now)
        if tat + step - now > WINDOW_S:
            wait_s = tat + step - now - WINDOW_S
            raise RateLimited(
                f"More than {per_min} requests in a minute. Nothing was done; try again in {wait_s:.1f} s, and follow"
                " a job by its events instead of asking again.",
                retry_after_s=wait_s,
                limit=per_min,
                remaining=0,
            )
        if len(self._tat) >= MAX_USERS and user_id not in self._tat:
            self._tat = {user: at for user, at in self._tat.items() if at > now}
        self._tat[user_id] = tat + step
        return RateState(policy="requests", limit=per_min, remaining=int((WINDOW_S - (tat + step - now)) / step + 1e-9))

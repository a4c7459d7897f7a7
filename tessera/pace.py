"""Commits that come in a stream are spaced, so that each carries more: a loop's pause between two full rounds.

A round costs about the same for one job as for ten: a commit, a wake-up of everybody who listens, a call. Without a
pause a loop that is asked all the time takes whatever is there at once, in rounds of two or three, and the cores are
busy with rounds. Alone a job waits for nothing: only after a round with more than ``few`` is there a pause.
"""

from __future__ import annotations

import asyncio
import time


class Pace:
    """The pace of one loop. ``gap_s``: at least so long between the beginnings of two rounds in a stream."""

    def __init__(self, gap_s: float, few: int = 2) -> None:
        self._gap_s = gap_s
        self._few = few
        self._size = 0
        self._began = 0.0

    def round(self, size: int) -> None:
        """A round of this size begins."""
        self._size = size
        self._began = time.monotonic()

    async def pause(self) -> None:
        """Wait until the next round may begin; not at all after a round of few."""
        if self._size > self._few:
            left_s = self._began + self._gap_s - time.monotonic()
            if left_s > 0:
                await asyncio.sleep(left_s)

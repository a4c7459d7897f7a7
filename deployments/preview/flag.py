"""The cancel flag: how a run in a thread learns that nobody wants its result any more."""

from __future__ import annotations

import io
import threading
from typing import Any


class Cancelled(Exception):
    """The run was cancelled. It is caught by the engine and never reaches a caller."""


class CancelFlag:
    """Set once from any thread, looked at often by the work."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def set(self) -> None:
        """Ask the work to stop. Safe to repeat."""
        self._event.set()

    def is_set(self) -> bool:
        return self._event.is_set()

    def check(self) -> None:
        """Raises Cancelled once the flag is set."""
        if self._event.is_set():
            raise Cancelled

    def pause(self, seconds: float) -> None:
        """Sleep, but not past a cancel: raises Cancelled as soon as the flag is set."""
        if self._event.wait(max(0.0, seconds)):
            raise Cancelled


class CancellableBytes(io.BytesIO):
    """A buffer for encoders: each write looks at the flag, so that a long encoding stops soon after a cancel."""

    def __init__(self, flag: CancelFlag) -> None:
        super().__init__()
        self._flag = flag

    def write(self, data: Any, /) -> int:
        """Append as io.BytesIO does. Raises Cancelled once the flag is set."""
        self._flag.check()
        return super().write(data)

"""A backend in a folder: the noop engine's runs go on by the clock, whatever becomes of the worker's process.

It stands for ComfyUI and its like, which keep a run and its result by the id that they were given (``backend_id``). A
run is one small file, written once when it starts; how far it is follows from the time. For tests.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tessera.engine import CancelState, RunState


@dataclass(frozen=True, kw_only=True)
class BackendRun:
    """A run as its file has it. ``failure`` is the directive's word, or empty."""

    began_at: float
    seconds: float
    failure: str = ""


class NoopBackend:
    """``delay_s``: how long a run waits in the backend's own queue before it begins. All methods are safe to repeat,
    from any process."""

    def __init__(self, folder: Path, *, delay_s: float = 0.0, clock: Callable[[], float] = time.time) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._delay_s = delay_s
        self._clock = clock  # of the wall: it goes on when the process ends

    def submit(self, run_id: str, seconds: float, failure: str = "") -> None:
        """Start a run. Raises FileExistsError, and starts nothing, when there is one of this id."""
        began_at = self._clock() + self._delay_s
        text = json.dumps({"began_at": began_at, "seconds": seconds, "failure": failure})
        # Whole or not at all, and never over another: a link fails where a rename would replace.
        unfinished = self._folder / f"{run_id}.{os.getpid()}.tmp"
        unfinished.write_text(text)
        try:
            os.link(unfinished, self._file(run_id))
        finally:
            unfinished.unlink()

    def find(self, run_id: str) -> BackendRun | None:
        """The run of this id, or None."""
        try:
            return BackendRun(**json.loads(self._file(run_id).read_text()))
        except FileNotFoundError:
            return None

    def state(self, run_id: str) -> RunState:
        """What has become of a run."""
        run = self.find(run_id)
        if run is None:
            return RunState.LOST
        if self._mark(run_id).exists():
            return RunState.CANCELLED
        passed_s = self._clock() - run.began_at
        if passed_s < 0:
            return RunState.PENDING
        if passed_s < run.seconds:
            return RunState.RUNNING
        return RunState.FAILED if run.failure else RunState.DONE

    def fraction(self, run_id: str) -> float:
        """How far a run is, 0…1."""
        run = self.find(run_id)
        if run is None or run.seconds <= 0:
            return 0.0
        return min(1.0, max(0.0, (self._clock() - run.began_at) / run.seconds))

    def cancel(self, run_id: str) -> CancelState:
        """Stop a run that has not ended."""
        state = self.state(run_id)
        if state is RunState.LOST:
            return CancelState.UNKNOWN
        if state in (RunState.PENDING, RunState.RUNNING):
            self._mark(run_id).touch()
        return CancelState.FINISHED if state in (RunState.DONE, RunState.FAILED) else CancelState.CANCELLED

    def runs(self) -> list[str]:
        """The ids of all runs that were ever started."""
        return sorted(file.stem for file in self._folder.glob("*.json"))

    def _file(self, run_id: str) -> Path:
        return self._folder / f"{run_id}.json"

    def _mark(self, run_id: str) -> Path:
        return self._folder / f"{run_id}.cancelled"

"""How ``up``, ``down`` and the keeper tell what they do: steps with a duration, and failures with a fix."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from enum import StrEnum


class StepState(StrEnum):
    """Where a step is."""

    RUNNING = "running"  # told at its begin and whenever its detail changes
    DONE = "done"  # it did something
    UNCHANGED = "unchanged"  # there was nothing to do: it ran already
    FAILED = "failed"  # the last step that is told


@dataclass(frozen=True, kw_only=True)
class Step:
    """One line for a person. ``name`` is stable, ``title`` is to be read, ``detail`` says what came of it."""

    name: str
    title: str
    state: StepState
    duration_s: float = 0.0
    detail: str = ""


OnStep = Callable[[Step], None]


class StepFailed(Exception):
    """A step failed: which, why, the last lines of the right log, and what to do. Nothing that ran before was lost."""

    def __init__(self, step: Step, message: str, *, log_tail: str = "", fix: str = "") -> None:
        super().__init__(message)
        self.step = step
        self.message = message
        self.log_tail = log_tail
        self.fix = fix


@dataclass
class Progress:
    """Tells one step; ``detail`` may be set at any time, ``unchanged`` when there was nothing to do."""

    step: Step
    on_step: OnStep
    started: float = field(default_factory=time.monotonic)
    changed: bool = True

    def wait(self, detail: str) -> None:
        """Say what is waited for."""
        if detail != self.step.detail:
            self._tell(StepState.RUNNING, detail)

    def done(self, detail: str, *, changed: bool = True) -> None:
        """Say what came of it; told when the step ends."""
        self.step = replace(self.step, detail=detail)
        self.changed = changed

    def _tell(self, state: StepState, detail: str) -> None:
        self.step = replace(self.step, state=state, detail=detail, duration_s=time.monotonic() - self.started)
        self.on_step(self.step)


class Steps:
    """All steps of one run, in order; hands each to ``on_step`` as it begins, changes and ends."""

    def __init__(self, on_step: OnStep) -> None:
        self._on_step = on_step
        self.all: list[Step] = []

    @contextmanager
    def step(self, name: str, title: str) -> Iterator[Progress]:
        """Run one step. An exception with ``log_tail`` and ``fix`` becomes ``StepFailed``; so does any other."""
        progress = Progress(Step(name=name, title=title, state=StepState.RUNNING), self._on_step)
        self._on_step(progress.step)
        try:
            yield progress
        except Exception as error:
            message = str(error) or type(error).__name__
            progress._tell(StepState.FAILED, message.splitlines()[0])
            self.all.append(progress.step)
            if isinstance(error, StepFailed):
                raise
            raise StepFailed(
                progress.step, message, log_tail=getattr(error, "log_tail", ""), fix=getattr(error, "fix", "")
            ) from error
        progress._tell(StepState.DONE if progress.changed else StepState.UNCHANGED, progress.step.detail)
        self.all.append(progress.step)

"""What a person sees of ``up`` and ``down``: one line for each step, with what came of it and how long it took."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Any, Self

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.padding import Padding
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from tessera.cli.screen import Screen, clean, span, stderr_is_terminal
from tessera.local.steps import Step, StepFailed, StepState

TITLE_WIDTH = 26  # the longest title, "Serve, scheduler and Ray", and air
MARKS = {
    StepState.DONE: ("✓", "green"),
    StepState.UNCHANGED: ("·", "dim"),
    StepState.FAILED: ("✗", "bold red"),
}


class StepView:
    """Shows steps on stderr as they come: live on a terminal, as lines elsewhere, not at all with --quiet or --json."""

    def __init__(self, screen: Screen) -> None:
        self._console = screen.err
        self._silent = screen.quiet or screen.json
        self._spinner = Spinner("dots", style="cyan")
        self._running: tuple[Step, float] | None = None
        self._live: Live | None = None

    def __enter__(self) -> Self:
        if stderr_is_terminal() and not self._silent:
            self._live = Live(self, console=self._console, transient=True, refresh_per_second=10)
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._running = None
        if self._live is not None:
            self._live.stop()

    def on_step(self, step: Step) -> None:
        """Take the news of a step."""
        if self._silent:
            return
        if step.state == StepState.RUNNING:
            self._running = (step, time.monotonic() - step.duration_s)
            return
        self._running = None
        self._console.print(step_line(step))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if self._running is None:
            yield Text("")
            return
        step, began = self._running
        line = Table.grid(padding=(0, 1))
        cells: list[Any] = [self._spinner, Text(step.title.ljust(TITLE_WIDTH - 1))]
        seconds = time.monotonic() - began
        cells.append(Text(clean(step.detail), style="cyan", no_wrap=True, overflow="ellipsis"))
        cells.append(Text(f"{seconds:.0f} s" if seconds >= 1 else "", style="dim"))
        line.add_row(*cells)
        yield line


def step_line(step: Step) -> Text:
    """A finished step as a line."""
    mark, style = MARKS.get(step.state, ("?", ""))
    detail = (clean(step.detail), "red" if step.state == StepState.FAILED else "")
    line = Text.assemble((mark, style), " ", step.title.ljust(TITLE_WIDTH), detail)
    if step.duration_s >= 0.1:
        line.append(f"  {span(step.duration_s)}", style="dim")
    return line


def tell_failed_step(error: StepFailed, console: Console) -> None:
    """Why a step failed, the last lines of its log, and what to do; the line of the step itself is told already."""
    first, *rest = clean(error.message).splitlines() or [""]
    if len(first) > 60 or rest or first != clean(error.step.detail):
        for line in (first, *rest):
            console.print(Text(f"  {line}"))
    if error.log_tail.strip():
        console.print(Text("\n  The last lines of its log:", style="dim"))
        console.print(Padding(Text(clean(error.log_tail.rstrip()), style="dim"), (0, 0, 0, 4)))
    if error.fix:
        console.print(Text.assemble(("\n  What to do: ", "bold"), clean(error.fix)))
    console.print(Text("  Nothing is lost: the same command goes on where it stopped.", style="dim"))


def as_json(step: Step) -> dict[str, Any]:
    """A step for scripts."""
    return {
        "name": step.name,
        "title": step.title,
        "state": step.state.value,
        "duration_s": round(step.duration_s, 3),
        "detail": step.detail,
    }

"""What a person sees of a job while it runs: a value that each event moves on, and three ways to show it.

The value is pure. The views write to stderr only, so that stdout stays free for the result.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self

from rich.console import Console, ConsoleOptions, Group, RenderResult
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from tessera.cli.preview import thumbnail
from tessera.cli.screen import Screen, clean, one_line, span, span_range, stderr_is_terminal
from tessera.jobs import FINAL_EVENTS, EventType
from tessera.ports import WaitCode

if TYPE_CHECKING:
    from tessera.client import Event, Explanation, Job

WAITING = frozenset({"created", "queued"})
_WORTH_A_LINE = frozenset({"created", "queued", "running"})
_SAID_BY_POSITION = frozenset({WaitCode.AHEAD, WaitCode.SLOTS_BUSY})
STEP = 0.25  # where nobody watches, a line for each quarter is enough


@dataclass(frozen=True, kw_only=True)
class JobProgress:
    """How far a job is. ``fraction`` None: not known. Times are of the same clock as the ``now`` given."""

    job_id: str = ""
    phase: str = "submitting"
    position: int | None = None
    eta: tuple[float, float] | None = None
    fraction: float | None = None
    note: str = ""
    waits: str = ""  # why it waits, unless it is simply not its turn
    characters: int = 0
    outputs: int = 0
    preview: bytes | None = None
    since: float = 0.0
    running_since: float | None = None
    trouble: str = ""


def submitted(progress: JobProgress, job: Job, now: float) -> JobProgress:
    """After the answer to the submission, or when a job is taken up again."""
    return replace(
        progress,
        job_id=job.id,
        phase=job.state,
        position=job.position,
        eta=(job.eta.low_s, job.eta.high_s) if job.eta is not None else None,
        running_since=now if job.state == "running" else None,
    )


def advance(progress: JobProgress, event: Event, now: float) -> JobProgress:
    """The progress after one more event."""
    progress = replace(progress, trouble="")
    data = event.data
    match event.type:
        case EventType.QUEUED if event.is_retry:
            return replace(
                progress,
                phase="queued",
                position=None,
                eta=None,
                fraction=None,
                characters=0,
                preview=None,
                running_since=None,
                note=f"again: {one_line(data['reason'])}",
            )
        case EventType.QUEUED:
            position, eta = _int(data.get("position")), _eta(data.get("eta"))
            return replace(
                progress,
                phase="queued",
                position=progress.position if position is None else position,
                eta=eta if "eta" in data else progress.eta,
            )
        case EventType.STARTED:
            return replace(progress, phase="running", running_since=now, position=None, eta=None, note="", waits="")
        case EventType.PROGRESS:
            fraction = data.get("fraction")
            known = isinstance(fraction, (int, float)) and not isinstance(fraction, bool)
            return replace(
                progress,
                phase="running",
                running_since=progress.running_since if progress.running_since is not None else now,
                fraction=min(1.0, max(0.0, float(fraction))) if known and fraction is not None else progress.fraction,
                note=one_line(data.get("note") or "", 40),
            )
        case EventType.PREVIEW:
            return replace(progress, preview=event.preview_image or progress.preview)
        case EventType.CHUNK:
            offset, text = _int(data.get("offset")) or 0, data.get("text")
            end = offset + len(text) if isinstance(text, str) else 0
            return replace(progress, phase="running", characters=max(progress.characters, end))
        case EventType.OUTPUT:
            return replace(progress, outputs=progress.outputs + 1)
        case type if type in FINAL_EVENTS:
            return replace(progress, phase=str(type))
        case _:
            return progress


def explained(progress: JobProgress, explanation: Explanation) -> JobProgress:
    """With why the job waits. That others come first, its position tells already."""
    code = explanation.reasons[0].code if explanation.reasons else WaitCode.AHEAD
    told = code in _SAID_BY_POSITION or not {explanation.state, progress.phase} <= WAITING
    return replace(progress, waits="" if told else one_line(explanation.summary, 160))


def remaining_s(progress: JobProgress, now: float) -> float | None:
    """Seconds left at the present pace, once there is a pace to speak of."""
    if progress.running_since is None or progress.fraction is None or not 0.1 <= progress.fraction < 1:
        return None
    elapsed = now - progress.running_since
    return elapsed * (1 - progress.fraction) / progress.fraction if elapsed > 2 else None


def describe(progress: JobProgress) -> str:
    """The progress in words, without anything that changes by itself."""
    parts = [progress.phase]
    if progress.phase == "queued":
        if progress.position is not None:
            parts.append(f"position {progress.position}")
        if progress.eta is not None:
            parts.append(f"done in {span_range(*progress.eta)}")
    elif progress.phase == "running" and progress.characters:
        parts.append(f"{progress.characters} characters")
    if progress.note:
        parts.append(progress.note)
    if progress.waits and progress.phase in WAITING:
        parts.append(progress.waits)
    return " · ".join(parts)


def _int(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _eta(value: object) -> tuple[float, float] | None:
    if not isinstance(value, dict):
        return None
    low, high = value.get("low_s"), value.get("high_s")
    if isinstance(low, (int, float)) and isinstance(high, (int, float)):
        return float(low), float(high)
    return None


class View(Protocol):
    """Shows progress from ``__enter__`` to ``__exit__``; ``pause`` frees the terminal for other output at once."""

    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None: ...
    def show(self, progress: JobProgress) -> None: ...
    def pause(self) -> None: ...


def make_view(screen: Screen) -> View:
    """The view that fits: none with --quiet, a live one on a terminal, else lines."""
    if screen.quiet:
        return SilentView()
    return LiveView(screen.err) if stderr_is_terminal() else LineView(screen.err)


class SilentView:
    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def show(self, progress: JobProgress) -> None:
        pass

    def pause(self) -> None:
        pass


class LineView(SilentView):
    """For logs: one line at each change worth a line."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._last: tuple[Any, ...] = ()

    def show(self, progress: JobProgress) -> None:
        quarter = int((progress.fraction or 0.0) / STEP)
        key = (progress.phase, progress.position, quarter, progress.trouble, progress.waits, progress.job_id)
        if key == self._last or not progress.job_id or progress.phase not in _WORTH_A_LINE:
            return
        self._last = key
        text = progress.trouble or describe(replace(progress, characters=0))
        if quarter and not progress.trouble:
            text += f" · {progress.fraction or 0:.0%}"
        self._console.print(Text(f"{progress.job_id} {clean(text)}"))


class LiveView:
    """For a person: a line with a spinner or a bar, and the preview under it. Leaves nothing behind."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress = JobProgress(since=time.monotonic())
        self._spinner = Spinner("dots", style="cyan")
        self._live = Live(self, console=console, transient=True, refresh_per_second=10)
        self._thumbnail: tuple[bytes, Text | None] = (b"", None)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def pause(self) -> None:
        self._live.stop()

    def show(self, progress: JobProgress) -> None:
        self._progress = replace(progress, since=self._progress.since)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        now = time.monotonic()
        progress = self._progress
        line = Table.grid(padding=(0, 1))
        minutes, seconds = divmod(int(now - progress.since), 60)
        cells: list[Any] = [self._spinner, Text(f"{minutes}:{seconds:02d}", style="dim")]
        running = progress.phase == "running"
        if progress.trouble:
            cells.append(Text(clean(progress.trouble), style="yellow"))
        elif running and progress.fraction is not None:
            cells.append(Text(clean(progress.note or progress.phase), no_wrap=True))
            width = max(10, min(36, options.max_width - 50))
            cells.append(ProgressBar(total=1.0, completed=progress.fraction, width=width))
            cells.append(Text(f"{progress.fraction:4.0%}"))
            left = remaining_s(progress, now)
            if left is not None:
                cells.append(Text(f"{span(max(1, round(left)))} left", style="cyan"))
        else:
            word, dot, rest = describe(progress).partition(" · ")
            cells.append(Text.assemble((clean(word), "bold"), dot, (clean(rest), "cyan")))
        line.add_row(*cells)
        picture = self._picture(console)
        yield Group(line, picture) if picture is not None else line

    def _picture(self, console: Console) -> Text | None:
        """The preview, when the terminal has the colours and the room for it."""
        data = self._progress.preview
        if data is None or console.color_system not in {"256", "truecolor"} or console.height < 20:
            return None
        if self._thumbnail[0] is not data:
            self._thumbnail = (
                data,
                thumbnail(data, columns=min(44, console.width - 2), rows=min(14, console.height - 8)),
            )
        return self._thumbnail[1]

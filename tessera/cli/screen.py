"""Where output goes: results on stdout, everything about them on stderr, and colours only on a terminal."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

# Whole escape sequences first, so that a colour leaves nothing behind, then every other control character.
_CONTROL = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|[\x00-\x08\x0b-\x1f\x7f-\x9f]")

PIPE_WIDTH = 400  # columns for a table that nobody sees wrapped: a line stays a line for grep and awk


@dataclass(frozen=True, kw_only=True)
class Screen:
    """How one command speaks. ``json``: one document on stdout. ``quiet``: nothing on stderr but failures."""

    json: bool = False
    quiet: bool = False

    @property
    def out(self) -> Console:
        """For results."""
        return Console(highlight=False, soft_wrap=False, width=None if stdout_is_terminal() else PIPE_WIDTH)

    @property
    def err(self) -> Console:
        """For progress, remarks and failures."""
        return Console(stderr=True, highlight=False, soft_wrap=True)

    def print_json(self, value: Any) -> None:
        """The one document of a command run with --json."""
        sys.stdout.write(json.dumps(value, ensure_ascii=False, indent=2 if stdout_is_terminal() else None) + "\n")
        sys.stdout.flush()

    def print_table(self, rows: RenderableType) -> None:
        """A table (or a text beside one) on stdout; into a pipe without the spaces that pad its last column."""
        if stdout_is_terminal():
            self.out.print(rows)
            return
        console = self.out
        with console.capture() as captured:
            console.print(rows)
        sys.stdout.write("".join(f"{line.rstrip()}\n" for line in captured.get().splitlines()))

    def say(self, text: str | Text) -> None:
        """A remark for a person, on stderr, unless --quiet. A ``str`` may have rich's markup."""
        if not self.quiet:
            self.err.print(text)


def stdout_is_terminal() -> bool:
    return sys.stdout.isatty()


def stderr_is_terminal() -> bool:
    return sys.stderr.isatty()


def stdin_is_terminal() -> bool:
    return sys.stdin is not None and sys.stdin.isatty()


def table(*columns: str, right: Iterable[str] = ()) -> Table:
    """An empty table in the one style of the CLI; ``right`` names the columns of numbers."""
    numbers = set(right)
    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column in columns:
        made.add_column(
            column, justify="right" if column in numbers else "left", no_wrap=not stdout_is_terminal() or column == "ID"
        )
    return made


def clean(text: object) -> str:
    """Text from elsewhere without control characters, which could rewrite the screen; tabs and line ends stay."""
    return _CONTROL.sub("", str(text))


def one_line(text: object, limit: int = 60) -> str:
    """The beginning of a text on one line."""
    flat = " ".join(clean(text).split())
    return flat if len(flat) <= limit else flat[: limit - 1].rstrip() + "…"


def tokens(amount: float | None) -> str:
    """``0.75 tokens``, ``1 token``."""
    if amount is None:
        return "? tokens"
    return f"{number(amount)} token{'' if amount == 1 else 's'}"


def number(amount: float | None) -> str:
    """At most three decimals, without zeros at the end, thousands set apart."""
    if amount is None:
        return "–"
    return f"{amount:,.3f}".rstrip("0").rstrip(".")


def size(count: int) -> str:
    """Bytes for a person."""
    value = float(count)
    for unit in ("B", "kB", "MB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" or value >= 10 else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} GB"


def span(seconds: float) -> str:
    """A time for a person: 8.4 s, 4 s (of an int), 2 min 5 s, 3 h 10 min, 4 days."""
    if seconds < 9.95:
        return f"{seconds} s" if isinstance(seconds, int) else f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        minutes, rest = divmod(whole, 60)
        return f"{minutes} min {rest} s" if rest and minutes < 10 else f"{minutes} min"
    if whole < 2 * 86400:
        hours, rest = divmod(whole // 60, 60)
        return f"{hours} h {rest} min" if rest and hours < 10 else f"{hours} h"
    return f"{round(whole / 86400)} days"


def span_range(low_s: float, high_s: float) -> str:
    """A range of times: 4–9 s, 50 s – 2 min."""
    low, high = span(round(low_s)), span(round(high_s))
    if low_s < 1:
        return f"up to {span(max(1, round(high_s)))}"
    if low == high:
        return low
    if low.endswith(" s") and high.endswith(" s") and " min" not in low + high:
        return f"{round(low_s)}–{round(high_s)} s"
    return f"{low} – {high}"

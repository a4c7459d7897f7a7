"""What a run has found: rows of tables, claims that hold or not, what failed; as Markdown and JSON, and in the docs."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import traceback
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build"
DOCS = ROOT / "docs" / "benchmarks.md"
BEGIN, END = "<!-- runs: written by 'python -m benchmarks --write-docs' -->", "<!-- end of runs -->"
HEADING = "### Run of "
KEPT_RUNS = 2
T = TypeVar("T")


def say(text: str) -> None:
    """Progress, on stderr."""
    sys.stderr.write(f"· {text}\n")
    sys.stderr.flush()


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows])


def spread(values: Sequence[float], digits: int = 0) -> str:
    """The median with the least and the most."""
    return f"{statistics.median(values):,.{digits}f} ({min(values):,.{digits}f}–{max(values):,.{digits}f})"


class Report:
    """Rows of the tables, the numbers behind them, and what could not be measured."""

    def __init__(self) -> None:
        self.rows: list[list[str]] = []
        self.targets: list[list[str]] = []
        self.sections: list[str] = []
        self.data: dict[str, Any] = {}
        self.failures: list[str] = []
        self.unexpected = 0

    def row(self, what: str, measured: str, **numbers: Any) -> None:
        """A line of the main table."""
        self.rows.append([what, measured])
        self.data.update(numbers)

    def section(self, title: str, text: str) -> None:
        """A table of its own."""
        self.sections.append(f"**{title}**\n\n{text}")

    def at_least(self, claim: str, measured: float, least: float, goal: float | None = None, unit: str = "×") -> None:
        """A claim that holds from so much on."""
        reached = "" if goal is None else f"; the goal, {goal:g}{unit}: {_yes(measured >= goal)}"
        self._target(claim, measured, f"≥ {least:g}{unit}", measured >= least, reached, unit)

    def below(self, claim: str, measured: float, limit: float, unit: str = "×") -> None:
        """A claim that holds below so much."""
        self._target(claim, measured, f"< {limit:g}{unit}", measured < limit, "", unit)

    def _target(self, claim: str, measured: float, bound: str, held: bool, more: str, unit: str) -> None:
        self.targets.append([claim, f"{measured:.2f}{unit}", f"{bound}: {_yes(held)}{more}"])
        self.data.setdefault("held", {})[claim] = held

    async def attempt(self, what: str, work: Callable[[], Awaitable[T]]) -> T | None:
        """A measurement; None, and a line that says why, where it fails. The rest of the run goes on."""
        try:
            return await work()
        except (Exception, subprocess.CalledProcessError) as error:  # noqa: BLE001 (one of many; it is told of)
            self.failed(what, error)
            return None

    def failed(self, what: str, error: BaseException) -> None:
        """A part that gave no number: told now, in the tables, and by the exit code."""
        causes = error.exceptions if isinstance(error, BaseExceptionGroup) else (error,)
        why = "; ".join(f"{type(each).__name__}: {str(each)[:160]}" for each in causes[:3])
        say(f"FAILED: {what}: {why}")
        sys.stderr.write("".join(traceback.format_exception(error)))
        self.failures.append(f"{what}: {why}")

    def markdown(self, head: str) -> str:
        """All of it, under a line about the machine and the settings."""
        parts = [head]
        if self.failures:
            parts.append("**Not measured**\n\n" + "\n".join(f"- {each}" for each in self.failures))
        parts.append(table(["target", "measured", "holds"], self.targets))
        parts.append(
            table(["what", "measured"], [*self.rows, ["requests with an unexpected answer", str(self.unexpected)]])
        )
        return "\n\n".join([*parts, *self.sections]) + "\n"

    def write(self, head: str, extra: Path | None) -> None:
        """The tables on stdout, and both forms into build/."""
        text = self.markdown(head)
        found = {"head": head, **self.data, "targets": self.targets, "failures": self.failures}
        data = json.dumps({**found, "unexpected": self.unexpected}, indent=2) + "\n"
        BUILD.mkdir(exist_ok=True)
        (BUILD / "bench.md").write_text(text, encoding="utf-8")
        for path in (BUILD / "bench.json", extra):
            if path is not None:
                path.write_text(data, encoding="utf-8")
        sys.stdout.write(text)
        say(f"written: {BUILD / 'bench.md'}, {BUILD / 'bench.json'}")


def _yes(holds: bool) -> str:
    return "yes" if holds else "**no**"


def with_run(docs: str, text: str, name: str) -> str:
    """The page with this run first between its markers, and the one before it. A run of the same name is replaced.

    Raises ValueError where the markers are missing.
    """
    before, begin, rest = docs.partition(BEGIN)
    old, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{DOCS.name} has lost its markers: {BEGIN} … {END}")
    runs = [HEADING + each.strip() for each in old.split(HEADING)[1:] if not each.startswith(name + "\n")]
    runs = [f"{HEADING}{name}\n\n{text.strip()}", *runs][:KEPT_RUNS]
    return before + BEGIN + "\n\n" + "\n\n".join(runs) + "\n\n" + END + after


def write_docs() -> None:
    """Put the last run into docs/benchmarks.md. Raises FileNotFoundError before the first run."""
    name = json.loads((BUILD / "bench.json").read_text(encoding="utf-8"))["run"]
    text = (BUILD / "bench.md").read_text(encoding="utf-8")
    DOCS.write_text(with_run(DOCS.read_text(encoding="utf-8"), text, name), encoding="utf-8")
    say(f"written: {DOCS}")

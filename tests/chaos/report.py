"""What a run found: the table for people, and the same as JSON."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from typing import Any

from rich.table import Table

from tests.chaos.checks import DOUBLE, LOST, Breach


@dataclass(frozen=True, kw_only=True)
class Injection:
    """One fault, once. ``normal_s``: until a probe job went through in time; ``whole_s``: until every part was back."""

    fault: str
    hit: str
    at_s: float
    in_flight: int
    retried: int
    normal_s: float | None
    whole_s: float | None
    breaches: tuple[Breach, ...]


@dataclass(kw_only=True)
class Report:
    """Everything that is told at the end."""

    seed: int
    nodes: str
    store: str
    titles: dict[str, str]
    injections: list[Injection] = field(default_factory=list)
    after_all: list[Breach] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    minutes: float = 0.0
    audit: str = ""
    stopped: str = ""

    def breaches(self) -> list[Breach]:
        return [*(breach for injection in self.injections for breach in injection.breaches), *self.after_all]

    @property
    def good(self) -> bool:
        """Whether zeros stand where they belong."""
        return not self.breaches() and not self.stopped and bool(self.injections)

    def table(self) -> Table:
        table = Table(title=f"Chaos: seed {self.seed}, {self.minutes:.1f} minutes", title_justify="left")
        table.add_column("fault", no_wrap=True)
        for name in ("times", "in flight", "retried", "lost", "double\ncharges", "other\nbreaches"):
            table.add_column(name, justify="right")
        table.add_column("s until normal\nmedian / max", justify="right")
        table.add_column("s until whole\nmedian / max", justify="right")
        for name, title in self.titles.items():
            rows = [injection for injection in self.injections if injection.fault == name]
            if not rows:
                table.add_row(title, "0", *[""] * 7)
                continue
            found = [breach for row in rows for breach in row.breaches]
            table.add_row(
                title,
                str(len(rows)),
                str(sum(row.in_flight for row in rows)),
                str(sum(row.retried for row in rows)),
                *_zeros(found),
                _times([row.normal_s for row in rows]),
                _times([row.whole_s for row in rows]),
            )
        table.add_section()
        table.add_row(
            "all",
            str(len(self.injections)),
            str(sum(row.in_flight for row in self.injections)),
            str(sum(row.retried for row in self.injections)),
            *_zeros(self.breaches()),
            _times([row.normal_s for row in self.injections]),
            _times([row.whole_s for row in self.injections]),
        )
        return table

    def as_json(self) -> dict[str, Any]:
        return {
            "seed": self.seed,
            "minutes": round(self.minutes, 2),
            "nodes": self.nodes,
            "store": self.store,
            "good": self.good,
            "stopped": self.stopped,
            "lost": count(self.breaches(), LOST),
            "double_charges": count(self.breaches(), DOUBLE),
            "counts": dict(sorted(self.counts.items())),
            "audit": self.audit,
            "injections": [
                {
                    "fault": row.fault,
                    "hit": row.hit,
                    "at_s": round(row.at_s, 1),
                    "in_flight": row.in_flight,
                    "retried": row.retried,
                    "normal_s": row.normal_s,
                    "whole_s": row.whole_s,
                    "breaches": [vars_of(breach) for breach in row.breaches],
                }
                for row in self.injections
            ],
            "after_all": [vars_of(breach) for breach in self.after_all],
        }


def count(breaches: list[Breach], rules: frozenset[str]) -> int:
    """How many different jobs (or books) break one of the rules."""
    return len({breach.subject for breach in breaches if breach.rule in rules})


def vars_of(breach: Breach) -> dict[str, str]:
    return {"rule": breach.rule, "subject": breach.subject, "detail": breach.detail}


def _zeros(breaches: list[Breach]) -> tuple[str, str, str]:
    others = len([breach for breach in breaches if breach.rule not in LOST | DOUBLE])
    return str(count(breaches, LOST)), str(count(breaches, DOUBLE)), str(others)


def _times(values: list[float | None]) -> str:
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return "never"
    return f"{statistics.median(known):.1f} / {max(known):.1f}"

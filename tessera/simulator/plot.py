"""Waits by tier and utilisation over the time of a scenario, as one HTML page of inline SVG. It loads nothing."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np
from numpy.typing import NDArray

from tessera.simulator.metrics import TIERS, per_bucket, ranks_of_users, waits_of
from tessera.simulator.report import seconds
from tessera.simulator.world import BUCKETS, Record

COLOURS = {"tessera": "#d62728", "fifo": "#7f7f7f", "strict": "#1f77b4", "horde": "#2ca02c", "invoke": "#9467bd"}
WIDTH, HEIGHT, LEFT, BOTTOM = 520, 190, 52, 24
POINTS = 60  # of a line: four buckets each
_STYLE = (
    "body{font:14px sans-serif;margin:24px;color:#222}figure{display:inline-block;margin:8px}svg text{font-size:10px}"
)

Floats = NDArray[np.float64]


def page(runs: Sequence[Sequence[Record]]) -> str:
    """All scenarios, each with its policies: a figure for each tier, and one of utilisation."""
    parts = [f"<!doctype html><meta charset=utf-8><title>Tessera: simulations</title><style>{_STYLE}</style>"]
    for records in runs:
        if not records:
            continue
        scenario = records[0].scenario
        parts.append(f"<h2>{escape(scenario.name)}: {escape(scenario.title)}</h2><p>{escape(scenario.about)}</p><p>")
        parts += [f'<b style="color:{_colour(each)}">{escape(each.policy)}</b> ' for each in records]
        parts.append("</p>")
        ranks = ranks_of_users(records[0])
        for place, tier in enumerate(TIERS):
            if (ranks == place).any():
                lines = [(_colour(each), _waits(each, place)) for each in records]
                parts.append(_figure(f"{tier}: 95th percentile of waits, by arrival (logarithmic)", lines, records[0]))
        lines = [(_colour(each), _utilisation(each)) for each in records]
        parts.append(_figure("utilisation", lines, records[0], part=True))
    return "\n".join(parts) + "\n"


def _colour(record: Record) -> str:
    return COLOURS.get(record.policy, "#000000")


def _waits(record: Record, rank: int) -> Floats:
    """The 95th percentile in each part of the time; nan where nobody came."""
    waits, _ = waits_of(record)
    mine = ranks_of_users(record)[record.load.user] == rank
    at, waits = record.load.at_s[mine], waits[mine]
    bounds = np.searchsorted(at, np.linspace(0.0, record.scenario.duration_s, POINTS + 1))
    return np.array(
        [
            np.percentile(waits[a:b], 95) if b > a else np.nan
            for a, b in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True)
        ]
    )


def _utilisation(record: Record) -> Floats:
    devices = sum(group.count for group in record.scenario.devices)
    busy = per_bucket(record, np.array(record.busy_from), np.array(record.busy_to))
    merged: Floats = busy.reshape(POINTS, BUCKETS // POINTS).sum(axis=1)
    return merged / (devices * record.scenario.duration_s / POINTS)


def _figure(title: str, lines: Sequence[tuple[str, Floats]], record: Record, *, part: bool = False) -> str:
    """One axis pair. ``part``: from 0 to 1; else seconds on a logarithmic axis from 1 s."""
    top = max((float(np.nanmax(line)) for _, line in lines if not np.isnan(line).all()), default=1.0)
    decades = max(1, int(np.ceil(np.log10(max(top, 1.5)))))
    shapes = [f'<text x="{LEFT}" y="12">{escape(title)}</text>']
    marks = [(n / 4, f"{n / 4:.0%}") for n in range(5)] if part else [
        (n / decades, seconds(10.0**n)) for n in range(decades + 1)
    ]  # fmt: skip
    for at, label in marks:
        y = _y(at)
        shapes.append(f'<path d="M{LEFT} {y:.1f}H{WIDTH}" stroke="#ddd"/><text x="2" y="{y + 3:.1f}">{label}</text>')
    for n in range(5):
        x = LEFT + n / 4 * (WIDTH - LEFT)
        label = seconds(n / 4 * record.scenario.duration_s)
        anchor = "end" if n == 4 else "middle"
        shapes.append(f'<text x="{x:.0f}" y="{HEIGHT - 6}" text-anchor="{anchor}">{label}</text>')
    for colour, line in lines:
        scaled = line if part else np.log10(np.maximum(line, 1.0)) / decades
        points = " ".join(
            f"{LEFT + (n + 0.5) / len(line) * (WIDTH - LEFT):.1f},{_y(float(value)):.1f}"
            for n, value in enumerate(scaled)
            if not np.isnan(value)
        )
        shapes.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
    return f'<figure><svg width="{WIDTH}" height="{HEIGHT}" role="img">{"".join(shapes)}</svg></figure>'


def _y(at: float) -> float:
    return HEIGHT - BOTTOM - at * (HEIGHT - BOTTOM - 24)

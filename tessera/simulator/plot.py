"""Waits by tier and utilisation over the time of a scenario: one HTML page of inline SVG, or an SVG file for each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from numpy.typing import NDArray

from tessera.jobs import Tier
from tessera.simulator.fairness import TIERS, per_bucket, ranks_of_users
from tessera.simulator.metrics import waits_of
from tessera.simulator.report import seconds
from tessera.simulator.scenario import Scenario
from tessera.simulator.world import BUCKETS, Record

COLOURS = {"tessera": "#d62728", "fifo": "#7f7f7f", "strict": "#1f77b4", "horde": "#2ca02c", "invoke": "#9467bd"}
WIDTH, HEIGHT, LEFT, BOTTOM = 520, 190, 52, 24
TOP, GAP = 26, 14  # of a picture: the line of names, and between two figures
POINTS = 60  # of a line: four buckets each
_STYLE = (
    "body{font:14px sans-serif;margin:24px;color:#222}figure{display:inline-block;margin:8px}svg text{font-size:10px}"
)

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Drawn:
    """The lines of one policy: small, where the record of a day is not."""

    policy: str
    scenario: Scenario
    waits: Mapping[Tier, Floats]
    utilisation: Floats


def drawn(record: Record) -> Drawn:
    """What is drawn of a run."""
    ranks = ranks_of_users(record)[record.load.user]
    return Drawn(
        policy=record.policy,
        scenario=record.scenario,
        waits={tier: _waits(record, ranks == rank) for rank, tier in enumerate(TIERS) if (ranks == rank).any()},
        utilisation=_utilisation(record),
    )


def page(runs: Sequence[Sequence[Drawn]]) -> str:
    """All scenarios, each with its policies: a figure for each tier, and one of utilisation."""
    parts = [f"<!doctype html><meta charset=utf-8><title>Tessera: simulations</title><style>{_STYLE}</style>"]
    for policies in runs:
        if not policies:
            continue
        scenario = policies[0].scenario
        parts.append(f"<h2>{escape(scenario.name)}: {escape(scenario.title)}</h2><p>{escape(scenario.about)}</p><p>")
        parts += [f'<b style="color:{_colour(each)}">{escape(each.policy)}</b> ' for each in policies]
        parts.append("</p>")
        for shapes in _figures(policies):
            svg = f'<svg width="{WIDTH}" height="{HEIGHT}" role="img">{shapes}</svg>'
            parts.append(f"<figure>{svg}</figure>")
    return "\n".join(parts) + "\n"


def picture(policies: Sequence[Drawn]) -> str:
    """One scenario as an SVG file: its figures in two columns, below the names of the policies in their colours."""
    figures = _figures(policies)
    rows = (len(figures) + 1) // 2
    width, height = 2 * (WIDTH + GAP), TOP + rows * (HEIGHT + GAP)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
        ' font-family="sans-serif" font-size="10"><rect width="100%" height="100%" fill="#fff"/>'
    ]
    for n, each in enumerate(policies):
        parts.append(
            f'<text x="{LEFT + 90 * n}" y="16" font-size="13" font-weight="bold" fill="{_colour(each)}">'
            f"{escape(each.policy)}</text>"
        )
    for n, shapes in enumerate(figures):
        x, y = (n % 2) * (WIDTH + GAP), TOP + n // 2 * (HEIGHT + GAP)
        parts.append(f'<g transform="translate({x} {y})">{shapes}</g>')
    return "\n".join(parts) + "</svg>\n"


def _figures(policies: Sequence[Drawn]) -> list[str]:
    scenario = policies[0].scenario
    found = [
        _figure(
            f"{tier}: 95th percentile of waits, by arrival (logarithmic)",
            [(_colour(each), each.waits[tier]) for each in policies],
            scenario,
        )
        for tier in policies[0].waits
    ]
    lines = [(_colour(each), each.utilisation) for each in policies]
    return [*found, _figure("utilisation", lines, scenario, part=True)]


def _colour(of: Drawn) -> str:
    return COLOURS.get(of.policy, "#000000")


def _waits(record: Record, mine: NDArray[np.bool_]) -> Floats:
    """The 95th percentile in each part of the time; nan where nobody came."""
    waits, _ = waits_of(record)
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


def _figure(title: str, lines: Sequence[tuple[str, Floats]], scenario: Scenario, *, part: bool = False) -> str:
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
        label = seconds(n / 4 * scenario.duration_s)
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
    return "".join(shapes)


def _y(at: float) -> float:
    return HEIGHT - BOTTOM - at * (HEIGHT - BOTTOM - 24)

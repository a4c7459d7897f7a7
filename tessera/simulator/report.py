"""The results as Markdown tables: each claim a ratio against FIFO or the best baseline of the same run."""

from __future__ import annotations

from collections.abc import Sequence

from tessera.simulator.metrics import Result
from tessera.simulator.scenario import Scenario


def markdown(scenario: Scenario, results: Sequence[Result], *, level: int = 2) -> str:
    """One scenario: a table of the policies and one of their tiers."""
    fifo = next((each for each in results if each.policy == "fifo"), None)
    baselines = [each for each in results if each.policy != "tessera"]
    best = max((each.utilisation for each in baselines), default=None)
    devices = sum(group.count for group in scenario.devices)
    count = results[0].jobs if results else 0
    lines = [
        f"{'#' * level} {scenario.name}: {scenario.title}",
        "",
        f"{scenario.about} {count:,} jobs, {scenario.duration_s / 3600:g} h, {_count(devices, 'device')}.".strip(),
        "",
        "| policy | completed | waiting | utilisation | ÷ best baseline | swaps | ÷ FIFO | Jain | longest wait |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for each in results:
        against = f"{each.utilisation / best:.2f}" if best else "–"
        swaps = f"{each.swaps / fifo.swaps:.2f}" if fifo is not None and fifo.swaps else "–"
        lines.append(
            f"| {each.policy} | {each.completed:,} | {each.waiting:,} | {each.utilisation:.1%} | {against} "
            f"| {each.swaps:,} | {swaps} | {each.jain:.3f} | {seconds(each.longest_s)} |"
        )
    lines += [
        "",
        "| tier | policy | jobs | started | p50 | p95 | p99 | longest | ÷ fair | share (target) |",
        "|---|---|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for tier in [each.tier for each in results[0].tiers] if results else []:
        for each in results:
            of = next(found for found in each.tiers if found.tier == tier)
            share = "–" if of.share is None or of.target is None else f"{of.share:.0%} ({of.target:.0%})"
            waits = " | ".join(seconds(value) for value in (of.p50_s, of.p95_s, of.p99_s, of.longest_s))
            lines.append(
                f"| {tier} | {each.policy} | {of.jobs:,} | {of.started:,} | {waits} | {of.of_fair:.2f} | {share} |"
            )
    return "\n".join(lines) + "\n"


def seconds(value: float) -> str:
    """A wait, short enough for a table."""
    if value < 100:
        return f"{value:.1f} s"
    return f"{value / 60:.0f} min" if value < 7200 else f"{value / 3600:.1f} h"


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"

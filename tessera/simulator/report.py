"""The results as Markdown tables: each claim a ratio against FIFO or the best baseline of the same run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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
        "| tier | policy | jobs | started | p50 | p95 | p99 | longest | ÷ due | share (target) |",
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
    lines += _targets(results)
    return "\n".join(lines) + "\n"


@dataclass(frozen=True)
class Target:
    """One of the claims, what was measured, and whether it holds; None where the baselines leave nothing to claim."""

    claim: str
    measured: str
    holds: bool | None


def targets(results: Sequence[Result]) -> list[Target]:
    """The claims for Tessera against the baselines of the same run; none when one of the two is missing."""
    own = next((each for each in results if each.policy == "tessera"), None)
    fifo = next((each for each in results if each.policy == "fifo"), None)
    if own is None or fifo is None:
        return []
    best = max(each.utilisation for each in results if each.policy != "tessera")
    found = [
        Target(
            "swaps ≤ 1/5 of FIFO's",
            f"{own.swaps:,} / {fifo.swaps:,}" + (f" = {own.swaps / fifo.swaps:.2f}" if fifo.swaps else ""),
            own.swaps * 5 <= fifo.swaps if fifo.swaps or own.swaps else None,
        ),
        Target(
            "utilisation ≥ 95 % of the best baseline's",
            f"{own.utilisation:.1%} / {best:.1%} = {own.utilisation / max(best, 1e-9):.2f}",
            own.utilisation >= 0.95 * best,
        ),
        Target("Jain's index over users ≥ 0.95", f"{own.jain:.3f}", own.jain >= 0.95),
    ]
    lags = [(each.lag_s, each) for each in own.tiers if each.lag_s is not None]
    if lags:
        lag_s, worst = max(lags, key=lambda each: each[0])
        found.append(
            Target(
                "every tier's lag ≤ one longest job per slot",
                f"{worst.tier} {lag_s:.0f} of {worst.lag_bound_s:.0f} device-seconds",
                lag_s <= worst.lag_bound_s,
            )
        )
    for each in own.tiers:
        theirs = next(of.longest_s for of in fifo.tiers if of.tier == each.tier)
        if each.own_share_longest_s is not None:
            allowed = each.own_share_longest_s + each.longest_run_s  # nobody is interrupted
            found.append(
                Target(
                    f"{each.tier}: longest wait ≤ FIFO's in the tier's own share, and one run",
                    f"{seconds(each.longest_s)} of {seconds(allowed)}; FIFO over all tiers {seconds(theirs)}",
                    each.longest_s <= allowed,
                )
            )
    return found


def _targets(results: Sequence[Result]) -> list[str]:
    found = targets(results)
    if not found:
        return []
    held = {True: "yes", False: "**no**", None: "nothing swaps"}
    rows = [f"| {each.claim} | {each.measured} | {held[each.holds]} |" for each in found]
    return ["", "| target | measured | holds |", "|---|---|---|", *rows]


def seconds(value: float) -> str:
    """A wait, short enough for a table."""
    if value < 100:
        return f"{value:.1f} s"
    return f"{value / 60:.0f} min" if value < 7200 else f"{value / 3600:.1f} h"


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"

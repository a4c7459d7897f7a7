"""The scheduling policy on a virtual clock, beside those of its peers on the same load. Pure: no real clock.

``simulate(scenario, policies)`` runs; ``metrics`` says what came of it, ``report`` and ``plot`` show it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tessera.simulator.arrivals import LoadOfJobs, draw
from tessera.simulator.baselines import fifo, horde, invoke, strict
from tessera.simulator.machine import Machine
from tessera.simulator.scenario import Scenario, ScenarioError, load, read, shipped
from tessera.simulator.tessera import TesseraPolicy
from tessera.simulator.world import Record, SimPolicy, World

# Tessera first, then the baselines, in the order of the tables.
POLICIES: dict[str, Callable[[Machine, LoadOfJobs], SimPolicy]] = {
    "tessera": TesseraPolicy,
    "fifo": fifo,
    "strict": strict,
    "horde": horde,
    "invoke": invoke,
}

__all__ = [
    "POLICIES",
    "LoadOfJobs",
    "Record",
    "Scenario",
    "ScenarioError",
    "draw",
    "load",
    "read",
    "shipped",
    "simulate",
]


def simulate(
    scenario: Scenario,
    policies: Sequence[str] = tuple(POLICIES),
    *,
    seed: int | None = None,
    progress: Callable[[str, float], None] | None = None,
) -> list[Record]:
    """The same load under each policy. ``progress`` is told the policy and the part of it that is done."""
    jobs = draw(scenario, seed)
    records = []
    for name in policies:
        told = None if progress is None else (lambda done, name=name: progress(name, done))
        records.append(World(scenario, jobs, POLICIES[name]).run(told))
    return records

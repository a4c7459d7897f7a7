"""The scheduling policy on a virtual clock, beside those of its peers on the same load. Pure: no real clock.

``simulate(scenario, policies)`` runs; ``metrics`` says what came of it, ``report`` and ``plot`` show it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from tessera.jobs import Tier
from tessera.policy import RULES, TIER_RANK
from tessera.simulator.arrivals import LoadOfJobs, draw
from tessera.simulator.baselines import fifo, horde, invoke, strict
from tessera.simulator.history import load_history
from tessera.simulator.machine import Machine
from tessera.simulator.metrics import waits_of
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
    "load_history",
    "own_shares",
    "read",
    "run",
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
    return run(scenario, jobs, policies, progress=progress)


def run(
    scenario: Scenario,
    jobs: LoadOfJobs,
    policies: Sequence[str] = tuple(POLICIES),
    *,
    progress: Callable[[str, float], None] | None = None,
) -> list[Record]:
    """The same with a load that is there already: drawn before, or of a history."""
    records = []
    for name in policies:
        told = None if progress is None else (lambda done, name=name: progress(name, done))
        records.append(World(scenario, jobs, POLICIES[name]).run(told))
    return records


def own_shares(
    scenario: Scenario, jobs: LoadOfJobs, *, progress: Callable[[str, float], None] | None = None
) -> dict[Tier, float]:
    """The longest wait of each tier if it had its share of every device to itself, first come first served.

    The shares are those among the tiers that have jobs; a device of which a tier has a tenth is ten times slower.
    """
    ranks = np.array([TIER_RANK[user.tier] for user in jobs.users])[jobs.user]
    present = [tier for tier in Tier if (ranks == TIER_RANK[tier]).any()]
    total = sum(RULES.shares[tier] for tier in present)
    longest: dict[Tier, float] = {}
    for tier in present:
        share = RULES.shares[tier] / total
        devices = tuple(group.model_copy(update={"speed": group.speed * share}) for group in scenario.devices)
        alone = scenario.model_copy(update={"devices": devices})
        told = None if progress is None else (lambda done, tier=tier: progress(f"{tier} alone", done))
        record = World(alone, jobs.only(ranks == TIER_RANK[tier]), fifo).run(told)
        longest[tier] = float(waits_of(record)[0].max(initial=0.0))
    return longest

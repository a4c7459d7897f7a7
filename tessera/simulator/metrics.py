"""What came of a simulation, in numbers: waits, shares, fairness, swaps, utilisation. Pure; numpy over the record."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tessera.jobs import Tier
from tessera.simulator.fairness import TIERS, Floats, dues, jain, ranks_of_users, tier_shares
from tessera.simulator.world import JobEnd, Record


@dataclass(frozen=True, kw_only=True)
class TierResult:
    """One tier under one policy. Waits to the start of the run; what still waits counts with its wait so far.

    ``of_fair``: the work received over what was due (``fairness.dues``), 1 is exactly that. ``share`` and ``target``:
    of the device-seconds that went to tiers that had work waiting without a pause, over the parts of the time in which
    at least two had; ``lag_s`` is how far it fell behind its target then, at most ``lag_bound_s``. None where that
    never was. ``own_share_longest_s``: the longest wait of the tier alone, first come first served, on its share of the
    machines; None where that was not simulated. ``longest_run_s`` is of all tiers.
    """

    tier: Tier
    jobs: int
    started: int
    p50_s: float
    p95_s: float
    p99_s: float
    longest_s: float
    of_fair: float
    share: float | None
    target: float | None
    lag_s: float | None
    lag_bound_s: float
    longest_run_s: float
    own_share_longest_s: float | None = None


@dataclass(frozen=True, kw_only=True)
class Result:
    """One policy in one scenario. ``utilisation``: of the devices' time online, the part with at least one run.

    ``swaps`` are loads that evicted a model; ``loads`` are all.
    """

    policy: str
    jobs: int
    completed: int
    failed: int
    waiting: int
    running: int
    utilisation: float
    loads: int
    swaps: int
    jain: float
    longest_s: float
    tiers: tuple[TierResult, ...]

    def dump(self) -> dict[str, Any]:
        """As JSON takes it."""
        return asdict(self)


def measure(record: Record, own_share: Mapping[Tier, float] | None = None) -> Result:
    """All numbers of one run. ``own_share``: by tier, the longest wait on its own share of the machines."""
    load, end = record.load, record.scenario.duration_s
    rank = ranks_of_users(record)[load.user]
    waits, started = waits_of(record)
    state = np.array(record.state)
    of_tiers, of_users = tier_shares(record), dues(record)
    ranks = ranks_of_users(record)
    tiers = []
    for place, tier in enumerate(TIERS):
        mine = rank == place
        if not mine.any():
            continue
        p50, p95, p99, longest = np.percentile(waits[mine], [50, 95, 99, 100])
        tiers.append(
            TierResult(
                tier=tier,
                jobs=int(mine.sum()),
                started=int(started[mine].sum()),
                p50_s=float(p50),
                p95_s=float(p95),
                p99_s=float(p99),
                longest_s=float(longest),
                of_fair=float(of_users.received[ranks == place].sum() / max(1e-9, of_users.due[ranks == place].sum())),
                share=float(of_tiers.received[place]) if of_tiers.target[place] > 0 else None,
                target=float(of_tiers.target[place]) if of_tiers.target[place] > 0 else None,
                lag_s=float(of_tiers.lag_s[place]) if of_tiers.target[place] > 0 else None,
                lag_bound_s=of_tiers.bound_s,
                longest_run_s=of_tiers.longest_run_s,
                own_share_longest_s=None if own_share is None else own_share.get(tier),
            )
        )
    busy_s = float(np.sum(np.array(record.busy_to) - np.array(record.busy_from)))
    devices = sum(group.count for group in record.scenario.devices)
    return Result(
        policy=record.policy,
        jobs=len(load),
        completed=int((state == JobEnd.COMPLETED).sum()),
        failed=int((state == JobEnd.FAILED).sum()),
        waiting=int((state == JobEnd.WAITING).sum()),
        running=int((state == JobEnd.RUNNING).sum()),
        utilisation=busy_s / max(1e-9, devices * end - record.offline_s),
        loads=record.loads,
        swaps=record.swaps,
        jain=jain(record),
        longest_s=float(waits.max(initial=0.0)),
        tiers=tuple(tiers),
    )


def waits_of(record: Record) -> tuple[Floats, NDArray[np.bool_]]:
    """Each job's wait, and whether it has started; of those that have not, the wait up to the end."""
    waits = np.array(record.wait_s)
    started = waits >= 0
    return np.where(started, waits, record.scenario.duration_s - record.load.at_s), started

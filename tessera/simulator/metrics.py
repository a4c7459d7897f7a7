"""What came of a simulation, in numbers: waits, shares, fairness, swaps, utilisation. Pure; numpy over the record."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tessera.jobs import Tier
from tessera.policy import RULES, TIER_RANK
from tessera.simulator.world import BUCKETS, JobEnd, Record

Floats = NDArray[np.float64]
TIERS = tuple(sorted(Tier, key=lambda tier: TIER_RANK[tier]))
SHARES = np.array([RULES.shares[tier] for tier in TIERS])


@dataclass(frozen=True, kw_only=True)
class TierResult:
    """One tier under one policy. Waits to the start of the run; what still waits counts with its wait so far.

    ``of_fair``: the run-seconds received over the fair ones (``received_and_fair``), 1 is exactly what is due.
    ``share`` and ``target``: of the device-seconds that went to tiers that had work waiting without a pause, over the
    parts of the time in which at least two had; None where that never was.
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


def measure(record: Record) -> Result:
    """All numbers of one run."""
    load, end = record.load, record.scenario.duration_s
    rank = ranks_of_users(record)[load.user]
    waits, started = waits_of(record)
    state = np.array(record.state)
    received, wanted = shares(record)
    by_user, fair_of = received_and_fair(record)
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
                of_fair=float(by_user[ranks == place].sum() / max(1e-9, fair_of[ranks == place].sum())),
                share=float(received[place]) if wanted[place] > 0 else None,
                target=float(wanted[place]) if wanted[place] > 0 else None,
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


def ranks_of_users(record: Record) -> NDArray[np.int64]:
    """The rank of each user's tier."""
    return np.array([TIER_RANK[user.tier] for user in record.load.users])


def waits_of(record: Record) -> tuple[Floats, NDArray[np.bool_]]:
    """Each job's wait, and whether it has started; of those that have not, the wait up to the end."""
    waits = np.array(record.wait_s)
    started = waits >= 0
    return np.where(started, waits, record.scenario.duration_s - record.load.at_s), started


def shares(record: Record) -> tuple[Floats, Floats]:
    """By tier: the part received, and its target, of the device-seconds where at least two tiers were backlogged.

    A tier is backlogged in a bucket of time when it had jobs waiting at every moment of it. What a bucket's backlogged
    tiers should get of what they got together is theirs by Tessera's shares. Runs and loads both count, per slot.
    """
    backlogged = np.array([list(bucket) for bucket in record.backlogged], dtype=bool)
    backlogged[backlogged.sum(axis=1) < 2] = False
    ranks = ranks_of_users(record)[record.load.user[np.array(record.run_job, dtype=np.int64)]]
    load_ranks = np.array(record.load_rank, dtype=np.int64)
    got, due = np.zeros(len(TIERS)), np.zeros(len(TIERS))
    seconds = np.stack(
        [
            per_bucket(record, np.array(record.run_from)[ranks == place], np.array(record.run_to)[ranks == place])
            + per_bucket(
                record,
                np.array(record.load_from)[load_ranks == place],
                np.array(record.load_to)[load_ranks == place],
            )
            for place in range(len(TIERS))
        ],
        axis=1,
    )
    seconds = np.where(backlogged, seconds, 0.0)
    targets = np.where(backlogged, SHARES, 0.0)
    sums = targets.sum(axis=1, keepdims=True)
    targets = np.divide(targets, sums, out=np.zeros_like(targets), where=sums > 0)
    got = seconds.sum(axis=0)
    due = (targets * seconds.sum(axis=1, keepdims=True)).sum(axis=0)
    total = got.sum()
    return (got / total, due / total) if total > 0 else (got, due)


def per_bucket(record: Record, begin: Floats, end: Floats) -> Floats:
    """The seconds of these intervals that lie in each bucket of time."""
    edges = np.linspace(0.0, record.scenario.duration_s, BUCKETS + 1)

    def passed(moments: Floats) -> Floats:
        """The sum of max(0, edge − moment) at each edge."""
        ordered = np.sort(moments)
        sums = np.concatenate([[0.0], np.cumsum(ordered)])
        before = np.searchsorted(ordered, edges)
        total: Floats = before * edges - sums[before]
        return total

    within: Floats = np.maximum(0.0, np.diff(passed(begin) - passed(end)))  # rounding leaves a hair below 0
    return within


def jain(record: Record) -> float:
    """Jain's index over users of service received / fair share, in (0, 1]; 1 when all have the same ratio.

    (Σx)² / (n·Σx²): Jain, Chiu and Hawe, "A Quantitative Measure of Fairness and Discrimination",
    https://arxiv.org/abs/cs/9809099. x is the run-seconds that a user received in the whole time, over his fair share
    as ``received_and_fair`` says it. Who had more than that has x > 1. When somebody came is not looked at: over the
    whole time, a user who comes for the last hour counts as one who was there all day.
    """
    received, share = received_and_fair(record)
    asked = share > 0
    x = received[asked] / share[asked]
    return float(x.sum() ** 2 / (len(x) * np.sum(x**2))) if len(x) and x.any() else 1.0


def received_and_fair(record: Record) -> tuple[Floats, Floats]:
    """By user: the run-seconds received, and the fair share of all that this policy delivered.

    Fair is max-min, capped by what each asked for: first among the tiers by Tessera's shares, then equal among the
    users of a tier (https://en.wikipedia.org/wiki/Max-min_fairness).
    """
    users = len(record.load.users)
    demand = np.bincount(record.load.user, weights=record.load.seconds, minlength=users).astype(np.float64)
    of_user = record.load.user[np.array(record.run_job, dtype=np.int64)]
    lasted = np.array(record.run_to) - np.array(record.run_from)
    received = np.bincount(of_user, weights=lasted, minlength=users).astype(np.float64)
    ranks = ranks_of_users(record)
    by_tier = np.bincount(ranks, weights=demand, minlength=len(TIERS)).astype(np.float64)
    tiers = fair(by_tier, SHARES, float(received.sum()))
    share = np.zeros(users)
    for place in range(len(TIERS)):
        mine = ranks == place
        share[mine] = fair(demand[mine], np.ones(int(mine.sum())), float(tiers[place]))
    return received, share


def fair(demand: Floats, weights: Floats, total: float) -> Floats:
    """Weighted max-min: nobody gets more than his demand; what he leaves goes to the others by their weights."""
    got = np.zeros(len(demand))
    order: Sequence[int] = np.argsort(demand / weights, kind="stable").tolist()
    left, weight = min(total, float(demand.sum())), float(weights[demand > 0].sum())
    for place in order:
        if demand[place] <= 0:
            continue
        got[place] = min(demand[place], left * weights[place] / weight)
        left -= got[place]
        weight -= weights[place]
        if weight <= 1e-12:
            break
    return got

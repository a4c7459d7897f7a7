"""Who got what was due to him: against an ideal fluid server, and tier by tier while all of them had work. Pure.

The ideal is generalized processor sharing (Parekh and Gallager, https://doi.org/10.1109/90.234856): at every moment
what the machines deliver is split among the tiers that have work, by their shares, and equally among the users of a
tier. It knows when somebody came: who was there for the last hour is due a share of that hour, and not of the day.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tessera.jobs import Tier
from tessera.policy import RULES, TIER_RANK
from tessera.simulator.world import BUCKETS, JobEnd, Record

Floats = NDArray[np.float64]
TIERS = tuple(sorted(Tier, key=lambda tier: TIER_RANK[tier]))
SHARES = np.array([RULES.shares[tier] for tier in TIERS])


@dataclass(frozen=True, kw_only=True, eq=False)
class Dues:
    """By user, in seconds of work on a device of speed 1: what he received, what was due, and his largest job."""

    received: Floats
    due: Floats
    largest: Floats


def dues(record: Record) -> Dues:
    """What each user received, and what the fluid server would have given him of all that this policy delivered.

    Only runs that counted are received: those that were lost or failed helped nobody.
    """
    load, users = record.load, len(record.load.users)
    job, speed, begin, end = _runs_that_counted(record)
    work = (end - begin) * speed
    received = np.bincount(load.user[job], weights=work, minlength=users).astype(np.float64)
    delivered = sum(
        (each * per_bucket(record, begin[speed == each], end[speed == each]) for each in np.unique(speed)),
        np.zeros(BUCKETS),
    )
    largest = np.zeros(users)
    np.maximum.at(largest, load.user, load.seconds)
    return Dues(received=received, due=_fluid(record, delivered), largest=largest)


def _runs_that_counted(record: Record) -> tuple[NDArray[np.int64], Floats, Floats, Floats]:
    """The last run of each job that completed or still runs: job, speed, begin, end."""
    of = np.array(record.run_job, dtype=np.int64)
    last = np.full(len(record.load), -1, dtype=np.int64)
    last[of] = np.arange(len(of))  # the last of equal indices counts
    state = np.array(record.state)
    place = last[(last >= 0) & ((state == JobEnd.COMPLETED) | (state == JobEnd.RUNNING))]
    return (
        of[place],
        np.array(record.run_speed)[place],
        np.array(record.run_from)[place],
        np.array(record.run_to)[place],
    )


def _fluid(record: Record, delivered: Floats) -> Floats:
    """Each user's part of what was delivered, bucket by bucket; a job arrives at the beginning of its bucket."""
    load, users = record.load, len(record.load.users)
    ranks = ranks_of_users(record)
    bounds = np.searchsorted(load.at_s, np.linspace(0.0, record.scenario.duration_s, BUCKETS + 1)[1:-1])
    backlog, given = np.zeros(users), np.zeros(users)
    for place, (first, last) in enumerate(zip([0, *bounds.tolist()], [*bounds.tolist(), len(load)], strict=True)):
        backlog += np.bincount(load.user[first:last], weights=load.seconds[first:last], minlength=users)
        by_tier = np.bincount(ranks, weights=backlog, minlength=len(TIERS)).astype(np.float64)
        for rank, part in enumerate(fair(by_tier, SHARES, float(delivered[place])).tolist()):
            mine = ranks == rank
            got = backlog[mine] if part >= by_tier[rank] else np.minimum(backlog[mine], _level(backlog[mine], part))
            given[mine] += got
            backlog[mine] -= got
    return given


def _level(wanted: Floats, total: float) -> float:
    """The level up to which all are served when so much is split equally: Σ min(wanted, level) = total."""
    ordered = np.sort(wanted)
    below = np.concatenate([[0.0], np.cumsum(ordered)[:-1]])
    filled = below + ordered * np.arange(len(ordered), 0, -1)
    place = int(np.searchsorted(filled, total))
    return float((total - below[place]) / (len(ordered) - place)) if place < len(ordered) else float(ordered[-1])


def jain(record: Record) -> float:
    """Jain's index over users of service received / due, in (0, 1]; 1 when all have the same ratio.

    (Σx)² / (n·Σx²): Jain, Chiu and Hawe, "A Quantitative Measure of Fairness and Discrimination",
    https://arxiv.org/abs/cs/9809099. Nobody can be given a part of a job: who is within one job of his own from what
    was due has x = 1.
    """
    found = dues(record)
    asked = found.due > 0
    received, due, largest = found.received[asked], found.due[asked], found.largest[asked]
    x = np.where(np.abs(received - due) <= largest, 1.0, received / due)
    return float(x.sum() ** 2 / (len(x) * np.sum(x**2))) if len(x) and x.any() else 1.0


def fair(demand: Floats, weights: Floats, total: float) -> Floats:
    """Weighted max-min: nobody gets more than his demand; what he leaves goes to the others by their weights.

    https://en.wikipedia.org/wiki/Max-min_fairness
    """
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


# ---------------------------------------------------------------------- tiers


@dataclass(frozen=True, kw_only=True, eq=False)
class TierShares:
    """By tier: the part received and its target, and the lag in device-seconds with its bound."""

    received: Floats
    target: Floats
    lag_s: Floats
    bound_s: float
    longest_run_s: float


def tier_shares(record: Record) -> TierShares:
    """Of the device-seconds where at least two tiers were backlogged: what each got and should have got.

    A tier is backlogged in a bucket of time when at every moment of it somebody waited for a model that was in memory.
    Runs and loads both count, per slot. The lag is how far a tier fell behind its target in any stretch of time in
    which it was backlogged without a pause; its bound is one longest run, and one longest load, per slot.
    """
    backlogged = np.array([list(bucket) for bucket in record.backlogged], dtype=bool)
    backlogged[backlogged.sum(axis=1) < 2] = False
    run_ranks = ranks_of_users(record)[record.load.user[np.array(record.run_job, dtype=np.int64)]]
    load_ranks = np.array(record.load_rank, dtype=np.int64)
    run_from, run_to = np.array(record.run_from), np.array(record.run_to)
    load_from, load_to = np.array(record.load_from), np.array(record.load_to)
    seconds = np.stack(
        [
            per_bucket(record, run_from[run_ranks == rank], run_to[run_ranks == rank])
            + per_bucket(record, load_from[load_ranks == rank], load_to[load_ranks == rank])
            for rank in range(len(TIERS))
        ],
        axis=1,
    )
    seconds = np.where(backlogged, seconds, 0.0)
    targets = np.where(backlogged, SHARES, 0.0)
    sums = targets.sum(axis=1, keepdims=True)
    targets = np.divide(targets, sums, out=np.zeros_like(targets), where=sums > 0)
    due = targets * seconds.sum(axis=1, keepdims=True)
    total = float(seconds.sum())
    slots = sum(
        worker.slots * group.count
        for worker in record.scenario.workers
        for group in record.scenario.devices
        if group.name == worker.device
    )
    longest_run_s = float((run_to - run_from).max(initial=0.0))
    return TierShares(
        received=seconds.sum(axis=0) / max(total, 1e-9),
        target=due.sum(axis=0) / max(total, 1e-9),
        lag_s=np.array([_lag(due[:, rank] - seconds[:, rank], backlogged[:, rank]) for rank in range(len(TIERS))]),
        bound_s=slots * (longest_run_s + float((load_to - load_from).max(initial=0.0))),
        longest_run_s=longest_run_s,
    )


def _lag(behind: Floats, backlogged: NDArray[np.bool_]) -> float:
    """The largest sum of a stretch of consecutive backlogged buckets."""
    worst = so_far = 0.0
    for missing, counts in zip(behind.tolist(), backlogged.tolist(), strict=True):
        so_far = max(0.0, so_far + missing) if counts else 0.0
        worst = max(worst, so_far)
    return worst


def ranks_of_users(record: Record) -> NDArray[np.int64]:
    """The rank of each user's tier."""
    return np.array([TIER_RANK[user.tier] for user in record.load.users])


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

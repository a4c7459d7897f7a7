"""How much is measured: enough for medians that can be trusted, or just enough to see that every part works."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """``requests`` by the number of connections. ``jobs`` of one round of whole jobs, ``tasks`` of procrastinate's."""

    rounds: int
    requests: Mapping[int, int]
    jobs: int
    latency_jobs: int
    tasks: int
    commits_s: float
    load_s: float  # how long jobs arrive at random for the way to the engine
    streams: int
    handle_calls: int
    profile_s: float
    depths: str
    minutes: float = float("inf")  # after which nothing is measured once more on the platform


FULL = Sizes(
    rounds=5,
    requests={1: 300, 32: 2000, 128: 2000},
    jobs=2000,
    latency_jobs=100,
    tasks=1500,
    commits_s=1.0,
    load_s=5.0,
    streams=1000,
    handle_calls=600,
    profile_s=8.0,
    depths="1000,10000,100000,1000000",
)
QUICK = Sizes(
    rounds=1,
    requests={1: 50, 32: 300, 128: 300},
    jobs=300,
    latency_jobs=20,
    tasks=200,
    commits_s=0.3,
    load_s=2.0,
    streams=100,
    handle_calls=100,
    profile_s=3.0,
    depths="1000",
)

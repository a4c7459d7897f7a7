"""The numbers of the policy, in one place: starting values until the simulator or a benchmark moves them. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tessera.jobs import Tier

TIER_RANK: Mapping[Tier, int] = {Tier.PRO: 0, Tier.STARTER: 1, Tier.FREE: 2, Tier.BATCH: 3}


@dataclass(frozen=True, kw_only=True)
class Rules:
    """``shares``: what each tier gets of a device's seconds while all of them have work for it; they add up to 1.

    ``affinity_window`` candidates are looked through for one whose model is resident; a job is passed over at most
    ``max_skips`` times and for at most min(2 × its model's load time, ``max_skip_s`` of its tier).
    What stays, and when a swap pays, is said beside the numbers (seed 1 of the shipped scenarios).
    ``video_share`` bounds what video takes of a device's seconds in the last ``video_window_s`` while others wait.
    """

    shares: Mapping[Tier, float] = field(
        default_factory=lambda: {Tier.PRO: 0.70, Tier.STARTER: 0.18, Tier.FREE: 0.09, Tier.BATCH: 0.03}  # (start)
    )
    affinity_window: int = 16  # (start)
    max_skips: int = 8  # (start)
    max_skip_s: Mapping[Tier, float] = field(
        default_factory=lambda: {Tier.PRO: 20.0, Tier.STARTER: 40.0, Tier.FREE: 80.0, Tier.BATCH: 300.0}  # (start)
    )
    # A loaded model stays, while it has work, for so many times its load time, and for so many runs. With 2 loads alone
    # (and 2 runs of a clip) three engines on one GPU swapped 211 times in four hours, a third of FIFO's; with these 95,
    # and finished 39 % more jobs.
    stay_loads: float = 2.0  # (start)
    stay_runs: int = 40
    # Unless its runs are long: others wait meanwhile. Clips of a minute that stayed for 8 loads (320 s) held the pro
    # tier up for 9 min at the 95th percentile; with 180 s it is 6.
    longest_stay_loads: float = 8.0
    longest_stay_s: float = 180.0
    # A wait where the model is loaded that is shorter than so many of its loads is better than a swap elsewhere: the
    # swap takes from what leaves, too. The video day: 3 loads 257 swaps, 6 loads 153, 10 loads 101, FIFO 783.
    pays_loads: float = 10.0
    # The same where nobody waits for what leaves. At 1 the idle devices of the video day swap 272 times, at 4 101.
    pays_idle_loads: float = 4.0
    video_share: float = 0.5  # (start)
    video_window_s: float = 600.0  # (start)


RULES = Rules()

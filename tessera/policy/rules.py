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
    stay_loads: float = 2.0  # (start) a loaded model stays for at least so many times its load time while it has work
    video_share: float = 0.5  # (start)
    video_window_s: float = 600.0  # (start)


RULES = Rules()

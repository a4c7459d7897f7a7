"""Devices: which tier a device's seconds go to next, and which models are resident on it.

Stride scheduling over the tiers (Waldspurger and Weihl, https://www.usenix.org/legacy/publications/library/proceedings/osdi/full_papers/waldspurger.pdf):
each tier has a pass that rises by seconds / share as it is served. The virtual time is what all passes would be if each
tier had had exactly its share. Of the tiers that are not ahead of it, the one goes next whose job would be due first
(Stoica and Abdel-Wahab, https://people.eecs.berkeley.edu/~istoica/papers/eevdf-tr-95.pdf): by the lowest pass alone, a
tier of short jobs would wait for one long job of each other tier in a row. A tier that had no work for a while starts
at the virtual time: nothing is banked. Pure; times are seconds since the epoch.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from uuid import UUID

from tessera.jobs import Tier


@dataclass(slots=True, eq=False, kw_only=True)
class Resident:
    """A heavy model in the memory of a device. ``runs`` counts those since it was loaded; ``running`` goes on now."""

    model: str
    worker: str
    vram_mib: int
    since: float
    used_at: float
    load_s: float
    runs: int = 0
    running: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Swap:
    """A model on its way into a device: being loaded since ``since``, or reserved until ``evict`` are idle."""

    model: str
    worker: str
    vram_mib: int
    tier: Tier
    evict: tuple[str, ...]
    since: float
    seconds: float
    slots: int = 1  # of the worker: for so many jobs there is a place once it is loaded


@dataclass(slots=True, eq=False)
class Window:
    """Device-seconds of the last ``length_s``, and those of video among them. Old ones are forgotten as it is read."""

    length_s: float
    spent: deque[tuple[float, float, bool]] = field(default_factory=deque)
    total_s: float = 0.0
    video_s: float = 0.0

    def add(self, now: float, seconds: float, video: bool) -> None:
        self.spent.append((now, seconds, video))
        self.total_s += seconds
        self.video_s += seconds if video else 0.0

    def video_share(self, now: float) -> float:
        """Video's part of what was spent, 0 when nothing was."""
        while self.spent and self.spent[0][0] < now - self.length_s:
            _, seconds, video = self.spent.popleft()
            self.total_s -= seconds
            self.video_s -= seconds if video else 0.0
        return self.video_s / self.total_s if self.total_s > 0 else 0.0


@dataclass(slots=True, eq=False)
class Device:
    """A GPU or the CPU pool of a node. ``vram_mib`` bounds what is resident or on its way in, together."""

    name: str
    vram_mib: int
    window: Window
    node: str = ""
    passes: dict[Tier, float] = field(default_factory=lambda: dict.fromkeys(Tier, 0.0))
    virtual: float = 0.0
    active: frozenset[Tier] = frozenset()  # the tiers that had work for this device at its last decision
    resident: dict[str, Resident] = field(default_factory=dict)
    loading: Swap | None = None
    reserved: Swap | None = None
    ends: dict[UUID, tuple[str, float]] = field(default_factory=dict)  # what runs: its model and expected end

    def pass_of(self, tier: Tier) -> float:
        """The pass that a tier competes with now."""
        return self.passes[tier] if tier in self.active else max(self.passes[tier], self.virtual)

    def virtual_of(self, competing: Collection[Tier], shares: Mapping[Tier, float]) -> float:
        """The virtual time among these tiers: the mean of their passes, weighted by their shares."""
        total = sum(shares[tier] for tier in competing)
        return sum(shares[tier] * self.pass_of(tier) for tier in competing) / total

    def charge(self, tier: Tier, seconds: float, shares: Mapping[Tier, float], competing: frozenset[Tier]) -> None:
        """The tier is given so many of the device's seconds."""
        for newcomer in competing - self.active:
            self.passes[newcomer] = max(self.passes[newcomer], self.virtual)
        self.active = competing
        self.passes[tier] += seconds / shares[tier]
        self.virtual = self.virtual_of(competing, shares)

    def correct(self, tier: Tier, seconds: float, share: float) -> None:
        """It took so many seconds more, or less, than was charged."""
        self.passes[tier] += seconds / share

    @property
    def taken_mib(self) -> int:
        """What is resident or being loaded."""
        loading = self.loading.vram_mib if self.loading is not None else 0
        return sum(each.vram_mib for each in self.resident.values()) + loading

    def drained_at(self, models: tuple[str, ...], now: float) -> float:
        """When the last run of these models is expected to end; now when none runs."""
        return max((end for model, end in self.ends.values() if model in models), default=now)

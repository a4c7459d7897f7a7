"""How long runs and loads take: weighted means by worker and model, with their spread. Pure: no clock, no I/O."""

from __future__ import annotations

from dataclasses import dataclass, field

WEIGHT = 0.2  # of the newest run: five runs on a changed machine outweigh all before them
DEFAULT_S_PER_TOKEN = 2.0  # before the first run; a preview picture of 1024×1024 took 1–2 s on a shared core
MIN_RUN_S = 0.005  # a run of nothing still takes its way there and back
UNKNOWN_SPREAD = 0.6  # of a model that has not run yet


@dataclass(slots=True)
class _Rate:
    """Seconds per millitoken, and the mean of how far the runs were from it (a part of 1)."""

    seconds_per_mt: float
    spread: float = UNKNOWN_SPREAD


@dataclass(frozen=True, kw_only=True)
class Span:
    """An expected time in seconds, as a range."""

    low_s: float
    mean_s: float
    high_s: float


@dataclass
class Estimates:
    """Learns from completed runs and loads."""

    _rates: dict[tuple[str, str], _Rate] = field(default_factory=dict)
    _by_model: dict[str, _Rate] = field(default_factory=dict)
    _loads: dict[tuple[str, str], float] = field(default_factory=dict)

    def learn(self, worker: str, model: str, cost_mt: int, seconds: float) -> None:
        """A run of this price took so many seconds."""
        rate = seconds / max(1, cost_mt)
        for known in (self._rates.get((worker, model)), self._by_model.get(model)):
            if known is not None:
                off = abs(rate - known.seconds_per_mt) / max(known.seconds_per_mt, 1e-9)
                known.spread += WEIGHT * (min(off, 3.0) - known.spread)
                known.seconds_per_mt += WEIGHT * (rate - known.seconds_per_mt)
        self._rates.setdefault((worker, model), _Rate(rate))
        self._by_model.setdefault(model, _Rate(rate))

    def learn_load(self, worker: str, model: str, seconds: float) -> None:
        """Loading the model took so many seconds."""
        before = self._loads.get((worker, model))
        self._loads[worker, model] = seconds if before is None else before + WEIGHT * (seconds - before)

    def seconds(self, model: str, cost_mt: int, worker: str | None = None) -> float:
        """The expected seconds of a run: on this worker, or on any that has run the model."""
        rate = self._rates.get((worker, model)) if worker is not None else None
        rate = rate or self._by_model.get(model)
        return max(MIN_RUN_S, (rate.seconds_per_mt if rate else DEFAULT_S_PER_TOKEN / 1000) * cost_mt)

    def span(self, model: str, cost_mt: int) -> Span:
        """The expected seconds of a run as a range: wide while little is known."""
        rate = self._by_model.get(model)
        mean, spread = self.seconds(model, cost_mt), rate.spread if rate else UNKNOWN_SPREAD
        return Span(low_s=mean * max(0.3, 1 - spread), mean_s=mean, high_s=mean * (1 + 2 * spread))

    def load_s(self, worker: str, model: str, default_s: float) -> float:
        """The expected seconds of a load."""
        return self._loads.get((worker, model), default_s)

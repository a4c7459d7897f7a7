"""How long jobs take: a weighted mean of seconds per millitoken, by worker and model. No clock, no I/O."""

from __future__ import annotations

from dataclasses import dataclass, field

WEIGHT = 0.2  # of the newest run: five runs on a changed machine outweigh all before them
DEFAULT_S_PER_TOKEN = 2.0  # before the first run; a preview picture of 1024×1024 took 1–2 s on a shared core


@dataclass
class Estimates:
    """Learns from completed runs."""

    _rates: dict[tuple[str, str], float] = field(default_factory=dict)

    def learn(self, worker: str, model: str, cost_mt: int, seconds: float) -> None:
        """A run of this price took so many seconds."""
        rate = seconds / max(1, cost_mt)
        before = self._rates.get((worker, model))
        self._rates[worker, model] = rate if before is None else before + WEIGHT * (rate - before)

    def seconds(self, model: str, cost_mt: int) -> float:
        """The expected seconds of a run, on the worker that has been the fastest."""
        rates = [rate for (_, known), rate in self._rates.items() if known == model]
        rate = min(rates) if rates else DEFAULT_S_PER_TOKEN / 1000
        return max(0.05, rate * cost_mt)

"""Who is left out because of failures: a model on a worker, or a whole worker. Pure; times are seconds since the epoch.

Two failures in a row of a (worker, model), of different jobs, leave that pair out for a while; three in a row of a
worker open its circuit (https://martinfowler.com/bliki/CircuitBreaker.html). Both times double with each repetition.
One job alone never does it: a job that fails everywhere must not take the workers from everybody else.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from uuid import UUID

PAIR_FAILURES = 2
WORKER_FAILURES = 3
PAIR_PAUSE_S = 15.0  # (start) doubled each time
CIRCUIT_PAUSE_S = 10.0  # (start) doubled each time; a replica that died is back in 3–11 s
MAX_PAUSE_S = 300.0
ONE_DEATH_S = 3.0  # losses so close together are those of one process

# What a run may fail of without its worker being at fault.
NOT_THE_WORKERS = frozenset(
    {"invalid_input", "unknown_model", "unsupported_media", "content_refused", "content_withheld", "engine_busy"}
    | {"interrupted", "storage_full"}
)


class Circuit(StrEnum):
    """The state of a worker's circuit."""

    CLOSED = "closed"  # it is given work
    OPEN = "open"  # it failed too often in a row: left out until a time
    HALF_OPEN = "half_open"  # that time is over: one run is tried, and its end decides


@dataclass(slots=True)
class _Record:
    """Failures in a row since the last success, of which jobs, and until when it is left out."""

    jobs: list[UUID] = field(default_factory=list)
    until: float = 0.0
    pauses: int = 0
    tripped: bool = False
    lost_at: float = -1e9

    def died(self, now: float) -> bool:
        """Whether this loss of a process is news: all of its runs are lost at once, and that is one failure."""
        news = now - self.lost_at > ONE_DEATH_S
        self.lost_at = now
        return news

    def failed(self, job: UUID, limit: int, pause_s: float, now: float) -> bool:
        """Returns whether it is left out from now on."""
        if self.tripped and now < self.until:
            return False  # what still ran there when it was left out: the same incident
        self.jobs = [*self.jobs[-(limit - 1) :], job] if limit > 1 else [job]
        half_open = self.tripped and now >= self.until
        if half_open or (len(self.jobs) >= limit and len(set(self.jobs)) > 1):
            self.leave_out(pause_s, now)
            return True
        return False

    def leave_out(self, pause_s: float, now: float) -> None:
        """For a while, longer each time."""
        self.until = now + min(MAX_PAUSE_S, pause_s * 2 ** min(self.pauses, 16))
        self.pauses += 1
        self.tripped = True


@dataclass
class Failures:
    """What failed lately. One per scheduler; it starts empty."""

    _pairs: dict[tuple[str, str], _Record] = field(default_factory=dict)
    _workers: dict[str, _Record] = field(default_factory=dict)
    # What an operator keeps off a worker: (worker, model) → until when, and why. No success and no failure changes it.
    by_hand: dict[tuple[str, str], tuple[float, str]] = field(default_factory=dict)

    def failed(self, worker: str, model: str, job: UUID, code: str, now: float) -> list[str]:
        """A run failed. Returns what is left out because of it: names for the log."""
        if code in NOT_THE_WORKERS:
            return []
        whole = self._workers.setdefault(worker, _Record())
        told = []
        if code == "worker_lost":
            if not whole.died(now):
                return []
        elif self._pairs.setdefault((worker, model), _Record()).failed(job, PAIR_FAILURES, PAIR_PAUSE_S, now):
            told.append(f"{model} on {worker}")
        if whole.failed(job, WORKER_FAILURES, CIRCUIT_PAUSE_S, now):
            told.append(worker)
        return told

    def load_failed(self, worker: str, model: str, now: float) -> None:
        """The model could not be loaded: the pair is left out at once, for no job tells whether it would be again."""
        self._pairs.setdefault((worker, model), _Record()).leave_out(PAIR_PAUSE_S, now)

    def succeeded(self, worker: str, model: str) -> None:
        """A run completed: all is forgiven."""
        self._pairs.pop((worker, model), None)
        self._workers.pop(worker, None)

    def circuit(self, worker: str, now: float) -> Circuit:
        """The state of a worker's circuit."""
        record = self._workers.get(worker)
        if record is None or not record.tripped:
            return Circuit.CLOSED
        return Circuit.OPEN if now < record.until else Circuit.HALF_OPEN

    def circuit_until(self, worker: str) -> float | None:
        """When an open circuit becomes half open."""
        record = self._workers.get(worker)
        return record.until if record is not None and record.tripped else None

    def excluded(self, worker: str, now: float) -> dict[str, float]:
        """The models that are left out on this worker, by failures or by hand, each until when."""
        found = {
            model: record.until
            for (name, model), record in self._pairs.items()
            if name == worker and record.tripped and now < record.until
        }
        for (name, model), (until, _) in self.by_hand.items():
            if name == worker and now < until:
                found[model] = max(until, found.get(model, 0.0))
        return found

    def next_change(self, now: float) -> float | None:
        """When the next pause is over."""
        times = [r.until for r in (*self._pairs.values(), *self._workers.values()) if r.tripped and r.until > now]
        return min(times, default=None)

"""What is done with a run that failed: once more, and when, or given up. Pure; the caller passes the jitter.

Up to three failures, with backoff and jitter, keeping the place. Invalid input and what a retry cannot mend are given
up at once; out of memory is tried once more, after unloading.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

MAX_FAILURES: Final = 3
BACKOFF_S: Final = (1.0, 5.0)  # a replica that died is back in 3–11 s: the second try usually meets it
MAX_WORKERS_KILLED: Final = 2

# Failures that another attempt cannot mend.
HOPELESS: Final = frozenset(
    {
        "invalid_input",
        "unknown_model",
        "model_missing",
        "storage_full",
        "unsupported_media",
        "content_refused",
        "content_withheld",
    }
)
# Of these, those that the input alone brings about. A withheld result is not among them: the model made it.
USERS_OWN: Final = frozenset({"invalid_input", "unknown_model", "unsupported_media", "content_refused"})


@dataclass(frozen=True, kw_only=True)
class Retry:
    """Run it again in ``delay_s`` seconds; ``counted`` says whether it uses up the retry budget."""

    delay_s: float
    counted: bool


@dataclass(frozen=True, kw_only=True)
class GiveUp:
    """Fail the job with this code; ``ours`` says whether the cause was ours."""

    code: str
    ours: bool


def decide(code: str, *, failures: int, workers_killed: int = 0, jitter: float = 0.5) -> Retry | GiveUp:
    """What follows a failure.

    code: of the error; failures: those counted before this one; workers_killed: on how many different workers the job
    has been when the worker died, this time included; jitter: a number in 0…1 that spreads the retries.
    """
    if code in HOPELESS:
        return GiveUp(code=code, ours=code not in USERS_OWN)
    if workers_killed >= MAX_WORKERS_KILLED:
        return GiveUp(code="quarantined", ours=True)
    if code == "engine_busy":
        return Retry(delay_s=1.0 + jitter, counted=False)
    if code == "out_of_memory":
        return Retry(delay_s=1.0, counted=True) if failures == 0 else GiveUp(code=code, ours=True)
    if failures + 1 >= MAX_FAILURES:
        return GiveUp(code="quarantined" if code == "worker_lost" else code, ours=True)
    return Retry(delay_s=BACKOFF_S[failures] * (0.75 + 0.5 * jitter), counted=True)

"""What a job is, and the only ways in which its state may change.

The same table of transitions is held by the database (trigger ``jobs_guard_transition`` in sql/schema.sql); a test
compares the two. Pure: no I/O, no clock.
"""

from __future__ import annotations

from enum import StrEnum


class Kind(StrEnum):
    """What a job makes."""

    IMAGE = "image"
    VIDEO = "video"
    TEXT = "text"
    TRANSCRIPTION = "transcription"
    SPEECH = "speech"
    MUSIC = "music"


class Tier(StrEnum):
    """The four priority classes, highest first; the first three follow the user's plan."""

    PRO = "pro"
    STARTER = "starter"
    FREE = "free"
    BATCH = "batch"  # asked for with tier "batch": work that never delays a person


class JobState(StrEnum):
    """The condition that a job is in. The last four are final: nothing leaves them."""

    CREATED = "created"  # durable and held, not yet eligible (not_before, inputs on their way); left when it is due
    QUEUED = "queued"  # eligible; left by a claim, a cancel, its deadline, or an operator
    RUNNING = "running"  # claimed by one attempt under a lease; left by an outcome, or back to queued on a retry
    COMPLETED = "completed"  # its artifacts are readable and it is charged
    FAILED = "failed"  # given up, refunded; code 'quarantined' marks a job that kills its workers
    CANCELLED = "cancelled"  # by its user; what was not executed is refunded
    EXPIRED = "expired"  # its deadline passed before it ran; refunded


FINAL: frozenset[JobState] = frozenset({JobState.COMPLETED, JobState.FAILED, JobState.CANCELLED, JobState.EXPIRED})

TRANSITIONS: dict[JobState, frozenset[JobState]] = {
    JobState.CREATED: frozenset({JobState.QUEUED, JobState.CANCELLED, JobState.EXPIRED}),
    JobState.QUEUED: frozenset({JobState.RUNNING, JobState.CANCELLED, JobState.EXPIRED, JobState.FAILED}),
    JobState.RUNNING: frozenset({JobState.QUEUED, JobState.COMPLETED, JobState.FAILED, JobState.CANCELLED}),
    JobState.COMPLETED: frozenset(),
    JobState.FAILED: frozenset(),
    JobState.CANCELLED: frozenset(),
    JobState.EXPIRED: frozenset(),
}


class EventType(StrEnum):
    """What can happen to a job. Durable ones are rows of job_events and carry an SSE id; the rest are ephemeral."""

    CREATED = "created"  # durable: accepted, waits for not_before
    QUEUED = "queued"  # durable: eligible, or back after a retry (data.reason); an ephemeral one tells the position
    STARTED = "started"  # durable: an attempt has claimed it
    PROGRESS = "progress"  # ephemeral
    PREVIEW = "preview"  # ephemeral
    CHUNK = "chunk"  # ephemeral
    OUTPUT = "output"  # durable: one artifact is readable
    COMPLETED = "completed"  # durable, final
    FAILED = "failed"  # durable, final
    CANCELLED = "cancelled"  # durable, final
    EXPIRED = "expired"  # durable, final
    CANCEL_REQUESTED = "cancel_requested"  # durable, internal: tells the scheduler, never a subscriber


FINAL_EVENTS: frozenset[EventType] = frozenset(
    {EventType.COMPLETED, EventType.FAILED, EventType.CANCELLED, EventType.EXPIRED}
)

"""What the pure and middle layers need from Ray and from the artifact store, as protocols.

``tessera/scheduler/actor.py`` and ``deployments/`` implement the first two with Ray's handles, ``tessera/artifacts.py``
the third; nothing below them imports Ray.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Protocol
from uuid import UUID

from tessera.jobs import EventType


@dataclass(frozen=True, kw_only=True)
class LiveEvent:
    """An ephemeral event of a running job (progress, preview, chunk): told to subscribers, never stored.

    ``data`` is JSON data: progress {fraction, note}, preview {media_type, data_base64}, chunk {offset, text}.
    """

    job_id: UUID
    attempt: int
    type: EventType
    at: datetime
    data: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a queued job stands: position 1 starts next; the ETA of its end in seconds, as a range.

    The ETA is None where nobody can say: what keeps the job from starting has no known end.
    """

    position: int
    eta_low_s: float | None
    eta_high_s: float | None


@dataclass(frozen=True, kw_only=True)
class WorkerStatus:
    """A worker as the scheduler sees it.

    ``draining_until``: it takes no new job until then, by an operator's drain. ``circuit``: closed, open (too many
    failures in a row: left out until ``circuit_until``) or half_open (one job is tried). ``excluded``: models that
    failed here and are left out, each until when. ``resident``: heavy models loaded; ``loading``: the one on its way.
    """

    name: str
    online: bool
    models: Sequence[str]
    slots: int
    running: int
    message: str = ""
    node: str = ""
    device: str = ""
    offline_since: datetime | None = None
    draining_until: datetime | None = None
    circuit: str = "closed"
    circuit_until: datetime | None = None
    excluded: Mapping[str, datetime] = field(default_factory=dict)
    resident: Sequence[str] = ()
    loading: str | None = None


class WaitCode(StrEnum):
    """Why a job waits. Several may hold at once; the first of an explanation is what to look at first."""

    NOT_BEFORE = "not_before"  # the time its user asked for has not come
    BACKOFF = "backoff"  # a run failed; the next try comes after a pause, in its old place
    PAUSED = "paused"  # an operator has paused its kind
    RUNNING_CAP = "running_cap"  # its user runs as many jobs as the plan allows
    WORKER_OFFLINE = "worker_offline"  # every worker that has its model is away
    DRAINING = "draining"  # every worker that has its model takes no new jobs, by an operator's drain
    EXCLUDED = "excluded"  # its model failed on every worker lately and is left out for a while
    CIRCUIT_OPEN = "circuit_open"  # its workers failed several times in a row and are left out for a while
    DOES_NOT_FIT = "does_not_fit"  # its model is larger than any device that could run it
    MODEL_LOAD = "model_load"  # its model is being loaded, or the device is being freed for it
    VIDEO_SHARE = "video_share"  # video has used its share of the device lately, and others wait
    AHEAD = "ahead"  # other jobs are served before it, by tier and by each user's share
    SLOTS_BUSY = "slots_busy"  # next in line; all slots of its workers are taken
    SCHEDULER_RESTARTING = "scheduler_restarting"  # the scheduler is away, or has not read the job yet: said by the API


@dataclass(frozen=True, kw_only=True)
class WaitReason:
    """One reason: a code for programs, a sentence for people, when it is over (None: unknown), and its data."""

    code: WaitCode
    message: str
    until: datetime | None = None
    data: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class WorkerView:
    """A worker that has the job's model: whether it could take the job now, and if not, why (a sentence)."""

    name: str
    node: str
    device: str
    online: bool
    free_slots: int
    slots: int
    resident: bool
    can_run: bool
    why_not: str = ""


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """Why a live job waits, or where it runs. Jobs that ended, or that the scheduler has not seen yet, have none.

    ``position``: 1 starts next, 0 has no place in line (it runs, or its time has not come); ``position_in_tier`` among
    its tier's jobs for the same devices; ``position_of_user`` among its user's own. ``ahead``: jobs that are served
    before it, by tier, as the policy sees it now. ``own_s``: what its run is expected to take, in seconds.
    """

    job_id: UUID
    state: str
    summary: str
    position: int
    position_in_tier: int
    position_of_user: int
    ahead: Mapping[str, int]
    own_jobs_ahead: int
    running_of_user: int
    max_running: int
    reasons: Sequence[WaitReason]
    workers: Sequence[WorkerView]
    eta_low_s: float | None
    eta_high_s: float | None
    own_s: float


class SchedulerPort(Protocol):
    """What the ingress asks of the scheduler actor. Every call has a timeout and raises Unavailable past it."""

    def subscribe(self) -> AsyncIterator[Sequence[LiveEvent]]:
        """The ephemeral events of all jobs from now on, in batches, an empty one at least every 5 s as a heartbeat.

        Ends or raises when the scheduler restarts; subscribe again.
        """
        ...

    async def so_far(self, job_id: UUID) -> Sequence[LiveEvent]:
        """What a late reader of a running job needs: its last progress, and its text so far as one chunk."""
        ...

    async def places(self, job_ids: Sequence[UUID]) -> Mapping[UUID, Place]:
        """The places of those of the jobs that are queued, or run (position 0)."""
        ...

    async def workers(self) -> Sequence[WorkerStatus]: ...

    async def explain(self, job_id: UUID) -> Explanation | None:
        """Why a live job waits; None for a job that the scheduler does not know (ended, or not due yet)."""
        ...


@dataclass(frozen=True, kw_only=True)
class StoredFile:
    """A file in the artifact store: its content hash, its size, its type found by content, and what was measured."""

    sha256: str
    media_type: str
    bytes: int
    width: int | None = None
    height: int | None = None
    duration_s: float | None = None
    thumbnail_sha256: str | None = None


class ArtifactPort(Protocol):
    """The content-addressed artifact store. Its bytes are durable when ``put`` returns.

    Access is decided by rows in Postgres, never by knowing a hash.
    """

    async def put(self, data: bytes) -> str:
        """Store the bytes; returns their SHA-256 in hex. Safe to repeat. Raises StorageFull."""
        ...

    async def get(self, sha256: str) -> bytes:
        """All bytes of a file. Raises NotFound."""
        ...

    async def put_manifest(self, name: str, data: bytes) -> None:
        """Store the small outcome manifest of a run under its name, replacing an older one. Raises StorageFull."""
        ...

    async def get_manifest(self, name: str) -> bytes | None: ...

    async def delete_manifest(self, name: str) -> None: ...

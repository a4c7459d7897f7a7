"""What the pure and middle layers need from Ray and from the artifact store, as protocols.

``tessera/scheduler/actor.py`` and ``deployments/`` implement the first two with Ray's handles, ``tessera/artifacts.py``
the third; nothing below them imports Ray.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
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
    """Where a queued job stands: position 1 starts next; the ETA of its end in seconds, as a range."""

    position: int
    eta_low_s: float
    eta_high_s: float


@dataclass(frozen=True, kw_only=True)
class WorkerStatus:
    """A worker as the scheduler sees it."""

    name: str
    online: bool
    models: Sequence[str]
    slots: int
    running: int
    message: str = ""


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

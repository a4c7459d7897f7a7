"""What the API is made of. The entry point builds these once, starts and closes them; no route makes its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from tessera.admission import Admission
from tessera.api.deliveries.bell import Bell
from tessera.api.deliveries.sender import Sender
from tessera.api.events.feed import Feed
from tessera.api.standing import Standing
from tessera.api.watermarks import Watermarks
from tessera.artifacts import ArtifactStore
from tessera.catalog import Catalog
from tessera.config import Settings
from tessera.outbound import Outbound
from tessera.ports import SchedulerPort
from tessera.store.database import Database


def utc_now() -> datetime:
    """The present, with its time zone."""
    return datetime.now(UTC)


@dataclass(frozen=True, kw_only=True)
class Services:
    """The collaborators of one ingress replica."""

    settings: Settings
    catalog: Catalog
    db: Database
    admission: Admission
    artifacts: ArtifactStore
    scheduler: SchedulerPort
    feed: Feed
    watermarks: Watermarks
    outbound: Outbound
    bell: Bell
    sender: Sender
    standing: Standing
    clock: Callable[[], datetime] = utc_now
    body_silence_s: float = 20.0  # how long a request's body may say nothing; see middleware.py
    heartbeat_s: float = 15.0  # proxies close a silent stream after 30 s or more

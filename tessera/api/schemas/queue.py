"""What the API says of the queue. Documentation only, like ``base.py``, of whose bases these are."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import Field

from tessera.api.schemas.base import Answer, Banner
from tessera.jobs import Kind, Tier


class QueueLine(Answer):
    """Jobs of one kind and tier, of all users together."""

    kind: Kind
    tier: Tier
    queued: int = Field(description="that wait for a worker; not those for later", examples=[12])
    running: int = Field(examples=[2])
    oldest_wait_s: int | None = Field(default=None, description="of those that wait now", examples=[41])


class QueueModel(Answer):
    id: str = Field(examples=["preview-image"])
    kind: Kind
    state: Literal["warm", "cold", "offline", "unknown"] = Field(
        description="warm: can start at once; cold: has to be loaded first; offline: no worker that has it is up;"
        " unknown: the scheduler does not answer"
    )


class QueuePause(Answer):
    kind: Kind
    message: str = Field(description="from the operator; may be empty")
    since: datetime


class Queue(Answer):
    """`lines` has only kinds and tiers of which something waits or runs."""

    as_of: datetime
    queued: int
    running: int
    lines: list[QueueLine]
    models: list[QueueModel]
    pauses: list[QueuePause] = Field(description="kinds of which no job starts; submissions are accepted")
    banner: Banner | None = Field(default=None, description="what the operator tells everybody")

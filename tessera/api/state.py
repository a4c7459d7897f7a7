"""What one application holds beside its services: what counts and remembers within this process."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from dataclasses import dataclass, field
from uuid import UUID

from fastapi import Request

from tessera.api.auth import Authenticator
from tessera.api.depth import DepthGauge
from tessera.api.metrics import Metrics
from tessera.api.services import Services
from tessera.api.workers import Workers

MEDIA_THREADS = 2  # uploads that are decoded at the same time: each may take 200 MB for a moment


@dataclass(kw_only=True)
class Api:
    """One application's state. ``streams`` counts the open event streams of each user."""

    services: Services
    authenticator: Authenticator
    metrics: Metrics
    workers: Workers
    depth: DepthGauge
    patterns: list[tuple[re.Pattern[str], set[str]]] = field(default_factory=list)  # of all routes, with their methods
    streams: Counter[UUID] = field(default_factory=Counter)
    fetches: Counter[UUID] = field(default_factory=Counter)  # of files by address, of each user
    leaving: set[asyncio.Task[None]] = field(default_factory=set)  # cancels of jobs whose callers went away
    media: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(MEDIA_THREADS))


def api_of(request: Request) -> Api:
    """The state of the application that answers this request."""
    api = request.app.state.api
    assert isinstance(api, Api)
    return api

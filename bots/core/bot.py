"""One bot: what it is configured to be, its voice, its platform, and what it knows of the jobs under way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime

from bots.config import BotConfig
from bots.core.backend import Backend, Known
from bots.core.incoming import Incoming, Person
from bots.core.messages import Messages, Words, choose
from bots.core.metrics import BotMetrics
from bots.core.options import Wish
from bots.core.screens import PersonSettings
from bots.core.speaking import Speaker
from tessera.client import ClientError


@dataclass(kw_only=True)
class _JobLock:
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    users: int = 0


@dataclass(kw_only=True)
class Bot:
    """Shared by all that a bot does. ``clock`` gives the time of day."""

    config: BotConfig
    backend: Backend
    say: Speaker
    messages: Messages
    metrics: BotMetrics
    clock: Callable[[], datetime]
    public_url: str
    name: str = ""  # what the platform calls it: @name
    _jobs: dict[str, _JobLock] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        """image or video."""
        return self.config.kind

    @asynccontextmanager
    async def job(self, job_id: str) -> AsyncIterator[None]:
        """Only one of those who show a job (its status, its result) is at work on it."""
        entry = self._jobs.setdefault(job_id, _JobLock())
        entry.users += 1
        try:
            async with entry.lock:
                yield
        finally:
            entry.users -= 1
            if not entry.users:
                self._jobs.pop(job_id, None)

    async def known(self, person: Person) -> tuple[PersonSettings, Known]:
        """A person's settings and plan. Raises ClientError."""
        known = await self.backend.person(person)
        return PersonSettings.read(dict(known.settings), self.kind), known

    def words(self, person: Person, settings: PersonSettings | None) -> Words:
        """In the person's language: as set, as the platform tells, as the bot speaks."""
        wishes = (settings.language if settings else None, person.locale, self.config.languages[0])
        return self.messages.words(choose(wishes, self.config.languages))

    async def words_of(self, incoming: Incoming) -> Words:
        """The same for who has just done something; without the platform's help where that is away."""
        try:
            settings, _ = await self.known(incoming.person)
        except ClientError:
            settings = None
        return self.words(incoming.person, settings)

    def defaults(self, settings: PersonSettings) -> Wish:
        """What a wish that says nothing means for this person and bot."""
        default = self.config.defaults
        return Wish(
            ratio=settings.ratio or default.ratio,
            count=default.count if self.kind == "image" else None,
            model=settings.model or default.model,
            spoiler=settings.spoiler if settings.spoiler is not None else default.spoiler,
            duration_s=default.duration_s if self.kind == "video" else None,
        )

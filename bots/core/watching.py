"""Follows jobs that wait or run, and keeps their status messages fresh as far as the platform's limits let it.

The result itself never comes from here: it comes from the outbox (``deliveries.py``), so what is followed here may be
lost at any moment without loss.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from contextlib import aclosing
from dataclasses import replace

import structlog

from bots.core.bot import Bot
from bots.core.incoming import MessageRef, Person
from bots.core.messages import Words
from bots.core.platform import ChatError
from bots.core.results import subject_of
from bots.core.status import Standing, Subject, standing_view
from tessera.client import ClientError, Eta, Event, Job
from tessera.jobs import EventType, JobState

log = structlog.get_logger(__name__)

MAX_FOLLOWED = (
    500  # (start) each is a connection to the platform; who comes after that sees no progress, but the result
)
SHOW_EVERY_S = 1.2
PREVIEW_EVERY_S = 3.0  # a preview is an upload
LOOK_S = 0.4


class Watchers:
    """The jobs that one bot follows."""

    def __init__(self, bot: Bot) -> None:
        self._bot = bot
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._people: dict[str, str] = {}
        self._cancelling: set[str] = set()

    def follow(self, job: Job, subject: Subject, ref: MessageRef, person: Person, words: Words) -> None:
        """Show the progress of a job in this message, until it ends."""
        if job.id in self._tasks or job.is_final or len(self._tasks) >= MAX_FOLLOWED:
            return
        task = asyncio.create_task(self._follow(job, subject, ref, person, words), name=f"follow-{job.id}")
        self._tasks[job.id] = task
        self._people[job.id] = person.identity
        task.add_done_callback(lambda _: self._ended(job.id))
        self._bot.metrics.following.labels(self._bot.config.id).set(len(self._tasks))

    @property
    def followed(self) -> dict[str, str]:
        """The jobs that are followed, each with the identity of its person."""
        return dict(self._people)

    async def follow_again(self, followed: Mapping[str, str]) -> None:
        """Go on with what a process that has ended followed. What cannot be found is left: its result comes anyway."""
        for job_id, identity in followed.items():
            async with self._bot.job(job_id):  # not beside its result, which might be brought at this moment
                try:
                    job = await self._bot.backend.of(identity).get_job(job_id)
                    errand = await self._bot.backend.errand(job_id)
                except (ClientError, KeyError, TypeError) as error:
                    log.info("not_followed_again", bot=self._bot.config.id, job=job_id, reason=str(error))
                    continue
                if errand.message is not None:
                    subject = subject_of(self._bot, job, errand.person)
                    self.follow(job, subject, errand.message, errand.person, self._bot.messages.words(errand.language))

    def cancelling(self, job_id: str) -> None:
        """The person has cancelled it: say so until it has ended."""
        if job_id in self._tasks:
            self._cancelling.add(job_id)

    def stop(self, job_id: str) -> None:
        """Its result is there: nothing older may be shown after it."""
        task = self._tasks.pop(job_id, None)
        self._people.pop(job_id, None)
        if task is not None:
            task.cancel()

    async def close(self) -> None:
        """End all of them."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _ended(self, job_id: str) -> None:
        self._tasks.pop(job_id, None)
        self._people.pop(job_id, None)
        self._cancelling.discard(job_id)
        self._bot.metrics.following.labels(self._bot.config.id).set(len(self._tasks))

    async def _follow(self, job: Job, subject: Subject, ref: MessageRef, person: Person, words: Words) -> None:
        state = _Follower(job)
        showing = asyncio.create_task(self._show(state, subject, ref, words))
        try:
            async with aclosing(self._bot.backend.of(person.identity).events(job.id)) as events:
                async for event in events:
                    state.feed(event)
                    if event.is_final:
                        return
        except ClientError as error:
            log.info("not_followed", bot=self._bot.config.id, job=job.id, reason=error.message)
        finally:
            showing.cancel()
            await asyncio.gather(showing, return_exceptions=True)

    async def _show(self, state: _Follower, subject: Subject, ref: MessageRef, words: Words) -> None:
        shown: Standing | None = None
        shown_at = preview_at = 0.0
        model, kind = state.model, state.kind
        while True:
            await asyncio.sleep(LOOK_S)
            now = time.monotonic()
            standing = state.standing
            if not standing.running:
                offline, paused = await self._bot.backend.outage(model, kind)
                standing = replace(standing, offline=offline, paused=paused)
            if subject.job_id in self._cancelling:
                standing = replace(standing, cancelling=True)
            if standing.preview is not None and now < preview_at + PREVIEW_EVERY_S and shown is not None:
                standing = replace(standing, preview=shown.preview, preview_type=shown.preview_type)
            if standing == shown or now < shown_at + SHOW_EVERY_S:
                continue
            try:
                if not await self._bot.say.offer(ref, standing_view(subject, standing, words)):
                    continue
            except ChatError as error:
                log.info("progress_not_shown", bot=self._bot.config.id, job=subject.job_id, reason=str(error))
                return
            if shown is None or standing.preview is not shown.preview:
                preview_at = now
            shown, shown_at = standing, now


class _Follower:
    """What the events of a job have told so far."""

    def __init__(self, job: Job) -> None:
        self.model, self.kind = job.model, job.kind
        self.standing = Standing(running=job.state == JobState.RUNNING, position=job.position, eta=job.eta)

    def feed(self, event: Event) -> None:
        """Take an event in."""
        data = event.data
        match event.type:
            case EventType.QUEUED if event.is_retry:
                self.standing = Standing(retried=True)
            case EventType.QUEUED:
                position = data.get("position")
                self.standing = replace(
                    self.standing,
                    running=False,
                    position=position if isinstance(position, int) else self.standing.position,
                    eta=_eta(data) if "eta" in data else self.standing.eta,
                )
            case EventType.STARTED:
                self.standing = Standing(running=True)
            case EventType.PROGRESS:
                fraction = data.get("fraction")
                if isinstance(fraction, int | float):
                    self.standing = replace(self.standing, running=True, fraction=float(fraction), eta=_eta(data))
            case EventType.PREVIEW:
                picture = event.preview_image
                if picture is not None:
                    media_type = str(data.get("media_type") or "image/jpeg")
                    self.standing = replace(self.standing, running=True, preview=picture, preview_type=media_type)
            case _:
                pass


def _eta(data: dict[str, object]) -> Eta | None:
    eta = data.get("eta")
    if isinstance(eta, dict) and "low_s" in eta and "high_s" in eta:
        return Eta(low_s=eta["low_s"], high_s=eta["high_s"])
    return None

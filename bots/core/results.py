"""A job that has ended, as the message that its person sees: files fetched, put in a grid, made to fit, or linked."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import replace

import structlog

from bots.core import pictures
from bots.core.bot import Bot
from bots.core.incoming import Incoming, Person, Place
from bots.core.messages import Words
from bots.core.platform import TooLarge
from bots.core.screens import ChatRules
from bots.core.status import Subject, artifact_name, result_view, strip_look
from bots.core.views import Media, View, plain
from tessera.client import ApiError, Artifact, Client, ClientError, Job, Me
from tessera.jobs import JobState

log = structlog.get_logger(__name__)

GRID_OF = 4
MAX_FETCH_BYTES = 256 << 20  # more than any result; what is larger is only linked
LINK_S = 86_400


def subject_of(bot: Bot, job: Job, person: Person) -> Subject:
    """What a status message of this job says of it."""
    metadata = job.metadata or {}
    return Subject(
        job_id=job.id,
        owner=person.subject,
        kind=job.kind,
        prompt=str(metadata.get("prompt") or strip_look(str(job.input.get("prompt") or ""), bot.config.look)),
        colour=bot.config.colour,
        spoiler=bool(metadata.get("spoiler")),
        upscaled=job.input.get("scale") is not None,
        from_picture=job.input.get("image") is not None,
    )


def wants_spoiler(job: Job) -> bool:
    """Whether the safety rules want it hidden."""
    return bool(getattr(job, "spoiler", None) or (job.output or {}).get("spoiler"))


def adults_only_allowed(place: Place, rules: ChatRules) -> bool:
    """Whether what is for adults may be asked for here: an admin must allow it, and where the platform knows channels
    for adults (Discord), it must be one of them. In private there is nobody to allow it."""
    return not place.private and rules.adult and (place.age_restricted or not place.server)


async def render(
    bot: Bot, job: Job, person: Person, place: Place, words: Words, *, limit_bytes: int | None = None
) -> View:
    """The message of a job that has ended: files of at most ``limit_bytes`` (what the platform takes), or a link.

    Raises ClientError when the platform is away; then it is tried again.
    """
    client = bot.backend.of(person.identity)
    subject = subject_of(bot, job, person)
    if job.state != JobState.COMPLETED:
        return result_view(subject, job, words, media=(), me=None)
    rules = await bot.backend.rules(place)
    me = await _me(client)
    subject = replace(subject, spoiler=subject.spoiler or wants_spoiler(job) or (rules.spoiler and not place.private))
    try:
        files = await fetch(client, job, spoiler=subject.spoiler)
    except ApiError as error:
        if error.status not in (404, 410):
            raise
        return result_view(subject, job, words, media=(), me=me, withheld_here=words("done-gone"))
    limit = bot.say.upload_limit_bytes if limit_bytes is None else limit_bytes
    shown, changed = await asyncio.to_thread(_fit, files, limit)
    if shown is not None:
        return result_view(subject, job, words, media=(shown,), me=me, made_smaller=changed)
    url = await share(bot, client, job.artifacts[0]) if job.artifacts else ""
    withheld = "" if url else words("done-blocked-here")
    return result_view(subject, job, words, media=(), me=me, link_url=url, withheld_here=withheld)


async def fetch(client: Client, job: Job, *, spoiler: bool = False, as_file: bool = False) -> list[Media]:
    """The files of a job. Raises ClientError, BadAnswer for one that is larger than anything we send."""
    return [
        await fetch_one(client, job, artifact, number, spoiler=spoiler, as_file=as_file)
        for number, artifact in enumerate(job.artifacts, 1)
    ]


async def fetch_one(
    client: Client, job: Job, artifact: Artifact, number: int, *, spoiler: bool = False, as_file: bool = False
) -> Media:
    """One file of a job."""
    data = bytearray()
    if artifact.bytes <= MAX_FETCH_BYTES:
        async with aclosing(client.stream(artifact)) as chunks:
            async for chunk in chunks:
                data += chunk
    return Media(
        name=artifact_name(job, artifact, number),
        media_type=artifact.media_type.split(";")[0],
        data=bytes(data),
        spoiler=spoiler,
        as_file=as_file,
        width=artifact.width,
        height=artifact.height,
        duration_s=float(artifact.duration_s) if artifact.duration_s is not None else None,
    )


async def bring_originals(bot: Bot, incoming: Incoming, job: Job, person: Person, words: Words) -> None:
    """The files as they were made, each a message of its own; a link for what the platform does not take.

    Raises ClientError or ChatError when it is to be tried again.
    """
    client = bot.backend.of(person.identity)
    for number, artifact in enumerate(job.artifacts, 1):
        if artifact.bytes <= bot.say.upload_limit_bytes:
            media = await fetch_one(client, job, artifact, number, as_file=True)
            try:
                await bot.say.answer(incoming, View(media=(media,), only_for_asker=True))
                continue
            except TooLarge as error:  # a limit of this very chat
                log.info("original_refused", bot=bot.config.id, job=job.id, reason=str(error))
        url = await share(bot, client, artifact)
        text = View(lines=(plain(words("done-blocked-here")),), only_for_asker=True)
        await bot.say.answer(incoming, link_view(url, words) if url else text)


def link_view(url: str, words: Words) -> View:
    """Where a file can be fetched."""
    return View(lines=(plain(words("done-link")), plain(url)), only_for_asker=True)


async def share(bot: Bot, client: Client, artifact: Artifact) -> str:
    """A signed address that works for a day without a key; empty where it cannot be had."""
    try:
        shared = await client.share(artifact.id, expires_in_s=LINK_S)
    except ClientError as error:
        log.warning("no_share_link", bot=bot.config.id, reason=error.message)
        return ""
    return shared.url if shared.url.startswith("http") else f"{bot.public_url}{shared.url}"


async def _me(client: Client) -> Me | None:
    """What is left; a result is not held back for it."""
    try:
        return await client.me()
    except ClientError as error:
        log.info("quota_not_shown", reason=error.message)
        return None


def _fit(files: list[Media], limit_bytes: int) -> tuple[Media | None, bool]:
    """One file to show, and whether it was made smaller for it. None: nothing that fits."""
    if not files:
        return None, False
    if len(files) > 1 and all(media.is_image for media in files):
        try:
            files = [pictures.grid(files[:GRID_OF])]
        except pictures.UnreadableFile:
            return None, False
    media = files[0]
    if media.data and len(media.data) <= limit_bytes:
        return media, False
    small = pictures.smaller(media, limit_bytes) if media.data else None
    return small, small is not None

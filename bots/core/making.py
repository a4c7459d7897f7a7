"""From a wish to a job with its status message: pictures, clips, and what the buttons under a result make of one.

A job is submitted under a key that follows from the update, so an update that comes again finds the job it has made.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any

import structlog

from bots.core import pictures
from bots.core.actions import Action, Verb
from bots.core.backend import Errand
from bots.core.bot import Bot
from bots.core.incoming import Incoming, MessageRef, Person
from bots.core.messages import Words
from bots.core.options import Wish, size_of
from bots.core.platform import ChatError, TooLarge, Urgency
from bots.core.refusals import is_final, refusal_view
from bots.core.results import adults_only_allowed, subject_of
from bots.core.status import Standing, standing_view, wish_of_job, with_look
from bots.core.views import Button, View, plain
from bots.core.watching import Watchers
from tessera.client import ApiError, Artifact, Client, Job, Model
from tessera.jobs import JobState

log = structlog.get_logger(__name__)

MAX_PICTURE_BYTES = 20 << 20  # what Telegram lets a bot fetch; Discord's own limit is near it
VARY_STRENGTH = 0.55
UPSCALE = 2.0
LEAST_UPSCALE = 1.1  # less is not worth a token
MAX_METADATA_PROMPT = 1500  # metadata takes 4 KiB in all


class NotPossible(Exception):
    """It cannot be made; ``view`` says why, in words for the person."""

    def __init__(self, view: View) -> None:
        self.view = view
        super().__init__(view.text)


@dataclass(frozen=True, kw_only=True)
class _Order:
    """What is submitted, and what is shown of it."""

    wish: Wish
    input: Mapping[str, Any]
    model: str | None
    made: str = ""  # how it came from another job


class Maker:
    """Makes jobs for one bot."""

    def __init__(self, bot: Bot, watchers: Watchers) -> None:
        self._bot = bot
        self._watchers = watchers

    async def wish(self, incoming: Incoming, wish: Wish, words: Words, *, source: str | None = None) -> None:
        """What a person asked for in words, with a picture or without; ``source`` is the upload of an earlier one.

        Raises ClientError when to try again.
        """
        try:
            settings, _ = await self._bot.known(incoming.person)
            whole = wish.over(self._bot.defaults(settings))
            # A model that was chosen once may have been taken out of the catalogue since: then the default does.
            model = await self._model(whole.model, words, strict=wish.model is not None)
            if incoming.file:
                source = await self._source(incoming, words)
            order = self._order(replace(whole, model=None), source, model)
            await self._submit(incoming, order, words)
        except (NotPossible, ApiError) as error:
            await self._refuse(incoming, error, words)

    async def keep_picture(self, incoming: Incoming, words: Words) -> str | None:
        """The upload of a picture that came without words; None when it cannot be used, which its sender is told.

        Raises ClientError when to try again.
        """
        try:
            return await self._source(incoming, words)
        except (NotPossible, ApiError) as error:
            await self._refuse(incoming, error, words)
            return None

    async def press(self, incoming: Incoming, action: Action, words: Words) -> None:
        """Upscale, vary, again, extend. Raises ClientError when it is to be tried again."""
        try:
            job = await self.job_of(action)
            await self._submit(incoming, await self._from_job(incoming, action, job, words), words)
        except (NotPossible, ApiError) as error:
            await self._refuse(incoming, error, words)

    async def edited(self, incoming: Incoming, action: Action, wish: Wish, words: Words) -> None:
        """A job's wish with other words."""
        try:
            job = await self.job_of(action)
            whole = wish.over(wish_of_job(job, look=self._bot.config.look))
            source = None
            if (
                job.input.get("image") is not None
                and job.input.get("scale") is None
                and action.owner == incoming.person.subject
            ):
                source = str(job.input["image"])
            order = self._order(
                replace(whole, model=None), source, await self._model(whole.model, words, strict=wish.model is not None)
            )
            await self._submit(incoming, order, words)
        except (NotPossible, ApiError) as error:
            await self._refuse(incoming, error, words)

    async def job_of(self, action: Action) -> Job:
        """The job behind a button, as its owner sees it: whoever presses has it before his eyes in the chat."""
        return await self._bot.backend.of(f"{self._bot.config.platform}:{action.owner}").get_job(action.job_id)

    # What is submitted

    async def _from_job(self, incoming: Incoming, action: Action, job: Job, words: Words) -> _Order:
        wish = wish_of_job(job, look=self._bot.config.look)
        match action.verb:
            case Verb.AGAIN:
                if job.input.get("scale") is not None:
                    raise NotPossible(_only(words("refused-expired")))
                source = job.input.get("image")
                if source is not None and action.owner != incoming.person.subject:
                    source = None  # the picture was another person's; his words are in the chat, it is not
                return self._order(replace(wish, model=None), str(source) if source else None, job.model)
            case Verb.UPSCALE:
                artifact = _artifact(job, action.index, words)
                image = await self._borrow(incoming, action, artifact)
                scale = await self._scale(incoming, artifact, words)
                given = {"prompt": str(job.input.get("prompt") or ""), "image": image, "scale": scale}
                return _Order(wish=replace(wish, count=1), input=given, model=job.model, made="upscale")
            case Verb.VARY:
                artifact = _artifact(job, action.index, words)
                varied = replace(wish, count=1, strength=VARY_STRENGTH, model=None)
                image = await self._borrow(incoming, action, artifact)
                return replace(self._order(varied, image, job.model), made="vary")
            case Verb.EXTEND:
                artifact = _artifact(job, 1, words)
                frame = await self._last_frame(action, artifact, words)
                upload = await self._bot.backend.of(incoming.person.identity).upload(frame, name="frame.png")
                return replace(self._order(replace(wish, model=None), upload.id, job.model), made="extend")
            case _:
                raise NotPossible(_only(words("stale-button")))

    def _order(self, wish: Wish, source: str | None, model: str | None) -> _Order:
        defaults = self._bot.config.defaults
        given: dict[str, Any] = {"prompt": with_look(wish.prompt, self._bot.config.look)}
        ratio = wish.ratio or defaults.ratio
        if self._bot.kind == "image":
            given["width"], given["height"] = size_of(ratio, defaults.area_px)
            given["count"] = wish.count or 1
            if wish.negative:
                given["negative_prompt"] = wish.negative
            if source is not None and wish.strength is not None:
                given["strength"] = wish.strength
        else:
            given["width"], given["height"] = size_of(ratio, defaults.video_area_px)
            given["duration_s"], given["fps"] = wish.duration_s or defaults.duration_s, defaults.fps
        if wish.seed is not None:
            given["seed"] = wish.seed
        if source is not None:
            given["image"] = source
        return _Order(wish=wish, input=given, model=model)

    async def _model(self, name: str | None, words: Words, *, strict: bool) -> str | None:
        if not name:
            return self._bot.config.models[0] if self._bot.config.models else None
        models = await self._bot.backend.models(self._bot.kind, self._bot.config.models)
        found = find_model(name, models)
        if found is None and strict:
            known = ", ".join(model.id for model in models)
            raise NotPossible(_only(words("refused-model", model=name[:60], known=known)))
        return found

    async def _source(self, incoming: Incoming, words: Words) -> str:
        unfit = NotPossible(_only(words("refused-file", limit=MAX_PICTURE_BYTES >> 20)))
        if incoming.file_bytes > MAX_PICTURE_BYTES:
            raise unfit
        try:
            data = await self._bot.say.file(incoming.file, MAX_PICTURE_BYTES)
        except TooLarge:
            raise unfit from None
        except ChatError as error:
            log.info("picture_not_fetched", bot=self._bot.config.id, reason=str(error))
            raise unfit from error
        if not await asyncio.to_thread(pictures.is_picture, data):
            raise unfit
        upload = await self._bot.backend.of(incoming.person.identity).upload(data, name="picture")
        return upload.id

    async def _scale(self, incoming: Incoming, artifact: Artifact, words: Words) -> float:
        """How much larger a picture can be made: twice, or as far as the person's plan lets it."""
        me = await self._bot.backend.of(incoming.person.identity).me()
        most = me.limits.get("max_image_px")
        pixels = (artifact.width or 0) * (artifact.height or 0)
        if not isinstance(most, int | float) or not pixels:
            return UPSCALE
        # Two places, rounded down: the API rounds the sides, and one pixel too many is refused.
        scale = min(UPSCALE, math.floor(math.sqrt(most / pixels) * 100) / 100)
        if scale < LEAST_UPSCALE:
            plans = Button(label=words("button-plans"), action=Action(verb=Verb.PLANS).encode())
            text = words("refused-upscale", side=str(int(most**0.5)))
            raise NotPossible(View(lines=(plain(text),), rows=((plans,),), only_for_asker=True))
        return scale

    async def _borrow(self, incoming: Incoming, action: Action, artifact: Artifact) -> str:
        """A file to start from: one's own by its id, another person's as a copy."""
        if action.owner == incoming.person.subject:
            return artifact.id
        data = await _bytes(self._bot.backend.of(f"{self._bot.config.platform}:{action.owner}"), artifact)
        return (await self._bot.backend.of(incoming.person.identity).upload(data, name="picture")).id

    async def _last_frame(self, action: Action, artifact: Artifact, words: Words) -> bytes:
        clip = await _bytes(self._bot.backend.of(f"{self._bot.config.platform}:{action.owner}"), artifact)
        try:
            return await asyncio.to_thread(pictures.last_frame, clip)
        except pictures.UnreadableFile:
            raise NotPossible(_only(words("refused-moving"))) from None

    # The job and its message

    async def _submit(self, incoming: Incoming, order: _Order, words: Words) -> None:
        bot, person = self._bot, incoming.person
        key = f"{bot.config.platform}:{bot.config.id}:{incoming.update}"
        errand = Errand(place=incoming.place, person=person, language=words.language, reply_to=incoming.reply_to)
        metadata: dict[str, Any] = {"bot": bot.config.id, "request": key, "ratio": order.wish.ratio or "1:1"}
        if order.wish.spoiler:
            metadata["spoiler"] = True
        if order.made:
            metadata["made"] = order.made
        if order.wish.prompt and len(order.wish.prompt.encode()) <= MAX_METADATA_PROMPT:
            metadata["prompt"] = order.wish.prompt
        client = bot.backend.of(person.identity)
        adults = adults_only_allowed(incoming.place, await bot.backend.rules(incoming.place))
        try:
            job = await client.submit(
                bot.kind,
                order.input,
                model=order.model,
                idempotency_key=key,
                metadata=metadata,
                age_restricted=adults or None,
                delivery=errand.dump(bot.config.platform, bot.config.id),
            )
        except ApiError as error:
            if error.code != "idempotency_mismatch":
                raise
            # The update was worked on before a restart, with a copy of its picture that has another id by now.
            job = await self._made_before(client, key, error)
        await self._show(incoming, job, person, words)

    async def _made_before(self, client: Client, key: str, error: ApiError) -> Job:
        found = await client.list_jobs(metadata={"request": key}, limit=1)
        if not found.data:
            raise error
        return found.data[0]

    async def _show(self, incoming: Incoming, job: Job, person: Person, words: Words) -> None:
        bot = self._bot
        async with bot.job(job.id):
            errand = await bot.backend.errand(job.id)
            subject = subject_of(bot, job, person)
            ref: MessageRef | None = errand.message
            if ref is None and bot.say.is_crowded(incoming.place) and not incoming.token:
                return  # the chat is flooded: its few messages are for results, which need no status to come
            if ref is None:
                offline, paused = await bot.backend.outage(job.model, job.kind)
                standing = Standing(
                    running=job.state == JobState.RUNNING,
                    position=job.position,
                    eta=job.eta,
                    offline=offline,
                    paused=paused,
                )
                view = standing_view(subject, standing, words)
                try:
                    ref = await bot.say.answer(incoming, view, urgency=Urgency.STATUS)
                except ChatError as error:
                    # The job is made; its result comes all the same, by the outbox, in a message of its own.
                    log.warning("status_not_shown", bot=bot.config.id, job=job.id, reason=str(error))
                    return
                await bot.backend.set_message(job.id, ref)
            else:  # its result may have been brought meanwhile: then there is nothing to follow
                job = await bot.backend.of(person.identity).get_job(job.id)
            self._watchers.follow(job, subject, ref, person, words)

    async def _refuse(self, incoming: Incoming, error: NotPossible | ApiError, words: Words) -> None:
        if isinstance(error, NotPossible):
            await self._bot.say.answer(incoming, error.view)
            return
        if not is_final(error) and error.code != "unavailable":
            raise error
        view = refusal_view(error, words, self._bot.clock())
        if error.status in (404, 410) and incoming.action:
            view = _only(words("refused-expired"))
        await self._bot.say.answer(incoming, view)


def find_model(name: str, models: tuple[Model, ...]) -> str | None:
    """The id of the model with this id, title or alias."""
    wanted = name.strip().lower()
    for model in models:
        if wanted in (model.id.lower(), model.title.lower(), *(alias.lower() for alias in model.aliases)):
            return model.id
    return None


def _artifact(job: Job, number: int, words: Words) -> Artifact:
    if not 1 <= number <= len(job.artifacts):
        raise NotPossible(_only(words("refused-expired")))
    return job.artifacts[number - 1]


async def _bytes(client: Client, artifact: Artifact) -> bytes:
    data = bytearray()
    async with aclosing(client.stream(artifact)) as chunks:
        async for chunk in chunks:
            data += chunk
    return bytes(data)


def _only(text: str) -> View:
    return View(lines=(plain(text),), only_for_asker=True)

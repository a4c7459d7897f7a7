"""Brings results from the platform's outbox into the chats: claim, show by editing, acknowledge.

A result is shown by editing a message whose id was stored before. So whatever is killed at whatever moment, a result
is there once: repeating an edit changes nothing. Where there is no message yet (or it was deleted), a plain one is sent
and its id stored first; a kill between the two can leave an empty status message behind, never a second result.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import structlog

from bots.core.backend import DELIVERY_LEASE_S, Errand
from bots.core.bot import Bot
from bots.core.incoming import MessageRef
from bots.core.messages import Words
from bots.core.platform import ChatError, MessageGone, NotAllowed, Refused, TooLarge, Urgency
from bots.core.results import render, subject_of
from bots.core.status import Standing, standing_view
from bots.core.views import View
from bots.core.watching import Watchers
from tessera.client import ChatDelivery, ClientError

log = structlog.get_logger(__name__)

AT_ONCE = 24  # (start) deliveries of different chats; the platform's limits are the pacer's matter
PAUSE_S = (0.5, 10.0)
SMALL_BYTES = 7 << 20  # below what any platform has ever taken


class Deliveries:
    """The delivery loop of one bot."""

    def __init__(self, bot: Bot, watchers: Watchers) -> None:
        self._bot = bot
        self._watchers = watchers
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Until it is cancelled."""
        pause_s = PAUSE_S[0]
        while True:
            room = AT_ONCE - len(self._tasks)
            if room <= 0:
                await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
                continue
            try:
                claimed = await self._bot.backend.claim_deliveries(room)
            except ClientError as error:
                log.warning("outbox_not_read", bot=self._bot.config.id, reason=error.message)
                await asyncio.sleep(pause_s)
                pause_s = min(PAUSE_S[1], pause_s * 2)
                continue
            pause_s = PAUSE_S[0]
            self._begin(claimed)

    def _begin(self, claimed: Sequence[ChatDelivery]) -> None:
        for delivery in claimed:
            task = asyncio.create_task(self._bring(delivery), name=f"bring-{delivery.id}")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _next(self) -> None:
        """Of one chat one delivery is given out at a time: ask at once for the one behind it."""
        try:
            self._begin(await self._bot.backend.claim_deliveries(1, wait_s=0.0))
        except ClientError as error:  # the loop looks again every few seconds
            log.info("outbox_not_read", bot=self._bot.config.id, reason=error.message)

    async def close(self) -> None:
        """Stop what is under way; it is claimed again when its lease is over."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _bring(self, delivery: ChatDelivery) -> None:
        bot = self._bot
        keeping = asyncio.create_task(self._keep(delivery))
        try:
            await self._show(delivery)
        except NotAllowed as error:
            await self._give_back(delivery, str(error), permanent=True)
        except (ChatError, ClientError) as error:
            bot.metrics.failures.labels(bot.config.id, type(error).__name__).inc()
            log.warning("not_delivered", bot=bot.config.id, job=delivery.job.id, reason=str(error))
            await self._give_back(delivery, str(error) or type(error).__name__)
        except Exception as error:
            bot.metrics.failures.labels(bot.config.id, "bug").inc()
            log.exception("delivery_failed", bot=bot.config.id, job=delivery.job.id)
            await self._give_back(delivery, f"{type(error).__name__}: {error}")
        else:
            try:
                await bot.backend.client.ack_deliveries([delivery])
            except ClientError as error:  # it comes again and changes nothing
                log.warning("delivery_not_acknowledged", bot=bot.config.id, reason=error.message)
            bot.metrics.deliveries.labels(bot.config.id, "delivered").inc()
            await self._next()
        finally:
            keeping.cancel()
            await asyncio.gather(keeping, return_exceptions=True)

    async def _keep(self, delivery: ChatDelivery) -> None:
        while True:
            await asyncio.sleep(DELIVERY_LEASE_S / 3)
            try:
                await self._bot.backend.client.extend_deliveries([delivery], lease_s=DELIVERY_LEASE_S)
            except ClientError as error:
                log.info("lease_not_extended", bot=self._bot.config.id, reason=error.message)

    async def _give_back(self, delivery: ChatDelivery, error: str, *, permanent: bool = False) -> None:
        self._bot.metrics.deliveries.labels(self._bot.config.id, "gave_up" if permanent else "put_back").inc()
        try:
            await self._bot.backend.client.release_delivery(delivery, error=error[:500], permanent=permanent)
        except ClientError as failure:  # its lease ends by itself
            log.info("delivery_not_released", bot=self._bot.config.id, reason=failure.message)

    async def _show(self, delivery: ChatDelivery) -> None:
        bot, job = self._bot, delivery.job
        async with bot.job(job.id):
            # What is stored is read anew: its status message may have been sent since the claim.
            errand = await bot.backend.errand(job.id)
            words = bot.messages.words(errand.language)
            self._watchers.stop(job.id)
            if not job.is_final:
                return
            ref = errand.message or await self._placeholder(delivery, errand, words)
            view = await render(bot, job, errand.person, errand.place, words)
            try:
                shown = await self._edit(ref, view)
            except MessageGone:
                ref = await self._placeholder(delivery, errand, words)
                shown = await self._edit(ref, view)
            except (TooLarge, Refused) as error:
                log.info("result_made_smaller", bot=bot.config.id, job=job.id, reason=str(error))
                shown = await self._fit(delivery, errand, ref, view, words)
            if shown != ref:
                await bot.backend.set_message(job.id, shown)

    async def _fit(
        self, delivery: ChatDelivery, errand: Errand, ref: MessageRef, refused: View, words: Words
    ) -> MessageRef:
        """The platform took it not as it was: smaller, then as a link, then in words alone."""
        size = sum(len(media.data) for media in refused.media)
        for limit_bytes in (min(size // 2, SMALL_BYTES), size // 8, 0):
            view = await render(self._bot, delivery.job, errand.person, errand.place, words, limit_bytes=limit_bytes)
            try:
                return await self._edit(ref, view)
            except (TooLarge, Refused) as error:
                log.info("result_still_refused", bot=self._bot.config.id, job=delivery.job.id, reason=str(error))
        return await self._edit(ref, refused.without_media())

    async def _edit(self, ref: MessageRef, view: View) -> MessageRef:
        return await self._bot.say.edit(ref, view, urgency=Urgency.RESULT)

    async def _placeholder(self, delivery: ChatDelivery, errand: Errand, words: Words) -> MessageRef:
        subject = subject_of(self._bot, delivery.job, errand.person)
        view = standing_view(subject, Standing(running=True, fraction=1.0), words)
        ref = await self._bot.say.send(
            errand.place,
            View(lines=view.lines, quote=view.quote, colour=view.colour),
            urgency=Urgency.RESULT,
            reply_to=errand.reply_to,
            person=errand.person.subject,
            key=delivery.job.id,
        )
        await self._bot.backend.set_message(delivery.job.id, ref)
        return ref

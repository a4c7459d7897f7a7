"""The updates of one bot: stored at the platform before they are acknowledged where they came from, then done.

An update that was stored is done at least once, whatever is killed: whoever starts next claims it. Doing it twice makes
no second job (``making.py``). What is refused by everybody for good is given up after a few tries and said so.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

import structlog

from bots.core.backend import lane_of
from bots.core.bot import Bot
from bots.core.conversation import Conversation
from bots.core.incoming import Incoming
from bots.core.platform import ChatError, NotAllowed, Refused
from bots.core.views import View, plain
from tessera.client import ApiError, ClientError, InboxUpdate

log = structlog.get_logger(__name__)

AT_ONCE = 64  # (start) people whose wishes are worked on at the same time
RETRY_AFTER_S = (1.0, 5.0, 15.0, 60.0)
MAX_TRIES = 8
TAKEN_TOGETHER = 50  # (start) of the 100 that the platform stores at once
PAUSE_S = (0.2, 5.0)


class Inbox:
    """The loop that does what people asked of one bot."""

    def __init__(self, bot: Bot, conversation: Conversation) -> None:
        self._bot = bot
        self._conversation = conversation
        self._tasks: set[asyncio.Task[None]] = set()
        self._to_take: list[tuple[Incoming, asyncio.Future[InboxUpdate | None]]] = []
        self._taking: asyncio.Task[None] | None = None
        self._busy: dict[str, InboxUpdate] = {}  # what is being done, by its newest lease
        self._stored: dict[str, int] = {}  # by lane: what this process has stored and not yet done

    async def store(self, updates: Sequence[Incoming]) -> int:
        """Keep them; how many were new. Raises ClientError: then they must not be acknowledged."""
        if not updates:
            return 0
        answers = await self._bot.backend.store(updates)
        stored = 0
        for update, answer in zip(updates, answers, strict=True):
            if answer.stored:
                stored += 1
                lane = lane_of(update)
                self._stored[lane] = self._stored.get(lane, 0) + 1
        if stored < len(updates):
            self._bot.metrics.repeated.labels(self._bot.config.id).inc(len(updates) - stored)
        return stored

    async def take(self, incoming: Incoming) -> Callable[[], None] | None:
        """Keep an update that has to be acknowledged before it is done; None for one that is known already.

        Call what comes back to begin it. Raises ClientError: then it must not be acknowledged.
        """
        taken: asyncio.Future[InboxUpdate | None] = asyncio.get_running_loop().create_future()
        self._to_take.append((incoming, taken))
        if self._taking is None or self._taking.done():
            self._taking = asyncio.create_task(self._take(), name=f"take-{self._bot.config.id}")
        update = await taken
        if update is None:
            self._bot.metrics.repeated.labels(self._bot.config.id).inc()
            return None
        return lambda: self._begin([update])

    async def _take(self) -> None:
        """What comes while some are being stored is stored together after them: of many at once all are in time."""
        while self._to_take:
            batch, self._to_take = self._to_take[:TAKEN_TOGETHER], self._to_take[TAKEN_TOGETHER:]
            try:
                updates = await self._bot.backend.take([incoming for incoming, _ in batch])
            except ClientError as error:
                for _, taken in batch:
                    if not taken.done():
                        taken.set_exception(error)
                continue
            for (_, taken), update in zip(batch, updates, strict=True):
                if not taken.done():
                    taken.set_result(update)

    async def run(self) -> None:
        """Until it is cancelled."""
        pause_s = PAUSE_S[0]
        while True:
            room = AT_ONCE - len(self._tasks)
            if room <= 0:
                await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
                continue
            try:
                claimed = await self._bot.backend.claim_updates(room)
            except ClientError as error:
                log.warning("inbox_not_read", bot=self._bot.config.id, reason=error.message)
                await asyncio.sleep(pause_s)
                pause_s = min(PAUSE_S[1], pause_s * 2)
                continue
            pause_s = PAUSE_S[0]
            self._begin(claimed)

    def _begin(self, claimed: Sequence[InboxUpdate]) -> None:
        for update in claimed:
            if update.update_id in self._busy:  # it takes longer than its lease, and is not begun a second time
                self._busy[update.update_id] = update
                continue
            self._busy[update.update_id] = update
            task = asyncio.create_task(self._do(update), name=f"update-{update.update_id}")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _next_of(self, lane: str) -> None:
        """What waited behind an update in its lane: nobody rings for it, so it is asked for at once."""
        left = self._stored.get(lane, 0) - 1
        if left > 0:
            self._stored[lane] = left
            try:
                self._begin(await self._bot.backend.claim_updates(1, wait_s=0.0))
            except ClientError as error:  # the loop looks again every few seconds
                log.info("inbox_not_read", bot=self._bot.config.id, reason=error.message)
        else:
            self._stored.pop(lane, None)

    async def close(self) -> None:
        """Stop what is under way; it is claimed again when its lease is over."""
        tasks = [*self._tasks, *([self._taking] if self._taking is not None else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _do(self, update: InboxUpdate) -> None:
        bot = self._bot
        try:
            error, wait_s, permanent = await self._try(update)
            if error is not None and permanent:
                await self._apologize(update)
        finally:
            update = self._busy.pop(update.update_id, update)
        try:
            if error is None:
                await bot.backend.finish_update(update)
            else:
                await bot.backend.release_update(update, error[:500], wait_s, permanent=permanent)
        except ClientError as failure:  # it is claimed again, and finds what it has made
            log.warning("update_not_finished", bot=bot.config.id, reason=failure.message)
        await self._next_of(update.lane)

    async def _apologize(self, update: InboxUpdate) -> None:
        """Nobody waits for ever for an answer that will not come."""
        try:
            incoming = Incoming.load(update.data)
        except (KeyError, TypeError, ValueError):
            return
        words = await self._bot.words_of(incoming)
        view = View(lines=(plain(words("refused-failed")),), only_for_asker=True)
        try:
            await self._bot.say.answer(incoming, view)
        except ChatError as error:
            log.info("not_answered", bot=self._bot.config.id, update=update.update_id, reason=str(error))

    async def _try(self, update: InboxUpdate) -> tuple[str | None, float, bool]:
        """What went wrong (None: nothing), when to try again, and whether that is of no use."""
        bot = self._bot
        wait_s = RETRY_AFTER_S[min(update.tries, len(RETRY_AFTER_S)) - 1]
        try:
            incoming = Incoming.load(update.data)
        except (KeyError, TypeError, ValueError) as error:
            log.error("update_not_understood", bot=bot.config.id, update=update.update_id, reason=str(error))
            return f"not understood: {error}", 0.0, True
        try:
            await self._conversation.handle(incoming)
        except (NotAllowed, Refused) as error:  # there is nobody to tell it to
            log.info("not_answered", bot=bot.config.id, update=update.update_id, reason=str(error))
        except (ClientError, ChatError) as error:
            bot.metrics.failures.labels(bot.config.id, type(error).__name__).inc()
            log.warning("update_put_back", bot=bot.config.id, update=update.update_id, reason=str(error))
            if isinstance(error, ApiError) and error.retry_after_s is not None:
                wait_s = max(wait_s, error.retry_after_s)
            return str(error) or type(error).__name__, wait_s, update.tries >= MAX_TRIES
        except Exception as error:
            bot.metrics.failures.labels(bot.config.id, "bug").inc()
            log.exception("update_failed", bot=bot.config.id, update=update.update_id)
            return f"{type(error).__name__}: {error}", wait_s, update.tries >= 3
        if incoming.at:
            bot.metrics.answer_s.labels(bot.config.id).observe(max(0.0, time.time() - incoming.at))
        return None, 0.0, False

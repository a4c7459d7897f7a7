"""Everything that a bot says goes through here: in its turn, counted, and after a chat that has moved."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from typing import TypeVar

import structlog

from bots.core.incoming import Incoming, MessageRef, Place
from bots.core.metrics import BotMetrics
from bots.core.pacing import Pacer
from bots.core.platform import Chat, ChatError, MessageGone, Moved, Unreachable, Urgency
from bots.core.views import Form, View

log = structlog.get_logger(__name__)

ResultT = TypeVar("ResultT")

CROWDED = 10  # (start) half of what a group of Telegram may get in a minute


class Speaker:
    """One bot's voice. Every method raises ChatError where it could not be said, never FloodWait."""

    def __init__(self, bot: str, chat: Chat, pacer: Pacer, metrics: BotMetrics) -> None:
        self._bot = bot
        self._chat = chat
        self._pacer = pacer
        self._metrics = metrics
        self._moved: dict[str, str] = {}

    @property
    def upload_limit_bytes(self) -> int:
        """The largest file that the platform takes from this bot."""
        return self._chat.upload_limit_bytes

    def is_crowded(self, place: Place) -> bool:
        """Whether so many messages wait for this chat that one which can be spared should be."""
        return self._pacer.waiting_in(self._where(place).chat) >= CROWDED

    async def send(
        self,
        place: Place,
        view: View,
        *,
        urgency: Urgency,
        reply_to: str = "",
        person: str = "",
        key: str = "",
    ) -> MessageRef:
        """A new message."""

        async def call(where: Place) -> MessageRef:
            return await self._chat.send(where, view, reply_to=reply_to, person=person, key=key)

        return await self._say("send", place, call, urgency)

    async def answer(
        self, incoming: Incoming, view: View, *, urgency: Urgency = Urgency.REPLY, instead: bool = False
    ) -> MessageRef:
        """Answer what a person did; ``instead`` puts it in the place of the message whose button was pressed."""
        if instead and incoming.message is not None:
            try:
                return await self.edit(incoming.message, view, urgency=urgency)
            except MessageGone:
                pass

        async def call(where: Place) -> MessageRef:
            return await self._chat.answer(replace(incoming, place=where), view)

        return await self._say("answer", incoming.place, call, urgency, _line_of(incoming.token, incoming.token_until))

    async def edit(self, ref: MessageRef, view: View, *, urgency: Urgency) -> MessageRef:
        """Make a message show this."""

        async def call(where: Place) -> MessageRef:
            return await self._chat.edit(replace(ref, place=where), view)

        return await self._say("edit", ref.place, call, urgency, _line_of(ref.token, ref.token_until))

    async def offer(self, ref: MessageRef, view: View) -> bool:
        """Show progress if there is room for it now. False: it was not shown, a newer one will do."""
        place, line = self._where(ref.place), _line_of(ref.token, ref.token_until)
        try:
            shown = await self._pacer.try_now(
                line or place.chat,
                lambda: self._chat.edit(replace(ref, place=place), view),
                group=not (line or place.private),
            )
        except Unreachable:
            shown = False
        (
            self._metrics.sends.labels(self._bot, "progress", "ok")
            if shown
            else self._metrics.dropped.labels(self._bot)
        ).inc()
        return shown

    async def notice(self, incoming: Incoming, text: str = "", *, loud: bool = False) -> None:
        """A few words for who pressed a button. Nobody is hurt when they do not arrive."""
        try:
            await self._chat.notice(incoming, text, loud=loud)
        except ChatError as error:
            log.info("notice_not_shown", bot=self._bot, reason=str(error))

    async def ask(self, incoming: Incoming, form: Form, view: View) -> None:
        """Ask for a text."""

        async def call(where: Place) -> None:
            await self._chat.ask(replace(incoming, place=where), form, view)

        await self._say("ask", incoming.place, call, Urgency.REPLY)

    async def delete(self, ref: MessageRef) -> None:
        """Take a message away."""

        async def call(where: Place) -> None:
            await self._chat.delete(replace(ref, place=where))

        await self._say("delete", ref.place, call, Urgency.REPLY)

    async def file(self, file: str, max_bytes: int) -> bytes:
        """A picture that a person sent."""
        return await self._chat.file(file, max_bytes)

    async def is_admin(self, place: Place, subject: str) -> bool:
        """Whether the person may set rules for this chat."""
        return place.admin or await self._chat.is_admin(place, subject)

    async def _say(
        self, what: str, place: Place, call: Callable[[Place], Awaitable[ResultT]], urgency: Urgency, line: str = ""
    ) -> ResultT:
        self._metrics.waiting.labels(self._bot).set(self._pacer.waiting + 1)
        for _ in range(3):
            where = self._where(place)
            try:
                result = await self._pacer.run(
                    line or where.chat, partial(call, where), group=not (line or where.private), urgency=urgency
                )
            except Moved as moved:
                self.moved(where.chat, moved.chat)
                continue
            except ChatError as error:
                self._metrics.sends.labels(self._bot, what, type(error).__name__).inc()
                raise
            finally:
                self._metrics.waiting.labels(self._bot).set(self._pacer.waiting)
            self._metrics.sends.labels(self._bot, what, "ok").inc()
            return result
        raise ChatError("the chat moves in circles")

    def moved(self, old: str, new: str) -> None:
        """A chat goes on under another id."""
        log.info("chat_moved", bot=self._bot)
        self._moved[old] = new

    def _where(self, place: Place) -> Place:
        return replace(place, chat=self._moved[place.chat]) if place.chat in self._moved else place


def _line_of(token: str, token_until: float) -> str:
    """What answers an interaction goes by a line of its own, whose limit is not that of the channel: many who ask at
    once in one channel of Discord do not wait for each other. Empty where the channel's own limit holds."""
    return f"interaction:{token}" if token_until > time.time() else ""

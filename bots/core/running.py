"""One bot at work: its inbox, its outbox and its connection, supervised together and apart from all other bots."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum

import structlog

from bots.core.bot import Bot
from bots.core.conversation import Conversation
from bots.core.deliveries import Deliveries
from bots.core.inbox import Inbox
from bots.core.state import StateFile
from bots.core.watching import Watchers

log = structlog.get_logger(__name__)

RESTART_S = (1.0, 60.0)
REMEMBER_EVERY_S = 1.0  # what a kill may forget: whose progress it was showing


class BotState(StrEnum):
    """How a bot is."""

    STARTING = "starting"
    UP = "up"  # connected to its platform
    RECONNECTING = "reconnecting"  # its platform does not answer; it tries again
    REFUSED = "refused"  # its token is not accepted: it is left alone until the process is started again
    OFF = "off"  # it has no token


class TokenRefused(Exception):
    """The platform does not accept the token. Trying again does not help."""


@dataclass(kw_only=True)
class Condition:
    """What is told of a bot to health checks and to the doctor. No secret ever stands in ``detail``."""

    state: BotState = BotState.STARTING
    detail: str = ""
    name: str = ""  # what the platform calls it


class Runner:
    """Runs one bot until it is cancelled; whatever goes wrong in it stays in it."""

    def __init__(self, bot: Bot, condition: Condition, state: StateFile) -> None:
        self.bot = bot
        self.condition = condition
        self._state = state
        self.watchers = Watchers(bot)
        self.conversation = Conversation(bot, self.watchers)
        self.inbox = Inbox(bot, self.conversation)
        self.deliveries = Deliveries(bot, self.watchers)

    async def run(self, connect: Callable[[], Awaitable[None]]) -> None:
        """``connect`` listens to the platform until the line breaks; it is called again after a pause."""
        try:
            async with asyncio.TaskGroup() as group:
                listening = group.create_task(self._listen(connect), name=f"listen-{self.bot.config.id}")
                inbox = group.create_task(self._supervised("inbox", self.inbox.run))
                outbox = group.create_task(self._supervised("outbox", self.deliveries.run))
                following = group.create_task(self._supervised("following", self._follow))
                await listening  # ends only for a token that is refused
                for task in (inbox, outbox, following):
                    task.cancel()
        finally:
            self.up(BotState.RECONNECTING if self.condition.state is BotState.UP else self.condition.state)
            await self.inbox.close()
            await self.deliveries.close()
            await self.watchers.close()

    def up(self, state: BotState, detail: str = "") -> None:
        """Tell how the bot is."""
        if state is not self.condition.state:
            log.info("bot_state", bot=self.bot.config.id, state=state.value, detail=detail)
        self.condition.state, self.condition.detail = state, detail
        self.bot.metrics.up.labels(self.bot.config.id).set(1 if state is BotState.UP else 0)

    async def _listen(self, connect: Callable[[], Awaitable[None]]) -> None:
        pause_s = RESTART_S[0]
        while True:
            try:
                await connect()
                pause_s = RESTART_S[0]
            except TokenRefused as error:
                self.up(BotState.REFUSED, str(error))
                log.error("token_refused", bot=self.bot.config.id, reason=str(error))
                return
            except Exception as error:  # noqa: BLE001 (whatever breaks one bot, it tries again; the others go on)
                # The message of an unforeseen error may hold an address with the token in it: only its type is told.
                self.up(BotState.RECONNECTING, type(error).__name__)
                log.warning("connection_lost", bot=self.bot.config.id, error=type(error).__name__)
            await asyncio.sleep(pause_s)
            pause_s = min(RESTART_S[1], pause_s * 2)

    async def _follow(self) -> None:
        """Go on showing the progress that was shown before a restart; remember what is shown now."""
        name = f"following:{self.bot.config.id}"
        remembered = self._state.get(name) or "{}"
        await self.watchers.follow_again(json.loads(remembered))
        while True:
            await asyncio.sleep(REMEMBER_EVERY_S)
            followed = json.dumps(self.watchers.followed)
            if followed != remembered:
                remembered = followed
                await self._state.keep(name, followed)

    async def _supervised(self, what: str, run: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                await run()
            except Exception:
                log.exception("loop_failed", bot=self.bot.config.id, loop=what)
                await asyncio.sleep(RESTART_S[0])

"""How updates come from Telegram: asked for by a poller of our own, or brought to a webhook.

An update is acknowledged (by the next ``offset``, by the answer to the webhook) after it was stored at the platform,
never before. aiogram's own poller acknowledges first, and ends all bots for one bad token.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
from typing import Any

import structlog
from aiogram import Bot
from aiogram.exceptions import (
    TelegramConflictError,
    TelegramNetworkError,
    TelegramNotFound,
    TelegramRetryAfter,
    TelegramServerError,
    TelegramUnauthorizedError,
)
from aiogram.methods import TelegramMethod
from aiogram.types import BotCommand, Update
from aiohttp import web
from pydantic import ValidationError

from bots.core.commands import commands_of
from bots.core.incoming import Incoming
from bots.core.messages import DEFAULT
from bots.core.platform import ChatError, Urgency
from bots.core.running import BotState, Runner, TokenRefused
from bots.core.state import StateFile
from bots.core.views import View, plain
from bots.telegram.incoming import ALLOWED_UPDATES, Self, read
from tessera.client import ClientError

log = structlog.get_logger(__name__)

POLL_S = 25
START_TIMEOUT_S = 20
CONFLICT_S = 5.0
STORE_AGAIN_S = (0.5, 10.0)
MAX_TOLD = 500  # chats that were told of one outage


class _GetUpdates(TelegramMethod[list[dict[str, Any]]]):
    """aiogram's own reads all updates or none."""

    __returning__ = list[dict[str, Any]]
    __api_method__ = "getUpdates"

    offset: int | None = None
    timeout: int
    allowed_updates: list[str]


class Connection:
    """The line of one bot to Telegram."""

    def __init__(self, bot: Bot, runner: Runner, state: StateFile) -> None:
        self._bot = bot
        self._runner = runner
        self._state = state
        self._me = Self(id=0, username="")
        self._told: set[str] = set()

    @property
    def _id(self) -> str:
        return self._runner.bot.config.id

    async def poll(self) -> None:
        """Ask for updates until the line breaks. Raises TokenRefused."""
        await self._start(webhook="")
        self._runner.up(BotState.UP)  # a first poll that brings nothing lasts 25 s
        offset: int | None = None
        while True:
            try:
                asked = _GetUpdates(offset=offset, timeout=POLL_S, allowed_updates=ALLOWED_UPDATES)
                raw = await self._bot(asked, request_timeout=POLL_S + 15)
            except TelegramUnauthorizedError as error:
                raise TokenRefused(
                    "Telegram does not accept the token any more: make a new one with @BotFather"
                ) from error
            except TelegramConflictError:
                self._runner.up(BotState.RECONNECTING, "another process asks for this bot's updates: end it")
                await asyncio.sleep(CONFLICT_S)
                continue
            except TelegramRetryAfter as error:
                await asyncio.sleep(error.retry_after)
                continue
            self._runner.up(BotState.UP)
            if raw:
                await self._keep([update for update in map(self._understood, raw) if update is not None])
                offset = int(raw[-1]["update_id"]) + 1

    def _understood(self, raw: dict[str, Any]) -> Update | None:
        """One that aiogram cannot read is passed over: it must not keep back all that come after it."""
        try:
            return Update.model_validate(raw, context={"bot": self._bot})
        except ValidationError as error:
            log.error("update_not_understood", bot=self._id, update=raw.get("update_id"), problems=error.error_count())
            self._runner.bot.metrics.failures.labels(self._id, "not_understood").inc()
            return None

    async def serve(self, url: str) -> None:
        """Have updates brought to ``url`` until it is cancelled; ``receive`` takes them. Raises TokenRefused."""
        await self._start(webhook=url)
        self._runner.up(BotState.UP)
        await asyncio.Event().wait()

    async def receive(self, request: web.Request) -> web.Response:
        """One update brought by Telegram: 200 when it is stored, else Telegram brings it again."""
        given = request.headers.get("X-Telegram-Bot-Api-Secret-Token", "")
        if not hmac.compare_digest(given, self._secret()):
            return web.Response(status=401)
        try:
            update = Update.model_validate(await request.json(), context={"bot": self._bot})
        except (ValidationError, ValueError):
            return web.Response(status=400)
        try:
            await self._store([update])
        except ClientError as error:
            log.warning("update_not_stored", bot=self._id, reason=error.message)
            return web.Response(status=503)
        return web.Response()

    async def _start(self, *, webhook: str) -> None:
        try:
            me = await self._bot.get_me(request_timeout=START_TIMEOUT_S)
            self._me = Self(id=me.id, username=me.username or "")
            self._runner.bot.name = f"@{self._me.username}"
            self._runner.condition.name = self._runner.bot.name
            if webhook:
                await self._bot.set_webhook(
                    webhook,
                    secret_token=self._secret(),
                    allowed_updates=ALLOWED_UPDATES,
                    request_timeout=START_TIMEOUT_S,
                )
            else:
                await self._bot.delete_webhook(request_timeout=START_TIMEOUT_S)
        except (TelegramUnauthorizedError, TelegramNotFound) as error:
            raise TokenRefused("Telegram does not accept the token: copy it again from @BotFather") from error
        try:
            await self._tell_commands()
        except (TelegramRetryAfter, TelegramServerError, TelegramNetworkError) as error:
            # The list of commands is a help, and is told at the next start; messages matter more.
            log.warning("commands_not_told", bot=self._id, error=type(error).__name__)

    async def _tell_commands(self) -> None:
        """Tell Telegram the commands in each language, when they have changed since it was told last."""
        runner = self._runner.bot
        lists = {
            language: [(command.name, words(f"command-{command.name}")) for command in commands_of(runner.kind)]
            for language, words in runner.messages.all().items()
            if language in runner.config.languages
        }
        mark = hashlib.sha256(json.dumps([self._me.id, lists]).encode()).hexdigest()
        if self._state.get(f"commands:{self._id}") == mark:
            return
        for language, commands in lists.items():
            made = [BotCommand(command=name, description=text) for name, text in commands]
            code = None if language == (DEFAULT if DEFAULT in lists else runner.config.languages[0]) else language
            await self._bot.set_my_commands(made, language_code=code, request_timeout=START_TIMEOUT_S)
        self._state.set(f"commands:{self._id}", mark)

    async def _keep(self, updates: list[Update]) -> None:
        """Store them, however long the platform is away: Telegram keeps what was not acknowledged for a day."""
        pause_s = STORE_AGAIN_S[0]
        while True:
            try:
                await self._store(updates)
            except ClientError as error:
                log.warning("updates_not_stored", bot=self._id, reason=error.message)
                self._runner.bot.metrics.failures.labels(self._id, "not_stored").inc()
                await self._tell_outage(updates)
                await asyncio.sleep(pause_s)
                pause_s = min(STORE_AGAIN_S[1], pause_s * 2)
            else:
                self._told.clear()
                return

    async def _store(self, updates: list[Update]) -> None:
        found = [read(update, self._id, self._me) for update in updates]
        await self._runner.inbox.store([incoming for incoming in found if incoming is not None])

    async def _tell_outage(self, updates: list[Update]) -> None:
        """Tell each chat once that its request is kept."""
        for update in updates:
            incoming = read(update, self._id, self._me)
            if incoming is None or incoming.place.chat in self._told or len(self._told) >= MAX_TOLD:
                continue
            self._told.add(incoming.place.chat)
            await self._say_offline(incoming)

    async def _say_offline(self, incoming: Incoming) -> None:
        bot = self._runner.bot
        words = bot.words(incoming.person, None)
        view = View(lines=(plain(words("refused-offline")),), only_for_asker=True)
        try:
            await bot.say.answer(incoming, view, urgency=Urgency.STATUS)
        except ChatError as error:
            log.info("outage_not_told", bot=self._id, reason=str(error))

    def _secret(self) -> str:
        """The secret of the webhook: only who has the token can know it."""
        return hmac.new(self._bot.token.encode(), b"webhook", hashlib.sha256).hexdigest()

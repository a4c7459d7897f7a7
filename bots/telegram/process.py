"""The Telegram bots as one process."""

from __future__ import annotations

from aiogram import Bot
from aiogram.client.session.aiohttp import AiohttpSession
from aiogram.client.telegram import PRODUCTION, TelegramAPIServer

from bots.config import BotConfig, BotsSettings
from bots.core.running import Runner
from bots.core.state import StateFile
from bots.process import Line, Process
from bots.telegram.chat import TelegramChat
from bots.telegram.connection import Connection


def make_process(settings: BotsSettings) -> Process:
    """All Telegram bots of these settings."""
    server = TelegramAPIServer.from_base(settings.api) if settings.api else PRODUCTION

    def open_line(config: BotConfig, state: StateFile) -> Line:
        # Raises aiogram's TokenValidationError, a ValueError, for what is no token at all.
        bot = Bot(settings.tokens[config.id].reveal(), session=AiohttpSession(api=server, limit=500))
        connections: list[Connection] = []

        async def connect(runner: Runner) -> None:
            connection = Connection(bot, runner, state)
            connections[:] = [connection]
            if settings.webhook_url:
                await connection.serve(f"{settings.webhook_url.rstrip('/')}/webhook/{config.id}")
            else:
                await connection.poll()

        async def receive(request: object) -> object:
            return await connections[0].receive(request)  # type: ignore[arg-type]

        return Line(
            chat=TelegramChat(bot),
            connect=connect,
            close=bot.session.close,
            receive=receive if settings.webhook_url else None,  # type: ignore[arg-type]
        )

    return Process(settings, open_line)

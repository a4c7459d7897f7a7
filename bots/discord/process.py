"""The Discord bots as one process."""

from __future__ import annotations

import discord.gateway
import discord.http
from yarl import URL

from bots.config import BotConfig, BotsSettings
from bots.core.running import Runner
from bots.core.state import StateFile
from bots.discord.chat import DiscordChat
from bots.discord.connection import Connection
from bots.process import Line, Process


def make_process(settings: BotsSettings) -> Process:
    """All Discord bots of these settings."""
    # discord.py keeps its addresses on classes: they are one for the whole process, which is ours alone.
    if settings.api:
        discord.http.Route.BASE = f"{settings.api.rstrip('/')}/api/v10"
    if settings.gateway:
        discord.gateway.DiscordWebSocket.DEFAULT_GATEWAY = URL(settings.gateway)

    def open_line(config: BotConfig, state: StateFile) -> Line:
        chat = DiscordChat(settings.api)
        connections: list[Connection] = []

        async def connect(runner: Runner) -> None:
            connection = Connection(chat, settings.tokens[config.id].reveal(), runner, state)
            connections[:] = [connection]
            await connection.listen()

        async def close() -> None:
            for connection in connections:
                await connection.close()

        return Line(chat=chat, connect=connect, close=close)

    return Process(settings, open_line)

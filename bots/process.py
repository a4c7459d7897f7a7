"""One process for all bots of a platform: built from the settings, each bot supervised apart, its health beside.

A bot whose token is refused stops alone; its process and the others go on.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

import structlog
from aiohttp import web
from prometheus_client import generate_latest

from bots.config import BotConfig, BotsSettings
from bots.core.backend import Backend
from bots.core.bot import Bot
from bots.core.messages import Messages
from bots.core.metrics import BotMetrics
from bots.core.pacing import Budget, Pacer
from bots.core.platform import Chat
from bots.core.running import BotState, Condition, Runner
from bots.core.speaking import Speaker
from bots.core.state import StateFile
from tessera.client import Client, RetryPolicy
from tessera.config import write_private

log = structlog.get_logger(__name__)

CLOSE_S = 10.0


@dataclass(kw_only=True)
class Line:
    """A bot's connection to its platform: ``connect`` until it breaks, ``close`` at the end."""

    chat: Chat
    connect: Callable[[Runner], Awaitable[None]]
    close: Callable[[], Awaitable[None]]
    receive: Callable[[web.Request], Awaitable[web.StreamResponse]] | None = None  # a webhook's


Open = Callable[[BotConfig, StateFile], Line]


class Process:
    """All bots of one platform. ``open_line`` makes a bot's connection."""

    def __init__(self, settings: BotsSettings, open_line: Open) -> None:
        self._settings = settings
        self._open = open_line
        self._metrics = BotMetrics()
        self._messages = Messages()
        self._conditions: dict[str, Condition] = {
            bot_id: Condition(state=BotState.OFF, detail=why) for bot_id, why in settings.missing.items()
        }
        self._lines: dict[str, Line] = {}
        self.health_port = 0

    async def run(self) -> None:
        """Until it is cancelled."""
        settings = self._settings
        state = StateFile(settings.state_file)
        retry = RetryPolicy(attempts=4, total_wait_s=10.0)
        async with (
            Client(settings.url, settings.key.reveal(), retry=retry) as client,
            self._serving(),
            asyncio.TaskGroup() as group,
        ):
            for config in settings.bots:
                group.create_task(self._run_bot(config, client, state), name=f"bot-{config.id}")
            group.create_task(asyncio.Event().wait())  # it lives on when all tokens are refused, to tell so

    async def _run_bot(self, config: BotConfig, client: Client, state: StateFile) -> None:
        condition = self._conditions[config.id] = Condition()
        try:
            line = self._open(config, state)
        except ValueError:
            condition.state, condition.detail = BotState.REFUSED, "what is configured is no token: copy it again"
            log.error("token_refused", bot=config.id, reason=condition.detail)
            return
        self._lines[config.id] = line
        limits = self._settings.limits
        pacer = Pacer(
            Budget(
                chat_per_s=limits.chat_per_s,
                group_per_window=limits.group_per_window,
                all_per_window=limits.all_per_window,
                group_window_s=limits.group_window_s,
                all_window_s=limits.all_window_s,
            ),
            on_flood=lambda wait_s: self._flooded(config.id, wait_s),
        )
        bot = Bot(
            config=config,
            backend=Backend(client, config.platform, config.id),
            say=Speaker(config.id, line.chat, pacer, self._metrics),
            messages=self._messages,
            metrics=self._metrics,
            clock=lambda: datetime.now(UTC),
            public_url=self._settings.public_url,
        )
        runner = Runner(bot, condition, state)
        try:
            await runner.run(lambda: line.connect(runner))
        finally:
            await pacer.close()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CLOSE_S):
                    await line.close()

    def _flooded(self, bot: str, wait_s: float) -> None:
        self._metrics.floods.labels(bot).inc()
        self._metrics.flood_s.labels(bot).inc(wait_s)
        log.warning("flood_wait", bot=bot, wait_s=wait_s)

    # Health

    def health(self) -> dict[str, object]:
        """How each bot is."""
        bots = {
            bot_id: {"state": condition.state.value, "detail": condition.detail, "name": condition.name}
            for bot_id, condition in self._conditions.items()
        }
        wanted = [c.state for c in self._conditions.values() if c.state is not BotState.OFF]
        ok = bool(wanted) and all(state is BotState.UP for state in wanted)
        return {"platform": self._settings.platform, "ok": ok, "pid": os.getpid(), "bots": bots}

    @asynccontextmanager
    async def _serving(self) -> AsyncIterator[None]:
        app = web.Application(client_max_size=1 << 20)
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/metrics", self._show_metrics)
        app.router.add_post("/webhook/{bot}", self._webhook)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        try:
            site = web.TCPSite(runner, "127.0.0.1", self._settings.health_port)
            try:
                await site.start()
            except OSError:  # the port is another's: any other one does, and the file below tells which
                site = web.TCPSite(runner, "127.0.0.1", 0)
                await site.start()
            server = site._server
            self.health_port = server.sockets[0].getsockname()[1] if isinstance(server, asyncio.Server) else 0
            record = {"pid": os.getpid(), "health_port": self.health_port}
            await asyncio.to_thread(
                write_private,
                self._settings.state_file.with_name(f"bots-{self._settings.platform}-health.json"),
                json.dumps(record) + "\n",
            )
            log.info("bots_started", platform=self._settings.platform, health_port=self.health_port)
            yield
        finally:
            await runner.cleanup()

    async def _healthz(self, _request: web.Request) -> web.Response:
        found = self.health()
        return web.json_response(found, status=200 if found["ok"] else 503)

    async def _show_metrics(self, _request: web.Request) -> web.Response:
        return web.Response(body=generate_latest(self._metrics.registry), content_type="text/plain")

    async def _webhook(self, request: web.Request) -> web.StreamResponse:
        line = self._lines.get(request.match_info["bot"])
        if line is None or line.receive is None:
            return web.Response(status=404)
        return await line.receive(request)


class _LibraryLogs(logging.Handler):
    """What aiogram, discord.py and aiohttp have to say, as lines like ours: secrets are cut out there."""

    def emit(self, record: logging.LogRecord) -> None:
        level = "error" if record.levelno >= logging.ERROR else "warning"
        told = {"logger": record.name, "message": record.getMessage()}
        if record.exc_info and record.exc_info[0] is not None:
            told["error"] = record.exc_info[0].__name__
        getattr(log, level)("library", **told)


def listen_to_libraries() -> None:
    """Send the warnings of libraries to our log."""
    logging.basicConfig(handlers=[_LibraryLogs()], level=logging.WARNING, force=True)


async def run_until_told(process: Process) -> None:
    """Run until SIGTERM or SIGINT; then end in order."""
    task = asyncio.ensure_future(process.run())
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, task.cancel)
    try:
        await task
    except asyncio.CancelledError:
        log.info("bots_stopped")


def missing_tokens(missing: Mapping[str, str]) -> str:
    """Which bots are left out, for a person."""
    return "\n".join(f"  {bot_id}: {why}" for bot_id, why in missing.items())

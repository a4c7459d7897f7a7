"""The line of one bot to Discord: its gateway, the three seconds in which an interaction is answered, its commands."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import Callable
from typing import Any

import discord
import structlog
from discord.http import Route

from bots.core.conversation import Opening, opening_of
from bots.core.incoming import Incoming
from bots.core.options import RATIOS
from bots.core.platform import ChatError
from bots.core.running import BotState, Runner, TokenRefused
from bots.core.state import StateFile
from bots.core.views import View, plain
from bots.discord.chat import DiscordChat
from bots.discord.incoming import focused, read_interaction, read_message
from bots.discord.shapes import EPHEMERAL, commands_payload, modal
from tessera.client import ClientError

log = structlog.get_logger(__name__)

# Discord gives 3 s to answer; what is not decided by then is answered in words.
DECIDE_S = 1.8
AUTH_FAILED = 4004
MESSAGE, LATER, LATER_SAME, CHOICES, FORM = 4, 5, 6, 8, 9  # kinds of first answers


class Connection:
    """One bot."""

    def __init__(self, chat: DiscordChat, token: str, runner: Runner, state: StateFile) -> None:
        self._chat = chat
        self._token = token
        self._runner = runner
        self._state = state
        self._client: discord.Client | None = None

    async def listen(self) -> None:
        """Connect and stay connected; broken lines are resumed. Raises TokenRefused."""
        client = _Client(self)
        self._client = client
        self._chat.use(client)
        try:
            await client.login(self._token)
            await client.connect(reconnect=True)
        except discord.LoginFailure as error:
            raise TokenRefused("Discord does not accept the token: copy it again from the Developer Portal") from error
        except discord.ConnectionClosed as error:
            if error.code == AUTH_FAILED:
                raise TokenRefused("Discord does not accept the token any more: make a new one") from error
            raise
        finally:
            await client.close()
            await asyncio.sleep(0)  # what it has told of its end is heard before everything ends

    async def close(self) -> None:
        """Hang up."""
        if self._client is not None:
            await self._client.close()

    @property
    def _id(self) -> str:
        return self._runner.bot.config.id

    async def on_up(self, client: discord.Client) -> None:
        """Connected: events come."""
        if client.user is not None:
            self._runner.bot.name = self._runner.condition.name = str(client.user)
        try:
            await self._tell_commands(client)
        except discord.HTTPException as error:
            log.warning("commands_not_told", bot=self._id, status=error.status, code=error.code)
        self._runner.up(BotState.UP)

    def on_down(self) -> None:
        """The line is broken; it is made again."""
        if self._runner.condition.state is BotState.UP:
            self._runner.up(BotState.RECONNECTING, "the line to Discord broke")

    async def on_interaction(self, interaction: discord.Interaction[Any]) -> None:
        """Answer within three seconds: with a form, with values to choose from, or with 'thinking'."""
        if interaction.type is discord.InteractionType.autocomplete:
            await self._offer(interaction)
            return
        incoming = read_interaction(interaction, self._id)
        if incoming is None:
            return
        until = time.monotonic() + DECIDE_S
        try:
            if await self._ask(incoming, until):
                return
            taking = asyncio.create_task(self._runner.inbox.take(incoming))
            await asyncio.wait([taking], timeout=max(0.1, until - time.monotonic()))
            if not taking.done():
                await self._take_late(incoming, taking)
                return
            begin = taking.result()
        except (ClientError, TimeoutError) as error:
            self._not_stored(error)
            await self._say_away(incoming)
            return
        await self._acknowledge(incoming)
        if begin is not None:
            begin()

    async def _take_late(self, incoming: Incoming, taking: asyncio.Task[Callable[[], None] | None]) -> None:
        """It is being stored, only not within Discord's three seconds: nobody is told to ask again for what will be
        done. Should it not be stored after all, that is said where 'thinking' stands."""
        self._runner.bot.metrics.failures.labels(self._id, "stored_late").inc()
        await self._acknowledge(incoming)
        try:
            begin = await taking
        except ClientError as error:
            self._not_stored(error)
            words = self._runner.bot.words(incoming.person, None)
            view = View(lines=(plain(words("refused-away")),), only_for_asker=True)
            try:
                await self._chat.answer(incoming, view)
            except ChatError as refused:
                log.info("not_answered", bot=self._id, reason=str(refused))
            return
        if begin is not None:
            begin()

    def _not_stored(self, error: Exception) -> None:
        self._runner.bot.metrics.failures.labels(self._id, "not_stored").inc()
        log.warning("update_not_stored", bot=self._id, reason=str(error) or "too slow")

    async def on_message(self, message: discord.Message) -> None:
        """Words for the bot. Discord tells them once and waits for nothing: they are kept as soon as it can be."""
        me = self._client.user if self._client is not None else None
        incoming = read_message(message, self._id, me.id if me is not None else 0)
        if incoming is None:
            return
        for pause_s in (0.5, 2.0, 5.0, 15.0, 30.0, 0.0):
            try:
                await self._runner.inbox.store([incoming])
                return
            except ClientError as error:
                self._runner.bot.metrics.failures.labels(self._id, "not_stored").inc()
                log.warning("update_not_stored", bot=self._id, reason=error.message)
                await asyncio.sleep(pause_s)
        await self._say_away(incoming)

    async def _ask(self, incoming: Incoming, until: float) -> bool:
        """Whether a form was the answer."""
        async with asyncio.timeout(max(0.1, until - time.monotonic())):
            form = await self._runner.conversation.form_for(incoming)
        if form is None:
            return False
        await self._respond(incoming, FORM, modal(form))
        return True

    async def _acknowledge(self, incoming: Incoming) -> None:
        match opening_of(incoming):
            case Opening.EVERYBODY:
                await self._respond(incoming, LATER)
            case Opening.ASKER:
                await self._respond(incoming, LATER, {"flags": EPHEMERAL})
            case Opening.SAME:
                await self._respond(incoming, LATER_SAME)

    async def _respond(self, incoming: Incoming, kind: int, data: dict[str, Any] | None = None) -> None:
        try:
            await self._chat.respond(incoming.update, incoming.token, kind, data)
        except ChatError as error:  # it is answered in the channel then
            log.warning("not_acknowledged", bot=self._id, reason=str(error))

    async def _say_away(self, incoming: Incoming) -> None:
        words = self._runner.bot.words(incoming.person, None)
        if incoming.token:
            await self._respond(incoming, MESSAGE, {"content": words("refused-away"), "flags": EPHEMERAL})

    async def _offer(self, interaction: discord.Interaction[Any]) -> None:
        name, typed = focused(interaction)
        choices: list[dict[str, str]] = []
        try:
            if name == "model":
                async with asyncio.timeout(DECIDE_S):
                    models = await self._runner.conversation.models(typed)
                choices = [{"name": (model.title or model.id)[:100], "value": model.id} for model in models]
            elif name == "ratio":
                choices = [{"name": ratio, "value": ratio} for ratio in RATIOS if typed in ratio]
        except (ClientError, TimeoutError) as error:
            log.info("no_choices", bot=self._id, reason=str(error) or "too slow")
        try:
            await self._chat.respond(str(interaction.id), interaction.token, CHOICES, {"choices": choices[:25]})
        except ChatError as error:
            log.info("no_choices", bot=self._id, reason=str(error))

    async def _tell_commands(self, client: discord.Client) -> None:
        """Tell Discord the commands, when they have changed since it was told last."""
        bot = self._runner.bot
        words = {tag: each for tag, each in bot.messages.all().items() if tag in (*bot.config.languages, "en")}
        commands = commands_payload(bot.kind, words)
        mark = hashlib.sha256(json.dumps([client.application_id, commands]).encode()).hexdigest()
        if self._state.get(f"commands:{self._id}") == mark:
            return
        route = Route("PUT", "/applications/{application_id}/commands", application_id=client.application_id)
        await client.http.request(route, json=commands)
        self._state.set(f"commands:{self._id}", mark)


class _Client(discord.Client):
    """discord.py's client, that hands on what the bots need. No privileged intents: words come only to those meant."""

    def __init__(self, connection: Connection) -> None:
        intents = discord.Intents.none()
        intents.guilds = intents.guild_messages = intents.dm_messages = True
        super().__init__(
            intents=intents,
            max_messages=None,
            chunk_guilds_at_startup=False,
            max_ratelimit_timeout=30.0,
            allowed_mentions=discord.AllowedMentions.none(),
        )
        self._line = connection

    def dispatch(self, event: str, /, *args: Any, **kwargs: Any) -> None:
        if not self.is_closed():  # it has no loop any more for what comes after its end
            super().dispatch(event, *args, **kwargs)

    async def on_ready(self) -> None:
        await self._line.on_up(self)

    async def on_resumed(self) -> None:
        await self._line.on_up(self)

    async def on_disconnect(self) -> None:
        self._line.on_down()

    async def on_interaction(self, interaction: discord.Interaction[Any]) -> None:
        await self._line.on_interaction(interaction)

    async def on_message(self, message: discord.Message) -> None:
        await self._line.on_message(message)

    async def on_error(self, event_method: str, /, *_args: Any, **_kwargs: Any) -> None:
        log.exception("event_failed", bot=self._line._id, event_name=event_method)

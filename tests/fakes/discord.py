"""Discord's REST API and gateway on a real socket, and the channels behind them as people see them.

https://discord.com/developers/docs/reference. discord.py connects to it unchanged. It is as strict as the real one
where a bot could go wrong: three seconds to acknowledge, tokens that end, limits of size, sessions that resume.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections import defaultdict, deque
from collections.abc import Callable
from typing import Any

from aiohttp import WSMsgType, web

from tests.fakes.chats import Act, File, Snapshot
from tests.fakes.discord_chats import (
    EPHEMERAL,
    Channel,
    FakeDiscordBot,
    Fault,
    Interaction,
    Limits,
    Message,
    Session,
    User,
)
from tests.fakes.discord_rest import DiscordRest

EPOCH_MS = 1_420_070_400_000
TIMEOUT_S = 60
ALL_PERMISSIONS = "2199023255551"
SOME_PERMISSIONS = "2147601472"  # without Manage Server


class FakeDiscord(DiscordRest):
    """Use it as ``async with FakeDiscord() as discord``; ``url`` and ``gateway`` are its addresses."""

    def __init__(self) -> None:
        self.url = self.gateway = ""
        self.bots: dict[str, FakeDiscordBot] = {}
        self.users: dict[int, User] = {}
        self.channels: dict[int, Channel] = {}
        self.guilds: dict[int, str] = {}
        self.interactions: dict[str, Interaction] = {}
        self.faults: list[Fault] = []
        self.limits: Limits | None = None
        self.max_file_bytes = 10 << 20
        self.acknowledge_s = 3.0
        self.token_life_s = 900.0
        self.cdn: dict[str, bytes] = {}
        self.calls: list[tuple[float, str, str]] = []
        self.acts: list[Act] = []
        self.floods = 0
        self.changed = asyncio.Condition()
        self._ids = itertools.count(1)
        self._order = itertools.count(1)
        self._nonces: dict[tuple[int, str], Message] = {}
        self._sent: dict[tuple[str, int], deque[float]] = defaultdict(deque)
        self._runner: web.AppRunner | None = None

    async def __aenter__(self) -> FakeDiscord:
        app = web.Application(client_max_size=64 << 20)
        app.router.add_get("/gateway/", self._serve_gateway)
        app.router.add_get("/gateway", self._serve_gateway)
        app.router.add_get("/cdn/{name}", self._serve_cdn)
        app.router.add_route("*", "/api/v10/{path:.+}", self._serve_rest)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        assert site._server is not None
        port = site._server.sockets[0].getsockname()[1]  # type: ignore[union-attr]
        self.url, self.gateway = f"http://127.0.0.1:{port}", f"ws://127.0.0.1:{port}/gateway"
        return self

    async def __aexit__(self, *_: object) -> None:
        for bot in self.bots.values():
            if bot.session is not None and bot.session.socket is not None:
                await bot.session.socket.close()
        assert self._runner is not None
        await self._runner.cleanup()

    # What there is

    def snowflake(self) -> int:
        return ((int(time.time() * 1000) - EPOCH_MS) << 22) | (next(self._ids) & 0x3FFFFF)

    def add_bot(self, token: str, name: str, *guilds: int) -> FakeDiscordBot:
        bot = FakeDiscordBot(self.snowflake(), token, name, set(guilds))
        self.bots[token] = bot
        return bot

    def add_user(self, name: str, locale: str = "en-US", *, admin: bool = False) -> User:
        user = User(self.snowflake(), name, locale, admin)
        self.users[user.id] = user
        return user

    def add_guild(self, name: str) -> int:
        guild = self.snowflake()
        self.guilds[guild] = name
        return guild

    def add_channel(self, name: str, guild: int | None = None, *, nsfw: bool = False) -> Channel:
        channel = Channel(self.snowflake(), name, guild, nsfw)
        self.channels[channel.id] = channel
        return channel

    def direct(self, user: User, bot: FakeDiscordBot) -> Channel:
        """The private channel of a person and a bot."""
        name = f"{user.name} · {bot.name}"
        for channel in self.channels.values():
            if channel.recipient == user.id and channel.name == name:
                return channel
        channel = Channel(self.snowflake(), name, recipient=user.id)
        self.channels[channel.id] = channel
        return channel

    # What people do

    async def command(
        self,
        bot: FakeDiscordBot,
        channel: Channel,
        user: User,
        name: str,
        options: dict[str, Any] | None = None,
        *,
        image: bytes | None = None,
    ) -> Interaction:
        """A slash command."""
        known = next((command for command in bot.commands if command["name"] == name), None)
        assert known is not None, f"{bot.name} has no command /{name}: {[c['name'] for c in bot.commands]}"
        types = {option["name"]: option["type"] for option in known.get("options", ())}
        given = [{"name": key, "type": types[key], "value": value} for key, value in (options or {}).items()]
        data: dict[str, Any] = {"id": str(self.snowflake()), "name": name, "type": 1, "options": given}
        if image is not None:
            identifier, attachment = self._attachment(image)
            given.append({"name": "image", "type": 11, "value": identifier})
            data["resolved"] = {"attachments": {identifier: attachment}}
        shown = " ".join(f"{key}: {value}" for key, value in (options or {}).items())
        self._act(channel, user, f"/{name} {shown}".strip() + (" image: picture.png" if image is not None else ""))
        return await self._interact(bot, channel, user, 2, data)

    async def menu(self, bot: FakeDiscordBot, channel: Channel, user: User, message: Message) -> Interaction:
        """The command on a message."""
        known = next(command for command in bot.commands if command["type"] == 3)
        shown = self._raw(message)
        self._act(channel, user, f"{known['name']} (the menu of a message)")
        data = {
            "id": str(self.snowflake()),
            "name": known["name"],
            "type": 3,
            "target_id": str(message.id),
            "resolved": {"messages": {str(message.id): shown}},
        }
        return await self._interact(bot, channel, user, 2, data)

    async def complete(
        self, bot: FakeDiscordBot, channel: Channel, user: User, name: str, option: str, typed: str
    ) -> list[dict[str, Any]]:
        """What is offered while one types."""
        given = [{"name": option, "type": 3, "value": typed, "focused": True}]
        data = {"id": "1", "name": name, "type": 1, "options": given}
        interaction = await self._interact(bot, channel, user, 4, data)
        await self.until(lambda: interaction.choices is not None, "choices")
        return interaction.choices or []

    async def press(self, bot: FakeDiscordBot, user: User, message: Message, label: str) -> Interaction:
        """A button."""
        button = message.button(label)
        assert button.data, f"{label} is a link"
        data = {"custom_id": button.data, "component_type": 2}
        self._act(self.channels[message.channel], user, button.label)
        return await self._interact(bot, self.channels[message.channel], user, 3, data, source=message)

    async def submit(self, interaction: Interaction, text: str) -> Interaction:
        """Fill in the form that was the answer."""
        form = interaction.modal
        assert form is not None, "there is no form to fill in"
        fields = [
            {"type": 1, "components": [{"type": 4, "custom_id": row["components"][0]["custom_id"], "value": text}]}
            for row in form["components"]
        ]
        data = {"custom_id": form["custom_id"], "components": fields}
        self._act(interaction.channel, interaction.user, f"{form['title']} → {text}")
        return await self._interact(
            interaction.bot, interaction.channel, interaction.user, 5, data, source=interaction.source
        )

    async def say(
        self,
        bot: FakeDiscordBot,
        channel: Channel,
        user: User,
        text: str,
        *,
        image: bytes | None = None,
        reply_to: Message | None = None,
    ) -> Message:
        """Words. Only who is meant gets to read them, as without the privileged intent."""
        message = Message(self.snowflake(), channel.id, user.name, False, text=text)
        message.reply_to = reply_to.id if reply_to is not None else None
        if image is not None:
            message.files = (File("photo", image, "picture.png"),)
        self._keep(message)
        raw = self._raw(message) | {"author": self._user(user)}
        mentions = [self._bot_user(bot)] if f"<@{bot.id}>" in text or (reply_to and reply_to.bot == bot.id) else []
        raw["mentions"] = mentions
        if not mentions and channel.guild is not None:
            raw |= {"content": "", "attachments": [], "embeds": []}
        if channel.guild is not None:
            raw |= {"guild_id": str(channel.guild), "member": self._member(user)}
        await self._dispatch(bot, "MESSAGE_CREATE", raw)
        return message

    async def drop(self, bot: FakeDiscordBot) -> None:
        """The line breaks; what comes meanwhile is replayed to who resumes."""
        assert bot.session is not None and bot.session.socket is not None
        socket, bot.session.socket = bot.session.socket, None
        bot.ready.clear()
        await socket.close(code=4000)

    async def ask_to_reconnect(self, bot: FakeDiscordBot) -> None:
        """Op 7: Discord wants the bot to connect anew and resume."""
        assert bot.session is not None and bot.session.socket is not None
        bot.ready.clear()
        await bot.session.socket.send_str(json.dumps({"op": 7, "d": None, "s": None, "t": None}))

    async def repeat(self, bot: FakeDiscordBot) -> None:
        """The last event comes again, as after a resume."""
        assert bot.session is not None and bot.session.socket is not None
        await bot.session.socket.send_str(json.dumps(bot.session.sent[-1]))

    # What people see

    def seen(self, channel: Channel, user: User | None = None) -> list[Message]:
        """The messages that a person sees in a channel; without a person those that everybody sees."""
        return [
            message
            for message in channel.messages.values()
            if not message.deleted and (message.only_for is None or (user is not None and message.only_for == user.id))
        ]

    def results(self, channel: Channel, user: User | None = None) -> list[Message]:
        """Messages of bots that show a result: a file, and the button for another one."""
        return [
            message
            for message in self.seen(channel, user)
            if message.by_bot and message.files and any("🔁" in b.label for row in message.buttons for b in row)
        ]

    async def until(self, condition: Callable[[], Any], what: str = "", timeout_s: float = TIMEOUT_S) -> Any:
        """Wait until it holds, and return what it gave."""
        async with self.changed:
            try:
                async with asyncio.timeout(timeout_s):
                    while not (found := condition()):
                        try:
                            async with asyncio.timeout(0.5):
                                await self.changed.wait()
                        except TimeoutError:
                            continue
                    return found
            except TimeoutError:
                shown = "\n".join(
                    f"  #{channel.name}: {m.sender}: {m.text[:200]!r} {m.files} {m.only_for=} {m.thinking=}"
                    for channel in self.channels.values()
                    for m in channel.messages.values()
                )
                raise AssertionError(f"did not happen: {what}\n{shown}\ncalls: {self.calls[-12:]}") from None

    # The gateway

    async def _serve_gateway(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        await socket.send_str(json.dumps({"op": 10, "d": {"heartbeat_interval": 41250}, "s": None, "t": None}))
        async for frame in socket:
            if frame.type is not WSMsgType.TEXT:
                continue
            payload = json.loads(frame.data)
            match payload["op"]:
                case 1:
                    # discord.py notes when it sent a beat after it did: an answer within that moment looks 41 s late.
                    await asyncio.sleep(0.05)
                    await socket.send_str(json.dumps({"op": 11, "d": None, "s": None, "t": None}))
                case 2:
                    bot = self.bots.get(payload["d"]["token"])
                    if bot is None:
                        await socket.close(code=4004)
                        break
                    await self._identify(bot, socket)
                case 6:
                    await self._resume(payload["d"], socket)
        return socket

    async def _identify(self, bot: FakeDiscordBot, socket: web.WebSocketResponse) -> None:
        bot.identified += 1
        bot.session = Session(f"session{next(self._ids)}", socket=socket)
        bot.sessions[bot.session.id] = bot.session
        await self._dispatch(
            bot,
            "READY",
            {
                "v": 10,
                "user": self._bot_user(bot) | {"bot": True},
                "guilds": [{"id": str(guild), "unavailable": True} for guild in bot.guilds],
                "session_id": bot.session.id,
                "resume_gateway_url": self.gateway,
                "application": {"id": str(bot.id), "flags": 0},
            },
        )
        for guild in bot.guilds:
            channels = [self._channel(c) for c in self.channels.values() if c.guild == guild and c.parent is None]
            await self._dispatch(
                bot,
                "GUILD_CREATE",
                {
                    "id": str(guild),
                    "name": self.guilds[guild],
                    "owner_id": "1",
                    "channels": channels,
                    "threads": [],
                    "members": [],
                    "roles": [
                        {
                            "id": str(guild),
                            "name": "@everyone",
                            "color": 0,
                            "hoist": False,
                            "position": 0,
                            "permissions": SOME_PERMISSIONS,
                            "managed": False,
                            "mentionable": False,
                        }
                    ],
                    "emojis": [],
                    "stickers": [],
                    "features": [],
                    "presences": [],
                    "voice_states": [],
                    "stage_instances": [],
                    "guild_scheduled_events": [],
                    "member_count": 2,
                    "large": False,
                    "unavailable": False,
                    "verification_level": 0,
                    "default_message_notifications": 0,
                    "explicit_content_filter": 0,
                    "mfa_level": 0,
                    "nsfw_level": 0,
                    "premium_tier": 0,
                    "preferred_locale": "en-US",
                    "system_channel_flags": 0,
                    "afk_timeout": 60,
                },
            )
        bot.ready.set()
        await self._tell()

    async def _resume(self, data: dict[str, Any], socket: web.WebSocketResponse) -> None:
        bot = self.bots.get(data["token"])
        session = bot.sessions.get(data["session_id"]) if bot is not None else None
        if bot is None or session is None:
            await socket.send_str(json.dumps({"op": 9, "d": False, "s": None, "t": None}))
            return
        bot.session, session.socket = session, socket
        bot.resumed += 1
        for payload in [each for each in session.sent if each["s"] > int(data["seq"] or 0)]:
            await socket.send_str(json.dumps(payload))
        await self._dispatch(bot, "RESUMED", {})
        bot.ready.set()
        await self._tell()

    async def _dispatch(self, bot: FakeDiscordBot, event: str, data: dict[str, Any]) -> None:
        session = bot.session
        if session is None:
            return  # nobody has ever connected: Discord keeps nothing for it
        payload = {"op": 0, "t": event, "s": len(session.sent) + 1, "d": data}
        session.sent.append(payload)
        if session.socket is not None and not session.socket.closed:
            try:
                await session.socket.send_str(json.dumps(payload))
            except ConnectionError:
                session.socket = None

    # Inside

    def _act(self, channel: Channel, user: User, text: str) -> None:
        self.acts.append(Act(next(self._order), time.time(), channel.id, user.name, text))

    async def _interact(
        self,
        bot: FakeDiscordBot,
        channel: Channel,
        user: User,
        kind: int,
        data: dict[str, Any],
        *,
        source: Message | None = None,
    ) -> Interaction:
        identifier = self.snowflake()
        token = f"aW50ZXJhY3Rpb246{identifier}.{next(self._ids):06d}" + "x" * 40
        interaction = Interaction(identifier, token, bot, channel, user, time.monotonic(), source)
        self.interactions[token] = interaction
        raw: dict[str, Any] = {
            "id": str(identifier),
            "application_id": str(bot.id),
            "type": kind,
            "token": token,
            "version": 1,
            "data": data,
            "channel": self._channel(channel),
            "channel_id": str(channel.id),
            "locale": user.locale,
            "app_permissions": ALL_PERMISSIONS,
            "attachment_size_limit": self.max_file_bytes,
            "entitlements": [],
            "authorizing_integration_owners": {"0": str(channel.guild or 0)},
            "context": 0 if channel.guild is not None else 1,
        }
        if channel.guild is not None:
            raw |= {
                "guild_id": str(channel.guild),
                "guild": {"id": str(channel.guild), "locale": "en-US", "features": []},
                "guild_locale": "en-US",
                "member": self._member(user),
            }
        else:
            raw["user"] = self._user(user)
        if source is not None:
            raw["message"] = self._raw(source)
        await self._dispatch(bot, "INTERACTION_CREATE", raw)
        return interaction

    def _attachment(self, data: bytes) -> tuple[str, dict[str, Any]]:
        identifier = str(self.snowflake())
        self.cdn[identifier] = data
        return identifier, {
            "id": identifier,
            "filename": "picture.png",
            "size": len(data),
            "url": f"{self.url}/cdn/{identifier}",
            "proxy_url": f"{self.url}/cdn/{identifier}",
            "content_type": "image/png",
        }

    def _keep(self, message: Message) -> None:
        self.channels[message.channel].messages[message.id] = message
        self._remember(message)

    def _remember(self, message: Message) -> None:
        message.history.append(Snapshot(next(self._order), time.time(), message.text, message.file, message.buttons))

    async def _tell(self) -> None:
        async with self.changed:
            self.changed.notify_all()

    def _raw(self, message: Message) -> dict[str, Any]:
        bot = next((bot for bot in self.bots.values() if bot.id == message.bot), None)
        author = (
            self._bot_user(bot) | {"bot": True}
            if bot is not None
            else {"id": "2", "username": message.sender, "discriminator": "0", "avatar": None}
        )
        rows = [
            {
                "type": 1,
                "components": [
                    {"type": 2, "style": 2, "label": button.label, "custom_id": button.data}
                    if not button.url
                    else {"type": 2, "style": 5, "label": button.label, "url": button.url}
                    for button in row
                ],
            }
            for row in message.buttons
        ]
        return {
            "id": str(message.id),
            "channel_id": str(message.channel),
            "author": author,
            "content": message.text if not message.by_bot else "",
            "embeds": [{"type": "rich", "description": message.text}] if message.by_bot and message.text else [],
            "attachments": [self._attachment(file.data)[1] for file in message.files],
            "components": rows,
            "mentions": [],
            "mention_roles": [],
            "mention_everyone": False,
            "pinned": False,
            "tts": False,
            "type": 0,
            "flags": EPHEMERAL if message.only_for is not None else 0,
            "timestamp": "2026-01-01T00:00:00+00:00",
            "edited_timestamp": None,
        }

    @staticmethod
    def _channel(channel: Channel) -> dict[str, Any]:
        if channel.guild is None:
            return {"id": str(channel.id), "type": 1, "recipients": [], "last_message_id": None, "flags": 0}
        made: dict[str, Any] = {
            "id": str(channel.id),
            "type": 0 if channel.parent is None else 11,
            "name": channel.name,
            "guild_id": str(channel.guild),
            "position": 0,
            "permission_overwrites": [],
            "nsfw": channel.nsfw,
            "parent_id": str(channel.parent) if channel.parent is not None else None,
            "last_message_id": None,
            "rate_limit_per_user": 0,
            "flags": 0,
        }
        if channel.parent is not None:
            made |= {
                "owner_id": "1",
                "message_count": 0,
                "member_count": 1,
                "thread_metadata": {
                    "archived": False,
                    "auto_archive_duration": 60,
                    "archive_timestamp": "2026-01-01T00:00:00+00:00",
                    "locked": False,
                },
            }
        return made

    @staticmethod
    def _user(user: User) -> dict[str, Any]:
        return {
            "id": str(user.id),
            "username": user.name,
            "global_name": user.name,
            "discriminator": "0",
            "avatar": None,
        }

    @staticmethod
    def _bot_user(bot: FakeDiscordBot) -> dict[str, Any]:
        return {"id": str(bot.id), "username": bot.name, "discriminator": "0", "avatar": None}

    def _member(self, user: User) -> dict[str, Any]:
        return {
            "user": self._user(user),
            "roles": [],
            "joined_at": "2026-01-01T00:00:00+00:00",
            "deaf": False,
            "mute": False,
            "flags": 0,
            "permissions": ALL_PERMISSIONS if user.admin else SOME_PERMISSIONS,
        }

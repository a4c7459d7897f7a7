"""The REST side of the fake Discord: interactions answered, messages sent, changed and deleted, commands kept."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import replace
from typing import Any

from aiohttp import web

from tests.fakes.chats import File
from tests.fakes.discord_chats import (
    EPHEMERAL,
    Channel,
    FakeDiscordBot,
    Fault,
    Interaction,
    Message,
    Refusal,
    buttons_of,
    check_modal,
    exact_headers,
    read_call,
)


class DiscordRest:
    """A part of ``FakeDiscord``, which has the state."""

    # REST

    async def _serve_rest(self, request: web.Request) -> web.StreamResponse:
        path, method = request.match_info["path"], request.method
        self.calls.append((time.monotonic(), method, path))
        payload, files = await read_call(request)
        fault = self._fault(f"{method} /{path}")
        if fault is not None and fault.kind != "late_drop":
            return await self._break(request, fault)
        try:
            result = await self._route(request, method, path.split("/"), payload, files)
        except Refusal as refusal:
            body = {"message": refusal.message, "code": refusal.code, **refusal.more}
            return web.Response(status=refusal.status, body=json.dumps(body), headers=exact_headers("Via"))
        finally:
            await self._tell()
        if fault is not None:
            return await self._break(request, replace(fault, kind="drop"))
        if result is None:
            return web.Response(status=204)
        return web.Response(body=json.dumps(result), headers={"Content-Type": "application/json"})

    def _fault(self, called: str) -> Fault | None:
        for fault in self.faults:
            if fault.route in called:
                fault.times -= 1
                if fault.times <= 0:
                    self.faults.remove(fault)
                return replace(fault)
        return None

    async def _break(self, request: web.Request, fault: Fault) -> web.StreamResponse:
        match fault.kind:
            case "429":
                body = {"message": "You are being rate limited.", "retry_after": fault.retry_after, "global": False}
                headers = {**exact_headers("Via"), "Retry-After": str(fault.retry_after)}
                return web.Response(status=429, body=json.dumps(body), headers=headers)
            case "413":
                body = {"message": "Request entity too large", "code": 40005}
                return web.Response(status=413, body=json.dumps(body), headers=exact_headers("Via"))
            case "timeout":
                await asyncio.sleep(3600)
            case "drop":
                assert request.transport is not None
                request.transport.abort()
                return web.Response()
        return web.Response(status=int(fault.kind), text="upstream error")

    async def _route(
        self, request: web.Request, method: str, path: list[str], payload: dict[str, Any], files: list[File]
    ) -> Any:
        match method, path:
            case "POST", ["interactions", identifier, token, "callback"]:
                return self._callback(identifier, token, payload)
            case "POST", ["webhooks", _, token]:
                return self._follow_up(self._interaction(token), payload, files)
            case "PATCH" | "GET" | "DELETE", ["webhooks", _, token, "messages", message]:
                return self._by_token(method, self._interaction(token), message, payload, files)
        bot = self.bots.get(request.headers.get("Authorization", "").removeprefix("Bot "))
        if bot is None:
            raise Refusal(401, 0, "401: Unauthorized")
        match method, path:
            case "GET", ["users", "@me"]:
                return self._bot_user(bot) | {"bot": True}
            case "GET", ["oauth2", "applications", "@me"]:
                return {
                    "id": str(bot.id),
                    "name": bot.name,
                    "icon": None,
                    "description": "",
                    "bot_public": True,
                    "bot_require_code_grant": False,
                    "verify_key": "0" * 64,
                    "flags": 0,
                    "summary": "",
                    "owner": {"id": "1", "username": "owner", "discriminator": "0", "avatar": None},
                    "team": None,
                }
            case "PUT", ["applications", _, "commands"]:
                return self._set_commands(bot, payload)  # type: ignore[arg-type]
            case "POST", ["users", "@me", "channels"]:
                user = self.users.get(int(payload["recipient_id"]))
                if user is None:
                    raise Refusal(400, 50033, "Invalid Recipient(s)")
                return self._channel(self.direct(user, bot))
            case "POST", ["channels", channel, "messages"]:
                return self._send(bot, self._channel_of(channel, bot), payload, files)
            case "PATCH" | "DELETE", ["channels", channel, "messages", message]:
                if self._channel_of(channel, bot).closed:
                    raise Refusal(403, 50001, "Missing Access")
                shown = self._channel_of(channel, bot).messages.get(int(message))
                if shown is None or shown.deleted or shown.only_for is not None:
                    raise Refusal(404, 10008, "Unknown Message")
                if shown.bot != bot.id:
                    raise Refusal(403, 50005, "Cannot edit a message authored by another user")
                if method == "DELETE":
                    shown.deleted = True
                    return None
                return self._change(shown, payload, files)
        raise Refusal(404, 0, "404: Not Found")

    def _interaction(self, token: str) -> Interaction:
        interaction = self.interactions.get(token)
        if interaction is None or not interaction.kind:
            raise Refusal(404, 10015, "Unknown Webhook")
        if interaction.over or time.monotonic() > interaction.at + self.token_life_s:
            raise Refusal(401, 50027, "Invalid Webhook Token")
        return interaction

    def _callback(self, identifier: str, token: str, payload: dict[str, Any]) -> Any:
        interaction = self.interactions.get(token)
        if interaction is None or str(interaction.id) != identifier:
            raise Refusal(404, 10062, "Unknown interaction")
        late = time.monotonic() - interaction.at
        if late > self.acknowledge_s or interaction.over:
            raise Refusal(404, 10062, "Unknown interaction")
        if interaction.kind:
            raise Refusal(400, 40060, "Interaction has already been acknowledged.")
        interaction.acknowledged_s = late
        kind, data = payload["type"], payload.get("data") or {}
        interaction.kind = kind
        interaction.ephemeral = bool(int(data.get("flags") or 0) & EPHEMERAL)
        only_for = interaction.user.id if interaction.ephemeral else None
        if kind in (4, 5):
            message = Message(
                self.snowflake(), interaction.channel.id, interaction.bot.name, True, bot=interaction.bot.id
            )
            message.only_for, message.thinking = only_for, kind == 5
            interaction.original = message
            if kind == 4:
                self._fill(message, data, [])
            else:
                message.text = "is thinking…"
            self._keep(message)
        elif kind == 6:
            interaction.original = interaction.source
        elif kind == 7 and interaction.source is not None:
            self._change(interaction.source, data, [])
        elif kind == 8:
            interaction.choices = data.get("choices", [])
        elif kind == 9:
            check_modal(data)
            interaction.modal = data
        return None

    def _follow_up(self, interaction: Interaction, payload: dict[str, Any], files: list[File]) -> Any:
        alone = bool(int(payload.get("flags") or 0) & EPHEMERAL)
        original = interaction.original
        if interaction.kind == 5 and original is not None and original.thinking and not original.deleted:
            # The first follow-up takes the place of 'thinking', and is as visible as that was announced to be.
            original.thinking = False
            return self._change(original, payload, files)
        message = Message(self.snowflake(), interaction.channel.id, interaction.bot.name, True, bot=interaction.bot.id)
        message.only_for = interaction.user.id if alone else None
        self._fill(message, payload, files)
        self._keep(message)
        return self._raw(message)

    def _by_token(
        self, method: str, interaction: Interaction, named: str, payload: dict[str, Any], files: list[File]
    ) -> Any:
        message = interaction.original
        if named != "@original":
            message = interaction.channel.messages.get(int(named))
        if message is None or message.deleted:
            raise Refusal(404, 10008, "Unknown Message")
        if method == "GET":
            return self._raw(message)
        if method == "DELETE":
            message.deleted = True
            return None
        message.thinking = False
        return self._change(message, payload, files)

    def _send(self, bot: FakeDiscordBot, channel: Channel, payload: dict[str, Any], files: list[File]) -> Any:
        if channel.closed:
            raise Refusal(403, 50001, "Missing Access")
        if channel.recipient is not None and self.users[channel.recipient].closed:
            raise Refusal(403, 50007, "Cannot send messages to this user")
        self._count(bot, channel)
        nonce = str(payload.get("nonce") or "")
        if len(nonce) > 25:
            raise Refusal(400, 50035, "Invalid Form Body: nonce")
        if nonce and payload.get("enforce_nonce") and (bot.id, nonce) in self._nonces:
            return self._raw(self._nonces[(bot.id, nonce)])
        message = Message(self.snowflake(), channel.id, bot.name, True, bot=bot.id)
        reference = payload.get("message_reference")
        message.reply_to = int(reference["message_id"]) if reference else None
        self._fill(message, payload, files)
        self._keep(message)
        if nonce:
            self._nonces[(bot.id, nonce)] = message
        return self._raw(message)

    def _count(self, bot: FakeDiscordBot, channel: Channel) -> None:
        now, sent, limits = time.monotonic(), self._sent[(bot.token, channel.id)], self.limits
        if limits is not None and sum(at > now - limits.window_s / limits.speed for at in sent) >= limits.channel:
            self.floods += 1
            raise Refusal(429, 0, "You are being rate limited.", retry_after=0.5, **{"global": False})
        sent.append(now)

    def _change(self, message: Message, payload: dict[str, Any], files: list[File]) -> Any:
        self._fill(message, payload, files)
        self._remember(message)
        return self._raw(message)

    def _fill(self, message: Message, payload: dict[str, Any], files: list[File]) -> None:
        if sum(len(file.data) for file in files) > self.max_file_bytes:
            raise Refusal(413, 40005, "Request entity too large")
        content = payload.get("content") or ""
        embeds = payload.get("embeds") or []
        if len(content) > 2000 or any(len(embed.get("description", "")) > 4096 for embed in embeds):
            raise Refusal(400, 50035, "Invalid Form Body: too long")
        if not (content or embeds or files or payload.get("components")):
            raise Refusal(400, 50006, "Cannot send an empty message")
        buttons = buttons_of(payload.get("components") or [])
        named = {each["filename"] for each in payload.get("attachments") or ()}
        if named != {file.name for file in files}:
            raise Refusal(400, 50035, "Invalid Form Body: attachments")
        message.text = "\n".join([content, *(embed.get("description", "") for embed in embeds)]).strip()
        message.buttons, message.files = buttons, tuple(files)

    def _set_commands(self, bot: FakeDiscordBot, commands: list[dict[str, Any]]) -> Any:
        for command in commands:
            names = [command["name"], *(command.get("name_localizations") or {}).values()]
            for name in names:
                if not 1 <= len(name) <= 32 or (command["type"] == 1 and (name != name.lower() or " " in name)):
                    raise Refusal(400, 50035, f"Invalid Form Body: name {name!r}")
            if command["type"] == 1:
                texts = [command["description"], *(command.get("description_localizations") or {}).values()]
                if any(not 1 <= len(text) <= 100 for text in texts):
                    raise Refusal(400, 50035, f"Invalid Form Body: description of {command['name']}")
            required = [option.get("required", False) for option in command.get("options", ())]
            if required != sorted(required, reverse=True):
                raise Refusal(400, 50035, "Invalid Form Body: required options must come first")
        bot.commands, bot.command_puts = commands, bot.command_puts + 1
        return [{**command, "id": str(self.snowflake()), "application_id": str(bot.id)} for command in commands]

    def _channel_of(self, identifier: str, bot: FakeDiscordBot) -> Channel:
        channel = self.channels.get(int(identifier))
        if channel is None:
            raise Refusal(404, 10003, "Unknown Channel")
        if channel.guild is not None and channel.guild not in bot.guilds:
            raise Refusal(403, 50001, "Missing Access")
        return channel

    async def _serve_cdn(self, request: web.Request) -> web.Response:
        data = self.cdn.get(request.match_info["name"])
        return web.Response(status=404) if data is None else web.Response(body=data, content_type="image/png")

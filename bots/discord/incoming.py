"""What Discord tells, as the core understands it. Pure.

https://discord.com/developers/docs/interactions/receiving-and-responding
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import discord

from bots.core.actions import is_screen
from bots.core.incoming import Happening, Incoming, MessageRef, Person, Place

PROVIDER = "discord"
# An interaction can be answered for 15 minutes; what begins an upload in the last two of them may come too late.
TOKEN_S = 13 * 60
ORIGINAL = "@original"
_OPTIONS = frozenset(
    {"model", "ratio", "count", "seed", "negative", "spoiler", "duration", "prompt", "strength", "code"}
)


def read_interaction(interaction: discord.Interaction[Any], bot: str, now: float | None = None) -> Incoming | None:
    """A command, a press or a form; None for what none of ours can be."""
    at = time.time() if now is None else now
    data: Mapping[str, Any] = interaction.data or {}
    place = _place(interaction)
    common: dict[str, Any] = {
        "bot": bot,
        "update": str(interaction.id),
        "person": Person(
            provider=PROVIDER,
            subject=str(interaction.user.id),
            name=interaction.user.display_name,
            locale=str(interaction.locale.value),
        ),
        "place": place,
        "token": interaction.token,
        "token_until": at + TOKEN_S,
        "at": at,
    }
    match interaction.type:
        case discord.InteractionType.application_command if data.get("type", 1) == 3:
            file, size = _picture_of_message(data)
            return Incoming(what=Happening.MENU, command="animate", file=file, file_bytes=size, **common)
        case discord.InteractionType.application_command:
            options = {str(option["name"]): option.get("value") for option in data.get("options") or ()}
            file, size = _attachment(data, options.get("image"))
            return Incoming(
                what=Happening.COMMAND,
                command=str(data.get("name", "")),
                options={name: value for name, value in options.items() if name in _OPTIONS},
                file=file,
                file_bytes=size,
                **common,
            )
        case discord.InteractionType.component:
            actions = _actions(interaction.message)
            shown = MessageRef(
                place=place,
                message=ORIGINAL,
                token=interaction.token,
                token_until=at + TOKEN_S,
                person=str(interaction.user.id),
            )
            return Incoming(
                what=Happening.PRESS,
                action=str(data.get("custom_id", "")),
                message=shown,
                options={"screen": is_screen(actions)},
                reply_to=str(interaction.message.id) if interaction.message is not None else "",
                **common,
            )
        case discord.InteractionType.modal_submit:
            return Incoming(
                what=Happening.FORM,
                action=str(data.get("custom_id", "")),
                text=_typed(data.get("components")),
                **common,
            )
        case _:
            return None


def read_message(message: discord.Message, bot: str, me: int, now: float | None = None) -> Incoming | None:
    """Words that are meant for the bot: in private, with its name in them, or as a reply to it."""
    at = time.time() if now is None else now
    if message.author.bot or message.webhook_id is not None:
        return None
    private = message.guild is None
    mentioned = any(user.id == me for user in message.mentions)
    if not (private or mentioned):
        return None
    text = message.content
    for name in (f"<@{me}>", f"<@!{me}>"):
        text = text.replace(name, " ")
    picture = next((each for each in message.attachments if (each.content_type or "").startswith("image/")), None)
    return Incoming(
        bot=bot,
        update=str(message.id),
        what=Happening.TEXT,
        person=Person(provider=PROVIDER, subject=str(message.author.id), name=message.author.display_name),
        place=_place_of_channel(message.channel, message.guild.id if message.guild is not None else None),
        text=" ".join(text.split()),
        file=picture.url if picture is not None else "",
        file_bytes=picture.size if picture is not None else 0,
        reply_to=str(message.id),
        at=at,
    )


def focused(interaction: discord.Interaction[Any]) -> tuple[str, str]:
    """The option that a person is typing, and what stands in it."""
    data: Mapping[str, Any] = interaction.data or {}
    for option in data.get("options") or ():
        if option.get("focused"):
            return str(option["name"]), str(option.get("value") or "")
    return "", ""


def _place(interaction: discord.Interaction[Any]) -> Place:
    place = _place_of_channel(interaction.channel, interaction.guild_id)
    admin = interaction.guild_id is not None and interaction.permissions.manage_guild
    return Place(
        chat=place.chat or str(interaction.channel_id or ""),
        thread=place.thread,
        private=interaction.guild_id is None,
        server=place.server,
        age_restricted=place.age_restricted,
        admin=admin,
    )


def _place_of_channel(channel: Any, guild_id: int | None) -> Place:
    parent = getattr(channel, "parent_id", None)
    restricted = getattr(channel, "is_nsfw", None)
    return Place(
        chat=str(channel.id) if channel is not None else "",
        thread=str(parent) if parent else "",
        private=guild_id is None,
        server=str(guild_id) if guild_id is not None else "",
        age_restricted=bool(restricted()) if restricted is not None and guild_id is not None else False,
    )


def _attachment(data: Mapping[str, Any], identifier: Any) -> tuple[str, int]:
    if not identifier:
        return "", 0
    found = ((data.get("resolved") or {}).get("attachments") or {}).get(str(identifier))
    return (str(found.get("url", "")), int(found.get("size", 0))) if found else ("", 0)


def _picture_of_message(data: Mapping[str, Any]) -> tuple[str, int]:
    messages = (data.get("resolved") or {}).get("messages") or {}
    message = messages.get(str(data.get("target_id"))) or {}
    for attachment in message.get("attachments") or ():
        if str(attachment.get("content_type", "")).startswith("image/"):
            return str(attachment.get("url", "")), int(attachment.get("size", 0))
    return "", 0


def _actions(message: discord.Message | None) -> list[str]:
    if message is None:
        return []
    found = []
    for row in message.components:
        for child in getattr(row, "children", ()):
            custom_id = getattr(child, "custom_id", None)
            if custom_id:
                found.append(str(custom_id))
    return found


def _typed(rows: Any) -> str:
    for row in rows or ():
        inside = row.get("components") or ([row["component"]] if row.get("component") else [])
        for field in inside:
            if field.get("custom_id") == "text":
                return str(field.get("value") or "")
    return ""

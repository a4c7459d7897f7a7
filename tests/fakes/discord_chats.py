"""What there is in the fake Discord: people, channels, messages, bots, interactions, and what may be sent to it."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from tests.fakes.chats import Button, File, Snapshot, button_of

EPHEMERAL = 64


@dataclass
class Message:
    """A message as a person sees it now. ``only_for``: the one person who sees it."""

    id: int
    channel: int
    sender: str
    by_bot: bool
    text: str = ""
    files: tuple[File, ...] = ()
    buttons: tuple[tuple[Button, ...], ...] = ()
    only_for: int | None = None
    reply_to: int | None = None
    thinking: bool = False
    deleted: bool = False
    history: list[Snapshot] = field(default_factory=list)
    bot: int = 0

    @property
    def file(self) -> File | None:
        """The first file."""
        return self.files[0] if self.files else None

    def button(self, label: str) -> Button:
        """The button whose label has this in it."""
        return button_of(self.buttons, label)


@dataclass
class User:
    id: int
    name: str
    locale: str = "en-US"
    admin: bool = False
    closed: bool = False  # takes no direct messages


@dataclass
class Channel:
    id: int
    name: str
    guild: int | None = None
    nsfw: bool = False
    closed: bool = False  # the bot may not write here by itself
    recipient: int | None = None
    parent: int | None = None  # of a thread
    messages: dict[int, Message] = field(default_factory=dict)


@dataclass
class Session:
    id: str
    sent: list[dict[str, Any]] = field(default_factory=list)
    socket: web.WebSocketResponse | None = None


@dataclass
class FakeDiscordBot:
    id: int
    token: str
    name: str
    guilds: set[int] = field(default_factory=set)
    commands: list[dict[str, Any]] = field(default_factory=list)
    command_puts: int = 0
    sessions: dict[str, Session] = field(default_factory=dict)
    session: Session | None = None
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    resumed: int = 0
    identified: int = 0


@dataclass
class Interaction:
    """What a person did, and how it was answered."""

    id: int
    token: str
    bot: FakeDiscordBot
    channel: Channel
    user: User
    at: float
    source: Message | None = None
    kind: int = 0  # of the first answer; 0: none yet
    ephemeral: bool = False
    original: Message | None = None
    modal: dict[str, Any] | None = None
    choices: list[dict[str, Any]] | None = None
    over: bool = False  # its token has ended
    acknowledged_s: float | None = None


@dataclass
class Fault:
    """Breaks calls whose "METHOD /path" contains ``route``. ``kind``: 429, 500, 502, 413, timeout, drop, late_drop."""

    route: str
    kind: str
    times: int = 1
    retry_after: float = 1.0


@dataclass
class Limits:
    """Messages of the bot token in one channel; ``speed`` makes the clock run faster."""

    channel: int = 5
    window_s: float = 5.0
    speed: float = 1.0


class Refusal(Exception):
    def __init__(self, status: int, code: int, message: str, **more: Any) -> None:
        self.status, self.code, self.message, self.more = status, code, message, more
        super().__init__(message)


def exact_headers(name: str) -> dict[str, str]:
    # discord.py takes an answer for JSON only when its type is exactly this, and a 429 for Discord's only with a Via.
    return {name: "1.1 fake", "Content-Type": "application/json"}


async def read_call(request: web.Request) -> tuple[Any, list[File]]:
    if request.content_type.startswith("multipart/"):
        payload: Any = {}
        files: list[File] = []
        async for part in await request.multipart():
            data = bytes(await part.read())  # type: ignore[union-attr,arg-type]
            if part.name == "payload_json":  # type: ignore[union-attr]
                payload = json.loads(data)
            else:
                name = part.filename or ""  # type: ignore[union-attr]
                kind = "video" if name.endswith(".mp4") else "photo" if name.endswith((".png", ".jpg")) else "document"
                files.append(File(kind, data, name, name.startswith("SPOILER_")))
        return payload, files
    body = await request.read()
    return (json.loads(body) if body else {}), []


def buttons_of(rows: list[dict[str, Any]]) -> tuple[tuple[Button, ...], ...]:
    if len(rows) > 5:
        raise Refusal(400, 50035, "Invalid Form Body: too many rows")
    made = []
    names: set[str] = set()
    for row in rows:
        if not 1 <= len(row["components"]) <= 5:
            raise Refusal(400, 50035, "Invalid Form Body: a row takes one to five buttons")
        buttons = []
        for button in row["components"]:
            custom_id = button.get("custom_id", "")
            if len(custom_id) > 100 or len(button["label"]) > 80 or (custom_id and custom_id in names):
                raise Refusal(400, 50035, f"Invalid Form Body: custom_id {custom_id!r}")
            names.add(custom_id)
            buttons.append(Button(button["label"], custom_id, button.get("url", "")))
        made.append(tuple(buttons))
    return tuple(made)


def check_modal(data: dict[str, Any]) -> None:
    if not 1 <= len(data["title"]) <= 45 or not 1 <= len(data["custom_id"]) <= 100:
        raise Refusal(400, 50035, "Invalid Form Body: title")
    for row in data["components"]:
        field_ = row["components"][0]
        if not 1 <= len(field_["label"]) <= 45 or len(field_.get("value", "")) > 4000:
            raise Refusal(400, 50035, "Invalid Form Body: label")

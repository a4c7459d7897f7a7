"""What there is in the fake Telegram: people, chats, messages, bots; and what the Bot API checks of what it is sent."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any, ClassVar

from aiohttp import web

from tests.fakes.chats import Button, File, Snapshot, button_of

MAX_CALLBACK = 64
MAX_PHOTO_BYTES = 10 << 20


@dataclass
class Message:
    """A message as a person sees it now; ``history`` is how it looked before, the first first."""

    id: int
    chat: int
    sender: str  # a person's name, or the @name of a bot
    by_bot: bool
    text: str = ""
    html: str = ""
    entities: list[dict[str, Any]] = field(default_factory=list)
    file: File | None = None
    buttons: tuple[tuple[Button, ...], ...] = ()
    reply_to: int | None = None
    thread: int | None = None
    asks: bool = False  # it opens the reply field
    deleted: bool = False
    history: list[Snapshot] = field(default_factory=list)
    raw: dict[str, Any] = field(default_factory=dict)

    def button(self, label: str) -> Button:
        """The button whose label has this in it."""
        return button_of(self.buttons, label)


@dataclass
class User:
    id: int
    name: str
    language: str = "en"
    blocked: set[int] = field(default_factory=set)  # bots that this person has blocked


@dataclass
class Chat:
    id: int
    type: str
    title: str
    admins: set[int] = field(default_factory=set)
    messages: dict[int, Message] = field(default_factory=dict)
    moved_to: int | None = None
    closed: bool = False  # the bot may not write


@dataclass
class FakeBot:
    id: int
    token: str
    username: str
    updates: deque[dict[str, Any]] = field(default_factory=deque)
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    commands: dict[str, list[dict[str, str]]] = field(default_factory=dict)
    polling: asyncio.Task[Any] | None = None
    webhook: dict[str, str] = field(default_factory=dict)
    acknowledged: int = 0


@dataclass
class Fault:
    """Breaks calls of ``method`` ("*": any). ``kind``: 429, 500, 502, 413, timeout, drop (the line, before anything is
    done), late_drop (after it was done)."""

    method: str
    kind: str
    times: int = 1
    retry_after: int = 1


@dataclass
class Limits:
    """What the real one lets through; a call above it is answered by 429. ``speed`` makes its clock run faster."""

    chat_per_s: int = 3  # a burst that is let pass; 1 a second in the long run
    group_per_min: int = 20
    all_per_s: int = 30
    speed: float = 1.0


class _Parser(HTMLParser):
    TAGS: ClassVar = {"b": "bold", "i": "italic", "code": "code", "a": "text_link", "blockquote": "blockquote"}

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.text = ""
        self.open: list[tuple[str, int, str]] = []
        self.entities: list[dict[str, Any]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in self.TAGS:
            raise ValueError(f'unsupported start tag "{tag}"')
        self.open.append((tag, units(self.text), dict(attrs).get("href") or ""))

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open[-1][0] != tag:
            raise ValueError(f'unexpected end tag "{tag}"')
        name, start, href = self.open.pop()
        entity: dict[str, Any] = {"type": self.TAGS[name], "offset": start, "length": units(self.text) - start}
        if href:
            entity["url"] = href
        self.entities.append(entity)

    def handle_data(self, data: str) -> None:
        self.text += data


def units(text: str) -> int:
    return len(text.encode("utf-16-le")) // 2


def parse_html(text: str) -> tuple[str, list[dict[str, Any]]]:
    parser = _Parser()
    parser.feed(text)
    parser.close()
    if parser.open:
        raise ValueError(f'can\'t find end tag of "{parser.open[-1][0]}"')
    return parser.text, parser.entities


class Refusal(Exception):
    def __init__(self, code: int, description: str, **parameters: Any) -> None:
        self.code, self.description, self.parameters = code, description, parameters
        super().__init__(description)


async def read_call(request: web.Request) -> tuple[dict[str, Any], dict[str, bytes]]:
    values: dict[str, Any] = {}
    files: dict[str, bytes] = {}
    if request.content_type.startswith("multipart/"):
        async for part in await request.multipart():
            assert part.name is not None  # type: ignore[union-attr]
            data = await part.read()  # type: ignore[union-attr]
            if part.filename:  # type: ignore[union-attr]
                files[part.name] = bytes(data)  # type: ignore[union-attr,index]
                values.setdefault(f"name:{part.name}", part.filename)  # type: ignore[union-attr]
            else:
                values[part.name] = bytes(data).decode()  # type: ignore[union-attr,index]
    elif request.method == "POST":
        values = dict(await request.post())
    return values, files


def attached(named: str, values: dict[str, Any], files: dict[str, bytes], kind: str, spoiler: bool) -> File:
    part = named.removeprefix("attach://")
    data = files.get(part)
    if not data:
        raise Refusal(400, "Bad Request: file must be non-empty")
    if len(data) > 50 << 20:
        raise Refusal(413, "Request Entity Too Large")
    if kind == "photo" and len(data) > MAX_PHOTO_BYTES:
        raise Refusal(400, "Bad Request: file is too big for a photo")
    return File(kind, data, str(values.get(f"name:{part}", part)), spoiler)


def buttons_of(markup: dict[str, Any]) -> tuple[tuple[Button, ...], ...]:
    rows = []
    for row in markup.get("inline_keyboard", ()):
        made = []
        for button in row:
            data = button.get("callback_data", "")
            if len(data.encode()) > MAX_CALLBACK or not (data or button.get("url")):
                raise Refusal(400, "Bad Request: BUTTON_DATA_INVALID")
            made.append(Button(button["text"], data, button.get("url", "")))
        if len(made) > 8:
            raise Refusal(400, "Bad Request: too many buttons in a row")
        rows.append(tuple(made))
    return tuple(rows)


def refusal_answer(refusal: Refusal) -> web.Response:
    body: dict[str, Any] = {"ok": False, "error_code": refusal.code, "description": refusal.description}
    if refusal.parameters:
        body["parameters"] = refusal.parameters
    return web.json_response(body, status=refusal.code)

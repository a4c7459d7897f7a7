"""The chats of the demo as one page of HTML, as they looked: who wrote what in which order, pictures, buttons, what was
pressed, and of each message that was edited how it looked before."""

from __future__ import annotations

import hashlib
import html
import io
import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import av
from PIL import Image

from tests.demo_bots.scene import Scene
from tests.fakes import discord_chats, telegram_chats
from tests.fakes.chats import Act, Button, File, Snapshot

STYLE = Path(__file__).with_name("transcript.css")
COLOURS = ("#e17076", "#faa774", "#a695e7", "#7bc862", "#6ec9cb", "#65aadd", "#ee7aae", "#5b8def")
MAX_STAGES = 8


@dataclass(frozen=True, kw_only=True)
class Shown:
    """One message of the page; ``text`` is HTML."""

    who: str
    mine: bool
    text: str
    files: tuple[File, ...]
    buttons: tuple[tuple[Button, ...], ...]
    history: tuple[Snapshot, ...]  # the last is how it looks now
    replied: str = ""
    alone: bool = False
    deleted: bool = False
    colour: str = ""


@dataclass(frozen=True, kw_only=True)
class Conversation:
    """One chat with all that happened in it."""

    platform: str
    title: str
    note: str
    messages: Sequence[Shown]
    acts: Sequence[Act]


class Page:
    """What was written: how many files, those that do not open, and how many results were shown."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "index.html"
        self.files = 0
        self.broken: list[str] = []
        self.results = 0
        self._folder = folder / "files"
        self._written: dict[str, tuple[str, str]] = {}
        self._folder.mkdir(parents=True, exist_ok=True)
        for old in self._folder.iterdir():
            old.unlink()

    def keep(self, file: File) -> tuple[str, str]:
        """What kind of file it is (by opening it), and its address in the page."""
        digest = hashlib.sha256(file.data).hexdigest()
        if digest not in self._written:
            self.files += 1
            kind, ending = kind_of(file.data)
            name = f"{self.files:03d}.{ending}"
            (self._folder / name).write_bytes(file.data)
            if kind == "broken":
                self.broken.append(name)
            self._written[digest] = (kind, f"files/{name}")
        return self._written[digest]


def write(scene: Scene, folder: Path) -> Page:
    """The page and its files."""
    page = Page(folder)
    parts = []
    for platform in ("telegram", "discord"):
        shown = [_conversation(page, each) for each in _conversations(scene, platform) if each.messages]
        parts.append(f"<h2>{platform.title()}</h2><main>{''.join(shown)}</main>")
    steps = "".join(
        f'<tr><td class="{"yes" if step.ok else "no"}">{"✓" if step.ok else "✗"}</td><td>{html.escape(step.bot)}</td>'
        f"<td>{html.escape(step.what)}</td><td>{html.escape(step.detail)}</td></tr>"
        for step in scene.steps
    )
    done = sum(step.ok for step in scene.steps)
    page.path.write_text(
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>The bots of Tessera</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE.read_text(encoding="utf-8")}</style>'
        f"<header><h1>The bots of Tessera</h1><p>{len(scene.bots)} bots, {scene.conversations} conversations, "
        f"{page.results} results. Every picture and clip was made by the platform on this machine. Under a message "
        "that was edited stands how it looked before, with the seconds since it appeared.</p>"
        f"<details><summary>{done} of {len(scene.steps)} steps as expected</summary><table>{steps}</table></details>"
        f"</header>{''.join(parts)}</html>",
        encoding="utf-8",
    )
    return page


# What is shown


def _conversations(scene: Scene, platform: str) -> Iterable[Conversation]:
    if platform == "telegram":
        for chat in scene.telegram.chats.values():
            yield Conversation(
                platform=platform,
                title=scene.names.get(str(chat.id), chat.title),
                note="a private chat" if chat.type == "private" else "a group with topics",
                messages=[_telegram(chat, message) for message in chat.messages.values()],
                acts=[act for act in scene.telegram.acts if act.chat == chat.id],
            )
        return
    colours = {bot.title: f"#{bot.colour:06x}" for bot in scene.bots if bot.platform == "discord"}
    for channel in scene.discord.channels.values():
        yield Conversation(
            platform=platform,
            title=scene.names.get(str(channel.id), channel.name),
            note="direct messages" if channel.guild is None else "a channel of the server Tessera Workshop",
            messages=[_discord(channel, message, colours) for message in channel.messages.values()],
            acts=[act for act in scene.discord.acts if act.chat == channel.id],
        )


def _telegram(chat: telegram_chats.Chat, message: telegram_chats.Message) -> Shown:
    text = message.html if message.by_bot else html.escape(message.text)
    replied = chat.messages.get(message.reply_to or 0)
    return Shown(
        who=message.sender,
        mine=not message.by_bot,
        text=text.replace("\n", "<br>").replace("</blockquote><br>", "</blockquote>"),
        files=(message.file,) if message.file is not None else (),
        buttons=message.buttons,
        history=tuple(message.history),
        replied=_quoted(replied.sender, replied.text) if replied is not None else "",
        deleted=message.deleted,
    )


def _discord(channel: discord_chats.Channel, message: discord_chats.Message, colours: dict[str, str]) -> Shown:
    replied = channel.messages.get(message.reply_to or 0)
    return Shown(
        who=message.sender,
        mine=not message.by_bot,
        text=_markdown(message.text),
        files=message.files,
        buttons=message.buttons,
        history=tuple(message.history),
        replied=_quoted(replied.sender, replied.text) if replied is not None else "",
        alone=message.only_for is not None,
        deleted=message.deleted,
        colour=colours.get(message.sender, ""),
    )


def _quoted(who: str, text: str) -> str:
    return f"<b>{html.escape(who)}</b> {html.escape(text[:80] or 'a picture')}"


def _markdown(text: str) -> str:
    made = []
    for line in text.split("\n"):
        quote = line.startswith("> ")
        shown = html.escape(line[2:] if quote else line)
        shown = re.sub(r"(?<!\\)\*\*(.+?)(?<!\\)\*\*", r"<b>\1</b>", shown)
        shown = re.sub(r"(?<!\\)\*(.+?)(?<!\\)\*", r"<i>\1</i>", shown)
        shown = re.sub(r"`(.+?)`", r"<code>\1</code>", shown)
        shown = re.sub(r"(?<!\\)\[(.+?)\]\((\S+?)\)", r'<a href="\2">\1</a>', shown)
        shown = re.sub(r"\\(.)", r"\1", shown)
        made.append(f"<blockquote>{shown}</blockquote>" if quote else f"{shown}<br>")
    return "".join(made)


# How it looks


def _conversation(page: Page, chat: Conversation) -> str:
    items: list[tuple[int, str]] = [(shown.history[0].order, _message(page, chat, shown)) for shown in chat.messages]
    items += [(act.order, _act(act)) for act in chat.acts]
    lines = "".join(item for _, item in sorted(items))
    return (
        f'<section class="{chat.platform}"><div class="top">{_face(chat.title)}<div>{html.escape(chat.title)}'
        f"<small>{html.escape(chat.note)}</small></div></div><ol>{lines}</ol></section>"
    )


def _act(act: Act) -> str:
    if act.told:
        return (
            f'<li class="act told">{html.escape(act.text)} <small>· told to {html.escape(act.who)} alone</small></li>'
        )
    verb = "used" if act.text.startswith("/") else "filled in" if " → " in act.text else "chose"
    return f'<li class="act"><b>{html.escape(act.who)}</b> {verb} <b>{html.escape(act.text[:200])}</b></li>'


def _message(page: Page, chat: Conversation, shown: Shown) -> str:
    classes = " ".join(name for name, on in (("mine", shown.mine), ("alone", shown.alone)) if on)
    when = time.strftime("%H:%M:%S", time.gmtime(shown.history[0].at))
    stages = _stages(page, shown)
    edited = " · edited" if stages else ""
    stamp = f'<span class="when">{when}{edited}</span>'
    if shown.deleted:
        inside = f'<span class="gone">🗑 deleted: {html.escape(shown.history[-1].text[:80])}</span>'
        return _framed(chat, shown, classes, inside, stamp)
    files = "".join(f'<div class="media">{_file(page, file)}</div>' for file in shown.files)
    if shown.files and any("🔁" in button.label for row in shown.buttons for button in row):
        page.results += 1
    rows = "".join("<div>" + "".join(_button(button) for button in row) + "</div>" for row in shown.buttons)
    rows = f'<div class="rows">{rows}</div>' if rows else ""
    replied = f'<div class="replied">{shown.replied}</div>' if shown.replied else ""
    if chat.platform == "telegram":
        return _framed(chat, shown, classes, f"{replied}{files}{shown.text}", stamp, after=stages, below=rows)
    text = shown.text
    if not shown.mine and text.strip("<br>"):
        text = f'<div class="embed" style="--colour:{shown.colour or "#5865f2"}">{text}</div>'
    note = '<div class="note">👁 Only the asker can see this</div>' if shown.alone else ""
    return _framed(chat, shown, classes, f"{replied}{text}{files}{rows}{stages}{note}", stamp)


def _framed(
    chat: Conversation, shown: Shown, classes: str, inside: str, stamp: str, *, after: str = "", below: str = ""
) -> str:
    who = html.escape(shown.who)
    if chat.platform == "telegram":
        bubble = f'<div class="bubble"><div class="who">{who}</div>{inside}{stamp}{after}</div>'
        face = "" if shown.mine else _face(shown.who.removeprefix("@"))
        return f'<li class="message {classes}">{face}<div>{bubble}{below}</div></li>'
    app = "" if shown.mine else '<span class="app">APP</span>'
    head = f'<span class="who">{who}</span>{app} {stamp}'
    return f'<li class="message {classes}">{_face(shown.who)}<div class="body">{head}<div>{inside}</div></div></li>'


def _stages(page: Page, shown: Shown) -> str:
    """How it looked before, without what looked the same."""
    made: list[str] = []
    first, seen = shown.history[0].at, (shown.history[-1].text, shown.history[-1].file)
    for snapshot in shown.history[:-1]:
        looks = (snapshot.text, snapshot.file)
        if looks == seen or not (snapshot.text or snapshot.file):
            continue
        seen = looks
        picture = ""
        if snapshot.file is not None:
            kind, address = page.keep(snapshot.file)
            picture = f'<img src="{address}" alt="">' if kind == "image" else ""
        # The prompt stands above already: here is what changed.
        words = "\n".join(snapshot.text.split("\n")[1:]) or snapshot.text
        made.append(f"<div>{picture}<i>+{snapshot.at - first:.1f} s</i><p>{html.escape(words[:140])}</p></div>")
    if len(made) > MAX_STAGES:
        step = len(made) / MAX_STAGES
        made = [made[int(number * step)] for number in range(MAX_STAGES)]
    return f'<div class="stages">{"".join(made)}</div>' if made else ""


def _button(button: Button) -> str:
    danger = ' class="danger"' if button.label.startswith("🗑") else ""
    return f"<span{danger}>{html.escape(button.label)}{' ↗' if button.url else ''}</span>"


def _face(name: str) -> str:
    colour = COLOURS[sum(name.encode()) % len(COLOURS)]
    return f'<span class="face" style="background:{colour}">{html.escape(name[:1].upper())}</span>'


def _file(page: Page, file: File) -> str:
    kind, address = page.keep(file)
    size = f"{len(file.data) / 1024:.0f} KB"
    as_file = f'<a class="file" href="{address}"><b>📄</b><span>{html.escape(file.name)}<br>{size}</span></a>'
    if file.kind == "document" and kind != "video":
        return as_file
    tag = {
        "image": f'<img src="{address}" alt="">',
        "video": f'<video src="{address}" controls loop muted autoplay playsinline></video>',
    }.get(kind, as_file)
    return f'<div class="spoiler">{tag}</div>' if file.spoiler else tag


def kind_of(data: bytes) -> tuple[str, str]:
    """image, video, json or broken, and the ending of its name: by opening it."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.load()
            return "image", {"JPEG": "jpg", "PNG": "png", "WEBP": "webp"}.get(str(image.format), "img")
    except OSError:
        pass
    try:
        with av.open(io.BytesIO(data), "r") as container:
            frames = sum(1 for _ in container.decode(video=0))
        return ("video", "mp4") if frames else ("broken", "bin")
    except (av.FFmpegError, IndexError):
        pass
    return ("json", "json") if data[:1] in (b"{", b"[") else ("broken", "bin")

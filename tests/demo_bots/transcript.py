"""The chats of the demo as one page of HTML: messages in the order in which they appeared, with files and buttons."""

from __future__ import annotations

import html
import io
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import av
from PIL import Image

from tests.demo_bots.scene import Scene
from tests.fakes import discord_chats, telegram_chats
from tests.fakes.chats import Button, File, Snapshot

STYLE = """
:root{color-scheme:light dark;--bg:#eef1f5;--card:#fff;--ink:#17212b;--soft:#66707c;--mine:#e3f7d5;--line:#d8dee6}
@media(prefers-color-scheme:dark){:root{--bg:#0e1621;--card:#17212b;--ink:#e9eef4;--soft:#8b98a7;--mine:#25507a;
--line:#263443}}
*{box-sizing:border-box}body{margin:0;background:var(--bg);color:var(--ink);font:15px/1.45 system-ui,sans-serif}
header{padding:28px 24px 8px;max-width:1500px;margin:auto}h1{margin:0 0 6px;font-size:26px}h2{font-size:17px;margin:0}
main{display:grid;grid-template-columns:repeat(auto-fill,minmax(380px,1fr));gap:18px;padding:16px 24px 60px;
max-width:1500px;margin:auto;align-items:start}
section{background:var(--card);border:1px solid var(--line);border-radius:14px;overflow:hidden}
section>div.top{padding:12px 16px;border-bottom:1px solid var(--line)}.top small{color:var(--soft)}
ol{list-style:none;margin:0;padding:14px;display:flex;flex-direction:column;gap:10px}
li{max-width:88%;padding:8px 11px;border-radius:12px;background:var(--bg);overflow-wrap:anywhere}
li.mine{align-self:flex-end;background:var(--mine)}li.alone{border:1px dashed var(--soft)}
li b.who{display:block;font-size:12px;color:var(--soft);font-weight:600}
blockquote{margin:4px 0;padding:2px 10px;border-left:3px solid #3b82f6;color:var(--soft)}
img,video{display:block;max-width:100%;border-radius:9px;margin:5px 0}
.rows{display:flex;flex-direction:column;gap:4px;margin-top:7px}.rows div{display:flex;gap:4px}
.rows span{flex:1;text-align:center;padding:5px 8px;border-radius:8px;background:var(--card);
border:1px solid var(--line);font-size:13px}
details{font-size:12px;color:var(--soft);margin-top:5px}table{border-collapse:collapse}td{padding:2px 12px 2px 0}
.spoiler img,.spoiler video{filter:blur(22px)}.spoiler:hover img,.spoiler:hover video{filter:none}
.no{color:#dc2626;font-weight:700}.yes{color:#16a34a;font-weight:700}
"""


@dataclass(frozen=True, kw_only=True)
class Shown:
    """One message of the page."""

    who: str
    mine: bool
    text: str  # HTML
    files: tuple[File, ...]
    buttons: tuple[tuple[Button, ...], ...]
    history: tuple[Snapshot, ...]
    order: int
    alone: bool = False


@dataclass
class Page:
    """What was written: how many files, and those that do not open."""

    path: Path
    files: int
    broken: list[str]
    results: int


def write(scene: Scene, folder: Path) -> Page:
    """The page and its files."""
    files = folder / "files"
    files.mkdir(parents=True, exist_ok=True)
    for old in files.iterdir():
        old.unlink()
    page = Page(folder / "index.html", 0, [], 0)
    sections = []
    for title, note, messages in _chats(scene):
        if messages:
            items = "".join(_item(page, files, shown) for shown in sorted(messages, key=lambda shown: shown.order))
            sections.append(
                f'<section><div class="top"><h2>{html.escape(title)}</h2><small>{html.escape(note)}</small></div>'
                f"<ol>{items}</ol></section>"
            )
    steps = "".join(
        f'<tr><td class="{"yes" if step.ok else "no"}">{"✓" if step.ok else "✗"}</td><td>{html.escape(step.bot)}</td>'
        f"<td>{html.escape(step.what)}</td><td>{html.escape(step.detail)}</td></tr>"
        for step in scene.steps
    )
    done = sum(step.ok for step in scene.steps)
    page.path.write_text(
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>The bots of Tessera</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style>'
        f"<header><h1>The bots of Tessera</h1><p>{len(scene.bots)} bots, {scene.conversations} conversations, "
        f"{page.results} results. Every picture and clip was made by the platform on this machine.</p>"
        f"<details><summary>{done} of {len(scene.steps)} steps as expected</summary><table>{steps}</table></details>"
        f"</header><main>{''.join(sections)}</main></html>",
        encoding="utf-8",
    )
    return page


def _chats(scene: Scene) -> Iterable[tuple[str, str, list[Shown]]]:
    for chat in scene.telegram.chats.values():
        title = scene.names.get(str(chat.id), chat.title)
        yield (
            title,
            "Telegram · " + ("private" if chat.type == "private" else "group"),
            [_telegram(message) for message in chat.messages.values() if not message.deleted],
        )
    for channel in scene.discord.channels.values():
        title = scene.names.get(str(channel.id), channel.name)
        note = "Discord · " + ("private" if channel.guild is None else "server")
        yield title, note, [_discord(scene, m) for m in channel.messages.values() if not m.deleted]


def _telegram(message: telegram_chats.Message) -> Shown:
    text = message.html if message.by_bot else html.escape(message.text)
    return Shown(
        who=message.sender,
        mine=not message.by_bot,
        text=text.replace("\n", "<br>"),
        files=(message.file,) if message.file is not None else (),
        buttons=message.buttons,
        history=tuple(message.history[:-1]),
        order=message.history[0].order,
    )


def _discord(scene: Scene, message: discord_chats.Message) -> Shown:
    alone = message.only_for is not None
    return Shown(
        who=message.sender + (" · only you can see this" if alone else ""),
        mine=not message.by_bot,
        text=_markdown(message.text),
        files=message.files,
        buttons=message.buttons,
        history=tuple(message.history[:-1]),
        order=message.history[0].order,
        alone=alone,
    )


def _markdown(text: str) -> str:
    made = []
    for line in text.split("\n"):
        quote = line.startswith("> ")
        shown = html.escape(line[2:] if quote else line)
        shown = re.sub(r"(?<!\\)\*\*(.+?)(?<!\\)\*\*", r"<b>\1</b>", shown)
        shown = re.sub(r"(?<!\\)\*(.+?)(?<!\\)\*", r"<i>\1</i>", shown)
        shown = re.sub(r"`(.+?)`", r"<code>\1</code>", shown)
        shown = re.sub(r"\\(.)", r"\1", shown)
        made.append(f"<blockquote>{shown}</blockquote>" if quote else f"{shown}<br>")
    return "".join(made)


def _item(page: Page, folder: Path, shown: Shown) -> str:
    classes = " ".join(name for name, on in (("mine", shown.mine), ("alone", shown.alone)) if on)
    files = "".join(_file(page, folder, file) for file in shown.files)
    rows = "".join(
        "<div>" + "".join(f"<span>{html.escape(button.label)}</span>" for button in row) + "</div>"
        for row in shown.buttons
    )
    if any("🔁" in button.label for row in shown.buttons for button in row) and shown.files:
        page.results += 1
    before = "".join(f"<div>{html.escape(snapshot.text[:160])}</div>" for snapshot in shown.history if snapshot.text)
    history = f"<details><summary>{len(shown.history)} × before</summary>{before}</details>" if before else ""
    return (
        f'<li class="{classes}"><b class="who">{html.escape(shown.who)}</b>{files}{shown.text}'
        f"{f'<div class=rows>{rows}</div>' if rows else ''}{history}</li>"
    )


def _file(page: Page, folder: Path, file: File) -> str:
    page.files += 1
    kind, ending = kind_of(file.data)
    path = folder / f"{page.files:03d}.{ending}"
    path.write_bytes(file.data)
    if kind == "broken":
        page.broken.append(path.name)
    source = f"files/{path.name}"
    tag = {
        "image": f'<img src="{source}" alt="" loading="lazy">',
        "video": f'<video src="{source}" controls loop muted autoplay playsinline></video>',
    }.get(kind, f'<a href="{source}">{html.escape(file.name or path.name)}</a>')
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

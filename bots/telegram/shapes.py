"""How a view looks in Telegram: HTML, inline keyboards, photos, videos and documents. Pure.

https://core.telegram.org/bots/api#html-style
"""

from __future__ import annotations

import html
import re

from aiogram.types import (
    BufferedInputFile,
    ForceReply,
    InlineKeyboardButton,
    InlineKeyboardMarkup,
    InputMediaDocument,
    InputMediaPhoto,
    InputMediaVideo,
)

from bots.core.views import Form, Line, Media, Rows, Style, View, shorten

MAX_TEXT_CHARS = 4096
MAX_CAPTION_CHARS = 1024
MAX_PHOTO_BYTES = 10 << 20
MAX_UPLOAD_BYTES = 50 << 20
# The address of a link without a letter in a question: it says what the reply to the question is an answer to.
MARK_URL = "https://tessera.invalid/ask/"
_MARK = re.compile(re.escape(MARK_URL) + r"(.+)")


def text_of(view: View, limit: int) -> str:
    """The words of a view as HTML of at most ``limit`` characters, tags not counted; the prompt gives way first."""
    lines = [line for line in view.lines if line]
    used = sum(len(span.text) for line in lines for span in line) + len(lines)
    parts = []
    if view.quote:
        room = max(40, limit - used - 4)
        parts.append(f"<blockquote>{html.escape(shorten(view.quote, room), quote=False)}</blockquote>")
    parts += [_line(line) for line in lines]
    return "\n".join(parts)


def _line(line: Line) -> str:
    made = []
    for span in line:
        words = html.escape(span.text, quote=False)
        match span.style:
            case Style.BOLD:
                words = f"<b>{words}</b>"
            case Style.ITALIC:
                words = f"<i>{words}</i>"
            case Style.CODE:
                words = f"<code>{words}</code>"
            case Style.LINK:
                words = f'<a href="{html.escape(span.url)}">{words}</a>'
            case Style.PLAIN:
                pass
        made.append(words)
    return "".join(made)


def marked(text: str, form: Form) -> str:
    """A question that carries, unseen, what its answer belongs to."""
    return f'<a href="{html.escape(MARK_URL + form.action)}">\u2060</a>{text}'


def mark_in(urls: list[str]) -> str:
    """The action that a question carries, empty when it is none of ours."""
    for url in urls:
        found = _MARK.fullmatch(url)
        if found is not None:
            return found[1]
    return ""


def keyboard(rows: Rows) -> InlineKeyboardMarkup | None:
    """The buttons under a message."""
    made = [
        [
            InlineKeyboardButton(text=button.label, url=button.url)
            if button.url
            else InlineKeyboardButton(text=button.label, callback_data=button.action)
            for button in row
        ]
        for row in rows
        if row
    ]
    return InlineKeyboardMarkup(inline_keyboard=made) if made else None


def question(form: Form) -> ForceReply:
    """Opens the reply field of who was asked."""
    return ForceReply(force_reply=True, selective=True, input_field_placeholder=shorten(form.label, 64) or None)


def is_photo(media: Media) -> bool:
    """Whether it is sent as a photo."""
    return media.is_image and not media.as_file and media.media_type != "image/gif"


def input_file(media: Media) -> BufferedInputFile:
    """Its bytes as an upload."""
    return BufferedInputFile(media.data, filename=media.name)


def input_media(media: Media, caption: str) -> InputMediaPhoto | InputMediaVideo | InputMediaDocument:
    """What a message is edited into."""
    file = input_file(media)
    if is_photo(media):
        return InputMediaPhoto(media=file, caption=caption, parse_mode="HTML", has_spoiler=media.spoiler or None)
    if media.is_video and not media.as_file:
        return InputMediaVideo(
            media=file,
            caption=caption,
            parse_mode="HTML",
            width=media.width,
            height=media.height,
            duration=round(media.duration_s) if media.duration_s else None,
            supports_streaming=True,
            has_spoiler=media.spoiler or None,
        )
    return InputMediaDocument(media=file, caption=caption, parse_mode="HTML")

"""One bot's hands in Telegram: the core's views as calls of the Bot API, its refusals as the core's errors."""

from __future__ import annotations

import asyncio
import io
from collections import OrderedDict
from collections.abc import Awaitable
from dataclasses import replace
from typing import TypeVar

from aiogram import Bot
from aiogram.exceptions import (
    AiogramError,
    TelegramBadRequest,
    TelegramEntityTooLarge,
    TelegramForbiddenError,
    TelegramMigrateToChat,
    TelegramNetworkError,
    TelegramNotFound,
    TelegramRetryAfter,
    TelegramServerError,
)
from aiogram.types import LinkPreviewOptions, Message, ReplyParameters

from bots.core import pictures
from bots.core.incoming import Incoming, MessageRef, Place
from bots.core.platform import (
    ChatError,
    FloodWait,
    MessageGone,
    Moved,
    NotAllowed,
    Refused,
    TooLarge,
    Unreachable,
)
from bots.core.views import Form, Media, View
from bots.telegram.shapes import (
    MAX_CAPTION_CHARS,
    MAX_PHOTO_BYTES,
    MAX_TEXT_CHARS,
    MAX_UPLOAD_BYTES,
    input_file,
    input_media,
    is_photo,
    keyboard,
    marked,
    question,
    text_of,
)

ResultT = TypeVar("ResultT")

UPLOAD_TIMEOUT_S = 300  # a clip over a slow line; aiogram's own 60 s end it half-way
CALL_TIMEOUT_S = 30
NO_PREVIEW = LinkPreviewOptions(is_disabled=True)
REMEMBERED = 5_000
# How the Bot API says it, in lower case; it has no codes for these.
_UNCHANGED = "message is not modified"
_NO_TEXT = "there is no text in the message"
_GONE = ("message to edit not found", "message can't be edited", "message_id_invalid", "message identifier is not")
_CLOSED = (
    "chat not found",
    "not enough rights",
    "have no rights",
    "topic_closed",
    "bot was kicked",
    "user is deactivated",
    "chat_write_forbidden",
    "peer_id_invalid",
)
_NO_THREAD = "message thread not found"
_UNFIT = (
    "file is too big",
    "photo_invalid_dimensions",
    "image_process_failed",
    "wrong file identifier",
    "photo_save_file",
)


class TelegramChat:
    """One bot."""

    upload_limit_bytes = MAX_UPLOAD_BYTES

    def __init__(self, bot: Bot) -> None:
        self._bot = bot
        # Messages that are known to show a file: their words are a caption, and are edited by another method.
        self._with_media: OrderedDict[tuple[str, str], None] = OrderedDict()

    async def send(
        self, place: Place, view: View, *, reply_to: str = "", person: str = "", key: str = ""
    ) -> MessageRef:
        """A new message. The Bot API knows no repetition: ``key`` is of no use here."""
        try:
            message = await self._send(place, view, reply_to)
        except Refused as error:
            if not place.thread or _NO_THREAD not in str(error).lower():
                raise
            message = await self._send(replace(place, thread=""), view, reply_to)
        ref = MessageRef(place=place, message=str(message.message_id), person=person)
        if view.media:
            self._remember(ref)
        return ref

    async def answer(self, incoming: Incoming, view: View) -> MessageRef:
        """A message; in a group as a reply, so that everybody sees to whom."""
        reply_to = "" if incoming.place.private else incoming.reply_to
        return await self.send(incoming.place, view, reply_to=reply_to, person=incoming.person.subject)

    async def edit(self, ref: MessageRef, view: View) -> MessageRef:
        """Make a message show this. A message that shows a file keeps one: Telegram cannot take it away."""
        chat, message, markup = int(ref.place.chat), int(ref.message), keyboard(view.rows)
        key = (ref.place.chat, ref.message)
        if view.media:
            media = await self._fit(view.media[0])
            await _call(
                self._bot.edit_message_media(
                    input_media(media, text_of(view, MAX_CAPTION_CHARS)),
                    chat_id=chat,
                    message_id=message,
                    reply_markup=markup,
                    request_timeout=UPLOAD_TIMEOUT_S,
                )
            )
            self._remember(ref)
            return ref
        if key not in self._with_media:
            try:
                await _call(
                    self._bot.edit_message_text(
                        text_of(view, MAX_TEXT_CHARS),
                        chat_id=chat,
                        message_id=message,
                        parse_mode="HTML",
                        reply_markup=markup,
                        link_preview_options=NO_PREVIEW,
                        request_timeout=CALL_TIMEOUT_S,
                    )
                )
                return ref
            except Refused as error:
                if _NO_TEXT not in str(error).lower():
                    raise
                self._remember(ref)
        await _call(
            self._bot.edit_message_caption(
                chat_id=chat,
                message_id=message,
                caption=text_of(view, MAX_CAPTION_CHARS),
                parse_mode="HTML",
                reply_markup=markup,
                request_timeout=CALL_TIMEOUT_S,
            )
        )
        return ref

    async def notice(self, incoming: Incoming, text: str = "", *, loud: bool = False) -> None:
        """End the waiting of a press. One that is too old for it is no error."""
        if not incoming.token:
            return
        try:
            await _call(
                self._bot.answer_callback_query(
                    incoming.token, text=text[:200] or None, show_alert=loud or None, request_timeout=CALL_TIMEOUT_S
                )
            )
        except (Refused, MessageGone):
            return

    async def ask(self, incoming: Incoming, form: Form, view: View) -> None:
        """A question. In private any words are the answer to a question for a prompt, so it may have buttons."""
        reply_to = "" if incoming.place.private else incoming.reply_to
        buttons = keyboard(view.rows) if incoming.place.private else None
        await _call(
            self._bot.send_message(
                int(incoming.place.chat),
                marked(text_of(view, MAX_TEXT_CHARS - 10), form),
                parse_mode="HTML",
                message_thread_id=_thread(incoming.place),
                reply_parameters=_reply(reply_to),
                link_preview_options=NO_PREVIEW,
                reply_markup=buttons or question(form),
                request_timeout=CALL_TIMEOUT_S,
            )
        )

    async def delete(self, ref: MessageRef) -> None:
        """Take it away. Where that is not possible any more (after 48 hours), its files and buttons are."""
        try:
            await _call(self._bot.delete_message(int(ref.place.chat), int(ref.message), request_timeout=CALL_TIMEOUT_S))
        except (MessageGone, Refused):
            return

    async def file(self, file: str, max_bytes: int) -> bytes:
        """A picture that was sent. Telegram itself gives bots at most 20 MB."""
        found = await _call(self._bot.get_file(file, request_timeout=CALL_TIMEOUT_S))
        if found.file_path is None or (found.file_size or 0) > max_bytes:
            raise TooLarge("larger than a bot may fetch")
        into = io.BytesIO()
        await _call(self._bot.download_file(found.file_path, into, timeout=UPLOAD_TIMEOUT_S))
        if into.tell() > max_bytes:
            raise TooLarge("larger than a bot may fetch")
        return into.getvalue()

    async def is_admin(self, place: Place, subject: str) -> bool:
        """Whether the person may set rules for this chat."""
        member = await _call(self._bot.get_chat_member(int(place.chat), int(subject), request_timeout=CALL_TIMEOUT_S))
        return member.status in ("creator", "administrator")

    async def _send(self, place: Place, view: View, reply_to: str) -> Message:
        chat, thread, reply, markup = int(place.chat), _thread(place), _reply(reply_to), keyboard(view.rows)
        if not view.media:
            return await _call(
                self._bot.send_message(
                    chat,
                    text_of(view, MAX_TEXT_CHARS),
                    parse_mode="HTML",
                    message_thread_id=thread,
                    reply_parameters=reply,
                    reply_markup=markup,
                    link_preview_options=NO_PREVIEW,
                    request_timeout=CALL_TIMEOUT_S,
                )
            )
        media = await self._fit(view.media[0])
        caption = text_of(view, MAX_CAPTION_CHARS) or None
        file = input_file(media)
        if is_photo(media):
            return await _call(
                self._bot.send_photo(
                    chat,
                    file,
                    caption=caption,
                    parse_mode="HTML",
                    message_thread_id=thread,
                    reply_parameters=reply,
                    reply_markup=markup,
                    has_spoiler=media.spoiler or None,
                    request_timeout=UPLOAD_TIMEOUT_S,
                )
            )
        if media.is_video and not media.as_file:
            return await _call(
                self._bot.send_video(
                    chat,
                    file,
                    caption=caption,
                    parse_mode="HTML",
                    message_thread_id=thread,
                    reply_parameters=reply,
                    reply_markup=markup,
                    has_spoiler=media.spoiler or None,
                    width=media.width,
                    height=media.height,
                    duration=round(media.duration_s) if media.duration_s else None,
                    supports_streaming=True,
                    request_timeout=UPLOAD_TIMEOUT_S,
                )
            )
        return await _call(
            self._bot.send_document(
                chat,
                file,
                caption=caption,
                parse_mode="HTML",
                message_thread_id=thread,
                reply_parameters=reply,
                reply_markup=markup,
                disable_content_type_detection=True,
                request_timeout=UPLOAD_TIMEOUT_S,
            )
        )

    async def _fit(self, media: Media) -> Media:
        """A photo within Telegram's limits of photos; other files are as they are."""
        if not is_photo(media):
            return media
        try:
            return await asyncio.to_thread(pictures.as_photo, media, MAX_PHOTO_BYTES)
        except pictures.UnreadableFile as error:
            raise TooLarge(str(error)) from error

    def _remember(self, ref: MessageRef) -> None:
        self._with_media[(ref.place.chat, ref.message)] = None
        while len(self._with_media) > REMEMBERED:
            self._with_media.popitem(last=False)


def _thread(place: Place) -> int | None:
    return int(place.thread) if place.thread else None


def _reply(message: str) -> ReplyParameters | None:
    return ReplyParameters(message_id=int(message), allow_sending_without_reply=True) if message else None


async def _call(call: Awaitable[ResultT]) -> ResultT:
    """The answer of the Bot API. An edit that would change nothing has been done before, and is answered by True."""
    try:
        return await call
    except TelegramRetryAfter as error:
        raise FloodWait(float(error.retry_after)) from None
    except TelegramMigrateToChat as error:
        raise Moved(str(error.migrate_to_chat_id)) from None
    except TelegramForbiddenError as error:
        raise NotAllowed(error.message) from None
    except TelegramEntityTooLarge as error:
        raise TooLarge(error.message) from None
    except TelegramBadRequest as error:
        said = error.message.lower()
        if _UNCHANGED in said:
            return True  # type: ignore[return-value]  # edits answer with the message or True, and nobody looks
        raise _refusal(said, error.message) from None
    except TelegramNotFound as error:
        raise Refused(error.message) from None
    except (TelegramServerError, TelegramNetworkError) as error:
        # The network's own words hold the address, and with it the token.
        raise Unreachable(type(error).__name__) from None
    except AiogramError as error:
        raise Unreachable(type(error).__name__) from None


def _refusal(said: str, message: str) -> ChatError:
    if any(each in said for each in _GONE):
        return MessageGone(message)
    if any(each in said for each in _CLOSED):
        return NotAllowed(message)
    if any(each in said for each in _UNFIT):
        return TooLarge(message)
    return Refused(message)

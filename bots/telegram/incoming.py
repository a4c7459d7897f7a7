"""What Telegram tells, as the core understands it. Pure.

https://core.telegram.org/bots/api#update
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from aiogram.enums import ContentType
from aiogram.types import CallbackQuery, InaccessibleMessage, Message, MessageEntity, Update, User

from bots.core.actions import is_screen
from bots.core.incoming import Happening, Incoming, MessageRef, Person, Place
from bots.telegram.shapes import mark_in

PROVIDER = "telegram"
ALLOWED_UPDATES = ["message", "callback_query"]
# What a person sends that this bot can do nothing with: it says what it wants instead. Only in private.
_OTHER = frozenset(
    {
        ContentType.STICKER,
        ContentType.VOICE,
        ContentType.AUDIO,
        ContentType.ANIMATION,
        ContentType.VIDEO,
        ContentType.VIDEO_NOTE,
        ContentType.DOCUMENT,
    }
)


@dataclass(frozen=True, kw_only=True)
class Self:
    """The bot as Telegram knows it."""

    id: int
    username: str


def read(update: Update, bot: str, me: Self, now: float | None = None) -> Incoming | None:
    """What a person did, None for what is not for this bot."""
    at = time.time() if now is None else now
    if update.callback_query is not None:
        return _press(update.update_id, update.callback_query, bot, at)
    if update.message is not None:
        return _message(update.update_id, update.message, bot, me, at)
    return None


def _person(user: User) -> Person:
    return Person(provider=PROVIDER, subject=str(user.id), name=user.full_name, locale=user.language_code or "")


def place_of(message: Message) -> Place:
    """Where a message stands; a topic only where it is one."""
    thread = str(message.message_thread_id) if message.is_topic_message and message.message_thread_id else ""
    return Place(chat=str(message.chat.id), thread=thread, private=message.chat.type == "private")


def _press(update_id: int, query: CallbackQuery, bot: str, at: float) -> Incoming | None:
    if query.message is None or query.data is None:
        return None
    message = query.message
    if isinstance(message, InaccessibleMessage):
        place = Place(chat=str(message.chat.id), private=message.chat.type == "private")
        actions: list[str] = []
    else:
        place, actions = place_of(message), _actions(message)
    ref = MessageRef(place=place, message=str(message.message_id), person=str(query.from_user.id))
    return Incoming(
        bot=bot,
        update=str(update_id),
        what=Happening.PRESS,
        person=_person(query.from_user),
        place=place,
        action=query.data,
        message=ref,
        reply_to=str(message.message_id),
        options={"screen": is_screen(actions)},
        token=query.id,
        at=at,
    )


def _message(update_id: int, message: Message, bot: str, me: Self, at: float) -> Incoming | None:
    place = place_of(message)
    if message.migrate_to_chat_id is not None:
        return Incoming(
            bot=bot,
            update=str(update_id),
            what=Happening.MOVED,
            person=Person(provider=PROVIDER, subject=""),
            place=place,
            text=str(message.migrate_to_chat_id),
            at=at,
        )
    if message.from_user is None or message.from_user.is_bot:
        return None
    text = message.text or message.caption or ""
    entities = list(message.entities or message.caption_entities or [])
    replied = message.reply_to_message
    to_me = replied is not None and replied.from_user is not None and replied.from_user.id == me.id
    file, size = _picture(message)
    command, rest = _command(text, entities)
    what, action = Happening.TEXT, ""
    if command is not None:
        name, _, addressee = command.partition("@")
        if addressee and addressee.lower() != me.username.lower():
            return None
        what, text, command = Happening.COMMAND, rest, name.lower()
        if replied is not None:
            if not file:
                file, size = _picture(replied)
            action = next(iter(_actions(replied)), "")
    else:
        mentioned, text = _without_mention(text, entities, me.username)
        if to_me and replied is not None:
            action = mark_in([entity.url for entity in replied.entities or [] if entity.url])
            if action:
                what = Happening.FORM
        if not (place.private or mentioned or to_me):
            return None
        if message.media_group_id is not None and not text.strip():
            return None  # the rest of an album, whose words stand under another picture
        asks = mentioned or _is_words(message) or (place.private and message.content_type in _OTHER)
        if not text.strip() and not file and not asks:
            return None  # somebody joined, a message was pinned: nobody waits for an answer
    return Incoming(
        bot=bot,
        update=str(update_id),
        what=what,
        person=_person(message.from_user),
        place=place,
        command=command or "",
        text=text.strip(),
        action=action,
        file=file,
        file_bytes=size,
        reply_to=str(message.message_id),
        at=at,
    )


def _is_words(message: Message) -> bool:
    return message.text is not None


def _command(text: str, entities: list[MessageEntity]) -> tuple[str | None, str]:
    for entity in entities:
        if entity.type == "bot_command" and entity.offset == 0:
            whole = entity.extract_from(text)
            return whole[1:], text[len(whole) :].strip()
    return None, text


def _without_mention(text: str, entities: list[MessageEntity], username: str) -> tuple[bool, str]:
    for entity in entities:
        if entity.type == "mention":
            named = entity.extract_from(text)
            if named[1:].lower() == username.lower():
                return True, text.replace(named, "", 1).strip()
    return False, text


def _picture(message: Message) -> tuple[str, int]:
    """The id and size of the best picture of a message."""
    if message.photo:
        best = max(message.photo, key=lambda size: size.width * size.height)
        return best.file_id, best.file_size or 0
    document = message.document
    if document is not None and (document.mime_type or "").startswith("image/"):
        return document.file_id, document.file_size or 0
    return "", 0


def _actions(message: Message) -> list[str]:
    if message.reply_markup is None:
        return []
    return [
        button.callback_data
        for row in message.reply_markup.inline_keyboard
        for button in row
        if button.callback_data is not None
    ]

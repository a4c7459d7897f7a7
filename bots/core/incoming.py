"""What a person did in a chat, as values that no platform has shaped.

They travel through the platform's inbox as JSON (``dump``, ``load``), so an update that was stored before a kill is
understood after it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any


class Happening(StrEnum):
    """What kind of thing a person did."""

    COMMAND = "command"  # /imagine, with options where the platform has them
    TEXT = "text"  # words to the bot: in private, by mention, or as a reply to it
    PRESS = "press"  # a button; ``action`` says which
    FORM = "form"  # a form (a modal, or the reply to a question); ``action`` says which, ``text`` is what was typed
    MENU = "menu"  # a command on somebody's message, with its file
    MOVED = "moved"  # the chat goes on under another id, ``text``


@dataclass(frozen=True, kw_only=True)
class Person:
    """Who did it. ``locale`` is the language tag that the platform tells, empty when it tells none."""

    provider: str  # telegram, discord
    subject: str  # the id there
    name: str = ""
    locale: str = ""

    @property
    def identity(self) -> str:
        """As ``Tessera-On-Behalf-Of`` wants it."""
        return f"{self.provider}:{self.subject}"


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where an answer belongs. ``thread`` is a topic or a thread of the chat.

    ``age_restricted`` says that the platform itself lets only adults in.
    """

    chat: str
    thread: str = ""
    private: bool = True
    server: str = ""  # the Discord server; empty in Telegram
    age_restricted: bool = False
    admin: bool = False  # whether the person may set the rules of this chat, where the platform tells it


@dataclass(frozen=True, kw_only=True)
class MessageRef:
    """A message that was sent, durable enough to be edited by another process.

    ``token`` and ``token_until`` (seconds since 1970) are those of a Discord interaction whose answer it is.
    """

    place: Place
    message: str
    token: str = ""
    token_until: float = 0.0
    person: str = ""  # whose request it answers: the last address when the chat is gone

    def dump(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)

    @classmethod
    def load(cls, data: dict[str, Any]) -> MessageRef:
        """From ``dump``."""
        return cls(**{**data, "place": Place(**data["place"])})


@dataclass(frozen=True, kw_only=True)
class Incoming:
    """One thing that a person did. ``update`` is unique per bot: its re-delivery has the same.

    ``file`` is the platform's id of a picture that came along; ``options`` are those of a command.
    ``message`` is the message that a button belongs to; ``reply_to`` the person's own message, where there is one.
    """

    bot: str
    update: str
    what: Happening
    person: Person
    place: Place
    command: str = ""
    text: str = ""
    action: str = ""
    file: str = ""
    file_bytes: int = 0
    options: dict[str, Any] = field(default_factory=dict)
    message: MessageRef | None = None
    reply_to: str = ""
    token: str = ""  # what answers this very thing: a callback query, an interaction
    token_until: float = 0.0
    at: float = 0.0  # when it was received, seconds since 1970

    def dump(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)

    @classmethod
    def load(cls, data: dict[str, Any]) -> Incoming:
        """From ``dump``. Fields of a newer version are left out."""
        known = {name: value for name, value in data.items() if name in cls.__dataclass_fields__}
        known["what"] = Happening(data["what"])
        known["person"] = Person(**data["person"])
        known["place"] = Place(**data["place"])
        known["message"] = MessageRef.load(data["message"]) if data.get("message") else None
        return cls(**known)

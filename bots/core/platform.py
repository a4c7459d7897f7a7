"""What the core asks of a platform, and what it is told when that cannot be done."""

from __future__ import annotations

from enum import IntEnum
from typing import Protocol

from bots.core.incoming import Incoming, MessageRef, Place
from bots.core.views import Form, View


class Urgency(IntEnum):
    """Who goes first where a platform lets only so many messages through."""

    RESULT = 0  # what a person waits for
    REPLY = 1  # the answer to what a person just did
    STATUS = 2  # a place in the queue, for the first time
    PROGRESS = 3  # a newer one makes it worthless, and nobody misses it


class ChatError(Exception):
    """The platform did not do it."""


class FloodWait(ChatError):
    """Too fast: nothing may be sent (to ``chat``, or anywhere where that is empty) for ``wait_s``."""

    def __init__(self, wait_s: float, chat: str = "") -> None:
        self.wait_s = wait_s
        self.chat = chat
        super().__init__(f"flood wait of {wait_s:g} s")


class Moved(ChatError):
    """The chat goes on under another id."""

    def __init__(self, chat: str) -> None:
        self.chat = chat
        super().__init__("the chat has moved")


class TooLarge(ChatError):
    """The files are larger than the platform takes here."""


class MessageGone(ChatError):
    """The message to edit is not there any more, or can no longer be edited."""


class NotAllowed(ChatError):
    """The bot may not write there: it was blocked, removed, or has no right to. Trying again does not help."""


class Refused(ChatError):
    """The platform refuses what was sent: a mistake of ours, or a rule that we do not know. Trying again is no use."""


class Unreachable(ChatError):
    """The platform did not answer, or answered with its own failure. It may have done it all the same."""


class Chat(Protocol):
    """One bot's hands on its platform. Every method raises a ChatError."""

    upload_limit_bytes: int

    async def send(
        self, place: Place, view: View, *, reply_to: str = "", person: str = "", key: str = ""
    ) -> MessageRef:
        """A new message. ``key``: where the platform can, a repetition with the same key sends nothing new."""

    async def answer(self, incoming: Incoming, view: View) -> MessageRef:
        """A message in answer to what a person did: where the platform can, for him alone if the view wishes so."""

    async def edit(self, ref: MessageRef, view: View) -> MessageRef:
        """Make a message show this instead. Safe to repeat. Returns where it stands now: a platform that can edit it no
        more sends it anew."""

    async def notice(self, incoming: Incoming, text: str = "", *, loud: bool = False) -> None:
        """End the waiting of a button press, with a few words at most."""

    async def ask(self, incoming: Incoming, form: Form, view: View) -> None:
        """Ask the person for a text; it comes back as a FORM."""

    async def delete(self, ref: MessageRef) -> None:
        """Take a message away. One that is gone already is no error."""

    async def file(self, file: str, max_bytes: int) -> bytes:
        """The bytes of a picture that a person sent. Raises TooLarge."""

    async def is_admin(self, place: Place, subject: str) -> bool:
        """Whether the person may set rules for this chat."""

"""What a person sees in a chat, whatever the platform: shared by its fakes and by the transcript of the demo."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Button:
    label: str
    data: str = ""
    url: str = ""


@dataclass(frozen=True)
class File:
    """What a message shows. ``kind``: photo, video, document."""

    kind: str
    data: bytes = field(repr=False)
    name: str = ""
    spoiler: bool = False


@dataclass(frozen=True)
class Snapshot:
    """A message at one moment; ``order`` counts over all chats."""

    order: int
    at: float
    text: str
    file: File | None
    buttons: tuple[tuple[Button, ...], ...]


@dataclass(frozen=True)
class Act:
    """What a person did beside writing: pressed a button, used a command, filled in a form. ``told``: what the platform
    showed that person in passing. ``order`` counts with that of the messages."""

    order: int
    at: float
    chat: int
    who: str
    text: str
    told: bool = False


def button_of(rows: tuple[tuple[Button, ...], ...], label: str) -> Button:
    """The button whose label has this in it."""
    for row in rows:
        for button in row:
            if label in button.label:
                return button
    raise AssertionError(f"no button {label!r}: {[button.label for row in rows for button in row]}")

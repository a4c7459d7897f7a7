"""What a bot shows, before a platform shapes it: lines of styled words, files, buttons, a form."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum


class Style(StrEnum):
    """How words look."""

    PLAIN = "plain"
    BOLD = "bold"
    ITALIC = "italic"
    CODE = "code"
    LINK = "link"


@dataclass(frozen=True)
class Span:
    """Some words in one style; ``url`` only of a link. The words are data: each platform escapes them."""

    text: str
    style: Style = Style.PLAIN
    url: str = ""


Line = tuple[Span, ...]


def plain(text: str) -> Line:
    """A line without styles."""
    return (Span(text),)


def bold(text: str) -> Line:
    """A line in bold."""
    return (Span(text, Style.BOLD),)


def code(text: str) -> Line:
    """A line to be copied."""
    return (Span(text, Style.CODE),)


def italic(text: str) -> Line:
    """A line in italics."""
    return (Span(text, Style.ITALIC),)


def link(text: str, url: str) -> Line:
    """A line that leads somewhere."""
    return (Span(text, Style.LINK, url),)


@dataclass(frozen=True, kw_only=True)
class Media:
    """A file to show. ``as_file`` keeps it as it is, instead of as a picture that the platform compresses."""

    name: str
    media_type: str
    data: bytes
    spoiler: bool = False
    as_file: bool = False
    width: int | None = None
    height: int | None = None
    duration_s: float | None = None

    @property
    def is_video(self) -> bool:
        """Whether it moves."""
        return self.media_type.startswith("video/")

    @property
    def is_image(self) -> bool:
        """Whether it can be shown as a picture."""
        return self.media_type.startswith("image/")


@dataclass(frozen=True, kw_only=True)
class Button:
    """Leads to ``url``, or comes back as a press with ``action``."""

    label: str
    action: str = ""
    url: str = ""
    danger: bool = False


@dataclass(frozen=True, kw_only=True)
class Form:
    """Asks for one text. It comes back as a FORM with ``action``."""

    title: str
    label: str
    action: str
    value: str = ""  # what stands there already
    max_length: int = 3500


Rows = tuple[tuple[Button, ...], ...]


@dataclass(frozen=True, kw_only=True)
class View:
    """One message. ``only_for_asker`` is a wish: where the platform cannot, everybody in the chat sees it."""

    lines: tuple[Line, ...] = ()
    quote: str = ""  # the prompt, set apart
    media: tuple[Media, ...] = ()
    rows: Rows = ()
    only_for_asker: bool = False
    colour: int | None = None

    def without_media(self) -> View:
        """The words alone."""
        return replace(self, media=())

    @property
    def text(self) -> str:
        """The words without styles, for logs of tests and for alternatives."""
        shown = "\n".join("".join(span.text for span in line) for line in self.lines)
        return f"{self.quote}\n{shown}" if self.quote else shown


def shorten(text: str, limit: int) -> str:
    """At most ``limit`` characters, cut at a word where there is one."""
    text = text.strip()
    if len(text) <= limit:
        return text
    cut = text[: limit - 1]
    space = cut.rfind(" ")
    return (cut[:space] if space > limit * 2 // 3 else cut).rstrip() + "…"


def bar(fraction: float, width: int = 12) -> str:
    """A bar of blocks."""
    done = round(max(0.0, min(1.0, fraction)) * width)
    return "▰" * done + "▱" * (width - done)

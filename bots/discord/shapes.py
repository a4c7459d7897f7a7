"""How a view looks in Discord: an embed, components, attachments; and the commands as Discord lists them. Pure.

https://discord.com/developers/docs/resources/message
"""

from __future__ import annotations

import re
from typing import Any

from bots.core.commands import Command, Option, OptionType, commands_of
from bots.core.messages import Words
from bots.core.views import Button, Form, Line, Media, Rows, Style, View, shorten

MAX_DESCRIPTION_CHARS = 4000  # 4,096, with room for what is escaped
MAX_UPLOAD_BYTES = 10 << 20  # of a server without boosts; what is larger is refused by 413 and made smaller
EPHEMERAL = 64
MAX_ROWS, MAX_IN_ROW = 5, 5
MANAGE_SERVER = 1 << 5
# The languages of the bots as Discord calls them.
LOCALES = {"de": ("de",), "es": ("es-ES", "es-419"), "pt": ("pt-BR",), "ru": ("ru",)}
_SPECIAL = re.compile(r"([\\*_~`|>#\[\]()<@:-])")
_TYPES = {
    OptionType.TEXT: 3,
    OptionType.WHOLE: 4,
    OptionType.YES_NO: 5,
    OptionType.REAL: 10,
    OptionType.FILE: 11,
}


def payload_of(view: View, *, alone: bool = False, reply_to: str = "") -> dict[str, Any]:
    """A message without its files. Nobody is ever pinged by it."""
    payload: dict[str, Any] = {
        "embeds": [],
        "components": components(view.rows),
        "allowed_mentions": {"parse": [], "replied_user": False},
        "attachments": [{"id": number, "filename": name_of(media)} for number, media in enumerate(view.media)],
    }
    description = description_of(view)
    if description:
        payload["embeds"] = [
            {"description": description, **({"color": view.colour} if view.colour is not None else {})}
        ]
    if alone:
        payload["flags"] = EPHEMERAL
    if reply_to:
        payload["message_reference"] = {"message_id": reply_to, "fail_if_not_exists": False}
    return payload


def description_of(view: View) -> str:
    """The words as Markdown; the prompt gives way first where they are many."""
    lines = [_line(line) for line in view.lines if line]
    used = sum(len(line) + 1 for line in lines)
    parts = []
    if view.quote:
        quote = escape(shorten(" ".join(view.quote.split()), max(40, (MAX_DESCRIPTION_CHARS - used) // 2)))
        parts.append(f"> {quote}")
    return "\n".join([*parts, *lines])[:4096]


def escape(text: str) -> str:
    """Words that Markdown leaves as they are."""
    return _SPECIAL.sub(r"\\\1", text)


def _line(line: Line) -> str:
    made = []
    for span in line:
        match span.style:
            case Style.BOLD:
                made.append(f"**{escape(span.text)}**")
            case Style.ITALIC:
                made.append(f"*{escape(span.text)}*")
            case Style.CODE:
                made.append(f"`{span.text.replace('`', 'ˋ')}`")
            case Style.LINK:
                made.append(f"[{escape(span.text)}]({span.url})")
            case Style.PLAIN:
                made.append(escape(span.text))
    return "".join(made)


def components(rows: Rows) -> list[dict[str, Any]]:
    """The buttons: at most five rows of five."""
    made: list[dict[str, Any]] = []
    for row in rows:
        for at in range(0, len(row), MAX_IN_ROW):
            made.append({"type": 1, "components": [_button(button) for button in row[at : at + MAX_IN_ROW]]})
    return made[:MAX_ROWS]


def _button(button: Button) -> dict[str, Any]:
    if button.url:
        return {"type": 2, "style": 5, "label": shorten(button.label, 80), "url": button.url}
    style = 4 if button.danger else 2
    return {"type": 2, "style": style, "label": shorten(button.label, 80), "custom_id": button.action}


def modal(form: Form) -> dict[str, Any]:
    """A form."""
    field: dict[str, Any] = {
        "type": 4,
        "custom_id": "text",
        "style": 2,
        "label": shorten(form.label, 45),
        "required": True,
        "max_length": min(4000, form.max_length),
    }
    if form.value:
        field["value"] = form.value[: form.max_length]
    return {
        "title": shorten(form.title, 45),
        "custom_id": form.action,
        "components": [{"type": 1, "components": [field]}],
    }


def name_of(media: Media) -> str:
    """A file's name; Discord hides what begins with SPOILER_."""
    return f"SPOILER_{media.name}" if media.spoiler else media.name


# The commands


def commands_payload(kind: str, words: dict[str, Words]) -> list[dict[str, Any]]:
    """The commands of a bot of this kind, in all of its languages."""
    made = [_command(command, words) for command in commands_of(kind)]
    if kind == "video":
        menu = words["en"]("menu-animate")
        made.append(
            {
                "type": 3,
                "name": menu,
                "name_localizations": _localized("menu-animate", words),
                "contexts": [0, 1, 2],
                "integration_types": [0],
            }
        )
    return made


def _command(command: Command, words: dict[str, Words]) -> dict[str, Any]:
    made: dict[str, Any] = {
        "type": 1,
        "name": command.name,
        "name_localizations": _localized(f"name-{command.name}", words),
        "description": shorten(words["en"](f"command-{command.name}"), 100),
        "description_localizations": _localized(f"command-{command.name}", words),
        "options": [_option(option, words) for option in command.options],
        "contexts": [0] if command.for_admins else [0, 1, 2],
        "integration_types": [0],
    }
    if command.for_admins:
        made["default_member_permissions"] = str(MANAGE_SERVER)
    return made


def _option(option: Option, words: dict[str, Words]) -> dict[str, Any]:
    made: dict[str, Any] = {
        "type": _TYPES[option.type],
        "name": option.name,
        "description": shorten(words["en"](f"option-{option.name}"), 100),
        "description_localizations": _localized(f"option-{option.name}", words),
        "required": option.required,
    }
    if option.choices:
        made["choices"] = [{"name": choice, "value": choice} for choice in option.choices]
    elif option.completes:
        made["autocomplete"] = True
    if option.low is not None:
        made["min_value"] = option.low
    if option.high is not None:
        made["max_value"] = option.high
    if option.type is OptionType.TEXT and not option.choices:
        made["max_length"] = 4000 if option.name in ("prompt", "negative") else 100
    return made


def _localized(name: str, words: dict[str, Words]) -> dict[str, str]:
    return {
        locale: shorten(words[language](name), 100)
        for language, locales in LOCALES.items()
        if language in words
        for locale in locales
    }

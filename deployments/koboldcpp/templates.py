"""Chat templates: messages as the one prompt that a language model was trained on. Pure, but for reading its own data.

They are data (``templates.toml``) and rendered here, instead of by KoboldCPP's own chat route, because only who has the
prompt can have its tokens counted before the run, and so refuse what does not fit instead of having it cut.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

_FILE = Path(__file__).with_name("templates.toml")
NONE = "none"  # the prompt as it is


@dataclass(frozen=True, kw_only=True)
class Template:
    """One family's way to write a chat. Each text has one ``{}``, but for ``answer``, which opens the answer.

    ``system`` None: the family has no such role.
    """

    name: str
    system: str | None = None
    system_inside_user: bool = False  # what the system says stands inside the first message of the user
    user: str
    assistant: str
    answer: str
    stops: tuple[str, ...]
    marks: tuple[str, ...]

    def render(self, given: Mapping[str, Any]) -> str:
        """The prompt for ``prompt`` or ``messages`` of a text input. An answer at the end is gone on with."""
        if given.get("prompt") is not None:
            prompt = str(given["prompt"])
            return prompt if self.name == NONE else self._chat([("user", prompt)])
        return self._chat([(str(m["role"]), str(m["content"])) for m in given.get("messages") or ()])

    def _chat(self, messages: Sequence[tuple[str, str]]) -> str:
        written: list[str] = []
        waiting = ""  # what the system said and no user has said anything after yet
        last = len(messages) - 1
        for index, (role, content) in enumerate(messages):
            text = self._harmless(content)
            if role == "system":
                if self.system is not None and not self.system_inside_user:
                    written.append(self.system.replace("{}", text))
                else:
                    waiting += self.system.replace("{}", text) if self.system is not None else f"{text}\n\n"
            elif role == "assistant":
                if index == last:
                    return "".join(written) + self.answer + text
                written.append(self.assistant.replace("{}", text))
            else:
                written.append(self.user.replace("{}", waiting + text))
                waiting = ""
        if waiting:
            written.append(self.user.replace("{}", waiting.strip()))
        return "".join(written) + self.answer

    def _harmless(self, text: str) -> str:
        """The text with a space inside of each mark, so that nobody's message can pretend to be another role's."""
        for mark in self.marks:
            text = text.replace(mark, f"{mark[0]} {mark[1:]}")
        return text


@cache
def templates() -> Mapping[str, Template]:
    """All templates by name."""
    data = tomllib.loads(_FILE.read_text(encoding="utf-8"))
    return {
        name: Template(
            name=name,
            system=entry.get("system"),
            system_inside_user=entry.get("system_inside_user", False),
            user=entry["user"],
            assistant=entry["assistant"],
            answer=entry["answer"],
            stops=tuple(entry["stops"]),
            marks=tuple(entry["marks"]),
        )
        for name, entry in data.items()
    }

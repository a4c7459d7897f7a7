"""What a button carries: everything that is needed to act on it, in 64 bytes, so that it works after a restart."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

MAX_BYTES = 64  # Telegram's limit of callback_data; Discord's custom_id takes 100

_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"


class Verb(StrEnum):
    """What a press asks for."""

    UPSCALE = "up"
    VARY = "va"
    AGAIN = "ag"
    EDIT = "ed"  # asks for another prompt
    EXTEND = "ex"
    ORIGINAL = "of"
    DELETE = "de"
    CANCEL = "ca"
    HISTORY = "hi"  # value: the page
    SHOW = "sh"  # one entry of the history
    USAGE = "us"
    PLANS = "pl"
    SETTINGS = "se"  # value: name=value, or the name of what is to be chosen
    OPTION = "op"  # of a question for a prompt; value: ratio=16:9
    REPORT = "re"
    ACCOUNT = "ac"  # value: export, delete, delete!
    RULES = "ru"  # of a chat, by its admin; value: what to change
    PROMPT = "pr"  # the form of a bare command, or of a picture without words; value: the picture's upload
    HELP = "he"


@dataclass(frozen=True, kw_only=True)
class Action:
    """``job`` is the part of the id after its prefix, ``owner`` the subject of who asked for the job."""

    verb: Verb
    job: str = ""
    owner: str = ""
    value: str = ""

    @property
    def job_id(self) -> str:
        """The job's whole id."""
        return f"job_{self.job}"

    @property
    def index(self) -> int:
        """The value as a number, 0 when it is none."""
        return int(self.value) if self.value.isdecimal() and len(self.value) < 6 else 0

    def encode(self) -> str:
        """At most 64 bytes. Raises ValueError above that: a value that long is a mistake in the code."""
        text = ":".join((self.verb.value, self.job, _base36(self.owner), self.value)).rstrip(":")
        if len(text.encode()) > MAX_BYTES:
            raise ValueError(f"an action of {len(text.encode())} bytes does not fit into a button: {text}")
        return text


def decode(text: str) -> Action | None:
    """The action of a button, None for what no button of ours carries (or one of a later version)."""
    parts = text.split(":", 3)
    parts += [""] * (4 - len(parts))
    try:
        return Action(
            verb=Verb(parts[0]), job=parts[1], owner=str(int(parts[2], 36)) if parts[2] else "", value=parts[3]
        )
    except ValueError:
        return None


def job_part(job_id: str) -> str:
    """``job_01abc…`` without its prefix."""
    return job_id.removeprefix("job_")


def _base36(subject: str) -> str:
    if not subject:
        return ""
    number, digits = int(subject), ""
    while number:
        number, rest = divmod(number, 36)
        digits = _DIGITS[rest] + digits
    return digits or "0"


def is_screen(actions: list[str]) -> bool:
    """Whether a message with these buttons may give way to another screen; results and jobs stay."""
    verbs = {action.verb for action in map(decode, actions) if action is not None}
    return bool(verbs) and verbs.isdisjoint({Verb.AGAIN, Verb.CANCEL, Verb.OPTION})

"""What the platform refuses, in words: what happened, what was lost (nothing), and what to do next. Pure."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from bots.core.actions import Action, Verb
from bots.core.messages import Words, clock, seconds
from bots.core.options import BadOption
from bots.core.views import Button, View, plain
from tessera.client import ApiError, ClientError

PLANS = Action(verb=Verb.PLANS).encode()
USAGE = Action(verb=Verb.USAGE).encode()


def refusal_view(error: ClientError, words: Words, now: datetime) -> View:
    """The answer to a request that was not taken."""
    if not isinstance(error, ApiError):
        return _view(words("refused-away"))
    if error.code == "quota_exhausted":
        more = (Button(label=words("button-plans"), action=PLANS), Button(label=words("button-usage"), action=USAGE))
        return View(
            lines=(plain(words("refused-quota", clock=clock(_reset(error, now), now))),),
            rows=(more,),
            only_for_asker=True,
        )
    if error.code == "too_many_queued":
        return _view(words("refused-queued"))
    if error.code == "rate_limited":
        return _view(words("refused-rate", wait=seconds(error.retry_after_s or 5, words)))
    if error.code == "content_blocked" and error.details.get("category") == "age_restricted":
        return _view(words("restricted"))
    if error.code in ("content_blocked", "content_withheld"):
        return _view(words("refused-blocked"))
    if error.code == "unavailable" or error.status in (502, 503, 504):
        return _view(words("refused-busy", wait=seconds(error.retry_after_s or 30, words)))
    if error.code in ("forbidden", "banned"):
        return _view(words("refused-banned"))
    if error.code == "gone":
        return _view(words("refused-expired"))
    if error.status in (400, 413, 415, 422):
        return _input_view(error, words)
    return _view(words("refused-other"))


def is_final(error: ClientError) -> bool:
    """Whether the same request will be refused again: then the person is told, else it is tried again."""
    return isinstance(error, ApiError) and error.status not in (500, 502, 503, 504)


def option_view(error: BadOption, words: Words) -> View:
    """The answer to an option that cannot be used."""
    return _view(words("refused-option", option=error.value, name=error.name, hint=error.hint))


def _reset(error: ApiError, now: datetime) -> datetime:
    """When the tokens come back: as the refusal says, else the next midnight of UTC."""
    told = error.details.get("resets_at")
    if isinstance(told, str):
        try:
            return datetime.fromisoformat(told)
        except ValueError:
            pass
    if error.retry_after_s is not None:
        return now + timedelta(seconds=error.retry_after_s)
    day = now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    return day + timedelta(days=1)


def _input_view(error: ApiError, words: Words) -> View:
    """What is wrong with the request. The API's own sentences are English: here stand ours."""
    problems = error.details.get("errors")
    first = problems[0] if isinstance(problems, list) and problems and isinstance(problems[0], dict) else {}
    field, most = str(first.get("field", "")), _most(str(first.get("message", "")))
    plans = ((Button(label=words("button-plans"), action=PLANS),),)
    if field == "input.duration_s" and most is not None:
        text = words("refused-duration", most=seconds(most, words))
        return View(lines=(plain(text),), rows=plans, only_for_asker=True)
    if field in ("input.width", "input.height") and most is not None:
        side = int(most**0.5)
        text = words("refused-size", side=str(side))
        return View(lines=(plain(text),), rows=plans, only_for_asker=True)
    if field in ("input.prompt", "input.negative_prompt"):
        return _view(words("refused-prompt"))
    return _view(words("refused-input"))


def _most(message: str) -> float | None:
    """The limit that a message of the API names at its end: ``must be at most 4``."""
    found = re.search(r"at most ([\d.]+)", message)
    return float(found[1].rstrip(".")) if found is not None else None


def _view(text: str) -> View:
    return View(lines=(plain(text),), only_for_asker=True)

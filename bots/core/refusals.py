"""What the platform refuses, in words: what happened, what was lost (nothing), and what to do next. Pure."""

from __future__ import annotations

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
        return _view(words("refused-input", detail=_detail(error)))
    return _view(words("refused-other", detail=_detail(error)))


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


def _detail(error: ApiError) -> str:
    """The sentence of the API without its own words about what was lost."""
    problems = error.details.get("errors")
    if isinstance(problems, list) and problems and isinstance(problems[0], dict):
        field = str(problems[0].get("field", "")).removeprefix("input.")
        return f"{field}: {problems[0].get('message', '')}." if field else f"{problems[0].get('message', '')}."
    text = error.message.removeprefix("Nothing was submitted or charged. ").strip()
    return text if text.endswith((".", "!", "?")) else f"{text}."


def _view(text: str) -> View:
    return View(lines=(plain(text),), only_for_asker=True)

"""The screens beside a job: usage, plans, settings, history, help, terms, privacy, the rules of a chat. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from bots.core.actions import Action, Verb, job_part
from bots.core.commands import commands_of
from bots.core.messages import LANGUAGES, Words, clock, number
from bots.core.options import RATIOS
from bots.core.status import left_of
from bots.core.views import Button, Line, Rows, Span, Style, View, bar, bold, code, plain, shorten
from tessera.client import Job, Me, Model, Plan
from tessera.jobs import JobState

PAGE = 5  # entries of the history on one page
MAX_PAGES = 20  # as many as one request of 100 jobs shows
SHOWN_RATIOS = RATIOS[:8]
STATE_SIGNS: dict[str, str] = {
    JobState.COMPLETED: "✅",
    JobState.FAILED: "⚠️",
    JobState.CANCELLED: "⏹",
    JobState.EXPIRED: "⌛",
    JobState.RUNNING: "🎨",
    JobState.QUEUED: "⏳",
    JobState.CREATED: "⏳",
}
PROVIDERS = {"telegram": "Telegram", "discord": "Discord", "email": "Web", "oidc": "Web"}


@dataclass(frozen=True, kw_only=True)
class PersonSettings:
    """What a person wishes when he does not say otherwise. None: the bot's default."""

    model: str | None = None
    ratio: str | None = None
    spoiler: bool | None = None
    language: str | None = None

    @classmethod
    def read(cls, stored: dict[str, object], kind: str) -> PersonSettings:
        """From what is stored for the person; the model is one of the kind's."""
        model, ratio = stored.get(f"{kind}_model"), stored.get("ratio")
        spoiler, language = stored.get("spoiler"), stored.get("language")
        return cls(
            model=model if isinstance(model, str) else None,
            ratio=ratio if isinstance(ratio, str) and ratio in RATIOS else None,
            spoiler=spoiler if isinstance(spoiler, bool) else None,
            language=language if isinstance(language, str) and language in LANGUAGES else None,
        )


@dataclass(frozen=True, kw_only=True)
class ChatRules:
    """What an admin allows in a group or server. Empty ``channels``: everywhere."""

    channels: tuple[str, ...] = ()
    adult: bool = False
    spoiler: bool = False

    def allow(self, channel: str) -> bool:
        """Whether the bot may answer there."""
        return not self.channels or channel in self.channels

    def dump(self) -> dict[str, object]:
        """As JSON."""
        return {"channels": list(self.channels), "adult": self.adult, "spoiler": self.spoiler}

    @classmethod
    def read(cls, stored: dict[str, object]) -> ChatRules:
        """From ``dump``."""
        channels = stored.get("channels")
        return cls(
            channels=tuple(str(channel) for channel in channels) if isinstance(channels, list) else (),
            adult=stored.get("adult") is True,
            spoiler=stored.get("spoiler") is True,
        )


def usage_view(me: Me, words: Words, now: datetime, *, identities: Sequence[str] = ()) -> View:
    """How much is left today, and when more comes."""
    quota = me.quota
    lines: list[Line] = [bold(words("usage-title", plan=me.plan))]
    if quota.daily_tokens is None or quota.remaining_tokens is None:
        lines.append(plain(words("usage-unlimited", used=number(float(quota.used_tokens), words))))
    else:
        left, daily = float(quota.remaining_tokens), float(quota.daily_tokens)
        shown = bar(left / daily if daily else 0.0)
        lines.append(
            plain(words("usage-bar", bar=shown, left=number(left_of(left), words), daily=number(daily, words)))
        )
    if quota.resets_at is not None:
        lines.append(plain(words("usage-reset", clock=clock(quota.resets_at, now))))
    if len(identities) > 1:
        lines.append(plain(words("usage-shared", platforms=platforms_of(identities))))
    plans = Button(label=words("button-plans"), action=Action(verb=Verb.PLANS).encode())
    return View(lines=tuple(lines), rows=((plans,),), only_for_asker=True)


def platforms_of(identities: Sequence[str]) -> str:
    """The platforms of several identities (``telegram:123``), each once."""
    return ", ".join(dict.fromkeys(PROVIDERS.get(each.split(":")[0], each) for each in identities))


def plans_view(plans: Sequence[Plan], mine: str, words: Words) -> View:
    """What can be had."""
    lines: list[Line] = [bold(words("plans-title"))]
    for plan in plans:
        price = f"${number(float(plan.price_usd_per_month), words)}" if plan.price_usd_per_month else words("plan-free")
        facts = {
            "title": plan.title or plan.id,
            "price": price,
            "tokens": number(float(plan.daily_tokens), words),
            "running": plan.limits.get("max_running", 1),
        }
        lines.append(bold(words("plan-yours", **facts)) if plan.id == mine else plain(words("plan-line", **facts)))
    usage = Button(label=words("button-usage"), action=Action(verb=Verb.USAGE).encode())
    return View(lines=tuple(lines), rows=((usage,),), only_for_asker=True)


def settings_view(settings: PersonSettings, words: Words, *, saved: bool = False) -> View:
    """What is set; each button leads to its choices."""
    shown = _shown(settings, words)
    lines: list[Line] = [bold(words("settings-title"))]
    lines += [plain(words(f"settings-{name}", value=value)) for name, value in shown.items()]
    if saved:
        lines.append(plain(words("settings-saved")))
    buttons = [
        Button(
            label=words(f"settings-{name}", value=shorten(value, 24)),
            action=Action(verb=Verb.SETTINGS, value=name).encode(),
        )
        for name, value in shown.items()
    ]
    return View(lines=tuple(lines), rows=(tuple(buttons[:2]), tuple(buttons[2:])), only_for_asker=True)


def choices_view(name: str, models: Sequence[Model], words: Words) -> View:
    """The values of one setting."""
    auto = (words("settings-auto"), "")
    values: list[tuple[str, str]] = {
        "model": [auto, *((model.title or model.id, str(number_)) for number_, model in enumerate(models, 1))],
        "ratio": [auto, *((ratio, ratio) for ratio in SHOWN_RATIOS)],
        "spoiler": [(words("value-on"), "on"), (words("value-off"), "off")],
        "language": [auto, *((title, tag) for tag, title in LANGUAGES.items())],
    }.get(name, [])
    buttons = [
        Button(label=shorten(label, 30), action=Action(verb=Verb.SETTINGS, value=f"{name}={value}").encode())
        for label, value in values[:24]
    ]
    rows = [tuple(buttons[at : at + 3]) for at in range(0, len(buttons), 3)]
    rows.append((Button(label=words("button-back"), action=Action(verb=Verb.SETTINGS).encode()),))
    title = words(f"settings-{name}", value="…") if values else words("settings-title")
    return View(lines=(bold(title),), rows=tuple(rows[:5]), only_for_asker=True)


def _shown(settings: PersonSettings, words: Words) -> dict[str, str]:
    spoiler = None if settings.spoiler is None else words("value-on") if settings.spoiler else words("value-off")
    return {
        "model": settings.model or words("settings-auto"),
        "ratio": settings.ratio or words("settings-auto"),
        "spoiler": spoiler or words("value-off"),
        "language": LANGUAGES[settings.language] if settings.language else words("settings-auto"),
    }


def history_view(jobs: Sequence[tuple[Job, str]], page: int, owner: str, words: Words, *, more: bool) -> View:
    """A page of results with their prompts; each can be shown again."""
    if not jobs and page == 0:
        return View(lines=(plain(words("history-empty")),), only_for_asker=True)
    lines: list[Line] = [bold(words("history-title", page=page + 1))]
    for number_, (job, prompt) in enumerate(jobs, 1):
        sign = STATE_SIGNS.get(job.state, "")
        lines.append((Span(f"{number_}. {sign} ", Style.PLAIN), Span(shorten(prompt or job.kind, 90))))
    shows = tuple(
        Button(label=str(number_), action=Action(verb=Verb.SHOW, job=job_part(job.id), owner=owner).encode())
        for number_, (job, _) in enumerate(jobs, 1)
    )
    turn = []
    if page > 0:
        back = Action(verb=Verb.HISTORY, value=str(page - 1)).encode()
        turn.append(Button(label=words("button-newer"), action=back))
    if more:
        turn.append(Button(label=words("button-older"), action=Action(verb=Verb.HISTORY, value=str(page + 1)).encode()))
    rows: Rows = tuple(row for row in (shows, tuple(turn)) if row)
    return View(lines=tuple(lines), rows=rows, only_for_asker=True)


def help_view(title: str, kind: str, words: Words) -> View:
    """How this works."""
    lines: list[Line] = [
        bold(words("help-title", title=title)),
        plain(words("help-image" if kind == "image" else "help-video")),
        plain(words("help-options" if kind == "image" else "help-options-video")),
        bold(words("help-commands")),
    ]
    lines += [
        (Span(f"/{command.name}", Style.CODE), Span(f" – {words(f'command-{command.name}')}"))
        for command in commands_of(kind)
    ]
    return View(lines=tuple(lines), only_for_asker=True)


def terms_view(days: int, words: Words) -> View:
    """Terms of use."""
    return View(lines=(plain(words("terms-text", days=days)),), only_for_asker=True)


def privacy_view(words: Words) -> View:
    """What is kept, and how to have or delete it."""
    rows = (
        (
            Button(label=words("button-export"), action=Action(verb=Verb.ACCOUNT, value="export").encode()),
            Button(label=words("button-erase"), action=Action(verb=Verb.ACCOUNT, value="delete").encode(), danger=True),
        ),
    )
    return View(lines=(plain(words("privacy-text")),), rows=rows, only_for_asker=True)


def erase_view(words: Words) -> View:
    """Are you sure?"""
    rows = (
        (
            Button(
                label=words("button-erase-sure"),
                action=Action(verb=Verb.ACCOUNT, value="delete!").encode(),
                danger=True,
            ),
            Button(label=words("button-no"), action=Action(verb=Verb.ACCOUNT, value="keep").encode()),
        ),
    )
    return View(lines=(plain(words("privacy-sure")),), rows=rows, only_for_asker=True)


def link_view(text: str, minutes: int, words: Words) -> View:
    """A code that joins accounts."""
    lines = (
        bold(words("link-code", code=text)),
        plain(words("link-how", minutes=minutes, code=text)),
        code(f"/link {text}"),
    )
    return View(lines=lines, only_for_asker=True)


def rules_view(rules: ChatRules, channel: str, words: Words) -> View:
    """The rules of a chat, for its admins."""
    where = words("rules-here-only", count=len(rules.channels)) if rules.channels else words("rules-everywhere")
    on_off = {True: words("value-on"), False: words("value-off")}
    lines = (
        bold(words("rules-title")),
        plain(words("rules-where", value=where)),
        plain(words("rules-adult", value=on_off[rules.adult])),
        plain(words("rules-spoiler", value=on_off[rules.spoiler])),
    )
    here = ("not-here", "button-rules-not-here") if channel in rules.channels else ("here", "button-rules-here")
    buttons = (
        here,
        ("everywhere", "button-rules-everywhere"),
        ("adult", "button-rules-adult"),
        ("spoiler", "button-rules-spoiler"),
    )
    made = [
        Button(label=words(label), action=Action(verb=Verb.RULES, value=value).encode()) for value, label in buttons
    ]
    return View(lines=lines, rows=(tuple(made[:2]), tuple(made[2:])), only_for_asker=True)

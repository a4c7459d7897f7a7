"""One job as one message: waiting, under way, and what came of it. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from bots.core.actions import Action, Verb, job_part
from bots.core.messages import Words, number, seconds
from bots.core.options import Wish
from bots.core.views import Button, Line, Media, Rows, Span, Style, View, bar, italic, link, plain, shorten
from tessera.client import Artifact, Eta, Job, Me
from tessera.jobs import JobState

QUOTE_CHARS = 400  # a caption of Telegram has 1,024 characters, all lines together
KNOWN_REASONS = frozenset(
    {
        "invalid_input",
        "content_withheld",
        "model_missing",
        "out_of_memory",
        "stuck",
        "quarantined",
        "storage_full",
    }
)


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What a status message is about: the words that were asked for, by whom, through a bot of which look."""

    job_id: str
    owner: str  # the subject of the person on this platform
    kind: str
    prompt: str  # as the person wrote it, without the bot's look
    colour: int = 0x3B82F6
    spoiler: bool = False
    upscaled: bool = False
    from_picture: bool = False


@dataclass(frozen=True, kw_only=True)
class Standing:
    """How a job stands before its end, as its events have told."""

    running: bool = False
    position: int | None = None
    eta: Eta | None = None
    fraction: float = 0.0
    preview: bytes | None = field(default=None, repr=False)
    preview_type: str = "image/jpeg"
    retried: bool = False
    offline: bool = False  # no engine that could run it is up
    paused: str | None = None  # the operator's words
    cancelling: bool = False


def standing_view(subject: Subject, standing: Standing, words: Words) -> View:
    """The message of a job that waits or runs."""
    lines: list[Line] = []
    media: tuple[Media, ...] = ()
    if standing.cancelling:
        lines.append(plain(words("cancelling")))
    elif standing.running:
        percent = round(standing.fraction * 100)
        lines.append(plain(words("running", bar=bar(standing.fraction), percent=percent)))
        if standing.eta is not None:
            low, high = _range(standing.eta, words)
            lines.append(plain(words("running-left", low=low, high=high)))
        if standing.preview:
            name = "preview.png" if standing.preview_type == "image/png" else "preview.jpg"
            media = (
                Media(name=name, media_type=standing.preview_type, data=standing.preview, spoiler=subject.spoiler),
            )
    else:
        lines.append(
            plain(words("queue-place", place=standing.position))
            if standing.position is not None
            else plain(words("queue-waiting"))
        )
        if standing.eta is not None:
            low, high = _range(standing.eta, words)
            lines.append(plain(words("queue-eta", low=low, high=high)))
        if standing.retried:
            lines.append(plain(words("queue-again")))
        if standing.paused is not None:
            lines.append(plain(words("queue-paused", message=standing.paused)))
        elif standing.offline:
            lines.append(plain(words("queue-offline")))
    cancel = Button(label=words("button-cancel"), action=_action(subject, Verb.CANCEL))
    return View(
        lines=tuple(lines),
        quote=shorten(subject.prompt, QUOTE_CHARS),
        media=media,
        rows=() if standing.cancelling else ((cancel,),),
        colour=subject.colour,
    )


def result_view(
    subject: Subject,
    job: Job,
    words: Words,
    *,
    media: tuple[Media, ...],
    me: Me | None,
    link_url: str = "",
    made_smaller: bool = False,
    withheld_here: str = "",
) -> View:
    """The message of a job that has ended. ``withheld_here`` says why its files may not be shown in this chat."""
    if job.state != JobState.COMPLETED:
        return _ended_view(subject, job, words)
    lines: list[Line] = []
    if withheld_here:
        lines.append(plain(withheld_here))
    lines.append(_facts(job, words))
    if me is not None:
        lines.append(plain(left_line(me, job, words)))
    asked = int(job.input.get("count") or 1)
    if len(job.artifacts) < asked:
        lines.append(plain(words("done-partly", got=len(job.artifacts), asked=asked)))
    if link_url:
        lines += [plain(words("done-link")), link(shorten(link_url, 80), link_url)]
    elif made_smaller:
        lines.append(plain(words("done-smaller")))
    if job.preview:
        lines.append(italic(words("done-preview")))
    return View(
        lines=tuple(lines),
        quote=shorten(subject.prompt, QUOTE_CHARS),
        media=media,
        rows=result_rows(subject, job, words),
        colour=subject.colour,
    )


def result_rows(subject: Subject, job: Job, words: Words) -> Rows:
    """The buttons under a result."""
    rows: list[tuple[Button, ...]] = []
    count = len(job.artifacts)
    if subject.kind == "image" and count:
        for verb, one, several in (
            (Verb.UPSCALE, "button-upscale-one", "button-upscale"),
            (Verb.VARY, "button-vary-one", "button-vary"),
        ):
            rows.append(
                tuple(
                    Button(
                        label=words(one) if count == 1 else words(several, n=n),
                        action=_action(subject, verb, str(n)),
                    )
                    for n in range(1, min(count, 4) + 1)
                )
            )
        if count == 1:
            rows = [(*rows[0], *rows[1])]
    again = Button(label=words("button-again"), action=_action(subject, Verb.AGAIN))
    edit = Button(label=words("button-edit"), action=_action(subject, Verb.EDIT))
    second = [again, edit]
    if subject.kind == "video":
        second.append(Button(label=words("button-extend"), action=_action(subject, Verb.EXTEND)))
    rows.append(tuple(second))
    rows.append(
        (
            Button(label=words("button-original"), action=_action(subject, Verb.ORIGINAL)),
            Button(label=words("button-report"), action=_action(subject, Verb.REPORT)),
            Button(label=words("button-delete"), action=_action(subject, Verb.DELETE), danger=True),
        )
    )
    return tuple(rows)


def _ended_view(subject: Subject, job: Job, words: Words) -> View:
    charged = job.charged_tokens or 0
    refunded = number(max(0.0, float(job.cost_tokens) - float(charged)), words)
    if job.error is not None and job.error.refunded_tokens is not None:
        refunded = number(float(job.error.refunded_tokens), words)
    if job.state == JobState.CANCELLED:
        text = words("ended-cancelled", refunded=refunded)
    elif job.state == JobState.EXPIRED:
        text = words("ended-expired", refunded=refunded)
    else:
        code = job.error.code if job.error is not None else ""
        reason = words(f"reason-{code}") if code in KNOWN_REASONS else words("reason-other")
        text = words("ended-failed", reason=reason, refunded=refunded)
    again = Button(label=words("button-again"), action=_action(subject, Verb.AGAIN))
    edit = Button(label=words("button-edit"), action=_action(subject, Verb.EDIT))
    return View(
        lines=(plain(text),),
        quote=shorten(subject.prompt, QUOTE_CHARS),
        rows=((again,),) if subject.upscaled else ((again, edit),),
        colour=subject.colour,
    )


def _facts(job: Job, words: Words) -> Line:
    spent = (job.finished_at - job.started_at).total_seconds() if job.finished_at and job.started_at else 0.0
    seed = job.input.get("seed")
    facts = words(
        "done-facts",
        model=job.model,
        seed=str(seed) if seed is not None else "–",
        seconds=seconds(max(0.1, spent), words),
    )
    return (Span("✅ "), Span(facts, Style.BOLD))


def left_line(me: Me, job: Job, words: Words) -> str:
    """What is left of today's tokens."""
    if me.quota.daily_tokens is None or me.quota.remaining_tokens is None:
        return words("done-unlimited", cost=number(float(job.charged_tokens or 0), words))
    return words(
        "done-left",
        left=number(left_of(float(me.quota.remaining_tokens)), words),
        daily=number(float(me.quota.daily_tokens), words),
    )


def left_of(tokens: float) -> float:
    """What is left, with one place at most, and never more than there is."""
    return math.floor(tokens * 10 + 1e-6) / 10


def wish_of_job(job: Job, *, look: str = "", model_named: bool = True) -> Wish:
    """What was asked for, as a person would ask again: the look is the bot's and taken out."""
    prompt = strip_look(str(job.input.get("prompt") or ""), look)
    width, height = int(job.input.get("width") or 1), int(job.input.get("height") or 1)
    duration = job.input.get("duration_s")
    return Wish(
        prompt=prompt,
        ratio=str((job.metadata or {}).get("ratio") or f"{width}:{height}"),
        count=int(job.input.get("count") or 1) if job.kind == "image" else None,
        negative=str(job.input.get("negative_prompt") or "") or None,
        model=job.model if model_named else None,
        duration_s=float(duration) if duration is not None else None,
        spoiler=bool((job.metadata or {}).get("spoiler")) or None,
    )


def strip_look(prompt: str, look: str) -> str:
    """The prompt without the words that the bot has added."""
    return prompt.removesuffix(f", {look}") if look else prompt


def with_look(prompt: str, look: str) -> str:
    """The prompt with the words of the bot."""
    return f"{prompt}, {look}" if look and prompt else prompt


def artifact_name(job: Job, artifact: Artifact, number_: int) -> str:
    """A file's name that tells what it is."""
    kind = {"image/png": "png", "image/jpeg": "jpg", "image/webp": "webp", "video/mp4": "mp4", "video/webm": "webm"}
    ending = kind.get(artifact.media_type.split(";")[0], "bin")
    return f"tessera-{job_part(job.id)[-6:]}-{number_}.{ending}"


def _action(subject: Subject, verb: Verb, value: str = "") -> str:
    return Action(verb=verb, job=job_part(subject.job_id), owner=subject.owner, value=value).encode()


def _range(eta: Eta, words: Words) -> tuple[str, str]:
    return seconds(max(0.0, float(eta.low_s)), words), seconds(max(1.0, float(eta.high_s)), words)

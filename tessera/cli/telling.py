"""What is said at the end of a job: what was made, where it is, what it took; or why there is nothing."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from rich.text import Text

from tessera.cli.exits import ExitCode, headline, remark
from tessera.cli.output import Target, extension
from tessera.cli.screen import Screen, number, size, span, stdout_is_terminal, tokens
from tessera.client import Artifact, Job, Quota
from tessera.jobs import Kind

TEXT_KINDS = frozenset({Kind.TEXT, Kind.TRANSCRIPTION})


@dataclass(frozen=True, kw_only=True)
class Made:
    """A job at its end and the files written from it."""

    job: Job
    files: tuple[Path, ...] = ()
    quota: Quota | None = None


def tell_submitted(job: Job, screen: Screen) -> ExitCode:
    if screen.json:
        screen.print_json({**job.dump(), "files": []})
        return ExitCode.OK
    sys.stdout.write(job.id + "\n")
    screen.say(
        Text(f"Submitted: {job.state}, {tokens(job.cost_tokens)} held. Take it up: tessera job {job.id} --watch")
    )
    return ExitCode.OK


def tell_made(made: Made, screen: Screen, target: Target) -> ExitCode:
    job = made.job
    if screen.json:
        screen.print_json({**job.dump(), "files": [str(path) for path in made.files]})
    elif not job.ok:
        tell_failed_job(job, screen)
    else:
        if made.files and (screen.quiet or not stdout_is_terminal()):
            sys.stdout.write("".join(f"{path}\n" for path in made.files))
        for line in _summary(made, target):
            screen.say(line)
    return ExitCode.OK if job.ok else ExitCode.FAILED


def _summary(made: Made, target: Target) -> list[Text]:
    job = made.job
    lines: list[Text] = []
    took = f" in {span(took_s)}" if (took_s := _seconds(job)) is not None else ""
    if job.kind in TEXT_KINDS:
        words = len((job.text or "").split())
        made_what = f"{words} word{'' if words == 1 else 's'}{took}"
    elif len(job.artifacts) == 1:
        made_what = f"{job.kind} {_facts(job.artifacts[0])}{took}"
    else:
        made_what = f"{len(job.artifacts)} files{took}"
    head = Text.assemble(("✓ ", "bold green"), made_what)
    if len(made.files) == 1:
        head.append(" → ").append(str(made.files[0]), style="bold")
    lines.append(head)
    if len(made.files) > 1:
        for path, artifact in zip(made.files, job.artifacts, strict=True):
            lines.append(Text.assemble("  → ", (str(path), "bold"), f"  {_facts(artifact)}"))
    facts = [f"{tokens(job.charged_tokens if job.charged_tokens is not None else job.cost_tokens)} charged"]
    if made.quota is not None and made.quota.remaining_tokens is not None:
        whole = f" of {number(made.quota.daily_tokens)}" if made.quota.daily_tokens is not None else ""
        facts.append(f"{number(made.quota.remaining_tokens)}{whole} left today")
    facts.append(job.model + (" (a preview engine)" if job.preview else ""))
    lines.append(Text("  " + " · ".join(facts), style="dim"))
    if target.folder is None and not target.to_stdout and len(job.artifacts) == 1 and made.files:
        wanted, real = made.files[0].suffix.lower(), extension(job.artifacts[0].media_type)
        if wanted not in {real, ".jpeg" if real == ".jpg" else real}:
            lines.append(
                Text(f"  The file is {job.artifacts[0].media_type}: '{real}' would be its usual ending.", "yellow")
            )
    return lines


def _facts(artifact: Artifact) -> str:
    parts = []
    if artifact.width and artifact.height:
        parts.append(f"{artifact.width}×{artifact.height}")
    if artifact.duration_s:
        parts.append(span(artifact.duration_s))
    parts.append(extension(artifact.media_type)[1:].upper())
    parts.append(size(artifact.bytes))
    return " ".join(parts[:-1]) + f", {parts[-1]}"


def _seconds(job: Job) -> float | None:
    if job.created_at is None or job.finished_at is None:
        return None
    return max(0.0, (job.finished_at - job.created_at).total_seconds())


def tell_cancelled(job: Job, screen: Screen) -> None:
    """Say what a cancel gave back."""
    charged = job.charged_tokens or 0
    returned = job.error.refunded_tokens if job.error is not None else None
    if returned is None:
        returned = job.cost_tokens - charged
    text = f"Cancelled. {tokens(returned)} returned"
    text += f", {tokens(charged)} charged for the part that was done." if charged else "; nothing was charged."
    screen.say(Text(text))


def tell_failed_job(job: Job, screen: Screen) -> None:
    """Tell a person why a job did not complete, and what was given back."""
    error = job.error
    message = error.message if error is not None else "No reason was given."
    if error is None and job.state == "cancelled":
        message = "The job was cancelled."
    word = job.state if job.state in {"failed", "cancelled", "expired"} else f"is {job.state}"
    screen.err.print(headline(f"The job {word}: {message}" if job.state != "cancelled" else message))
    facts = [error.code] if error is not None and error.code != job.state else []
    refunded = error.refunded_tokens if error is not None else None
    if refunded is not None:
        facts.append(f"{tokens(refunded)} returned")
    if job.charged_tokens:
        facts.append(f"{tokens(job.charged_tokens)} charged")
    if error is not None and error.retryable and job.state != "cancelled":
        facts.append("trying again may help")
    screen.err.print(remark(" · ".join([*facts, job.id])))


def words_of(job: Job) -> str:
    """What a job was asked for, in its user's words."""
    for name in ("prompt", "text"):
        value = job.input.get(name)
        if isinstance(value, str) and value.strip():
            return value
    messages = job.input.get("messages")
    if isinstance(messages, list) and messages and isinstance(messages[-1], dict):
        return str(messages[-1].get("content") or "")
    return ""

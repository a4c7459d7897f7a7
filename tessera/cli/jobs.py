"""The commands about jobs: ``jobs``, ``job ID``, ``cancel ID``, ``retry ID``; ``explain ID`` has its own module."""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from tessera.cli import explain
from tessera.cli.options import ForceOption, JsonOption, OutOption, QuietOption
from tessera.cli.output import Target, TextFormat
from tessera.cli.screen import Screen, clean, one_line, size, span, span_range, stdout_is_terminal, table, tokens
from tessera.cli.screen import number as plain_number
from tessera.cli.session import call

if TYPE_CHECKING:
    from tessera.client import Client, Job

STATE_STYLES = {
    "created": "cyan",
    "queued": "cyan",
    "running": "yellow",
    "completed": "green",
    "failed": "red",
    "expired": "red",
    "cancelled": "dim",
}
WAITING = frozenset({"created", "queued"})
PAGE = 100  # the most that one request asks for


class StateChoice(StrEnum):
    CREATED = "created"
    QUEUED = "queued"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"


class KindChoice(StrEnum):
    IMAGE = "image"
    VIDEO = "video"
    TEXT = "text"
    TRANSCRIPTION = "transcription"
    SPEECH = "speech"
    MUSIC = "music"


JobArgument = Annotated[str, typer.Argument(metavar="ID", help="A job's id, like job_01k….")]


def register(app: typer.Typer, panel: str) -> None:
    """Add the commands of this module."""
    app.command(
        "jobs",
        rich_help_panel=panel,
        epilog="""[bold]Examples[/bold]

[cyan]tessera jobs --state queued[/cyan]

[cyan]tessera jobs --search lighthouse[/cyan]

[cyan]tessera jobs --kind image --limit 5 --json | jq -r '.data[].id'[/cyan]""",
    )(jobs)
    app.command(
        "job",
        rich_help_panel=panel,
        epilog="""[bold]Examples[/bold]

[cyan]tessera job job_01k…[/cyan]   how it stands

[cyan]tessera job job_01k… --watch[/cyan]   wait for it and write its file, as 'generate' does

[cyan]tessera job job_01k… --out fox.png[/cyan]   fetch the file once more""",
    )(job)
    app.command("explain", rich_help_panel=panel, epilog=explain.EPILOG)(explain.explain)
    app.command(
        "cancel",
        rich_help_panel=panel,
        epilog="[bold]Example[/bold]\n\n[cyan]tessera cancel job_01k…[/cyan]   all tokens come back while it is queued",
    )(cancel)
    app.command(
        "retry",
        rich_help_panel=panel,
        epilog="[bold]Example[/bold]\n\n[cyan]tessera retry job_01k… --watch[/cyan]   once more, and wait for it",
    )(retry)


def jobs(
    state: Annotated[
        StateChoice | None, typer.Option("--state", metavar="STATE", help=f"Only these: {', '.join(StateChoice)}.")
    ] = None,
    kind: Annotated[
        KindChoice | None, typer.Option("--kind", metavar="KIND", help=f"Only these: {', '.join(KindChoice)}.")
    ] = None,
    model: Annotated[str | None, typer.Option("--model", "-m", metavar="MODEL", help="Only of this model.")] = None,
    search: Annotated[
        str | None, typer.Option("--search", metavar="TEXT", help="Only with this in the prompt, in any case.")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", metavar="N", min=1, max=10_000, help="How many at most.")] = 20,
    cursor: Annotated[
        str | None,
        typer.Option("--cursor", metavar="CURSOR", help="Go on where 'next_cursor' of --json ended."),
    ] = None,
    json: JsonOption = False,
) -> None:
    """List your jobs, the newest first."""
    screen = Screen(json=json)
    found, following = call(lambda client: _collect(client, state, kind, model, search, limit, cursor), screen)
    if json:
        screen.print_json({"data": [job.dump() for job in found], "next_cursor": following})
        return
    if not found:
        screen.say(
            "No jobs."
            if state or kind or model or search
            else 'No jobs yet. The first: tessera generate image "a lighthouse"'
        )
        return
    now = datetime.now(UTC)
    rows = table("ID", "KIND", "STATE", "TOKENS", "TOOK", "WHEN", "WHAT", right=("TOKENS", "TOOK"))
    for found_job in found:
        rows.add_row(
            found_job.id,
            found_job.kind,
            _state(found_job),
            plain_number(found_job.charged_tokens if found_job.is_final else found_job.cost_tokens),
            _took(found_job),
            _ago(found_job, now),
            Text(one_line(_what(found_job), 48 if stdout_is_terminal() else 200)),
        )
    screen.print_table(rows)
    if any(found_job.state in WAITING for found_job in found):
        screen.say("[dim]Why one waits: tessera explain ID[/dim]")
    if following:
        screen.say(f"[dim]There are more: --limit {limit * 2}[/dim]")


async def _collect(
    client: Client,
    state: str | None,
    kind: str | None,
    model: str | None,
    search: str | None,
    limit: int,
    cursor: str | None,
) -> tuple[list[Job], str | None]:
    found: list[Job] = []
    while True:
        size = min(PAGE, limit - len(found))
        page = await client.list_jobs(state=state, kind=kind, model=model, text=search, cursor=cursor, limit=size)
        found.extend(page.data)
        last, cursor = cursor, page.next_cursor
        # A page of a search may be empty and not be the last one.
        if not cursor or cursor == last or len(found) >= limit:
            return found, cursor


def job(
    id: JobArgument,
    watch: Annotated[
        bool,
        typer.Option(
            "--watch",
            "-w",
            metavar="",
            help="Wait for its end with live progress and write its file.",
        ),
    ] = False,
    out: OutOption = None,
    force: ForceOption = False,
    format: Annotated[TextFormat, typer.Option("--format", help="For texts and transcripts.")] = TextFormat.TEXT,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Show a job; with --watch or --out, wait for it and write its file."""
    screen = Screen(json=json, quiet=quiet)
    if watch or out is not None:
        from tessera.cli.making import watch as follow

        raise typer.Exit(follow(id, Target(out=out, force=force, format=format), screen))
    found = call(lambda client: client.get_job(id), screen)
    if json:
        screen.print_json(found.dump())
        return
    _show(found, screen)


def cancel(id: JobArgument, json: JsonOption = False, quiet: QuietOption = False) -> None:
    """Cancel a job: all its tokens come back while it is queued, those of the part not done while it runs."""
    from tessera.cli.making import cancel as end

    raise typer.Exit(end(id, Screen(json=json, quiet=quiet)))


def retry(
    id: JobArgument,
    watch: Annotated[
        bool, typer.Option("--watch", "-w", metavar="", help="Wait for its end with live progress and write its file.")
    ] = False,
    out: OutOption = None,
    force: ForceOption = False,
    format: Annotated[TextFormat, typer.Option("--format", help="For texts and transcripts.")] = TextFormat.TEXT,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Do a job that has ended again: a new job of the same input, model and seed, at its own price."""
    from tessera.cli.making import watch as follow
    from tessera.cli.telling import tell_submitted

    screen = Screen(json=json, quiet=quiet)
    made = call(lambda client: client.retry(id), screen)
    if watch or out is not None:
        raise typer.Exit(follow(made.id, Target(out=out, force=force, format=format), screen))
    raise typer.Exit(tell_submitted(made, screen))


def _show(found: Job, screen: Screen) -> None:
    now = datetime.now(UTC)
    rows = table("", "")
    rows.show_header = False

    def row(name: str, value: str | Text) -> None:
        rows.add_row(Text(name, style="dim"), value)

    row("job", found.id)
    row("state", _state(found))
    row("kind", f"{found.kind}, by {clean(found.model)}" + (" (a preview engine)" if found.preview else ""))
    row("asked for", Text(clean(_what(found))))
    given = _given(found)
    if given:
        row("with", Text(clean(", ".join(f"{name} {value}" for name, value in given.items()))))
    row("tier", found.tier)
    held = f"{tokens(found.charged_tokens)} charged" if found.is_final else f"{tokens(found.cost_tokens)} held"
    row("tokens", held)
    if found.retried_from is not None:
        row("repeats", clean(found.retried_from))
    row("submitted", _ago(found, now))
    if _took(found):
        row("took", _took(found))
    if found.attempt > 1:
        row("attempt", str(found.attempt))
    for artifact in found.artifacts:
        row("file", f"{artifact.id}  {artifact.media_type}, {size(artifact.bytes)}")
    if found.text is not None:
        row("text", Text(clean(found.text)))
    if found.error is not None:
        row("error", Text(f"{clean(found.error.message)} ({found.error.code})", style="red"))
        if found.error.refunded_tokens:
            row("", f"{tokens(found.error.refunded_tokens)} returned")
    screen.print_table(rows)
    if not found.is_final:
        why = f" · why it waits: tessera explain {found.id}" if found.state in WAITING else ""
        follow = f"Wait for it: tessera job {found.id} --watch · cancel it: tessera cancel {found.id}"
        screen.say(Text(f"\n{follow}{why}", "dim"))
    elif found.artifacts:
        screen.say(Text(f"\nFetch it: tessera job {found.id} --watch", style="dim"))


def _state(found: Job) -> Text:
    text = Text(found.state, style=STATE_STYLES.get(found.state, ""))
    if found.state == "queued":
        if found.position is not None:
            text.append(f" #{found.position}")
        if found.eta is not None:
            text.append(f" {span_range(found.eta.low_s, found.eta.high_s)}", style="dim")
    elif found.cancel_requested_at is not None and not found.is_final:
        text.append(" being cancelled", style="dim")
    elif found.error is not None and found.state == "failed":
        text.append(f" {clean(found.error.code)}", style="dim")
    return text


def _took(found: Job) -> str:
    if found.started_at is None or found.finished_at is None:
        return ""
    return span(max(0.0, (found.finished_at - found.started_at).total_seconds()))


def _ago(found: Job, now: datetime) -> str:
    if found.created_at is None:
        return ""
    seconds = (now - found.created_at).total_seconds()
    return "just now" if seconds < 5 else f"{span(round(seconds))} ago"


def _what(found: Job) -> str:
    from tessera.cli.telling import words_of

    return words_of(found) or ", ".join(f"{name} {value}" for name, value in _given(found).items())


def _given(found: Job) -> dict[str, Any]:
    """The input without its words and without what says nothing."""
    said = {"prompt", "text", "messages"}
    return {k: v for k, v in found.input.items() if k not in said and v not in (None, "", [], False)}

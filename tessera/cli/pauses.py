"""The operator's commands about the queue: ``pause KIND, unpause KIND``; ``pause`` alone lists."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.text import Text

from tessera.cli.exits import CliError
from tessera.cli.jobs import KindChoice
from tessera.cli.options import JsonOption
from tessera.cli.screen import Screen, clean, span, table
from tessera.cli.session import call

KINDS = ", ".join(KindChoice)


def register(app: typer.Typer, panel: str) -> None:
    """Add the commands of this module."""
    app.command(
        "pause",
        rich_help_panel=panel,
        epilog="""[bold]Examples[/bold]

[cyan]tessera pause video --message "The GPU is lent out until 15:00 UTC."[/cyan]

[cyan]tessera pause[/cyan]   what is paused

[cyan]tessera unpause video[/cyan]""",
    )(pause)
    app.command("unpause", rich_help_panel=panel)(unpause)


def pause(
    kind: Annotated[KindChoice | None, typer.Argument(metavar="KIND", help=f"One of {KINDS}.")] = None,
    message: Annotated[str, typer.Option("--message", "-m", metavar="TEXT", help="For those who wait.")] = "",
    json: JsonOption = False,
) -> None:
    """Start no more jobs of a kind, until 'tessera unpause KIND' (operators only). Without a kind: list the pauses.

    Running jobs finish, queued ones keep their place, new ones are accepted.
    """
    screen = Screen(json=json)
    if kind is None:
        if message:
            raise CliError(f"--message belongs to a pause: name the kind, one of {KINDS}. Nothing was changed.")
        _list(screen)
        return
    made = call(lambda client: client.pause(kind, message), screen)
    if json:
        screen.print_json(made.dump())
        return
    screen.say(Text.assemble(("✓ ", "bold green"), f"No job of kind {clean(made.kind)} starts any more."))
    screen.say(
        Text(
            "Running jobs finish, queued ones keep their place, new ones are accepted.\n"
            f"End it: 'tessera unpause {clean(made.kind)}'.",
            style="dim",
        )
    )


def unpause(
    kind: Annotated[KindChoice, typer.Argument(metavar="KIND", help=f"One of {KINDS}.")], json: JsonOption = False
) -> None:
    """End the pause of a kind: its jobs start again, each in its place (operators only)."""
    screen = Screen(json=json)
    made = call(lambda client: client.unpause(kind), screen)
    if json:
        screen.print_json(made.dump())
    elif made.resumed:
        screen.say(Text.assemble(("✓ ", "bold green"), f"Jobs of kind {clean(made.kind)} start again."))
    else:
        screen.say(Text(f"Jobs of kind {clean(made.kind)} were not paused: nothing was changed."))


def _list(screen: Screen) -> None:
    found = call(lambda client: client.pauses(), screen)
    if screen.json:
        screen.print_json({"data": [pause.dump() for pause in found]})
        return
    if not found:
        screen.say("Nothing is paused.")
        return
    now = datetime.now(UTC)
    rows = table("KIND", "PAUSED FOR", "MESSAGE")
    for one in found:
        for_s = (now - one.since).total_seconds() if one.since is not None else None
        rows.add_row(
            Text(clean(one.kind), style="bold"),
            span(max(0, round(for_s))) if for_s is not None else "–",
            Text(clean(one.message) or "–"),
        )
    screen.print_table(rows)

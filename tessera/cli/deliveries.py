"""The operator's commands about deliveries: what was given up, once more, and the pause of all of them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.text import Text

from tessera.cli.options import JsonOption
from tessera.cli.screen import Screen, clean, span, table
from tessera.cli.session import call

app = typer.Typer(
    rich_markup_mode="rich",
    invoke_without_command=True,
    help="What could not be brought to webhooks and chats; pause and resume all deliveries (operators only).",
)


def register(parent: typer.Typer, panel: str) -> None:
    """Add the commands of this module."""
    parent.add_typer(app, name="deliveries", rich_help_panel=panel)


@app.callback()
def listed(
    context: typer.Context,
    state: Annotated[
        str, typer.Option("--state", metavar="STATE", help="pending, leased, delivered or failed.")
    ] = "failed",
    json: JsonOption = False,
) -> None:
    """List deliveries of everybody, those that were given up unless --state says others, and any pause."""
    if context.invoked_subcommand is not None:
        return
    screen = Screen(json=json)
    found = call(lambda client: client.all_deliveries(state=state), screen)
    if json:
        screen.print_json(found.dump())
        return
    if found.paused is not None:
        since = found.paused.since
        for_s = span(max(0, round((datetime.now(UTC) - since).total_seconds()))) if since is not None else "a while"
        reason = f" ({clean(found.paused.reason)})" if found.paused.reason else ""
        screen.say(Text(f"All deliveries have been paused for {for_s}{reason}: 'tessera deliveries resume' ends it."))
    if not found.data:
        screen.say(f"No delivery is {clean(state)}.")
        return
    rows = table("ID", "CHANNEL", "EVENT", "TRIES", "TO", "ERROR", right=("TRIES",))
    for one in found.data:
        to = one.url or one.target or ""
        rows.add_row(
            one.id, one.channel, clean(one.event), str(one.tries), Text(clean(to)), Text(clean(one.last_error or "–"))
        )
    screen.print_table(rows)
    if found.next_cursor:
        screen.say("[dim]There are more.[/dim]")


@app.command("pause", epilog='[cyan]tessera deliveries pause --reason "restored the backup of the night"[/cyan]')
def pause(
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="For whoever looks later.")] = "",
    json: JsonOption = False,
) -> None:
    """Bring nothing to webhooks and chats, until 'tessera deliveries resume'. Jobs go on; their deliveries wait."""
    screen = Screen(json=json)
    made = call(lambda client: client.pause_deliveries(reason), screen)
    if json:
        screen.print_json(made.dump())
        return
    screen.say(Text.assemble(("✓ ", "bold green"), "Nothing is delivered until 'tessera deliveries resume'."))


@app.command("resume")
def resume(json: JsonOption = False) -> None:
    """End the pause: what waits is delivered now."""
    screen = Screen(json=json)
    made = call(lambda client: client.resume_deliveries(), screen)
    if json:
        screen.print_json(made.dump())
    elif made.resumed:
        screen.say(Text.assemble(("✓ ", "bold green"), "What waited is being delivered."))
    else:
        screen.say("Deliveries were not paused: nothing was changed.")


@app.command("replay", epilog="[cyan]tessera deliveries replay dlv_01k5h3v9m2f8e4x7q6t0c1b2a3[/cyan]")
def replay(
    id: Annotated[str, typer.Argument(metavar="ID", help="Of the delivery, dlv_….")],
    json: JsonOption = False,
) -> None:
    """Bring one once more, with a day of tries of its own."""
    screen = Screen(json=json)
    made = call(lambda client: client.replay_delivery(id, as_operator=True), screen)
    if json:
        screen.print_json(made.dump())
    else:
        screen.say(Text.assemble(("✓ ", "bold green"), f"{clean(made.id)} is being delivered once more."))

"""``tessera queue``: how much waits, and what is loaded or paused."""

from __future__ import annotations

import typer
from rich.text import Text

from tessera.cli.options import JsonOption
from tessera.cli.screen import Screen, clean, span, table
from tessera.cli.session import call

STATE_STYLES = {"warm": "green", "cold": "cyan", "offline": "red"}


def register(app: typer.Typer, panel: str) -> None:
    """Add the command of this module."""
    app.command("queue", rich_help_panel=panel)(queue)


def queue(json: JsonOption = False) -> None:
    """Show how much waits and runs, which models are loaded, and what is paused. Needs no key."""
    screen = Screen(json=json)
    found = call(lambda client: client.queue(), screen)
    if json:
        screen.print_json(found.dump())
        return
    if found.banner is not None:
        screen.say(Text(clean(found.banner.message), style="bold yellow"))
    for pause in found.pauses:
        words = f": {clean(pause.message)}" if pause.message else "."
        screen.say(Text(f"Jobs of kind {clean(pause.kind)} are paused{words}", style="yellow"))
    if found.lines:
        rows = table("KIND", "TIER", "WAITING", "RUNNING", "OLDEST WAITS", right=("WAITING", "RUNNING", "OLDEST WAITS"))
        for line in found.lines:
            oldest = span(line.oldest_wait_s) if line.oldest_wait_s is not None else "–"
            rows.add_row(clean(line.kind), clean(line.tier), str(line.queued), str(line.running), oldest)
        screen.print_table(rows)
    else:
        screen.say("Nothing waits and nothing runs.")
    states = Text("Models: ", style="dim")
    for number, model in enumerate(found.models):
        states.append(", " if number else "")
        states.append(clean(model.id))
        states.append(f" {clean(model.state)}", style=STATE_STYLES.get(model.state, ""))
    if found.models:
        screen.say(states)

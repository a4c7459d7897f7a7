"""``tessera ledger``: every booking of one's own tokens."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from tessera.cli.exits import CliError
from tessera.cli.options import JsonOption
from tessera.cli.screen import Screen, clean, number, span, table
from tessera.cli.session import call

if TYPE_CHECKING:
    from tessera.client import Client, LedgerEntry

PAGE = 100  # the most that one request asks for


def register(app: typer.Typer, panel: str) -> None:
    """Add the command of this module."""
    app.command(
        "ledger",
        rich_help_panel=panel,
        epilog="""[bold]Examples[/bold]

[cyan]tessera ledger --job job_01k…[/cyan]   what one job held, came to and gave back

[cyan]tessera ledger --day 2030-01-31 --json[/cyan]""",
    )(ledger)


def ledger(
    day: Annotated[str | None, typer.Option("--day", metavar="DAY", help="Of one UTC day, like 2030-01-31.")] = None,
    job: Annotated[str | None, typer.Option("--job", metavar="ID", help="Of one job.")] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", metavar="N", min=1, max=10_000, help="How many at most.")] = 20,
    json: JsonOption = False,
) -> None:
    """List the bookings of your tokens, the newest first: what jobs held, came to and gave back."""
    screen = Screen(json=json)
    try:
        wanted = date.fromisoformat(day) if day is not None else None
    except ValueError:
        raise CliError(f"--day is '{day}': write it like 2030-01-31.") from None
    found, more = call(lambda client: _collect(client, wanted, job, limit), screen)
    if json:
        screen.print_json({"data": [entry.dump() for entry in found]})
        return
    if not found:
        screen.say("No entries." if day or job else "No entries yet: nothing was submitted.")
        return
    now = datetime.now(UTC)
    rows = table("WHEN", "DAY", "ENTRY", "TOKENS", "KIND", "JOB", "REASON", right=("TOKENS",))
    for entry in found:
        amount = entry.amount_tokens
        style = "green" if amount < 0 else ""
        rows.add_row(
            f"{span(max(0, round((now - entry.at).total_seconds())))} ago" if entry.at is not None else "–",
            clean(entry.day),
            clean(entry.entry),
            Text(("+" if amount > 0 else "") + number(amount), style=style),
            clean(entry.kind),
            clean(entry.job_id or "–"),
            Text(clean(entry.reason), style="dim"),
        )
    screen.print_table(rows)
    if more:
        screen.say(f"[dim]There are more: --limit {limit * 2}[/dim]")


async def _collect(client: Client, day: date | None, job: str | None, limit: int) -> tuple[list[LedgerEntry], bool]:
    found: list[LedgerEntry] = []
    cursor: str | None = None
    while True:
        page = await client.ledger(day=day, job_id=job, cursor=cursor, limit=min(PAGE, limit - len(found)))
        found.extend(page.data)
        cursor = page.next_cursor
        if not cursor or len(found) >= limit:
            return found, bool(cursor)

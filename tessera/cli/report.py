"""``tessera report``: the operator's questions, answered from the database; ``tessera demo`` fills in sample data."""

from __future__ import annotations

import asyncio
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from tessera.cli.exits import CliError, ExitCode
from tessera.cli.options import JsonOption
from tessera.cli.screen import Screen, clean, number, size, span, table

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from tessera.store.reports import Section


def register(app: typer.Typer, panel: str) -> None:
    """Add the commands of this module."""
    app.command(
        "report",
        rich_help_panel=panel,
        epilog="[cyan]tessera report[/cyan]\n\n[cyan]tessera report revenue --json[/cyan]",
    )(report)
    app.command("demo", rich_help_panel=panel, hidden=True)(demo)


def report(
    name: Annotated[str | None, typer.Argument(metavar="[SECTION]", help="Only this section.")] = None,
    days: Annotated[int, typer.Option("--days", metavar="N", min=1, max=3660, help="How far back it looks.")] = 30,
    json: JsonOption = False,
) -> None:
    """Print the operator's report: users, revenue, uptime, queues, failures, storage, books. Reads the database."""
    from tessera.store import reports

    known = reports.names()
    if name is not None and name not in known:
        raise CliError(f"There is no section '{clean(name)}'. Known are: {', '.join(known)}.", known=known)
    screen = Screen(json=json)
    only = [name] if name is not None else None
    found = _run(reports.report(_dsn(), at=datetime.now(UTC), days=days, only=only))
    if json:
        screen.print_json({"days": days, "sections": [section.dump() for section in found]})
        return
    for index, section in enumerate(found):
        _print(section, screen, first=index == 0)


def demo(
    yes: Annotated[bool, typer.Option("--yes", metavar="", help="Do not ask.")] = False, json: JsonOption = False
) -> None:
    """Fill in sample users and jobs of the last 30 days, to look at the report and the website with."""
    from tessera.store.demo import fill

    dsn = _dsn()
    if not yes:
        typer.confirm(
            "This adds 60 sample users with their jobs to this installation for good. Go on?", abort=True, err=True
        )
    _run(fill(dsn))
    screen = Screen(json=json)
    if json:
        screen.print_json({"filled": True})
    else:
        screen.say("The sample data is in: 'tessera report' shows it. Its users are called demo-01 to demo-60.")


def _dsn() -> str:
    from tessera.config import Settings

    return Settings.from_environment().database_url


def _run(work: Coroutine[Any, Any, Any]) -> Any:
    from tessera.errors import Unavailable

    try:
        return asyncio.run(work)
    except Unavailable as error:
        raise CliError(
            "The database does not answer: 'tessera status' shows what is not running, 'tessera up' starts it.",
            code="unavailable",
            exit_code=ExitCode.UNREACHABLE,
        ) from error


def _print(section: Section, screen: Screen, *, first: bool) -> None:
    title = section.name.replace("_", " ").capitalize()
    screen.out.print(Text.assemble("" if first else "\n", (title, "bold cyan"), "  ", (section.about, "dim")))
    if not section.rows:
        screen.out.print(Text("nothing", style="dim"))
        return
    numbers = [
        column
        for place, column in enumerate(section.columns)
        if any(isinstance(row[place], int | float) and not isinstance(row[place], bool) for row in section.rows)
    ]
    rows = table(*(heading(column) for column in section.columns), right=[heading(column) for column in numbers])
    for row in section.rows:
        rows.add_row(*(Text(shown(column, value)) for column, value in zip(section.columns, row, strict=True)))
    screen.print_table(rows)


def heading(column: str) -> str:
    """A column's title: what the values show by themselves is left out of it."""
    for ending, unit in (("_mt", " tokens"), ("_s", ""), ("_cents", " $"), ("_bytes", " size")):
        if column.endswith(ending):
            return (column.removesuffix(ending) + unit).replace("_", " ").upper()
    return column.removesuffix("_id").replace("_percent", " %").replace("_", " ").upper()


def shown(column: str, value: Any) -> str:
    """A value for a person, by the unit that its column's name ends with."""
    if value is None:
        return "–"
    if isinstance(value, datetime):
        return f"{value.astimezone(UTC):%Y-%m-%d %H:%M}"
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, str):
        return clean(value)
    if column.endswith("_mt"):
        return number(value / 1000)
    if column.endswith("_cents"):
        return f"{value / 100:,.2f}"
    if column.endswith("_bytes"):
        return size(value)
    if column.endswith("_s"):
        return span(max(0.0, float(value)))
    if column.endswith("_percent") and isinstance(value, float):
        return f"{value:.1f}"
    return number(value)

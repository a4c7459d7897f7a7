"""``tessera audit``: whether the books balance, on a live platform. It reads the database and changes nothing."""

from __future__ import annotations

import asyncio
import time
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import typer
from rich.status import Status
from rich.text import Text

from tessera.cli.exits import CliError, ExitCode
from tessera.cli.options import JsonOption, QuietOption
from tessera.cli.screen import Screen, clean, number, stderr_is_terminal

if TYPE_CHECKING:
    from tessera.store.audit import Audit, Check


def register(app: typer.Typer, panel: str) -> None:
    """Add the commands of this module."""
    app.command(
        "audit",
        rich_help_panel=panel,
        epilog="[cyan]tessera audit[/cyan]   exit code 0 when the books balance, 1 when they do not",
    )(audit)


def audit(json: JsonOption = False, quiet: QuietOption = False) -> None:
    """Check that ledger, usage, quotas, jobs and events agree. Works while jobs run; reads the database only."""
    screen = Screen(json=json, quiet=quiet)
    began = time.monotonic()
    spinner = nullcontext() if json or quiet or not stderr_is_terminal() else Status("", console=screen.err)
    with spinner as status:
        found = _run(status, screen)
    seconds = time.monotonic() - began
    if json:
        screen.print_json(_document(found, seconds))
    else:
        screen.out.print(verdict(found))
    if not found.balanced:
        raise typer.Exit(ExitCode.FAILED)


def verdict(found: Audit) -> str:
    """The last line: whether the books balance."""
    if found.balanced:
        entries = _count(found.ledger_entries, "ledger entry", "ledger entries")
        return f"The books balance: {_count(found.jobs, 'job')}, {entries}, {_count(found.open_holds, 'open hold')}."
    return f"The books do NOT balance: {_count(found.differences, 'difference')}."


def _run(status: Status | None, screen: Screen) -> Audit:
    from tessera.config import Settings
    from tessera.errors import Unavailable
    from tessera.store import audit as books

    def on_start(about: str) -> None:
        if status is not None:
            status.update(Text(about, style="dim"))

    def on_check(check: Check) -> None:
        if screen.json or (screen.quiet and check.differences == 0):
            return
        for line in lines(check):
            screen.out.print(line, soft_wrap=True)

    try:
        return asyncio.run(books.audit(Settings.from_environment().database_url, on_start=on_start, on_check=on_check))
    except Unavailable as error:
        raise CliError(
            "The database does not answer: 'tessera status' shows what is not running, 'tessera up' starts it.",
            code="unavailable",
            exit_code=ExitCode.UNREACHABLE,
        ) from error


def lines(check: Check) -> list[Text]:
    """A check as a line, with some of its differences below."""
    if check.differences == 0:
        return [Text.assemble(("✓ ", "green"), clean(check.about))]
    shown = [
        Text.assemble(
            ("✗ ", "bold red"),
            clean(check.about),
            (f"  {check.name}: {_count(check.differences, 'difference')}", "bold"),
        )
    ]
    for row in check.examples:
        facts = "  ".join(f"{key} {_value(key, value)}" for key, value in row.items())
        shown.append(Text("    " + clean(facts), style="dim"))
    if check.differences > len(check.examples):
        shown.append(Text(f"    and {check.differences - len(check.examples)} more", style="dim"))
    return shown


def _value(column: str, value: Any) -> str:
    if value is None:
        return "–"
    if column.endswith("_mt"):
        return f"{number(value / 1000)} tokens"
    return str(value)


def _count(amount: int, one: str, many: str | None = None) -> str:
    return f"{amount:,} {one if amount == 1 else many or one + 's'}"


def _document(found: Audit, seconds: float) -> dict[str, Any]:
    return {
        "balanced": found.balanced,
        "at": found.at.isoformat(),
        "jobs": found.jobs,
        "ledger_entries": found.ledger_entries,
        "open_holds": found.open_holds,
        "open_tokens": found.open_mt / 1000,
        "differences": found.differences,
        "duration_s": round(seconds, 3),
        "checks": [check.dump() for check in found.checks],
        "verdict": verdict(found),
    }

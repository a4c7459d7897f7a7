"""The commands about one's own account: ``link``, and ``account`` to look at it, take its data along or delete it."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from tessera.cli.exits import CliError
from tessera.cli.options import JsonOption
from tessera.cli.screen import Screen, clean, size, span, table
from tessera.cli.session import call

if TYPE_CHECKING:
    from tessera.client import Client, Deleted, Me

account_app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="Your account: its identities on other platforms, all of its data, its end.",
)

YesOption = Annotated[bool, typer.Option("--yes", "-y", metavar="", help="Do not ask.")]


def register(app: typer.Typer, panel: str) -> None:
    """Add the commands of this module."""
    app.command(
        "link",
        rich_help_panel=panel,
        epilog="""[bold]Examples[/bold]

[cyan]tessera link[/cyan]   prints a code to type in a chat

[cyan]tessera link K7QM-2F9X[/cyan]   takes up a code: this account becomes part of the one that made it""",
    )(link)
    app.add_typer(account_app, name="account", rich_help_panel=panel)


def link(
    code: Annotated[str | None, typer.Argument(metavar="CODE", help="One that another platform gave you.")] = None,
    yes: YesOption = False,
    json: JsonOption = False,
) -> None:
    """Make one account of two: print a code to type elsewhere, or take up one that you were given."""
    screen = Screen(json=json)
    if code is None:
        made = call(lambda client: client.link_code(), screen)
        if json:
            screen.print_json(made.dump())
            return
        screen.out.print(Text(made.code, style="bold"))
        if made.expires_at is not None:
            left = span(max(0.0, (made.expires_at - datetime.now(UTC)).total_seconds()))
            screen.say(
                f"[dim]Type it on the other platform within {left}. That account then becomes part of this one.[/dim]"
            )
        return
    if not yes:
        typer.confirm(
            "This account becomes part of the one that made the code, with its jobs, files and keys, for good. Go on?",
            abort=True,
            err=True,
        )
    linked = call(lambda client: client.link(code), screen)
    if json:
        screen.print_json(linked.dump())
        return
    named = ", ".join(clean(each.identity) for each in linked.identities) or "no other platform"
    screen.say(Text.assemble(("✓ ", "bold green"), f"One account now, on plan {clean(linked.plan)}: {named}."))


@account_app.command("identities")
def identities(json: JsonOption = False) -> None:
    """List who you are on other platforms."""
    screen = Screen(json=json)
    found = call(lambda client: client.identities(), screen)
    if json:
        screen.print_json({"data": [each.dump() for each in found]})
        return
    if not found:
        screen.say("No other platform is linked. 'tessera link' prints a code to type there.")
        return
    rows = table("IDENTITY", "NAME", "SINCE")
    for each in found:
        since = each.linked_at.date().isoformat() if each.linked_at is not None else ""
        rows.add_row(Text(clean(each.identity)), Text(clean(each.display_name or "")), since)
    screen.print_table(rows)


@account_app.command("unlink", epilog="[cyan]tessera account unlink telegram:123456789[/cyan]")
def unlink(
    identity: Annotated[str, typer.Argument(metavar="IDENTITY", help="As 'tessera account identities' shows it.")],
    json: JsonOption = False,
) -> None:
    """Take an identity out of your account, which keeps its jobs, files and plan."""
    screen = Screen(json=json)
    call(lambda client: client.unlink(identity), screen)
    if json:
        screen.print_json({"identity": identity, "unlinked": True})
    else:
        screen.say(Text(f"Unlinked: {clean(identity)} is a person of its own from now on."))


@account_app.command("export", epilog="[cyan]tessera account export --out my-tessera.json[/cyan]")
def export(
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="Where to write it.")] = Path(
        "tessera-export.json"
    ),
    force: Annotated[bool, typer.Option("--force", "-f", metavar="", help="Replace a file that is there.")] = False,
    json: JsonOption = False,
) -> None:
    """Write everything that is kept about you to a JSON file: jobs and prompts, files, ledger, identities."""
    screen = Screen(json=json)
    if out.exists() and not force:
        raise CliError(f"{clean(out)} is there already: name another with --out, or replace it with --force.")
    written = call(lambda client: client.export(out), screen)
    if json:
        screen.print_json({"path": str(out), "bytes": written})
    else:
        screen.say(Text.assemble(("✓ ", "bold green"), f"{clean(out)}, {size(written)}"))


@account_app.command("delete")
def delete(yes: YesOption = False, json: JsonOption = False) -> None:
    """Delete your account for good: prompts, results, files, keys, identities. What was used today stays used."""
    screen = Screen(json=json)
    me: Me = call(lambda client: client.me(), screen)
    if not yes:
        typer.confirm(
            f"This deletes the account {clean(me.name or me.id)} with everything in it, for good. Take your data along"
            " first with 'tessera account export'. Delete it?",
            abort=True,
            err=True,
        )

    async def work(client: Client) -> Deleted:
        return await client.delete_account(me.id)

    deleted = call(work, screen)
    if json:
        screen.print_json(deleted.dump())
    else:
        screen.say(Text(f"Deleted: {clean(deleted.id)}. Its keys open nothing any more."))

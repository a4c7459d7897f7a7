"""The operator's commands about content: ``moderation``, ``banner``, ``users ban`` and ``users unban``."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from tessera.cli.account import user_id_of, users_app
from tessera.cli.exits import CliError
from tessera.cli.jobs import KindChoice
from tessera.cli.options import JsonOption
from tessera.cli.screen import Screen, clean, table
from tessera.cli.session import call

if TYPE_CHECKING:
    from tessera.client import Client
    from tessera.client.models import User

app = typer.Typer(
    name="moderation",
    help="Rules that look at prompts, and the review of reports (operators only).",
    no_args_is_help=True,
    rich_markup_mode="rich",
)
SHOWN_CHARS = 60


class ActionChoice(StrEnum):
    """What a rule does."""

    BLOCK = "block"
    FLAG = "flag"
    SPOILER = "spoiler"


class StateChoice(StrEnum):
    """Which reports."""

    OPEN = "open"
    UPHELD = "upheld"
    DISMISSED = "dismissed"


Note = Annotated[str, typer.Option("--note", metavar="TEXT", help="Kept with it, for other operators.")]


def register(root: typer.Typer, panel: str) -> None:
    """Add the commands of this module."""
    root.add_typer(app, name="moderation", rich_help_panel=panel)
    root.command(
        "banner",
        rich_help_panel=panel,
        epilog="""[bold]Examples[/bold]

[cyan]tessera banner "Maintenance on Sunday from 02:00 UTC: jobs wait, none is lost."[/cyan]

[cyan]tessera banner --clear[/cyan]""",
    )(banner)


@app.command("rules")
def rules(json: JsonOption = False) -> None:
    """List the rules. What is refused always is in none of them."""
    screen = Screen(json=json)
    found = call(lambda client: client.rules(), screen)
    if json:
        screen.print_json({"data": [rule.dump() for rule in found]})
        return
    if not found:
        screen.say("There are no rules. 'tessera moderation add' makes one.")
        return
    rows = table("ID", "ACTION", "LOOKS FOR", "OF")
    for rule in found:
        what = f"/{rule.text}/" if rule.match == "pattern" else rule.text
        where = ", ".join(rule.kinds) or "all kinds"
        age = " (where not allowed: block)" if rule.age_restricted else ""
        rows.add_row(clean(rule.id), clean(rule.action) + age, clean(what)[:SHOWN_CHARS], clean(where))
    screen.print_table(rows)


@app.command("add", epilog="[cyan]tessera moderation add 'secret project' --action block[/cyan]")
def add(
    text: Annotated[str, typer.Argument(metavar="TEXT", help="Words, or with --pattern an expression of RE2.")],
    action: Annotated[ActionChoice, typer.Option("--action", help="What is done with a prompt that has it.")],
    pattern: Annotated[bool, typer.Option("--pattern", help="TEXT is a regular expression.")] = False,
    age_restricted: Annotated[
        bool, typer.Option("--age-restricted", help="Refuse it where such content is not allowed.")
    ] = False,
    kind: Annotated[list[KindChoice] | None, typer.Option("--kind", help="Only of these kinds; repeat it.")] = None,
    note: Note = "",
    json: JsonOption = False,
) -> None:
    """Add a rule; it holds everywhere within two seconds."""
    screen = Screen(json=json)
    more = {
        "match": "pattern" if pattern else "words",
        "age_restricted": age_restricted,
        "kinds": [str(each) for each in kind or ()],
        "note": note,
    }
    made = call(lambda client: client.add_rule(text, str(action), **more), screen)
    if json:
        screen.print_json(made.dump())
        return
    screen.say(Text(f"Rule {clean(made.id)} holds within two seconds."))


@app.command("remove")
def remove(
    rule: Annotated[str, typer.Argument(metavar="ID", help="Of 'tessera moderation rules'.")], json: JsonOption = False
) -> None:
    """End a rule. Jobs that it has marked stay marked."""
    screen = Screen(json=json)
    call(lambda client: client.delete_rule(rule), screen)
    if json:
        screen.print_json({"id": rule, "deleted": True})
        return
    screen.say(Text(f"Rule {clean(rule)} no longer holds."))


@app.command("reports")
def reports(
    state: Annotated[StateChoice, typer.Option("--state", help="Which ones.")] = StateChoice.OPEN,
    json: JsonOption = False,
) -> None:
    """List reports and flagged jobs, the newest first."""
    screen = Screen(json=json)
    found = call(lambda client: client.reports(state=str(state)), screen)
    if json:
        screen.print_json({"data": [report.dump() for report in found]})
        return
    if not found:
        screen.say(f"There are no {state} reports.")
        return
    rows = table("ID", "CATEGORY", "REASON", "PROMPT")
    for report in found:
        asked = (report.job or {}).get("input", {})
        prompt = str(asked.get("prompt") or asked.get("text") or asked.get("messages") or "–")
        rows.add_row(
            clean(report.id), clean(report.category), clean(report.reason)[:SHOWN_CHARS], clean(prompt)[:SHOWN_CHARS]
        )
    screen.print_table(rows)


@app.command("uphold")
def uphold(
    report: Annotated[str, typer.Argument(metavar="ID", help="Of 'tessera moderation reports'.")],
    note: Note = "",
    json: JsonOption = False,
) -> None:
    """Withhold what a report is about, and give its tokens back."""
    _review(report, "uphold", note, Screen(json=json))


@app.command("dismiss")
def dismiss(
    report: Annotated[str, typer.Argument(metavar="ID", help="Of 'tessera moderation reports'.")],
    note: Note = "",
    json: JsonOption = False,
) -> None:
    """Close a report; nothing happens to the job."""
    _review(report, "dismiss", note, Screen(json=json))


def _review(report: str, decision: str, note: str, screen: Screen) -> None:
    made = call(lambda client: client.review(report, decision, note), screen)
    if screen.json:
        screen.print_json(made.dump())
        return
    back = f" {made.refunded_tokens:g} tokens were given back." if made.refunded_tokens else ""
    screen.say(Text(f"Report {clean(made.id)} is {clean(made.state)}.{back}"))


@users_app.command("ban", epilog="[cyan]tessera users ban ada --reason 'resells free accounts'[/cyan]")
def ban(
    user: Annotated[str, typer.Argument(metavar="USER", help="Name or id.")],
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="The user is shown it.")],
    json: JsonOption = False,
) -> None:
    """Close a user's account: what waits is cancelled and refunded, what runs is asked to end."""

    async def work(client: Client) -> User:
        return await client.ban(await user_id_of(client, user), reason)

    screen = Screen(json=json)
    made = call(work, screen)
    if json:
        screen.print_json(made.dump())
        return
    screen.say(Text(f"The account of {clean(user)} is closed. Open it again: 'tessera users unban {clean(user)}'."))


@users_app.command("unban")
def unban(user: Annotated[str, typer.Argument(metavar="USER", help="Name or id.")], json: JsonOption = False) -> None:
    """Open a closed account again."""

    async def work(client: Client) -> User:
        return await client.unban(await user_id_of(client, user))

    screen = Screen(json=json)
    made = call(work, screen)
    if json:
        screen.print_json(made.dump())
        return
    screen.say(Text(f"The account of {clean(user)} is open."))


def banner(
    message: Annotated[str | None, typer.Argument(metavar="TEXT", help="One line for everybody.")] = None,
    clear: Annotated[bool, typer.Option("--clear", help="Show none any more.")] = False,
    json: JsonOption = False,
) -> None:
    """Show everybody a line, in chats, on the website and in 'tessera queue' (operators only). Without one: which."""
    screen = Screen(json=json)
    if clear and message is not None:
        raise CliError("Give a text or --clear, not both. Nothing was changed.")
    if clear:
        call(lambda client: client.clear_banner(), screen)
    found = call(lambda client: client.banner() if message is None else client.set_banner(message), screen)
    if json:
        screen.print_json({"banner": found.dump() if found is not None else None})
        return
    screen.say(Text(f"Everybody is shown: {clean(found.message)}" if found is not None else "No banner is shown."))

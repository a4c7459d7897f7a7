"""The commands about the catalogue and the account: ``models, plans, usage, keys, users``."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress_bar import ProgressBar
from rich.text import Text

from tessera.cli.exits import CliError
from tessera.cli.jobs import KindChoice
from tessera.cli.options import JsonOption
from tessera.cli.screen import Screen, clean, number, span, stdout_is_terminal, table
from tessera.cli.session import call

if TYPE_CHECKING:
    from tessera.client import AccountEntry, ApiKey, Client, Deleted, Quota, User

keys_app = typer.Typer(
    no_args_is_help=True, rich_markup_mode="rich", help="Make, list and revoke the API keys of your programs."
)
users_app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="Make and list users, change their plans, grant and adjust tokens (operators only).",
)


def register(app: typer.Typer, panel: str) -> None:
    """Add the commands of this module."""
    app.command("models", rich_help_panel=panel, epilog="[cyan]tessera models --kind image[/cyan]")(models)
    app.command("plans", rich_help_panel=panel)(plans)
    app.command("usage", rich_help_panel=panel, epilog="[cyan]tessera usage --days 7[/cyan]")(usage)
    app.add_typer(keys_app, name="keys", rich_help_panel=panel)
    app.add_typer(users_app, name="users", rich_help_panel=panel)


def models(
    kind: Annotated[
        KindChoice | None, typer.Option("--kind", metavar="KIND", help=f"Only these: {', '.join(KindChoice)}.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """List the models, their prices and whether they are up. Needs no key."""
    screen = Screen(json=json)
    found = [m for m in call(lambda client: client.models(), screen) if kind is None or m.kind == kind]
    if json:
        screen.print_json({"data": [model.dump() for model in found]})
        return
    rows = table("ID", "KIND", "STATE", "PRICE", "WHAT")
    for model in found:
        up = model.state in {"ready", "up", "available", "resident", "online", "busy"}
        what = Text(clean(model.description or model.title))
        if model.aliases:
            what.append(f" Also called {clean(', '.join(model.aliases))}.", style="dim")
        rows.add_row(
            Text.assemble((clean(model.id), "bold" if model.default else ""), (" *" if model.default else "", "green")),
            model.kind,
            Text(model.state, style="green" if up else "dim" if model.state == "unknown" else "yellow"),
            Text(_price(model.price)),
            what,
        )
    screen.print_table(rows)
    if any(model.default for model in found):
        screen.say("[dim]* is what a job without --model gets.[/dim]")


def plans(json: JsonOption = False) -> None:
    """List the plans: their prices and what they allow. Needs no key."""
    screen = Screen(json=json)
    found = call(lambda client: client.plans(), screen)
    if json:
        screen.print_json({"data": [plan.dump() for plan in found]})
        return
    right = ("$ A MONTH", "TOKENS A DAY", "QUEUED", "RUNNING", "VIDEO", "KEPT", "A MINUTE")
    rows = table(
        "PLAN",
        "$ A MONTH",
        "TOKENS A DAY",
        "LARGEST IMAGE",
        "VIDEO",
        "QUEUED",
        "RUNNING",
        "A MINUTE",
        "KEPT",
        right=right,
    )
    for plan in found:
        limits = plan.limits
        rows.add_row(
            Text(clean(plan.title or plan.id), style="bold"),
            number(plan.price_usd_per_month),
            number(plan.daily_tokens),
            _image_limit(limits),
            _limit(limits, "max_video_s", "video_seconds", unit=" s"),
            _limit(limits, "max_queued", "queued"),
            _limit(limits, "max_running", "running"),
            _limit(limits, "submissions_per_min", "submissions_per_minute"),
            _limit(limits, "retention_days", unit=" days"),
        )
    screen.print_table(rows)
    screen.say("[dim]1 token is one picture of 1024×1024; 'tessera models' has the other prices.[/dim]")


def usage(
    days: Annotated[int, typer.Option("--days", "-d", metavar="N", min=1, max=366, help="How many days back.")] = 30,
    json: JsonOption = False,
) -> None:
    """Show today's tokens and what was used on the last days (UTC)."""
    screen = Screen(json=json)
    found = call(lambda client: client.usage(days), screen)
    if json:
        screen.print_json(found.dump())
        return
    _show_quota(found.today, screen)
    by_day: dict[str, dict[str, float]] = {}
    jobs_by_day: dict[str, int] = {}
    for entry in found.data:
        per_kind = by_day.setdefault(entry.day, {})
        per_kind[entry.kind or "all"] = per_kind.get(entry.kind or "all", 0) + entry.used_tokens
        jobs_by_day[entry.day] = jobs_by_day.get(entry.day, 0) + entry.jobs
    if not by_day:
        screen.say(f"Nothing was used in the last {days} days.")
        return
    seen = {kind for used in by_day.values() for kind in used}
    kinds = [kind.value for kind in KindChoice if kind in seen] + sorted(seen - set(KindChoice))
    names = [kind.upper() for kind in kinds]
    rows = table("DAY", "JOBS", "TOKENS", *names, "", right=("JOBS", "TOKENS", *names))
    most = max(sum(used.values()) for used in by_day.values()) or 1
    for day in sorted(by_day, reverse=True):
        used = by_day[day]
        total = sum(used.values())
        cells = [number(used[kind]) if kind in used else "" for kind in kinds]
        bar = Text("▇" * max(1, round(20 * total / most)) if total else "", style="cyan")
        rows.add_row(day, str(jobs_by_day[day]), number(total), *cells, bar)
    screen.print_table(rows)


@keys_app.command(
    "create",
    epilog="""[bold]Examples[/bold]

[cyan]tessera keys create laptop[/cyan]

[cyan]tessera keys create ci --scope jobs --daily-cap 50 --expires 90d --json[/cyan]

[cyan]tessera keys create bots --scope service[/cyan]   for the bots: it acts for the person who writes to them""",
)
def keys_create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="To recognise it by.")],
    scope: Annotated[
        list[str] | None,
        typer.Option(
            "--scope",
            metavar="SCOPE",
            help="jobs (else this), read (look only); operators: service (bots), admin. May be repeated.",
        ),
    ] = None,
    daily_cap: Annotated[
        float | None,
        typer.Option("--daily-cap", min=0, metavar="TOKENS", help="The most that it may use a day."),
    ] = None,
    expires: Annotated[
        str | None,
        typer.Option("--expires", metavar="WHEN", help="A date like 2027-01-31, or a time like 90d or 12h."),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Make an API key. It is shown this once."""
    screen = Screen(json=json)
    until = parse_expiry(expires, datetime.now(UTC))
    key = call(
        lambda client: client.keys_create(
            name, scopes=tuple(scope) if scope else None, daily_cap_tokens=daily_cap, expires_at=until
        ),
        screen,
    )
    _show_secret(key, screen, "Set it as TESSERA_API_KEY, or send it as 'Authorization: Bearer …'.")


@keys_app.command("list")
def keys_list(json: JsonOption = False) -> None:
    """List your API keys, without their secrets."""
    screen = Screen(json=json)
    found = call(lambda client: client.keys_list(), screen)
    if json:
        screen.print_json({"data": [key.dump() for key in found]})
        return
    if not found:
        screen.say("No keys. Make one: tessera keys create NAME")
        return
    rows = table("ID", "NAME", "SCOPES", "CAP A DAY", "MADE", "LAST USED", "EXPIRES", right=("CAP A DAY",))
    for key in found:
        rows.add_row(
            key.id,
            Text(clean(key.name), style="dim strike" if key.revoked_at else ""),
            clean(", ".join(key.scopes)),
            number(key.daily_cap_tokens),
            _day(key.created_at),
            _day(key.last_used_at),
            "revoked" if key.revoked_at else _day(key.expires_at),
        )
    screen.print_table(rows)


@keys_app.command("revoke", epilog="[cyan]tessera keys revoke ID[/cyan]   the ID of 'tessera keys list'")
def keys_revoke(
    id: Annotated[str, typer.Argument(metavar="ID", help="The key's id, as 'keys list' shows it.")],
    json: JsonOption = False,
) -> None:
    """End an API key for good: what uses it is refused at once."""
    screen = Screen(json=json)
    call(lambda client: client.keys_revoke(id), screen)
    if json:
        screen.print_json({"id": id, "revoked": True})
    else:
        screen.say(Text(f"Revoked: {clean(id)} opens nothing any more."))


@users_app.command(
    "create",
    epilog="""[bold]Examples[/bold]

[cyan]tessera users create ada --plan pro[/cyan]

[cyan]export TESSERA_API_KEY=$(tessera users create test --plan free --json | jq -r .api_key)[/cyan]""",
)
def users_create(
    name: Annotated[str, typer.Argument(metavar="NAME")],
    plan: Annotated[str, typer.Option("--plan", "-p", metavar="PLAN", help="free, starter or pro.")] = "free",
    json: JsonOption = False,
) -> None:
    """Make a user with an API key, which is shown this once."""
    screen = Screen(json=json)
    user = call(lambda client: client.users_create(name, plan), screen)
    _show_secret(user, screen, f"{user.name} is on plan {user.plan}.")


@users_app.command("list")
def users_list(json: JsonOption = False) -> None:
    """List all users."""
    screen = Screen(json=json)
    found = call(lambda client: client.users_list(), screen)
    if json:
        screen.print_json({"data": [user.dump() for user in found]})
        return
    rows = table("ID", "NAME", "PLAN", "SINCE")
    for user in found:
        rows.add_row(user.id, Text(clean(user.name)), user.plan, _day(user.created_at))
    screen.print_table(rows)


@users_app.command("set-plan", epilog="[cyan]tessera users set-plan ada starter[/cyan]")
def users_set_plan(
    user: Annotated[str, typer.Argument(metavar="USER", help="Id or name.")],
    plan: Annotated[str, typer.Argument(metavar="PLAN", help="free, starter or pro.")],
    json: JsonOption = False,
) -> None:
    """Put a user on another plan, at once."""
    screen = Screen(json=json)

    async def change(client: Client) -> User:
        return await client.users_set_plan(await user_id_of(client, user), plan)

    changed = call(change, screen)
    if json:
        screen.print_json(changed.dump())
    else:
        screen.say(Text(f"{clean(changed.name)} is on plan {changed.plan} now."))


@users_app.command("delete", epilog="[cyan]tessera users delete ada[/cyan]")
def users_delete(
    user: Annotated[str, typer.Argument(metavar="USER", help="Id or name.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", metavar="", help="Do not ask.")] = False,
    json: JsonOption = False,
) -> None:
    """Delete a user's account for good; a ban goes on for each of its identities."""
    screen = Screen(json=json)
    if not yes:
        typer.confirm(
            f"This deletes {clean(user)} with all prompts, files and keys, for good. Go on?", abort=True, err=True
        )

    async def work(client: Client) -> Deleted:
        return await client.users_delete(await user_id_of(client, user))

    deleted = call(work, screen)
    if json:
        screen.print_json(deleted.dump())
    else:
        screen.say(Text(f"Deleted: {clean(deleted.id)}."))


ReasonOption = Annotated[str, typer.Option("--reason", "-r", metavar="TEXT", help="For the ledger and the audit.")]


@users_app.command(
    "grant", epilog="[cyan]tessera users grant ada 5 --reason 'the video of yesterday came out black'[/cyan]"
)
def users_grant(
    user: Annotated[str, typer.Argument(metavar="USER", help="Id or name.")],
    tokens: Annotated[str, typer.Argument(metavar="TOKENS", help="How many, with at most three decimals.")],
    reason: ReasonOption,
    json: JsonOption = False,
) -> None:
    """Give a user tokens for today, beyond the plan's; at midnight UTC they are gone."""
    screen = Screen(json=json)
    amount = parse_tokens(tokens)
    if amount < 0:
        raise CliError(f"TOKENS is '{clean(tokens)}': 'tessera users adjust' takes tokens away. Nothing was changed.")

    async def work(client: Client) -> AccountEntry:
        return await client.users_grant(await user_id_of(client, user), amount, reason)

    _show_entry(call(work, screen), user, screen)


@users_app.command(
    "adjust",
    # Or -2.5 would be read as options.
    context_settings={"ignore_unknown_options": True},
    epilog="""[bold]Examples[/bold]

[cyan]tessera users adjust ada -2.5 --day 2030-01-31 --reason 'charged for a wrong size'[/cyan]   gives back

[cyan]tessera users adjust ada 4 --reason 'used by telephone'[/cyan]   charges""",
)
def users_adjust(
    user: Annotated[str, typer.Argument(metavar="USER", help="Id or name.")],
    tokens: Annotated[str, typer.Argument(metavar="TOKENS", help="Above 0 charges, below 0 gives back.")],
    reason: ReasonOption,
    day: Annotated[
        str | None, typer.Option("--day", metavar="DATE", help="A UTC day like 2030-01-31; today without.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Correct what a user has used, today or on a day of the last year."""
    screen = Screen(json=json)
    amount, on = parse_tokens(tokens), _parse_day(day)

    async def work(client: Client) -> AccountEntry:
        return await client.users_adjust(await user_id_of(client, user), amount, reason, day=on)

    _show_entry(call(work, screen), user, screen)


def parse_tokens(text: str) -> Decimal:
    """An amount of tokens, exact, not 0. Raises CliError."""
    try:
        amount = Decimal(text.strip())
        if not amount.is_finite() or amount == 0 or amount != round(amount, 3):
            raise ValueError(text)
    except (InvalidOperation, ValueError):
        raise CliError(
            f"TOKENS is '{clean(text)}': write a number with at most three decimals, not 0. Nothing was changed."
        ) from None
    return amount


def _parse_day(text: str | None) -> date | None:
    if text is None:
        return None
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise CliError(f"--day is '{clean(text)}': write a date like 2030-01-31. Nothing was changed.") from None


def _show_entry(entry: AccountEntry, user: str, screen: Screen) -> None:
    if screen.json:
        screen.print_json(entry.dump())
        return
    done = "granted" if entry.entry == "grant" else "charged" if entry.tokens > 0 else "given back"
    screen.say(
        Text(
            f"{number(abs(entry.tokens))} tokens {done}: {clean(user)} has used {number(entry.used_tokens)} of"
            f" {number(entry.daily_tokens)} on {entry.day}."
        )
    )


async def user_id_of(client: Client, user: str) -> str:
    """The id of a user who is named by it or by name. Raises CliError."""
    if user.startswith("user_"):
        return user
    named = [found.id for found in await client.users_list() if found.name == user]
    if len(named) == 1:
        return named[0]
    if named:
        raise CliError(f"{len(named)} users are called '{user}': name one by its id, {', '.join(named[:5])}.")
    raise CliError(
        f"There is no user '{user}': 'tessera users list' shows them. Nothing was changed.", code="not_found"
    )


def parse_expiry(text: str | None, now: datetime) -> datetime | None:
    """A date, a date and time, or a span such as 90d, 12h from now. Raises CliError."""
    if text is None:
        return None
    match = re.fullmatch(r"(\d{1,5})\s*([dhw])", text.strip().lower())
    if match is not None:
        return (
            now + int(match[1]) * {"h": timedelta(hours=1), "d": timedelta(days=1), "w": timedelta(weeks=1)}[match[2]]
        )
    try:
        when = datetime.fromisoformat(text.strip())
    except ValueError:
        raise CliError(f"--expires is '{text}': write a date like 2027-01-31, or a time like 90d or 12h.") from None
    when = when if when.tzinfo is not None else when.replace(tzinfo=UTC)
    if when <= now:
        raise CliError(f"--expires is '{text}', which is over already. Nothing was made.")
    return when


def _show_secret(made: ApiKey | User, screen: Screen, remark: str) -> None:
    if screen.json:
        screen.print_json(made.dump())
        return
    screen.say(Text.assemble(("✓ ", "bold green"), f"{made.id} {clean(made.name)}"))
    sys.stdout.write(f"{made.api_key}\n")
    sys.stdout.flush()
    screen.say(Text("The key is shown this once: keep it now.", style="dim"))
    screen.say(Text(clean(remark), style="dim"))


def _show_quota(today: Quota, screen: Screen) -> None:
    if today.daily_tokens is None:
        screen.out.print(f"{number(today.used_tokens)} tokens used today, without a limit.")
        return
    line = Text.assemble(
        (number(today.remaining_tokens), "bold"), f" of {number(today.daily_tokens)} tokens left today"
    )
    if today.resets_at is not None:
        left = (today.resets_at - datetime.now(UTC)).total_seconds()
        if left > 0:
            line.append(f", all of them again in {span(left)}", style="dim")
    screen.out.print(line)
    if stdout_is_terminal():
        screen.out.print(ProgressBar(total=today.daily_tokens or 1, completed=today.used_tokens, width=40))
        screen.out.print()


def _price(price: Any) -> str:
    if isinstance(price, Mapping):
        return ", ".join(f"{clean(name)} {clean(value)}" for name, value in price.items())
    return clean(price) if price is not None else "–"


def _limit(limits: Mapping[str, Any], *names: str, unit: str = "") -> str:
    for name in names:
        value = limits.get(name)
        if isinstance(value, (int, float)):
            return f"{number(value)}{unit}"
    return "–"


def _image_limit(limits: Mapping[str, Any]) -> str:
    pixels = limits.get("max_image_px")
    if not isinstance(pixels, (int, float)):
        return "–"
    side = round(pixels**0.5)
    return f"{side}×{side}" if side * side == pixels else f"{pixels / 1e6:.1f} megapixels"


def _day(when: datetime | None) -> str:
    return when.astimezone(UTC).strftime("%Y-%m-%d") if when is not None else "–"

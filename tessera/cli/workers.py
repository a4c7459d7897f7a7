"""The operator's commands about workers: ``workers, drain, resume``."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from tessera.cli.exits import CliError
from tessera.cli.options import JsonOption
from tessera.cli.screen import Screen, clean, span, table
from tessera.cli.session import call

if TYPE_CHECKING:
    from tessera.client import Drain, Worker

UNIT_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
STATE_STYLES = {"online": "green", "offline": "red", "unknown": "yellow"}

TargetArgument = Annotated[
    str, typer.Argument(metavar="WORKER|NODE", help="A worker, or a node with all its workers: 'tessera workers'.")
]


def register(app: typer.Typer, panel: str) -> None:
    """Add the commands of this module."""
    app.command("workers", rich_help_panel=panel)(workers)
    app.command(
        "drain",
        rich_help_panel=panel,
        epilog="""[bold]Examples[/bold]

[cyan]tessera drain pc1 --for 2h --reason games[/cyan]   the PC is yours for two hours

[cyan]tessera drain comfyui --for 10m && tessera workers[/cyan]

[cyan]tessera resume pc1[/cyan]   sooner than that""",
    )(drain)
    app.command("resume", rich_help_panel=panel)(resume)


def workers(json: JsonOption = False) -> None:
    """List the workers: whether they are up, what they run and have loaded, and what is drained (operators only)."""
    screen = Screen(json=json)
    found = call(lambda client: client.workers(), screen)
    if json:
        screen.print_json({"data": [worker.dump() for worker in found]})
        return
    now = datetime.now(UTC)
    rows = table("WORKER", "STATE", "WHERE", "RUNNING", "LOADED", "REMARKS", right=("RUNNING",))
    for worker in found:
        running = "?" if worker.running is None else str(worker.running)
        rows.add_row(
            Text(clean(worker.name), style="bold"),
            _state(worker),
            clean(f"{worker.node}/{worker.device}"),
            f"{running} of {worker.slots}",
            clean(", ".join(worker.resident or ())) or "–",
            Text(clean("; ".join(remarks(worker, now)))),
        )
    screen.print_table(rows)


def drain(
    target: TargetArgument,
    for_: Annotated[str, typer.Option("--for", metavar="TIME", help="How long: 30s, 10m, 2h, 1d, 1h30m.")],
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="For the others who look.")] = "",
    json: JsonOption = False,
) -> None:
    """Send no new jobs to a worker or a node for a while, and free its memory once it is idle (operators only).

    Running jobs finish, queued ones keep their place. The drain ends by itself; 'tessera resume' ends it sooner.
    """
    screen = Screen(json=json)
    for_s = parse_duration(for_)
    made = call(lambda client: client.drain(target, for_s, reason), screen)
    if json:
        screen.print_json(made.dump())
        return
    end = _end(made.until, datetime.now(UTC))
    screen.say(Text.assemble(("✓ ", "bold green"), f"{clean(_of(made))} takes no new jobs until {end}."))
    screen.say(
        Text(
            "Running jobs finish, queued ones keep their place. VRAM is freed once a worker is idle.\n"
            f"See it: 'tessera workers'. End it sooner: 'tessera resume {clean(made.target)}'.",
            style="dim",
        )
    )


def resume(target: TargetArgument, json: JsonOption = False) -> None:
    """End a drain before its time: the worker, or the node's workers, take jobs again (operators only)."""
    screen = Screen(json=json)
    made = call(lambda client: client.resume(target), screen)
    if json:
        screen.print_json(made.dump())
        return
    now = datetime.now(UTC)
    still = [worker for worker in made.workers if worker.draining_until is not None]
    if not made.resumed:
        screen.say(Text(f"{clean(made.target)} has no drain of its own: nothing was changed."))
    elif not still:
        screen.say(Text.assemble(("✓ ", "bold green"), f"{clean(_of(made))} takes jobs again."))
    else:
        screen.say(Text.assemble(("✓ ", "bold green"), f"The drain of {clean(made.target)} has ended."))
    for worker in still:
        other = "its node" if made.kind == "worker" else "the worker itself"
        screen.say(
            Text(
                f"{clean(worker.name)} still takes no new jobs until {_end(worker.draining_until, now)}: "
                f"{other} is drained, too.",
                style="yellow",
            )
        )


def parse_duration(text: str) -> float:
    """The seconds of 30s, 10m, 2h, 1d or 1h30m. Raises CliError."""
    parts = re.findall(r"(\d{1,9})([smhd])", text.strip().lower())
    if not parts or "".join(count + unit for count, unit in parts) != text.strip().lower():
        raise CliError(f"--for is '{text}': write a time like 30s, 10m, 2h, 1d or 1h30m. Nothing was changed.")
    return float(sum(int(count) * UNIT_S[unit] for count, unit in parts))


def remarks(worker: Worker, now: datetime) -> list[str]:
    """What else there is to say of a worker, in words."""
    said = []
    if worker.draining_until is not None:
        said.append(f"draining until {_end(worker.draining_until, now)}")
    if worker.state == "offline":
        away = (
            f" for {span(max(0, round((now - worker.offline_since).total_seconds())))}" if worker.offline_since else ""
        )
        said.append(f"away{away}: {worker.message}" if worker.message else f"away{away}")
    elif worker.message:
        said.append(worker.message)
    if worker.loading:
        said.append(f"loading {worker.loading}")
    if worker.circuit == "open":
        until = f" until {_end(worker.circuit_until, now)}" if worker.circuit_until else ""
        said.append(f"left out after failures{until}")
    elif worker.circuit == "half_open":
        said.append("on trial after failures: one job at a time")
    said += [f"{model} left out until {_end(until, now)}" for model, until in sorted((worker.excluded or {}).items())]
    return said


def _state(worker: Worker) -> Text:
    if worker.draining_until is not None and worker.state == "online":
        return Text("draining", style="yellow")
    return Text(clean(worker.state), style=STATE_STYLES.get(worker.state, ""))


def _of(made: Drain) -> str:
    """``comfyui``, or ``pc1 (comfyui, whisper)``."""
    names = [worker.name for worker in made.workers]
    if made.kind != "node":
        return made.target
    return f"{made.target} ({', '.join(names) if names else 'no workers'})"


def _end(until: datetime | None, now: datetime) -> str:
    """``18:20 (in 2 h)`` by this machine's clock and zone, with the day where it is another one."""
    if until is None:
        return "its end"
    local, today = until.astimezone(), now.astimezone().date()
    clock = local.strftime("%H:%M" if local.date() == today else "%Y-%m-%d %H:%M")
    left_s = (until - now).total_seconds()
    return f"{clock} (in {span(max(1, round(left_s)))})" if left_s > 0 else clock

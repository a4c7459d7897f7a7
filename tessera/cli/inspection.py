"""The commands that look at this machine and change nothing: ``status, logs, doctor``."""

from __future__ import annotations

import json as json_module
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from tessera.cli.exits import CliError, ExitCode
from tessera.cli.options import JsonOption
from tessera.cli.platform import find_platform, program
from tessera.cli.screen import Screen, clean, size, stdout_is_terminal, table

if TYPE_CHECKING:
    from tessera.local.doctor import DoctorReport, Finding, Listener
    from tessera.local.logs import LogLine
    from tessera.local.status import PartStatus, PlatformStatus

STATE_STYLES = {"running": "green", "starting": "yellow", "unhealthy": "red", "stopped": "dim", "external": "cyan"}
VERDICTS = {"ok": ("✓", "green"), "warn": ("!", "yellow"), "fail": ("✗", "bold red")}
LEVEL_STYLES = {"debug": "dim", "warning": "yellow", "error": "red", "critical": "bold red"}
# What every line of Ray Serve repeats: it says where the line comes from, which the part's name says already.
UNTOLD = frozenset(
    {
        "part",
        "asctime",
        "levelname",
        "filename",
        "lineno",
        "process",
        "worker_id",
        "node_id",
        "actor_id",
        "actor_name",
        "replica",
        "deployment",
        "application",
        "component_name",
        "component_id",
        "timestamp_ns",
        "task_id",
        "task_name",
        "task_func_name",
    }
)
PART_COLORS = ("cyan", "magenta", "green", "yellow", "blue", "bright_cyan", "bright_magenta", "bright_green")


def register(app: typer.Typer, panel: str) -> None:
    """Add the commands of this module."""
    app.command(
        "status",
        rich_help_panel=panel,
        epilog="Ends with 0 when jobs can be submitted, with 3 when not:\n\n"
        "[cyan]until tessera status > /dev/null; do sleep 1; done[/cyan]",
    )(status)
    app.command(
        "logs",
        rich_help_panel=panel,
        epilog="""[bold]Examples[/bold]

[cyan]tessera logs --follow[/cyan]

[cyan]tessera logs scheduler ingress -n 100[/cyan]

[cyan]tessera logs | grep job_01k…[/cyan]   one job's way through all parts""",
    )(logs)
    app.command("doctor", rich_help_panel=panel, epilog="Ends with 1 when something has to be put right.")(doctor)


def status(json: JsonOption = False) -> None:
    """Show what runs on this machine: parts, memory, ports, and whether jobs can be submitted."""
    from tessera.local.status import status as look

    screen = Screen(json=json)
    found = look(find_platform())
    if json:
        screen.print_json(_status_json(found))
    else:
        _show_status(found, screen)
    raise typer.Exit(ExitCode.OK if found.ready else ExitCode.UNREACHABLE)


def logs(
    part: Annotated[
        list[str] | None,
        typer.Argument(metavar="[PART]...", help="postgres, ray, scheduler, ingress, a worker …; else all."),
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", metavar="", help="Go on with what is added; Ctrl-C ends it.")
    ] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", metavar="N", min=1, max=100_000, help="Of each part.")] = 20,
    json: Annotated[
        bool, typer.Option("--json", metavar="", help="One JSON document; with --follow one for each line.")
    ] = False,
) -> None:
    """Show the logs of all parts as one stream, in the order of time."""
    from tessera.local import logs as local

    screen = Screen(json=json)
    platform = find_platform()
    wanted = tuple(part or ())
    known = local.parts(platform)
    if unknown := [name for name in wanted if name not in known]:
        raise CliError(f"There is no part '{unknown[0]}'. Known are: {', '.join(known)}.")
    width = max(len(name) for name in known)
    if follow:
        try:
            for line in local.follow(platform, wanted, lines=lines):
                _print_line(line, known, width, screen)
        except KeyboardInterrupt:
            return
    found = local.last(platform, wanted, lines=lines)
    if json:
        screen.print_json({"data": [_line_json(line) for line in found]})
        return
    if not found:
        screen.say(f"No logs yet. '{program()} up' starts what writes them.")
    for line in found:
        _print_line(line, known, width, screen)


def doctor(
    node: Annotated[
        str, typer.Option("--node", metavar="NODE", help="Which node of the cluster file this machine is.")
    ] = "",
    json: JsonOption = False,
) -> None:
    """Look for what is wrong with this machine and its engines, and say how it is put right; list listening ports."""
    from tessera.local.doctor import examine

    screen = Screen(json=json)
    report = examine(find_platform(), node or None)
    if json:
        screen.print_json(_report_json(report))
    else:
        _show_report(report, screen)
    raise typer.Exit(ExitCode.OK if report.healthy else ExitCode.FAILED)


def _show_status(found: PlatformStatus, screen: Screen) -> None:
    rows = table("PART", "STATE", "PID", "MEMORY", "LISTENS ON", "", right=("PID", "MEMORY"))
    for part in found.parts:
        rows.add_row(
            part.name,
            Text(part.state.value, style=STATE_STYLES.get(part.state.value, "")),
            str(part.pid) if part.pid is not None else "",
            _mib(part.memory_mib) if part.processes else "",
            _ports(part),
            Text(clean(part.detail), style="dim"),
        )
    screen.print_table(rows)
    if found.ready:
        screen.say(Text.assemble(("\nReady", "bold green"), f" at {found.url}, in {_mib(found.memory_mib)} of memory."))
        return
    if not any(part.state.value == "running" for part in found.parts):
        screen.say(Text(f"\nNot running. Start it: {program()} up"))
        return
    screen.say(
        Text.assemble(("\nNot ready", "bold yellow"), f": submissions are not accepted now. See: {program()} logs")
    )


def _ports(part: PartStatus) -> str:
    """The first few; a part of Ray has a dozen, and ``doctor`` lists them all."""
    shown = part.ports[:2]
    more = len(part.ports) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")


def _mib(amount: float) -> str:
    return size(round(amount * 2**20))


def _print_line(line: LogLine, known: list[str], width: int, screen: Screen) -> None:
    if screen.json:
        screen.print_json(_line_json(line))
        return
    if stdout_is_terminal():
        color = PART_COLORS[known.index(line.part) % len(PART_COLORS)] if line.part in known else ""
        screen.out.print(Text.assemble((f"{line.part:<{width}} │ ", color), readable(line.text)), soft_wrap=True)
        return
    sys.stdout.write(f"{line.part:<{width}} | {clean(line.text)}\n")
    sys.stdout.flush()


def readable(text: str) -> Text:
    """A structured line for a person: time, level, what happened, and the facts. Other lines stay as they are."""
    try:
        entry = json_module.loads(text) if text.startswith("{") else None
    except ValueError:
        entry = None
    if not isinstance(entry, dict):
        return Text(clean(text))
    at = str(entry.pop("timestamp", None) or entry.pop("asctime", ""))
    level = str(entry.pop("level", None) or entry.pop("levelname", "")).lower()
    what = str(entry.pop("event", None) or entry.pop("message", ""))
    facts = " ".join(f"{name}={value}" for name, value in entry.items() if name not in UNTOLD and value is not None)
    clock = at[11:19] if len(at) >= 19 else at
    line = Text.assemble((clock, "dim"), f" {level:<7} ", clean(what))
    line.stylize(LEVEL_STYLES.get(level, ""), len(clock) + 1, len(clock) + 1 + len(level))
    if facts:
        line.append(f"  {clean(facts)}", style="dim")
    return line


def _show_report(report: DoctorReport, screen: Screen) -> None:
    width = max(len(finding.check) for finding in report.findings)
    for finding in report.findings:
        mark, style = VERDICTS[finding.verdict.value]
        screen.out.print(
            Text.assemble((mark, style), f" {finding.check:<{width}}  {clean(finding.detail)}"), soft_wrap=True
        )
        if finding.fix:
            screen.out.print(Text.assemble(" " * (width + 4), ("→ ", style), clean(finding.fix)), soft_wrap=True)
    if report.listeners:
        rows = table("PORT", "ADDRESS", "PART", "PROCESS", "PID", "FROM OUTSIDE", right=("PORT", "PID"))
        for listener in sorted(report.listeners, key=lambda item: (not item.open_to_network, item.port)):
            rows.add_row(
                str(listener.port),
                listener.address,
                listener.part,
                clean(listener.process),
                str(listener.pid),
                _reach(listener),
            )
        screen.out.print()
        screen.print_table(rows)
    wrong = [finding for finding in report.findings if finding.verdict.value == "fail"]
    warned = [finding for finding in report.findings if finding.verdict.value == "warn"]
    screen.say(Text(f"\n{_count(wrong, 'thing')} to put right, {_count(warned, 'warning')}."))


def _reach(listener: Listener) -> Text:
    if not listener.open_to_network:
        return Text("no", style="dim")
    return (
        Text(f"yes: {clean(listener.guard)}") if listener.guard else Text("yes, without a guard", style="bold yellow")
    )


def _count(found: list[Finding], noun: str) -> str:
    return f"{len(found)} {noun}{'' if len(found) == 1 else 's'}"


def _status_json(found: PlatformStatus) -> dict[str, Any]:
    return {
        "home": str(found.home),
        "url": found.url,
        "dashboard_url": found.dashboard_url,
        "ready": found.ready,
        "memory_mib": round(found.memory_mib, 1),
        "parts": [
            {
                "name": part.name,
                "state": part.state.value,
                "detail": part.detail,
                "memory_mib": round(part.memory_mib, 1),
                "processes": [
                    {
                        "pid": process.pid,
                        "title": process.title,
                        "memory_mib": round(process.memory_mib, 1),
                        "ports": list(process.ports),
                    }
                    for process in part.processes
                ],
            }
            for part in found.parts
        ],
    }


def _line_json(line: LogLine) -> dict[str, Any]:
    at = line.at.isoformat() if line.at is not None else None
    return {"part": line.part, "file": line.file, "at": at, "text": line.text}


def _report_json(report: DoctorReport) -> dict[str, Any]:
    return {
        "home": str(report.home),
        "healthy": report.healthy,
        "findings": [
            {"check": item.check, "verdict": item.verdict.value, "detail": item.detail, "fix": item.fix}
            for item in report.findings
        ],
        "listeners": [
            {
                "part": item.part,
                "process": item.process,
                "pid": item.pid,
                "address": item.address,
                "port": item.port,
                "open_to_network": item.open_to_network,
                "guard": item.guard,
            }
            for item in report.listeners
        ],
    }

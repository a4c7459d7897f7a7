"""The commands about this machine: ``up, down, status, logs, doctor``. What they do is in ``tessera.local``."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import typer
from rich.text import Text

from tessera.cli.exits import ExitCode
from tessera.cli.options import JsonOption, QuietOption
from tessera.cli.screen import Screen, span, stderr_is_terminal, table

if TYPE_CHECKING:
    from collections.abc import Callable

    from tessera.cli.steps import StepView
    from tessera.local.platform import Platform, UpResult

Done = TypeVar("Done")


def register(app: typer.Typer, panel: str) -> None:
    """Add the commands of this module."""
    app.command(
        "up",
        rich_help_panel=panel,
        epilog="""[bold]Environment[/bold]

TESSERA_HOME (data and logs; .tessera in a checkout) · TESSERA_PORT (8000) · DATABASE_URL (a Postgres of yours instead
of the embedded one) · RAY_ADDRESS (join that cluster) · TESSERA_CLUSTER (another cluster.toml)

[bold]Examples[/bold]

[cyan]tessera up[/cyan]

[cyan]TESSERA_PORT=9000 TESSERA_HOME=~/second tessera up[/cyan]   another one beside it""",
    )(up)
    app.command("down", rich_help_panel=panel)(down)


def up(json: JsonOption = False, quiet: QuietOption = False) -> None:
    """Start everything on this machine, prove it by a job, and leave it running. Safe to repeat at any time."""
    screen = Screen(json=json, quiet=quiet)
    hint = f"Interrupted. What runs already goes on: '{program()} up' continues, '{program()} down' ends it."
    done = _steps(screen, lambda platform, view: platform.up(view.on_step), hint)
    if json:
        from tessera.cli.steps import as_json

        screen.print_json(
            {
                "home": str(done.home),
                "url": done.url,
                "docs_url": done.docs_url,
                "dashboard_url": done.dashboard_url,
                **({"api_key": done.new_api_key} if done.new_api_key else {}),
                "credentials_file": str(done.credentials_file),
                "duration_s": round(done.duration_s, 3),
                "steps": [as_json(step) for step in done.steps],
            }
        )
        return
    _tell_up(done, screen)


def down(json: JsonOption = False, quiet: QuietOption = False) -> None:
    """End what 'up' started, and only that. All data stays."""
    screen = Screen(json=json, quiet=quiet)
    hint = f"Interrupted. '{program()} down' goes on."
    done = _steps(screen, lambda platform, view: platform.down(view.on_step), hint)
    if json:
        from tessera.cli.steps import as_json

        screen.print_json(
            {
                "home": str(done.home),
                "duration_s": round(done.duration_s, 3),
                "steps": [as_json(step) for step in done.steps],
            }
        )
        return
    screen.say(
        Text(f"Down in {span(done.duration_s)}. The data stays in {shown(done.home)}; '{program()} up' finds it.")
    )


def find_platform() -> Platform:
    """The platform of this TESSERA_HOME."""
    from tessera.config import find_home
    from tessera.local.platform import Platform

    return Platform(find_home(os.environ, Path.cwd()), os.environ)


def _steps(screen: Screen, work: Callable[[Platform, StepView], Done], interrupted: str) -> Done:
    """Run ``work`` with its steps shown. Leaves the command when it fails or is interrupted."""
    from tessera.cli.steps import StepView, as_json, tell_failed_step
    from tessera.local.steps import StepFailed

    platform = find_platform()
    try:
        with StepView(screen) as view:
            return work(platform, view)
    except StepFailed as error:
        if screen.json:
            step = as_json(error.step)
            details = {"step": step, "log_tail": error.log_tail, "fix": error.fix}
            screen.print_json({"error": {"code": "step_failed", "message": error.message, **details}})
        else:
            if screen.quiet:
                screen.err.print(Text(f"✗ {error.step.title}"))
            tell_failed_step(error, screen.err)
        raise typer.Exit(ExitCode.FAILED) from error
    except KeyboardInterrupt:
        if screen.json:
            screen.print_json({"error": {"code": "interrupted", "message": interrupted}})
        else:
            screen.err.print(Text(f"\n{interrupted}" if stderr_is_terminal() else interrupted))
        raise typer.Exit(ExitCode.INTERRUPTED) from None


def _tell_up(done: UpResult, screen: Screen) -> None:
    screen.say(Text.assemble(("\nTessera is up", "bold green"), f" in {span(done.duration_s)}.\n"))
    rows = table("", "")
    rows.show_header = False
    rows.add_row("API", Text(done.url, style="bold"))
    rows.add_row("API docs", done.docs_url)
    rows.add_row("Ray dashboard", done.dashboard_url)
    if done.new_api_key:
        rows.add_row("API key", Text.assemble((done.new_api_key, "bold"), ("  shown this once", "yellow")))
    rows.add_row("Its file", f"{shown(done.credentials_file)} (this command line reads it)")
    screen.print_table(rows)
    command = done.next_command.replace("tessera", program(), 1)
    screen.say(Text.assemble("\nNow try  ", (command, "cyan")))


def program() -> str:
    """How this command can be typed again: its name when it is on the PATH, else its path."""
    if shutil.which("tessera"):
        return "tessera"
    path = Path(sys.argv[0])
    return shown(path) if path.name == "tessera" else "tessera"


def shown(path: Path) -> str:
    """A path as it is shortest from here."""
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except (OSError, ValueError):
        return str(path)

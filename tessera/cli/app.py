"""The command line as a whole: which commands there are, and what every one of them ends with."""

from __future__ import annotations

import os
import signal
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup
from typer.main import get_command

from tessera.cli import (
    account,
    audit,
    batch,
    deliveries,
    generate,
    history,
    inspection,
    jobs,
    ledger,
    moderation,
    pauses,
    people,
    platform,
    queue,
    report,
    simulate,
    workers,
    workflows,
)
from tessera.cli.exits import EXIT_CODES_HELP, ExitCode, tell
from tessera.cli.screen import Screen

EPILOG = f"""[bold]Begin with[/bold]

[cyan]tessera up[/cyan]   start everything on this machine

[cyan]tessera generate image "a lighthouse in a storm, oil painting"[/cyan]   the first picture

[cyan]tessera --install-completion[/cyan]   Tab completes commands and options from then on

[bold]Server and key[/bold]: TESSERA_URL and TESSERA_API_KEY, else what 'tessera up' stored in TESSERA_HOME.

{EXIT_CODES_HELP}"""


class InOrder(TyperGroup):
    """Lists the command that most people come for first; typer would put groups last."""

    def list_commands(self, ctx: Any) -> list[str]:
        return sorted(self.commands, key=lambda name: name != "generate")


app = typer.Typer(
    name="tessera",
    cls=InOrder,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=EPILOG,
)

MAKE, WORK, ACCOUNT, PLATFORM = "Make something", "Jobs", "Account", "This machine"

app.add_typer(generate.app, name="generate", rich_help_panel=MAKE)
app.command("transcribe", rich_help_panel=MAKE, epilog=generate.TRANSCRIBE_EPILOG)(generate.transcribe)
batch.register(app, MAKE, PLATFORM)
jobs.register(app, WORK)
queue.register(app, WORK)
account.register(app, ACCOUNT)
people.register(app, ACCOUNT)
ledger.register(app, ACCOUNT)
platform.register(app, PLATFORM)
inspection.register(app, PLATFORM)
workers.register(app, PLATFORM)
pauses.register(app, PLATFORM)
moderation.register(app, PLATFORM)
deliveries.register(app, PLATFORM)
report.register(app, PLATFORM)
audit.register(app, PLATFORM)
simulate.register(app, PLATFORM)
workflows.register(app, PLATFORM)
history.register(app, PLATFORM)


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        typer.echo(f"tessera {version('tessera')}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool,
        typer.Option("--version", metavar="", callback=_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    """Pictures, clips, texts, transcripts, voices and music from your own machines."""


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit code. Never shows a traceback unless TESSERA_DEBUG=1."""
    argv = sys.argv[1:] if arguments is None else arguments
    screen = Screen(json=_asks_for_json(argv))
    debug = os.environ.get("TESSERA_DEBUG", "") not in {"", "0"}
    _prepare_streams()
    if arguments is None:
        # So that a terminated command gives the cursor back and removes its unfinished files.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        result: Any = get_command(app)(args=argv, prog_name="tessera", standalone_mode=False)
        sys.stdout.flush()
    except typer.TyperException as error:
        return _usage(error, screen)
    except (typer.Abort, KeyboardInterrupt):
        return ExitCode.INTERRUPTED
    except BrokenPipeError:
        # The reader has left (| head). Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.BROKEN_PIPE
    except Exception as error:  # noqa: BLE001 (the edge: whatever it is, it is told in one line)
        return tell(error, screen, debug=debug)
    return int(result) if isinstance(result, int) else ExitCode.OK


def _asks_for_json(argv: list[str]) -> bool:
    return "--json" in (argv[: argv.index("--")] if "--" in argv else argv)


def _usage(error: typer.TyperException, screen: Screen) -> int:
    message = error.format_message()
    if screen.json and message:
        screen.print_json({"error": {"code": "usage", "message": message}})
    elif message:
        from typer import rich_utils

        rich_utils.rich_format_error(error)  # type: ignore[arg-type]
    return error.exit_code


def _prepare_streams() -> None:
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="replace")  # a terminal without UTF-8 shows '?', never an error

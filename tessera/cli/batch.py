"""``tessera batch FILE --out DIR``, here or as a job of Ray, and ``tessera env``, which prepares a shell for that."""

from __future__ import annotations

import asyncio
import os
import shlex
import signal
import stat
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from tessera.cli.exits import CliError, ExitCode
from tessera.cli.jobs import KindChoice
from tessera.cli.options import JsonOption
from tessera.cli.screen import Screen

if TYPE_CHECKING:
    from tessera.client import Credentials
    from tessera.local.ray_job import JobLine

FOLDER_VARIABLE = "TESSERA_BATCH_FOLDER"  # of the one who submitted, set by the 'ray' that 'tessera env' puts first
PATIENCE_S = 600.0  # without an answer of the server, before a run of a batch gives up; it can be started again


def register(app: typer.Typer, make_panel: str, platform_panel: str) -> None:
    """Add the commands of this module."""
    app.command(
        "batch",
        rich_help_panel=make_panel,
        epilog="""[bold]Examples[/bold]

[cyan]tessera batch prompts.jsonl --out results/[/cyan]

[cyan]tessera batch pictures.csv --kind image --out pictures/[/cyan]

[cyan]eval "$(tessera env)"; ray job submit -- python -m tessera.batch prompts.jsonl --out results/[/cyan]

Run the same command again to go on: nothing is submitted twice.""",
    )(batch)
    app.command(
        "env",
        rich_help_panel=platform_panel,
        epilog="""[cyan]eval "$(tessera env)"[/cyan]   then 'ray job submit' works""",
    )(env)


def batch(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="JSONL of prompts, OpenAI's batch lines, or CSV.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Where the results go.")],
    kind: Annotated[
        KindChoice, typer.Option("--kind", metavar="KIND", help="Of lines that name none.")
    ] = KindChoice.TEXT,
    model: Annotated[str | None, typer.Option("--model", metavar="ID", help="Of lines that name none.")] = None,
    in_flight: Annotated[
        int | None, typer.Option("--in-flight", min=1, max=1000, metavar="N", help="Jobs at the same time.")
    ] = None,
    run: Annotated[str, typer.Option("--run", metavar="NAME", help="Another name makes all of it anew.")] = "",
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Submit lines that failed once more.")] = False,
    key_file: Annotated[
        Path | None, typer.Option("--key-file", metavar="PATH", help="A private file (0600) with the API key to use.")
    ] = None,
    json: JsonOption = False,
) -> int:
    """Work off a file of prompts on the batch tier, which never delays a person. Safe to repeat: it goes on.

    Results, files, errors and a summary go to --out. Relative paths start where the command was given, also under
    'ray job submit' (see 'tessera env').
    """
    from tessera.batch.journal import JournalError
    from tessera.batch.lines import BatchFileError, read_file
    from tessera.batch.runner import Options, Runner
    from tessera.client import Client, RetryPolicy
    from tessera.jobs import Kind

    screen = Screen(json=json)
    if run and not (run.isascii() and run.isprintable() and len(run) <= 40):
        raise CliError("--run must be a name of at most 40 plain characters. Nothing was submitted.")
    folder = working_folder(os.environ, Path.cwd())
    credentials = _credentials(key_file, folder)
    options = Options(out=_at(folder, out, "--out"), in_flight=in_flight, run=run, retry_failed=retry_failed)

    board = dashboard(os.environ)

    async def whole() -> dict[str, Any]:
        task = asyncio.current_task()
        assert task is not None
        # 'ray job stop' and a reboot send SIGTERM: what has come so far is written down before the end.
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        policy = RetryPolicy(attempts=10_000, total_wait_s=PATIENCE_S, cap_s=10.0)
        async with Client(credentials.url, credentials.api_key, retry=policy) as client:
            tell = board.tell if board is not None else lambda line: None
            return await Runner(client, read, options, say=lambda line: screen.say(Text(line)), tell=tell).run()

    try:
        read = read_file(_at(folder, file, "FILE"), kind=Kind(kind.value), model=model)
        totals = asyncio.run(whole())
    except (BatchFileError, JournalError) as error:
        raise CliError(str(error)) from error
    except asyncio.CancelledError:
        screen.say(Text("Ended before its time. Jobs in flight go on; the same command continues from here."))
        return 143
    finally:
        if board is not None:
            board.flush()
    if json:
        screen.print_json(totals)
    else:
        screen.say(_told(totals, options.out))
    return ExitCode.OK if totals["completed"] == totals["lines"] else ExitCode.FAILED


def _told(totals: Mapping[str, Any], out: Path) -> Text:
    good = totals["completed"] == totals["lines"]
    text = Text.assemble(("✓ " if good else "! ", "bold green" if good else "bold yellow"))
    text.append(f"{totals['completed']} of {totals['lines']} lines completed in {totals['seconds']:g} s,")
    text.append(f" {totals['charged_tokens']:g} tokens charged. Results: {out}")
    if not good:
        text.append(
            f"\n  {totals['failed']} failed, {totals['refused']} refused: see errors.jsonl there. Failed jobs were"
        )
        text.append(" refunded; --retry-failed submits these lines once more.")
    return text


def working_folder(environ: Mapping[str, str], cwd: Path) -> Path | None:
    """Where relative paths start; None inside a job of Ray that does not know where it was submitted."""
    named = environ.get(FOLDER_VARIABLE)
    if named:
        return Path(named)
    inside = "RAY_JOB_CONFIG_JSON_ENV_VAR" in environ
    # Without --working-dir a job starts in the folder of the cluster, which is nobody's.
    if inside and environ.get("TESSERA_HOME") and cwd == Path(environ["TESSERA_HOME"]):
        return None
    return cwd


def _at(folder: Path | None, path: Path, what: str) -> Path:
    path = path.expanduser()
    if path.is_absolute():
        return path
    if folder is None:
        raise CliError(
            f"{what} is '{path}', and this job does not know in which folder it was submitted. Nothing was submitted;"
            ' run eval "$(tessera env)" in the shell that submits, or give absolute paths.'
        )
    return folder / path


def _credentials(key_file: Path | None, folder: Path | None) -> Credentials:
    from tessera.client import Credentials, find_credentials

    found = find_credentials(os.environ, Path.cwd())
    if key_file is None:
        return found
    path = _at(folder, key_file, "--key-file")
    try:
        mode, key = path.stat().st_mode, path.read_text(encoding="ascii").strip()
    except UnicodeDecodeError:
        raise CliError(f"{path} holds no API key. Nothing was submitted.") from None
    if stat.S_IMODE(mode) & 0o077:
        raise CliError(f"Others can read {path}. Nothing was submitted; 'chmod 600 {path}' first.")
    return Credentials(url=found.url, api_key=key, source=str(path))


def dashboard(environ: Mapping[str, str]) -> JobLine | None:
    """Tells a line to Ray's dashboard, where this runs as a job of Ray; else there is none."""
    if "RAY_JOB_CONFIG_JSON_ENV_VAR" not in environ:
        return None
    from tessera.local.ray_job import JobLine

    return JobLine(environ)


def env() -> None:
    """Print what a shell needs for 'ray job submit' to this platform: eval "$(tessera env)".

    PATH, RAY_API_SERVER_ADDRESS, RAY_AUTH_MODE and RAY_AUTH_TOKEN_PATH; no secret is printed.
    """
    from tessera.config import Settings
    from tessera.local.ray_job import shell_environment

    settings = Settings.from_environment()
    for name, value in shell_environment(settings, os.environ).items():
        sys.stdout.write(f"export {name}={shlex.quote(value)}\n")

"""Exit codes, and how a failure is told: to a person on stderr, to a script as one JSON document on stdout."""

from __future__ import annotations

import traceback
from enum import IntEnum
from typing import TYPE_CHECKING, Any

from rich.text import Text

from tessera.cli.screen import Screen, clean, span, stderr_is_terminal, tokens

if TYPE_CHECKING:
    from tessera.client import ApiError


class ExitCode(IntEnum):
    """What the command ends with; ``tessera --help`` lists them."""

    OK = 0
    FAILED = 1  # the job failed, expired or was cancelled, or something broke
    USAGE = 2  # the command line or the input is not valid, or there is no such thing
    UNREACHABLE = 3
    UNAUTHORISED = 4
    LIMIT = 5  # the quota, or a rate or queue limit
    INTERRUPTED = 130
    BROKEN_PIPE = 141


EXIT_CODES_HELP = """[bold]Exit codes[/bold]: 0 done · 1 the job failed or was cancelled · 2 wrong usage or input ·
3 the server cannot be reached · 4 not authorised · 5 quota or limit · 130 interrupted"""

_HINTS = {
    "unauthorized": "'tessera up' stores a key for this machine; TESSERA_API_KEY names another.",
    "forbidden": "'tessera keys list' shows what your keys may do.",
    "quota_exhausted": "'tessera usage' shows where they went, 'tessera plans' what other plans give.",
    "too_many_queued": "'tessera jobs --state queued' lists them, 'tessera cancel ID' removes one.",
    "unknown_model": "'tessera models' lists those that there are.",
    "unavailable": "'tessera status' shows what is not running.",
}


class CliError(Exception):
    """A failure that the CLI itself finds. ``code`` is for scripts."""

    def __init__(
        self, message: str, *, code: str = "usage", exit_code: ExitCode = ExitCode.USAGE, **details: Any
    ) -> None:
        self.message = message
        self.code = code
        self.exit_code = exit_code
        self.details = details
        super().__init__(message)


def api_exit_code(status: int) -> ExitCode:
    """The exit code for a refusal by the API."""
    if status in {401, 403}:
        return ExitCode.UNAUTHORISED
    if status in {402, 429}:
        return ExitCode.LIMIT
    if status in {502, 503, 504}:
        return ExitCode.UNREACHABLE
    return ExitCode.USAGE if status < 500 else ExitCode.FAILED


def tell(error: Exception, screen: Screen, *, debug: bool) -> ExitCode:
    """Tell a failure once, in the form that the screen wants, and return the code to leave with."""
    from tessera.client import ApiError, ClientError, ConnectionFailed
    from tessera.config import ConfigError
    from tessera.local.runtime import RuntimeFolderError

    if debug:
        traceback.print_exception(error)
    if isinstance(error, ApiError):
        exit_code, document, lines = api_exit_code(error.status), error.dump(), _api_lines(error)
    elif isinstance(error, ClientError):
        unreachable = isinstance(error, ConnectionFailed)
        exit_code = ExitCode.UNREACHABLE if unreachable else ExitCode.FAILED
        document = {"code": "unreachable" if unreachable else "client_error", "message": error.message}
        lines = [headline(error.message)]
    elif isinstance(error, CliError):
        exit_code, lines = error.exit_code, [headline(error.message)]
        document = {"code": error.code, "message": error.message, **error.details}
    elif isinstance(error, (ConfigError, RuntimeFolderError)):
        exit_code, document, lines = ExitCode.USAGE, {"code": "config", "message": str(error)}, [headline(str(error))]
    elif isinstance(error, OSError) and error.filename is not None:
        exit_code, message = ExitCode.USAGE, f"{error.filename}: {error.strerror}."
        document, lines = {"code": "file", "message": message}, [headline(message)]
    else:
        exit_code, message = ExitCode.FAILED, f"{type(error).__name__}: {error}".rstrip(": ")
        hint = "This is a mistake in Tessera. Set TESSERA_DEBUG=1 for the details."
        document, lines = {"code": "bug", "message": message}, [headline(message), remark(hint)]
    if screen.json:
        screen.print_json({"error": document})
    else:
        for line in lines:
            screen.err.print(line, soft_wrap=not stderr_is_terminal())
    return exit_code


def _api_lines(error: ApiError) -> list[Text]:
    lines = [headline(error.message)]
    problems = error.details.get("errors")
    if isinstance(problems, list):
        for problem in problems:
            if isinstance(problem, dict):
                field, message = str(problem.get("field", "?")), str(problem.get("message", ""))
                # The sentence usually names them already.
                if message not in error.message:
                    lines.append(remark(f"{field}: {message}"))
    facts = [error.code]
    if error.retry_after_s is not None:
        facts.append(f"try again in {span(error.retry_after_s)}")
    if error.refunded_tokens is not None:
        facts.append(f"{tokens(error.refunded_tokens)} returned")
    if error.request_id:
        facts.append(str(error.request_id))
    lines.append(remark(" · ".join(facts)))
    if error.code in _HINTS:
        lines.append(remark(_HINTS[error.code]))
    return lines


def headline(message: str) -> Text:
    """The first line of a failure."""
    return Text.assemble(("✗ ", "bold red"), clean(message))


def remark(message: str) -> Text:
    """A line under it."""
    return Text("  " + clean(message), style="dim")

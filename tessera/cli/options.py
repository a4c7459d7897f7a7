"""The options that several commands share, said once."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Annotated

import typer

from tessera.cli.exits import CliError

JsonOption = Annotated[
    bool,
    typer.Option("--json", metavar="", help="Print exactly one JSON document on stdout, failures too."),
]
QuietOption = Annotated[
    bool,
    typer.Option("--quiet", "-q", metavar="", help="No progress and no remarks; failures are still told."),
]
OutOption = Annotated[
    str | None,
    typer.Option(
        "--out",
        "-o",
        metavar="FILE",
        help="Write here: a file (replaced if it is there), a folder, or '-' for stdout. "
        "By default a new file in this folder, named by the prompt.",
    ),
]
ForceOption = Annotated[
    bool,
    typer.Option(
        "--force",
        "-f",
        metavar="",
        help="Replace a file of the made-up name instead of adding a number.",
    ),
]
ModelOption = Annotated[
    str | None,
    typer.Option(
        "--model", "-m", metavar="MODEL", help="A model or alias of 'tessera models'; else the kind's default."
    ),
]
NoWaitOption = Annotated[bool, typer.Option("--no-wait", metavar="", help="Submit, print the job's id, and leave.")]
SeedOption = Annotated[
    int | None,
    typer.Option("--seed", metavar="N", min=0, help="The same seed and input give the same result."),
]


class TierChoice(StrEnum):
    PRO = "pro"
    STARTER = "starter"
    FREE = "free"
    BATCH = "batch"


TierOption = Annotated[
    TierChoice | None,
    typer.Option("--tier", help="'batch' for work that can wait and never delays a person; else your plan's."),
]


def parse_size(text: str | None) -> dict[str, int]:
    """``1024x768`` (or ``1024`` for a square) as width and height. Raises CliError."""
    if text is None:
        return {}
    match = re.fullmatch(r"\s*(\d{1,5})(?:\s*[x×X*:]\s*(\d{1,5}))?\s*", text)
    if match is None:
        raise CliError(f"--size is '{text}': write it as WIDTHxHEIGHT in pixels, like 1024x768.")
    width = int(match[1])
    return {"width": width, "height": int(match[2] or width)}


def given(**values: object) -> dict[str, object]:
    """The options that were given: the server's defaults stand for the rest."""
    return {name: value for name, value in values.items() if value not in (None, [], ())}

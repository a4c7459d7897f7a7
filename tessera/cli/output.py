"""Where results go: names that can be read, files that are whole or absent, nothing overwritten by surprise."""

from __future__ import annotations

import json
import mimetypes
import os
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tessera.cli.exits import CliError
from tessera.cli.screen import stdout_is_terminal
from tessera.subtitles import srt, vtt

if TYPE_CHECKING:
    from tessera.client import Artifact, Job

STDOUT = "-"
SLUG_CHARS = 40  # enough to recognise a prompt, short enough for a listing

_EXTENSIONS = {
    "image/png": ".png",
    "image/jpeg": ".jpg",
    "image/webp": ".webp",
    "video/mp4": ".mp4",
    "video/webm": ".webm",
    "audio/wav": ".wav",
    "audio/x-wav": ".wav",
    "audio/vnd.wave": ".wav",
    "audio/mpeg": ".mp3",
    "audio/ogg": ".ogg",
    "audio/opus": ".opus",
    "text/plain": ".txt",
}


class TextFormat(StrEnum):
    """How a text or a transcript is written."""

    TEXT = "text"
    SRT = "srt"
    VTT = "vtt"
    JSON = "json"


@dataclass(frozen=True, kw_only=True)
class Target:
    """Where a person wants the result. ``out``: None (a readable name here), '-', a folder, or a file."""

    out: str | None = None
    force: bool = False
    format: TextFormat = TextFormat.TEXT

    @property
    def to_stdout(self) -> bool:
        return self.out == STDOUT

    @property
    def folder(self) -> Path | None:
        """The folder in which names are made up, or None when ``out`` names the file."""
        if self.out is None:
            return Path()
        path = Path(self.out)
        return path if self.out.endswith(("/", os.sep)) or path.is_dir() else None


def check_target(target: Target, *, json_asked: bool, is_text: bool, count: int = 1) -> None:
    """Refuse a target that cannot work, before anything is submitted or charged; make the folder of ``--out FOLDER/``.

    Raises CliError.
    """
    if target.to_stdout:
        if json_asked:
            raise CliError("--json and '--out -' both want stdout: choose one. Nothing was submitted.")
        if count > 1 and not is_text:
            raise CliError("'--out -' takes one file: leave --count at 1, or name a folder. Nothing was submitted.")
        if not is_text and stdout_is_terminal():
            raise CliError("Refusing to fill the terminal with a binary file: use '--out FILE', or pipe it on.")
        return
    folder = target.folder
    parent = folder if folder is not None else Path(target.out or "").parent
    if folder is not None and not folder.exists():
        # A folder named as such is made; a file in a folder that is not there is more likely mistyped.
        folder.mkdir(parents=True)
    if not parent.is_dir():
        raise CliError(f"The folder {parent} does not exist: 'mkdir -p {parent}' makes it. Nothing was submitted.")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise CliError(f"The folder {parent} cannot be written to: choose another. Nothing was submitted.")


def slug(words: str) -> str:
    """The beginning of a prompt as a part of a file name."""
    flat = unicodedata.normalize("NFKD", words).encode("ascii", "ignore").decode().lower()
    parts = [part for part in re.split(r"[^a-z0-9]+", flat) if part]
    made = ""
    for part in parts:
        if made and len(made) + 1 + len(part) > SLUG_CHARS:
            break
        made = f"{made}-{part}" if made else part[:SLUG_CHARS]
    return made


def default_stem(words: str, job: Job) -> str:
    """``a-lighthouse-in-a-storm-01k8f3q2x7``: what it is, and the beginning of the job's id."""
    identifier = job.id.partition("_")[2] or job.id
    return f"{slug(words) or job.kind}-{re.sub(r'[^a-z0-9]', '', identifier)[:10]}"


def extension(media_type: str) -> str:
    """The usual ending for a media type, ``.bin`` when nothing is known."""
    plain = media_type.partition(";")[0].strip().lower()
    return _EXTENSIONS.get(plain) or mimetypes.guess_extension(plain) or ".bin"


def paths_for(target: Target, artifacts: Sequence[Artifact], *, stem: str) -> list[Path]:
    """The wanted path of each artifact; several are numbered."""
    several = len(artifacts) > 1
    folder = target.folder
    paths = []
    for index, artifact in enumerate(artifacts, start=1):
        suffix = f"-{index}" if several else ""
        if folder is not None:
            paths.append(folder / f"{stem}{suffix}{extension(artifact.media_type)}")
        else:
            path = Path(target.out or "")
            paths.append(path.with_name(f"{path.stem}{suffix}{path.suffix}") if several else path)
    return paths


def reserve(path: Path) -> Path:
    """Take ``path``, or the next free name like it, by making an empty file; nobody else's file is touched."""
    for number in range(1, 10_000):
        wanted = path if number == 1 else path.with_name(f"{path.stem}-{number}{path.suffix}")
        try:
            wanted.open("xb").close()
        except FileExistsError:
            continue
        return wanted
    raise CliError(f"There are too many files like {path}: name one with --out.")


def render_text(output: dict[str, Any], format: TextFormat) -> str:
    """A text or a transcript in the wanted format, with a line end at the end."""
    if format is TextFormat.JSON:
        return json.dumps(output, ensure_ascii=False, indent=2) + "\n"
    if format is TextFormat.TEXT:
        text = str(output.get("text") or "")
        return text if text.endswith("\n") or not text else text + "\n"
    segments = output.get("segments")
    found = [s for s in segments if isinstance(s, dict)] if isinstance(segments, list) else []
    return srt(found) if format is TextFormat.SRT else vtt(found)

"""The lines of a batch file: OpenAI's batch format, JSONL of prompts, or CSV. Pure, but for reading the file.

A line that cannot be understood is kept with its error, so that it is in the error file and costs nothing.
https://platform.openai.com/docs/api-reference/batch/request-input
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tessera.errors import InvalidInput
from tessera.inputs import FILE_FIELDS, parse_input
from tessera.jobs import Kind

MAX_FILE_BYTES = 200 << 20
MAX_LINES = 100_000
MAX_ID_CHARS = 512
# Names of a line that are not fields of the input.
_OWN = ("id", "custom_id", "kind", "model", "input", "metadata")
_TEXT_FIELD = {Kind.SPEECH: "text"}  # of the kinds that have no prompt


class BatchFileError(Exception):
    """The file cannot be used as a batch. Nothing was submitted; the message says what to correct."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line. ``number`` counts from 1 as an editor does; ``files`` are fields of the input that name a local file.

    ``error``: why it cannot be submitted. ``endpoint``: of OpenAI's format, which its result then has, too.
    """

    number: int
    digest: str
    custom_id: str
    kind: Kind | None = None
    model: str | None = None
    input: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, Path] = field(default_factory=dict)
    endpoint: str | None = None
    error: str | None = None


@dataclass(frozen=True, kw_only=True)
class BatchFile:
    """A whole file. ``sha256`` is of its bytes: the same content is the same batch, wherever it lies."""

    path: Path
    sha256: str
    lines: tuple[Line, ...]


def read_file(path: Path, *, kind: Kind = Kind.TEXT, model: str | None = None) -> BatchFile:
    """Read a batch file; ``kind`` and ``model`` are for lines that name none. Raises BatchFileError."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise BatchFileError(f"{path} cannot be read ({error.strerror}). Nothing was submitted.") from error
    if len(raw) > MAX_FILE_BYTES:
        raise BatchFileError(f"{path} is larger than {MAX_FILE_BYTES >> 20} MiB. Nothing was submitted; divide it.")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BatchFileError(
            f"{path} is not UTF-8 (byte {error.start}). Nothing was submitted; save it as UTF-8."
        ) from None
    read = _csv_rows if path.suffix.lower() in (".csv", ".tsv") else _json_rows
    rows = read(text, path)
    if not rows:
        raise BatchFileError(f"{path} has no lines. Nothing was submitted.")
    if len(rows) > MAX_LINES:
        raise BatchFileError(f"{path} has more than {MAX_LINES} lines. Nothing was submitted; divide it.")
    lines = tuple(_line(number, row, path, kind, model) for number, row in rows)
    seen: dict[str, int] = {}
    for line in lines:
        if line.custom_id in seen:
            raise BatchFileError(
                f"{path}: lines {seen[line.custom_id]} and {line.number} have the same id {line.custom_id!r}."
                " Nothing was submitted; give each line its own."
            )
        seen[line.custom_id] = line.number
    return BatchFile(path=path, sha256=hashlib.sha256(raw).hexdigest(), lines=lines)


def _json_rows(text: str, path: Path) -> list[tuple[int, Any]]:
    found: list[tuple[int, Any]] = []
    for number, one in enumerate(text.split("\n"), 1):
        if not one.strip():
            continue
        try:
            found.append((number, json.loads(one)))
        except ValueError as error:
            found.append((number, f"is not valid JSON: {error}"))
    return found


def _csv_rows(text: str, path: Path) -> list[tuple[int, Any]]:
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    found: list[tuple[int, Any]] = []
    try:
        for row in reader:
            if None in row:
                found.append((reader.line_num, "has more columns than the first line names"))
                continue
            given = {str(name).strip(): _csv_value(value) for name, value in row.items() if value not in (None, "")}
            found.append((reader.line_num, given))
    except csv.Error as error:
        raise BatchFileError(f"{path}, line {reader.line_num}: {error}. Nothing was submitted.") from None
    return found


def _csv_value(value: str) -> Any:
    """A number where the whole cell is one, else the text: a column of widths needs no quotes."""
    for convert in (int, float):
        try:
            number = convert(value)
        except ValueError:
            continue
        return number if str(number) == value.strip() else value
    return {"true": True, "false": False}.get(value.strip().lower(), value)


def _line(number: int, row: Any, path: Path, kind: Kind, model: str | None) -> Line:
    digest = hashlib.sha256(json.dumps(row, sort_keys=True, ensure_ascii=False).encode("utf-8", "replace")).hexdigest()
    plain = Line(number=number, digest=digest, custom_id=f"line-{number}")
    if isinstance(row, str):
        return _wrong(plain, row)
    if not isinstance(row, dict):
        return _wrong(plain, "is no object: write {…}")
    custom = row.get("custom_id", row.get("id"))
    if custom is not None:
        if isinstance(custom, bool) or not isinstance(custom, str | int) or not 1 <= len(str(custom)) <= MAX_ID_CHARS:
            return _wrong(plain, f"has an id that is no text of at most {MAX_ID_CHARS} characters")
        plain = Line(number=number, digest=digest, custom_id=str(custom))
    try:
        if "url" in row and "body" in row:
            return _openai(plain, row, model)
        return _own(plain, row, path, kind, model)
    except InvalidInput as error:
        return _wrong(plain, error.message)


def _own(plain: Line, row: Mapping[str, Any], path: Path, kind: Kind, model: str | None) -> Line:
    named = row.get("kind", kind)
    if named not in set(Kind):
        return _wrong(plain, f"has the kind {str(named)[:40]!r}; there are {', '.join(Kind)}")
    chosen = Kind(named)
    given = row.get("input")
    if given is None:
        given = {name: value for name, value in row.items() if name not in _OWN}
        text_field = _TEXT_FIELD.get(chosen)
        if text_field is not None and "prompt" in given and text_field not in given:
            given[text_field] = given.pop("prompt")
    if not isinstance(given, dict):
        return _wrong(plain, "has an 'input' that is no object")
    chosen_model = row.get("model", model)
    if chosen_model is not None and not isinstance(chosen_model, str):
        return _wrong(plain, "has a 'model' that is no text")
    given, files = _files(given, path)
    # A file's id is known once it is uploaded; until then any text stands for it.
    checked = parse_input(chosen, {**given, **dict.fromkeys(files, "upl_later")})
    wanted = {
        name: value for name, value in checked.model_dump(mode="json", exclude_unset=True).items() if name not in files
    }
    return Line(
        number=plain.number,
        digest=plain.digest,
        custom_id=plain.custom_id,
        kind=chosen,
        model=chosen_model,
        input=wanted,
        files=files,
    )


def _files(given: Mapping[str, Any], path: Path) -> tuple[dict[str, Any], dict[str, Path]]:
    """The fields that name a file beside the batch file, apart from the rest."""
    kept, files = dict(given), {}
    for name in FILE_FIELDS:
        value = kept.get(name)
        if isinstance(value, str) and not value.startswith(("upl_", "art_")):
            files[name] = (path.parent / value).resolve()
            del kept[name]
    return kept, files


def _openai(plain: Line, row: Mapping[str, Any], model: str | None) -> Line:
    url, body = row["url"], row["body"]
    if not isinstance(body, dict):
        return _wrong(plain, "has a 'body' that is no object")
    read = OPENAI.get(url if isinstance(url, str) else "")
    if read is None or str(row.get("method", "POST")).upper() != "POST":
        return _wrong(plain, f"asks for {str(url)[:60]!r}; a batch can POST to {', '.join(OPENAI)}")
    kind, given = read(body)
    checked = parse_input(kind, {name: value for name, value in given.items() if value is not None})
    named = body.get("model", model)
    return Line(
        number=plain.number,
        digest=plain.digest,
        custom_id=plain.custom_id,
        kind=kind,
        model=named if isinstance(named, str) else None,
        input=checked.model_dump(mode="json", exclude_unset=True),
        endpoint=str(url),
    )


def _chat(body: Mapping[str, Any]) -> tuple[Kind, dict[str, Any]]:
    messages = body.get("messages")
    if isinstance(messages, list):
        messages = [_message(one) for one in messages]
    most = body.get("max_completion_tokens", body.get("max_tokens"))
    return Kind.TEXT, {"messages": messages, "max_tokens": most, **_sampling(body)}


def _message(message: Any) -> Any:
    """A message whose content is a list of parts, as one text."""
    if not isinstance(message, dict):
        return message
    role = {"developer": "system"}.get(message.get("role", ""), message.get("role"))
    content = message.get("content")
    if isinstance(content, list):
        content = "\n".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return {"role": role, "content": content}


def _completion(body: Mapping[str, Any]) -> tuple[Kind, dict[str, Any]]:
    return Kind.TEXT, {"prompt": body.get("prompt"), "max_tokens": body.get("max_tokens"), **_sampling(body)}


def _sampling(body: Mapping[str, Any]) -> dict[str, Any]:
    stop = body.get("stop")
    return {
        **{name: body.get(name) for name in ("temperature", "top_p", "seed")},
        "stop": [stop] if isinstance(stop, str) else stop,
    }


def _image(body: Mapping[str, Any]) -> tuple[Kind, dict[str, Any]]:
    width, height = _size(body.get("size"))
    return Kind.IMAGE, {
        "prompt": body.get("prompt"),
        "count": body.get("n"),
        "width": width,
        "height": height,
        "seed": body.get("seed"),
    }


def _speech(body: Mapping[str, Any]) -> tuple[Kind, dict[str, Any]]:
    return Kind.SPEECH, {
        "text": body.get("input"),
        "voice": body.get("voice"),
        "speed": body.get("speed"),
        "format": body.get("response_format"),
    }


def _size(value: Any) -> tuple[Any, Any]:
    if value in (None, "auto"):
        return None, None
    width, _, height = str(value).partition("x")
    return (int(width), int(height)) if width.isdigit() and height.isdigit() else (value, value)


OPENAI = {
    "/v1/chat/completions": _chat,
    "/v1/completions": _completion,
    "/v1/images/generations": _image,
    "/v1/audio/speech": _speech,
}


def _wrong(line: Line, why: str) -> Line:
    return Line(number=line.number, digest=line.digest, custom_id=line.custom_id, error=why)

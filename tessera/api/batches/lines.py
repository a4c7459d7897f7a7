"""The lines of a batch's file: read piece by piece, checked as a whole before it begins, and each turned into a wish.

Two shapes. Native: the body of ``POST /v1/jobs`` with a ``custom_id`` beside it. OpenAI's: ``{custom_id, method, url,
body}``, https://platform.openai.com/docs/guides/batch. No more than one piece of a file is ever in memory.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Any

import orjson

from tessera.api.deliveries.fields import read_webhook
from tessera.api.jobs.submissions import Wanted, read_submission, refuse
from tessera.api.openai.chat import chat_wanted
from tessera.api.openai.completions import completion_wanted
from tessera.api.openai.images import image_wanted
from tessera.api.services import Services
from tessera.artifacts import ArtifactStore

MAX_LINES = 50_000  # OpenAI's own
MAX_LINE_BYTES = 2 << 20  # as any body of a submission
MAX_CUSTOM_ID_CHARS = 256
MAX_PROBLEMS = 100  # told of one file
_BOM = b"\xef\xbb\xbf"


class Shape(StrEnum):
    """What the lines of a batch look like, and what comes out."""

    NATIVE = "native"
    OPENAI = "openai"


class Endpoint(StrEnum):
    """What a batch of OpenAI's shape may ask for."""

    CHAT = "/v1/chat/completions"
    COMPLETIONS = "/v1/completions"
    IMAGES = "/v1/images/generations"


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """A line that is not blank: its number in the file from 1, its bytes, and where the next one begins."""

    number: int
    raw: bytes
    end_byte: int


@dataclass(frozen=True, kw_only=True, slots=True)
class LineWish:
    """What a line asks for. ``options``: what of OpenAI's request is of its answer, and not of the job."""

    wanted: Wanted
    options: Mapping[str, Any] | None = None
    webhook: Mapping[str, Any] | None = None


@dataclass(frozen=True, kw_only=True)
class Checked:
    """A file that was looked through: how many lines ask for something, and what is wrong: {code, line, message,
    param}."""

    total: int
    problems: list[dict[str, Any]]


async def read_lines(
    store: ArtifactStore, sha256: str, size: int, *, number: int = 0, byte: int = 0
) -> AsyncGenerator[Line]:
    """The lines that are not blank, after the first ``number``, which end at ``byte``.

    One that is too long comes cut off after MAX_LINE_BYTES + 1. Raises NotFound where the file is gone.
    """
    rest = bytearray()
    skipped = 0  # of a line that is too long
    async with aclosing(store.stream(sha256, byte, size)) as pieces:
        async for piece in pieces:
            start = 0
            while (at := piece.find(b"\n", start)) >= 0:
                rest += piece[start:at]
                number, byte = number + 1, byte + len(rest) + skipped + 1
                if rest.strip():
                    yield Line(number=number, raw=bytes(rest), end_byte=byte)
                rest.clear()
                skipped, start = 0, at + 1
            rest += piece[start:]
            if len(rest) > MAX_LINE_BYTES + 1:
                skipped += len(rest) - MAX_LINE_BYTES - 1
                del rest[MAX_LINE_BYTES + 1 :]
    if rest.strip():
        yield Line(number=number + 1, raw=bytes(rest), end_byte=size)


async def check_file(
    store: ArtifactStore, sha256: str, size: int, shape: Shape, endpoint: str, *, max_lines: int = MAX_LINES
) -> Checked:
    """Look through a whole file: its lines must be objects with what their shape needs, and their custom_ids their own.

    What a line asks for is checked when its turn comes: then it is refused alone.
    """
    seen: set[str] = set()
    problems: list[dict[str, Any]] = []
    total = 0
    async with aclosing(read_lines(store, sha256, size)) as lines:
        async for line in lines:
            total += 1
            if total > max_lines:
                message = f"the file has more than {max_lines} lines: send it in parts"
                problems.append(_problem("too_many_lines", line.number, message, None))
                break
            problem = _check_line(line, shape, endpoint, seen)
            if problem is not None:
                problems.append(problem)
                if len(problems) >= MAX_PROBLEMS:
                    break
    if total == 0:
        problems.append(_problem("empty_file", None, "the file has no line that asks for something", None))
    return Checked(total=total, problems=problems)


def _check_line(line: Line, shape: Shape, endpoint: str, seen: set[str]) -> dict[str, Any] | None:
    number = line.number
    if len(line.raw) > MAX_LINE_BYTES:
        return _problem("line_too_long", number, f"the line has more than {MAX_LINE_BYTES >> 20} MiB", None)
    try:
        found = parsed(line)
    except orjson.JSONDecodeError as error:
        return _problem("invalid_json_line", number, f"the line is not valid JSON ({error.msg})", None)
    if not isinstance(found, dict):
        return _problem("invalid_json_line", number, "the line is valid JSON, but not an object", None)
    custom_id = found.get("custom_id")
    if custom_id is None and shape is Shape.OPENAI:
        return _problem("missing_required_parameter", number, "is missing", "custom_id")
    if custom_id is not None:
        if not isinstance(custom_id, str) or not 1 <= len(custom_id) <= MAX_CUSTOM_ID_CHARS or "\x00" in custom_id:
            what = f"must be a text of 1 to {MAX_CUSTOM_ID_CHARS} characters"
            return _problem("invalid_custom_id", number, what, "custom_id")
        if custom_id in seen:
            return _problem("duplicate_custom_id", number, f"{custom_id[:64]!r} was used before", "custom_id")
        seen.add(custom_id)
    if shape is Shape.OPENAI:
        if found.get("method") != "POST":
            return _problem("invalid_method", number, "must be POST", "method")
        if found.get("url") != endpoint:
            return _problem("mismatched_endpoint", number, f"must be {endpoint}, as that of the batch", "url")
        if not isinstance(found.get("body"), dict):
            return _problem("missing_required_parameter", number, "must be an object", "body")
    return None


def parsed(line: Line) -> Any:
    """The JSON of a line. Raises orjson.JSONDecodeError."""
    return orjson.loads(line.raw.removeprefix(_BOM) if line.number == 1 else line.raw)


def custom_id_of(line: Line) -> str:
    """The custom_id of a line of a file that was checked; empty without one."""
    return str(parsed(line).get("custom_id") or "")


def read_wish(services: Services, line: Line, shape: Shape, endpoint: str, now: datetime) -> LineWish:
    """What a line of a file that was checked asks for. Raises InvalidInput."""
    found = parsed(line)
    if shape is Shape.OPENAI:
        return _openai_wish(Endpoint(endpoint), found["body"])
    body = {name: value for name, value in found.items() if name != "custom_id"}
    if body.get("delivery") is not None:
        raise refuse("delivery", "cannot be used in a batch: its results come as a file")
    wish = read_submission(orjson.dumps(body), now)
    return LineWish(wanted=replace(wish, batch=True), webhook=read_webhook(wish.body, services.outbound))


def _openai_wish(endpoint: Endpoint, body: Mapping[str, Any]) -> LineWish:
    options: Mapping[str, Any] | None = None
    if endpoint is Endpoint.IMAGES:
        image, wish = image_wanted(body)
        options = {
            "response_format": "url" if image.as_url else "b64_json",
            "output_format": image.output_format,
            "output_compression": image.output_compression,
        }
    else:
        text, wish = chat_wanted(body) if endpoint is Endpoint.CHAT else completion_wanted(body)
        if text.stream:
            raise refuse("stream", "cannot be used in a batch: its results come as a file")
    return LineWish(wanted=replace(wish, batch=True), options=options)


def _problem(code: str, line: int | None, message: str, param: str | None) -> dict[str, Any]:
    return {"code": code, "line": line, "message": f"{param}: {message}" if param else message, "param": param}

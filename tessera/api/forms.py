"""A multipart body with fields and several files, the files written to disk as they arrive.

What it may hold is bounded: so many parts, so much text, so many bytes of files. https://www.rfc-editor.org/rfc/rfc7578
"""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from fastapi import Request
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from tessera.errors import InvalidInput, PayloadTooLarge, Unavailable

MAX_PARTS = 64
MAX_TEXT_BYTES = 1 << 20  # of all fields together: prompts are far shorter
FLUSH_BYTES = 1 << 20  # what is gathered before a thread writes it
_NOTHING = "Nothing was stored, submitted or charged"


@dataclass(frozen=True, kw_only=True)
class FormFile:
    """A file of a form, on disk while the form lasts. ``filename`` is what its sender calls it, not to be trusted."""

    filename: str
    path: Path
    size: int


@dataclass(frozen=True)
class Form:
    """``fields`` and ``files`` by name; a name ending in ``[]``, as PHP and OpenAI write lists, stands without it."""

    fields: dict[str, list[str]] = field(default_factory=dict)
    files: dict[str, list[FormFile]] = field(default_factory=dict)

    def data(self, lists: Collection[str] = ()) -> dict[str, object]:
        """The fields as a JSON object would have them: one text each, a list for those of ``lists``."""
        return {name: values if name in lists else values[-1] for name, values in self.fields.items()}

    def file(self, name: str) -> FormFile:
        """The one file of this name. Raises InvalidInput when there is none or more than one."""
        found = self.files.get(name, [])
        if len(found) != 1:
            what = "is missing: send it as a file" if not found else "can be one file only here"
            raise InvalidInput(f"{_NOTHING}. {name}: {what}", errors=[{"field": name, "message": what}])
        return found[0]


@contextlib.asynccontextmanager
async def received_form(request: Request, *, files: Collection[str], max_bytes: int) -> AsyncIterator[Form]:
    """The form in the body, its files on disk while the context lasts. ``files`` are the names that may be files.

    Raises InvalidInput when it is not multipart, malformed or has too many parts, PayloadTooLarge, or Unavailable when
    the disk is full.
    """
    kind, options = parse_options_header(request.headers.get("content-type"))
    boundary = options.get(b"boundary")
    if kind != b"multipart/form-data" or not boundary:
        raise InvalidInput(f"The body must be multipart/form-data, as curl -F NAME=VALUE sends it. {_NOTHING}.")
    with contextlib.ExitStack() as stack:
        reader = _Reader(stack, files, max_bytes)
        try:
            parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": reader.begin,
                    "on_header_field": reader.header_field,
                    "on_header_value": reader.header_value,
                    "on_header_end": reader.header_end,
                    "on_headers_finished": reader.headers_finished,
                    "on_part_data": reader.data,
                    "on_part_end": reader.part_end,
                    "on_end": reader.end,
                },
            )
            async for piece in request.stream():
                parser.write(piece)
                if reader.buffered >= FLUSH_BYTES:
                    await asyncio.to_thread(reader.flush)
            parser.finalize()
            await asyncio.to_thread(reader.flush)
        except FormParserError as error:
            raise InvalidInput(f"The multipart body is malformed. {_NOTHING}.") from error
        except OSError as error:
            raise Unavailable(f"There is no room for the file at the moment. {_NOTHING}; try again later.") from error
        if not reader.complete:
            raise InvalidInput(f"The multipart body ends too early. {_NOTHING}.")
        yield reader.form()


def _temporary_file() -> contextlib.AbstractContextManager[IO[bytes]]:
    return tempfile.NamedTemporaryFile(prefix="tessera-form-")


@dataclass(kw_only=True)
class _Part:
    name: str
    filename: str
    file: IO[bytes] | None
    size: int = 0
    buffer: bytearray = field(default_factory=bytearray)


class _Reader:
    """Gathers the parts: text in memory, files on disk."""

    def __init__(self, stack: contextlib.ExitStack, files: Collection[str], max_bytes: int) -> None:
        self._stack = stack
        self._files = files
        self._max_bytes = max_bytes
        self._parts: list[_Part] = []
        self._header = bytearray(), bytearray()
        self._disposition = b""
        self._text_bytes = 0
        self._file_bytes = 0
        self.complete = False

    @property
    def buffered(self) -> int:
        return len(self._parts[-1].buffer) if self._parts and self._parts[-1].file else 0

    def begin(self) -> None:
        if len(self._parts) >= MAX_PARTS:
            raise InvalidInput(f"The form has more than {MAX_PARTS} parts. {_NOTHING}.")
        self._disposition = b""
        self._header = bytearray(), bytearray()

    def header_field(self, data: bytes, start: int, end: int) -> None:
        self._header[0].extend(data[start:end])

    def header_value(self, data: bytes, start: int, end: int) -> None:
        self._header[1].extend(data[start:end])

    def header_end(self) -> None:
        if bytes(self._header[0]).lower() == b"content-disposition":
            self._disposition = bytes(self._header[1])
        self._header = bytearray(), bytearray()

    def headers_finished(self) -> None:
        _, options = parse_options_header(self._disposition)
        name = options.get(b"name", b"").decode("utf-8", "replace").removesuffix("[]")
        part = _Part(name=name, filename=options.get(b"filename", b"").decode("utf-8", "replace"), file=None)
        if b"filename" in options:
            if name not in self._files:
                shown = name[:64]
                problem = {"field": shown, "message": "is not a file here"}
                raise InvalidInput(f"{_NOTHING}. {shown}: is not a file here", errors=[problem])
            # In the folder for temporary files of the machine; a crash leaves nothing, for it loses its name with us.
            part.file = self._stack.enter_context(_temporary_file())
        self._parts.append(part)

    def data(self, data: bytes, start: int, end: int) -> None:
        part, size = self._parts[-1], end - start
        part.size += size
        if part.file is None:
            self._text_bytes += size
            if self._text_bytes > MAX_TEXT_BYTES:
                raise PayloadTooLarge(f"The form's fields hold more than {MAX_TEXT_BYTES >> 20} MiB. {_NOTHING}.")
        else:
            self._file_bytes += size
            if self._file_bytes > self._max_bytes:
                raise PayloadTooLarge(
                    f"The form's files are larger than the {self._max_bytes >> 20} MiB of this route. {_NOTHING}.",
                    limit_bytes=self._max_bytes,
                )
        part.buffer += data[start:end]

    def part_end(self) -> None:
        if self._parts[-1].file is not None:
            self.flush()

    def end(self) -> None:
        self.complete = True

    def flush(self) -> None:
        """Write what is gathered of the part that is being read, if it is a file."""
        if self._parts and (file := self._parts[-1].file) is not None:
            file.write(self._parts[-1].buffer)
            file.flush()
            self._parts[-1].buffer.clear()

    def form(self) -> Form:
        form = Form()
        for part in self._parts:
            if part.file is not None:
                file = FormFile(filename=part.filename or part.name, path=Path(part.file.name), size=part.size)
                form.files.setdefault(part.name, []).append(file)
            else:
                text = bytes(part.buffer).decode("utf-8", "replace")
                form.fields.setdefault(part.name, []).append(text)
        return form

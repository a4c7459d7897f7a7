"""One file out of a multipart body, written to disk as it arrives. https://www.rfc-editor.org/rfc/rfc7578

Nothing of the body but the wanted part is kept, and no more of it than one piece is in memory.
"""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import IO

from fastapi import Request
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from tessera.errors import InvalidInput, PayloadTooLarge, Unavailable

FLUSH_BYTES = 1 << 20  # what is gathered before a thread writes it
_ASK = "Nothing was stored; send it as multipart/form-data, as curl -F file=@NAME does."


@contextlib.asynccontextmanager
async def received_file(request: Request, field: str, max_bytes: int) -> AsyncIterator[tuple[Path, int]]:
    """The path and size of the part ``field``, on disk while the context lasts.

    Raises InvalidInput when it is missing, not multipart or malformed, PayloadTooLarge, or Unavailable when the disk is
    full.
    """
    kind, options = parse_options_header(request.headers.get("content-type"))
    boundary = options.get(b"boundary")
    if kind != b"multipart/form-data" or not boundary:
        raise InvalidInput(f"The file is missing. {_ASK}", errors=[{"field": field, "message": "is missing"}])
    # In the folder for temporary files of the machine; a crash leaves nothing, for the file loses its name with us.
    with tempfile.NamedTemporaryFile(prefix="tessera-upload-") as file:
        part = _Part(field, file, max_bytes)
        try:
            parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": part.begin,
                    "on_header_field": part.header_field,
                    "on_header_value": part.header_value,
                    "on_header_end": part.header_end,
                    "on_headers_finished": part.headers_finished,
                    "on_part_data": part.data,
                    "on_end": part.end,
                },
            )
            async for piece in request.stream():
                parser.write(piece)
                if len(part.buffer) >= FLUSH_BYTES:
                    await asyncio.to_thread(part.flush)
            parser.finalize()
            await asyncio.to_thread(part.flush)
        except FormParserError as error:
            raise InvalidInput(f"The multipart body is malformed. {_ASK}") from error
        except OSError as error:
            raise Unavailable(
                "There is no room for the file at the moment. Nothing was stored; try again later."
            ) from error
        if not part.complete:
            raise InvalidInput(f"The multipart body ends too early. {_ASK}")
        if not part.found:
            raise InvalidInput(
                f"The field {field!r} is missing. {_ASK}", errors=[{"field": field, "message": "is missing"}]
            )
        yield Path(file.name), part.size


class _Part:
    """Keeps the data of one part of the body and lets the others go by."""

    def __init__(self, field: str, file: IO[bytes], max_bytes: int) -> None:
        self._field = field.encode()
        self._file = file
        self._max_bytes = max_bytes
        self._wanted = False
        self._header = bytearray(), bytearray()
        self._disposition = b""
        self.buffer = bytearray()
        self.size = 0
        self.found = False
        self.complete = False

    def begin(self) -> None:
        self._wanted = False
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
        self._wanted = options.get(b"name") == self._field and not self.found
        self.found = self.found or self._wanted

    def data(self, data: bytes, start: int, end: int) -> None:
        if not self._wanted:
            return
        self.size += end - start
        if self.size > self._max_bytes:
            raise PayloadTooLarge(
                f"The file is larger than the {self._max_bytes >> 20} MiB that an upload may have. Nothing was stored.",
                limit_bytes=self._max_bytes,
            )
        self.buffer += data[start:end]

    def end(self) -> None:
        self.complete = True

    def flush(self) -> None:
        self._file.write(self.buffer)
        self._file.flush()
        self.buffer.clear()

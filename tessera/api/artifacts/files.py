"""A stored file as an HTTP answer: whole, in ranges, or not at all when the client has it already.

https://www.rfc-editor.org/rfc/rfc9110#name-conditional-requests and #name-range-requests. Media types are those that we
know and nothing else: whatever a row says, no browser is ever told that a file of ours is a page or a script.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from datetime import UTC, datetime
from email.utils import format_datetime, parsedate_to_datetime

from fastapi import Request, Response
from starlette.types import Receive, Scope, Send

from tessera.api.context import SCOPE_KEY
from tessera.api.services import Services
from tessera.errors import Gone, NotFound, RangeNotSatisfiable, Withheld
from tessera.media.inspecting import EXTENSIONS, extension, thumbnail_type
from tessera.store.database import Row

OWN_CACHE = "private, max-age=86400"  # the bytes under an id never change
SHARED_CACHE = "private, no-cache"  # asked for each time, so that what was deleted or withheld is gone at once
UNKNOWN_TYPE = "application/octet-stream"
BYTES = {"*/*": {"schema": {"type": "string", "format": "binary"}}}

_RANGE = re.compile(r"bytes=(\d*)-(\d*)")
_SHOWN_INLINE = ("image/", "audio/", "video/")


def file_of(services: Services, request: Request, row: Row, name: str, cache: str = OWN_CACHE) -> Response:
    """The file of an artifact's row. ``name`` is its id, of which the name for saving is made."""
    media_type = served_type(row["media_type"])
    named = f"{row['kind']}-{name[-10:]}-{row['index'] + 1}.{extension(media_type)}"
    return _answer(services, request, row["sha256"], row["bytes"], media_type, named, row["created_at"], cache)


async def thumbnail_of(services: Services, request: Request, row: Row, cache: str = OWN_CACHE) -> Response:
    """The small picture of an artifact's row. Raises NotFound for what has none."""
    sha256 = row["thumbnail_sha256"]
    if sha256 is None:
        raise NotFound("This artifact has no thumbnail: only pictures and videos have one.")
    try:
        data = await services.artifacts.get(sha256)
    except NotFound:
        raise _lost() from None
    media_type = thumbnail_type(data)
    named = f"thumbnail.{extension(media_type)}"
    return _answer(services, request, sha256, len(data), media_type, named, row["created_at"], cache, data)


def check_there(row: Row) -> None:
    """Raises Withheld or Gone for a file that is not to be had any more."""
    if row["withheld_at"] is not None:
        raise Withheld
    if row["deleted_at"] is not None:
        raise Gone("This file was deleted, or its plan's retention ended. The job itself is still there.")


def served_type(media_type: str) -> str:
    """The media type that is told: a known one as it is, anything else as bytes."""
    known = media_type.partition(";")[0].strip().lower()
    return known if known in EXTENSIONS else UNKNOWN_TYPE


def _lost() -> Gone:
    return Gone("This file is no longer in the artifact store. Write to the operator if it should be.")


def _answer(
    services: Services,
    request: Request,
    sha256: str,
    size: int,
    media_type: str,
    name: str,
    made_at: datetime,
    cache: str,
    data: bytes | None = None,
) -> Response:
    """The whole file, a range of it, or 304."""
    etag = f'"{sha256[:32]}"'
    disposition = "inline" if media_type.startswith(_SHOWN_INLINE) else "attachment"
    headers = {
        "ETag": etag,
        "Last-Modified": format_datetime(made_at.astimezone(UTC), usegmt=True),
        "Accept-Ranges": "bytes",
        "Cache-Control": cache,
        "Content-Disposition": f'{disposition}; filename="{name}"',
        "X-Content-Type-Options": "nosniff",
        "Content-Security-Policy": "default-src 'none'; sandbox",
        "Cross-Origin-Resource-Policy": "same-origin" if cache == OWN_CACHE else "cross-origin",
    }
    if _has_it(request, etag, made_at):
        return Response(status_code=304, headers=headers)
    start, end = 0, size
    asked = request.headers.get("range")
    if asked is not None and _same(request.headers.get("if-range"), etag, made_at):
        found = parse_range(asked, size)
        if found is not None:
            start, end = found
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
    status = 206 if "Content-Range" in headers else 200
    headers["Content-Length"] = str(end - start)
    if data is not None:
        return Response(data[start:end], status, headers, media_type)
    return FileResponse(services.artifacts.stream(sha256, start, end), status, headers, media_type)


def parse_range(asked: str, size: int) -> tuple[int, int] | None:
    """The first byte and the one after the last of a single range; None when the whole file is the answer.

    Raises RangeNotSatisfiable. Several ranges, other units and nonsense are answered with the whole file, as the RFC
    allows.
    """
    match = _RANGE.fullmatch(asked.strip())
    if match is None or match[0] == "bytes=-" or max(len(match[1]), len(match[2])) > 18:
        return None
    if match[1] == "":
        start, end = max(0, size - int(match[2])), size
    else:
        start = int(match[1])
        end = min(size, int(match[2]) + 1) if match[2] else size
        if match[2] and int(match[2]) < start:
            return None
    if start >= end:
        raise RangeNotSatisfiable(f"The file has {size} bytes; {asked[:64]!r} lies outside of it.", bytes=size)
    return start, end


def _has_it(request: Request, etag: str, made_at: datetime) -> bool:
    """Whether the client's copy is the file: If-None-Match, compared weakly, else If-Modified-Since."""
    given = request.headers.get("if-none-match")
    if given is not None:
        tags = [tag.strip().removeprefix("W/") for tag in given.split(",")]
        return "*" in tags or etag in tags
    since = _date(request.headers.get("if-modified-since"))
    return since is not None and made_at.replace(microsecond=0) <= since


def _same(given: str | None, etag: str, made_at: datetime) -> bool:
    """Whether If-Range, where it is given, means the file: by its tag, compared strongly, or by exactly its time."""
    if given is None or given == etag:
        return True
    return not given.lstrip().startswith(('"', "W/")) and _date(given) == made_at.replace(microsecond=0)


def _date(text: str | None) -> datetime | None:
    """A time of HTTP, None for anything else."""
    if text is None:
        return None
    try:
        found = parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)


class FileResponse(Response):
    """Sends the pieces of a file. The first is read before the head is sent, so that a missing file is a problem."""

    def __init__(
        self, pieces: AsyncGenerator[bytes], status_code: int, headers: Mapping[str, str], media_type: str
    ) -> None:
        super().__init__(None, status_code, headers, media_type)
        self._pieces = pieces

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self._pieces) as pieces:
            try:
                first = await anext(pieces, b"")
            except NotFound:
                raise _lost() from None
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            if not scope[SCOPE_KEY].head:
                await send({"type": "http.response.body", "body": first, "more_body": True})
                async for piece in pieces:
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body", "body": b""})

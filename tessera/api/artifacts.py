"""The bytes of artifacts, in ranges, to their owner only. https://www.rfc-editor.org/rfc/rfc9110#name-range-requests"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from starlette.types import Receive, Scope, Send

from tessera.api import schemas
from tessera.api.auth import Caller, Reader
from tessera.api.context import SCOPE_KEY
from tessera.api.services import Services
from tessera.api.state import api_of
from tessera.artifacts import ArtifactStore
from tessera.errors import Gone, NotFound, RangeNotSatisfiable
from tessera.ids import Prefix, parse
from tessera.media import extension, thumbnail_type
from tessera.store.database import Row

router = APIRouter(tags=["artifacts"])

_RANGE = re.compile(r"bytes=(\d*)-(\d*)")
_SHOWN_INLINE = ("image/", "audio/", "video/")


@router.get(
    "/v1/artifacts/{artifact_id}",
    response_model=None,
    summary="The bytes of an artifact",
    responses={
        200: {"content": {"*/*": {"schema": {"type": "string", "format": "binary"}}}},
        206: {"description": "The asked range."},
        304: {"description": "You have it already (If-None-Match)."},
        **schemas.problems(401, 404, 410, 416, 422, 429, 503),
    },
)
async def get_artifact(
    request: Request,
    artifact_id: str,
    caller: Reader,
    thumbnail: Annotated[bool, Query(description="a small picture of it instead")] = False,
) -> Response:
    """The file with its media type. Takes `Range`, `If-Range` and `If-None-Match`."""
    services = api_of(request).services
    row = await _row(services, caller, artifact_id)
    if thumbnail:
        return await _thumbnail(services, request, row)
    name = f"{row['kind']}-{artifact_id[-10:]}-{row['index'] + 1}.{extension(row['media_type'])}"
    return _file(services.artifacts, request, row["sha256"], row["bytes"], row["media_type"], name)


@router.get(
    "/v1/artifacts/{artifact_id}/thumbnail",
    response_model=None,
    summary="A small picture of an artifact",
    responses={
        200: {"content": {"image/*": {"schema": {"type": "string", "format": "binary"}}}},
        **schemas.problems(401, 404, 410, 422, 429, 503),
    },
)
async def get_thumbnail(request: Request, artifact_id: str, caller: Reader) -> Response:
    """At most 512 pixels wide and high; of a video its first frame. 404 for what has no look."""
    services = api_of(request).services
    return await _thumbnail(services, request, await _row(services, caller, artifact_id))


async def _row(services: Services, caller: Caller, artifact_id: str) -> Row:
    row = await services.db.row("get_artifact", id=parse(Prefix.ARTIFACT, artifact_id), user_id=caller.user_id)
    if row is None:
        raise NotFound(f"There is no artifact {artifact_id[:64]!r} of yours.")
    if row["deleted_at"] is not None:
        raise Gone("This file was deleted, or its plan's retention ended. The job itself is still there.")
    return row


async def _thumbnail(services: Services, request: Request, row: Row) -> Response:
    sha256 = row["thumbnail_sha256"]
    if sha256 is None:
        raise NotFound("This artifact has no thumbnail: only pictures and videos have one.")
    try:
        data = await services.artifacts.get(sha256)
    except NotFound:
        raise _lost() from None
    return _file(services.artifacts, request, sha256, len(data), thumbnail_type(data), "thumbnail", data)


def _lost() -> Gone:
    return Gone("This file is no longer in the artifact store. Write to the operator if it should be.")


def _file(
    store: ArtifactStore,
    request: Request,
    sha256: str,
    size: int,
    media_type: str,
    name: str,
    data: bytes | None = None,
) -> Response:
    """The whole file, a range of it, or 304."""
    etag = f'"{sha256[:32]}"'
    disposition = "inline" if media_type.startswith(_SHOWN_INLINE) else "attachment"
    headers = {
        "ETag": etag,
        "Accept-Ranges": "bytes",
        "Cache-Control": "private, max-age=86400",
        "Content-Disposition": f'{disposition}; filename="{name}"',
        "X-Content-Type-Options": "nosniff",
        "Content-Security-Policy": "default-src 'none'; sandbox",
    }
    if _matches(request.headers.get("if-none-match"), etag):
        return Response(status_code=304, headers=headers)
    start, end = 0, size
    asked = request.headers.get("range")
    if asked is not None and request.headers.get("if-range", etag) == etag:
        found = parse_range(asked, size)
        if found is not None:
            start, end = found
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
    status = 206 if "Content-Range" in headers else 200
    headers["Content-Length"] = str(end - start)
    if data is not None:
        return Response(data[start:end], status, headers, media_type)
    return FileResponse(store.stream(sha256, start, end), status, headers, media_type)


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


def _matches(given: str | None, etag: str) -> bool:
    """If-None-Match, compared weakly as the RFC has it."""
    if given is None:
        return False
    tags = [tag.strip().removeprefix("W/") for tag in given.split(",")]
    return "*" in tags or etag in tags


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

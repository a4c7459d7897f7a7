"""Input files: pictures to start from, recordings to transcribe. Sent here, or fetched from an address of the web.

What is kept is never what came: ``normalising.py`` writes every file anew, without its metadata.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import tempfile
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

from fastapi import APIRouter, Request, Response

from tessera.api.auth import User
from tessera.api.jobs.answers import answer, upload_answer
from tessera.api.jobs.submissions import read_object, refuse, refuse_unknown
from tessera.api.middleware import MAX_UPLOAD_BYTES
from tessera.api.multipart import received_file
from tessera.api.schemas import base as schemas
from tessera.api.schemas import bodies
from tessera.api.state import Api, api_of
from tessera.errors import AddressRefused, InvalidInput, PayloadTooLarge, RateLimited, StorageFull, Unavailable
from tessera.ids import new_id
from tessera.media.normalising import normalise
from tessera.store.database import Row

router = APIRouter(tags=["uploads"])

LIFETIME_S = 24 * 3600.0
STORE_FULL_RETRY_S = 60.0
MAX_URL_BODY_BYTES = 16 << 10
FETCH_TIMEOUT_S = 60.0  # for all of it, redirects too: 100 MiB at 14 Mbit/s
MAX_REDIRECTS = 3
# Fetches at the same time in this replica: a server that answers slowly must not hold up those of others.
MAX_FETCHES, MAX_FETCHES_OF_USER = 32, 3
FETCH_RETRY_S = 5.0
FLUSH_BYTES = 1 << 20

_FULL = (errno.ENOSPC, errno.EDQUOT)


@router.post(
    "/v1/uploads",
    status_code=201,
    response_model=None,
    summary="Upload a file",
    responses={201: {"model": schemas.Upload}, **schemas.problems(400, 401, 408, 413, 415, 422, 429, 503)},
    openapi_extra={"requestBody": bodies.UPLOAD_BODY},
)
async def upload(request: Request, caller: User) -> Response:
    """A picture, recording or clip of at most 100 MiB (pictures 30 MiB and 50 million pixels, recordings 6 hours), as
    the field `file`; or `{"url": "https://…"}` as JSON, from where it is fetched, if that is on the public internet.

    Its type is found by its content. It is written anew: turned as its EXIF says and without any metadata. Its id can
    be used as `image`, `mask` or `upload` for 24 hours.
    """
    api = api_of(request)
    api.services.watermarks.check()
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() == "application/json":
        return answer(upload_answer(await _fetched(api, caller.user_id, await _url(request))), 201)
    async with received_file(request, "file", MAX_UPLOAD_BYTES) as (path, size):
        return answer(upload_answer(await keep_upload(api, caller.user_id, path, size)), 201)


async def keep_upload(api: Api, user_id: UUID, path: Path, size: int, field: str = "file") -> Row:
    """Make an upload of a user's file, written anew: its row. ``field`` is what the refusal of an empty one names.

    Raises InvalidInput, UnsupportedMedia, PayloadTooLarge, or Unavailable when the store is full.
    """
    services = api.services
    if size == 0:
        raise InvalidInput(
            f"The file is empty. Nothing was stored; send its bytes in the field '{field}'.",
            errors=[{"field": field, "message": "is empty"}],
        )
    with tempfile.NamedTemporaryFile(prefix="tessera-kept-") as file:
        kept = Path(file.name)
        try:
            async with api.media:
                found = (await asyncio.to_thread(normalise, path, kept)).media
            size = (await asyncio.to_thread(kept.stat)).st_size
            sha256 = await services.artifacts.put_file(kept)
        except StorageFull as error:
            raise Unavailable(
                "The artifact store is full, so the file cannot be stored. Nothing was stored; try again later.",
                retry_after_s=STORE_FULL_RETRY_S,
            ) from error
        except OSError as error:
            if error.errno not in _FULL:
                raise
            raise _no_room() from error
    row = await services.db.row(
        "insert_upload",
        id=new_id(),
        user_id=user_id,
        sha256=sha256,
        media_type=found.media_type,
        bytes=size,
        width=found.width,
        height=found.height,
        duration_s=found.duration_s,
        ttl_s=LIFETIME_S,
    )
    assert row is not None
    return row


async def _url(request: Request) -> str:
    """``url`` of a small JSON body. Raises BadRequest, InvalidInput, PayloadTooLarge."""
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > MAX_URL_BODY_BYTES:
            raise PayloadTooLarge(
                f"The JSON is larger than {MAX_URL_BODY_BYTES >> 10} KiB. Nothing was stored; a file itself is sent as"
                " multipart/form-data.",
                limit_bytes=MAX_URL_BODY_BYTES,
            )
    found = read_object(bytes(body))
    refuse_unknown(found, ("url",))
    url = found.get("url")
    if not isinstance(url, str) or not url:
        raise refuse("url", "must be an address that begins with https:// or http://")
    return url


async def _fetched(api: Api, user_id: UUID, url: str) -> Row:
    """An upload of what is at an address. Raises AddressRefused, FetchFailed, and what ``keep_upload`` raises."""
    outbound = api.services.outbound
    with _one_more(api, user_id), tempfile.NamedTemporaryFile(prefix="tessera-fetched-") as file:
        size, buffer = 0, bytearray()
        try:
            async with outbound.fetch(
                url, max_bytes=MAX_UPLOAD_BYTES, timeout_s=FETCH_TIMEOUT_S, max_redirects=MAX_REDIRECTS
            ) as found:
                async for chunk in found.chunks:
                    size += len(chunk)
                    buffer += chunk
                    if len(buffer) >= FLUSH_BYTES:
                        await asyncio.to_thread(file.write, bytes(buffer))
                        buffer.clear()
            await asyncio.to_thread(file.write, bytes(buffer))
            await asyncio.to_thread(file.flush)
        except AddressRefused as error:
            problem = {"field": "url", "message": error.message}
            raise AddressRefused(error.message, errors=[problem]) from error
        except OSError as error:
            raise _no_room() from error
        return await keep_upload(api, user_id, Path(file.name), size, "url")


@contextlib.contextmanager
def _one_more(api: Api, user_id: UUID) -> Iterator[None]:
    """Counts a fetch while it lasts. Raises RateLimited, or Unavailable when there are too many of everybody."""
    if api.fetches[user_id] >= MAX_FETCHES_OF_USER:
        raise RateLimited(
            f"{MAX_FETCHES_OF_USER} files are being fetched for you already. Nothing was stored; wait for one of them.",
            retry_after_s=FETCH_RETRY_S,
        )
    if api.fetches.total() >= MAX_FETCHES:
        raise Unavailable(
            "Very many files are being fetched at the moment. Nothing was stored; try again shortly.",
            retry_after_s=FETCH_RETRY_S,
        )
    api.fetches[user_id] += 1
    try:
        yield
    finally:
        api.fetches[user_id] -= 1
        if not api.fetches[user_id]:
            del api.fetches[user_id]


def _no_room() -> Unavailable:
    return Unavailable(
        "There is no room for the file at the moment. Nothing was stored; try again later.",
        retry_after_s=STORE_FULL_RETRY_S,
    )

"""Input files: pictures to start from, recordings to transcribe."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter, Request, Response

from tessera.api import schemas
from tessera.api.answers import answer, upload_answer
from tessera.api.auth import User
from tessera.api.middleware import MAX_UPLOAD_BYTES
from tessera.api.multipart import received_file
from tessera.api.state import api_of
from tessera.errors import InvalidInput, StorageFull, Unavailable
from tessera.ids import new_id
from tessera.media import inspect

router = APIRouter(tags=["uploads"])

LIFETIME_S = 24 * 3600.0
STORE_FULL_RETRY_S = 60.0


@router.post(
    "/v1/uploads",
    status_code=201,
    response_model=None,
    summary="Upload a file",
    responses={201: {"model": schemas.Upload}, **schemas.problems(401, 413, 415, 422, 429, 503)},
    openapi_extra={"requestBody": schemas.UPLOAD_BODY},
)
async def upload(request: Request, caller: User) -> Response:
    """A picture, recording or clip of at most 100 MiB (pictures 30 MiB and 50 million pixels), as the field `file`.

    Its type is found by its content. Its id can be used as `image`, `mask` or `upload` for 24 hours.
    """
    api = api_of(request)
    services = api.services
    services.watermarks.check()
    async with received_file(request, "file", MAX_UPLOAD_BYTES) as (path, size):
        if size == 0:
            raise InvalidInput(
                "The file is empty. Nothing was stored; send its bytes in the multipart field 'file'.",
                errors=[{"field": "file", "message": "is empty"}],
            )
        async with api.media:
            found = await asyncio.to_thread(inspect, path)
        try:
            sha256 = await services.artifacts.put_file(path)
        except StorageFull as error:
            raise Unavailable(
                "The artifact store is full, so the file cannot be stored. Nothing was stored; try again later.",
                retry_after_s=STORE_FULL_RETRY_S,
            ) from error
    row = await services.db.row(
        "insert_upload",
        id=new_id(),
        user_id=caller.user_id,
        sha256=sha256,
        media_type=found.media_type,
        bytes=size,
        width=found.width,
        height=found.height,
        duration_s=found.duration_s,
        ttl_s=LIFETIME_S,
    )
    assert row is not None
    return answer(upload_answer(row), 201)

"""``files``, as far as batches need them: https://platform.openai.com/docs/api-reference/files"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from fastapi import APIRouter, Query, Request, Response

from tessera.api.auth import Reader, User
from tessera.api.batches import making as batch_making
from tessera.api.batches.routes import file_response, stored
from tessera.api.forms import received_form
from tessera.api.jobs.answers import answer
from tessera.api.jobs.submissions import refuse
from tessera.api.middleware import MAX_UPLOAD_BYTES
from tessera.api.openai import schemas
from tessera.api.openai.bodies import Body
from tessera.api.state import api_of
from tessera.errors import Conflict, NotFound
from tessera.ids import Prefix, parse, show

router = APIRouter(tags=["openai"])


class FileBody(Body):
    """A file of a batch."""

    IGNORED: ClassVar[frozenset[str]] = frozenset({"expires_after", "expires_after[anchor]", "expires_after[seconds]"})

    purpose: Literal["batch"]


@router.post(
    "/openai/v1/files",
    response_model=None,
    summary="Upload the file of a batch",
    responses={
        200: schemas.answers(schemas.OpenAIFile, "Stored for 30 days.", schemas.FILE_EXAMPLE),
        **schemas.errors(400, 401, 403, 413, 429, 503),
    },
    openapi_extra={"requestBody": schemas.form(FileBody, "file", required=("file",))},
)
async def create(request: Request, caller: User) -> Response:
    """JSON Lines of at most 100 MiB, with `purpose` `batch`. Its lines are looked at when a batch is made of it."""
    services = api_of(request).services
    async with received_form(request, files=("file",), max_bytes=MAX_UPLOAD_BYTES) as form:
        FileBody.read(form.data())
        file = form.file("file")
        if file.size == 0:
            raise refuse("file", "is empty")
        sha256 = await stored(services, file.path)
    row = await batch_making.keep_file(services, caller.user_id, sha256, file.size, file.filename)
    return answer(file_answer(row))


@router.get(
    "/openai/v1/files",
    response_model=None,
    summary="List the files of batches",
    responses={
        200: schemas.answers(
            schemas.OpenAIFileList,
            "A page of them.",
            {"object": "list", "data": [schemas.FILE_EXAMPLE], "has_more": False},
        ),
        **schemas.errors(400, 401, 403, 429, 503),
    },
)
async def list_files(
    request: Request,
    caller: Reader,
    purpose: Annotated[str | None, Query(max_length=32, pattern=r"^[a-z0-9_-]+$")] = None,
    after: Annotated[str | None, Query(max_length=64, description="the id of the last one of the page before")] = None,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 100,
    order: Literal["asc", "desc"] = "desc",
) -> Response:
    """What was uploaded, and what batches have made."""
    services = api_of(request).services
    try:
        start = None if after is None else parse(Prefix.FILE, after)
    except NotFound:
        raise refuse("after", "is not the id of a file") from None
    rows = await services.db.rows(
        "list_batch_files",
        user_id=caller.user_id,
        purpose=purpose,
        after=start,
        ascending=order == "asc",
        limit=limit + 1,
    )
    data = [file_answer(row) for row in rows[:limit]]
    edges = {"first_id": data[0]["id"] if data else None, "last_id": data[-1]["id"] if data else None}
    return answer({"object": "list", "data": data, **edges, "has_more": len(rows) > limit})


@router.get(
    "/openai/v1/files/{file_id}",
    response_model=None,
    summary="A file of a batch",
    responses={
        200: schemas.answers(schemas.OpenAIFile, "The file.", schemas.FILE_EXAMPLE),
        **schemas.errors(401, 403, 404, 429, 503),
    },
)
async def retrieve(request: Request, file_id: str, caller: Reader) -> Response:
    """Its name, size and times."""
    return answer(file_answer(await batch_making.find_file(api_of(request).services, caller, file_id)))


@router.get(
    "/openai/v1/files/{file_id}/content",
    response_model=None,
    summary="The bytes of a file of a batch",
    responses={
        200: schemas.bytes_of("The file.", "application/jsonl"),
        **schemas.errors(401, 403, 404, 429, 503),
    },
)
async def content(request: Request, file_id: str, caller: Reader) -> Response:
    """JSON Lines."""
    services = api_of(request).services
    return file_response(services, await batch_making.find_file(services, caller, file_id))


@router.delete(
    "/openai/v1/files/{file_id}",
    response_model=None,
    summary="Delete a file of a batch",
    responses={
        200: schemas.answers(
            schemas.DeletedFile,
            "It is gone.",
            {"id": "file_01k0000000000000000000000c", "object": "file", "deleted": True},
        ),
        **schemas.errors(401, 403, 404, 409, 429, 503),
    },
)
async def delete(request: Request, file_id: str, caller: User) -> Response:
    """409 while a batch reads it: cancel that first."""
    services = api_of(request).services
    row = await batch_making.find_file(services, caller, file_id)
    if not await services.db.execute("delete_batch_file", id=row["id"], user_id=caller.user_id):
        raise Conflict("A batch that has not ended reads this file. Nothing was deleted; cancel the batch first.")
    return answer({"id": file_id, "object": "file", "deleted": True})


def file_answer(row: Mapping[str, Any]) -> dict[str, Any]:
    """A file."""
    return {
        "id": show(Prefix.FILE, row["id"]),
        "object": "file",
        "bytes": row["bytes"],
        "created_at": int(row["created_at"].timestamp()),
        "expires_at": int(row["expires_at"].timestamp()),
        "filename": row["filename"],
        "purpose": row["purpose"],
        "status": "processed",
        "status_details": None,
    }

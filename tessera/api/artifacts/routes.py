"""What jobs have made: the bytes, small pictures of them, links for others, an end. To their owner only.

Who has a link reads one file until the link's time is over (``shares.py``).
"""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from tessera.api.artifacts.files import BYTES, check_there, file_of, thumbnail_of
from tessera.api.artifacts.shares import read_expiry
from tessera.api.auth import Caller, Reader, User
from tessera.api.jobs.answers import answer, artifact_answer, page
from tessera.api.jobs.routes import read_cursor
from tessera.api.jobs.submissions import read_object, refuse_parameter, refuse_unknown
from tessera.api.schemas import artifacts as artifact_schemas
from tessera.api.schemas import base as schemas
from tessera.api.services import Services
from tessera.api.state import api_of
from tessera.errors import NotFound
from tessera.ids import Prefix, parse, show
from tessera.jobs import Kind
from tessera.share_links import sign
from tessera.store.database import Row

router = APIRouter(tags=["artifacts"])


@router.get(
    "/v1/artifacts",
    response_model=None,
    summary="List artifacts, the newest first",
    responses={200: {"model": artifact_schemas.OwnArtifactPage}, **schemas.problems(401, 403, 422, 429, 503)},
)
async def list_artifacts(
    request: Request,
    caller: Reader,
    kind: Annotated[Kind | None, Query(description="made by jobs of this kind")] = None,
    media: Annotated[artifact_schemas.MediaKind | None, Query(description="what it is")] = None,
    job_id: Annotated[str | None, Query(max_length=64, description="made by this job")] = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    cursor: Annotated[str | None, Query(max_length=64, description="`next_cursor` of the page before")] = None,
) -> Response:
    """What is still there of all that the user's jobs have made. Filters go together."""
    job = None
    if job_id is not None:
        try:
            job = parse(Prefix.JOB, job_id)
        except NotFound:
            raise refuse_parameter("job_id", "is not the id of a job, like job_01k…") from None
    rows = await api_of(request).services.db.rows(
        "list_artifacts",
        user_id=caller.user_id,
        before=read_cursor(Prefix.ARTIFACT, cursor),
        kind=kind.value if kind is not None else None,
        media=media,
        job_id=job,
        limit=limit + 1,
    )
    data = [
        {
            **artifact_answer(row),
            "job_id": show(Prefix.JOB, row["job_id"]),
            "kind": row["kind"],
            "created_at": row["created_at"],
            **({"spoiler": True} if (row["moderation"] or {}).get("spoiler") else {}),
        }
        for row in rows[:limit]
    ]
    return page(data, data[-1]["id"] if len(rows) > limit else None)


@router.get(
    "/v1/artifacts/{artifact_id}",
    response_model=None,
    summary="The bytes of an artifact",
    responses={
        200: {"content": BYTES},
        206: {"description": "The asked range."},
        304: {"description": "You have it already (If-None-Match, If-Modified-Since)."},
        **schemas.problems(401, 404, 410, 416, 422, 429, 451, 503),
    },
)
async def get_artifact(
    request: Request,
    artifact_id: str,
    caller: Reader,
    thumbnail: Annotated[bool, Query(description="a small picture of it instead")] = False,
) -> Response:
    """The file with its media type. Takes `Range`, `If-Range`, `If-None-Match` and `If-Modified-Since`; HEAD, too."""
    services = api_of(request).services
    row = await _row(services, caller, artifact_id)
    if thumbnail:
        return await thumbnail_of(services, request, row)
    return file_of(services, request, row, artifact_id)


@router.get(
    "/v1/artifacts/{artifact_id}/thumbnail",
    response_model=None,
    summary="A small picture of an artifact",
    responses={
        200: {"content": {"image/*": {"schema": {"type": "string", "format": "binary"}}}},
        304: {"description": "You have it already (If-None-Match, If-Modified-Since)."},
        **schemas.problems(401, 404, 410, 422, 429, 451, 503),
    },
)
async def get_thumbnail(request: Request, artifact_id: str, caller: Reader) -> Response:
    """At most 512 pixels wide and high, JPEG or WebP; of a video its first frame. 404 for what has no look."""
    services = api_of(request).services
    return await thumbnail_of(services, request, await _row(services, caller, artifact_id))


@router.delete(
    "/v1/artifacts/{artifact_id}",
    status_code=204,
    response_model=None,
    summary="Delete an artifact",
    responses={204: {"description": "It is gone, and so are its links."}, **schemas.problems(401, 403, 404, 429, 503)},
)
async def delete_artifact(request: Request, artifact_id: str, caller: User) -> Response:
    """From now on it answers 410, by its links, too; the bytes are removed later. The job stays, and what it cost. Safe
    to repeat."""
    db = api_of(request).services.db
    if not await db.execute("delete_artifact", id=parse(Prefix.ARTIFACT, artifact_id), user_id=caller.user_id):
        raise _no_artifact(artifact_id)
    return Response(status_code=204)


@router.post(
    "/v1/artifacts/{artifact_id}/share",
    status_code=201,
    response_model=None,
    summary="Make a link to an artifact",
    responses={
        201: {"model": artifact_schemas.Share},
        **schemas.problems(400, 401, 403, 404, 410, 422, 429, 451, 503),
    },
    openapi_extra={"requestBody": artifact_schemas.SHARE_BODY},
)
async def share(request: Request, artifact_id: str, caller: User) -> Response:
    """Whoever has the link reads the file, without a key, until its time is over. Deleting the artifact ends all of its
    links."""
    body = read_object(await request.body() or b"{}")
    refuse_unknown(body, ("expires_in_s",))
    lasts = read_expiry(body)
    services = api_of(request).services
    row = await _row(services, caller, artifact_id)
    expires_at = (services.clock() + lasts).replace(microsecond=0)
    generation = (await services.standing.share_generations()).current
    url = sign(services.settings.secret_for("shares"), generation, show(Prefix.ARTIFACT, row["id"]), expires_at)
    shown = {"url": url, "expires_at": expires_at}
    if row["thumbnail_sha256"] is not None:
        shown["thumbnail_url"] = url + "&thumbnail=true"
    return answer(shown, 201, {"Cache-Control": "no-store"})


async def _row(services: Services, caller: Caller, artifact_id: str) -> Row:
    row = await services.db.row("get_artifact", id=parse(Prefix.ARTIFACT, artifact_id), user_id=caller.user_id)
    if row is None:
        raise _no_artifact(artifact_id)
    check_there(row)
    return row


def _no_artifact(artifact_id: str) -> NotFound:
    return NotFound(
        f"There is no artifact {artifact_id[:64]!r} of yours. GET /v1/artifacts lists those that there are."
    )

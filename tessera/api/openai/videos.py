"""``videos``: https://platform.openai.com/docs/api-reference/videos

A video is its job under another name, so its id is the job's: what is made here can be looked at under ``/v1`` and the
other way round.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated, Any, ClassVar, Literal
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response
from pydantic import Field

from tessera.api.artifacts.files import FileResponse
from tessera.api.artifacts.uploads import keep_upload
from tessera.api.auth import Caller, Reader, User
from tessera.api.forms import received_form
from tessera.api.jobs.answers import answer
from tessera.api.jobs.submissions import read_object, refuse
from tessera.api.middleware import MAX_UPLOAD_BYTES
from tessera.api.openai import schemas
from tessera.api.openai.bodies import Body, Seed, read_size
from tessera.api.openai.errors import JobFailed
from tessera.api.openai.runs import asked, row_of, submission_of, submitted, wanted
from tessera.api.services import Services
from tessera.api.state import api_of
from tessera.errors import NotFound
from tessera.ids import Prefix, parse, show
from tessera.jobs import FINAL, EventType, JobState, Kind
from tessera.media.inspecting import extension, thumbnail_type
from tessera.store.database import Row

router = APIRouter(tags=["openai"])

DEFAULT_SIZE = (720, 1280)
DEFAULT_SECONDS = 4.0
_EXAMPLE = {"model": "sora-2", "prompt": "waves under a full moon", "seconds": "4", "size": "720x1280"}

_STATUS = {
    JobState.CREATED: "queued",
    JobState.QUEUED: "queued",
    JobState.RUNNING: "in_progress",
    JobState.COMPLETED: "completed",
}


class VideoBody(Body):
    """A clip from words, or from a picture and words. ``fps`` and ``seed`` are ours: send them by ``extra_body``."""

    IGNORED: ClassVar[frozenset[str]] = frozenset({"quality"})

    prompt: str
    model: str | None = Field(None, max_length=200)
    seconds: float | None = None
    size: str | None = Field(None, max_length=16)
    fps: int | None = None
    seed: Seed | None = None

    def input(self) -> dict[str, Any]:
        """The input of the video job."""
        width, height = read_size(self.size, DEFAULT_SIZE)
        seconds = DEFAULT_SECONDS if self.seconds is None else self.seconds
        data = {"prompt": self.prompt, "width": width, "height": height, "duration_s": seconds, "seed": self.seed}
        return {**data, **({} if self.fps is None else {"fps": self.fps})}


@router.post(
    "/openai/v1/videos",
    response_model=None,
    summary="Make a clip",
    responses={
        200: schemas.answers(schemas.Video, "Accepted.", schemas.VIDEO_EXAMPLE),
        **schemas.errors(400, 401, 402, 403, 404, 413, 415, 429, 503),
    },
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {
                **schemas.form(VideoBody, "input_reference")["content"],
                **schemas.body(VideoBody, {"clip": _EXAMPLE})["content"],
            },
        },
        "parameters": [schemas.IDEMPOTENCY_KEY],
    },
)
async def create(request: Request) -> Response:
    """A video job; ask for it again until its `status` is `completed`. Takes a form, or JSON without a picture."""
    caller = await asked(request)
    files: dict[str, str] = {}
    same: dict[str, Any]
    if request.headers.get("content-type", "").startswith("application/json"):
        same = read_object(await request.body())
        body = VideoBody.read(same)
    else:
        async with received_form(request, files=("input_reference",), max_bytes=MAX_UPLOAD_BYTES) as form:
            same = form.data()
            body = VideoBody.read(same)
            body.input()  # a wrong size is told before anything is kept
            if "input_reference" in form.files:
                file = form.file("input_reference")
                upload = await keep_upload(caller.api, caller.caller.user_id, file.path, file.size, "input_reference")
                files["image"] = show(Prefix.UPLOAD, upload["id"])
                same["input_reference"] = upload["sha256"]
    wish = wanted(Kind.VIDEO, body.model, {**body.input(), **files}, same, body.metadata)
    admitted = await submitted(caller, await submission_of(caller, wish))
    row = await row_of(caller, admitted.job_id)
    return answer(video_answer(row, 0, caller.caller.limits.retention_days))


@router.get(
    "/openai/v1/videos",
    response_model=None,
    summary="List clips",
    responses={
        200: schemas.answers(
            schemas.VideoList,
            "A page of them.",
            {"object": "list", "data": [schemas.VIDEO_EXAMPLE], "first_id": None, "last_id": None, "has_more": False},
        ),
        **schemas.errors(400, 401, 403, 429, 503),
    },
)
async def list_videos(
    request: Request,
    caller: Reader,
    after: Annotated[str | None, Query(max_length=64, description="the id of the last one of the page before")] = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    order: Literal["asc", "desc"] = "desc",
) -> Response:
    """The user's video jobs, but those that were deleted here."""
    services = api_of(request).services
    try:
        start = None if after is None else parse(Prefix.JOB, after)
    except NotFound:
        raise refuse("after", "is not the id of a video") from None
    rows = await services.db.rows(
        "list_videos", user_id=caller.user_id, after=start, ascending=order == "asc", limit=limit + 1
    )
    data = [video_answer(row, None, caller.limits.retention_days) for row in rows[:limit]]
    return answer(
        {
            "object": "list",
            "data": data,
            "first_id": data[0]["id"] if data else None,
            "last_id": data[-1]["id"] if data else None,
            "has_more": len(rows) > limit,
        }
    )


@router.get(
    "/openai/v1/videos/{video_id}",
    response_model=None,
    summary="A clip as it is now",
    responses={
        200: schemas.answers(schemas.Video, "The clip.", schemas.VIDEO_EXAMPLE),
        **schemas.errors(401, 403, 404, 429, 503),
    },
)
async def retrieve(request: Request, video_id: str, caller: Reader) -> Response:
    """Its status and progress; when it failed, why, and that nothing was charged."""
    services = api_of(request).services
    row = await _video(services, caller, video_id)
    progress = await _progress(services, row) if row["state"] == JobState.RUNNING else None
    return answer(video_answer(row, progress, caller.limits.retention_days))


@router.get(
    "/openai/v1/videos/{video_id}/content",
    response_model=None,
    summary="The bytes of a clip",
    responses={
        200: schemas.bytes_of("The clip, or its thumbnail.", "video/mp4", "image/jpeg"),
        **schemas.errors(400, 401, 403, 404, 429, 503),
    },
)
async def content(
    request: Request,
    video_id: str,
    caller: Reader,
    variant: Annotated[str, Query(max_length=32, description="video or thumbnail")] = "video",
) -> Response:
    """The file once the clip is completed."""
    services = api_of(request).services
    if variant not in ("video", "thumbnail"):
        raise refuse("variant", "must be video or thumbnail: there are no spritesheets here")
    row = await _video(services, caller, video_id)
    if row["state"] != JobState.COMPLETED:
        state = _STATUS.get(row["state"], "failed")
        raise NotFound(f"The video has no content: it is {state}. Ask again once its status is 'completed'.")
    if not row["artifacts"]:
        raise NotFound("The video's file was deleted, or its plan's retention ended.")
    artifact = await services.db.row("get_artifact", id=UUID(row["artifacts"][0]["id"]), user_id=caller.user_id)
    if artifact is None:
        raise NotFound("The video's file was deleted, or its plan's retention ended.")
    if variant == "thumbnail":
        if artifact["thumbnail_sha256"] is None:
            raise NotFound("This video has no thumbnail.")
        data = await services.artifacts.get(artifact["thumbnail_sha256"])
        return Response(data, headers={"X-Content-Type-Options": "nosniff"}, media_type=thumbnail_type(data))
    size, media_type = artifact["bytes"], artifact["media_type"]
    headers = {
        "Content-Length": str(size),
        "Content-Disposition": f'attachment; filename="{video_id}.{extension(media_type)}"',
        "X-Content-Type-Options": "nosniff",
    }
    return FileResponse(services.artifacts.stream(artifact["sha256"], 0, size), 200, headers, media_type)


@router.delete(
    "/openai/v1/videos/{video_id}",
    response_model=None,
    summary="Delete a clip",
    responses={
        200: schemas.answers(
            schemas.DeletedVideo,
            "It is gone.",
            {"id": "job_01k0000000000000000000000c", "object": "video.deleted", "deleted": True},
        ),
        **schemas.errors(401, 403, 404, 429, 503),
    },
)
async def delete(request: Request, video_id: str, caller: User) -> Response:
    """Its file is deleted, and it is no longer listed here. One that is not made yet is cancelled, and what was not
    executed of it refunded; the job and its ledger entries stay under `/v1`."""
    services = api_of(request).services
    row = await _video(services, caller, video_id)
    if row["state"] not in FINAL:
        await services.db.row("cancel_job", id=row["id"], user_id=caller.user_id)
    await services.db.execute("delete_video", id=row["id"], user_id=caller.user_id)
    return answer({"id": video_id, "object": "video.deleted", "deleted": True})


async def _video(services: Services, caller: Caller, video_id: str) -> Row:
    row = await services.db.row("get_video", id=parse(Prefix.JOB, video_id), user_id=caller.user_id)
    if row is None:
        raise NotFound(f"There is no video {video_id[:64]!r} of yours.")
    return row


async def _progress(services: Services, row: Row) -> int:
    events = await services.feed.so_far(row["id"])
    found = [event.data.get("fraction", 0.0) for event in events if event.type == EventType.PROGRESS]
    return int(99 * found[-1]) if found else 0


def video_answer(row: Mapping[str, Any], progress: int | None, retention_days: int) -> dict[str, Any]:
    """A video. ``progress`` in per cent while it is made; None where nobody has looked."""
    data, state, finished_at = row["input"], row["state"], row["finished_at"]
    completed = state == JobState.COMPLETED
    failed = state in FINAL and not completed
    error = None
    if failed:
        why = JobFailed(row)
        error = {"code": why.code, "message": why.message, **{k: v for k, v in why.details.items() if k != "job_id"}}
    return {
        "id": show(Prefix.JOB, row["id"]),
        "object": "video",
        "status": "failed" if failed else _STATUS[state],
        "progress": 100 if completed else progress or 0,
        "model": row["model"],
        "created_at": int(row["created_at"].timestamp()),
        "completed_at": int(finished_at.timestamp()) if completed else None,
        "expires_at": int((finished_at + timedelta(days=retention_days)).timestamp()) if completed else None,
        "seconds": f"{data['duration_s']:g}",
        "size": f"{data['width']}x{data['height']}",
        "prompt": data["prompt"],
        "remixed_from_video_id": None,
        "error": error,
    }

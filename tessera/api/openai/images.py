"""``images/generations`` and ``images/edits``: https://platform.openai.com/docs/api-reference/images"""

from __future__ import annotations

import asyncio
import base64
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal
from uuid import UUID

from fastapi import APIRouter, Request, Response
from pydantic import Field

from tessera.api.artifacts.uploads import keep_upload
from tessera.api.forms import FormFile, received_form
from tessera.api.jobs.answers import answer
from tessera.api.jobs.submissions import Wanted, read_object, refuse
from tessera.api.middleware import MAX_UPLOAD_BYTES
from tessera.api.openai import schemas
from tessera.api.openai.bodies import Body, Seed, read_size
from tessera.api.openai.runs import Asked, asked, bytes_of, headers_of, result_of, submission_of, wanted
from tessera.api.services import Services
from tessera.ids import Prefix, show
from tessera.jobs import Kind
from tessera.media.transcoding import mask_of_alpha, picture
from tessera.share_links import sign
from tessera.store.database import Row

router = APIRouter(tags=["openai"])

DEFAULT_SIZE = (1024, 1024)
LINK_TIME = timedelta(days=1)  # OpenAI's links are good for an hour
MIN_SIDE_PX = 16
_FORMATS = {"image/png": "png", "image/jpeg": "jpeg", "image/webp": "webp"}


class ImageBody(Body):
    """What both routes take. ``negative_prompt`` and ``seed`` are ours: send them by ``extra_body``."""

    IGNORED: ClassVar[frozenset[str]] = frozenset({"quality", "style", "moderation", "input_fidelity"})
    ONLY: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        "stream": (False, "false"),
        "partial_images": (0, "0"),
        "background": ("auto", "opaque"),
    }

    prompt: str
    model: str | None = Field(None, max_length=200)
    n: int = Field(1, ge=1, le=8)
    size: str | None = Field(None, max_length=16)
    response_format: Literal["url", "b64_json"] | None = None
    output_format: Literal["png", "jpeg", "webp"] = "png"
    output_compression: int = Field(90, ge=0, le=100)
    negative_prompt: str = ""
    seed: Seed | None = None

    def input(self, default: tuple[int, int], **more: Any) -> dict[str, Any]:
        """The input of the image job."""
        width, height = read_size(self.size, default)
        data = {"prompt": self.prompt, "negative_prompt": self.negative_prompt, "width": width, "height": height}
        return {**data, "count": self.n, "seed": self.seed, **more}

    @property
    def as_url(self) -> bool:
        """OpenAI's newer models answer with Base64 alone, its older ones with an address unless asked otherwise."""
        if self.response_format is None:
            return not (self.model or "").startswith(("gpt-image", "chatgpt-image"))
        return self.response_format == "url"


class EditBody(ImageBody):
    """A picture to be changed: where the mask is transparent, or without one everywhere."""

    strength: Annotated[float, Field(ge=0, le=1)] | None = None


def image_wanted(body: Mapping[str, Any]) -> tuple[ImageBody, Wanted]:
    """What a body asks for. Raises InvalidInput."""
    read = ImageBody.read(body)
    return read, wanted(Kind.IMAGE, read.model, read.input(DEFAULT_SIZE), body, read.metadata)


@router.post(
    "/openai/v1/images/generations",
    response_model=None,
    summary="Make pictures from words",
    responses={
        200: schemas.answers(schemas.Images, "The pictures.", schemas.IMAGES_EXAMPLE),
        **schemas.errors(400, 401, 402, 403, 404, 413, 429, 500, 503),
    },
    openapi_extra={
        "requestBody": schemas.body(
            ImageBody,
            {"picture": {"model": "gpt-image-1", "prompt": "a lighthouse in a storm, oil painting", "n": 1}},
        ),
        "parameters": [schemas.IDEMPOTENCY_KEY],
    },
)
async def generations(request: Request) -> Response:
    """An image job; any size from 16 to 4096 pixels that the plan allows. A `url` needs no key, for a day."""
    caller = await asked(request)
    body, wish = image_wanted(read_object(await request.body()))
    row = await result_of(caller, await submission_of(caller, wish))
    return answer(await _gallery(caller).answer(row, body), headers=headers_of(row))


@router.post(
    "/openai/v1/images/edits",
    response_model=None,
    summary="Change a picture",
    responses={
        200: schemas.answers(schemas.Images, "The pictures.", schemas.IMAGES_EXAMPLE),
        **schemas.errors(400, 401, 402, 403, 404, 413, 415, 429, 500, 503),
    },
    openapi_extra={
        "requestBody": schemas.form(EditBody, "image", "mask", required=("image",)),
        "parameters": [schemas.IDEMPOTENCY_KEY],
    },
)
async def edits(request: Request) -> Response:
    """An image job from a picture and words; with a `mask` (PNG) only where that is transparent. Without `size` the
    result is as large as the picture, as far as the plan allows."""
    caller = await asked(request)
    async with received_form(request, files=("image", "mask"), max_bytes=MAX_UPLOAD_BYTES) as form:
        fields = form.data()
        body = EditBody.read(fields)
        body.input(DEFAULT_SIZE)  # a wrong size is told before anything is kept
        image = form.file("image")
        source = await keep_upload(caller.api, caller.caller.user_id, image.path, image.size, "image")
        mask = await _mask(caller, form.file("mask") if "mask" in form.files else None, image)
    size = fitting(source["width"], source["height"], caller.caller.limits.max_image_px)
    files = {"image": show(Prefix.UPLOAD, source["id"])}
    if mask is not None:
        files["mask"] = show(Prefix.UPLOAD, mask["id"])
    # The same bytes sent again are the same request, whatever ids their uploads get.
    same = {**fields, "image": source["sha256"], "mask": mask["sha256"] if mask else None}
    data = body.input(size, strength=body.strength, **files)
    wish = wanted(Kind.IMAGE, body.model, data, same, body.metadata)
    row = await result_of(caller, await submission_of(caller, wish))
    return answer(await _gallery(caller).answer(row, body), headers=headers_of(row))


async def _mask(caller: Asked, given: FormFile | None, image: FormFile) -> Row | None:
    """The upload of the mask as engines want it: of the file sent as one, or of what is transparent in the picture."""
    if given is not None:
        # As it came; it is refused here where it is no picture.
        await keep_upload(caller.api, caller.caller.user_id, given.path, given.size, "mask")
    async with caller.api.media:
        mask = await asyncio.to_thread(mask_of_alpha, (given or image).path)
    if mask is None:
        if given is not None:
            raise refuse("mask", "has nothing transparent in it: what is to be changed must be transparent")
        return None
    return await _keep(caller, mask)


async def _keep(caller: Asked, data: bytes) -> Row:
    with tempfile.NamedTemporaryFile(prefix="tessera-mask-") as file:
        path = Path(file.name)
        await asyncio.to_thread(path.write_bytes, data)
        return await keep_upload(caller.api, caller.caller.user_id, path, len(data), "mask")


def fitting(width: int, height: int, max_px: int) -> tuple[int, int]:
    """A size of the same proportions that a plan allows and the product can make."""
    factor = min(1.0, (max_px / (width * height)) ** 0.5, 4096 / max(width, height))
    return max(MIN_SIDE_PX, int(width * factor)), max(MIN_SIDE_PX, int(height * factor))


@dataclass(frozen=True, kw_only=True)
class Gallery:
    """Where the pictures of an answer come from. ``base_url``: this server as the caller knows it."""

    services: Services
    media: asyncio.Semaphore
    user_id: UUID
    base_url: str

    async def answer(self, row: Row, body: ImageBody) -> dict[str, Any]:
        """The answer of a completed job. Raises Gone where a file of it is."""
        found = row["output"] or {}
        return {
            "created": int(row["created_at"].timestamp()),
            "data": [await self._image(artifact, body) for artifact in row["artifacts"]],
            "background": "opaque",
            "output_format": body.output_format,
            "quality": "high",
            "size": f"{found.get('width') or row['input']['width']}x{found.get('height') or row['input']['height']}",
        }

    async def _image(self, artifact: Mapping[str, Any], body: ImageBody) -> dict[str, Any]:
        if body.as_url:
            return {"url": await self._link(show(Prefix.ARTIFACT, UUID(artifact["id"]))), "revised_prompt": None}
        data = await bytes_of(self.services, self.user_id, artifact["id"])
        if _FORMATS.get(artifact["media_type"]) != body.output_format:
            async with self.media:
                data = await asyncio.to_thread(picture, data, body.output_format, max(1, body.output_compression))
        return {"b64_json": (await asyncio.to_thread(base64.b64encode, data)).decode(), "revised_prompt": None}

    async def _link(self, artifact_id: str) -> str:
        """An address that needs no key, for LINK_TIME."""
        generation = (await self.services.standing.share_generations()).current
        expires_at = self.services.clock() + LINK_TIME
        return self.base_url + sign(self.services.settings.secret_for("shares"), generation, artifact_id, expires_at)


def _gallery(caller: Asked) -> Gallery:
    return Gallery(
        services=caller.api.services,
        media=caller.api.media,
        user_id=caller.caller.user_id,
        base_url=str(caller.request.base_url).rstrip("/"),
    )

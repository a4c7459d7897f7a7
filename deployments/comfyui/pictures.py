"""A job's input pictures: measured here, put on the server under names of their own."""

from __future__ import annotations

import io
from collections.abc import Mapping

from PIL import Image

from deployments.comfyui.binding import Picture
from deployments.comfyui.client import ComfyClient
from tessera.engine import EngineJob
from tessera.errors import InvalidInput, TesseraError
from tessera.manifests import Parameter
from tessera.media.inspecting import extension, inspect

SUBFOLDER = "tessera"
NAMES = (Parameter.IMAGE.value, Parameter.MASK.value)


def measured(job: EngineJob) -> dict[str, Picture]:
    """The input pictures with their sizes. CPU work. Raises InvalidInput for one that cannot be read."""
    found = {}
    for name in NAMES:
        if name not in job.files:
            continue
        try:
            media = inspect(job.files[name].data)
        except TesseraError as error:
            raise InvalidInput(f"'{name}' cannot be used: {error.message} Nothing was charged.") from error
        if media.width is None or media.height is None or not media.media_type.startswith("image/"):
            raise InvalidInput(f"'{name}' is no picture but {media.media_type}. Nothing was charged.")
        found[name] = Picture(name="", width=media.width, height=media.height)
    return found


async def uploaded(
    client: ComfyClient, job: EngineJob, sizes: Mapping[str, Picture], prompt_id: str
) -> dict[str, Picture]:
    """The same pictures by the names that the server has given them."""
    found: dict[str, Picture] = {}
    for name, picture in sizes.items():
        file = job.files[name]
        stored = await client.upload(
            f"{prompt_id}-{name}.{extension(file.media_type)}", file.data, file.media_type, subfolder=SUBFOLDER
        )
        found[name] = Picture(name=stored, width=picture.width, height=picture.height)
    return found


async def placeholders(client: ComfyClient, bound: Mapping[Parameter, object]) -> dict[Parameter, str]:
    """A small grey picture for each picture that a graph takes: what a model is loaded with."""
    out = io.BytesIO()
    Image.new("RGB", (64, 64), (128, 128, 128)).save(out, "PNG")
    return {
        Parameter(name): await client.upload(f"warm-{name}.png", out.getvalue(), "image/png", subfolder=SUBFOLDER)
        for name in NAMES
        if Parameter(name) in bound
    }

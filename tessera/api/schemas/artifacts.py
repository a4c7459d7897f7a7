"""What the API says of artifacts and of links to them. Documentation only, like ``schemas/base.py``."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import Field

from tessera.api.schemas.base import Answer, Artifact, Page
from tessera.api.schemas.bodies import body
from tessera.jobs import Kind

MediaKind = Literal["image", "audio", "video", "text"]


class OwnArtifact(Artifact):
    job_id: str = Field(examples=["job_01k5h3v9m2f8e4x7q6t0c1b2a3"])
    kind: Kind
    created_at: datetime


class OwnArtifactPage(Page[OwnArtifact]):
    pass


class Share(Answer):
    """A link; `url` is a path on this server, and whoever has it reads the file."""

    url: str
    thumbnail_url: str | None = None
    expires_at: datetime


class Rotated(Answer):
    generation: int
    older_until: datetime = Field(description="until when links of the generation before are good")


_SECONDS = {"type": "integer", "maximum": 604_800}
SHARE_BODY = {
    **body(
        {
            "type": "object",
            "additionalProperties": False,
            "properties": {"expires_in_s": {**_SECONDS, "minimum": 60, "default": 86_400}},
        },
        {"hour": {"expires_in_s": 3600}},
    ),
    "required": False,
}
ROTATE_BODY = {
    **body(
        {
            "type": "object",
            "additionalProperties": False,
            "properties": {"keep_for_s": {**_SECONDS, "minimum": 0, "default": 0}},
        },
        {"a_day_more": {"keep_for_s": 86_400}},
    ),
    "required": False,
}

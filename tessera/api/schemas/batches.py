"""Batches for the description of the API; see schemas/base.py."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict


class Answer(BaseModel):
    model_config = ConfigDict(extra="allow")


class BatchCounts(Answer):
    """Lines: of `total`, `expanded` were read; of these `refused` became no job, the others wait, run or have ended."""

    total: int
    expanded: int
    refused: int
    queued: int
    running: int
    completed: int
    failed: int
    cancelled: int


class BatchPause(Answer):
    """Why no line becomes a job at the moment, and when the next try is."""

    reason: Literal["quota_exhausted", "key_cap_exhausted", "too_many_queued", "rate_limited"]
    message: str
    until: datetime | None


class Batch(Answer):
    """A file of lines, each of which becomes a job of tier `batch` when there is room for it."""

    model_config = ConfigDict(
        extra="allow",
        json_schema_extra={
            "example": {
                "id": "batch_01k0000000000000000000000c",
                "state": "paused",
                "created_at": "2030-01-31T12:00:00Z",
                "expires_at": "2030-02-07T12:00:00Z",
                "completion_window": "7d",
                "counts": {
                    "total": 500,
                    "expanded": 120,
                    "refused": 1,
                    "queued": 4,
                    "running": 2,
                    "completed": 113,
                    "failed": 0,
                    "cancelled": 0,
                },
                "charged_tokens": 113,
                "pause": {
                    "reason": "quota_exhausted",
                    "message": "Today's tokens are used up. The batch goes on at midnight UTC, or as soon as there are"
                    " some.",
                    "until": "2030-02-01T00:00:00Z",
                },
                "errors": [],
                "metadata": {},
                "urls": {
                    "self": "/v1/batches/batch_01k0000000000000000000000c",
                    "cancel": "/v1/batches/batch_01k0000000000000000000000c/cancel",
                    "output": "/v1/batches/batch_01k0000000000000000000000c/output",
                    "errors": "/v1/batches/batch_01k0000000000000000000000c/errors",
                },
            }
        },
    )

    id: str
    state: Literal["expanding", "paused", "running", "cancelling", "completed", "cancelled", "expired", "failed"]
    created_at: datetime
    expires_at: datetime
    ended_at: datetime | None = None
    completion_window: str
    counts: BatchCounts
    charged_tokens: float
    pause: BatchPause | None = None
    errors: list[dict[str, Any]]
    metadata: dict[str, Any]
    urls: dict[str, str]


class BatchPage(Answer):
    data: list[Batch]
    next_cursor: str | None


BATCH_BODY = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["file"],
                "additionalProperties": False,
                "properties": {
                    "file": {
                        "type": "string",
                        "format": "binary",
                        "description": "JSON Lines: each line the body of POST /v1/jobs, and a `custom_id` of your own",
                    },
                    "completion_window": {
                        "type": "string",
                        "default": "7d",
                        "description": "1h to 7d: what is not done by then is given up",
                    },
                    "metadata": {"type": "string", "description": "a JSON object of yours, at most 4 KiB"},
                },
            }
        }
    },
}

"""OpenAI's envelope for every error under ``/openai``: ``{"error": {message, type, param, code}}`` and what we add.

https://platform.openai.com/docs/guides/error-codes/api-errors

OpenAI's clients try 408, 409, 429 and 5xx again by themselves. So an exhausted quota is 402, a wrong field is 400, and
a failure that would only repeat itself says ``x-should-retry: false``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any
from uuid import UUID

import orjson
from fastapi import Response

from tessera.api.problems import REALM, FrameworkError
from tessera.errors import TesseraError
from tessera.ids import Prefix, show
from tessera.plans import tokens

PREFIX = "/openai"

# Where OpenAI has a status or a code of its own for what ours means.
_STATUS = {422: 400, 410: 404}
_STATUS_OF_CODE = {"unknown_model": 404}
_CODES = {
    "unauthorized": "invalid_api_key",
    "unknown_model": "model_not_found",
    "rate_limited": "rate_limit_exceeded",
    "content_withheld": "content_policy_violation",
    "content_blocked": "content_policy_violation",
}
_TYPES = {402: "insufficient_quota", 403: "permission_error", 429: "requests"}

# Our names of an input's fields → the parameters of OpenAI's requests that they come from.
_PARAMETERS = {
    "count": "n",
    "width": "size",
    "height": "size",
    "duration_s": "seconds",
    "text": "input",
    "upload": "file",
    "word_timestamps": "timestamp_granularities",
    "format": "response_format",
}
_SHOWN_DETAILS = ("refunded_tokens", "charged_tokens", "remaining_tokens", "resets_at")


class JobFailed(FrameworkError):
    """The job did not end well. Its tokens are returned."""

    def __init__(self, row: Mapping[str, Any]) -> None:
        error = row["error"] or {}
        code = str(error.get("code") or row["state"])
        refunded = row["cost_mt"] - (row["charged_mt"] or 0)
        if row["state"] == "cancelled":
            code, message = "job_cancelled", "The job was cancelled. What was not executed of it was given back."
        else:
            message = str(error.get("message") or "The job did not end well. Its tokens are returned.")
        status = 400 if code in ("invalid_input", "content_withheld", "job_cancelled") else 500
        super().__init__(status, code, message)
        self.retryable = bool(error.get("retryable", False))  # type: ignore[misc]  # of the instance
        self.details = {
            "job_id": row["id"],
            "refunded_tokens": tokens(refunded),
            "charged_tokens": tokens(row["charged_mt"] or 0),
        }


def is_openai(path: str) -> bool:
    """Whether an address is one of OpenAI's shapes, known or not."""
    return path == PREFIX or path.startswith(PREFIX + "/")


def status_of(error: TesseraError) -> int:
    """The HTTP status of an error under ``/openai``."""
    return _STATUS_OF_CODE.get(error.code, _STATUS.get(error.status, error.status))


def envelope(error: TesseraError, request_id: str) -> dict[str, Any]:
    """The body of an error's answer; also an item of a stream that fails half-way."""
    status = status_of(error)
    problems = error.details.get("errors")
    param, message = None, error.message
    if isinstance(problems, list) and problems:
        param = _parameter(str(problems[0]["field"]))
        what = "; ".join(f"{_parameter(str(p['field']))}: {p['message']}" for p in problems[:5])
        message = f"{what}. Nothing was submitted or charged; correct it and send it again."
    elif error.code == "unknown_model":
        param = "model"
    shown: dict[str, Any] = {
        "message": message,
        "type": _TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error"),
        "param": param,
        "code": _CODES.get(error.code, error.code),
        "request_id": request_id,
    }
    if error.retry_after_s is not None:
        shown["retry_after_s"] = round(error.retry_after_s, 3)
    for name in _SHOWN_DETAILS:
        if error.details.get(name) is not None:
            shown[name] = error.details[name]
    job_id = error.details.get("job_id")
    if isinstance(job_id, UUID):
        shown["job_id"] = show(Prefix.JOB, job_id)
    return {"error": shown}


def error_response(error: TesseraError, request_id: str, headers: Mapping[str, str] | None = None) -> Response:
    """The answer for an error, with the headers that belong to its status."""
    status = status_of(error)
    all_headers = dict(headers or {})
    if status == 401:
        all_headers["WWW-Authenticate"] = REALM
    if status in (429, 503):
        all_headers["Retry-After"] = str(max(1, math.ceil(error.retry_after_s or 1)))
    if status == 408:
        all_headers["Connection"] = "close"
    if isinstance(error, JobFailed):
        all_headers["x-should-retry"] = "true" if error.retryable and status >= 500 else "false"
    return Response(
        orjson.dumps(envelope(error, request_id), default=str),
        status_code=status,
        headers=all_headers,
        media_type="application/json",
    )


def _parameter(field: str) -> str:
    """``input.messages.0.content`` → ``messages[0].content``, ``input.width`` → ``size``."""
    head, dot, rest = field.removeprefix("input.").partition(".")
    if field.startswith("input."):
        head = _PARAMETERS.get(head, head)
    return re.sub(r"\.(\d+)(?=\.|$)", r"[\1]", head + dot + rest)

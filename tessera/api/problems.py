"""Every error as a problem: RFC 9457, with our stable codes. https://www.rfc-editor.org/rfc/rfc9457

No traceback, statement or path of the server ever stands in one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

import orjson
from fastapi import Response
from starlette.exceptions import HTTPException

from tessera.errors import EngineError, InvalidInput, TesseraError
from tessera.ids import Prefix, show

MEDIA_TYPE = "application/problem+json"
REALM = 'Bearer realm="tessera"'

# What the framework refuses by itself: status → code and sentence.
FRAMEWORK: Mapping[int, tuple[str, str]] = {
    400: ("bad_request", "The request cannot be understood. Nothing was done; correct it and send it again."),
    404: ("not_found", "There is nothing here under this address. GET /docs lists all routes."),
    405: ("method_not_allowed", "This address does not take this method. The header Allow names those that it takes."),
    413: ("payload_too_large", "The body is larger than this route takes. Nothing was stored."),
}


def problem(error: TesseraError, request_id: str) -> dict[str, Any]:
    """The members of the problem, as JSON data."""
    body: dict[str, Any] = {
        "type": f"/docs/errors#error-{error.code}",
        "title": error.code.replace("_", " ").capitalize(),
        "status": error.status,
        "detail": error.message,
        "code": error.code,
        "retryable": error.retryable,
        "request_id": request_id,
    }
    if error.retry_after_s is not None:
        body["retry_after_s"] = round(error.retry_after_s, 3)
    for name, value in error.details.items():
        if name not in body and value is not None:
            body[name] = show(Prefix.JOB, value) if name == "job_id" and isinstance(value, UUID) else value
    return body


def problem_response(error: TesseraError, request_id: str, headers: Mapping[str, str] | None = None) -> Response:
    """The answer for an error, with the headers that belong to its status."""
    all_headers = dict(headers or {})
    if error.status == 401:
        all_headers["WWW-Authenticate"] = REALM
    if error.status in (429, 503):
        all_headers["Retry-After"] = str(max(1, math.ceil(error.retry_after_s or 1)))
    if error.status == 408:
        # The rest of the body may never come: nothing more is read of this connection.
        all_headers["Connection"] = "close"
    if error.status == 416 and "bytes" in error.details:
        all_headers["Content-Range"] = f"bytes */{error.details['bytes']}"
    return Response(
        orjson.dumps(problem(error, request_id), default=str),
        status_code=error.status,
        headers=all_headers,
        media_type=MEDIA_TYPE,
    )


class FrameworkError(TesseraError):
    """The request cannot be understood. Nothing was done; correct it and send it again."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status  # type: ignore[misc]  # of the instance: one class for all that the framework refuses
        self.code = code  # type: ignore[misc]


def from_http(error: HTTPException) -> TesseraError:
    """The framework's own refusals under our codes."""
    code, message = FRAMEWORK.get(error.status_code, ("http_error", str(error.detail)))
    return FrameworkError(error.status_code, code, message)


def from_validation(errors: Sequence[Any]) -> InvalidInput:
    """A parameter of the path or the query that FastAPI has refused."""
    found = []
    for item in errors:
        place = [str(part) for part in item.get("loc", ()) if part not in ("query", "path", "header", "body")]
        found.append({"field": ".".join(place) or "request", "message": str(item.get("msg", "is not valid"))})
    text = "; ".join(f"{p['field']}: {p['message']}" for p in found[:5])
    return InvalidInput(f"The request is not valid, and nothing was done. {text}", errors=found)


def error_codes() -> list[dict[str, Any]]:
    """Every code with its meaning, for the documentation. An engine's errors have no HTTP status: they end a job."""
    found: dict[str, dict[str, Any]] = {}

    def walk(error: type[TesseraError], *, of_job: bool) -> None:
        about = {"code": error.code, "retryable": error.retryable, "message": error().message}
        found.setdefault(error.code, about if of_job else {**about, "status": error.status})
        for child in error.__subclasses__():
            if child is not FrameworkError:
                walk(child, of_job=of_job or child is EngineError)

    walk(TesseraError, of_job=False)
    for status, (code, message) in FRAMEWORK.items():
        found.setdefault(code, {"code": code, "status": status, "retryable": False, "message": message})
    return sorted(found.values(), key=lambda about: (about.get("status", 1000), about["code"]))

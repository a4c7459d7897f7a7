"""Every error as a problem: RFC 9457, with our stable codes. https://www.rfc-editor.org/rfc/rfc9457

No traceback, statement or path of the server ever stands in one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

import orjson
import structlog
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from tessera.api.context import context_of
from tessera.errors import EngineError, InvalidInput, TesseraError
from tessera.ids import Prefix, show

log = structlog.get_logger(__name__)

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
        "type": f"/docs#error-{error.code}",
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


def add_handlers(app: FastAPI) -> None:
    """Render everything that a route raises. What no handler knows is a bug: middleware.py answers 500 for it."""

    async def tessera(request: Request, error: Exception) -> Response:
        assert isinstance(error, TesseraError)
        context = context_of(request)
        context.refused(error)
        if error.status >= 500:
            log.warning("request_failed", code=error.code, status=error.status)
        return problem_response(error, context.request_id)

    async def http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        context = context_of(request)
        headers = dict(error.headers or {})
        if error.status_code == 405:
            headers["Allow"] = allowed_methods(app, request.scope["path"])
            if request.method == "OPTIONS":
                return Response(status_code=204, headers=headers)
        return problem_response(from_http(error), context.request_id, headers)

    async def validation(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return problem_response(from_validation(error.errors()), context_of(request).request_id)

    app.add_exception_handler(TesseraError, tessera)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(RequestValidationError, validation)


def allowed_methods(app: FastAPI, path: str) -> str:
    """The methods that some route takes for this path, for the header Allow."""
    found = {"OPTIONS"}
    for pattern, methods in app.state.api.patterns:
        if pattern.match(path):
            found |= methods
    if "GET" in found:
        found.add("HEAD")
    return ", ".join(sorted(found))

"""Every refusal in the shape of the address that was asked: a problem, or OpenAI's envelope under ``/openai``."""

from __future__ import annotations

from collections.abc import Mapping

import structlog
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from tessera.api.context import context_of
from tessera.api.openai.errors import error_response, is_openai
from tessera.api.problems import from_http, from_validation, problem_response
from tessera.errors import RateLimited, TesseraError

log = structlog.get_logger(__name__)


def refusal_response(
    path: str, error: TesseraError, request_id: str, headers: Mapping[str, str] | None = None
) -> Response:
    """The answer for an error of a request to this path."""
    shape = error_response if is_openai(path) else problem_response
    return shape(error, request_id, headers)


def add_handlers(app: FastAPI) -> None:
    """Render everything that a route raises. What no handler knows is a bug: middleware.py answers 500 for it."""

    async def tessera(request: Request, error: Exception) -> Response:
        assert isinstance(error, TesseraError)
        context = context_of(request)
        context.refused(error)
        try:
            await request.app.state.api.authenticator.count_refused(context)
        except TesseraError as other:  # too many of them; or Postgres is away, of which the refusal itself is no matter
            error = other if isinstance(other, RateLimited) else error
        if error.status >= 500:
            log.warning("request_failed", code=error.code, status=error.status)
        return refusal_response(request.scope["path"], error, context.request_id)

    async def http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        path, headers = request.scope["path"], dict(error.headers or {})
        if error.status_code == 405:
            headers["Allow"] = allowed_methods(app, path)
            if request.method == "OPTIONS":
                return Response(status_code=204, headers=headers)
        return refusal_response(path, from_http(error), context_of(request).request_id, headers)

    async def validation(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        refusal = from_validation(error.errors())
        return refusal_response(request.scope["path"], refusal, context_of(request).request_id)

    app.add_exception_handler(TesseraError, tessera)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(RequestValidationError, validation)


def allowed_methods(app: FastAPI, path: str) -> str:
    """The methods that some route takes for this path, for the header Allow.

    A path that is a route's own, letter by letter, is not taken for the id of another: ``/v1/identities/link``.
    """
    found = {"OPTIONS"}
    patterns = app.state.api.patterns
    own = [methods for pattern, methods in patterns if not pattern.groups and pattern.match(path)]
    for methods in own or [methods for pattern, methods in patterns if pattern.match(path)]:
        found |= methods
    if "GET" in found:
        found.add("HEAD")
    return ", ".join(sorted(found))

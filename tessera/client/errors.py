"""What can go wrong when the API is called.

::

    ClientError
    ├── ApiError           the server refused, with a code (problem+json)
    ├── ConnectionFailed   no answer: not running, not reachable, or the line broke for too long
    └── BadAnswer          an answer that is not the API's: another server, or a proxy in between
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


class ClientError(Exception):
    """The call did not succeed. ``message`` says what happened and what to do next."""

    def __init__(self, message: str) -> None:
        self.message = message
        super().__init__(message)


class ApiError(ClientError):
    """The server refused the request. ``code`` is stable and meant for programs, ``message`` for people.

    ``details`` has the other members of the problem, such as ``errors`` (a list of field and message).
    """

    def __init__(
        self,
        *,
        status: int,
        code: str,
        message: str,
        retryable: bool = False,
        retry_after_s: float | None = None,
        request_id: str | None = None,
        refunded_tokens: float | None = None,
        details: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.retryable = retryable
        self.retry_after_s = retry_after_s
        self.request_id = request_id
        self.refunded_tokens = refunded_tokens
        self.details: dict[str, Any] = dict(details or {})

    def dump(self) -> dict[str, Any]:
        """The error ready for JSON."""
        known = {
            "code": self.code,
            "message": self.message,
            "status": self.status,
            "retryable": self.retryable,
            "retry_after_s": self.retry_after_s,
            "request_id": self.request_id,
            "refunded_tokens": self.refunded_tokens,
        }
        return {**{k: v for k, v in known.items() if v is not None}, **self.details}


class ConnectionFailed(ClientError):
    """The server cannot be reached."""

    def __init__(self, url: str, why: str) -> None:
        self.url = url
        self.why = why
        super().__init__(
            f"No answer from {url} ({why}). Is Tessera running? 'make up' (or 'tessera up') starts it here; "
            "TESSERA_URL names a server elsewhere."
        )


class BadAnswer(ClientError):
    """What answered does not speak Tessera's API."""


_KNOWN = {"type", "title", "status", "detail", "code", "retryable", "retry_after_s", "request_id", "refunded_tokens"}


def api_error(status: int, body: bytes, headers: Mapping[str, str]) -> ApiError:
    """Read a refusal. A body that is no problem+json (a proxy's page) still becomes a useful ApiError."""
    try:
        parsed = json.loads(body)
    except ValueError:
        parsed = None
    problem: dict[str, Any] = parsed if isinstance(parsed, dict) else {}
    title = problem.get("title")
    message = problem.get("detail") or title or f"The server answered {status} without saying why."
    retry_after = seconds(problem.get("retry_after_s"))  # exact, where the header has whole seconds
    if retry_after is None:
        retry_after = seconds(headers.get("Retry-After"))
    return ApiError(
        status=status,
        code=str(problem.get("code") or f"http_{status}"),
        message=str(message),
        retryable=bool(problem.get("retryable", status in {429, 502, 503, 504})),
        retry_after_s=retry_after,
        request_id=problem.get("request_id") or headers.get("X-Request-Id"),
        refunded_tokens=seconds(problem.get("refunded_tokens")),
        details={k: v for k, v in problem.items() if k not in _KNOWN},
    )


def seconds(value: object) -> float | None:
    """A number that is not negative, else None. (A Retry-After that is a date is treated as absent.)"""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        number = float(value)
    except ValueError:
        return None
    return number if 0 <= number < float("inf") else None

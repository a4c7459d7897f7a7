"""What is known of one request while it is answered: its id, and what its headers will say of the rate limit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fastapi import Request

from tessera.errors import TesseraError

SCOPE_KEY = "tessera.request"


@dataclass(frozen=True, kw_only=True, slots=True)
class RateState:
    """How many requests of a policy ("requests" or "submissions") are left in its minute.

    Shown as https://datatracker.ietf.org/doc/draft-ietf-httpapi-ratelimit-headers/ has it.
    """

    policy: str
    limit: int
    remaining: int

    def headers(self) -> list[tuple[bytes, bytes]]:
        """RateLimit and RateLimit-Policy."""
        reset_s = 0 if self.remaining > 0 else max(1, -(-60 // self.limit))
        return [
            (b"ratelimit", f'"{self.policy}";r={max(0, self.remaining)};t={reset_s}'.encode()),
            (b"ratelimit-policy", f'"{self.policy}";q={self.limit};w=60'.encode()),
        ]


@dataclass(kw_only=True, slots=True)
class RequestContext:
    """Lives from the first to the last byte of one answer."""

    request_id: str
    head: bool = False  # the client wants the headers only
    key_id: str | None = None
    rate: RateState | None = None

    def refused(self, error: TesseraError) -> None:
        """Take over what a refusal knows of the submission limit."""
        limit, remaining = error.details.get("limit"), error.details.get("remaining")
        if isinstance(limit, int) and isinstance(remaining, int) and self.rate is None:
            self.rate = RateState(policy="submissions", limit=limit, remaining=remaining)


def context_of(request: Request) -> RequestContext:
    """The context that the middleware has made for this request."""
    context: Any = request.scope[SCOPE_KEY]
    assert isinstance(context, RequestContext)
    return context

"""What is known of one request while it is answered: its id, and what its headers will say of the rate limit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from fastapi import Request

from tessera.errors import TesseraError
from tessera.plans import MT_PER_TOKEN

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

    def openai_headers(self) -> list[tuple[bytes, bytes]]:
        """The same as OpenAI's clients read it: https://platform.openai.com/docs/guides/rate-limits"""
        back_ms = max(0, self.limit - max(0, self.remaining)) * 60_000 // self.limit  # until all are there again
        return [
            (b"x-ratelimit-limit-requests", str(self.limit).encode()),
            (b"x-ratelimit-remaining-requests", str(max(0, self.remaining)).encode()),
            (b"x-ratelimit-reset-requests", f"{back_ms}ms".encode()),
        ]


@dataclass(frozen=True, kw_only=True, slots=True)
class QuotaState:
    """What is left of the day's tokens, and the seconds until they start anew."""

    daily_mt: int
    used_mt: int
    reset_s: int

    def openai_headers(self) -> list[tuple[bytes, bytes]]:
        """In Tessera's tokens, the unit of billing, as whole ones."""
        return [
            (b"x-ratelimit-limit-tokens", str(self.daily_mt // MT_PER_TOKEN).encode()),
            (b"x-ratelimit-remaining-tokens", str(max(0, self.daily_mt - self.used_mt) // MT_PER_TOKEN).encode()),
            (b"x-ratelimit-reset-tokens", f"{self.reset_s}s".encode()),
        ]


@dataclass(kw_only=True, slots=True)
class RequestContext:
    """Lives from the first to the last byte of one answer."""

    request_id: str
    head: bool = False  # the client wants the headers only
    openai: bool = False  # the address is one of OpenAI's shapes
    key_id: str | None = None
    rate: RateState | None = None
    uncounted: tuple[UUID, int] | None = None  # who submits, and the requests a minute: counted if it gets no further
    quota: QuotaState | None = None

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

"""The one tree of errors: every refusal a caller can meet, with its stable code.

::

    TesseraError                      code, HTTP status, retryable
    ├── BadRequest            400 invalid_json
    ├── Unauthorized          401 unauthorized
    ├── QuotaExhausted        402 quota_exhausted
    ├── Forbidden             403 forbidden
    ├── NotFound              404 not_found
    ├── Conflict              409 conflict
    ├── Gone                  410 gone
    ├── RequestTimeout        408 request_timeout
    ├── PayloadTooLarge       413 payload_too_large
    ├── UnsupportedMedia      415 unsupported_media
    ├── RangeNotSatisfiable   416 range_not_satisfiable
    ├── InvalidInput          422 invalid_input       (also raised by engines: never retried)
    │   ├── UnknownModel      422 unknown_model
    │   ├── AddressRefused    422 address_refused
    │   ├── ContentBlocked    422 content_blocked
    │   └── IdempotencyMismatch 422 idempotency_mismatch
    ├── Withheld              451 withheld
    ├── FetchFailed           422 fetch_failed        another server, at an address that a user gave
    ├── TooManyQueued         429 too_many_queued
    ├── RateLimited           429 rate_limited
    ├── Unavailable           503 unavailable
    └── EngineError                                    what an engine raises; decides what is done with the job
        ├── ModelMissing      model_missing     fail the job, leave the (worker, model) pair out
        ├── Busy              engine_busy       back off, keep the place
        ├── OutOfMemory       out_of_memory     unload, once more
        ├── Lost              lost              a new attempt
        ├── Stuck             stuck             cancel, grace, unhealthy
        ├── BadOutput         bad_output        a new attempt
        ├── StorageFull       storage_full      fail and refund
        └── ContentWithheld   content_withheld  fail; refunded three times a day, then charged

An error class's docstring is its default message: it says what happened, what was lost, and what to do next.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, ClassVar


class TesseraError(Exception):
    """Something went wrong on our side. Nothing was charged; try again in a moment."""

    code: ClassVar[str] = "internal_error"
    status: ClassVar[int] = 500
    retryable: ClassVar[bool] = False

    def __init__(self, message: str | None = None, *, retry_after_s: float | None = None, **details: Any) -> None:
        self.message = message or (type(self).__doc__ or "").split("\n\n")[0]
        self.retry_after_s = retry_after_s
        self.details = details
        super().__init__(self.message)

    def __reduce__(self) -> tuple[Any, ...]:
        # Exceptions with keyword-only arguments do not pickle by themselves, and these cross Ray.
        return (_rebuild, (type(self), self.message, self.retry_after_s, self.details))


def _rebuild(
    cls: type[TesseraError], message: str, retry_after_s: float | None, details: dict[str, Any]
) -> TesseraError:
    return cls(message, retry_after_s=retry_after_s, **details)


class BadRequest(TesseraError):
    """The body is not valid JSON. Nothing was submitted; send a JSON object."""

    code = "invalid_json"
    status = 400


class Unauthorized(TesseraError):
    """This route needs an API key. Send it as 'Authorization: Bearer tsr_…'; 'tessera keys create' makes one."""

    code = "unauthorized"
    status = 401


class QuotaExhausted(TesseraError):
    """Today's tokens are used up. Nothing was charged; they come back at midnight UTC."""

    code = "quota_exhausted"
    status = 402


class Forbidden(TesseraError):
    """This API key may not do that. Use a key with the right scope."""

    code = "forbidden"
    status = 403


class NotFound(TesseraError):
    """There is nothing here under this address. Check the id."""

    code = "not_found"
    status = 404


class Conflict(TesseraError):
    """That does not fit the present state. Read it again and decide anew."""

    code = "conflict"
    status = 409


class Gone(TesseraError):
    """This was deleted, or its retention ended."""

    code = "gone"
    status = 410


class RequestTimeout(TesseraError):
    """The body came too slowly and the connection was closed. Nothing was stored or charged; send it again."""

    code = "request_timeout"
    status = 408
    retryable = True


class PayloadTooLarge(TesseraError):
    """The body is larger than this route takes. Nothing was stored."""

    code = "payload_too_large"
    status = 413


class UnsupportedMedia(TesseraError):
    """The file is of a type that cannot be used here. Nothing was stored."""

    code = "unsupported_media"
    status = 415


class RangeNotSatisfiable(TesseraError):
    """The requested range lies outside of the file."""

    code = "range_not_satisfiable"
    status = 416


class InvalidInput(TesseraError):
    """The input is not valid. Nothing was charged; correct it and submit again."""

    code = "invalid_input"
    status = 422


class UnknownModel(InvalidInput):
    """There is no such model. GET /v1/models lists those that there are."""

    code = "unknown_model"


class IdempotencyMismatch(InvalidInput):
    """This Idempotency-Key was used within 24 hours for another body. Use a new key for a new request."""

    code = "idempotency_mismatch"


class ContentBlocked(InvalidInput):
    """This prompt is not allowed here. Nothing was charged; change it, or write to the operator if that is a mistake.

    ``details["category"]``: "rule", "age_restricted", or a category that is refused always.
    """

    code = "content_blocked"


class AddressRefused(InvalidInput):
    """This address is not one that can be reached from here. Nothing was sent or stored; give one of the public web."""

    code = "address_refused"


class FetchFailure(StrEnum):
    """Why another server gave no answer or no file."""

    UNKNOWN_HOST = "unknown_host"
    NO_CONNECTION = "no_connection"
    TLS = "tls"
    TIMEOUT = "timeout"
    REDIRECTED = "redirected"  # further than it is followed
    STATUS = "status"  # any but 200
    TOO_LARGE = "too_large"
    BROKEN = "broken"  # the line broke, or the answer is none of HTTP


class Withheld(TesseraError):
    """This file was withheld by the operator after a report. Write to the operator if that is a mistake."""

    code = "withheld"
    status = 451


class FetchFailed(TesseraError):
    """Another server did not give what was asked of it. Nothing was stored; check the address, or try again later.

    ``details["reason"]`` is a ``FetchFailure``.
    """

    code = "fetch_failed"
    status = 422


class TooManyQueued(TesseraError):
    """As many jobs as the plan allows are already queued. Nothing was charged; wait until one of them ends."""

    code = "too_many_queued"
    status = 429
    retryable = True


class RateLimited(TesseraError):
    """Too many requests in a short time. Nothing was charged; wait as long as Retry-After says."""

    code = "rate_limited"
    status = 429
    retryable = True


class Unavailable(TesseraError):
    """The service cannot take this at the moment. Nothing was accepted or charged; try again shortly."""

    code = "unavailable"
    status = 503
    retryable = True


class EngineError(TesseraError):
    """The engine could not run the job. Its tokens are returned."""

    code = "engine_failed"
    retryable = True


class ModelMissing(EngineError):
    """The engine does not have this model's files. The tokens are returned; choose another model."""

    code = "model_missing"
    retryable = False


class Busy(EngineError):
    """The engine is busy. The job keeps its place and starts as soon as it is free."""

    code = "engine_busy"


class OutOfMemory(EngineError):
    """The job needs more memory than the device has. The tokens are returned; ask for a smaller size."""

    code = "out_of_memory"


class Lost(EngineError):
    """The engine no longer knows the run. The job is started anew."""

    code = "lost"


class Stuck(EngineError):
    """The run made no progress for too long and was stopped. The tokens are returned."""

    code = "stuck"


class BadOutput(EngineError):
    """The engine returned something that is not what was asked for. The tokens are returned."""

    code = "bad_output"


class StorageFull(EngineError):
    """The result could not be stored: the artifact store is full or cannot be written. The tokens are returned."""

    code = "storage_full"
    retryable = False


class ContentWithheld(EngineError):
    """The safety rules withheld the result. Its tokens are returned, three times a day; change the prompt."""

    code = "content_withheld"
    retryable = False

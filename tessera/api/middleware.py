"""Around every request: its id, the size of its body, HEAD, unexpected errors, metrics, the access log.

Pure ASGI, so that streams pass through untouched. The log never holds a query, a header or a body: no key, no prompt.
"""

from __future__ import annotations

import asyncio
import re
import time
from typing import Any

import structlog
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tessera.api.context import SCOPE_KEY, RequestContext
from tessera.api.metrics import Metrics
from tessera.api.openai.errors import is_openai
from tessera.api.refusals import refusal_response
from tessera.api.standing import Standing
from tessera.errors import PayloadTooLarge, RequestTimeout, TesseraError, UnsupportedMedia
from tessera.ids import Prefix, new_id, show
from tessera.logs import bind, unbind

log = structlog.get_logger(__name__)

MAX_JSON_BYTES = 2 << 20
MAX_UPLOAD_BYTES = 100 << 20
MULTIPART_BYTES = 64 << 10  # for what multipart adds around the file
# The addresses that take files; every other body is JSON.
FILE_PATHS = frozenset(
    {
        "/v1/uploads",
        "/v1/batches",
        "/openai/v1/files",
        "/openai/v1/images/edits",
        "/openai/v1/audio/transcriptions",
        "/openai/v1/audio/translations",
        "/openai/v1/videos",
    }
)

# How long a body may say nothing, and what it must come to on the whole once its grace is over: a slow line passes (a
# phone in the woods has 10 KB/s), a connection that is held open on purpose does not.
BODY_SILENCE_S = 20.0
BODY_GRACE_S = 30.0
BODY_BYTES_PER_S = 4 << 10

_REQUEST_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_QUIET = frozenset({"/healthz", "/readyz", "/metrics"})


class GatewayMiddleware:
    """The outermost layer: whatever happens inside, the caller gets an answer with an X-Request-Id."""

    def __init__(
        self,
        app: ASGIApp,
        metrics: Metrics,
        standing: Standing,
        *,
        echo_request_id: bool = True,
        body_silence_s: float = BODY_SILENCE_S,
    ) -> None:
        self._body_silence_s = body_silence_s
        self._app = app
        self._standing = standing
        self._echo_request_id = echo_request_id
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers: dict[bytes, bytes] = dict(scope["headers"])
        context = RequestContext(
            request_id=_request_id(headers), head=scope["method"] == "HEAD", openai=is_openai(scope["path"])
        )
        # A copy: the server goes by its own scope when it leaves out the body of an answer to HEAD.
        scope = {**scope, SCOPE_KEY: context, "method": "GET" if context.head else scope["method"]}
        bound = bind(request_id=context.request_id)
        try:
            await self._answer(scope, receive, send, context, headers)
        finally:
            unbind(bound)

    async def _answer(
        self, scope: Scope, receive: Receive, send: Send, context: RequestContext, headers: dict[bytes, bytes]
    ) -> None:
        started_at = time.perf_counter()
        answer = _Answer(send, context, self._standing, echo_request_id=self._echo_request_id)
        limit = MAX_UPLOAD_BYTES + MULTIPART_BYTES if scope["path"] in FILE_PATHS else MAX_JSON_BYTES
        status: int | None = None
        try:
            if headers.get(b"content-encoding", b"identity").strip().lower() not in (b"", b"identity"):
                raise UnsupportedMedia(
                    "Compressed bodies are not taken. Nothing was stored or charged; send it without Content-Encoding."
                )
            declared = headers.get(b"content-length", b"0")
            if not declared.isdigit() or int(declared) > limit:
                raise _too_large(limit)
            if scope["path"] not in _QUIET:
                await self._standing.catch_up()
            await self._app(scope, _Limited(receive, limit, self._body_silence_s), answer)
        except (PayloadTooLarge, RequestTimeout) as error:
            if not answer.started:
                # The server throws away what is still coming. Closing instead would reset the connection, and a client
                # that is still sending would never see this answer.
                await refusal_response(scope["path"], error, context.request_id)(scope, receive, answer)
        except UnsupportedMedia as error:
            if not answer.started:
                told = {"Accept-Encoding": "identity"}
                await refusal_response(scope["path"], error, context.request_id, told)(scope, receive, answer)
        except ClientDisconnect:
            status = 499
        except Exception as error:  # a bug must not become a broken connection
            log.exception("request_crashed", method=scope["method"], route=_route(scope))
            if not answer.started:
                await refusal_response(scope["path"], TesseraError(), context.request_id)(scope, receive, answer)
            else:
                raise ConnectionAbortedError("the answer cannot be completed") from error
        finally:
            seconds = time.perf_counter() - started_at
            code = status or answer.status or 499
            route = _route(scope)
            method = "HEAD" if context.head else scope["method"]
            self._metrics.requests.labels(route, method if method in _METHODS else "other", str(code)).inc()
            self._metrics.latency.labels(route).observe(seconds)
            if scope["path"] not in _QUIET:
                log.info(
                    "request",
                    method=method,
                    route=route,
                    status=code,
                    ms=round(seconds * 1000, 1),
                    key=context.key_id,
                )


class _Limited:
    """The body, counted and timed: what exceeds the limit is not read, declared or chunked, and what comes too slowly
    is not waited for. After the body, what is awaited here is the client's disconnect, which may take its time."""

    __slots__ = ("_began", "_complete", "_limit", "_receive", "_seen", "_silence_s")

    def __init__(self, receive: Receive, limit: int, silence_s: float) -> None:
        self._limit = limit
        self._receive = receive
        self._silence_s = silence_s
        self._seen = 0
        self._complete = False
        self._began: float | None = None

    async def __call__(self) -> Message:
        if self._complete:
            return await self._receive()
        if self._began is None:
            self._began = time.monotonic()
        try:
            async with asyncio.timeout(self._silence_s):
                message = await self._receive()
        except TimeoutError:
            raise RequestTimeout(
                f"Nothing of the body came for {self._silence_s:g} s. Nothing was stored or charged; send it again."
            ) from None
        if message["type"] != "http.request":
            self._complete = True
            return message
        self._seen += len(message.get("body", b""))
        if self._seen > self._limit:
            raise _too_large(self._limit)
        self._complete = not message.get("more_body", False)
        late_s = time.monotonic() - self._began - BODY_GRACE_S
        if not self._complete and self._seen < late_s * BODY_BYTES_PER_S:
            raise RequestTimeout
        return message


class _Answer:
    """Sends on, adding our headers; swallows the body of an answer to HEAD."""

    __slots__ = ("_context", "_echo_request_id", "_send", "_standing", "started", "status")

    def __init__(self, send: Send, context: RequestContext, standing: Standing, *, echo_request_id: bool) -> None:
        self._standing = standing
        self._echo_request_id = echo_request_id
        self._send = send
        self._context = context
        self.started = False
        self.status: int | None = None

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.started = True
            self.status = message["status"]
            headers = list(message.get("headers", ()))
            if self._echo_request_id:
                headers.append((b"x-request-id", self._context.request_id.encode()))
            if (banner := self._standing.last_banner) is not None:
                headers.append((b"tessera-banner", banner.header()))
            if self._context.rate is not None:
                headers += self._context.rate.headers()
                if self._context.openai:
                    headers += self._context.rate.openai_headers()
            if self._context.quota is not None and self._context.openai:
                headers += self._context.quota.openai_headers()
            message = {**message, "headers": headers}
        elif message["type"] == "http.response.body" and self._context.head:
            message = {**message, "body": b""}
        await self._send(message)


def _request_id(headers: dict[bytes, bytes]) -> str:
    given = headers.get(b"x-request-id", b"").decode("latin-1")
    return given if _REQUEST_ID.fullmatch(given) else show(Prefix.REQUEST, new_id())


def _route(scope: Scope) -> str:
    """The route's pattern, never the path itself: ids would make a label for every job."""
    route: Any = scope.get("route")
    return getattr(route, "path", None) or "unmatched"


def _too_large(limit: int) -> PayloadTooLarge:
    return PayloadTooLarge(
        f"The body is larger than the {limit >> 20} MiB that this route takes. Nothing was stored or charged; send less"
        " at once, or a file by POST /v1/uploads.",
        limit_bytes=limit,
    )

"""One HTTP exchange with the API: headers, time limits, retries, and refusals read into errors.

Knows nothing of jobs. What may be sent twice is retried on a broken line, on 502, 503 and 504; anything is retried on
429 and 503, which promise that nothing was accepted, and when no connection could be made at all. A 402 never is.
"""

from __future__ import annotations

import asyncio
import copy
import os
import random
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, TypeVar

import aiohttp
from pydantic import BaseModel, ValidationError
from yarl import URL

from tessera.client.errors import ApiError, BadAnswer, ClientError, ConnectionFailed, api_error

CONNECT_TIMEOUT_S = 5.0
ON_BEHALF_OF = "Tessera-On-Behalf-Of"
READ_TIMEOUT_S = 75.0  # above the 60 s that `Prefer: wait` may hold an answer back
MAX_ERROR_BYTES = 1 << 20

AnswerT = TypeVar("AnswerT", bound=BaseModel)
Params = Mapping[str, str] | Sequence[tuple[str, str]]  # pairs, where a name comes more than once


@dataclass(frozen=True, kw_only=True)
class RetryPolicy:
    """How often and how long a call is repeated. ``attempts`` counts the first one too."""

    attempts: int = 5
    total_wait_s: float = 30.0  # a Retry-After that goes beyond this is the caller's to decide
    base_s: float = 0.25
    cap_s: float = 5.0


@dataclass(frozen=True, kw_only=True)
class Wait:
    """A pause before a call is repeated, for who wants to tell a person."""

    why: str
    delay_s: float


def retry_delay_s(
    policy: RetryPolicy, *, tries: int, waited_s: float, retry_after_s: float | None, jitter: float
) -> float | None:
    """Seconds to wait before the next try, or None to give up. ``tries`` were made; ``jitter`` is in 0…1."""
    if tries >= policy.attempts:
        return None
    backoff: float = min(policy.cap_s, policy.base_s * 2 ** (tries - 1))
    delay = backoff * (0.5 + jitter / 2)
    if retry_after_s is not None:
        # Never earlier than the server said; a little later, so that not all come back at the same moment.
        delay = retry_after_s + min(delay, 0.25)
    return None if waited_s + delay > policy.total_wait_s else delay


def retryable_status(status: int, *, repeatable: bool) -> bool:
    """Whether this answer promises nothing happened, or the request may be sent twice and the answer is a proxy's."""
    return status in {429, 503} or (repeatable and status in {502, 504})


class Transport:
    """A session with one server. ``on_wait`` is told of each pause before a repetition."""

    def __init__(
        self,
        url: str,
        api_key: str | None,
        *,
        on_behalf_of: str | None = None,
        retry: RetryPolicy | None = None,
        on_wait: Callable[[Wait], None] | None = None,
    ) -> None:
        self.url = url.rstrip("/")
        self.retry = retry or RetryPolicy()
        self._on_wait = on_wait
        self._headers = {"Accept": "application/json", "User-Agent": "tessera-python/0.1"}
        self._person: Mapping[str, str] = {}  # the header of the person for whom it asks; see acting_for
        for name, value in (("Authorization", api_key), (ON_BEHALF_OF, on_behalf_of)):
            if value is not None and (carried := _header(name, value)):
                self._headers[name] = f"Bearer {carried}" if name == "Authorization" else carried
        self._session: aiohttp.ClientSession | None = None

    def acting_for(self, identity: str) -> Transport:
        """The same session, asking for this person. It lives as long as this one is open. Raises ClientError."""
        if self._session is None:
            raise RuntimeError("use 'async with Client(…) as client'")
        other = copy.copy(self)
        other._person = {ON_BEHALF_OF: _header(ON_BEHALF_OF, identity)}
        return other

    async def __aenter__(self) -> Self:
        try:
            host = URL(self.url).host or ""
        except ValueError as error:
            raise ClientError(f"'{self.url}' is not an address of a server ({error}). Correct TESSERA_URL.") from error
        self._session = aiohttp.ClientSession(
            headers=self._headers,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S, sock_read=READ_TIMEOUT_S),
            # A proxy of the environment serves the way to other machines, never to this one.
            trust_env=host not in {"127.0.0.1", "::1", "localhost"},
            connector=aiohttp.TCPConnector(limit=0),  # a bot watches many jobs at once, each on a connection of its own
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def call(
        self,
        method: str,
        path: str,
        answer: type[AnswerT],
        *,
        repeatable: bool | None = None,
        params: Params | None = None,
        json: Any = None,
        data: Callable[[], Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> AnswerT:
        """Send a request and read its JSON answer. ``data`` makes the body anew for each try.

        ``repeatable``: whether sending it twice does no more than once (by default only GET).
        Raises ApiError, ConnectionFailed or BadAnswer.
        """
        body = await self.exchange(
            method, path, repeatable=repeatable, params=params, json=json, data=data, headers=headers
        )
        try:
            return answer.model_validate_json(body)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            place = ".".join(str(part) for part in first["loc"]) or "the body"
            raise BadAnswer(
                f"{self.url} answered {method} {path}, but not as Tessera's API does ({place}: {first['msg']}). "
                "Check TESSERA_URL, and that client and server are of the same version."
            ) from error

    async def exchange(
        self,
        method: str,
        path: str,
        *,
        repeatable: bool | None = None,
        params: Params | None = None,
        json: Any = None,
        data: Callable[[], Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> bytes:
        """Like ``call``, for the bytes of the answer."""
        repeatable = method == "GET" if repeatable is None else repeatable
        tries, waited_s = 0, 0.0
        while True:
            tries += 1
            failure: ClientError
            retry_after_s = None
            body = data() if data is not None else None  # a file that cannot be read is no matter of the connection
            try:
                async with self.open(method, path, params=params, json=json, data=body, headers=headers) as response:
                    return await response.read()
            except ApiError as error:
                if not retryable_status(error.status, repeatable=repeatable):
                    raise
                failure, retry_after_s = error, error.retry_after_s
            except NeverConnected as error:
                if not error.may_pass:
                    raise ConnectionFailed(self.url, error.why) from error.__cause__
                failure = ConnectionFailed(self.url, error.why)
            except (aiohttp.ClientError, TimeoutError, ConnectionError) as error:
                failure = ConnectionFailed(self.url, describe(error))
                if not repeatable:
                    raise failure from error
            delay = retry_delay_s(
                self.retry,
                tries=tries,
                waited_s=waited_s,
                retry_after_s=retry_after_s,
                jitter=random.random(),  # noqa: S311 (spreads load, guards nothing)
            )
            if delay is None:
                raise failure
            waited_s += delay
            await self.pause(failure, delay)

    async def pause(self, failure: ClientError, delay_s: float) -> None:
        """Tell ``on_wait`` and sleep."""
        if self._on_wait is not None:
            why = f"no connection ({failure.why})" if isinstance(failure, ConnectionFailed) else failure.message
            self._on_wait(Wait(why=why, delay_s=delay_s))
        await asyncio.sleep(delay_s)

    @asynccontextmanager
    async def open(
        self,
        method: str,
        path: str,
        *,
        params: Params | None = None,
        json: Any = None,
        data: Any = None,
        headers: Mapping[str, str] | None = None,
        read_timeout_s: float = READ_TIMEOUT_S,
        accept: frozenset[int] = frozenset(),
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """One try, no repetition: the open answer, when its status is below 300 or in ``accept``.

        Raises ApiError on a refusal, NeverConnected when there was no connection, and aiohttp's errors after that.
        """
        if self._session is None:
            raise RuntimeError("use 'async with Client(…) as client'")
        try:
            response = await self._session.request(
                method,
                URL(self.url + path, encoded=True),
                params=params,
                json=json,
                data=data,
                headers={**(headers or {}), **self._person},
                allow_redirects=method == "GET",  # a redirected POST would silently become a GET
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S, sock_read=read_timeout_s),
            )
        except (aiohttp.ClientConnectorCertificateError, aiohttp.InvalidURL) as error:
            raise NeverConnected(describe(error), may_pass=False) from error
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            raise NeverConnected(describe(error), may_pass=True) from error
        try:
            if response.status >= 400 and response.status not in accept:
                body = b""
                async for chunk in response.content.iter_any():
                    body += chunk
                    if len(body) > MAX_ERROR_BYTES:
                        break
                raise api_error(response.status, body, response.headers)
            if response.status >= 300 and response.status not in accept:
                where = response.headers.get("Location", "elsewhere")[:200]
                raise BadAnswer(f"{self.url} sends requests on to {where}: set TESSERA_URL to the address there.")
            yield response
        finally:
            response.close()


def _header(name: str, value: str) -> str:
    """A value that a header can carry; "" for none. Raises ClientError."""
    value = value.strip()
    if value and not (value.isascii() and value.isprintable()):
        raise ClientError(f"The value for {name} has characters that no header can carry: copy it again.")
    return value


class NeverConnected(Exception):
    """No connection was made, so the server has not seen the request. ``may_pass``: a later try may succeed."""

    def __init__(self, why: str, *, may_pass: bool) -> None:
        self.why = why
        self.may_pass = may_pass
        super().__init__(why)


def describe(error: BaseException) -> str:
    """A failure of the line in a few words."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return "its TLS certificate is not trusted here"
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return "the host name is not known"
    if isinstance(error, (aiohttp.ConnectionTimeoutError, aiohttp.ServerTimeoutError, TimeoutError)):
        return "it took too long"
    if isinstance(error, aiohttp.ClientConnectorError):
        number = error.os_error.errno
        return os.strerror(number).lower() if number else "no connection"
    if isinstance(error, aiohttp.InvalidURL):
        return "the address is not valid"
    return "the connection broke"

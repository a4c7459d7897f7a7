"""KoboldCPP's HTTP API, as far as Tessera needs it: calls with a timeout each, and answers that are believed only when
they have the right shape. https://lite.koboldai.net/koboldcpp_api

The server answers 200 to nearly everything, wrong input and a model that is not there included. So each method says
what a right answer looks like and raises for all others. Nothing here decides what becomes of a job.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp

from tessera.errors import BadOutput, Busy, EngineError, Lost

CONNECT_TIMEOUT_S = 5.0
CALL_TIMEOUT_S = 15.0  # calls that compute nothing: they answer at once even while the model is busy
COUNT_TIMEOUT_S = 30.0  # counting the tokens of 400,000 characters takes seconds on a small CPU
MAX_LINE_BYTES = 1 << 20  # of a stream; a token is a few bytes
INACTIVE = "inactive"
CUSTOM_STOPPER = 2  # of the counters' stop_reason: 0 is out of tokens, or aborted; 1 the model's own end


class Unreachable(EngineError):
    """The language model's server does not answer. Nothing was charged; the job waits until it is back."""


class NotKobold(EngineError):
    """The server at this address is not KoboldCPP. Nothing was charged; the operator has to correct the address."""


class NoSuchRoute(NotKobold):
    """The server does not know this route: it is no KoboldCPP, or an old one. Nothing was charged."""


@dataclass(frozen=True, kw_only=True)
class Version:
    """What the server says of itself. ``protected``: it asks for a password."""

    version: str
    protected: bool = False
    admin: bool = False


@dataclass(frozen=True, kw_only=True)
class Perf:
    """The server's counters. ``uptime_s`` begins anew with each start of its process: a load is one.

    ``last_tokens`` is how many tokens the last run generated; ``total_runs`` counts runs since the start. ``stopped``:
    the last run ended at a stop sequence, which a stream calls ``length`` like everything but the model's own end.
    """

    idle: bool
    queue: int
    uptime_s: float
    total_runs: int
    last_tokens: int
    stopped: bool = False


@dataclass(frozen=True, kw_only=True)
class Usage:
    """The server's own count of a run's text tokens."""

    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A piece of a stream. ``finish_reason`` is None until the last piece that has one; ``usage`` comes after it."""

    text: str = ""
    finish_reason: str | None = None
    usage: Usage | None = None


class KoboldClient:
    """One server. ``url``: its address without a path; ``password``: of its API; ``admin_password``: of model switches.

    Every method but ``stream`` may be repeated. All raise Unreachable, NotKobold (an answer of another shape), Busy
    (503) or EngineError.
    """

    def __init__(self, url: str, *, password: str = "", admin_password: str = "") -> None:
        self.url = url.rstrip("/")
        self._password = password
        self._admin_password = admin_password
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        """Close all connections; a stream that is open ends. Safe to repeat."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    # ------------------------------------------------------------------ what it is

    async def version(self) -> Version:
        """Who answers here. KoboldCPP imitates other servers, but no other server has this route."""
        said = _mapping(await self._call("GET", "/api/extra/version"))
        if said.get("result") != "KoboldCpp" or not isinstance(said.get("version"), str):
            raise NotKobold(f"The server at {self.url} does not say that it is KoboldCPP. Nothing was charged.")
        return Version(
            version=said["version"], protected=bool(said.get("protected")), admin=bool(said.get("admin", False))
        )

    async def model(self) -> str | None:
        """The name of the loaded model's file, without its ending; None while none is loaded."""
        name = _mapping(await self._call("GET", "/api/v1/model")).get("result")
        if not isinstance(name, str):
            raise NotKobold(_odd(self.url, "the name of its model"))
        name = name.removeprefix("koboldcpp/")
        return None if name in ("", INACTIVE) else name

    async def context_tokens(self) -> int:
        """How many tokens prompt and answer may have together."""
        value = _mapping(await self._call("GET", "/api/extra/true_max_context_length")).get("value")
        if not isinstance(value, int) or value < 1:
            raise NotKobold(_odd(self.url, "its context length"))
        return value

    async def perf(self) -> Perf:
        """Its counters, now."""
        said = _mapping(await self._call("GET", "/api/extra/perf"))
        try:
            return Perf(
                idle=bool(said["idle"]),
                queue=int(said["queue"]),
                uptime_s=float(said["uptime"]),
                total_runs=int(said.get("total_gens", 0)),
                last_tokens=int(said.get("last_token_count", 0)),
                stopped=said.get("stop_reason") == CUSTOM_STOPPER,
            )
        except (KeyError, TypeError, ValueError) as error:
            raise NotKobold(_odd(self.url, "its counters")) from error

    async def count_tokens(self, prompt: str) -> int:
        """How many tokens the loaded model makes of this prompt, with the one that begins every prompt."""
        said = _mapping(
            await self._call("POST", "/api/extra/tokencount", {"prompt": prompt}, timeout_s=COUNT_TIMEOUT_S)
        )
        value = said.get("value")
        if not isinstance(value, int) or value < 0:
            raise NotKobold(_odd(self.url, "a number of tokens"))
        return value

    # ------------------------------------------------------------------ runs

    async def abort(self, key: str) -> bool:
        """Stop the run of this key, or mark it while it waits. True when the server knew of something to stop.

        Raises ValueError for an empty key: that would stop whoever is running.
        """
        if not key:
            raise ValueError("an abort without a key stops another's run")
        said = _mapping(await self._call("POST", "/api/extra/abort", {"genkey": key}))
        return str(said.get("success", "")).lower() == "true"

    async def check(self, key: str) -> str:
        """What the run of this key has written so far; the empty text when the server's last run is another.

        Raises ValueError for an empty key: that would tell somebody else's text.
        """
        if not key:
            raise ValueError("a check without a key tells another's text")
        results = _mapping(await self._call("POST", "/api/extra/generate/check", {"genkey": key})).get("results")
        if not (isinstance(results, list) and results and isinstance(results[0], dict)):
            raise NotKobold(_odd(self.url, "the text so far"))
        return str(results[0].get("text") or "")

    async def stream(self, wanted: Mapping[str, Any]) -> AsyncGenerator[Piece, None]:
        """Run ``wanted`` (the body of /v1/completions) and give the answer as it is written.

        Raises Unreachable where the run cannot have begun, Lost where the connection broke afterwards.

        The iterator ends with the connection: whether the answer is whole is told by a ``finish_reason``, and by
        nothing else, for a server that is killed ends its stream as if all was well. Breaking off stops the run there.
        """
        body = {**wanted, "stream": True, "stream_options": {"include_usage": True}}
        try:
            async with self._open().post(
                f"{self.url}/v1/completions",
                json=body,
                headers=self._headers(self._password),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S),
                allow_redirects=False,
            ) as answer:
                if answer.status != 200:
                    raise _refusal(self.url, answer.status, await answer.text(errors="replace"))
                if answer.content_type != "text/event-stream":
                    raise BadOutput(
                        f"KoboldCPP answered {answer.content_type} instead of a stream. The tokens are returned."
                    )
                async for piece in _pieces(answer.content, self.url):
                    yield piece
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            raise Unreachable(
                f"The language model's server does not answer ({_why(error)}). Nothing was charged; the job waits."
            ) from error
        except (aiohttp.ClientError, OSError) as error:
            raise Lost(f"The connection to KoboldCPP broke ({_why(error)}). The job is started anew.") from error

    # ------------------------------------------------------------------ models

    async def options(self) -> list[str]:
        """The files of its admin folder that it can load; empty when it was started without one."""
        try:
            said = await self._call("GET", "/api/admin/list_options", password=self._admin_password)
        except NoSuchRoute:  # versions before 1.84
            return []
        if not isinstance(said, list) or not all(isinstance(name, str) for name in said):
            raise NotKobold(_odd(self.url, "its files"))
        return [name for name in said if name != "unload_model"]

    async def reload(self, filename: str) -> bool:
        """Ask for another model (``unload_model``: none). True when it will: it acts afterwards and cuts what runs."""
        body = {"filename": filename}
        try:
            said = await self._call("POST", "/api/admin/reload_config", body, password=self._admin_password)
        except NoSuchRoute:
            return False
        return _mapping(said).get("success") is True

    # ------------------------------------------------------------------ underneath

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None or self._session.closed:
            # Each stream has a connection of its own, and aborts must not wait behind them. Connections are not kept:
            # the server is one process that is replaced at each load, and a kept one would fail the next call.
            self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0, force_close=True))
        return self._session

    def _headers(self, password: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {password}"} if password else {}

    async def _call(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        password: str | None = None,
        timeout_s: float = CALL_TIMEOUT_S,
    ) -> Any:
        try:
            async with self._open().request(
                method,
                f"{self.url}{path}",
                json=body,
                headers=self._headers(self._password if password is None else password),
                timeout=aiohttp.ClientTimeout(total=timeout_s, sock_connect=CONNECT_TIMEOUT_S),
                allow_redirects=False,
            ) as answer:
                text = await answer.text(errors="replace")
                status = answer.status
        except (aiohttp.ClientError, OSError) as error:  # a TimeoutError is an OSError
            raise Unreachable(
                f"The language model's server does not answer ({_why(error)}). Nothing was charged; the job waits."
            ) from error
        if status != 200:
            raise _refusal(self.url, status, text)
        try:
            return json.loads(text)
        except ValueError as error:
            raise NotKobold(_odd(self.url, "JSON")) from error


async def _pieces(content: aiohttp.StreamReader, url: str) -> AsyncIterator[Piece]:
    """The events of a stream. A character that is split over packets is put together: lines are decoded whole."""
    async for line in _lines(content):
        if not line.startswith(b"data:"):
            continue  # 'event: message', comments, and the empty lines between events
        data = line.removeprefix(b"data:").strip()
        if data == b"[DONE]":
            return
        try:
            said = json.loads(data)
        except ValueError as error:
            raise BadOutput("KoboldCPP's stream holds what is no JSON. The tokens are returned.") from error
        yield _piece(said)


async def _lines(content: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    pending = bytearray()
    async for data in content.iter_any():
        pending += data
        *lines, rest = pending.split(b"\n")
        pending = bytearray(rest)
        if len(pending) > MAX_LINE_BYTES:
            raise BadOutput("KoboldCPP's stream has a line without an end. The tokens are returned.")
        for line in lines:
            yield bytes(line)
    if pending:
        yield bytes(pending)


def _piece(said: Any) -> Piece:
    if not isinstance(said, dict):
        raise BadOutput("KoboldCPP answered nothing that can be read. The tokens are returned.")
    usage = said.get("usage")
    counted = None
    if isinstance(usage, dict):
        prompt, completion = usage.get("prompt_tokens"), usage.get("completion_tokens")
        if isinstance(prompt, int) and isinstance(completion, int) and prompt >= 0 and completion >= 0:
            counted = Usage(prompt_tokens=prompt, completion_tokens=completion)
    choices = said.get("choices")
    if not isinstance(choices, list) or (choices and not isinstance(choices[0], dict)):
        raise BadOutput("KoboldCPP's stream has an event of another shape. The tokens are returned.")
    if not choices:
        return Piece(usage=counted)
    text, reason = choices[0].get("text"), choices[0].get("finish_reason")
    if text is not None and not isinstance(text, str):
        raise BadOutput("KoboldCPP's stream has an event of another shape. The tokens are returned.")
    # Older versions write the word where others write null.
    return Piece(text=text or "", finish_reason=None if reason in (None, "null", "") else str(reason), usage=counted)


def _refusal(url: str, status: int, text: str) -> EngineError:
    if status == 503:
        return Busy("The language model's server is busy. The job keeps its place and starts as soon as it is free.")
    if status in (401, 403):
        return NotKobold(
            f"The server at {url} asks for a password (HTTP {status}). Nothing was charged; the operator has to set it."
        )
    if status == 404:
        return NoSuchRoute(f"The server at {url} does not know this route: is it KoboldCPP? Nothing was charged.")
    return EngineError(f"KoboldCPP refused the request (HTTP {status}: {text[:200]!r}). The tokens are returned.")


def _mapping(said: Any) -> Mapping[str, Any]:
    if not isinstance(said, dict):
        raise NotKobold("KoboldCPP answered with something else than it should. The tokens are returned.")
    return said


def _odd(url: str, what: str) -> str:
    return f"The server at {url} did not answer with {what}. Nothing was charged; is it KoboldCPP?"


def _why(error: BaseException) -> str:
    if isinstance(error, asyncio.TimeoutError):
        return "no answer in time"
    return str(error) or type(error).__name__

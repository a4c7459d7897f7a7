"""Requests that no schema would make: wrong methods, content types, encodings, lengths and headers, over raw sockets.

Deterministic by its seed. Every answer must be HTTP, below 500, and a refusal a problem (or OpenAI's envelope under
/openai) whose code the description knows.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import random
import re
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "QUERY", "BREW")
CONTENT_TYPES = (
    "application/json",
    "application/json; charset=utf-16",
    "application/x-www-form-urlencoded",
    "multipart/form-data",
    "multipart/form-data; boundary=b",
    "multipart/form-data; boundary=" + "b" * 300,
    "text/plain",
    "text/html",
    "application/xml",
    "application/octet-stream",
    "image/svg+xml",
    "image/png",
    "*/*",
    ";;;",
    "",
)
TEXTS = (
    "",
    "a",
    "\x00",
    "‮txt.exe",
    "ﷺ" * 50,
    "Z͑ͫ̓ͪ̂ͫ̽͏̴̙̤̞͉͚̯̞̠͍A̴̵̜̰͔ͫ͗͢",
    "👩‍👩‍👧‍👦" * 20,
    "' OR 1=1 --",
    "../../../../etc/passwd",
    "%00",
    "${jndi:ldap://x}",
    "<script>alert(1)</script>",
    "\ud800",
    "x" * 70_000,
    "1e999",
    "NaN",
    "-1",
    "9" * 400,
    "2030-02-30",
    "0",
)
HEADERS = ("Idempotency-Key", "Prefer", "Range", "If-None-Match", "If-Modified-Since", "Last-Event-ID", "Accept")
VALUES = ("a", "wait=0", "bytes=9-1", "bytes=0-0,5-", "*", "-5", "é", "x" * 3000)
PARAMETERS = ("limit", "cursor", "state", "kind", "after", "day", "q", "metadata.x", "x", "created_after")
FIELDS = ("kind", "input", "model", "prompt", "metadata", "name", "scopes", "webhook", "url", "messages", "id", "file")
SVG = b'--b\r\nContent-Disposition: form-data; name="file"; filename="../x.svg"\r\n\r\n<svg/>\r\n--b--\r\n'
TIMEOUT_S = 60.0


@dataclass(kw_only=True)
class Findings:
    """What was seen: answers by status, and what must not be."""

    statuses: Counter[int] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    @property
    def requests(self) -> int:
        return sum(self.statuses.values())


def routes_of(description: dict[str, object]) -> list[tuple[str, str]]:
    """(method, path) of every operation."""
    paths = description["paths"]
    assert isinstance(paths, dict)
    return [(method.upper(), path) for path, methods in paths.items() for method in methods]


class Maker:
    """Makes one odd request after the other."""

    def __init__(
        self, seed: int, routes: Sequence[tuple[str, str]], keys: Sequence[str], ids: dict[str, Sequence[str]]
    ) -> None:
        self._random = random.Random(seed)
        self._routes = routes
        self._keys = keys
        self._ids = ids

    def request(self) -> bytes:
        """The bytes of one request."""
        roll = self._random
        method, path = roll.choice(self._routes)
        if roll.random() < 0.25:
            method = roll.choice(METHODS)
        path = re.sub(r"\{(\w+)\}", lambda match: self._segment(match[1]), path)
        if roll.random() < 0.3:
            path += "?" + "&".join(f"{self._name()}={_quoted(roll.choice(TEXTS))}" for _ in range(roll.randint(1, 4)))
        body, encoding = self._body()
        headers = [("Host", "127.0.0.1"), ("Connection", "close")]
        if roll.random() < 0.9:
            headers.append(("Authorization", f"Bearer {roll.choice(self._keys)}"))
        if body or roll.random() < 0.5:
            headers.append(("Content-Type", roll.choice(CONTENT_TYPES) if roll.random() < 0.5 else "application/json"))
        if encoding:
            headers.append(("Content-Encoding", encoding))
        for name in (
            "Idempotency-Key",
            "Prefer",
            "Range",
            "If-None-Match",
            "If-Modified-Since",
            "Last-Event-ID",
            "Accept",
        ):
            if roll.random() < 0.1:
                headers.append(
                    (name, roll.choice(("a", "wait=0", "bytes=9-1", "bytes=0-0,5-", "*", "-5", "é", "x" * 3000)))
                )
        if roll.random() < 0.05:
            headers.append(("Tessera-On-Behalf-Of", roll.choice(("telegram:1", "x", ":", "telegram:" + "9" * 400))))
        chunked = bool(body) and roll.random() < 0.2
        if chunked:
            headers.append(("Transfer-Encoding", "chunked"))
            body = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
        elif body or method in ("POST", "PUT", "PATCH"):
            headers.append(("Content-Length", str(len(body))))
        head = f"{method} {path} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in headers) + "\r\n"
        return head.encode("utf-8", "surrogatepass") + body

    def _segment(self, name: str) -> str:
        roll = self._random
        known = self._ids.get(name, ())
        if known and roll.random() < 0.6:
            return roll.choice(known)
        return _quoted(roll.choice(TEXTS)[:500]) or "-"

    def _name(self) -> str:
        return self._random.choice(PARAMETERS)

    def _body(self) -> tuple[bytes, str]:
        roll = self._random
        kind = roll.randrange(9)
        if kind == 0:
            return b"", ""
        if kind == 1:
            return roll.randbytes(roll.randint(1, 400)), ""
        if kind == 2:
            return b"[" * 5000, ""
        if kind == 3:
            return json.dumps(self._value(3)).encode()[: roll.randint(1, 60)], ""
        if kind == 4:
            return SVG, ""
        if kind == 5:
            return gzip.compress(b"{}" + b" " * 2_000_000), "gzip"
        if kind == 6:
            return zlib.compress(b"x"), roll.choice(("deflate", "br", "zstd", "nonsense"))
        return json.dumps(self._value(4)).encode(), ""

    def _value(self, depth: int) -> object:
        roll = self._random
        kind = roll.randrange(9 if depth else 6)
        simple: tuple[object, ...] = (None, roll.choice(TEXTS), roll.randint(-(2**70), 2**70), 1e308, True, [])
        if kind < 6:
            return simple[kind]
        if kind == 6:
            return [self._value(depth - 1) for _ in range(roll.randint(0, 4))]
        return {roll.choice(FIELDS): self._value(depth - 1) for _ in range(roll.randint(0, 5))}


async def fuzz(url: str, maker: Maker, codes: set[str], count: int, *, at_once: int = 8) -> Findings:
    """Send ``count`` requests; returns what was seen."""
    host, port = url.removeprefix("http://").split(":")
    found = Findings()
    todo = iter(range(count))

    async def sender() -> None:
        for _ in todo:
            request = maker.request()
            answer = await _exchange(host, int(port), request)
            status, wrong = judge(request, answer, codes)
            found.statuses[status] += 1
            if wrong:
                found.wrong.append(f"{wrong}\n    {request[:600]!r}\n    {answer[:600]!r}")

    await asyncio.gather(*(sender() for _ in range(at_once)))
    return found


def judge(request: bytes, answer: bytes, codes: set[str]) -> tuple[int, str]:
    """The status of an answer (0: none), and what is wrong with it, "" for nothing."""
    head, _, body = answer.partition(b"\r\n\r\n")
    match = re.match(rb"HTTP/1\.1 (\d{3})", head)
    if match is None:
        return 0, "no answer" if not answer else "not an answer of HTTP"
    status = int(match[1])
    if status >= 500 and status != 503:
        return status, f"{status} from the server"
    headers = head.lower()
    framework = b"content-type: application/problem+json" not in headers
    if status < 400 or request.startswith(b"HEAD") or (framework and body == b"Invalid HTTP request received."):
        return status, ""  # what is not HTTP is refused before the application
    if b"transfer-encoding: chunked" in headers:
        body = b"".join(re.findall(rb"[0-9a-f]+\r\n(.*?)\r\n", body, re.DOTALL))
    try:
        said = json.loads(body)
    except ValueError:
        return status, f"{status} without a problem"
    if re.match(rb"\w+ /openai/", request):
        return status, "" if isinstance(said.get("error"), dict) and "message" in said[
            "error"
        ] else "not OpenAI's envelope"
    if framework:
        return status, f"{status} that is not application/problem+json"
    if said.get("code") not in codes:
        return status, f"the code {said.get('code')!r} is not documented"
    if said.get("status") != status or not said.get("detail") or not said.get("request_id"):
        return status, "a problem that lacks a member"
    return status, ""


async def _exchange(host: str, port: int, request: bytes) -> bytes:
    reader, writer = await asyncio.open_connection(host, port)
    answer = b""
    try:
        async with asyncio.timeout(TIMEOUT_S):
            writer.write(request)
            await writer.drain()
            while chunk := await reader.read(65536):
                answer += chunk
                if b"text/event-stream" in answer:  # it has no end of its own
                    break
    except (TimeoutError, ConnectionError):
        pass  # whatever came is judged
    finally:
        writer.close()
    return answer


def _quoted(text: str) -> str:
    def escaped(char: str) -> str:
        return "".join(f"%{byte:02X}" for byte in char.encode("utf-8", "replace"))

    return "".join(char if char.isascii() and char.isalnum() else escaped(char) for char in text)

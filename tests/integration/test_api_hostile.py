"""Every route with what no honest client sends: never a 5xx, and each refusal is a documented problem.

Systematic where tests/fuzz is random: each field of each body that works, each parameter of each query, each header.
A run sends one in SHARE of these 14,000 requests; TESSERA_HOSTILE=all sends all, in ten minutes.
"""

from __future__ import annotations

import asyncio
import copy
import json
import os
import random
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import described
from tests.fuzz.requests import judge
from tests.integration.route_table import ROUTES
from tests.integration.route_world import Thing, World, picture, world

# What takes the place of a value, as JSON text: no serializer of ours would write most of them.
VALUES = (
    r'"\u0000"',
    r'"\ud800"',
    r'"a\udfff\u0000b"',
    "1e400",
    "-1e400",
    "NaN",
    "Infinity",
    "-0",
    "-0.0",
    "1" + "0" * 400,
    "9223372036854775808",
    "0.1e-400",
    "true",
    "null",
    "[]",
    "{}",
    '""',
    '"' + "x" * 100_000 + '"',
    '"' + "\u202e\u0301" * 50 + '"',
    "[" * 100_000,
    "[" * 900 + "]" * 900,
    '{"a":' * 5_000 + "1" + "}" * 5_000,
)
BODIES = (
    b"",
    b"null",
    b'"x"',
    b"[" * 100_000,
    b'{"a":' * 100_000,
    b'{"kind":"text","kind":"image","input":{"prompt":"a"},"input":{}}',
    b'{"name":"a","name":"b","\\u0000":1}',
    b"\xff\xfe{\x00}\x00",
    b"{}\x00",
    b"{} {}",
)
HEADERS = (
    "Content-Type: application/json; charset=utf-7",
    "Content-Type: application/json; charset=\x22",
    "Content-Type: application/x-www-form-urlencoded",
    "Content-Type: multipart/form-data; boundary=",
    "Content-Type: multipart/form-data; boundary=" + "-" * 70,
    "Content-Encoding: gzip",
    "Content-Encoding: gzip, gzip, br",
    "X-HTTP-Method-Override: DELETE",
    "Idempotency-Key: " + "k" * 300,
    "Idempotency-Key: \x7f",
    "Prefer: wait=" + "9" * 5_000,
    "Prefer: wait=-1, wait=0x10, wait=0",
    "Range: bytes=-" + "9" * 5_000,
    "Range: bytes=9-1,0-0,-0",
    "If-None-Match: *, W/\x22, \x22\x22",
    "If-Modified-Since: Fri, 99 Zzz 99999 99:99:99 GMT",
    "If-Range: \x22",
    "Last-Event-ID: " + "9" * 5_000,
    "Last-Event-ID: -1",
    "Tessera-On-Behalf-Of: telegram:" + "9" * 5_000,
    "Tessera-On-Behalf-Of: telegram:1\r\nTessera-On-Behalf-Of: telegram:2",
    "Authorization: Bearer a\r\nAuthorization: Bearer b",
    "Accept: application/xml;q=nonsense",
    "Host: evil.example/\x22><script>",
    "X-Forwarded-For: " + "1," * 500,
    "Cookie: " + "a=b; " * 500,
)
FORM_VALUES = (b"\x00", b"\xff", b"\xed\xa0\x80", b"NaN", b"9" * 5_000, b"-0", b"{", b"[" * 5_000, b"", b"x" * 70_000)
SHARE, SEED = 14, 7
ALWAYS = (b"=%00 ", b"=9999-12-31T")  # each has been a 500 somewhere
ALL = os.environ.get("TESSERA_HOSTILE") == "all"
QUERY = (
    "%00",
    "%ED%A0%80",
    "%FF",
    "-0",
    "1e400",
    "NaN",
    "9" * 400,
    "a" * 8_000,
    "%25%5F%27%22%5C",
    "2030-02-30T25:61:61Z",
    "9999-12-31T23:59:59-23:59",
    "0001-01-01T00:00:00+23:59",
    "[]",
    "job_" + "z" * 26,
    "job_" + "0" * 26,
)
SEGMENTS = (
    "%00",
    "%ED%A0%80",
    "..%2F..%2Fetc%2Fpasswd",
    "a" * 8_000,
    "%F0%9F%92%A9",
    "job_" + "Z" * 26,
    "-",
    "job_",
    "%0d%0aX: y",
)


@pytest.fixture
async def everything(database_url: str, tmp_path: Path) -> AsyncIterator[World]:
    async with world(database_url, tmp_path) as made:
        yield made


@pytest.fixture(scope="module")
def description() -> dict[str, Any]:
    return described.description()


async def exchange(world: World, request: bytes) -> bytes:
    """The answer to one request, as it comes; the beginning of a stream."""
    port = int(world.api.url.rpartition(":")[2])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    answer = b""
    try:
        async with asyncio.timeout(30):
            writer.write(request)
            await writer.drain()
            while chunk := await reader.read(65536):
                answer += chunk
                if b"text/event-stream" in answer:
                    break
    except (TimeoutError, ConnectionError):
        pass  # whatever came is judged
    finally:
        writer.close()
    return answer


def request(method: str, path: str, key: str | None, *lines: str, body: bytes | None = None) -> bytes:
    """One request. A line of the same name replaces ours."""
    given = {line.partition(":")[0].lower() for line in lines}
    own = [("Host", "127.0.0.1"), ("Connection", "close")]
    if key:
        own.append(("Authorization", f"Bearer {key}"))
    if body is not None:
        own += [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
    head = [f"{name}: {value}" for name, value in own if name.lower() not in given]
    return "\r\n".join([f"{method} {path} HTTP/1.1", *head, *lines, "", ""]).encode("utf-8", "surrogatepass") + (
        body or b""
    )


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths to all values in a body."""
    if at:
        yield at
    inside: Any = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, item in inside:
        yield from places(item, (*at, name))


def with_value(body: Any, at: tuple[Any, ...], text: str) -> bytes:
    """The body, with this JSON text at a place."""
    changed = copy.deepcopy(body)
    inner = changed
    for name in at[:-1]:
        inner = inner[name]
    inner[at[-1]] = "@here@"
    return json.dumps(changed).replace('"@here@"', text).encode("utf-8", "surrogatepass")


def bodies_of(name: str, thing: Thing, operation: dict[str, Any]) -> Iterator[bytes]:
    """Odd bodies of a route that takes JSON: each field of what works, and each that the description knows."""
    sample = thing.json if thing.json is not None else ROUTES[name].json
    schema = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
    full = {**dict.fromkeys(schema.get("properties", ()), None), **(sample or {})}
    for at in places(full):
        for text in VALUES:
            yield with_value({**(sample or {}), at[0]: full[at[0]]}, at, text)
    yield from BODIES


def forms_of(operation: dict[str, Any]) -> Iterator[bytes]:
    """Odd forms of a route that takes files: each field, the file's name, the ends of the form."""
    schema = operation.get("requestBody", {}).get("content", {}).get("multipart/form-data", {}).get("schema")
    if schema is None:
        return
    files = [name for name in schema["properties"] if name in ("file", "image", "mask", "input_reference")]

    def part(name: str, value: bytes, more: bytes = b"") -> bytes:
        return b'--b\r\nContent-Disposition: form-data; name="%s"%s\r\n\r\n%s\r\n' % (name.encode(), more, value)

    file = part(files[0], picture(), b'; filename="a.png"')
    for name in schema["properties"]:
        for value in FORM_VALUES:
            yield file + part(name, value) + b"--b--\r\n"
            yield file + part(f"{name}[]", value) * 2 + b"--b--\r\n"
        yield file + part(name, b"1") * 500 + b"--b--\r\n"
    for filename in (b"\x00", b"../" * 300, b"a\x22; name=\x22x", b"\xff\xfe", b"x" * 5_000):
        yield part(files[0], picture(), b'; filename="%s"' % filename) + b"--b--\r\n"
    yield file
    yield file[:-40]
    yield b"--b--\r\n"
    yield file * 50 + b"--b--\r\n"
    yield part("x" * 70_000, b"1") + file + b"--b--\r\n"
    yield b"--b\r\n" + b"X: y\r\n" * 5_000 + b"\r\n1\r\n--b--\r\n"


def requests_of(name: str, thing: Thing, operation: dict[str, Any], key: str | None) -> Iterator[bytes]:
    """Every odd request of a route."""
    method, pattern = name.split(" ", 1)
    given = {**ROUTES[name].params, **thing.params}
    path = re.sub(r"\{(\w+)\}", lambda match: given[match[1]], pattern)
    sample = thing.json if thing.json is not None else ROUTES[name].json
    body = json.dumps(sample).encode() if sample is not None else None if method in ("GET", "DELETE") else b"{}"
    for odd in SEGMENTS:
        for wrong in re.findall(r"\{(\w+)\}", pattern):
            odd_path = re.sub(
                r"\{(\w+)\}", lambda match, w=wrong, o=odd: o if match[1] == w else given[match[1]], pattern
            )  # type: ignore[misc]
            yield request(method, odd_path, key, body=body)
    query = [one["name"] for one in operation.get("parameters", ()) if one.get("in") == "query"]
    for parameter in [*query, "unknown"]:
        for value in QUERY:
            yield request(method, f"{path}?{parameter}={value}", key, body=body)
        yield request(method, f"{path}?{parameter}=1&{parameter}=2&{parameter}[]=3&{parameter}", key, body=body)
    for other in ("HEAD", "OPTIONS", "TRACE", "PROPFIND", "get"):
        yield request(other, path, key)
    if "requestBody" in operation:
        for odd_body in bodies_of(name, thing, operation):
            yield request(method, path, key, body=odd_body)
    for odd_form in forms_of(operation):
        yield request(method, path, key, "Content-Type: multipart/form-data; boundary=b", body=odd_form)
    for line in HEADERS:
        yield request(method, path, key, line, body=body)


async def test_no_route_breaks_whatever_it_is_sent(everything: World, description: dict[str, Any]) -> None:
    codes = {error["code"] for error in description["x-errors"]}
    wrong: list[str] = []
    sent = 0
    roll = random.Random(SEED)
    for name in ROUTES:
        method, path = name.split(" ", 1)
        route, operation = ROUTES[name], description["paths"][path][method.lower()]
        if route.of == "leaving" or route.of == "joining":
            continue  # of somebody who is gone then: each is sent by the fuzzers
        thing = await everything.thing(route.of) if route.of else Thing()
        key = everything.keys.get(route.who)
        odd_ones = requests_of(name, thing, operation, key)
        waiting = iter(
            [one for one in odd_ones if ALL or any(odd in one for odd in ALWAYS) or roll.random() * SHARE < 1]
        )

        async def sender(name: str = name, waiting: Iterator[bytes] = waiting) -> None:
            nonlocal sent
            for odd in waiting:
                sent += 1
                answer = await exchange(everything, odd)
                _, why = judge(odd, answer, codes)
                if why:
                    wrong.append(f"{name}: {why}\n    {odd[:300]!r}\n    {answer[:400]!r}")

        await asyncio.gather(*(sender() for _ in range(8)))
    assert not wrong, f"{len(wrong)} of {sent}\n" + "\n".join(wrong[:40])
    assert sent > (10_000 if ALL else 800)

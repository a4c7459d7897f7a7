"""Uploads that come by an address, too slowly, compressed, or with more in them than is shown."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import io
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from PIL import Image

from tessera.api.artifacts.uploads import MAX_FETCHES_OF_USER
from tessera.config import ClusterConfig, NodeConfig, OutboundConfig
from tessera.ids import Prefix, parse
from tests.integration.api_server import Api, running
from tests.integration.people import Person, service_key

HERE = ClusterConfig(nodes=(NodeConfig(name="pc2"),), outbound=OutboundConfig(allow=("127.0.0.1",)))


def photo() -> bytes:
    """A JPEG, lying on its side, that tells where it was taken."""
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010E] = "my home address"
    out = io.BytesIO()
    Image.new("RGB", (60, 40), "teal").save(out, "JPEG", exif=exif)
    return out.getvalue()


@pytest.fixture
async def open_api(database_url: str, tmp_path: Path) -> AsyncIterator[Api]:
    """An API that may fetch from this machine."""
    async with running(database_url, tmp_path, cluster=HERE) as started:
        yield started


@contextlib.asynccontextmanager
async def site(handler: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> AsyncIterator[str]:
    """A web server that answers everything by one handler; its address."""
    app = web.Application()
    app.router.add_get("/{path:.*}", handler)
    runner = web.AppRunner(app, shutdown_timeout=0.2)
    await runner.setup()
    server = web.TCPSite(runner, "127.0.0.1", 0)
    await server.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def fetch(api: Api, url: Any) -> tuple[int, Any]:
    answer, body = await api.call("POST", "/v1/uploads", json={"url": url})
    return answer.status, body


async def test_a_photo_is_kept_as_it_is_seen_and_without_where_it_was_taken(api: Api) -> None:
    form = aiohttp.FormData()
    form.add_field("file", photo(), filename="x.svg", content_type="image/svg+xml")
    answer, upload = await api.call("POST", "/v1/uploads", data=form)
    assert (answer.status, upload["media_type"], upload["width"], upload["height"]) == (201, "image/jpeg", 40, 60)
    stored = await api.sql.fetchrow(
        "SELECT sha256, bytes FROM uploads WHERE id = $1", parse(Prefix.UPLOAD, upload["id"])
    )
    data = await api.store.get(stored["sha256"])
    assert len(data) == stored["bytes"] == upload["bytes"]
    assert b"my home address" not in data
    assert b"Exif" not in data


async def test_pages_and_scripts_are_never_taken(api: Api) -> None:
    for data in (b"<svg xmlns='http://www.w3.org/2000/svg' onload='x'/>", b"<!doctype html><script>1</script>"):
        form = aiohttp.FormData()
        form.add_field("file", data, filename="a.png", content_type="image/png")
        answer, problem = await api.call("POST", "/v1/uploads", data=form)
        assert (answer.status, problem["code"]) == (415, "unsupported_media")


async def test_a_file_is_fetched_from_an_address_that_may_be_reached(open_api: Api) -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        if request.path == "/moved":
            raise web.HTTPFound("/photo.jpg")
        if request.path == "/photo.jpg":
            return web.Response(body=photo(), content_type="text/html")
        if request.path == "/page":
            return web.Response(text="<html></html>", content_type="image/png")
        if request.path == "/empty":
            return web.Response(body=b"")
        raise web.HTTPNotFound

    async with site(handler) as url:
        for path in ("/photo.jpg", "/moved"):
            status, upload = await fetch(open_api, url + path)
            assert (status, upload["media_type"], upload["width"]) == (201, "image/jpeg", 40)
        assert (await fetch(open_api, url + "/page"))[1]["code"] == "unsupported_media"
        assert (await fetch(open_api, url + "/empty"))[1]["errors"] == [{"field": "url", "message": "is empty"}]
        status, problem = await fetch(open_api, url + "/nothing")
        assert (status, problem["code"], problem["reason"]) == (422, "fetch_failed", "status")


async def test_what_is_not_on_the_public_internet_is_not_fetched(api: Api) -> None:
    for url in (
        "http://127.0.0.1:5432/",
        "http://localhost/",
        "http://10.0.0.1/",
        "http://169.254.169.254/latest/meta-data/",
        "http://[::1]/",
        "http://[::ffff:127.0.0.1]/",
        "http://100.64.0.1/",
        "http://2130706433/",
        "file:///etc/passwd",
        "gopher://example.org/",
        "http://user:secret@example.org/",
    ):
        status, problem = await fetch(api, url)
        assert (status, problem["code"]) == (422, "address_refused"), url
        assert problem["errors"][0]["field"] == "url"
    for wrong in (None, "", 3, ["http://example.org/"]):
        status, problem = await fetch(api, wrong)
        assert (status, problem["errors"][0]["field"]) == (422, "url")
    answer, problem = await api.call("POST", "/v1/uploads", json={"url": "http://example.org/" + "x" * 20_000})
    assert (answer.status, problem["code"]) == (413, "payload_too_large")
    answer, problem = await api.call("POST", "/v1/uploads", json={"url": "http://example.org/", "more": 1})
    assert (answer.status, problem["errors"][0]["field"]) == (422, "more")
    assert await api.sql.fetchval("SELECT count(*) FROM uploads") == 0


async def test_a_redirect_into_the_network_is_not_followed(open_api: Api) -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        raise web.HTTPFound("http://127.0.0.2:1/secret")

    async with site(handler) as url:
        status, problem = await fetch(open_api, url)
        assert (status, problem["code"]) == (422, "address_refused")


async def test_a_file_without_an_end_is_cut_off(open_api: Api) -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        with contextlib.suppress(ConnectionError):
            for _ in range(110):
                await response.write(b"\0" * (1 << 20))
        return response

    async with site(handler) as url:
        status, problem = await fetch(open_api, url)
        assert (status, problem["code"], problem["reason"]) == (422, "fetch_failed", "too_large")


async def test_slow_servers_of_one_user_hold_up_nobody_else(open_api: Api) -> None:
    let_go, asked = asyncio.Event(), asyncio.Semaphore(0)

    async def handler(request: web.Request) -> web.StreamResponse:
        asked.release()
        if request.path == "/slow":
            await let_go.wait()
        return web.Response(body=photo())

    async with site(handler) as url:
        waiting = [asyncio.create_task(fetch(open_api, url + "/slow")) for _ in range(MAX_FETCHES_OF_USER)]
        for _ in waiting:
            await asked.acquire()
        status, problem = await fetch(open_api, url + "/fast")
        assert (status, problem["code"]) == (429, "rate_limited")
        other = Person(open_api, await service_key(open_api), "telegram:5")
        answer, _ = await other.call("POST", "/v1/uploads", json={"url": url + "/fast"})
        assert answer.status == 201
        let_go.set()
        assert [status for status, _ in await asyncio.gather(*waiting)] == [201] * len(waiting)
        assert (await fetch(open_api, url + "/fast"))[0] == 201


# ------------------------------------------------------------------ hostile bodies


async def test_compressed_bodies_are_refused_unread(api: Api) -> None:
    bomb = gzip.compress(b" " * 50_000_000)
    for path in ("/v1/jobs", "/v1/uploads", "/openai/v1/chat/completions", "/nowhere"):
        for encoding in ("gzip", "deflate", "br", "gzip, gzip"):
            headers = {"Content-Encoding": encoding, "Content-Type": "application/json"}
            answer, _ = await api.call("POST", path, data=bomb, headers=headers)
            assert (answer.status, answer.headers["Accept-Encoding"]) == (415, "identity")
    answer, _ = await api.call(
        "POST", "/v1/jobs", data=b'{"kind":"text","input":{"prompt":"x"}}', headers={"Content-Encoding": "identity"}
    )
    assert answer.status == 202


async def test_a_body_that_stalls_is_cut_off_and_told_so(database_url: str, tmp_path: Path) -> None:
    async with running(database_url, tmp_path, body_silence_s=0.3) as api:
        host, port = api.url.removeprefix("http://").split(":")
        for path, kind, first in (
            ("/v1/jobs", "application/json", "{"),
            ("/v1/uploads", "multipart/form-data; boundary=x", "-"),
            ("/openai/v1/chat/completions", "application/json", "{"),
        ):
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(
                f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {api.key}\r\nContent-Type: {kind}\r\n"
                f"Content-Length: 1000\r\n\r\n{first}".encode()
            )
            await writer.drain()
            async with asyncio.timeout(30):
                told = await reader.read()  # to the end: the server closes
            writer.close()
            head, _, body = told.partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 408"), (path, head)
            code = json.loads(body).get("code") or json.loads(body)["error"]["code"]
            assert code == "request_timeout"
        # Who waits for an answer is not a slow body.
        answer, _ = await api.call(
            "POST", "/v1/jobs", json={"kind": "text", "input": {"prompt": "x"}}, headers={"Prefer": "wait=1"}
        )
        assert answer.status == 202


async def test_every_refusal_of_a_submission_tells_of_a_limit_and_a_flood_of_them_ends(api: Api) -> None:
    key = await api.add_key(user_id=await api.add_user("free", requests_per_min=30))
    statuses = []
    for number in range(34):
        body = b"{" if number % 2 else b'{"kind":"image","input":{}}'
        answer, _ = await api.call("POST", "/v1/jobs", key=key, data=body)
        assert answer.headers["RateLimit-Policy"] == '"requests";q=30;w=60'
        assert answer.headers["RateLimit"].startswith('"requests";r=')
        statuses.append(answer.status)
    assert set(statuses[:30]) == {400, 422}
    assert statuses[-1] == 429
    # What is admitted is counted apart.
    answer, _ = await api.call("POST", "/v1/jobs", key=key, json={"kind": "text", "input": {"prompt": "x"}})
    assert (answer.status, answer.headers["RateLimit-Policy"]) == (202, '"submissions";q=30;w=60')

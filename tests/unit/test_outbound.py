"""Addresses that users give: only the public internet is reached, whatever a name or a redirect says."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence

import pytest
from aiohttp import web

from tessera.config import ConfigError, load_cluster
from tessera.errors import AddressRefused, FetchFailed, FetchFailure
from tessera.outbound import Outbound, is_public, read_networks

LOOPBACK = ["127.0.0.1"]

PRIVATE = [
    "0.0.0.0",
    "10.1.2.3",
    "100.64.0.1",
    "100.100.100.200",
    "127.0.0.1",
    "127.8.8.8",
    "168.63.129.16",
    "169.254.169.254",
    "172.16.0.1",
    "172.31.255.255",
    "192.0.0.192",
    "192.0.2.1",
    "192.88.99.1",
    "192.168.0.1",
    "198.18.0.1",
    "198.51.100.1",
    "203.0.113.9",
    "224.0.0.1",
    "239.255.255.255",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::ffff:127.0.0.1",
    "::ffff:8.8.8.8",
    "::127.0.0.1",
    "64:ff9b::7f00:1",
    "64:ff9b::808:808",
    "64:ff9b:1::1",
    "2001::1",
    "2001:db8::1",
    "2002:7f00:1::",
    "3fff::1",
    "fc00::1",
    "fd00:ec2::254",
    "fe80::1",
    "fe80::1%eth0",
    "fec0::1",
    "ff02::1",
    "2606:4700::1%eth0",
    "127.1",
    "2130706433",
    "0x7f000001",
    "nonsense",
]
PUBLIC = ["1.1.1.1", "8.8.8.8", "93.184.216.34", "100.63.255.255", "172.32.0.1", "2606:4700::1111", "2a00:1450::1"]


@pytest.mark.parametrize("address", PRIVATE)
def test_no_special_address_is_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", PUBLIC)
def test_addresses_of_the_internet_are_public(address: str) -> None:
    assert is_public(address)


def test_an_operator_can_allow_a_range_and_nothing_beside_it() -> None:
    allow = read_networks(["192.168.1.0/24", "fd00::/8"])
    assert is_public("192.168.1.7", allow) and is_public("fd00::1", allow)
    assert not is_public("192.168.2.7", allow) and not is_public("10.0.0.1", allow) and not is_public("fc00::1", allow)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "example.org",
        "//example.org/x",
        "ftp://example.org/x",
        "file:///etc/passwd",
        "gopher://example.org",
        "http://",
        "http:///x",
        "http://user@example.org/",
        "http://user:secret@example.org/",
        "http://@example.org/",
        "http://example.org\\@127.0.0.1/",
        "http:\\\\127.0.0.1/",
        "http://exa mple.org/",
        "http://example.org/\nHost: other",
        "http://example.org:99999/",
        "http://127.0.0.1/",
        "http://127.1/",
        "http://2130706433/",
        "http://[::1]/",
        "http://[::ffff:127.0.0.1]/",
        "http://169.254.169.254/latest/meta-data",
        "http://localhost:8000/",
        "http://LOCALHOST./",
        "https://example.org/" + "x" * 2048,
    ],
)
def test_an_address_that_is_wrong_to_the_eye_is_refused_before_any_connection(url: str) -> None:
    with pytest.raises(AddressRefused) as refused:
        Outbound().check(url)
    assert "Nothing was sent or stored" in refused.value.message
    assert "secret" not in refused.value.message


@pytest.mark.parametrize(
    "url", ["https://example.org/?mail=a@b", "http://example.org:8080/@a#b", "https://bücher.example"]
)
def test_an_ordinary_address_passes(url: str) -> None:
    assert Outbound().check(url).fragment == ""


class Server:
    """A server on loopback that counts who reaches it."""

    def __init__(self) -> None:
        self.reached: list[str] = []
        self.redirect_to = ""
        self.hanging = asyncio.Event()
        self.release = asyncio.Event()
        self.port = 0
        self.headers: dict[str, str] = {}

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Server]:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._answer)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.port = runner.addresses[0][1]
        try:
            yield self
        finally:
            self.release.set()
            await runner.cleanup()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        path = request.match_info["path"]
        self.reached.append(f"{request.method} {path}")
        self.headers = dict(request.headers)
        if path == "redirect":
            return web.Response(status=302, headers={"Location": self.redirect_to})
        if path == "hang":
            self.hanging.set()
            await self.release.wait()
        if path == "gone":
            return web.Response(status=410, text="no more")
        if path == "packed":
            return web.Response(body=b"x", headers={"Content-Encoding": "gzip"})
        if path == "endless":
            answer = web.StreamResponse()
            await answer.prepare(request)
            with contextlib.suppress(ConnectionError):
                while not self.release.is_set():
                    await answer.write(b"x" * 65536)
            return answer
        if path == "body-hangs":
            answer = web.StreamResponse()
            answer.content_length = 100
            await answer.prepare(request)
            await answer.write(b"beginning")
            await self.release.wait()
            return answer
        return web.Response(body=b"y" * int(request.query.get("bytes", "3")), content_type="image/png")

    def url(self, path: str, host: str = "127.0.0.1") -> str:
        return f"http://{host}:{self.port}/{path}"


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with Server().running() as running:
        yield running


async def fetch(outbound: Outbound, url: str, *, max_bytes: int = 1000, **options: int) -> bytes:
    async with outbound.fetch(url, max_bytes=max_bytes, timeout_s=30, **options) as fetched:
        return b"".join([chunk async for chunk in fetched.chunks])


async def test_a_name_that_leads_to_a_private_address_is_refused_at_the_connection(server: Server) -> None:
    async def lookup(host: str, port: int) -> Sequence[str]:
        return ["10.0.0.1", "127.0.0.1"]

    async with Outbound(lookup=lookup) as outbound:
        url = server.url("x", "looks-public.example")
        assert outbound.check(url)
        with pytest.raises(AddressRefused):
            await outbound.post(url, b"{}", {}, timeout_s=30)
        with pytest.raises(AddressRefused):
            await fetch(outbound, url)
    assert server.reached == []


async def test_a_name_that_leads_elsewhere_the_second_time_passes_nothing(server: Server) -> None:
    """DNS rebinding: what is connected to is what was checked, at each connection."""
    answers = [["127.0.0.1"], ["127.0.0.2"]]

    async def lookup(host: str, port: int) -> Sequence[str]:
        return answers.pop(0)

    async with Outbound(LOOPBACK, lookup=lookup) as outbound:
        url = server.url("hang", "rebinding.example")
        first = asyncio.create_task(outbound.post(url, b"{}", {}, timeout_s=30))
        await server.hanging.wait()
        with pytest.raises(AddressRefused):  # a second connection, for the first is in use
            await outbound.post(url, b"{}", {}, timeout_s=30)
        server.release.set()
        assert (await first).status == 200
    assert server.reached == ["POST hang"] and answers == []


async def test_of_several_addresses_only_those_that_may_be_reached_are_tried(server: Server) -> None:
    async def lookup(host: str, port: int) -> Sequence[str]:
        return ["127.0.0.9", "::1", "127.0.0.1"]

    async with Outbound(LOOPBACK, lookup=lookup) as outbound:
        assert await fetch(outbound, server.url("x", "several.example")) == b"yyy"


async def test_a_redirect_is_an_answer_to_a_post_and_never_followed(server: Server) -> None:
    server.redirect_to = server.url("elsewhere")
    async with Outbound(LOOPBACK) as outbound:
        answered = await outbound.post(server.url("redirect"), b"{}", {}, timeout_s=30)
    assert (answered.status, answered.location) == (302, server.redirect_to)
    assert server.reached == ["POST redirect"]


async def test_a_redirect_of_a_file_fails_visibly_unless_it_may_be_followed(server: Server) -> None:
    server.redirect_to = "/elsewhere"
    async with Outbound(LOOPBACK) as outbound:
        with pytest.raises(FetchFailed) as failed:
            await fetch(outbound, server.url("redirect"))
        assert failed.value.details["reason"] == FetchFailure.REDIRECTED
        assert server.reached == ["GET redirect"]
        async with outbound.fetch(server.url("redirect"), max_bytes=9, timeout_s=30, max_redirects=1) as fetched:
            assert fetched.hops == (server.url("redirect"), server.url("elsewhere"))
            assert [chunk async for chunk in fetched.chunks] == [b"yyy"]


async def test_a_redirect_to_a_private_address_is_refused_however_many_may_be_followed(server: Server) -> None:
    async with Outbound(LOOPBACK) as outbound:
        for target in ("http://169.254.169.254/", "http://[::1]/", "file:///etc/passwd", "http://u:p@127.0.0.1/"):
            server.redirect_to = target
            with pytest.raises(AddressRefused):
                await fetch(outbound, server.url("redirect"), max_redirects=5)
        server.redirect_to = server.url("redirect")
        with pytest.raises(FetchFailed, match="after 3 redirects"):
            await fetch(outbound, server.url("redirect"), max_redirects=3)


async def test_a_file_is_cut_at_the_limit_whatever_its_length_says(server: Server) -> None:
    async with Outbound(LOOPBACK) as outbound:
        assert len(await fetch(outbound, server.url("x?bytes=1000"))) == 1000
        for path in ("x?bytes=1001", "endless"):
            with pytest.raises(FetchFailed) as failed:
                await fetch(outbound, server.url(path))
            assert failed.value.details["reason"] == FetchFailure.TOO_LARGE


@pytest.mark.parametrize(("path", "reason"), [("gone", FetchFailure.STATUS), ("packed", FetchFailure.BROKEN)])
async def test_what_is_not_the_file_is_a_failure_with_its_reason(
    server: Server, path: str, reason: FetchFailure
) -> None:
    async with Outbound(LOOPBACK) as outbound:
        with pytest.raises(FetchFailed) as failed:
            await fetch(outbound, server.url(path))
    assert failed.value.details["reason"] == reason


async def test_who_does_not_answer_ends_with_the_time_limit(server: Server) -> None:
    async with Outbound(LOOPBACK) as outbound:
        with pytest.raises(FetchFailed) as failed:
            await outbound.post(server.url("hang"), b"{}", {}, timeout_s=0.2)
        assert failed.value.details["reason"] == FetchFailure.TIMEOUT
        with pytest.raises(FetchFailed) as failed:
            async with outbound.fetch(server.url("body-hangs"), max_bytes=1000, timeout_s=0.5) as fetched:
                assert [chunk async for chunk in fetched.chunks]
        assert failed.value.details["reason"] == FetchFailure.TIMEOUT


async def test_a_post_tells_the_beginning_of_a_long_answer_and_sends_nothing_of_ours(server: Server) -> None:
    async with Outbound(LOOPBACK) as outbound:
        answered = await outbound.post(server.url("endless"), b"{}", {"webhook-id": "m1"}, timeout_s=30, head_bytes=10)
        assert (answered.status, answered.head) == (200, b"x" * 10)
        assert server.headers["webhook-id"] == "m1"
        assert not {"Cookie", "Authorization"} & set(server.headers)


async def test_a_closed_port_and_an_unknown_name_are_told_apart() -> None:
    async def unknown(host: str, port: int) -> Sequence[str]:
        return []

    async with Outbound(LOOPBACK) as outbound:
        with pytest.raises(FetchFailed) as failed:
            await outbound.post("http://127.0.0.1:1/", b"", {}, timeout_s=30)
        assert failed.value.details["reason"] == FetchFailure.NO_CONNECTION
    async with Outbound(lookup=unknown) as outbound:
        with pytest.raises(FetchFailed) as failed:
            await outbound.post("http://nowhere.example/", b"", {}, timeout_s=30)
        assert failed.value.details["reason"] == FetchFailure.UNKNOWN_HOST


def test_the_environment_adds_to_the_ranges_of_the_cluster_file() -> None:
    assert load_cluster({}).outbound.allow == ()
    allowed = load_cluster({"TESSERA_OUTBOUND_ALLOW": "192.168.1.0/24, 10.0.0.7"}).outbound.allow
    assert allowed == ("192.168.1.0/24", "10.0.0.7/32")
    with pytest.raises(ConfigError, match=r"TESSERA_OUTBOUND_ALLOW.*'nonsense'"):
        load_cluster({"TESSERA_OUTBOUND_ALLOW": "nonsense"})

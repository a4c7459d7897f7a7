"""The one way by which Tessera fetches from or posts to an address that a user has given: webhooks, uploads by URL.

Such an address must not be a door into this machine or its network. Whether it may be reached is decided on the
*resolved* address, and again on the very address that a socket is about to connect to, so that a name that resolves
differently the next moment (DNS rebinding) passes nothing. Only addresses of the public internet are reached, and what
the operator has allowed (``[outbound] allow`` in the cluster file, or TESSERA_OUTBOUND_ALLOW).

Nothing here follows a redirect by itself, trusts a proxy of the environment, keeps a cookie, or sends a key of ours.
The special ranges: https://www.iana.org/assignments/iana-ipv4-special-registry and …/iana-ipv6-special-registry
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import re
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from tessera.errors import AddressRefused, FetchFailed, FetchFailure

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Lookup = Callable[[str, int], Awaitable[Sequence[str]]]

MAX_URL_CHARS = 2048
MAX_LINE_BYTES = 8190  # of an answer's status line and of each header
CONNECT_TIMEOUT_S = 10.0
HEAD_TIMEOUT_S = 5.0  # for the body of an answer to a POST: its status has said what matters
# Of a POST's answer so much is read before its connection is given up: what is shown of it is far less.
DRAIN_BYTES = 64 << 10
# A name server that hangs keeps a thread for some 10 s. Threads of their own, so that nothing else waits for one.
LOOKUP_THREADS = 32
USER_AGENT = "Tessera/1 (+webhooks and uploads by URL)"

_REFUSED = tuple(
    ipaddress.ip_network(network)
    for network in (
        "0.0.0.0/8",  # this network; 0.0.0.0 is this machine
        "10.0.0.0/8",
        "100.64.0.0/10",  # shared by carriers (CGNAT), and a cloud's metadata
        "127.0.0.0/8",
        "168.63.129.16/32",  # a public number that reaches a cloud's host from inside
        "169.254.0.0/16",  # link-local, and most clouds' metadata
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.88.99.0/24",  # relays of 6to4
        "192.168.0.0/16",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, and broadcast
        "2001::/23",  # protocols, among them Teredo, which carries an IPv4 address
        "2001:db8::/32",
        "2002::/16",  # 6to4 carries an IPv4 address
        "3fff::/20",
    )
)
# Of IPv6 only this is the public internet. Outside of it lie ::1, ::ffff:0:0/96 (IPv4 in disguise), 64:ff9b::/96
# (NAT64), fc00::/7, fe80::/10 and ff00::/8.
_PUBLIC_IPV6 = ipaddress.ip_network("2000::/3")


def read_networks(texts: Sequence[str]) -> tuple[Network, ...]:
    """The ranges that an operator allows ("192.168.1.0/24", "10.0.0.7"). Raises ValueError with the wrong one."""
    return tuple(ipaddress.ip_network(text.strip()) for text in texts)


def is_public(address: str, allow: Sequence[Network] = ()) -> bool:
    """Whether a connection to this IP address (text, with or without a zone) may be made. What is no address is not."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return False
    if any(found in network for network in allow):
        return True
    if isinstance(found, ipaddress.IPv6Address) and (found.scope_id is not None or found not in _PUBLIC_IPV6):
        return False
    return not any(found in network for network in _REFUSED)


@dataclass(frozen=True, kw_only=True)
class Answered:
    """What came back for a POST: the status as it is (a redirect, too, which was not followed), and its beginning."""

    status: int
    headers: Mapping[str, str]
    head: bytes
    elapsed_s: float

    @property
    def location(self) -> str | None:
        """Where a redirect points to, None for any other answer."""
        return self.headers.get("Location", "") if 300 <= self.status < 400 else None


@dataclass(frozen=True, kw_only=True)
class Fetched:
    """A file that is being fetched. ``media_type`` and ``size_bytes`` are what the server claims; believe neither.

    ``hops`` are the addresses that led here, the given one first, ``url`` the last. Read ``chunks`` once, inside of
    the context.
    """

    url: str
    hops: tuple[str, ...]
    media_type: str
    size_bytes: int | None
    chunks: AsyncIterator[bytes]


class Outbound:
    """The guarded session. Use it as ``async with Outbound(allow) as outbound``, or call ``close``.

    ``allow`` are ranges beyond the public internet. ``lookup`` resolves a name; only tests bring their own.
    Calls may run at the same time; each has its own limit of time, so a slow server delays nobody else.
    """

    def __init__(self, allow: Sequence[str] = (), *, lookup: Lookup | None = None) -> None:
        self._allow = read_networks(allow)
        self._threads = ThreadPoolExecutor(LOOKUP_THREADS, thread_name_prefix="lookup") if lookup is None else None
        self._lookup = lookup or self._look_up
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """End all connections. Safe to repeat."""
        if self._session is not None:
            await self._session.close()
            self._session = None
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)

    def check(self, url: str) -> URL:
        """Refuse at once what can be seen to be wrong, before any connection: for a field that a user fills in.

        A name passes here; where it leads is checked at each connection. Raises AddressRefused.
        """
        if len(url) > MAX_URL_CHARS:
            raise AddressRefused(f"The address is longer than {MAX_URL_CHARS} characters. Nothing was sent or stored.")
        if any(ord(character) <= 32 or ord(character) == 127 for character in url):
            raise AddressRefused(
                "The address contains a space or a control character. Nothing was sent or stored; encode it as %…"
            )
        try:
            found = URL(url)
            host, port = found.host, found.port
        except (ValueError, UnicodeError) as error:
            raise AddressRefused(
                f"This is not an address of the web ({error}). Nothing was sent or stored; give one like"
                " https://example.org/path."
            ) from None
        if found.scheme not in ("http", "https") or not host or not port:
            raise AddressRefused(
                "Only addresses that begin with http:// or https:// and name a host can be used. Nothing was sent or"
                " stored."
            )
        if (
            found.raw_user is not None
            or found.raw_password is not None
            or "@" in re.split(r"[/?#]", url.split("://", 1)[1], maxsplit=1)[0]
        ):
            raise AddressRefused(
                "The address contains a user name or password, which would end up in logs. Nothing was sent or stored;"
                " leave them out."
            )
        # What looks like a number is refused unless it is the plain form of a public address: a resolver would read
        # "127.1" and "2130706433" as this machine ("0x7f.1", too, which is then refused at the connection).
        if host.replace(".", "").isdigit() or ":" in host:
            if not is_public(host, self._allow):
                raise _private(host)
        elif host.rstrip(".").lower() == "localhost" and not is_public("127.0.0.1", self._allow):
            raise _private(host)
        return found.with_fragment(None)

    async def post(
        self,
        url: str,
        body: bytes,
        headers: Mapping[str, str],
        *,
        timeout_s: float,
        head_bytes: int = 1024,
    ) -> Answered:
        """Send a body; whatever status comes back is an answer, redirects too, which are never followed.

        ``timeout_s`` bounds all of it. Raises AddressRefused, or FetchFailed when there was no answer.
        """
        begun = time.monotonic()
        target = self.check(url)
        try:
            async with (
                asyncio.timeout(timeout_s),
                self._open("POST", target, timeout_s=timeout_s, data=body, headers=headers) as response,
            ):
                answered_s = time.monotonic() - begun
                head = await self._head(response, head_bytes)
                return Answered(
                    status=response.status,
                    headers=dict(response.headers),
                    head=head,
                    elapsed_s=answered_s,
                )
        except TimeoutError as error:
            raise _timed_out(target, timeout_s) from error

    @contextlib.asynccontextmanager
    async def fetch(
        self,
        url: str,
        *,
        max_bytes: int,
        timeout_s: float,
        max_redirects: int = 0,
        headers: Mapping[str, str] | None = None,
    ) -> AsyncIterator[Fetched]:
        """Fetch a file as a stream of at most ``max_bytes``, within ``timeout_s`` from here to its last byte.

        With ``max_redirects`` so many redirects are followed, each checked like the first address; they are told in
        ``hops``. Raises AddressRefused, or FetchFailed (also from ``chunks``): see ``FetchFailure``.
        """
        hops: list[str] = []
        target = self.check(url)
        deadline = asyncio.get_running_loop().time() + timeout_s
        while True:
            hops.append(str(target))
            async with contextlib.AsyncExitStack() as stack:
                try:
                    async with asyncio.timeout_at(deadline):
                        response = await stack.enter_async_context(
                            self._open("GET", target, timeout_s=timeout_s, headers={"Accept": "*/*", **(headers or {})})
                        )
                except TimeoutError as error:
                    raise _timed_out(target, timeout_s) from error
                if response.status not in (301, 302, 303, 307, 308):
                    yield self._fetched(response, target, hops, max_bytes, timeout_s, deadline)
                    return
                target = self._next_hop(response, target, hops, max_redirects)

    def _fetched(
        self,
        response: aiohttp.ClientResponse,
        target: URL,
        hops: list[str],
        max_bytes: int,
        timeout_s: float,
        deadline: float,
    ) -> Fetched:
        if response.status != 200:
            raise FetchFailed(
                f"{target.host} answered {response.status} instead of the file. Nothing was stored; check the address.",
                reason=FetchFailure.STATUS,
                answered_status=response.status,
            )
        if response.headers.get("Content-Encoding", "identity").lower() not in ("", "identity"):
            raise FetchFailed(
                f"{target.host} sent the file compressed, although that was not asked for. Nothing was stored.",
                reason=FetchFailure.BROKEN,
            )
        if response.content_length is not None and response.content_length > max_bytes:
            raise _too_large(target, max_bytes)
        return Fetched(
            url=str(target),
            hops=tuple(hops),
            media_type=response.content_type,
            size_bytes=response.content_length,
            chunks=self._chunks(response, target, max_bytes, timeout_s, deadline),
        )

    async def _chunks(
        self, response: aiohttp.ClientResponse, target: URL, max_bytes: int, timeout_s: float, deadline: float
    ) -> AsyncIterator[bytes]:
        done = 0
        while True:
            # Around each read, not around the loop: the time that the reader takes is inside all the same.
            try:
                async with asyncio.timeout_at(deadline):
                    chunk = await response.content.readany()
            except TimeoutError as error:
                raise _timed_out(target, timeout_s) from error
            except (aiohttp.ClientError, OSError) as error:
                raise _failed(target, error) from error
            if not chunk:
                return
            done += len(chunk)
            if done > max_bytes:
                raise _too_large(target, max_bytes)
            yield chunk

    def _next_hop(self, response: aiohttp.ClientResponse, target: URL, hops: list[str], max_redirects: int) -> URL:
        location = response.headers.get("Location", "")
        if len(hops) > max_redirects:
            raise FetchFailed(
                f"{target.host} redirects to {location[:200] or 'nowhere'!r}"
                + (f", after {max_redirects} redirects" if max_redirects else "")
                + ". Nothing was fetched; give the final address itself.",
                reason=FetchFailure.REDIRECTED,
                location=location[:MAX_URL_CHARS],
            )
        try:
            following = target.join(URL(location))
        except ValueError as error:
            raise FetchFailed(
                f"{target.host} redirects to something that is no address. Nothing was fetched.",
                reason=FetchFailure.REDIRECTED,
            ) from error
        if target.scheme == "https" and following.scheme == "http":
            raise FetchFailed(
                f"{target.host} redirects from https to http. Nothing was fetched; give the final address itself.",
                reason=FetchFailure.REDIRECTED,
                location=str(following)[:MAX_URL_CHARS],
            )
        return self.check(str(following))

    @contextlib.asynccontextmanager
    async def _open(self, method: str, target: URL, *, timeout_s: float, **options: Any) -> AsyncIterator[Any]:
        """One request, its answer open. Raises AddressRefused, FetchFailed, or TimeoutError."""
        try:
            response = await self._ready().request(
                method,
                target,
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(total=timeout_s, sock_connect=min(CONNECT_TIMEOUT_S, timeout_s)),
                **options,
            )
        except TimeoutError:
            raise
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise _failed(target, error) from error
        try:
            yield response
        finally:
            # A connection whose answer was read to its end is kept for the next request, any other is closed.
            response.release()

    async def _head(self, response: aiohttp.ClientResponse, head_bytes: int) -> bytes:
        """The first bytes of an answer; what breaks or hangs after the status changes nothing."""
        read = b""
        with contextlib.suppress(TimeoutError, aiohttp.ClientError, OSError):
            async with asyncio.timeout(HEAD_TIMEOUT_S):
                while len(read) < DRAIN_BYTES and (chunk := await response.content.readany()):
                    read += chunk
        if not response.content.at_eof():
            response.close()
        return read[:head_bytes]

    def _ready(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    limit=0,  # who calls bounds what runs at once
                    resolver=_GuardedResolver(self._lookup, self._allow),
                    use_dns_cache=False,
                    socket_factory=self._socket,
                    keepalive_timeout=15.0,
                ),
                headers={"User-Agent": USER_AGENT, "Accept-Encoding": "identity"},
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                trust_env=False,  # a proxy would connect for us, past the check
                max_line_size=MAX_LINE_BYTES,
                max_field_size=MAX_LINE_BYTES,
            )
        return self._session

    def _socket(self, info: Any) -> socket.socket:
        """Makes each socket, and sees the very address that it is about to be connected to."""
        family, kind, protocol, _, address = info
        if not is_public(str(address[0]), self._allow):
            raise _Blocked(str(address[0]))
        return socket.socket(family=family, type=kind, proto=protocol)

    async def _look_up(self, host: str, port: int) -> Sequence[str]:
        found = await asyncio.get_running_loop().run_in_executor(
            self._threads, lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        )
        return list(dict.fromkeys(str(entry[4][0]) for entry in found))


class _Blocked(OSError):
    """The address may not be reached."""


class _GuardedResolver(AbstractResolver):
    """Resolves a name and leaves only what may be reached."""

    def __init__(self, lookup: Lookup, allow: Sequence[Network]) -> None:
        self._lookup = lookup
        self._allow = allow

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        addresses = await self._lookup(host, port)
        reachable = [address for address in addresses if is_public(address, self._allow)]
        if not reachable:
            raise _Blocked(addresses[0]) if addresses else socket.gaierror(socket.EAI_NONAME, "no address")
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=0,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for address in reachable
            if family in (socket.AF_UNSPEC, socket.AF_INET6 if ":" in address else socket.AF_INET)
        ]

    async def close(self) -> None:
        """Nothing is held here."""


def _private(host: str) -> AddressRefused:
    return AddressRefused(
        f"{host[:200]} is not on the public internet, and this service reaches nothing else. Nothing was sent or"
        " stored; the operator can allow a range (docs/webhooks.md).",
        host=host[:200],
    )


def _timed_out(target: URL, timeout_s: float) -> FetchFailed:
    return FetchFailed(
        f"{target.host} took longer than {timeout_s:g} s.",
        reason=FetchFailure.TIMEOUT,
    )


def _too_large(target: URL, max_bytes: int) -> FetchFailed:
    return FetchFailed(
        f"The file at {target.host} is larger than the {max_bytes} bytes that are taken. Nothing was stored.",
        reason=FetchFailure.TOO_LARGE,
        max_bytes=max_bytes,
    )


def _failed(target: URL, error: BaseException) -> AddressRefused | FetchFailed:
    """What went wrong on the way, in words that tell nothing of our network."""
    host = target.host
    chain: BaseException | None = error
    while chain is not None:
        if isinstance(chain, _Blocked):
            return _private(host or "")
        chain = getattr(chain, "os_error", None) or chain.__cause__
    if isinstance(error, aiohttp.InvalidURL):
        return AddressRefused(f"{host} is not a host that can be reached. Nothing was sent or stored.")
    if isinstance(error, aiohttp.ClientConnectorCertificateError | aiohttp.ClientConnectorSSLError):
        return FetchFailed(f"The TLS certificate of {host} is not trusted, or its TLS failed.", reason=FetchFailure.TLS)
    if isinstance(error, aiohttp.ClientConnectorDNSError | socket.gaierror | UnicodeError):
        return FetchFailed(f"The name {host} is not known.", reason=FetchFailure.UNKNOWN_HOST)
    if isinstance(error, aiohttp.ClientConnectorError):
        return FetchFailed(f"{host} takes no connection.", reason=FetchFailure.NO_CONNECTION)
    return FetchFailed(f"The connection to {host} broke, or its answer is not HTTP.", reason=FetchFailure.BROKEN)

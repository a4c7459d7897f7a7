"""Which ports this home uses: the default where it is free, else a free one that stays the same from start to start.

Replacements come from 20000–29999: below the kernel's ephemeral range (32768 and up), so that no outgoing connection
takes a recorded port while its owner restarts, and outside of what Ray and Serve choose by themselves. Where the
search begins follows from the home, so that two checkouts started at the same time do not meet.

A port is chosen seconds before it is bound. For that time it is reserved by the name of an abstract Unix socket, which
all processes of the machine see and which ends with its process, however that ends (man 7 unix).
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from tessera.local.runtime import home_id

FIRST, LAST = 20_000, 29_999


_reserved: ContextVar[dict[int, socket.socket] | None] = ContextVar("_reserved", default=None)


@contextmanager
def reserving() -> Iterator[None]:
    """Within the block no other installation of this machine is given a port that this one was given."""
    held: dict[int, socket.socket] = {}
    token = _reserved.set(held)
    try:
        yield
    finally:
        _reserved.reset(token)
        for name in held.values():
            name.close()


def _reserve(port: int) -> bool:
    """False when another process has reserved the port."""
    held = _reserved.get()
    if held is not None and port in held:
        return True
    name = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        name.bind(f"\0tessera-port-{port}")
    except OSError as error:
        name.close()
        return error.errno != errno.EADDRINUSE  # where there are no abstract names there is no reservation
    if held is None:
        name.close()
    else:
        held[port] = name
    return True


class NoFreePort(Exception):
    """No port of the range is free. Something on this machine opens ports without end: 'ss -ltnp' shows what."""


def is_free(port: int, host: str = "") -> bool:
    """Whether a server could listen there now. The empty host asks for all interfaces, which is the stricter test."""
    for family, address in _addresses(host):
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            try:
                probe.bind((address, port))
                probe.listen(1)  # SO_REUSEADDR lets two sockets bind the same port; only one may listen
            except OSError as error:
                if error.errno in {errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL}:
                    continue
                return False
    return True


def free_port(home: Path, *preferred: int | None, taken: Collection[int] = (), host: str = "") -> int:
    """The first preferred port that is free, else one of our range. ``taken`` are those already given away."""
    for port in preferred:
        if port is not None and port not in taken and is_free(port, host) and _reserve(port):
            return port
    size = LAST - FIRST + 1
    start = int(home_id(home), 16) % size
    for step in range(size):
        port = FIRST + (start + step) % size
        if port not in taken and is_free(port, host) and _reserve(port):
            return port
    raise NoFreePort(NoFreePort.__doc__)


def free_range(home: Path, count: int, *preferred: int | None, taken: Collection[int] = ()) -> int:
    """The first port of ``count`` free neighbours: one of ``preferred``, else in our range."""
    size = LAST - FIRST + 1
    start = int(home_id(home), 16) % size
    candidates = [port for port in preferred if port is not None]
    candidates += [FIRST + (start + step) % size for step in range(0, size, count)]
    for first in candidates:
        wanted = range(first, first + count)
        if wanted[-1] <= 65_535 and not set(wanted) & set(taken) and all(is_free(port) for port in wanted):
            return first
    raise NoFreePort(NoFreePort.__doc__)


def _addresses(host: str) -> list[tuple[socket.AddressFamily, str]]:
    if not host:
        return [(socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")]  # noqa: S104 (bound for an instant, to test)
    return [(socket.AF_INET6 if ":" in host else socket.AF_INET, host)]

"""A small HTTP load generator: closed loop, keep-alive, bounded in requests; latencies in seconds."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import aiohttp


@dataclass(frozen=True, kw_only=True)
class Load:
    """What a load run has seen. ``latencies_s`` is sorted."""

    requests: int
    seconds: float
    failures: int
    latencies_s: Sequence[float]

    @property
    def per_second(self) -> float:
        return self.requests / self.seconds

    def percentile_ms(self, share: float) -> float:
        """The latency below which this share of the requests was answered, in milliseconds."""
        return 1000 * self.latencies_s[min(len(self.latencies_s) - 1, int(share * len(self.latencies_s)))]


async def run_load(connections: int, requests: int, send: Callable[[], Awaitable[int]], *, expect: int) -> Load:
    """Send so many requests over so many connections, each as soon as the one before is answered."""
    left = requests
    latencies: list[float] = []
    failures = 0

    async def connection() -> None:
        nonlocal left, failures
        while left > 0:
            left -= 1
            started = time.perf_counter()
            failures += int(await send() != expect)
            latencies.append(time.perf_counter() - started)

    started = time.perf_counter()
    await asyncio.gather(*(connection() for _ in range(connections)))
    return Load(
        requests=requests,
        seconds=time.perf_counter() - started,
        failures=failures,
        latencies_s=sorted(latencies),
    )


def session(url: str, key: str, connections: int) -> aiohttp.ClientSession:
    """A session with so many connections and the operator's key."""
    return aiohttp.ClientSession(
        url,
        connector=aiohttp.TCPConnector(limit=connections),
        headers={"Authorization": f"Bearer {key}"},
        timeout=aiohttp.ClientTimeout(total=60),
    )

"""The measurements over HTTP, each one round; the median of several is the caller's."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import cycle
from typing import Any

import aiohttp
import asyncpg

from benchmarks.home import Home, User
from benchmarks.load import Load, run_load, session
from tessera.ids import Prefix, parse


def body(model: str = "noop", prompt: str = "go") -> dict[str, Any]:
    """The smallest job."""
    return {"kind": "text", "model": model, "input": {"prompt": prompt, "max_tokens": 1}}


async def floor(url: str, connections: int, requests: int) -> Load:
    """The same request as a submission, to a FastAPI route behind the same Serve that does nothing."""
    wanted, headers = body(), {"Authorization": "Bearer nobody looks at it"}
    async with session(url, "", connections) as client:

        async def nothing() -> int:
            async with client.post("/bench-floor/v1/jobs", json=wanted, headers=headers) as answer:
                await answer.read()
                return answer.status

        return await run_load(connections, requests, nothing, expect=202)


async def health(url: str, connections: int, requests: int) -> Load:
    """Our own application's route that does nothing, without a body, a key or a line in the log."""
    async with session(url, "", connections) as client:

        async def ask() -> int:
            async with client.get("/healthz") as answer:
                await answer.read()
                return answer.status

        return await run_load(connections, requests, ask, expect=200)


async def submissions(url: str, users: Sequence[User], connections: int, requests: int, *, model: str = "noop") -> Load:
    """Durable submissions, the users in turns."""
    keys = cycle([{"Authorization": f"Bearer {user.key}"} for user in users])
    wanted = body(model)
    async with session(url, "", connections) as client:

        async def submit() -> int:
            async with client.post("/v1/jobs", json=wanted, headers=next(keys)) as answer:
                await answer.read()
                return answer.status

        return await run_load(connections, requests, submit, expect=202)


async def drained(sql: asyncpg.Connection, users: Sequence[User]) -> None:
    """Wait until no job of these users is left."""
    ids = [user.id for user in users]
    async with asyncio.timeout(300):
        while await sql.fetchval(  # noqa: ASYNC110 (another process changes it)
            "SELECT EXISTS (SELECT FROM user_state WHERE user_id = ANY ($1) AND queued + running > 0)", ids
        ):
            await asyncio.sleep(0.01)


@dataclass(frozen=True)
class Whole:
    """Jobs from HTTP to durable completion: all per second, the submissions among them, and failures."""

    jobs_per_s: float
    submitted: Load


async def whole_jobs(
    url: str, sql: asyncpg.Connection, users: Sequence[User], connections: int, requests: int, *, model: str = "noop"
) -> Whole:
    """So many jobs submitted, run and completed; both go on at once."""
    began = time.perf_counter()
    load = await submissions(url, users, connections, requests, model=model)
    await drained(sql, users)
    return Whole(requests / (time.perf_counter() - began), load)


@dataclass(frozen=True)
class Reached:
    """Milliseconds from the request to the engine's first line."""

    rate: float
    ms: Sequence[float]


async def to_the_engine(url: str, sql: asyncpg.Connection, user: User, *, per_second: float, seconds: float) -> Reached:
    """Jobs at random times, so many a second on the mean, whatever becomes of them; from each one's request on."""
    sent: dict[str, float] = {}
    async with session(url, user.key, 256) as client:

        async def one() -> None:
            began = time.time()
            async with client.post("/v1/jobs", json=body(prompt="clock")) as answer:
                sent[(await answer.json())["id"]] = began

        for _ in range(20):
            await one()
        sent.clear()
        chance, tasks = random.Random(1), []  # noqa: S311 (arrivals of a benchmark)
        until = at = time.perf_counter()
        until += seconds
        while at < until:
            at += chance.expovariate(per_second)
            await asyncio.sleep(max(0.0, at - time.perf_counter()))
            tasks.append(asyncio.create_task(one()))
        await asyncio.gather(*tasks)
    await drained(sql, [user])
    ids = {parse(Prefix.JOB, job): began for job, began in sent.items()}
    rows = await sql.fetch("SELECT id, output FROM jobs WHERE id = ANY ($1) AND state = 'completed'", list(ids))
    if len(rows) != len(sent):
        raise RuntimeError(f"{len(sent)} jobs were sent and {len(rows)} completed")
    return Reached(per_second, sorted(1000 * (float(row["output"]["text"]) - ids[row["id"]]) for row in rows))


@dataclass(frozen=True)
class Streams:
    """So many open streams, and the milliseconds from each one's event to its arrival."""

    opened: int
    ms: Sequence[float]


async def event_streams(url: str, users: Sequence[User], streams: int) -> Streams:
    """Open streams and the delays of their next durable event, from its time to its arrival.

    The users share them: one user may have 128 on a replica. Raises RuntimeError for a refused one.
    """
    later = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    delays: list[float] = []
    timeout = aiohttp.ClientTimeout(total=120)
    async with aiohttp.ClientSession(url, connector=aiohttp.TCPConnector(limit=0), timeout=timeout) as client:
        jobs: list[tuple[str, dict[str, str]]] = []
        gate = asyncio.Semaphore(32)

        async def submit(headers: dict[str, str]) -> None:
            wanted = {**body(), "not_before": later}
            async with gate, client.post("/v1/jobs", json=wanted, headers=headers) as answer:
                jobs.append(((await answer.json())["id"], headers))

        keys = cycle([{"Authorization": f"Bearer {user.key}"} for user in users])
        await asyncio.gather(*(submit(next(keys)) for _ in range(streams)))
        opened = asyncio.Semaphore(0)

        async def follow(job: str, headers: dict[str, str]) -> None:
            async with client.get(f"/v1/jobs/{job}/events", headers=headers) as answer:
                if answer.status != 200:
                    raise RuntimeError(f"a stream was answered with {answer.status}: {(await answer.text())[:100]}")
                kind = ""
                async for line in answer.content:
                    if line.startswith(b"event: "):
                        kind = line[7:].strip().decode()
                        if kind == "created":
                            opened.release()
                    elif line.startswith(b"data: ") and kind == "cancelled":
                        at = datetime.fromisoformat(json.loads(line[6:])["at"])
                        delays.append(1000 * (time.time() - at.timestamp()))
                        return

        async with asyncio.TaskGroup() as group:
            for job, headers in jobs:
                group.create_task(follow(job, headers))
            async with asyncio.timeout(60):
                for _ in jobs:
                    await opened.acquire()
            for n, (job, headers) in enumerate(jobs):
                async with client.post(f"/v1/jobs/{job}/cancel", headers=headers) as answer:
                    await answer.read()
                if n % 10 == 9:
                    await asyncio.sleep(0.05)  # 200 events a second and fewer: delivery, not saturation
    return Streams(len(jobs), sorted(delays))


async def one_at_a_time(url: str, user: User, jobs: int) -> Load:
    """Submit until completed of single jobs on an idle platform, by ``Prefer: wait``."""
    async with session(url, user.key, 1) as client:

        async def one() -> int:
            async with client.post("/v1/jobs", json=body(), headers={"Prefer": "wait=30"}) as answer:
                job = await answer.json()
                return 200 if job.get("state") == "completed" else answer.status

        await run_load(1, 5, one, expect=200)
        return await run_load(1, jobs, one, expect=200)


async def recovery(home: Home, user: User, part: str) -> float:
    """Seconds from SIGKILL to a part until a job goes the whole way again."""
    await asyncio.to_thread(home.kill, part)
    began = time.perf_counter()
    async with asyncio.timeout(120):
        async with session(home.url, user.key, 4) as client:
            while True:
                try:
                    async with client.post("/v1/jobs", json=body(), headers={"Prefer": "wait=60"}) as answer:
                        if answer.status == 200 and (await answer.json())["state"] == "completed":
                            return time.perf_counter() - began
                except (aiohttp.ClientError, json.JSONDecodeError):
                    pass  # the part is away: that is what is measured
                await asyncio.sleep(0.02)


def percentile(ordered: Sequence[float], share: float) -> float:
    """The value below which this share of the ordered ones lie."""
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]

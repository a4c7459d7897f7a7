"""The rate of requests: portions of one shared count; refused requests are not counted, and memory stays bounded."""

from __future__ import annotations

import asyncio
from uuid import UUID

import pytest

from tessera.api import limits
from tessera.api.context import RateState
from tessera.api.limits import KEEP_S, Portion, RequestLimiter
from tessera.errors import RateLimited, Unavailable
from tessera.ids import new_id


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Minute:
    """The shared count, as Postgres keeps it: ``free`` requests, none of which comes back by itself."""

    def __init__(self, free: int) -> None:
        self.free = free
        self.taken: list[tuple[int, int]] = []  # wanted, given back
        self.error: Exception | None = None

    async def take(self, user_id: UUID, per_min: int, want: int, back: int) -> Portion:
        await asyncio.sleep(0)
        if self.error is not None:
            raise self.error
        self.taken.append((want, back))
        self.free += back
        granted = min(want, self.free)
        self.free -= granted
        return Portion(granted=granted, remaining=self.free, retry_after_s=None if granted else 15.0)


async def passed(limiter: RequestLimiter, user: UUID, per_min: int, times: int) -> int:
    results = await asyncio.gather(*(limiter.take(user, per_min) for _ in range(times)), return_exceptions=True)
    assert all(isinstance(result, RateState | RateLimited) for result in results), results
    return sum(isinstance(result, RateState) for result in results)


async def test_two_replicas_together_grant_what_the_minute_has_and_no_more() -> None:
    minute, user, clock = Minute(600), new_id(), Clock()
    replicas = [RequestLimiter(minute.take, clock) for _ in range(2)]
    assert sum([await passed(replica, user, 600, 1000) for replica in replicas]) == 600
    assert sum(await asyncio.gather(*(passed(replica, user, 600, 50) for replica in replicas))) == 0


async def test_many_requests_at_once_take_one_portion_together() -> None:
    minute = Minute(600)
    assert await passed(RequestLimiter(minute.take, Clock()), new_id(), 600, 20) == 20
    assert minute.taken == [(20, 0)]


async def test_a_request_that_comes_just_when_a_taking_ends_is_answered() -> None:
    """It finds the task done and its callbacks not yet called: it must neither spin nor wait for ever."""
    minute, user = Minute(600), new_id()
    limiter = RequestLimiter(minute.take, Clock())
    late: list[asyncio.Task[RateState]] = []

    async def take(user_id: UUID, per_min: int, want: int, back: int) -> Portion:
        portion = await minute.take(user_id, per_min, 0 if not late else want, back)
        # In the queue before the callbacks of the taking: it runs between its end and them.
        late.append(asyncio.create_task(limiter.take(user, 600)))
        return Portion(granted=portion.granted, remaining=portion.remaining, retry_after_s=None)

    limiter._take = take
    async with asyncio.timeout(10):
        await limiter.take(user, 600)
        assert all(isinstance(state, RateState) for state in await asyncio.gather(*late))


async def test_what_was_not_used_in_two_seconds_is_given_back() -> None:
    minute, clock, user = Minute(600), Clock(), new_id()
    limiter = RequestLimiter(minute.take, clock)
    assert (await limiter.take(user, 600)).remaining == 599
    clock.now += KEEP_S + 0.01
    assert (await limiter.take(user, 600)).remaining == 598
    assert minute.taken == [(20, 0), (20, 19)]


async def test_a_refusal_says_when_and_asks_nobody_until_then() -> None:
    minute, clock, user = Minute(0), Clock(), new_id()
    limiter = RequestLimiter(minute.take, clock)
    for _ in range(3):
        with pytest.raises(RateLimited) as refused:
            await limiter.take(user, 4)
        assert refused.value.retry_after_s == pytest.approx(15)
    assert len(minute.taken) == 1
    clock.now, minute.free = clock.now + 15, 1
    assert (await limiter.take(user, 4)).remaining == 0


async def test_users_do_not_count_for_each_other() -> None:
    limiters = [RequestLimiter(Minute(1).take, Clock()) for _ in range(5)]
    assert [(await limiter.take(new_id(), 1)).remaining for limiter in limiters] == [0] * 5


async def test_an_outage_reaches_whoever_waits_and_the_next_one_asks_again() -> None:
    minute, user = Minute(600), new_id()
    limiter = RequestLimiter(minute.take, Clock())
    minute.error = Unavailable("away")
    results = await asyncio.gather(*(limiter.take(user, 600) for _ in range(3)), return_exceptions=True)
    assert [type(result) for result in results] == [Unavailable] * 3
    minute.error = None
    assert (await limiter.take(user, 600)).remaining == 599


async def test_users_who_are_quiet_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_USERS", 10)
    clock = Clock()
    limiter = RequestLimiter(Minute(10**6).take, clock)
    for _ in range(50):
        clock.now += 61
        await limiter.take(new_id(), 600)
    assert len(limiter._held) <= 11


def test_headers_follow_the_draft() -> None:
    assert RateState(policy="requests", limit=600, remaining=5).headers() == [
        (b"ratelimit", b'"requests";r=5;t=0'),
        (b"ratelimit-policy", b'"requests";q=600;w=60'),
    ]
    assert RateState(policy="submissions", limit=30, remaining=0).headers()[0] == (
        b"ratelimit",
        b'"submissions";r=0;t=2',
    )

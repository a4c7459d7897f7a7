"""The rate of requests: smooth, refused ones are not counted, and memory stays bounded."""

from __future__ import annotations

import pytest

from tessera.api import limits
from tessera.api.context import RateState
from tessera.api.limits import RequestLimiter
from tessera.errors import RateLimited
from tessera.ids import new_id


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_minutes_requests_may_come_at_once_and_then_one_each_step() -> None:
    clock = Clock()
    limiter, user = RequestLimiter(clock), new_id()
    assert [limiter.take(user, 4).remaining for _ in range(4)] == [3, 2, 1, 0]
    with pytest.raises(RateLimited) as refused:
        limiter.take(user, 4)
    assert refused.value.retry_after_s == pytest.approx(15)
    clock.now += 15
    assert limiter.take(user, 4).remaining == 0
    with pytest.raises(RateLimited):
        limiter.take(user, 4)
    clock.now += 60
    assert limiter.take(user, 4).remaining == 3


def test_users_do_not_count_for_each_other() -> None:
    limiter = RequestLimiter(Clock())
    assert [limiter.take(new_id(), 1).remaining for _ in range(5)] == [0] * 5


def test_users_who_are_quiet_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_USERS", 10)
    clock = Clock()
    limiter = RequestLimiter(clock)
    for _ in range(50):
        clock.now += 61
        limiter.take(new_id(), 600)
    assert len(limiter._tat) <= 11


def test_headers_follow_the_draft() -> None:
    assert RateState(policy="requests", limit=600, remaining=5).headers() == [
        (b"ratelimit", b'"requests";r=5;t=0'),
        (b"ratelimit-policy", b'"requests";q=600;w=60'),
    ]
    assert RateState(policy="submissions", limit=30, remaining=0).headers()[0] == (
        b"ratelimit",
        b'"submissions";r=0;t=2',
    )

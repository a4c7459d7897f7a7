"""A quota over HTTP, through two ingress replicas: a thousand submissions at once never get more than it allows."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest

from tessera.ids import Prefix, parse
from tests.acceptance.conftest import Platform
from tests.acceptance.http import Answer, Api
from tests.acceptance.platform import wait_ready

SUBMISSIONS = 1000
THREADS = 64
ONE_TOKEN = {"kind": "speech", "input": {"text": "x" * 1000}}


def override(platform: Platform, person: Api, **limits: int) -> None:
    """Give a user limits of its own."""
    user = parse(Prefix.USER, person.get("/v1/me").json["id"])

    async def write() -> None:
        connection = await asyncpg.connect(platform.settings()["database_url"])
        try:
            for column, value in limits.items():
                await connection.execute(f"UPDATE users SET {column} = $2 WHERE id = $1", user, value)
        finally:
            await connection.close()

    asyncio.run(write())


def flood(person: Api, **values: Any) -> list[Answer]:
    """A thousand submissions of one token, as many at once as there are threads."""
    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(lambda _: person.post("/v1/jobs", {**ONE_TOKEN, **values}), range(SUBMISSIONS)))


def wait_for_both_replicas(platform: Platform) -> None:
    """The flood is to come in by two of them, and a test before this one may have killed one."""
    until = time.monotonic() + 120
    while len(platform.processes("control:ingress")) < 2:
        assert time.monotonic() < until, "there is one ingress replica only"
        time.sleep(0.5)
    wait_ready(platform.api)


def codes(answers: list[Answer]) -> Counter[tuple[int, str]]:
    return Counter((answer.status, answer.json.get("code", "")) for answer in answers)


def test_a_thousand_submissions_at_once_get_exactly_the_twenty_of_the_quota(platform: Platform, api: Api) -> None:
    wait_for_both_replicas(platform)
    person = platform.new_user("free")
    override(platform, person, daily_mt=20_000, max_queued=100_000, submissions_per_min=1_000_000)
    answers = flood(person)
    assert codes(answers) == {(202, ""): 20, (402, "quota_exhausted"): 980}
    midnight = (datetime.now(UTC) + timedelta(days=1)).replace(hour=0, minute=0, second=0, microsecond=0)
    for answer in answers:
        if answer.status == 402:
            assert answer.json["retryable"] is False and answer.json["remaining_tokens"] == 0
            assert abs(datetime.fromisoformat(answer.json["resets_at"]) - midnight) < timedelta(seconds=1)
    assert person.get("/v1/me").json["quota"]["used_tokens"] == 20
    assert platform.cli("audit", check=False).returncode == 0


@pytest.mark.parametrize(
    ("limits", "code", "most"),
    [
        # A minute gives back one submission in 60 s; what the flood itself takes is far less.
        ({"max_queued": 7, "submissions_per_min": 1_000_000}, "too_many_queued", 7),
        ({"max_queued": 100_000, "submissions_per_min": 1}, "rate_limited", 2),
    ],
)
def test_a_cap_or_a_rate_that_comes_before_the_quota_answers_429_and_never_admits_a_21st(
    platform: Platform, api: Api, limits: dict[str, int], code: str, most: int
) -> None:
    person = platform.new_user("free")
    override(platform, person, daily_mt=20_000, **limits)
    # For later, so that no job ends and makes room in the queue meanwhile.
    later = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    answers = flood(person, not_before=later)
    counted = codes(answers)
    assert 1 <= counted[202, ""] <= most
    assert counted == {(202, ""): counted[202, ""], (429, code): SUBMISSIONS - counted[202, ""]}
    assert all(int(answer.headers["retry-after"]) >= 1 for answer in answers if answer.status == 429)
    assert person.get("/v1/me").json["quota"]["used_tokens"] == counted[202, ""]
    for job in person.get("/v1/jobs?state=created&limit=100").json["data"]:
        person.post(f"/v1/jobs/{job['id']}/cancel")


def test_a_flood_under_the_plans_own_limits_never_passes_the_quota(platform: Platform, api: Api) -> None:
    person = platform.new_user("free")  # 20 tokens, 30 submissions a minute, 25 queued
    counted = codes(flood(person))
    assert counted[202, ""] == 20
    assert {code for _, code in counted} <= {"", "quota_exhausted", "rate_limited", "too_many_queued"}
    assert person.get("/v1/me").json["quota"]["used_tokens"] == 20

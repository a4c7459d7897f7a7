"""Quotes: what a job would cost and whether it would be accepted, and that asking changes nothing."""

from __future__ import annotations

from typing import Any

import pytest

from tessera.api.schemas.quotes import Quote
from tessera.client import Client
from tests.integration.api_server import Api

IMAGE: dict[str, Any] = {"kind": "image", "input": {"prompt": "a fox", "width": 1024, "height": 768}}


async def quote(api: Api, wanted: dict[str, Any], key: str = "") -> dict[str, Any]:
    answer, shown = await api.call("POST", "/v1/jobs:quote", json=wanted, key=key)
    assert answer.status == 200, shown
    Quote.model_validate(shown)
    return dict(shown)


async def refused_as(api: Api, wanted: dict[str, Any], key: str = "") -> str:
    """The code of the quote's refusal, which is that of the submission itself, in the same words."""
    shown = await quote(api, wanted, key)
    answer, problem = await api.call("POST", "/v1/jobs", json=wanted, key=key)
    assert shown["allowed"] is False
    assert answer.status >= 400
    assert (shown["refusal"]["code"], shown["refusal"]["retryable"]) == (problem["code"], problem["retryable"])
    if problem["code"] != "rate_limited":  # it says the seconds
        assert shown["refusal"]["detail"] == problem["detail"]
    return str(problem["code"])


async def test_a_quote_is_the_price_that_the_job_then_holds(api: Api) -> None:
    for wanted in (IMAGE, {"kind": "text", "input": {"prompt": "hi"}}, {"kind": "speech", "input": {"text": "x" * 70}}):
        shown = await quote(api, wanted)
        assert shown["allowed"] is True
        assert "refusal" not in shown
        _, job = await api.call("POST", "/v1/jobs", json=wanted)
        assert (shown["cost_tokens"], shown["kind"], shown["model"]) == (job["cost_tokens"], job["kind"], job["model"])


async def test_asking_holds_nothing_and_is_counted_as_a_request(api: Api) -> None:
    answer, shown = await api.call("POST", "/v1/jobs:quote", json=IMAGE)
    assert answer.headers["RateLimit-Policy"].startswith('"requests"')
    assert shown["remaining_tokens_today"] == 300
    assert await api.sql.fetchval("SELECT count(*) FROM jobs") == 0
    assert await api.sql.fetchval("SELECT count(*) FROM token_ledger") == 0
    await api.submit("image", prompt="a fox")
    assert (await quote(api, IMAGE))["remaining_tokens_today"] == 299


async def test_a_quote_tells_the_quotas_refusal(api: Api) -> None:
    await api.sql.execute("UPDATE users SET daily_mt = 700 WHERE id = $1", api.user_id)
    assert await refused_as(api, IMAGE) == "quota_exhausted"
    assert (await quote(api, IMAGE))["remaining_tokens_today"] == 0.7


async def test_a_quote_tells_the_refusal_by_the_cap_of_the_key(api: Api) -> None:
    key = await api.add_key(user_id=api.user_id, daily_cap_mt=1000)
    assert (await quote(api, IMAGE, key))["allowed"] is True
    await api.call("POST", "/v1/jobs", json=IMAGE, key=key)
    assert await refused_as(api, IMAGE, key) == "quota_exhausted"
    assert (await quote(api, IMAGE, key))["remaining_tokens_today"] == 0.25
    assert (await quote(api, IMAGE))["allowed"] is True


async def test_a_quote_tells_the_refusals_by_queue_and_rate(api: Api) -> None:
    await api.sql.execute("UPDATE users SET max_queued = 1 WHERE id = $1", api.user_id)
    await api.submit()
    assert await refused_as(api, IMAGE) == "too_many_queued"
    await api.sql.execute("UPDATE users SET max_queued = 9, submissions_per_min = 1 WHERE id = $1", api.user_id)
    assert await refused_as(api, IMAGE) == "rate_limited"


async def test_a_quote_tells_the_refusal_by_the_plan(api: Api) -> None:
    key = await api.add_key(plan="free")
    large = {"kind": "image", "input": {"prompt": "a", "width": 2048, "height": 2048}}
    assert await refused_as(api, large, key) == "invalid_input"
    assert (await quote(api, large, key))["cost_tokens"] == 4
    assert (await quote(api, large))["allowed"] is True


async def test_a_quote_tells_that_the_service_is_full(api: Api) -> None:
    api.services.watermarks.over["disk"] = "The store for results is nearly full."
    assert await refused_as(api, IMAGE) == "unavailable"


@pytest.mark.parametrize(
    "wanted",
    [
        {"kind": "poem", "input": {}},
        {"kind": "image", "input": {"prompt": "a", "widht": 1}},
        {"kind": "image", "model": "nobody", "input": {"prompt": "a"}},
        {"kind": "transcription", "input": {"upload": "upl_00000000000000000000000000"}},
    ],
)
async def test_what_could_never_be_submitted_is_422(api: Api, wanted: dict[str, Any]) -> None:
    answer, problem = await api.call("POST", "/v1/jobs:quote", json=wanted)
    assert answer.status == 422
    assert problem["code"] in {"invalid_input", "unknown_model"}


async def test_a_quote_needs_a_key_that_may_submit_and_counts_its_own_user(api: Api) -> None:
    assert (await api.call("POST", "/v1/jobs:quote", json=IMAGE, key=None))[0].status == 401
    reader = await api.add_key(user_id=api.user_id, scopes=["read"])
    assert (await api.call("POST", "/v1/jobs:quote", json=IMAGE, key=reader))[0].status == 403
    await api.submit("image", prompt="a fox")
    assert (await quote(api, IMAGE, await api.add_key()))["remaining_tokens_today"] == 300


async def test_the_client_asks_for_a_quote(api: Api) -> None:
    async with Client(api.url, api.key) as client:
        found = await client.quote("image", {"prompt": "a fox", "width": 512, "height": 512})
        assert (found.allowed, found.cost_tokens, found.refusal) == (True, 0.25, None)

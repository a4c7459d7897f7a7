"""Who may ask what: keys, scopes, rates, what is open without a key, and what a stranger learns."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import structlog

from tessera.ids import Prefix, show
from tests.integration.api_server import Api, running
from tests.integration.people import Person, service_key

PROTECTED = [
    ("GET", "/v1/jobs"),
    ("POST", "/v1/jobs"),
    ("GET", "/v1/jobs/job_00000000000000000000000000"),
    ("GET", "/v1/jobs/job_00000000000000000000000000/events"),
    ("POST", "/v1/jobs/job_00000000000000000000000000/cancel"),
    ("POST", "/v1/jobs/job_00000000000000000000000000/retry"),
    ("POST", "/v1/jobs:quote"),
    ("GET", "/v1/events"),
    ("GET", "/v1/ledger"),
    ("GET", "/v1/artifacts/art_00000000000000000000000000"),
    ("POST", "/v1/uploads"),
    ("GET", "/v1/me"),
    ("GET", "/v1/usage"),
    ("GET", "/v1/keys"),
    ("GET", "/v1/admin/users"),
    ("GET", "/v1/admin/workers"),
    ("POST", "/v1/admin/workers/pc2/drain"),
    ("POST", "/v1/admin/workers/pc2/resume"),
]


async def test_no_key_is_401(api: Api) -> None:
    for method, path in PROTECTED:
        answer, problem = await api.call(method, path, key=None)
        assert (answer.status, problem["code"]) == (401, "unauthorized"), path
        assert answer.headers["WWW-Authenticate"].startswith("Bearer")
        assert answer.content_type == "application/problem+json"


async def test_wrong_keys_are_401_and_never_reach_the_log(api: Api) -> None:
    right = api.key
    wrong = [
        right[:-1] + ("A" if right[-1] != "A" else "B"),
        "tsr_0000_" + "x" * 43,
        "sk-other",
        "",
        "tsr__",
        "é",
        right * 9,
    ]
    with structlog.testing.capture_logs() as lines:
        for key in wrong:
            answer, _ = await api.call("GET", "/v1/me", key=None, headers={"Authorization": f"Bearer {key}"})
            assert answer.status == 401, key
            answer, _ = await api.call("GET", "/v1/me", key=None, headers={"X-API-Key": key})
            assert answer.status == 401, key
    assert lines
    for key in wrong:
        assert not key or key not in str(lines)


async def test_a_key_is_taken_from_either_header(api: Api) -> None:
    for headers in ({"Authorization": f"bearer {api.key}"}, {"X-API-Key": api.key}):
        answer, _ = await api.call("GET", "/v1/me", key=None, headers=headers)
        assert answer.status == 200


@pytest.mark.parametrize(
    ("columns", "status", "word"),
    [
        ({"expires_at": datetime.now(UTC) - timedelta(seconds=1)}, 401, "expired"),
        ({"revoked_at": datetime.now(UTC)}, 401, "revoked"),
    ],
)
async def test_keys_that_ended_are_401(api: Api, columns: dict[str, Any], status: int, word: str) -> None:
    answer, problem = await api.call("GET", "/v1/me", key=await api.add_key(**columns))
    assert answer.status == status
    assert word in problem["detail"]


async def test_a_banned_user_is_403(api: Api) -> None:
    user_id = await api.add_user(banned_at=datetime.now(UTC), ban_reason="spam")
    answer, problem = await api.call("GET", "/v1/me", key=await api.add_key(user_id=user_id))
    assert answer.status == 403
    assert "spam" in problem["detail"]


async def test_a_revocation_works_within_two_seconds(api: Api) -> None:
    key = await api.add_key(user_id=api.user_id)
    assert (await api.call("GET", "/v1/me", key=key))[0].status == 200
    await api.sql.execute("UPDATE api_keys SET revoked_at = now() WHERE id = $1", key.split("_")[1])
    await asyncio.sleep(2.1)
    assert (await api.call("GET", "/v1/me", key=key))[0].status == 401


async def test_a_key_that_may_only_read_cannot_submit(api: Api) -> None:
    key = await api.add_key(user_id=api.user_id, scopes=["read"])
    assert (await api.call("GET", "/v1/jobs", key=key))[0].status == 200
    for method, path in (("POST", "/v1/jobs"), ("POST", "/v1/uploads"), ("POST", "/v1/keys")):
        answer, problem = await api.call(method, path, key=key, json={})
        assert (answer.status, problem["code"]) == (403, "forbidden")


async def test_the_scope_admin_is_worth_nothing_without_an_admin(api: Api) -> None:
    key = await api.add_key(user_id=api.user_id, scopes=["jobs", "admin"])
    answer, _ = await api.call("GET", "/v1/admin/users", key=key)
    assert answer.status == 403


async def test_acting_for_another_is_refused_and_not_ignored(api: Api) -> None:
    answer, _ = await api.call("GET", "/v1/me", headers={"Tessera-On-Behalf-Of": "telegram:1"})
    assert answer.status == 403


async def test_the_use_of_a_key_is_noted(api: Api) -> None:
    await api.call("GET", "/v1/me")
    for _ in range(100):
        if await api.sql.fetchval("SELECT last_used_at FROM api_keys WHERE user_id = $1", api.user_id):
            return
        await asyncio.sleep(0.02)
    raise AssertionError("last_used_at was not written")


async def test_requests_past_the_rate_are_429_and_submissions_count_apart(api: Api) -> None:
    key = await api.add_key(user_id=await api.add_user(requests_per_min=2))
    first, _ = await api.call("GET", "/v1/me", key=key)
    assert first.headers["RateLimit-Policy"] == '"requests";q=2;w=60'
    assert first.headers["RateLimit"].startswith('"requests";r=1;')
    await api.call("GET", "/v1/me", key=key)
    answer, problem = await api.call("GET", "/v1/me", key=key)
    assert (answer.status, problem["code"]) == (429, "rate_limited")
    assert 0 < int(answer.headers["Retry-After"]) <= 31
    assert answer.headers["RateLimit"].startswith('"requests";r=0;')
    submitted, _ = await api.call("POST", "/v1/jobs", key=key, json={"kind": "text", "input": {"prompt": "hi"}})
    assert submitted.status == 202


async def test_two_replicas_count_the_requests_of_a_user_together(api: Api, database_url: str, tmp_path: Path) -> None:
    key = await api.add_key(user_id=await api.add_user(requests_per_min=90))
    async with running(database_url, tmp_path / "second") as second:

        async def ask(replica: Api) -> int:
            answer, _ = await replica.call("GET", "/v1/me", key=key)
            return answer.status

        began = await api.sql.fetchval("SELECT clock_timestamp()")
        statuses = await asyncio.gather(*(ask(replica) for _ in range(100) for replica in (api, second)))
        seconds = (await api.sql.fetchval("SELECT clock_timestamp()") - began).total_seconds()
    assert set(statuses) == {200, 429}
    # 90 at once, and what the time that this took has freed.
    assert 90 <= statuses.count(200) <= 90 + seconds * 90 / 60 + 1


async def test_models_and_plans_need_no_key(api: Api) -> None:
    _, models = await api.call("GET", "/v1/models", key=None)
    assert {model["kind"] for model in models["data"] if model["default"]} == {
        *("image", "video", "text", "transcription", "speech", "music")
    }
    assert "noop" not in {model["id"] for model in models["data"]}
    _, plans = await api.call("GET", "/v1/plans", key=None)
    assert [(plan["id"], plan["price_usd_per_month"], plan["daily_tokens"]) for plan in plans["data"]] == [
        ("free", 0, 20),
        ("starter", 5, 120),
        ("pro", 12, 300),
    ]


async def test_metrics_are_open_on_loopback_only(api: Api) -> None:
    await api.submit()
    answer, body = await api.call("GET", "/metrics", key=None)
    assert answer.status == 200
    assert b'tessera_jobs{kind="text",state="queued",tier="pro"} 1.0' in body
    assert b'tessera_admissions_total{outcome="admitted"} 1.0' in body
    for headers in ({"X-Forwarded-For": "203.0.113.9"}, {"Forwarded": "for=203.0.113.9"}, {"Host": "tessera.example"}):
        answer, _ = await api.call("GET", "/metrics", key=None, headers=headers)
        assert answer.status == 401, headers
    assert (await api.call("GET", "/metrics", headers={"Host": "tessera.example"}))[0].status == 403


async def test_metrics_need_a_key_when_the_api_is_open_to_the_network(database_url: str, tmp_path: Path) -> None:
    async with running(database_url, tmp_path, http_host="0.0.0.0") as api:
        assert (await api.call("GET", "/metrics", key=None))[0].status == 401
        key = await api.add_key(user_id=await api.add_user(is_admin=True), scopes=["admin"])
        assert (await api.call("GET", "/metrics", key=key))[0].status == 200


async def test_a_key_makes_and_revokes_keys_that_may_not_do_more(api: Api) -> None:
    answer, made = await api.call(
        "POST", "/v1/keys", json={"name": "script", "scopes": ["read"], "daily_cap_tokens": 5}
    )
    assert answer.status == 201
    assert (made["scopes"], made["daily_cap_tokens"]) == (["read"], 5)
    assert (await api.call("GET", "/v1/me", key=made["api_key"]))[0].status == 200
    _, listed = await api.call("GET", "/v1/keys")
    assert made["id"] in {key["id"] for key in listed["data"]}
    assert "api_key" not in str(listed)
    renamed, key = await api.call("PATCH", f"/v1/keys/{made['id']}", json={"name": "older script"})
    assert (renamed.status, key["name"]) == (200, "older script")
    deleted, body = await api.call("DELETE", f"/v1/keys/{made['id']}")
    assert (deleted.status, body) == (204, b"")
    assert (await api.call("GET", "/v1/me", key=made["api_key"]))[0].status == 401
    answer, problem = await api.call("POST", "/v1/keys", json={"name": "boss", "scopes": ["admin"]})
    assert (answer.status, problem["code"]) == (403, "forbidden")


async def test_a_key_that_expires_cannot_make_one_that_lives_longer(api: Api) -> None:
    soon = datetime.now(UTC) + timedelta(hours=1)
    key = await api.add_key(user_id=api.user_id, expires_at=soon)
    for body in ({}, {"expires_at": None}):
        _, made = await api.call("POST", "/v1/keys", key=key, json={"name": "child", **body})
        assert datetime.fromisoformat(made["expires_at"]) == soon
    later = {"name": "child", "expires_at": (soon + timedelta(days=1)).isoformat()}
    answer, problem = await api.call("POST", "/v1/keys", key=key, json=later)
    assert (answer.status, problem["errors"][0]["field"]) == (422, "expires_at")


async def test_a_key_with_a_cap_makes_no_key_that_may_spend(api: Api) -> None:
    """A cap of 1 would else be one of 100: each of the keys it made would have a cap of its own."""
    key = await api.add_key(user_id=api.user_id, daily_cap_mt=1000)
    for body in ({}, {"daily_cap_tokens": 0.5}, {"daily_cap_tokens": None}, {"scopes": ["jobs", "read"]}):
        answer, problem = await api.call("POST", "/v1/keys", key=key, json={"name": "child", **body})
        assert (answer.status, problem["code"]) == (403, "forbidden"), body
    answer, problem = await api.call("POST", "/v1/keys", key=key, json={"name": "child", "daily_cap_tokens": 2})
    assert (answer.status, problem["errors"][0]["field"]) == (422, "daily_cap_tokens")
    answer, made = await api.call("POST", "/v1/keys", key=key, json={"name": "eyes", "scopes": ["read"]})
    assert (answer.status, made["daily_cap_tokens"]) == (201, 1)
    assert await api.sql.fetchval("SELECT count(*) FROM api_keys WHERE name = 'child'") == 0


async def test_a_key_with_a_cap_or_an_end_gives_the_account_to_nobody(api: Api) -> None:
    """Who joined an account by a code brings keys of his own, without the cap and for ever."""
    user_id = show(Prefix.USER, api.user_id)
    _, made = await api.call("POST", "/v1/identities/link-codes", key=await api.add_key())
    for columns in ({"daily_cap_mt": 1000}, {"expires_at": datetime.now(UTC) + timedelta(hours=1)}):
        key = await api.add_key(user_id=api.user_id, **columns)
        for method, path, body in (
            ("POST", "/v1/identities/link-codes", None),
            ("POST", "/v1/identities/link", {"code": made["code"]}),
            ("DELETE", f"/v1/me?confirm={user_id}", None),
        ):
            answer, problem = await api.call(method, path, key=key, json=body)
            assert (answer.status, problem["code"]) == (403, "forbidden"), path
    assert await api.sql.fetchval("SELECT deleted_at FROM users WHERE id = $1", api.user_id) is None
    # A bot's key may have an end: it is the person who asks.
    service = await service_key(api)
    await api.sql.execute("UPDATE api_keys SET expires_at = now() + interval '1 hour' WHERE id = $1", service[4:20])
    answer, _ = await Person(api, service, "telegram:1").call("POST", "/v1/identities/link-codes")
    assert answer.status == 201


async def test_somebody_elses_key_cannot_be_seen_or_revoked(api: Api) -> None:
    theirs = (await api.add_key()).split("_")[1]
    for method in ("GET", "DELETE"):
        assert (await api.call(method, f"/v1/keys/{theirs}"))[0].status == 404


async def test_an_operator_makes_users_and_changes_their_plan_on_record(api: Api) -> None:
    admin = await api.add_key(user_id=await api.add_user(is_admin=True), scopes=["jobs", "admin"])
    answer, user = await api.call("POST", "/v1/admin/users", key=admin, json={"name": "ada", "plan": "free"})
    assert (answer.status, user["plan"]) == (201, "free")
    _, me = await api.call("GET", "/v1/me", key=user["api_key"])
    assert (me["id"], me["name"], me["plan"]) == (user["id"], "ada", "free")
    again, problem = await api.call("POST", "/v1/admin/users", key=admin, json={"name": "ada"})
    assert (again.status, problem["code"]) == (409, "conflict")
    _, changed = await api.call("PATCH", f"/v1/admin/users/{user['id']}", key=admin, json={"plan": "pro"})
    assert changed["plan"] == "pro"
    wrong, _ = await api.call("PATCH", f"/v1/admin/users/{user['id']}", key=admin, json={"plan": "gold"})
    assert wrong.status == 422
    _, users = await api.call("GET", "/v1/admin/users?limit=1", key=admin)
    assert (users["data"][0]["name"], users["next_cursor"]) == ("ada", user["id"])
    _, older = await api.call("GET", f"/v1/admin/users?cursor={users['next_cursor']}", key=admin)
    assert "ada" not in {other["name"] for other in older["data"]}
    audited = await api.sql.fetch("SELECT action, subject FROM audit_log ORDER BY id")
    assert [tuple(row) for row in audited] == [("create_user", user["id"]), ("set_plan", user["id"])]


async def test_me_and_usage_tell_what_was_used(api: Api) -> None:
    await api.submit("image", prompt="a fox")
    await api.submit()
    _, me = await api.call("GET", "/v1/me")
    _, usage = await api.call("GET", "/v1/usage")
    assert me["quota"]["used_tokens"] == usage["today"]["used_tokens"] == sum(d["used_tokens"] for d in usage["data"])
    assert me["quota"]["daily_tokens"] == 300
    assert me["jobs"] == {"queued": 2, "running": 0}
    assert {(day["kind"], day["jobs"]) for day in usage["data"]} == {("image", 1), ("text", 1)}
    assert (await api.call("GET", "/v1/usage?days=0"))[0].status == 422

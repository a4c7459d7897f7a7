"""What operators do: find people, close accounts, enter tokens once, tell everybody; each act is written down."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tessera.api.schemas import base as schemas
from tessera.api.schemas import moderation as moderation_schemas
from tessera.api.standing import MAX_AGE_S, Standing
from tessera.ids import Prefix, parse, show
from tests.integration.api_server import Api
from tests.integration.people import Person, service_key
from tests.integration.test_api_moderation import acts, books_balance, operator_key


@pytest.fixture
async def key(api: Api) -> str:
    return await operator_key(api)


async def found(api: Api, key: str, query: str) -> list[str]:
    answer, page = await api.call("GET", f"/v1/admin/users?{query}", key=key)
    assert answer.status == 200, page
    schemas.UserPage.model_validate(page)
    return [user["name"] for user in page["data"]]


async def test_people_are_found_by_name_identity_address_plan_and_ban(api: Api, key: str) -> None:
    for name, plan in (("Ada Lovelace", "pro"), ("Bob", "free")):
        body = {"name": name, "plan": plan}
        assert (await api.call("POST", "/v1/admin/users", key=key, json=body))[0].status == 201
    await Person(api, await service_key(api), "telegram:99").get("/v1/me")
    bob = await api.sql.fetchval("SELECT id FROM users WHERE name = 'Bob'")
    await api.sql.execute(
        "INSERT INTO identities (id, user_id, provider, subject)"
        " VALUES (gen_random_uuid(), $1, 'email', 'bob@example.org')",
        bob,
    )
    assert await found(api, key, "q=LOVE") == ["Ada Lovelace"]
    assert await found(api, key, "q=%25") == [], "a percent sign is no wildcard"
    assert await found(api, key, "identity=telegram:99") == ["telegram:99"]
    assert await found(api, key, "email=bob@example.org") == ["Bob"]
    assert await found(api, key, "email=bob@example.org&identity=telegram:99") == []
    assert await found(api, key, "plan=free&q=b") == ["Bob"]
    assert await found(api, key, "banned=true") == []
    for wrong in ("identity=nonsense", "email=nonsense", "banned=perhaps", "cursor=nonsense"):
        answer, problem = await api.call("GET", f"/v1/admin/users?{wrong}", key=key)
        assert (answer.status, problem["code"]) == (422, "invalid_input"), wrong


async def test_a_ban_ends_what_waits_and_shuts_every_door_with_its_reason(api: Api, key: str) -> None:
    user = show(Prefix.USER, api.user_id)
    waiting, running = await api.submit("text"), await api.submit("text")
    attempt = await api.claim(running["id"])
    answer, banned = await api.call("POST", f"/v1/admin/users/{user}/ban", key=key, json={"reason": "resells"})
    assert (answer.status, banned["ban_reason"], banned["queued"]) == (200, "resells", 0)
    schemas.UserAnswer.model_validate(banned)
    answer, problem = await api.call("GET", "/v1/me")
    assert (answer.status, problem["code"]) == (403, "forbidden")
    assert "resells" in problem["detail"]
    rows = await api.sql.fetch("SELECT state, cancel_requested_at IS NOT NULL AS asked FROM jobs ORDER BY id")
    assert [(row["state"], row["asked"]) for row in rows] == [("cancelled", True), ("running", True)]
    await api.finish(running["id"], attempt, "cancelled", charged_mt=0)
    assert await found(api, key, "banned=true") == [banned["name"]]
    # Repeated it changes nothing, with another reason it says so.
    await api.call("POST", f"/v1/admin/users/{user}/ban", key=key, json={"reason": "resells"})
    await api.call("POST", f"/v1/admin/users/{user}/ban", key=key, json={"reason": "fraud"})
    for _ in range(2):
        answer, opened = await api.call("POST", f"/v1/admin/users/{user}/unban", key=key)
        assert answer.status == 200
        assert "banned_at" not in opened
    state = await api.sql.fetchval("SELECT state FROM jobs WHERE id = $1", parse(Prefix.JOB, waiting["id"]))
    assert state == "cancelled", "it stays so"
    assert await acts(api, user) == ["ban", "ban", "unban"]
    await books_balance(api)


async def test_a_ban_needs_a_reason_and_somebody_who_is_no_operator(api: Api, key: str) -> None:
    operator = show(Prefix.USER, await api.add_user(is_admin=True))
    answer, problem = await api.call("POST", f"/v1/admin/users/{operator}/ban", key=key, json={"reason": "x"})
    assert (answer.status, problem["code"]) == (409, "conflict")
    user = show(Prefix.USER, api.user_id)
    for body in ({}, {"reason": ""}, {"reason": "a\nb"}, {"reason": 3}):
        answer, problem = await api.call("POST", f"/v1/admin/users/{user}/ban", key=key, json=body)
        assert (answer.status, problem["errors"][0]["field"]) == (422, "reason")
    for path in ("user_" + "0" * 26, "nonsense"):
        assert (await api.call("POST", f"/v1/admin/users/{path}/ban", key=key, json={"reason": "x"}))[0].status == 404
        assert (await api.call("POST", f"/v1/admin/users/{path}/unban", key=key))[0].status == 404


async def test_an_entry_that_is_sent_twice_with_a_key_is_entered_once(api: Api, key: str) -> None:
    path = f"/v1/admin/users/{show(Prefix.USER, api.user_id)}"
    headers = {"Idempotency-Key": "grant-1"}
    body = {"tokens": 5, "reason": "sorry"}
    answers = await asyncio.gather(
        *(api.call("POST", path + "/grant", key=key, json=body, headers=headers) for _ in range(4))
    )
    assert [answer.status for answer, _ in answers] == [201] * 4
    assert all(found == answers[0][1] for _, found in answers)
    assert sorted(answer.headers.get("Idempotency-Replayed", "") for answer, _ in answers) == [
        "",
        "true",
        "true",
        "true",
    ]
    assert await api.sql.fetchval("SELECT count(*) FROM token_ledger WHERE entry = 'grant'") == 1
    for other, where in (({"tokens": 6, "reason": "sorry"}, "/grant"), (body, "/adjust")):
        answer, problem = await api.call("POST", path + where, key=key, json=other, headers=headers)
        assert (answer.status, problem["code"]) == (422, "idempotency_mismatch")
    # What was refused leaves the key free.
    headers = {"Idempotency-Key": "grant-2"}
    nobody = "/v1/admin/users/user_" + "0" * 26
    assert (await api.call("POST", nobody + "/grant", key=key, json=body, headers=headers))[0].status == 404
    assert (await api.call("POST", path + "/grant", key=key, json=body, headers=headers))[0].status == 201
    # Without a key each is an entry of its own.
    for _ in range(2):
        assert (await api.call("POST", path + "/adjust", key=key, json=body))[0].status == 201
    assert await acts(api, show(Prefix.USER, api.user_id)) == ["grant", "grant", "adjustment", "adjustment"]
    await books_balance(api)


async def test_a_banner_is_shown_everywhere_and_taken_away(api: Api, key: str) -> None:
    message = "Wartung am Sonntag – nothing is lost"
    assert (await api.call("GET", "/v1/admin/banner", key=key))[1] == {"banner": None}
    answer, shown = await api.call("PUT", "/v1/admin/banner", key=key, json={"message": message})
    moderation_schemas.BannerOrNot.model_validate(shown)
    assert (answer.status, shown["banner"]["message"]) == (200, message)
    _, me = await api.call("GET", "/v1/me")
    schemas.Me.model_validate(me)
    assert me["banner"] == shown["banner"]
    answer, queue = await api.call("GET", "/v1/queue", key=None)
    assert queue["banner"] == shown["banner"]
    assert answer.headers["Tessera-Banner"] == "Wartung am Sonntag %E2%80%93 nothing is lost"
    answer, _ = await api.call("GET", "/nowhere")
    assert "Tessera-Banner" in answer.headers
    for wrong in ({}, {"message": ""}, {"message": "a\nb"}, {"message": "x" * 301}, {"message": 3}):
        answer, problem = await api.call("PUT", "/v1/admin/banner", key=key, json=wrong)
        assert (answer.status, problem["errors"][0]["field"]) == (422, "message")
    for _ in range(2):
        assert (await api.call("DELETE", "/v1/admin/banner", key=key))[0].status == 204
    assert "banner" not in (await api.call("GET", "/v1/me"))[1]
    answer, _ = await api.call("GET", "/v1/queue")
    assert "Tessera-Banner" not in answer.headers
    assert await acts(api, "banner") == ["set_banner", "clear_banner"]


async def test_a_look_that_began_before_a_change_is_not_taken_for_what_holds_now(api: Api, key: str) -> None:
    standing = api.services.standing
    standing.forget()
    early = asyncio.create_task(standing.banner())
    await asyncio.sleep(0)  # its look is under way
    await api.sql.execute("UPDATE standing SET banner = 'hello', banner_since = now()")
    standing.forget()
    shown = await standing.banner()
    assert shown is not None and shown.message == "hello"
    await early


async def test_another_replica_knows_of_rules_and_banner_within_two_seconds(api: Api, key: str) -> None:
    now = 100.0
    other = Standing(api.services.db, clock=lambda: now)
    assert (await other.rules()).rules == ()
    body = {"text": "secret project", "action": "block"}
    await api.call("POST", "/v1/admin/moderation/rules", key=key, json=body)
    await api.call("PUT", "/v1/admin/banner", key=key, json={"message": "hello"})
    now += MAX_AGE_S + 0.01
    assert [rule.text for rule in (await other.rules()).rules] == ["secret project"]
    banner = await other.banner()
    assert banner is not None
    assert banner.message == "hello"
    await other.close()


async def test_the_first_answer_of_an_idle_replica_shows_the_banner_of_now(api: Api) -> None:
    standing = api.services.standing
    assert (await api.call("GET", "/v1/plans"))[0].headers.get("Tessera-Banner") is None
    await api.sql.execute("UPDATE standing SET banner = 'hello', banner_since = now()")  # by another replica
    standing._known_at -= MAX_AGE_S  # nobody has asked this one since
    answer, _ = await api.call("GET", "/v1/plans")
    assert answer.headers["Tessera-Banner"] == "hello"


# Each route by which an operator changes something, with a body that works and what its row in audit_log is called.
CHANGES: list[tuple[str, str, dict[str, Any] | None, str]] = [
    ("POST", "/v1/admin/users", {"name": "ada"}, "create_user"),
    ("PATCH", "/v1/admin/users/{user}", {"plan": "starter"}, "set_plan"),
    ("POST", "/v1/admin/users/{user}/grant", {"tokens": 1, "reason": "x"}, "grant"),
    ("POST", "/v1/admin/users/{user}/adjust", {"tokens": 1, "reason": "x"}, "adjustment"),
    ("POST", "/v1/admin/users/{user}/ban", {"reason": "x"}, "ban"),
    ("POST", "/v1/admin/users/{user}/unban", None, "unban"),
    ("POST", "/v1/admin/queue/video/pause", {}, "pause"),
    ("POST", "/v1/admin/queue/video/resume", None, "unpause"),
    ("POST", "/v1/admin/workers/pc2/drain", {"for_s": 60}, "drain"),
    ("POST", "/v1/admin/workers/pc2/resume", None, "resume"),
    ("PUT", "/v1/admin/banner", {"message": "x"}, "set_banner"),
    ("DELETE", "/v1/admin/banner", None, "clear_banner"),
    ("POST", "/v1/admin/shares/rotate", None, "rotate_shares"),
    ("POST", "/v1/admin/moderation/rules", {"text": "x1", "action": "block"}, "create_rule"),
    ("PATCH", "/v1/admin/moderation/rules/{rule}", {"action": "flag"}, "change_rule"),
    ("DELETE", "/v1/admin/moderation/rules/{rule}", None, "delete_rule"),
    ("POST", "/v1/admin/reports/{report}/dismiss", None, "dismiss_report"),
    ("POST", "/v1/admin/reports/{report2}/uphold", None, "uphold_report"),
]


async def test_every_act_of_an_operator_is_in_the_audit_log(api: Api, key: str) -> None:
    names = {"user": show(Prefix.USER, await api.add_user())}
    for name in ("report", "report2"):
        job = await api.submit("text")
        _, made = await api.call("POST", "/v1/reports", json={"job_id": job["id"], "reason": "x"})
        names[name] = made["id"]
    for method, path, body, action in CHANGES:
        before = await api.sql.fetchval("SELECT count(*) FROM audit_log")
        answer, told = await api.call(method, path.format(**names), key=key, json=body)
        assert answer.status < 300, (path, told)
        if action == "create_rule":
            names["rule"] = told["id"]
        rows = await api.sql.fetch("SELECT action FROM audit_log ORDER BY id OFFSET $1", before)
        assert [row["action"] for row in rows] == [action], path
    _, log = await api.call("GET", "/v1/admin/audit?limit=100", key=key)
    assert [entry["action"] for entry in log["data"]] == [action for *_, action in reversed(CHANGES)]
    operator = await api.sql.fetchval("SELECT user_id FROM api_keys WHERE id = $1", key.split("_")[1])
    assert {entry["actor"] for entry in log["data"]} == {show(Prefix.USER, operator)}
    assert parse(Prefix.USER, names["user"])


async def test_usage_is_told_of_a_range_of_days_and_of_one_kind_with_its_sums(api: Api) -> None:
    for day, kind, used in (("2026-01-01", "image", 1000), ("2026-01-02", "image", 500), ("2026-01-02", "text", 250)):
        await api.sql.execute(
            "INSERT INTO usage_daily (user_id, day, kind, used_mt, jobs) VALUES ($1, $2::text::date, $3, $4, 1)",
            *(api.user_id, day, kind, used),
        )
    _, usage = await api.call("GET", "/v1/usage?from=2026-01-01&to=2026-01-02")
    schemas.UsageDays.model_validate(usage)
    assert [row["day"] for row in usage["data"]] == ["2026-01-02", "2026-01-02", "2026-01-01"]
    assert usage["totals"] == {"used_tokens": 1.75, "jobs": 3}
    _, usage = await api.call("GET", "/v1/usage?from=2026-01-02&to=2026-01-02&kind=image")
    assert usage["totals"] == {"used_tokens": 0.5, "jobs": 1}
    for wrong in ("from=2026-01-02&to=2026-01-01", "from=2020-01-01&to=2026-01-01", "from=yesterday", "kind=smell"):
        assert (await api.call("GET", f"/v1/usage?{wrong}"))[0].status == 422, wrong


async def test_models_tell_their_price_as_numbers_their_limits_and_whether_they_are_loaded(api: Api) -> None:
    _, found = await api.call("GET", "/v1/models", key=None)
    schemas.ModelPage.model_validate(found)
    models = {model["kind"]: model for model in found["data"]}
    assert models["image"]["price_formula"] == {"unit": "pixel", "per": 1024 * 1024, "tokens": 1}
    assert models["speech"]["price_formula"] == {"unit": "character", "per": 1000, "tokens": 1}
    assert models["image"]["limits"]["width"] == {"min": 16, "max": 4096}
    assert models["text"]["limits"]["max_tokens"] == {"min": 1, "max": 8192}
    assert {model["loaded"] for model in found["data"]} <= {"warm", "cold", "offline", "unknown"}


async def test_a_reason_that_is_no_text_is_refused_and_not_taken_for_none(api: Api, key: str) -> None:
    _, rule = await api.call("POST", "/v1/admin/moderation/rules", key=key, json={"text": "sponge", "action": "flag"})
    for method, path, field in (
        ("POST", "/v1/admin/deliveries/pause", "reason"),
        ("POST", "/v1/admin/queue/video/pause", "message"),
        ("PATCH", f"/v1/admin/moderation/rules/{rule['id']}", "note"),
    ):
        for value in (0, False, {}, [], None):
            answer, problem = await api.call(method, path, key=key, json={field: value})
            assert (answer.status, problem["errors"][0]["field"]) == (422, field), (path, value)
    assert await api.sql.fetchval("SELECT count(*) FROM deliveries_pause") == 0

"""Moderation as its users meet it: refused, flagged and hidden jobs, the rules, reports and their review."""

from __future__ import annotations

from typing import Any

from tessera.api.schemas import base as schemas
from tessera.api.schemas import moderation as moderation_schemas
from tessera.ids import Prefix, parse
from tessera.store.audit import audit
from tests.integration.api_server import Api
from tests.integration.people import Person, service_key

BAD = "a naked child"


async def operator_key(api: Api) -> str:
    return await api.add_key(user_id=await api.add_user(is_admin=True), scopes=["jobs", "admin"])


async def add_rule(api: Api, key: str, text: str, action: str, **more: Any) -> dict[str, Any]:
    body = {"text": text, "action": action, **more}
    answer, rule = await api.call("POST", "/v1/admin/moderation/rules", key=key, json=body)
    assert answer.status == 201, rule
    moderation_schemas.RuleAnswer.model_validate(rule)
    return dict(rule)


async def submit(api: Api, prompt: str, **more: Any) -> tuple[int, Any]:
    body = {"kind": "image", "input": {"prompt": prompt}, **more}
    answer, found = await api.call("POST", "/v1/jobs", json=body)
    return answer.status, found


async def acts(api: Api, subject: str) -> list[str]:
    rows = await api.sql.fetch("SELECT action FROM audit_log WHERE subject = $1 ORDER BY id", subject)
    return [row["action"] for row in rows]


async def books_balance(api: Api) -> None:
    """No check of `tessera audit` finds a difference."""
    found = await audit(api.services.settings.database_url)
    assert found.balanced, [check.dump() for check in found.checks if check.differences]


EVERYWHERE: list[tuple[str, dict[str, Any]]] = [
    ("image", {"prompt": BAD}),
    ("image", {"prompt": "a cat", "negative_prompt": BAD}),
    ("video", {"prompt": BAD}),
    ("text", {"prompt": BAD}),
    ("text", {"messages": [{"role": "user", "content": BAD}]}),
    ("speech", {"text": BAD}),
    ("music", {"prompt": BAD}),
    ("music", {"prompt": "folk", "lyrics": BAD}),
]


async def test_what_is_refused_always_is_refused_before_anything_is_held(api: Api) -> None:
    for kind, data in EVERYWHERE:
        body = {"kind": kind, "input": data, "age_restricted": True}
        answer, problem = await api.call("POST", "/v1/jobs", json=body)
        assert (answer.status, problem["code"], problem["retryable"]) == (422, "content_blocked", False), data
        assert problem["category"] == "sexual_minors"
        assert "RateLimit" in answer.headers
        answer, quote = await api.call("POST", "/v1/jobs:quote", json=body)
        assert (answer.status, quote["allowed"], quote["refusal"]["code"]) == (200, False, "content_blocked")
    assert await api.sql.fetchval("SELECT count(*) FROM jobs") == 0
    assert await api.sql.fetchval("SELECT count(*) FROM token_ledger") == 0


async def test_openais_shapes_go_through_the_same_rules(api: Api) -> None:
    body = {"model": "preview-image", "prompt": BAD}
    answer, found = await api.call("POST", "/openai/v1/images/generations", json=body)
    assert (answer.status, found["error"]["code"]) == (400, "content_policy_violation")
    body = {"model": "preview-text", "messages": [{"role": "user", "content": BAD}]}
    answer, found = await api.call("POST", "/openai/v1/chat/completions", json=body)
    assert (answer.status, found["error"]["code"]) == (400, "content_policy_violation")


async def test_rules_are_made_changed_listed_and_deleted_and_each_act_is_recorded(api: Api) -> None:
    key = await operator_key(api)
    rule = await add_rule(api, key, "secret project", "block", note="for now")
    path = f"/v1/admin/moderation/rules/{rule['id']}"
    assert (await submit(api, "the Secret Project"))[1]["code"] == "content_blocked"

    answer, problem = await api.call(
        "POST", "/v1/admin/moderation/rules", key=key, json={"text": "secret project", "action": "flag"}
    )
    assert (answer.status, problem["code"]) == (409, "conflict")
    answer, changed = await api.call("PATCH", path, key=key, json={"action": "flag", "kinds": ["image"]})
    assert (answer.status, changed["action"], changed["note"]) == (200, "flag", "for now")
    assert (await submit(api, "the secret project"))[0] == 202
    assert (await api.call("GET", path, key=key))[1] == changed
    _, found = await api.call("GET", "/v1/admin/moderation/rules", key=key)
    assert found["data"] == [changed]

    assert (await api.call("DELETE", path, key=key))[0].status == 204
    for method in ("GET", "DELETE"):
        assert (await api.call(method, path, key=key))[0].status == 404
    assert (await api.call("PATCH", path, key=key, json={"action": "block"}))[0].status == 404
    assert await acts(api, rule["id"]) == ["create_rule", "change_rule", "delete_rule"]


WRONG_RULES: list[tuple[dict[str, Any], str]] = [
    ({"action": "block"}, "text"),
    ({"text": "x", "action": "explode"}, "action"),
    ({"text": "x"}, "action"),
    ({"text": "(", "action": "block", "match": "pattern"}, "text"),
    ({"text": "x*", "action": "block", "match": "pattern"}, "text"),  # it would find every prompt
    ({"text": "x", "action": "block", "match": "sound"}, "match"),
    ({"text": "x", "action": "block", "kinds": ["smell"]}, "kinds"),
    ({"text": "x", "action": "block", "kinds": [{}]}, "kinds"),
    ({"text": "x", "action": "block", "age_restricted": 1}, "age_restricted"),
    ({"text": "x", "action": "block", "note": "a\nb"}, "note"),
    ({"text": "x", "action": "block", "more": 1}, "more"),
]


async def test_wrong_rules_are_refused_by_name(api: Api) -> None:
    key = await operator_key(api)
    for body, field in WRONG_RULES:
        answer, problem = await api.call("POST", "/v1/admin/moderation/rules", key=key, json=body)
        assert (answer.status, problem["errors"][0]["field"]) == (422, field), body


async def test_age_restricted_content_is_made_only_where_the_caller_allows_it(api: Api) -> None:
    key = await operator_key(api)
    await add_rule(api, key, "lingerie", "spoiler", age_restricted=True)
    status, problem = await submit(api, "lingerie")
    assert (status, problem["code"], problem["category"]) == (422, "content_blocked", "age_restricted")
    status, job = await submit(api, "lingerie", age_restricted=True)
    assert (status, job["spoiler"]) == (202, True)
    assert (await submit(api, "x", age_restricted="yes"))[1]["errors"][0]["field"] == "age_restricted"

    person = Person(api, await service_key(api), "telegram:77")
    body = {"kind": "image", "input": {"prompt": "lingerie"}}
    chat = {"platform": "telegram", "bot": "painter", "chat": "1"}
    answer, _ = await person.call("POST", "/v1/jobs", json={**body, "delivery": chat})
    assert answer.status == 422
    answer, _ = await person.call("POST", "/v1/jobs", json={**body, "delivery": {**chat, "age_restricted": True}})
    assert answer.status == 202


async def test_a_spoiler_marks_everything_that_could_be_shown(api: Api) -> None:
    await add_rule(api, await operator_key(api), "gore", "spoiler")
    status, job = await submit(api, "gore")
    assert (status, job["spoiler"]) == (202, True)
    await api.complete(job["id"], b"bytes")
    _, read = await api.call("GET", job["urls"]["self"])
    schemas.Job.model_validate(read)
    assert read["spoiler"] is True
    assert read["output"]["spoiler"] is True
    assert read["artifacts"][0]["spoiler"] is True
    _, found = await api.call("GET", "/v1/artifacts")
    assert found["data"][0]["spoiler"] is True
    # Done again, it is judged again.
    answer, again = await api.call("POST", f"{job['urls']['self']}/retry")
    assert (answer.status, again["spoiler"]) == (202, True)


async def test_a_flagged_job_runs_and_waits_for_a_review(api: Api) -> None:
    key = await operator_key(api)
    rule = await add_rule(api, key, "gore", "flag")
    status, job = await submit(api, "gore")
    assert status == 202
    assert "spoiler" not in job
    _, found = await api.call("GET", "/v1/admin/reports?state=open", key=key)
    moderation_schemas.ReviewPage.model_validate(found)
    report = found["data"][0]
    assert (report["job_id"], report["category"]) == (job["id"], "flagged")
    assert "reporter_id" not in report
    assert report["job"]["input"]["prompt"] == "gore"
    assert report["job"]["rules"] == [str(parse(Prefix.RULE, rule["id"]))]
    answer, seen = await api.call(
        "POST", f"/v1/admin/reports/{report['id']}/dismiss", key=key, json={"note": "harmless"}
    )
    assert (answer.status, seen["state"], seen["note"]) == (200, "dismissed", "harmless")
    assert (await api.call("POST", f"/v1/admin/reports/{report['id']}/dismiss", key=key))[0].status == 409
    assert (await api.call("POST", f"/v1/admin/reports/{report['id']}/uphold", key=key))[0].status == 409
    assert await acts(api, report["id"]) == ["dismiss_report"]


# ------------------------------------------------------------------ reports


async def finished(api: Api, prompt: str = "a fox", *, charged_mt: int | None = None) -> dict[str, Any]:
    _, job = await submit(api, prompt)
    await api.complete(job["id"], prompt.encode())
    _, read = await api.call("GET", job["urls"]["self"])
    return dict(read)


async def test_a_report_is_made_once_listed_and_told_to_nobody_else(api: Api) -> None:
    job = await finished(api)
    body = {"artifact_id": job["artifacts"][0]["id"], "reason": "not what I asked for", "category": "privacy"}
    answer, report = await api.call("POST", "/v1/reports", json=body)
    moderation_schemas.Report.model_validate(report)
    assert (answer.status, report["state"], report["job_id"]) == (201, "open", job["id"])
    answer, again = await api.call("POST", "/v1/reports", json=body)
    assert (answer.status, again) == (200, report)
    assert (await api.call("GET", "/v1/reports"))[1]["data"] == [report]
    assert (await api.call("GET", "/v1/reports", key=await api.add_key()))[1]["data"] == []


async def test_a_foreign_file_is_reported_by_its_link_only(api: Api) -> None:
    job = await finished(api)
    artifact_id, stranger = job["artifacts"][0]["id"], await api.add_key()
    for about in ({"artifact_id": artifact_id}, {"job_id": job["id"]}):
        answer, _ = await api.call("POST", "/v1/reports", key=stranger, json={**about, "reason": "mine"})
        assert answer.status == 404
    _, share = await api.call("POST", f"/v1/artifacts/{artifact_id}/share")
    for url in (share["url"], "https://pictures.example.org" + share["url"]):
        answer, report = await api.call("POST", "/v1/reports", key=stranger, json={"shared_url": url, "reason": "mine"})
        assert (answer.status, report["artifact_id"]) in ((201, artifact_id), (200, artifact_id))
    for url in (share["url"][:-1] + "0", share["url"].replace("expires=", "expires=9"), "nonsense", "http://[", ""):
        answer, problem = await api.call(
            "POST", "/v1/reports", key=stranger, json={"shared_url": url, "reason": "mine"}
        )
        assert (answer.status, problem["errors"][0]["field"]) == (422, "shared_url"), url


WRONG_REPORTS: list[tuple[dict[str, Any], str]] = [
    ({"reason": "x"}, "job_id"),
    ({"job_id": "job_" + "0" * 26, "artifact_id": "art_" + "0" * 26, "reason": "x"}, "job_id"),
    ({"job_id": 3, "reason": "x"}, "job_id"),
    ({"job_id": "job_" + "0" * 26}, "reason"),
    ({"job_id": "job_" + "0" * 26, "reason": " "}, "reason"),
    ({"job_id": "job_" + "0" * 26, "reason": "\x00"}, "reason"),
    ({"job_id": "job_" + "0" * 26, "reason": "x", "category": "flagged"}, "category"),
    ({"job_id": "job_" + "0" * 26, "reason": "x", "category": []}, "category"),
]


async def test_wrong_reports_are_refused_by_name(api: Api) -> None:
    for body, field in WRONG_REPORTS:
        answer, problem = await api.call("POST", "/v1/reports", json=body)
        assert (answer.status, problem["errors"][0]["field"]) == (422, field), body


async def test_a_bot_reports_for_a_person_what_it_has_shown(api: Api) -> None:
    job = await finished(api)
    person = Person(api, await service_key(api), "discord:42")
    answer, report = await person.call("POST", "/v1/reports", json={"job_id": job["id"], "reason": "ugly"})
    assert (answer.status, report["job_id"]) == (201, job["id"])


async def test_an_upheld_report_withholds_the_file_and_gives_the_tokens_back(api: Api) -> None:
    key = await operator_key(api)
    job = await finished(api)
    url, artifact_id = job["artifacts"][0]["url"], job["artifacts"][0]["id"]
    _, share = await api.call("POST", url + "/share")
    _, report = await api.call("POST", "/v1/reports", json={"job_id": job["id"], "reason": "wrong"})
    path = f"/v1/admin/reports/{report['id']}"
    used = (await api.call("GET", "/v1/me"))[1]["quota"]["used_tokens"]

    answer, review = await api.call("POST", path + "/uphold", key=key, json={"note": "agreed"})
    assert answer.status == 200, review
    moderation_schemas.Review.model_validate(review)
    assert (review["state"], review["refunded_tokens"], review["job"]["withheld"]) == (
        "upheld",
        job["charged_tokens"],
        True,
    )
    assert (await api.call("GET", "/v1/me"))[1]["quota"]["used_tokens"] == used - job["charged_tokens"]
    for where, its_key in ((url, ""), (url + "/thumbnail", ""), (share["url"], None)):
        answer, problem = await api.call("GET", where, key=its_key)
        assert (answer.status, problem["code"]) == (451, "withheld")
    _, read = await api.call("GET", job["urls"]["self"])
    schemas.Job.model_validate(read)
    assert (read["withheld"], read["artifacts"]) == (True, [])
    assert "output" not in read
    answer, problem = await api.call(
        "POST", "/v1/jobs", json={"kind": "image", "input": {"prompt": "x", "image": artifact_id}}
    )
    assert (answer.status, problem["errors"][0]["field"]) == (422, "input.image")
    # The operator may still look at it, and that is recorded.
    answer, seen = await api.call("GET", f"{path}/artifacts/{artifact_id}", key=key)
    assert (answer.status, seen) == (200, b"a fox")
    assert await acts(api, report["id"]) == ["uphold_report", "view_reported_file"]
    await books_balance(api)


async def test_withheld_results_are_given_back_three_times_a_day(api: Api) -> None:
    key, refunds = await operator_key(api), []
    for number in range(4):
        job = await finished(api, f"fox {number}")
        _, report = await api.call("POST", "/v1/reports", json={"job_id": job["id"], "reason": "wrong"})
        _, review = await api.call("POST", f"/v1/admin/reports/{report['id']}/uphold", key=key)
        refunds.append(review["refunded_tokens"])
    assert refunds == [1, 1, 1, 0]
    await books_balance(api)


async def test_two_reports_of_one_job_give_back_once(api: Api) -> None:
    key, job = await operator_key(api), await finished(api)
    _, one = await api.call("POST", "/v1/reports", json={"job_id": job["id"], "reason": "wrong"})
    _, two = await api.call("POST", "/v1/reports", json={"artifact_id": job["artifacts"][0]["id"], "reason": "wrong"})
    _, first = await api.call("POST", f"/v1/admin/reports/{two['id']}/uphold", key=key)
    _, second = await api.call("POST", f"/v1/admin/reports/{one['id']}/uphold", key=key)
    assert (first["refunded_tokens"], second["refunded_tokens"]) == (1, 0)
    await books_balance(api)


async def test_upholding_ends_a_waiting_job_and_asks_a_running_one_to_end(api: Api) -> None:
    key = await operator_key(api)
    await add_rule(api, key, "gore", "flag")
    for claimed in (False, True):
        _, job = await submit(api, "gore")
        if claimed:
            attempt = await api.claim(job["id"])
        _, found = await api.call("GET", "/v1/admin/reports?state=open", key=key)
        path = f"/v1/admin/reports/{found['data'][0]['id']}/uphold"
        answer, _ = await api.call("POST", path, key=key)
        if claimed:
            assert answer.status == 409
            await api.finish(job["id"], attempt, "cancelled", charged_mt=0)
            answer, _ = await api.call("POST", path, key=key)
        assert answer.status == 200
        _, read = await api.call("GET", job["urls"]["self"])
        assert (read["state"], read["charged_tokens"], read["withheld"]) == (
            "cancelled" if claimed else "failed",
            0,
            True,
        )
    await books_balance(api)


async def test_only_operators_review(api: Api) -> None:
    job = await finished(api)
    _, report = await api.call("POST", "/v1/reports", json={"job_id": job["id"], "reason": "wrong"})
    path = f"/v1/admin/reports/{report['id']}"
    for method, where in (
        ("GET", "/v1/admin/reports"),
        ("GET", path),
        ("GET", f"{path}/artifacts/{job['artifacts'][0]['id']}"),
        ("POST", path + "/uphold"),
        ("POST", path + "/dismiss"),
        ("GET", "/v1/admin/moderation/rules"),
        ("POST", "/v1/admin/moderation/rules"),
        ("PUT", "/v1/admin/banner"),
        ("POST", "/v1/admin/shares/rotate"),
        ("POST", "/v1/admin/users/user_" + "0" * 26 + "/ban"),
    ):
        assert (await api.call(method, where))[0].status == 403, where
        assert (await api.call(method, where, key=None))[0].status == 401, where
    key = await operator_key(api)
    nobody = "/v1/admin/reports/rep_" + "0" * 26
    for where in (nobody, "/v1/admin/reports/nonsense"):
        assert (await api.call("GET", where, key=key))[0].status == 404
    for where in (nobody + "/uphold", nobody + "/dismiss"):
        assert (await api.call("POST", where, key=key))[0].status == 404
    assert (await api.call("GET", f"{path}/artifacts/art_{'0' * 26}", key=key))[0].status == 404

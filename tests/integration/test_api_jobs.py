"""Submitting, looking at and cancelling jobs over HTTP."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

from tessera.api.schemas.base import Job
from tessera.ids import Prefix, parse, show
from tessera.ports import Place
from tests.integration.api_server import Api


async def test_a_submission_answers_202_with_the_durable_job(api: Api) -> None:
    answer, job = await api.call(
        "POST", "/v1/jobs", json={"kind": "image", "input": {"prompt": "a fox"}, "metadata": {"mine": 1}}
    )
    assert answer.status == 202
    assert answer.headers["Location"] == job["urls"]["self"] == f"/v1/jobs/{job['id']}"
    assert answer.headers["X-Request-Id"]
    Job.model_validate(job)
    assert (job["kind"], job["model"], job["state"], job["tier"]) == ("image", "preview-image", "queued", "pro")
    assert job["cost_tokens"] == 1
    assert job["metadata"] == {"mine": 1}
    assert isinstance(job["input"]["seed"], int), "a seed is chosen, so that the picture can be made again"
    _, read = await api.call("GET", job["urls"]["self"])
    assert read == job


async def test_a_submission_tells_what_is_left_of_the_rate(api: Api) -> None:
    answer, _ = await api.call("POST", "/v1/jobs", json={"kind": "text", "input": {"prompt": "hello"}})
    assert answer.headers["RateLimit-Policy"] == '"submissions";q=120;w=60'
    assert answer.headers["RateLimit"].startswith('"submissions";r=119;')


async def test_aliases_of_other_services_name_our_models(api: Api) -> None:
    _, job = await api.call(
        "POST", "/v1/jobs", json={"kind": "speech", "model": "tts-1", "input": {"text": "hi", "voice": "alloy"}}
    )
    assert job["model"] == "preview-speech"


async def test_the_flat_price_of_a_model_wins(api: Api) -> None:
    _, job = await api.call("POST", "/v1/jobs", json={"kind": "text", "model": "noop", "input": {"prompt": "x" * 9000}})
    assert job["cost_tokens"] == 0.001


async def test_batch_work_has_the_tier_batch(api: Api) -> None:
    _, job = await api.call("POST", "/v1/jobs", json={"kind": "text", "input": {"prompt": "hi"}, "tier": "batch"})
    assert job["tier"] == "batch"


async def test_a_job_for_later_is_created_and_not_yet_queued(api: Api) -> None:
    later = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    _, job = await api.call("POST", "/v1/jobs", json={"kind": "text", "input": {"prompt": "hi"}, "not_before": later})
    assert job["state"] == "created"
    assert "not_before" in job


async def test_the_same_idempotency_key_answers_with_the_same_job(api: Api) -> None:
    headers = {"Idempotency-Key": "one"}
    first, job = await api.call(
        "POST", "/v1/jobs", headers=headers, json={"kind": "image", "input": {"prompt": "a fox", "width": 64}}
    )
    again, same = await api.call(
        "POST", "/v1/jobs", headers=headers, json={"input": {"width": 64, "prompt": "a fox"}, "kind": "image"}
    )
    assert (first.status, again.status) == (202, 202)
    assert same == job
    assert again.headers["Idempotency-Replayed"] == "true"
    assert "Idempotency-Replayed" not in first.headers
    assert await api.sql.fetchval("SELECT count(*) FROM jobs") == 1


async def test_another_body_under_the_same_idempotency_key_is_refused(api: Api) -> None:
    headers = {"Idempotency-Key": "one"}
    await api.call("POST", "/v1/jobs", headers=headers, json={"kind": "text", "input": {"prompt": "a"}})
    answer, problem = await api.call(
        "POST", "/v1/jobs", headers=headers, json={"kind": "text", "input": {"prompt": "b"}}
    )
    assert (answer.status, problem["code"]) == (422, "idempotency_mismatch")


async def test_an_exhausted_quota_is_402_and_says_when_it_comes_back(api: Api) -> None:
    await api.sql.execute("UPDATE users SET daily_mt = 0 WHERE id = $1", api.user_id)
    answer, problem = await api.call("POST", "/v1/jobs", json={"kind": "image", "input": {"prompt": "a"}})
    assert (answer.status, problem["code"], problem["retryable"]) == (402, "quota_exhausted", False)
    assert 0 < problem["resets_in_s"] <= 86_400
    assert "Retry-After" not in answer.headers, "SDKs retry what has this header"
    assert await api.sql.fetchval("SELECT count(*) FROM jobs") == 0


async def test_too_many_queued_jobs_are_429_with_retry_after(api: Api) -> None:
    await api.sql.execute("UPDATE users SET max_queued = 1 WHERE id = $1", api.user_id)
    await api.submit()
    answer, problem = await api.call("POST", "/v1/jobs", json={"kind": "text", "input": {"prompt": "a"}})
    assert (answer.status, problem["code"]) == (429, "too_many_queued")
    assert int(answer.headers["Retry-After"]) >= 1


async def test_submissions_past_the_rate_are_429_and_say_so_in_the_headers(api: Api) -> None:
    await api.sql.execute("UPDATE users SET submissions_per_min = 1 WHERE id = $1", api.user_id)
    await api.submit()
    answer, problem = await api.call("POST", "/v1/jobs", json={"kind": "text", "input": {"prompt": "a"}})
    assert (answer.status, problem["code"]) == (429, "rate_limited")
    assert int(answer.headers["Retry-After"]) > 1
    assert answer.headers["RateLimit"].startswith('"submissions";r=0;')


async def test_a_size_above_the_plan_is_refused_and_names_the_limit(api: Api) -> None:
    key = await api.add_key(plan="free")
    answer, problem = await api.call(
        "POST", "/v1/jobs", key=key, json={"kind": "image", "input": {"prompt": "a", "width": 2048, "height": 2048}}
    )
    assert answer.status == 422
    assert "1024×1024" in problem["detail"]
    assert problem["errors"][0]["field"] == "input.width"


async def test_the_daily_cap_of_a_key_holds(api: Api) -> None:
    key = await api.add_key(user_id=api.user_id, daily_cap_mt=1500)
    wanted = {"kind": "image", "input": {"prompt": "a"}}
    first, _ = await api.call("POST", "/v1/jobs", key=key, json=wanted)
    second, problem = await api.call("POST", "/v1/jobs", key=key, json=wanted)
    assert (first.status, second.status, problem["code"]) == (202, 402, "quota_exhausted")
    assert "API key" in problem["detail"]


async def test_a_queued_job_tells_its_position_and_eta(api: Api) -> None:
    job = await api.submit()
    api.scheduler.known_places[parse(Prefix.JOB, job["id"])] = Place(position=3, eta_low_s=4.4, eta_high_s=9.6)
    _, read = await api.call("GET", job["urls"]["self"])
    assert (read["position"], read["eta"]) == (3, {"low_s": 4, "high_s": 10})
    Job.model_validate(read)


async def test_the_list_tells_all_positions_by_one_question_to_the_scheduler(api: Api) -> None:
    jobs = [await api.submit() for _ in range(3)]
    for number, job in enumerate(jobs, start=1):
        api.scheduler.known_places[parse(Prefix.JOB, job["id"])] = Place(position=number, eta_low_s=4, eta_high_s=9)
    _, page = await api.call("GET", "/v1/jobs")
    assert [(job["position"], job["eta"]) for job in page["data"]] == [
        (n, {"low_s": 4, "high_s": 9}) for n in (3, 2, 1)
    ]
    assert api.scheduler.asked_places == 1


async def test_a_job_is_shown_without_a_place_while_the_scheduler_is_away(api: Api) -> None:
    job = await api.submit()
    api.scheduler.down = True
    answer, read = await api.call("GET", job["urls"]["self"])
    assert answer.status == 200
    assert "position" not in read


async def test_a_completed_job_shows_its_artifacts_output_and_charge(api: Api) -> None:
    job = await api.submit("image", prompt="a fox")
    await api.complete(job["id"], b"a picture")
    _, read = await api.call("GET", job["urls"]["self"])
    Job.model_validate(read)
    assert (read["state"], read["charged_tokens"], read["engine"], read["preview"]) == ("completed", 1, "fake/1", True)
    (artifact,) = read["artifacts"]
    assert artifact["url"] == f"/v1/artifacts/{artifact['id']}"
    assert "sha256" not in str(read)
    _, listed = await api.call("GET", f"/v1/jobs/{job['id']}/artifacts")
    assert listed == {"data": [artifact], "next_cursor": None}


async def test_a_failed_job_says_why_and_what_was_refunded(api: Api) -> None:
    job = await api.submit("image", prompt="a fox")
    attempt = await api.claim(job["id"])
    error = {"code": "storage_full", "message": "The store is full.", "retryable": False}
    await api.finish(job["id"], attempt, "failed", error=error)
    _, read = await api.call("GET", job["urls"]["self"])
    Job.model_validate(read)
    assert read["error"] == {**error, "refunded_tokens": 1}
    assert read["charged_tokens"] == 0


async def test_a_waiting_job_is_cancelled_at_once_and_refunded(api: Api) -> None:
    job = await api.submit("image", prompt="a fox")
    answer, cancelled = await api.call("POST", job["urls"]["cancel"])
    assert (answer.status, cancelled["state"], cancelled["charged_tokens"]) == (200, "cancelled", 0)
    again, same = await api.call("POST", job["urls"]["cancel"])
    assert (again.status, same) == (200, cancelled)


async def test_cancelling_a_running_job_is_accepted_and_noted(api: Api) -> None:
    job = await api.submit()
    await api.claim(job["id"])
    answer, read = await api.call("POST", job["urls"]["cancel"])
    assert (answer.status, read["state"]) == (202, "running")
    assert "cancel_requested_at" in read


async def test_malformed_unknown_and_foreign_jobs_are_404(api: Api) -> None:
    job = await api.submit()
    stranger = await api.add_key()
    wrong = ["job_nonsense", "job_" + "0" * 26, "upl_" + "0" * 26, "x", "%00", "job_" + "z" * 26, job["id"].upper()]
    for method, tail in (
        ("GET", ""),
        ("GET", "/events"),
        ("GET", "/explain"),
        ("POST", "/cancel"),
        ("GET", "/artifacts"),
    ):
        for identifier in wrong:
            answer, problem = await api.call(method, f"/v1/jobs/{identifier}{tail}")
            assert (answer.status, problem["code"]) == (404, "not_found"), identifier
        answer, problem = await api.call(method, f"/v1/jobs/{job['id']}{tail}", key=stranger)
        assert (answer.status, problem["code"]) == (404, "not_found")


async def test_the_list_goes_from_new_to_old_in_pages(api: Api) -> None:
    made = [(await api.submit())["id"] for _ in range(5)]
    found: list[str] = []
    cursor = ""
    while True:
        _, page = await api.call("GET", f"/v1/jobs?limit=2{cursor}")
        assert len(page["data"]) <= 2
        found += [job["id"] for job in page["data"]]
        if page["next_cursor"] is None:
            break
        cursor = f"&cursor={page['next_cursor']}"
    assert found == made[::-1]


async def test_the_list_can_be_narrowed(api: Api) -> None:
    text = await api.submit()
    image = await api.submit("image", prompt="a fox")
    await api.call("POST", text["urls"]["cancel"])
    for query, expected in (
        ("kind=image", [image["id"]]),
        ("state=cancelled", [text["id"]]),
        ("kind=image&state=cancelled", []),
        ("model=preview-text", [text["id"]]),
    ):
        _, page = await api.call("GET", f"/v1/jobs?{query}")
        assert [job["id"] for job in page["data"]] == expected, query


async def test_one_user_never_sees_the_jobs_of_another(api: Api) -> None:
    await api.submit()
    _, page = await api.call("GET", "/v1/jobs", key=await api.add_key())
    assert page["data"] == []


async def test_prefer_wait_answers_200_with_the_ended_job(api: Api) -> None:
    async def work() -> None:
        for _ in range(200):
            await asyncio.sleep(0.02)
            if (job_id := await api.sql.fetchval("SELECT id FROM jobs WHERE state = 'queued'")) is not None:
                await api.complete(show(Prefix.JOB, job_id), b"x")
                return

    working = asyncio.create_task(work())
    answer, job = await api.call(
        "POST",
        "/v1/jobs",
        headers={"Prefer": "respond-async, wait=20"},
        json={"kind": "text", "input": {"prompt": "hi"}},
    )
    await working
    assert (answer.status, job["state"]) == (200, "completed")
    assert answer.headers["Preference-Applied"] == "wait=20"


async def test_prefer_wait_answers_202_when_the_time_is_over(api: Api) -> None:
    answer, job = await api.call(
        "POST", "/v1/jobs", headers={"Prefer": "wait=1"}, json={"kind": "text", "input": {"prompt": "hi"}}
    )
    assert (answer.status, job["state"]) == (202, "queued")

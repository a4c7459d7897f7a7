"""GET /v1/jobs/{id}/explain: an answer for every state, with and without a scheduler, and who sees how much."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from tessera.api.schemas.explanations import JobExplanation
from tessera.ids import Prefix, new_id, parse
from tessera.ports import Explanation, WaitCode, WaitReason, WorkerView
from tests.integration.api_server import Api

SUMMARY = "You run 4 of 4 jobs that your plan allows at once."


def explanation(job_id: UUID, **changes: Any) -> Explanation:
    waits = Explanation(
        job_id=job_id,
        state="queued",
        summary=SUMMARY,
        position=40,
        position_in_tier=12,
        position_of_user=3,
        ahead={"pro": 11, "free": 28},
        own_jobs_ahead=2,
        running_of_user=4,
        max_running=4,
        reasons=[WaitReason(code=WaitCode.RUNNING_CAP, message=SUMMARY, data={"running": 4, "max_running": 4})],
        workers=[
            WorkerView(
                name="preview-language",
                node="pc2",
                device="cpu",
                online=True,
                free_slots=1,
                slots=2,
                resident=True,
                can_run=False,
                why_not="its user is at the limit",
            )
        ],
        eta_low_s=61.4,
        eta_high_s=240.6,
        own_s=2.345,
    )
    return replace(waits, **changes)


async def explain(api: Api, job: dict[str, Any], **options: Any) -> dict[str, Any]:
    answer, body = await api.call("GET", f"/v1/jobs/{job['id']}/explain", **options)
    assert answer.status == 200, body
    JobExplanation.model_validate(body)
    return dict(body)


def known(api: Api, job: dict[str, Any], **changes: Any) -> None:
    """The scheduler knows the job and explains it."""
    job_id = parse(Prefix.JOB, job["id"])
    api.scheduler.known_explanations[job_id] = explanation(job_id, **changes)


async def test_a_job_names_the_address_of_its_explanation(api: Api) -> None:
    job = await api.submit()
    assert job["urls"]["explain"] == f"/v1/jobs/{job['id']}/explain"
    answer, _ = await api.call("GET", job["urls"]["explain"])
    assert answer.status == 200


async def test_a_waiting_job_is_explained_as_the_scheduler_sees_it(api: Api) -> None:
    job = await api.submit()
    known(api, job)
    shown = await explain(api, job)
    assert (shown["state"], shown["tier"], shown["kind"], shown["model"]) == ("queued", "pro", "text", "preview-text")
    assert shown["summary"] == SUMMARY
    assert [shown[name] for name in ("position", "position_in_tier", "position_of_user")] == [40, 12, 3]
    assert (shown["ahead"], shown["own_jobs_ahead"]) == ({"pro": 11, "free": 28}, 2)
    assert (shown["running_of_user"], shown["max_running"]) == (4, 4)
    assert (shown["queued_of_user"], shown["max_queued"]) == (1, 500)
    assert shown["reasons"] == [
        {"code": "running_cap", "message": SUMMARY, "data": {"running": 4, "max_running": 4}},
    ]
    assert (shown["eta"], shown["own_s"]) == ({"low_s": 61, "high_s": 241}, 2.3)
    assert "queued_since" in shown


@pytest.mark.parametrize("code", WaitCode)
async def test_every_code_reaches_the_caller_with_its_time(api: Api, code: WaitCode) -> None:
    job = await api.submit()
    until = datetime(2030, 1, 31, 12, tzinfo=UTC)
    known(api, job, reasons=[WaitReason(code=code, message="It waits.", until=until)])
    shown = await explain(api, job)
    assert shown["reasons"] == [
        {"code": code.value, "message": "It waits.", "until": "2030-01-31T12:00:00Z", "data": {}},
    ]


async def test_a_job_for_later_says_until_when_without_asking_the_scheduler(api: Api) -> None:
    later = datetime.now(UTC).replace(microsecond=0) + timedelta(hours=1)
    _, job = await api.call(
        "POST", "/v1/jobs", json={"kind": "text", "input": {"prompt": "hi"}, "not_before": later.isoformat()}
    )
    api.scheduler.down = True
    shown = await explain(api, job)
    assert shown["state"] == "created"
    (reason,) = shown["reasons"]
    assert reason["code"] == "not_before"
    assert datetime.fromisoformat(reason["until"]) == later == datetime.fromisoformat(shown["not_before"])
    assert f"{later:%Y-%m-%d %H:%M:%S} UTC" in shown["summary"] == reason["message"]


async def test_a_running_job_says_where_since_when_and_how_long_it_takes(api: Api) -> None:
    job = await api.submit()
    await api.claim(job["id"])
    known(api, job, state="running", summary="It runs on w1.", position=0, reasons=[], eta_low_s=2, eta_high_s=5)
    shown = await explain(api, job)
    assert (shown["state"], shown["worker"], shown["attempt"]) == ("running", "w1", 1)
    assert (shown["reasons"], shown["eta"]) == ([], {"low_s": 2, "high_s": 5})
    assert "started_at" in shown


async def test_a_running_job_is_told_while_the_scheduler_is_away(api: Api) -> None:
    job = await api.submit()
    await api.claim(job["id"])
    api.scheduler.down = True
    shown = await explain(api, job)
    assert (shown["state"], shown["worker"], shown["reasons"]) == ("running", "w1", [])
    assert shown["summary"].startswith("It runs on w1 since ") and "the run goes on" in shown["summary"]
    assert "eta" not in shown


async def test_a_waiting_job_is_told_while_the_scheduler_is_away(api: Api) -> None:
    job = await api.submit()
    api.scheduler.down = True
    shown = await explain(api, job)
    assert [reason["code"] for reason in shown["reasons"]] == ["scheduler_restarting"]
    assert "keeps its place" in shown["summary"] and "nothing has to be done" in shown["summary"]
    assert (shown["state"], shown["attempt"], shown["workers"]) == ("queued", 0, [])
    assert (shown["queued_of_user"], shown["running_of_user"], shown["max_running"]) == (1, 0, 4)
    assert "queued_since" in shown and "position" not in shown


async def test_without_a_scheduler_a_full_running_cap_is_still_told(api: Api) -> None:
    await api.sql.execute("UPDATE users SET max_running = 1 WHERE id = $1", api.user_id)
    running, job = await api.submit(), await api.submit()
    await api.claim(running["id"])
    api.scheduler.down = True
    reasons = (await explain(api, job))["reasons"]
    assert [reason["code"] for reason in reasons] == ["scheduler_restarting", "running_cap"]
    assert reasons[1]["data"] == {"running": 1, "max_running": 1}


async def test_a_job_that_the_scheduler_has_not_read_yet_says_so(api: Api) -> None:
    shown = await explain(api, await api.submit())
    assert [reason["code"] for reason in shown["reasons"]] == ["scheduler_restarting"]
    assert "has not read the job yet" in shown["summary"]


async def test_a_retry_tells_its_attempt_its_failures_and_the_last_error(api: Api) -> None:
    job = await api.submit()
    first = {"code": "worker_lost", "message": "The worker went away.", "retryable": True}
    await api.finish(job["id"], await api.claim(job["id"]), "requeued", error=first, failed=True)
    attempt = await api.claim(job["id"])
    again = datetime.now(UTC) + timedelta(minutes=1)
    error = {"code": "out_of_memory", "message": "Too large.", "retryable": True}
    await api.finish(job["id"], attempt, "requeued", error=error, retry_at=again.isoformat(), failed=True)
    api.scheduler.down = True
    shown = await explain(api, job)
    assert (shown["state"], shown["attempt"], shown["failures"]) == ("queued", 2, 2)
    failure = shown["last_failure"]
    assert (failure["attempt"], failure["worker"], failure["code"]) == (2, "w1", "out_of_memory")
    assert failure["message"] == "Too large."
    assert [reason["code"] for reason in shown["reasons"]] == ["scheduler_restarting", "backoff"]
    assert datetime.fromisoformat(shown["reasons"][1]["until"]) == again
    assert "worker" not in shown and "started_at" not in shown, "it runs nowhere now"


async def test_a_completed_job_says_when_and_what_it_cost(api: Api) -> None:
    job = await api.submit("image", prompt="a fox")
    await api.complete(job["id"], b"a picture")
    shown = await explain(api, job)
    assert (shown["state"], shown["reasons"], shown["workers"]) == ("completed", [], [])
    assert (shown["charged_tokens"], shown["refunded_tokens"]) == (1, 0)
    assert shown["summary"].startswith("It completed at ") and shown["summary"].endswith(" and cost 1 token.")
    assert api.scheduler.asked_explain == 0, "nothing changes any more, so nobody has to be asked"


async def test_a_failed_job_says_why_and_what_came_back(api: Api) -> None:
    job = await api.submit("image", prompt="a fox")
    error = {"code": "storage_full", "message": "The store is full.", "retryable": False}
    await api.finish(job["id"], await api.claim(job["id"]), "failed", error=error)
    shown = await explain(api, job)
    assert (shown["state"], shown["reasons"]) == ("failed", [])
    assert shown["error"] == {**error, "refunded_tokens": 1}
    assert shown["refunded_tokens"] == 1
    assert shown["summary"].endswith("1 token came back. The store is full.")
    assert "finished_at" in shown


async def test_a_cancelled_job_says_what_came_back(api: Api) -> None:
    job = await api.submit("image", prompt="a fox")
    await api.call("POST", job["urls"]["cancel"])
    shown = await explain(api, job)
    assert (shown["state"], shown["refunded_tokens"]) == ("cancelled", 1)
    assert "cancelled by its user" in shown["summary"] and "1 token came back" in shown["summary"]


async def test_an_expired_job_says_that_its_deadline_passed(api: Api) -> None:
    job = await api.submit("image", prompt="a fox")
    row = {"ord": 0, "job_id": str(parse(Prefix.JOB, job["id"])), "to_state": "expired", "reason": "deadline_passed"}
    await api.sql.fetch("SELECT * FROM end_waiting($1)", [row])
    shown = await explain(api, job)
    assert (shown["state"], shown["refunded_tokens"]) == ("expired", 1)
    assert shown["summary"].startswith("Its deadline passed before it started")


async def test_what_the_scheduler_says_of_another_state_is_left_out(api: Api) -> None:
    job = await api.submit()
    known(api, job)
    await api.claim(job["id"])
    shown = await explain(api, job)
    assert (shown["state"], shown["reasons"]) == ("running", [])
    assert "position" not in shown and shown["summary"].startswith("It runs on w1")


async def test_a_job_that_is_being_started_waits_for_nothing_any_more(api: Api) -> None:
    job = await api.submit()
    known(api, job, state="running", summary="It is being started at this moment.", position=0, reasons=[])
    shown = await explain(api, job)
    assert (shown["state"], shown["reasons"]) == ("queued", [])
    assert shown["summary"] == "It is being started at this moment."


async def test_a_user_sees_of_workers_and_of_others_no_more_than_counts(api: Api) -> None:
    job = await api.submit()
    data = {"jobs_ahead": 3, "model": "preview-text", "user": "ada", "users": ["ada"], "blocking": new_id()}
    known(api, job, reasons=[WaitReason(code=WaitCode.AHEAD, message="Others are first.", data=data)])
    shown = await explain(api, job)
    assert shown["reasons"][0]["data"] == {"jobs_ahead": 3, "model": "preview-text"}
    assert shown["workers"] == [
        {
            "name": "preview-language",
            "node": "pc2",
            "device": "cpu",
            "online": True,
            "can_run": False,
            "why_not": "its user is at the limit",
        }
    ]


async def test_an_operator_sees_slots_and_all_data(api: Api) -> None:
    await api.sql.execute("UPDATE users SET is_admin = true WHERE id = $1", api.user_id)
    key = await api.add_key(user_id=api.user_id, scopes=["jobs", "admin"])
    job = await api.submit()
    known(api, job, reasons=[WaitReason(code=WaitCode.AHEAD, message="Others are first.", data={"user": "ada"})])
    shown = await explain(api, job, key=key)
    assert shown["reasons"][0]["data"] == {"user": "ada"}
    (worker,) = shown["workers"]
    assert (worker["free_slots"], worker["slots"], worker["resident"]) == (1, 2, True)
    ours = await explain(api, job)
    assert "slots" not in ours["workers"][0], "the same user with a key that lacks the scope"


async def test_somebody_elses_job_is_not_explained(api: Api) -> None:
    job = await api.submit()
    known(api, job)
    answer, problem = await api.call("GET", f"/v1/jobs/{job['id']}/explain", key=await api.add_key())
    assert (answer.status, problem["code"]) == (404, "not_found")
    assert api.scheduler.asked_explain == 0


async def test_a_key_of_scope_read_may_ask(api: Api) -> None:
    job = await api.submit()
    assert await explain(api, job, key=await api.add_key(user_id=api.user_id, scopes=["read"]))
    answer, _ = await api.call("GET", f"/v1/jobs/{job['id']}/explain", key=None)
    assert answer.status == 401

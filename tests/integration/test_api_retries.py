"""Doing a job again: a new job from one that has ended, with its own hold."""

from __future__ import annotations

import io
from typing import Any

import pytest
from PIL import Image

from tessera.api.schemas.base import Job
from tessera.client import Client
from tessera.ids import Prefix, parse
from tests.integration.api_server import Api


async def retry(api: Api, job_id: str, **options: Any) -> tuple[int, dict[str, Any]]:
    answer, shown = await api.call("POST", f"/v1/jobs/{job_id}/retry", **options)
    return answer.status, shown


async def ended(api: Api, outcome: str, job: dict[str, Any]) -> str:
    """The job, ended so; its id."""
    job_id = str(job["id"])
    if outcome == "cancelled":
        await api.call("POST", f"/v1/jobs/{job_id}/cancel")
    elif outcome == "completed":
        await api.complete(job_id, b"picture")
    else:
        await api.finish(job_id, await api.claim(job_id), "failed", error={"code": "stuck", "message": "Silent."})
    assert (await api.call("GET", f"/v1/jobs/{job_id}"))[1]["state"] == outcome
    return job_id


@pytest.mark.parametrize("outcome", ["failed", "cancelled", "completed"])
async def test_an_ended_job_is_done_again_as_a_new_one(api: Api, outcome: str) -> None:
    _, first = await api.call(
        "POST", "/v1/jobs", json={"kind": "image", "input": {"prompt": "a fox", "width": 512}, "metadata": {"mine": 1}}
    )
    await ended(api, outcome, first)
    status, again = await retry(api, first["id"])
    assert status == 202
    Job.model_validate(again)
    assert again["id"] != first["id"]
    assert again["retried_from"] == first["id"]
    same = ("kind", "model", "input", "metadata", "tier", "cost_tokens")
    assert {name: again[name] for name in same} == {name: first[name] for name in same}
    assert (again["state"], again["attempt"]) == ("queued", 0)
    _, read = await api.call("GET", again["urls"]["self"])
    assert read == again
    _, listed = await api.call("GET", "/v1/jobs")
    assert [job.get("retried_from") for job in listed["data"]] == [first["id"], None]
    held = await api.sql.fetchval(
        "SELECT amount_mt FROM token_ledger WHERE job_id = $1 AND entry = 'hold'", parse(Prefix.JOB, again["id"])
    )
    assert held == 500


async def test_a_job_that_lives_is_409_and_nothing_is_submitted(api: Api) -> None:
    job = await api.submit()
    assert (await retry(api, job["id"]))[1]["code"] == "conflict"
    await api.claim(job["id"])
    status, problem = await retry(api, job["id"])
    assert (status, problem["code"], problem["job_id"]) == (409, "conflict", job["id"])
    assert await api.sql.fetchval("SELECT count(*) FROM jobs") == 1


async def test_the_same_idempotency_key_makes_one_job(api: Api) -> None:
    first, other = await api.submit(), await api.submit()
    for job in (first, other):
        await ended(api, "cancelled", job)
    headers = {"Idempotency-Key": "again"}
    _, made = await retry(api, first["id"], headers=headers)
    answer, same = await api.call("POST", f"/v1/jobs/{first['id']}/retry", headers=headers)
    assert (answer.status, answer.headers["Idempotency-Replayed"]) == (202, "true")
    assert same == made
    status, problem = await retry(api, other["id"], headers=headers)
    assert (status, problem["code"]) == (422, "idempotency_mismatch")
    assert await api.sql.fetchval("SELECT count(*) FROM jobs") == 3


async def test_an_input_file_must_still_be_there(api: Api) -> None:
    picture = io.BytesIO()
    Image.new("RGB", (64, 64)).save(picture, "PNG")
    _, upload = await api.call("POST", "/v1/uploads", data={"file": io.BytesIO(picture.getvalue())})
    job = await api.submit("image", prompt="in autumn", image=upload["id"])
    await ended(api, "cancelled", job)
    status, again = await retry(api, job["id"])
    assert (status, again["input"]) == (202, job["input"])
    await api.sql.execute("UPDATE uploads SET expires_at = now()")
    status, problem = await retry(api, job["id"])
    assert (status, problem["errors"][0]["field"]) == (422, "input.image")
    assert "upload the file again" in problem["detail"]


async def test_a_retry_is_refused_as_any_submission(api: Api) -> None:
    job = await api.submit("image", prompt="a fox")
    await ended(api, "cancelled", job)
    await api.sql.execute("UPDATE users SET daily_mt = 0 WHERE id = $1", api.user_id)
    assert (await retry(api, job["id"]))[0] == 402
    reader = await api.add_key(user_id=api.user_id, scopes=["read"])
    assert (await retry(api, job["id"], key=reader))[0] == 403
    assert (await retry(api, job["id"], key=None))[0] == 401


async def test_nobody_does_the_job_of_another_again(api: Api) -> None:
    job = await api.submit()
    await ended(api, "cancelled", job)
    stranger = await api.add_key()
    for job_id, key in ((job["id"], stranger), ("job_00000000000000000000000000", ""), ("nonsense", "")):
        status, problem = await retry(api, job_id, key=key)
        assert (status, problem["code"]) == (404, "not_found")
    assert await api.sql.fetchval("SELECT count(*) FROM jobs") == 1


async def test_the_client_does_a_job_again(api: Api) -> None:
    job = await api.submit()
    await ended(api, "cancelled", job)
    async with Client(api.url, api.key) as client:
        assert (await client.retry(job["id"])).retried_from == job["id"]

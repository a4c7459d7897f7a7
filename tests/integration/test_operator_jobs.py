"""What an operator does with jobs and workers: find, put back, end as failed, keep a model off a worker."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import asyncpg
import pytest

from deployments.noop import NoopDevice, NoopEngine
from tessera.api.schemas import admin_jobs as admin_job_schemas
from tessera.ids import Prefix, parse, parse_beginning, show
from tessera.ports import WaitCode
from tessera.scheduler.explain import explain
from tests.integration.api_server import Api, running
from tests.integration.conftest import add_user
from tests.integration.people import Person, balanced, service_key
from tests.integration.test_api_workers import cluster
from tests.integration.test_dispatcher import HEAVY, Platform

FIND = "/v1/admin/jobs"


@pytest.fixture
async def boss(database_url: str, tmp_path: Path) -> AsyncIterator[tuple[Api, str]]:
    """An API over a cluster with workers, and an operator's key."""
    async with running(database_url, tmp_path, cluster=cluster()) as api:
        yield api, await api.add_key(user_id=await api.add_user(is_admin=True), scopes=["admin"])


@pytest.fixture
async def platform(database_url: str, connection: asyncpg.Connection, tmp_path: Path) -> AsyncIterator[Platform]:
    user = await add_user(connection, "pro", daily_mt=10_000_000, max_running=8, submissions_per_min=100_000)
    made = Platform(database_url, connection, tmp_path / "artifacts", user)
    yield made
    await made.close()


async def test_jobs_are_found_by_the_beginning_of_the_id_user_state_and_time(boss: tuple[Api, str]) -> None:
    api, key = boss
    mine = [await api.submit() for _ in range(3)]
    ada = Person(api, await service_key(api), "telegram:1")
    theirs = await ada.submit("image", prompt="a secret wish")
    attempt = await api.claim(mine[0]["id"])

    async def found(query: str) -> list[str]:
        answer, page = await api.call("GET", f"{FIND}?{query}", key=key)
        assert answer.status == 200, page
        admin_job_schemas.OperatorJobPage.model_validate(page)
        assert "secret wish" not in str(page)
        return [job["id"] for job in page["data"]]

    everybody = [theirs["id"], *(job["id"] for job in reversed(mine))]
    assert await found("") == everybody
    assert await found(f"id={theirs['id']}") == [theirs["id"]]
    assert set(await found(f"id={theirs['id'][:9]}")) == set(everybody)
    assert await found("user=telegram:1") == [theirs["id"]]
    assert await found(f"user={show(Prefix.USER, api.user_id)}&state=running") == [mine[0]["id"]]
    assert await found("worker=w1") == [mine[0]["id"]]
    assert await found("kind=image&state=queued&state=running") == [theirs["id"]]
    assert await found("created_after=2200-01-01T00:00:00Z") == []
    assert set(await found("created_before=2200-01-01T00:00:00Z")) == set(everybody)
    _, first = await api.call("GET", f"{FIND}?limit=2", key=key)
    assert await found(f"limit=2&cursor={first['next_cursor']}") == everybody[2:]
    for wrong in ("id=art_1", "id=job_zz", "user=nobody", "user=user_1", "state=odd", "created_after=2030-01-01T00:00"):
        assert (await api.call("GET", f"{FIND}?{wrong}", key=key))[0].status == 422, wrong
    await api.finish(mine[0]["id"], attempt)


async def test_a_running_job_is_put_back_in_its_place_and_no_failure_is_counted(boss: tuple[Api, str]) -> None:
    api, key = boss
    job = await api.submit()
    path = f"{FIND}/{job['id']}/requeue"
    answer, acted = await api.call("POST", path, key=key)
    assert (answer.status, acted["state"]) == (200, "queued")  # it waits already: nothing is changed, or on record
    attempt = await api.claim(job["id"])
    answer, acted = await api.call("POST", path, key=key, json={"reason": "the fan"})
    assert (answer.status, acted) == (200, {"id": job["id"], "state": "queued"})
    row = await api.sql.fetchrow(
        "SELECT state, attempt, failures FROM jobs WHERE id = $1", parse(Prefix.JOB, job["id"])
    )
    assert tuple(row) == ("queued", 1, 0)
    late = {"ord": 0, "job_id": str(parse(Prefix.JOB, job["id"])), "attempt": attempt, "outcome": "completed"}
    assert await api.sql.fetch("SELECT * FROM finish(0, $1)", [late]) == []
    assert await api.claim(job["id"]) == 2
    assert (await api.call("POST", f"/v1/jobs/{job['id']}/cancel"))[0].status == 202
    assert (await api.call("POST", path, key=key))[1]["state"] == "cancelled"
    answer, problem = await api.call("POST", f"{FIND}/{(await _completed(api))['id']}/requeue", key=key)
    assert (answer.status, problem["code"]) == (409, "conflict")
    told = await api.sql.fetch("SELECT action, data ->> 'reason' FROM audit_log ORDER BY id")
    assert [tuple(row) for row in told] == [("requeue_job", "the fan"), ("requeue_job", "")]
    await balanced(api)


async def _completed(api: Api) -> dict[str, str]:
    job = await api.submit()
    await api.complete(job["id"])
    return job


async def test_a_job_that_waits_or_runs_is_ended_as_failed_with_its_tokens_back(boss: tuple[Api, str]) -> None:
    api, key = boss
    waiting, running_job = await api.submit("image", prompt="a"), await api.submit("image", prompt="b")
    await api.claim(running_job["id"])
    for job in (waiting, running_job):
        answer, acted = await api.call("POST", f"{FIND}/{job['id']}/fail", key=key, json={"reason": "spam"})
        assert (answer.status, acted) == (200, {"id": job["id"], "state": "failed", "refunded_tokens": 1})
        _, shown = await api.call("GET", f"/v1/jobs/{job['id']}")
        assert shown["error"]["code"] == "stopped_by_operator"
        assert "spam" in shown["error"]["message"] and shown["error"]["refunded_tokens"] == 1
    done = await _completed(api)
    later = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    _, not_due = await api.call(
        "POST", "/v1/jobs", json={"kind": "text", "input": {"prompt": "x"}, "not_before": later}
    )
    for job in (done, not_due):
        answer, problem = await api.call("POST", f"{FIND}/{job['id']}/fail", key=key)
        assert (answer.status, problem["code"]) == (409, "conflict")
    await balanced(api)


async def test_only_operators_act_on_jobs_and_what_is_no_job_is_404(boss: tuple[Api, str]) -> None:
    api, key = boss
    job = await api.submit()
    bot = await service_key(api)
    for path in (f"{FIND}/{job['id']}/requeue", f"{FIND}/{job['id']}/fail"):
        for other in (api.key, bot):
            assert (await api.call("POST", path, key=other))[0].status == 403
        assert (await api.call("POST", path, key=None))[0].status == 401
        for wrong in ({"reason": 5}, {"reason": "x" * 201}, {"more": 1}):
            assert (await api.call("POST", path, key=key, json=wrong))[0].status == 422
        assert (await api.call("POST", path, key=key, data=b"[]"))[0].status == 400
    for nothing in ("job_00000000000000000000000000", "nonsense"):
        for act in ("requeue", "fail"):
            assert (await api.call("POST", f"{FIND}/{nothing}/{act}", key=key))[0].status == 404
    assert (await api.call("GET", FIND))[0].status == 403
    assert (await api.call("GET", FIND, key=None))[0].status == 401


async def test_a_service_key_does_with_workers_what_an_operator_does(boss: tuple[Api, str]) -> None:
    api, key = boss
    bot = await service_key(api)
    for used in (bot, key):
        _, workers = await api.call("GET", "/v1/internal/workers", key=used)
        assert [worker["name"] for worker in workers["data"]] == ["text", "comfyui", "whisper"]
        answer, drained = await api.call("POST", "/v1/internal/workers/text/drain", key=used, json={"for_s": 60})
        assert (answer.status, drained["target"]) == (200, "text")
        answer, resumed = await api.call("POST", "/v1/internal/workers/text/resume", key=used)
        assert (answer.status, resumed["resumed"]) == (200, True)
        assert (await api.call("POST", "/v1/internal/queue/video/pause", key=used))[0].status == 200
        assert (await api.call("POST", "/v1/internal/queue/video/resume", key=used))[1]["resumed"] is True
        job = await api.submit()
        await api.claim(job["id"])
        answer, acted = await api.call("POST", f"/v1/internal/jobs/{job['id']}/requeue", key=used)
        assert (answer.status, acted["state"]) == (200, "queued")
    for method, path in (
        ("GET", "/v1/internal/workers"),
        ("POST", "/v1/internal/workers/text/drain"),
        ("POST", "/v1/internal/workers/text/resume"),
        ("POST", "/v1/internal/queue/video/pause"),
        ("POST", "/v1/internal/queue/video/resume"),
        ("POST", f"/v1/internal/jobs/{job['id']}/requeue"),
        ("GET", "/v1/internal/exclusions"),
        ("PUT", "/v1/internal/workers/text/exclusions/noop"),
        ("DELETE", "/v1/internal/workers/text/exclusions/noop"),
    ):
        assert (await api.call(method, path, json={"for_s": 60}))[0].status == 403, path
        assert (await api.call(method, path, key=None, json={"for_s": 60}))[0].status == 401, path
        person = Person(api, bot, "telegram:1")
        assert (await person.call(method, path, json={"for_s": 60}))[0].status == 403, path


async def test_a_model_is_kept_off_a_worker_and_let_on_again_on_record(boss: tuple[Api, str]) -> None:
    api, key = boss
    path = "/v1/internal/workers/text/exclusions/noop"
    answer, made = await api.call("PUT", path, key=key, json={"for_s": 60, "reason": "its file is broken"})
    assert answer.status == 200
    admin_job_schemas.ExclusionAnswer.model_validate(made)
    _, listed = await api.call("GET", "/v1/internal/exclusions", key=key)
    assert listed["data"] == [made]
    answer, again = await api.call("PUT", path, key=key, json={"for_s": 120})
    assert again["until"] > made["until"] and again["reason"] == ""
    for _, ended in ((0, True), (1, False)):
        answer, gone = await api.call("DELETE", path, key=key)
        assert (answer.status, gone) == (200, {"worker": "text", "model": "noop", "ended": ended})
    for wrong in ({}, {"for_s": 0}, {"for_s": "x"}, {"for_s": 60, "reason": 1}, {"for_s": 60, "x": 1}):
        assert (await api.call("PUT", path, key=key, json=wrong))[0].status == 422
    for nothing in ("nowhere/exclusions/noop", "pc1/exclusions/noop", "text/exclusions/none"):
        for method in ("PUT", "DELETE"):
            answer, _ = await api.call(method, f"/v1/internal/workers/{nothing}", key=key, json={"for_s": 60})
            assert answer.status == 404, nothing
    told = await api.sql.fetch("SELECT action, subject FROM audit_log ORDER BY id")
    assert [tuple(row) for row in told] == [("exclude", "text")] * 2 + [("include", "text")]


async def test_a_job_waits_for_a_model_that_is_kept_off_its_worker_and_says_why(platform: Platform) -> None:
    await platform.connection.execute(
        "INSERT INTO exclusions (worker, model, until, reason, actor)"
        " VALUES ('gpu', 'noop-a', now() + interval '1 hour', 'its file is broken', 'op')"
    )
    dispatcher = platform.start_gpu(NoopEngine(HEAVY, 4, device=NoopDevice(12_000), load_s=0.05))
    kept, other = await platform.submit(model="noop-a"), await platform.submit(model="noop-b")
    assert await platform.final(other) == ["completed"]
    assert await platform.state(kept) == "queued"
    found = explain(dispatcher.board, kept)
    assert found is not None
    assert found.reasons[0].code is WaitCode.EXCLUDED
    assert "its file is broken" in found.reasons[0].message
    await platform.connection.execute("DELETE FROM exclusions")
    assert await platform.final(kept) == ["completed"]


async def test_the_run_of_a_job_that_was_put_back_ends_and_the_job_runs_again(platform: Platform) -> None:
    platform.start_scheduler()
    job = await platform.submit("sleep 2")
    await _runs(platform, job)
    found = await platform.connection.fetchval("SELECT requeue_job($1, 'test', 'op')", job)
    assert found == "queued"
    assert await platform.final(job) == ["completed"]
    row = await platform.connection.fetchrow("SELECT attempt, failures FROM jobs WHERE id = $1", job)
    assert tuple(row) == (2, 0)
    await platform.books()


async def test_the_run_of_a_job_that_an_operator_ended_is_stopped(platform: Platform) -> None:
    platform.start_scheduler()
    job = await platform.submit("sleep 60")
    await _runs(platform, job)
    assert await platform.connection.fetchval("SELECT state FROM fail_job($1, '', 'op')", job) == "failed"

    async def idle() -> bool:
        return not any(run.outcome is None for run in (await platform.worker.worker.report()).runs)

    await platform.until(idle)
    assert await platform.state(job) == "failed"
    await platform.books()


async def _runs(platform: Platform, job: UUID) -> None:
    async def running_now() -> bool:
        return await platform.state(job) == "running"

    await platform.until(running_now)


def test_the_beginning_of_an_id_bounds_the_ids_that_begin_so() -> None:
    whole = "job_01k5h3v9m2f8e4x7q6t0c1b2a3"
    identifier = parse(Prefix.JOB, whole)
    assert parse_beginning(Prefix.JOB, whole) == (identifier, identifier)
    for length in range(4, len(whole)):
        low, high = parse_beginning(Prefix.JOB, whole[:length])
        assert low <= identifier <= high
        assert show(Prefix.JOB, low).startswith(whole[:length]) and show(Prefix.JOB, high).startswith(whole[:length])

"""When Postgres or the scheduler is away, or we have a bug: said honestly, nothing lost, and it heals by itself."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.engine import make_url

from tessera.ports import WorkerStatus
from tests.fakes.cut_line import CutLine, cut_line
from tests.integration.api_server import Api, running

TEXT: dict[str, Any] = {"kind": "text", "input": {"prompt": "hello"}}


@pytest.fixture
async def line(database_url: str) -> AsyncIterator[CutLine]:
    url = make_url(database_url)
    async with cut_line(str(url.host), int(url.port or 5432)) as line:
        yield line


@pytest.fixture
async def frail(database_url: str, line: CutLine, tmp_path: Path) -> AsyncIterator[Api]:
    """An API whose way to Postgres can be cut."""
    url = make_url(database_url).set(host="127.0.0.1", port=line.port)
    async with running(url.render_as_string(hide_password=False), tmp_path) as api:
        await api.call("GET", "/v1/me")  # the pool has connections, and the key is remembered
        yield api


async def test_while_postgres_is_away_nothing_is_accepted_and_it_heals(frail: Api, line: CutLine) -> None:
    headers = {"Idempotency-Key": "mine"}
    await line.cut()
    for method, path, options in (
        ("POST", "/v1/jobs", {"json": TEXT, "headers": headers}),
        ("GET", "/v1/jobs", {}),
        ("GET", "/v1/me", {}),
        ("GET", "/v1/plans", {}),
        ("POST", "/v1/jobs", {"json": TEXT, "headers": headers}),
    ):
        answer, problem = await frail.call(method, path, **options)
        assert (answer.status, problem["code"], problem["retryable"]) == (503, "unavailable", True), path
        assert int(answer.headers["Retry-After"]) >= 1
    assert (await frail.call("GET", "/healthz", key=None))[0].status == 200
    answer, body = await frail.call("GET", "/readyz", key=None)
    assert (answer.status, body["database"]) == (503, "unreachable")
    assert (await frail.call("GET", "/metrics", key=None))[0].status == 200

    await line.mend()
    answer, job = await frail.call("POST", "/v1/jobs", json=TEXT, headers=headers)
    assert answer.status == 202
    assert (await frail.call("GET", "/readyz", key=None))[0].status == 200
    assert (await frail.call("GET", job["urls"]["self"]))[0].status == 200


async def test_a_key_cannot_be_checked_while_postgres_is_away(frail: Api, line: CutLine) -> None:
    unknown = await frail.add_key(user_id=frail.user_id)
    await line.cut()
    answer, problem = await frail.call("GET", "/v1/me", key=unknown)
    assert (answer.status, problem["code"]) == (503, "unavailable")


async def test_an_open_stream_outlives_an_outage_of_postgres(frail: Api, line: CutLine) -> None:
    answer, job = await frail.call("POST", "/v1/jobs", json=TEXT)
    async with frail.events(job["id"]) as events:
        await events.until("queued")
        await line.cut()
        await asyncio.sleep(0.3)
        await line.mend()
        answer, _ = await frail.call("POST", job["urls"]["cancel"])
        assert answer.status == 200
        assert (await events.next(15) or {})["event"] == "cancelled"


async def test_readiness_names_the_workers_that_are_offline(api: Api) -> None:
    api.scheduler.known_workers = [
        WorkerStatus(name="cpu", online=True, models=["preview-text"], slots=2, running=0),
        WorkerStatus(name="gpu", online=False, models=["preview-image"], slots=1, running=0),
    ]
    answer, body = await api.call("GET", "/readyz", key=None)
    assert (answer.status, body["offline"]) == (200, ["gpu"])
    _, models = await api.call("GET", "/v1/models", key=None)
    states = {model["id"]: model["state"] for model in models["data"]}
    assert (states["preview-text"], states["preview-image"]) == ("ready", "offline")


async def test_without_the_scheduler_submissions_go_on(api: Api) -> None:
    api.scheduler.down = True
    answer, body = await api.call("GET", "/readyz", key=None)
    assert (answer.status, body["scheduler"]) == (200, "unreachable")
    assert (await api.call("POST", "/v1/jobs", json=TEXT))[0].status == 202
    _, models = await api.call("GET", "/v1/models", key=None)
    assert {model["state"] for model in models["data"]} == {"unknown"}


async def test_a_bug_is_a_500_problem_without_a_traceback(api: Api) -> None:
    """A table that is gone stands for anything that nobody has thought of."""
    await api.sql.execute("ALTER TABLE usage_daily RENAME TO somewhere_else")
    answer, problem = await api.call("GET", "/v1/usage")
    assert (answer.status, problem["code"]) == (500, "internal_error")
    assert answer.content_type == "application/problem+json"
    assert problem["request_id"] == answer.headers["X-Request-Id"]
    assert "usage_daily" not in str(problem)
    assert "Traceback" not in str(problem)

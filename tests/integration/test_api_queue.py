"""Pauses over HTTP: a kind of which no job starts, what its users are told, and what is left behind for the books."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import datetime
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from tessera.api.schemas import base as schemas
from tessera.api.schemas import explanations as explanation_schemas
from tessera.client import Client
from tessera.ids import Prefix, show
from tessera.jobs import Kind
from tests.integration.api_server import Api, running


@pytest.fixture
async def api(database_url: str, tmp_path: Path) -> AsyncIterator[Api]:
    """An API whose key is an operator's."""
    async with running(database_url, tmp_path) as started:
        started.user_id = await started.add_user(is_admin=True)
        started.key = await started.add_key(user_id=started.user_id, scopes=["jobs", "admin"])
        yield started


async def pause(api: Api, kind: str = "image", **body: Any) -> dict[str, Any]:
    answer, shown = await api.call("POST", f"/v1/admin/queue/{kind}/pause", json=body)
    assert answer.status == 200, shown
    schemas.PauseAnswer.model_validate(shown)
    return dict(shown)


async def paused(api: Api) -> dict[str, str]:
    """Kind → message, of those that are paused."""
    answer, shown = await api.call("GET", "/v1/admin/queue")
    assert answer.status == 200
    schemas.PausePage.model_validate(shown)
    return {entry["kind"]: entry["message"] for entry in shown["data"]}


async def audited(api: Api) -> list[tuple[str, str]]:
    rows = await api.sql.fetch("SELECT actor, action, subject FROM audit_log ORDER BY id")
    assert {row["actor"] for row in rows} <= {show(Prefix.USER, api.user_id)}
    return [(row["action"], row["subject"]) for row in rows]


async def test_a_paused_kind_is_shown_until_its_pause_is_ended(api: Api) -> None:
    assert await paused(api) == {}
    await pause(api, "video", message="The GPU is lent out.")
    await pause(api, "image")
    assert await paused(api) == {"image": "", "video": "The GPU is lent out."}
    for resumed in (True, False):
        answer, shown = await api.call("POST", "/v1/admin/queue/video/resume")
        assert (answer.status, shown) == (200, {"kind": "video", "resumed": resumed})
    assert await paused(api) == {"image": ""}


async def test_a_repeated_pause_takes_the_new_message_and_began_when_it_began(api: Api) -> None:
    first = await pause(api, message="soon")
    second = await pause(api, message="at 15:00")
    assert (second["message"], second["since"]) == ("at 15:00", first["since"])
    assert second["actor"] == show(Prefix.USER, api.user_id)
    assert datetime.fromisoformat(second["since"]).utcoffset() is not None


async def test_every_kind_can_be_paused_and_nothing_else(api: Api) -> None:
    for kind in Kind:
        await pause(api, kind)
    assert set(await paused(api)) == set(Kind)
    for act in ("pause", "resume"):
        answer, problem = await api.call("POST", f"/v1/admin/queue/poems/{act}", json={})
        assert (answer.status, problem["code"]) == (404, "not_found")
        assert "transcription" in problem["detail"]


async def test_a_message_that_is_no_line_of_text_is_refused(api: Api) -> None:
    for body in ({"message": "x" * 201}, {"message": "a\nb"}, {"message": 5}, {"until": "tomorrow"}):
        answer, problem = await api.call("POST", "/v1/admin/queue/image/pause", json=body)
        assert (answer.status, problem["code"]) == (422, "invalid_input"), body
    assert await paused(api) == {}
    assert await audited(api) == []


async def test_each_act_is_audited_and_wakes_the_scheduler(api: Api, database_url: str) -> None:
    woken: asyncio.Queue[str] = asyncio.Queue()
    listening = await asyncpg.connect(database_url)
    try:
        await listening.add_listener("tessera_feed", lambda *told: woken.put_nowait(told[-1]))
        await pause(api)
        async with asyncio.timeout(5):
            assert await woken.get() == "pauses"
        for _ in range(2):
            await api.call("POST", "/v1/admin/queue/image/resume")
        async with asyncio.timeout(5):
            assert await woken.get() == "pauses"
    finally:
        await listening.close()
    assert await audited(api) == [("pause", "image"), ("unpause", "image")], "nothing was done the third time"
    assert await api.sql.fetchval("SELECT count(*) FROM job_events") == 0


async def test_submissions_are_taken_during_a_pause_and_their_users_are_told(api: Api) -> None:
    await pause(api, "text", message="Back at 15:00.")
    job, other = await api.submit("text"), await api.submit("image", prompt="a fox")
    assert job["state"] == "queued"
    api.scheduler.down = True
    _, shown = await api.call("GET", job["urls"]["explain"])
    explanation_schemas.JobExplanation.model_validate(shown)
    assert [reason["code"] for reason in shown["reasons"]] == ["scheduler_restarting", "paused"]
    assert shown["reasons"][1]["message"] == "An operator has paused jobs of kind text: Back at 15:00."
    _, shown = await api.call("GET", other["urls"]["explain"])
    assert [reason["code"] for reason in shown["reasons"]] == ["scheduler_restarting"]


async def test_the_client_pauses_lists_and_ends(api: Api) -> None:
    async with Client(api.url, api.key) as client:
        made = await client.pause("music", "Back soon.")
        assert (made.kind, made.message) == ("music", "Back soon.")
        assert await client.pauses() == (made,)
        assert [(await client.unpause("music")).resumed for _ in range(2)] == [True, False]
        assert await client.pauses() == ()


async def test_pauses_are_for_operators(api: Api) -> None:
    key = await api.add_key()
    for method, path in (("GET", ""), ("POST", "/image/pause"), ("POST", "/image/resume")):
        answer, problem = await api.call(method, f"/v1/admin/queue{path}", key=key, json={})
        assert (answer.status, problem["code"]) == (403, "forbidden")
    assert await paused(api) == {}

"""Workers over HTTP: what an operator sees of them, and drains."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tessera.api.schemas import base as schemas
from tessera.config import ClusterConfig, parse_cluster
from tessera.ports import WorkerStatus
from tests.integration.api_server import Api, running

CLUSTER = """
[[nodes]]
name = "pc2"
[[nodes.devices]]
name = "pc2-cpu"
kind = "cpu"
vram_mib = 4096
[[nodes]]
name = "pc1"
[[nodes.devices]]
name = "pc1-gpu"
kind = "gpu"
vram_mib = 24000
"""


def cluster() -> ClusterConfig:
    """Two nodes; one worker on the first, two on the second, and one that is not enabled."""
    entry = '[[workers]]\nname = "{}"\nengine = "noop"\nmodels = ["noop"]\nnode = "{}"\nslots = 2\n'
    entries = [entry.format(*names) for names in (("text", "pc2"), ("comfyui", "pc1"), ("whisper", "pc1"))]
    return parse_cluster(CLUSTER + "".join(entries) + entry.format("old", "pc1") + "enabled = false\n")


@pytest.fixture
async def api(database_url: str, tmp_path: Path) -> AsyncIterator[Api]:
    """An API whose key is an operator's, over a cluster with workers."""
    async with running(database_url, tmp_path, cluster=cluster()) as started:
        operator = await started.add_user(is_admin=True)
        started.key = await started.add_key(user_id=operator, scopes=["jobs", "admin"])
        yield started


async def drained(api: Api, target: str, **body: Any) -> dict[str, Any]:
    answer, shown = await api.call("POST", f"/v1/admin/workers/{target}/drain", json=body or {"for_s": 60})
    assert answer.status == 200, shown
    schemas.DrainAnswer.model_validate(shown)
    return dict(shown)


async def resumed(api: Api, target: str) -> dict[str, Any]:
    answer, shown = await api.call("POST", f"/v1/admin/workers/{target}/resume")
    assert answer.status == 200, shown
    schemas.ResumeAnswer.model_validate(shown)
    return dict(shown)


async def until_of(api: Api) -> dict[str, datetime]:
    """Worker → the end of its drain, of those that drain."""
    _, shown = await api.call("GET", "/v1/admin/workers")
    return {
        worker["name"]: datetime.fromisoformat(worker["draining_until"])
        for worker in shown["data"]
        if "draining_until" in worker
    }


async def audit(api: Api) -> list[tuple[Any, ...]]:
    rows = await api.sql.fetch("SELECT action, subject, data FROM audit_log ORDER BY id")
    return [(row["action"], row["subject"], row["data"].get("reason")) for row in rows]


async def test_workers_are_shown_as_the_file_and_the_scheduler_have_them(api: Api) -> None:
    since = datetime.now(UTC).replace(microsecond=0)
    api.scheduler.known_workers = [
        WorkerStatus(
            name="text", online=True, models=["noop"], slots=2, running=1, resident=["noop"], loading="noop-b"
        ),
        WorkerStatus(
            name="comfyui",
            online=False,
            models=["noop"],
            slots=2,
            running=0,
            message="silent",
            offline_since=since,
            circuit="open",
            circuit_until=since,
            excluded={"noop": since},
        ),
    ]
    answer, shown = await api.call("GET", "/v1/admin/workers")
    assert answer.status == 200
    schemas.WorkerPage.model_validate(shown)
    text, comfyui, whisper = shown["data"]
    assert (text["name"], text["state"], text["node"], text["device"]) == ("text", "online", "pc2", "pc2-cpu")
    assert (text["running"], text["resident"], text["loading"], text["circuit"]) == (1, ["noop"], "noop-b", "closed")
    assert (comfyui["state"], comfyui["message"], comfyui["circuit"]) == ("offline", "silent", "open")
    assert list(comfyui["excluded"]) == ["noop"]
    assert datetime.fromisoformat(comfyui["offline_since"]) == since
    assert (whisper["state"], whisper["device"]) == ("unknown", "pc1-gpu")  # the scheduler does not know it yet
    assert "running" not in whisper


async def test_workers_are_shown_and_drained_while_the_scheduler_is_away(api: Api) -> None:
    api.scheduler.down = True
    await drained(api, "comfyui")
    _, shown = await api.call("GET", "/v1/admin/workers")
    assert [worker["state"] for worker in shown["data"]] == ["unknown"] * 3
    assert list(await until_of(api)) == ["comfyui"]


async def test_a_drain_of_a_worker_is_of_it_alone_and_is_written_down(api: Api) -> None:
    before = datetime.now(UTC)
    shown = await drained(api, "comfyui", for_s=7200, reason="games")
    assert (shown["target"], shown["kind"], shown["reason"]) == ("comfyui", "worker", "games")
    until = datetime.fromisoformat(shown["until"])
    assert timedelta(hours=2) <= until - before < timedelta(hours=2, seconds=30)
    assert shown["workers"] == [{"name": "comfyui", "draining_until": shown["until"]}]
    assert await until_of(api) == {"comfyui": until}
    assert await audit(api) == [("drain", "comfyui", "games")]


async def test_a_drain_of_a_node_is_of_all_its_workers(api: Api) -> None:
    shown = await drained(api, "pc1")
    assert shown["kind"] == "node"
    assert [worker["name"] for worker in shown["workers"]] == ["comfyui", "whisper"]  # and not the one that is off
    assert set(await until_of(api)) == {"comfyui", "whisper"}


async def test_a_resume_ends_a_drain_and_may_be_repeated(api: Api) -> None:
    await drained(api, "comfyui")
    assert (await resumed(api, "comfyui"))["resumed"] is True
    assert await until_of(api) == {}
    assert (await resumed(api, "comfyui"))["resumed"] is False
    assert [row[:2] for row in await audit(api)] == [("drain", "comfyui"), ("resume", "comfyui")]


async def test_a_resumed_worker_of_a_drained_node_goes_on_draining_and_the_answer_says_so(api: Api) -> None:
    node = await drained(api, "pc1")
    await drained(api, "comfyui", for_s=600)
    shown = await resumed(api, "comfyui")
    assert shown["resumed"] is True
    assert shown["workers"] == [{"name": "comfyui", "draining_until": node["until"]}]
    assert [worker["draining_until"] for worker in (await resumed(api, "pc1"))["workers"]] == [None, None]


async def test_a_repeated_drain_gets_the_new_end(api: Api) -> None:
    await drained(api, "comfyui", for_s=600)
    shown = await drained(api, "comfyui", for_s=60)
    assert await until_of(api) == {"comfyui": datetime.fromisoformat(shown["until"])}
    assert await api.sql.fetchval("SELECT count(*) FROM drains") == 1


async def test_a_drain_ends_by_itself(api: Api) -> None:
    await drained(api, "comfyui", for_s=1)
    await asyncio.sleep(1.1)
    assert await until_of(api) == {}
    assert (await resumed(api, "comfyui"))["resumed"] is False


@pytest.mark.parametrize("act", ["drain", "resume"])
@pytest.mark.parametrize("target", ["pc9", "old", "Comfyui", "comfyui%20"])
async def test_what_is_not_there_is_404_and_names_what_is(api: Api, act: str, target: str) -> None:
    answer, problem = await api.call("POST", f"/v1/admin/workers/{target}/{act}", json={"for_s": 60})
    assert (answer.status, problem["code"]) == (404, "not_found")
    assert "Workers: text, comfyui, whisper. Nodes: pc2, pc1." in problem["detail"]
    assert await audit(api) == []


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "for_s"),
        ({"for_s": "2h"}, "for_s"),
        ({"for_s": True}, "for_s"),
        ({"for_s": 0.5}, "for_s"),
        ({"for_s": -60}, "for_s"),
        ({"for_s": 30 * 86_400 + 1}, "for_s"),
        ({"for_s": 60, "reason": "x" * 201}, "reason"),
        ({"for_s": 60, "reason": "a\nb"}, "reason"),
        ({"for_s": 60, "reason": 7}, "reason"),
        ({"for_s": 60, "until": "tomorrow"}, "until"),
    ],
)
async def test_a_wrong_body_is_422_and_drains_nothing(api: Api, body: dict[str, Any], field: str) -> None:
    answer, problem = await api.call("POST", "/v1/admin/workers/comfyui/drain", json=body)
    assert (answer.status, problem["errors"][0]["field"]) == (422, field)
    assert await until_of(api) == {}


@pytest.mark.parametrize("for_s", [1, 30 * 86_400])
async def test_the_shortest_and_the_longest_drain(api: Api, for_s: int) -> None:
    await drained(api, "comfyui", for_s=for_s)


async def test_only_an_operators_key_may_look_or_drain(api: Api) -> None:
    for key in (await api.add_key(), await api.add_key(scopes=["jobs", "admin"])):
        for method, path in (("GET", ""), ("POST", "/comfyui/drain"), ("POST", "/comfyui/resume")):
            answer, _ = await api.call(method, f"/v1/admin/workers{path}", key=key, json={"for_s": 60})
            assert answer.status == 403
    assert await until_of(api) == {}


async def test_the_scheduler_is_woken_by_the_commit(api: Api) -> None:
    heard: asyncio.Queue[str] = asyncio.Queue()
    await api.sql.add_listener("tessera_feed", lambda *args: heard.put_nowait(args[-1]))
    for act in (drained, resumed):
        await act(api, "comfyui")
        async with asyncio.timeout(5):
            assert await heard.get() == "drains"

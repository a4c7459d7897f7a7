"""GET /v1/queue: how much waits and runs, what is loaded or paused, for everybody and of nobody."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from tessera.api.depth import DepthGauge
from tessera.api.queue import model_state
from tessera.api.schemas.queue import Queue
from tessera.catalog import PREVIEW_MODELS
from tessera.client import Client
from tessera.ids import Prefix, parse
from tessera.ports import WorkerStatus
from tests.integration.api_server import Api


async def queue(api: Api) -> dict[str, Any]:
    answer, shown = await api.call("GET", "/v1/queue", key=None)
    assert answer.status == 200, shown
    Queue.model_validate(shown)
    return dict(shown)


def worker(name: str, *models: str, online: bool = True, resident: tuple[str, ...] = ()) -> WorkerStatus:
    return WorkerStatus(name=name, online=online, models=models, slots=1, running=0, resident=resident)


async def test_an_empty_queue_has_no_lines_and_all_models(api: Api) -> None:
    shown = await queue(api)
    assert (shown["queued"], shown["running"], shown["lines"], shown["pauses"]) == (0, 0, [], [])
    assert [model["id"] for model in shown["models"]] == [m.id for m in api.services.catalog.models if not m.hidden]


async def test_what_waits_and_runs_is_counted_by_kind_and_tier_over_all_users(api: Api) -> None:
    old = await api.submit("image", prompt="a fox")
    await api.sql.execute(
        "UPDATE jobs SET queued_at = now() - interval '90 seconds' WHERE id = $1", parse(Prefix.JOB, old["id"])
    )
    wanted = {"kind": "image", "input": {"prompt": "a fox"}}
    await api.call("POST", "/v1/jobs", json={**wanted, "tier": "batch"})
    for key in (await api.add_key(), await api.add_key(plan="free")):
        await api.call("POST", "/v1/jobs", json=wanted, key=key)
    later = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    await api.call("POST", "/v1/jobs", json={"kind": "music", "input": {"prompt": "rain"}, "not_before": later})
    await api.claim((await api.submit())["id"])
    shown = await queue(api)
    lines = [(line["kind"], line["tier"], line["queued"], line["running"]) for line in shown["lines"]]
    assert lines == [("image", "batch", 1, 0), ("image", "free", 1, 0), ("image", "pro", 2, 0), ("text", "pro", 0, 1)]
    assert (shown["queued"], shown["running"]) == (4, 1)
    waits = {line["tier"]: line.get("oldest_wait_s") for line in shown["lines"] if line["kind"] == "image"}
    assert waits["pro"] >= 90
    assert waits["free"] < 60
    assert "oldest_wait_s" not in shown["lines"][3]


async def test_pauses_are_told_with_their_message_and_not_by_whom(api: Api) -> None:
    await api.sql.execute("INSERT INTO queue_pauses (kind, message, actor) VALUES ('video', 'Lent out.', 'user_x')")
    (pause,) = (await queue(api))["pauses"]
    assert (pause["kind"], pause["message"]) == ("video", "Lent out.")
    assert "user_x" not in str(pause)


async def test_models_are_told_from_the_scheduler_and_unknown_without_it(api: Api) -> None:
    api.scheduler.known_workers = [worker("w", "preview-image"), worker("off", "preview-text", online=False)]
    states = {model["id"]: model["state"] for model in (await queue(api))["models"]}
    assert (states["preview-image"], states["preview-text"]) == ("warm", "offline")


async def test_without_the_scheduler_the_counts_are_still_told(api: Api) -> None:
    api.scheduler.down = True
    await api.submit()
    shown = await queue(api)
    assert shown["queued"] == 1
    assert {model["state"] for model in shown["models"]} == {"unknown"}


def test_a_heavy_model_is_cold_until_it_is_loaded_somewhere() -> None:
    heavy = replace(PREVIEW_MODELS[0], id="heavy", vram_mib=8000)
    assert model_state(heavy, [worker("a", "heavy")]) == "cold"
    assert model_state(heavy, [worker("a", "heavy"), worker("b", "heavy", resident=("heavy",))]) == "warm"
    assert model_state(heavy, [worker("a", "heavy", online=False, resident=("heavy",))]) == "offline"
    assert model_state(heavy, []) == "offline"
    assert model_state(heavy, None) == "unknown"


async def test_the_count_is_kept_for_a_second(api: Api) -> None:
    gauge = DepthGauge(api.services)
    first = await gauge.get()
    await api.submit()
    assert await gauge.get() is first


async def test_the_client_asks_without_a_key(api: Api) -> None:
    await api.submit()
    async with Client(api.url) as client:
        assert [(line.kind, line.queued) for line in (await client.queue()).lines] == [("text", 1)]

"""Batches, native and by OpenAI's SDK: lines become jobs once each, when there is room, and results come as files."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import openai
import pytest

from tessera.api.batches.expander import Expander
from tests.integration.api_server import Api, running
from tests.integration.working_api import working


@pytest.fixture
async def api(database_url: str, tmp_path: Path) -> AsyncIterator[Api]:
    """Everything works but the expander, whose steps the test takes."""
    async with working(database_url, tmp_path) as started:
        yield started


@pytest.fixture
async def idle(database_url: str, tmp_path: Path) -> AsyncIterator[Api]:
    """Nothing works: what is admitted stays queued."""
    async with running(database_url, tmp_path) as started:
        await started.sql.execute("UPDATE users SET daily_mt = 1000000, submissions_per_min = 1000, max_queued = 1000")
        yield started


@pytest.fixture
async def live(database_url: str, tmp_path: Path) -> AsyncIterator[Api]:
    """Everything works."""
    async with working(database_url, tmp_path, expanding=True) as started:
        yield started


def text_line(number: int, prompt: str = "hello", **more: Any) -> dict[str, Any]:
    return {"custom_id": f"line-{number}", "kind": "text", "model": "noop", "input": {"prompt": prompt}, **more}


def chat_line(number: int, prompt: str = "What is 3 * 4?", **more: Any) -> dict[str, Any]:
    body = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": prompt}], "max_tokens": 20, **more}
    return {"custom_id": f"c{number}", "method": "POST", "url": "/v1/chat/completions", "body": body}


def jsonl(*lines: Any) -> bytes:
    return "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines).encode()


async def begin(api: Api, data: bytes, *, headers: dict[str, str] | None = None, key: str = "", **fields: str) -> Any:
    form = aiohttp.FormData(fields)
    form.add_field("file", io.BytesIO(data), filename="lines.jsonl")
    answer, found = await api.call("POST", "/v1/batches", data=form, headers=headers, key=key)
    return answer.status, found


async def begun(api: Api, *lines: Any, **options: Any) -> str:
    status, found = await begin(api, jsonl(*lines), **options)
    assert status == 201, found
    return str(found["id"])


async def batch_of(api: Api, batch_id: str) -> dict[str, Any]:
    answer, found = await api.call("GET", f"/v1/batches/{batch_id}")
    assert answer.status == 200, found
    return dict(found)


async def until(check: Callable[[], Awaitable[Any]], seconds: float = 60.0) -> Any:
    async with asyncio.timeout(seconds):
        while not (found := await check()):  # noqa: ASYNC110 (Postgres tells nobody)
            await asyncio.sleep(0.02)
    return found


async def ended(api: Api, batch_id: str) -> dict[str, Any]:
    async def look() -> dict[str, Any] | None:
        found = await batch_of(api, batch_id)
        return found if "ended_at" in found else None

    return dict(await until(look))


async def lines_of(api: Api, batch_id: str, which: str) -> list[dict[str, Any]]:
    headers = {"Authorization": f"Bearer {api.key}"}
    async with api.http.get(f"{api.url}/v1/batches/{batch_id}/{which}", headers=headers) as answer:
        data = await answer.read()
        assert answer.status == 200, data
        assert answer.content_type == "application/jsonl"
    return [json.loads(line) for line in data.splitlines()]


async def jobs(api: Api) -> int:
    return int(await api.sql.fetchval("SELECT count(*) FROM jobs"))


async def test_a_batch_runs_each_line_once_and_gives_its_results_in_order(live: Api) -> None:
    sent = [text_line(n) for n in range(120)]
    batch_id = await begun(live, *sent, metadata='{"run": 1}')
    batch = await ended(live, batch_id)
    assert batch["state"] == "completed" and batch["metadata"] == {"run": 1}
    counts = {"total": 120, "expanded": 120, "refused": 0, "queued": 0, "running": 0, "completed": 120, "failed": 0}
    assert batch["counts"] == {**counts, "cancelled": 0}
    assert batch["charged_tokens"] == 0.12
    results = await lines_of(live, batch_id, "output")
    assert [r["custom_id"] for r in results] == [line["custom_id"] for line in sent]
    assert {r["job"]["tier"] for r in results} == {"batch"} and {r["job"]["state"] for r in results} == {"completed"}
    assert await lines_of(live, batch_id, "errors") == []
    assert await jobs(live) == 120
    assert await live.sql.fetchval("SELECT sum(amount_mt) FROM token_ledger") == 120


async def test_a_line_that_is_not_valid_or_fails_stands_in_the_error_file_and_stops_no_other(live: Api) -> None:
    batch_id = await begun(
        live,
        text_line(1),
        "",
        text_line(2, model="gpt-99"),
        text_line(3, "fail oom"),
        {"custom_id": "x", "kind": "text", "input": {"prompt": ""}},
        text_line(4),
    )
    batch = await ended(live, batch_id)
    assert (batch["counts"]["completed"], batch["counts"]["failed"], batch["counts"]["refused"]) == (2, 1, 2)
    assert [r["line"] for r in await lines_of(live, batch_id, "output")] == [1, 6]
    wrong = await lines_of(live, batch_id, "errors")
    assert [r["line"] for r in wrong] == [3, 4, 5]
    assert wrong[0]["error"]["code"] == "unknown_model"
    assert wrong[1]["job"]["error"]["code"] == "out_of_memory" and wrong[1]["job"]["charged_tokens"] == 0
    assert wrong[2]["error"]["code"] == "invalid_input"


WRONG = {
    "no line": (b"\n  \n", "no line"),
    "what is no JSON": (b'{"kind":"text"\n', "line 1: the line is not valid JSON"),
    "a line that is no object": (jsonl(text_line(1), "[1]"), "line 2: the line is valid JSON, but not an object"),
    "a custom_id that comes twice": (jsonl(text_line(1), text_line(1)), "line 2: custom_id: 'line-1' was used before"),
    "a custom_id that is no text": (jsonl({"custom_id": 3}), "line 1: custom_id: must be a text"),
}


@pytest.mark.parametrize("case", WRONG)
async def test_a_file_is_refused_by_its_line_with(idle: Api, case: str) -> None:
    data, words = WRONG[case]
    status, found = await begin(idle, data)
    assert status == 422 and words in found["detail"], found
    assert await idle.sql.fetchval("SELECT count(*) FROM batches") == 0


async def test_a_file_that_is_missing_empty_or_has_a_wrong_window_is_refused(idle: Api) -> None:
    assert (await begin(idle, b""))[0] == 422
    assert (await begin(idle, jsonl(text_line(1)), completion_window="9d"))[0] == 422
    assert (await begin(idle, jsonl(text_line(1)), metadata="{"))[0] == 422
    assert (await begin(idle, jsonl(text_line(1)), colour="red"))[0] == 422
    answer, _ = await idle.call("POST", "/v1/batches", data=aiohttp.FormData({"completion_window": "1d"}))
    assert answer.status == 422


async def test_no_line_becomes_two_jobs_however_many_expand_at_once_and_die(idle: Api) -> None:
    batch_id = await begun(idle, *(text_line(n) for n in range(230)))
    expanders = [Expander(idle.services) for _ in range(3)]

    async def expanded() -> bool:
        # Each round three at once, and one of them is killed in the middle of what it does.
        steps = [asyncio.create_task(expander.step()) for expander in expanders]
        await asyncio.sleep(0.004)
        steps[0].cancel()
        await asyncio.gather(*steps, return_exceptions=True)
        return (await batch_of(idle, batch_id))["counts"]["expanded"] == 230

    await until(expanded)
    assert await jobs(idle) == 230
    assert await idle.sql.fetchval("SELECT count(DISTINCT job_id) FROM batch_lines") == 230
    assert await idle.sql.fetchval("SELECT count(*) FROM token_ledger WHERE entry = 'hold'") == 230


async def test_only_half_of_the_queue_and_of_the_rate_is_taken_by_a_batch(idle: Api) -> None:
    expander = Expander(idle.services)
    await idle.sql.execute("UPDATE users SET max_queued = 10, submissions_per_min = 1000")
    first = await begun(idle, *(text_line(n) for n in range(20)))
    await expander.step()
    found = await batch_of(idle, first)
    assert (found["state"], found["counts"]["queued"]) == ("expanding", 5)
    assert found["pause"]["reason"] == "too_many_queued"
    await idle.sql.execute("UPDATE users SET max_queued = 1000, submissions_per_min = 20")
    await idle.sql.execute("UPDATE user_state SET tat = now()")
    await idle.sql.execute("UPDATE batches SET next_try_at = now()")
    await expander.step()
    found = await batch_of(idle, first)
    assert found["counts"]["queued"] == 15 and found["pause"]["reason"] == "rate_limited"
    assert (await idle.submit())["state"] == "queued"  # others still get in


async def test_a_quota_that_is_used_up_pauses_the_batch_until_there_is_some_again(idle: Api) -> None:
    expander = Expander(idle.services)
    await idle.sql.execute("UPDATE users SET daily_mt = 3")
    batch_id = await begun(idle, *(text_line(n) for n in range(5)))
    await expander.step()
    found = await batch_of(idle, batch_id)
    assert (found["state"], found["counts"]["expanded"]) == ("paused", 3)
    assert found["pause"]["reason"] == "quota_exhausted" and "midnight" in found["pause"]["message"]
    assert found["pause"]["until"].endswith("T00:00:00Z")
    assert await idle.sql.fetchval("SELECT used_mt FROM user_state WHERE user_id = $1", idle.user_id) == 3
    await idle.sql.execute("UPDATE users SET daily_mt = 4")
    assert not await expander.step()  # it waits a while before it looks again
    await idle.sql.execute("UPDATE batches SET next_try_at = now()")
    await expander.step()
    assert (await batch_of(idle, batch_id))["counts"]["expanded"] == 4
    await idle.sql.execute("UPDATE users SET daily_mt = 100")
    await idle.sql.execute("UPDATE batches SET next_try_at = now()")
    await expander.step()
    found = await batch_of(idle, batch_id)
    assert found["counts"]["expanded"] == 5 and "pause" not in found


async def test_a_line_that_costs_more_than_a_day_is_refused_instead_of_waited_for(idle: Api) -> None:
    await idle.sql.execute("UPDATE users SET daily_mt = 1000")
    big = {"kind": "image", "input": {"prompt": "a boat", "width": 2048, "height": 2048}}
    batch_id = await begun(idle, big, text_line(1))
    await Expander(idle.services).step()
    found = await batch_of(idle, batch_id)
    assert (found["counts"]["refused"], found["counts"]["expanded"]) == (1, 2)


async def test_a_cancelled_batch_refunds_what_waits_and_names_the_lines_whose_turn_never_came(api: Api) -> None:
    expander = Expander(api.services)
    await api.sql.execute("UPDATE users SET max_queued = 6, max_running = 1")
    batch_id = await begun(api, text_line(0), *(text_line(n, "sleep 60") for n in range(1, 8)))

    async def one_runs() -> bool:
        await expander.step()
        await api.sql.execute("UPDATE batches SET next_try_at = now()")
        counts = (await batch_of(api, batch_id))["counts"]
        return bool(counts["running"] == 1 and counts["completed"] == 1 and counts["queued"] == 3)

    await until(one_runs)
    answer, found = await api.call("POST", f"/v1/batches/{batch_id}/cancel")
    assert (answer.status, found["state"]) == (200, "cancelling")
    assert found["counts"]["queued"] == 0
    assert (await api.call("GET", f"/v1/batches/{batch_id}/output"))[0].status == 409

    async def over() -> bool:
        await expander.step()
        return "ended_at" in await batch_of(api, batch_id)

    await until(over)
    batch = await batch_of(api, batch_id)
    assert batch["state"] == "cancelled" and batch["counts"]["completed"] == 1 and batch["counts"]["cancelled"] == 4
    assert [r["custom_id"] for r in await lines_of(api, batch_id, "output")] == ["line-0"]
    wrong = await lines_of(api, batch_id, "errors")
    assert [r["custom_id"] for r in wrong] == [f"line-{n}" for n in range(1, 8)]
    assert [r["error"]["code"] for r in wrong if "error" in r] == ["batch_cancelled"] * 3
    assert (await api.call("POST", f"/v1/batches/{batch_id}/cancel"))[1]["state"] == "cancelled"
    assert await api.sql.fetchval("SELECT sum(amount_mt) FROM token_ledger") <= 2


async def test_a_batch_whose_time_is_over_or_whose_key_is_revoked_gives_up_what_is_left(idle: Api) -> None:
    expander = Expander(idle.services)
    late = await begun(idle, text_line(1))
    await idle.sql.execute("UPDATE batches SET expires_at = now()")
    await expander.step()
    assert (await batch_of(idle, late))["state"] == "expired"
    assert (await lines_of(idle, late, "errors"))[0]["error"]["code"] == "batch_expired"
    other = await idle.add_key(user_id=idle.user_id)
    orphan = await begun(idle, text_line(1), key=other)
    await idle.sql.execute("UPDATE api_keys SET revoked_at = now() WHERE id = $1", other.split("_")[1])
    await expander.step()
    found = await batch_of(idle, orphan)
    assert found["state"] == "failed" and "revoked" in found["errors"][0]["message"]
    assert await jobs(idle) == 0


async def test_the_same_request_with_an_idempotency_key_begins_one_batch(idle: Api) -> None:
    headers = {"Idempotency-Key": "b-1"}
    first = await begin(idle, jsonl(text_line(1)), headers=headers)
    again = await begin(idle, jsonl(text_line(1)), headers=headers)
    assert first[0] == again[0] == 201 and first[1]["id"] == again[1]["id"]
    status, found = await begin(idle, jsonl(text_line(2)), headers=headers)
    assert (status, found["code"]) == (422, "idempotency_mismatch")
    assert await idle.sql.fetchval("SELECT count(*) FROM batches") == 1


async def test_a_batch_or_file_of_somebody_else_is_404_whatever_is_asked_of_it(idle: Api) -> None:
    batch_id = await begun(idle, text_line(1))
    stranger = await idle.add_key()
    for method, path in (("GET", ""), ("POST", "/cancel"), ("GET", "/output"), ("GET", "/errors")):
        answer, found = await idle.call(method, f"/v1/batches/{batch_id}{path}", key=stranger)
        assert (answer.status, found["code"]) == (404, "not_found"), path
    file_id = (await idle.call("GET", "/openai/v1/files"))[1]["data"][0]["id"]
    for method, path in (("GET", ""), ("GET", "/content"), ("DELETE", "")):
        answer, found = await idle.call(method, f"/openai/v1/files/{file_id}{path}", key=stranger)
        assert (answer.status, found["error"]["code"]) == (404, "not_found"), path
    body = {"input_file_id": file_id, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    answer, found = await idle.call("POST", "/openai/v1/batches", json=body, key=stranger)
    assert (answer.status, found["error"]["param"]) == (400, "input_file_id")
    assert (await idle.call("GET", "/v1/batches", key=stranger))[1]["data"] == []
    assert (await idle.call("POST", "/v1/batches", key=None))[0].status == 401


async def test_batches_are_listed_in_pages(idle: Api) -> None:
    ids = [await begun(idle, text_line(n)) for n in range(3)]
    _, first = await idle.call("GET", "/v1/batches?limit=2")
    _, second = await idle.call("GET", f"/v1/batches?limit=2&cursor={first['next_cursor']}")
    assert [b["id"] for b in first["data"] + second["data"]] == ids[::-1]
    assert second["next_cursor"] is None


# ---- by OpenAI's SDK ----


@pytest.fixture
async def client(live: Api) -> AsyncIterator[openai.AsyncOpenAI]:
    base_url = f"{live.url}/openai/v1"
    async with openai.AsyncOpenAI(base_url=base_url, api_key=live.key, max_retries=0, timeout=60) as opened:
        yield opened


async def sent(client: openai.AsyncOpenAI, *lines: Any, endpoint: Any = "/v1/chat/completions") -> Any:
    file = await client.files.create(file=("in.jsonl", jsonl(*lines)), purpose="batch")
    return await client.batches.create(
        input_file_id=file.id, endpoint=endpoint, completion_window="24h", metadata={"run": "1"}
    )


async def finished(client: openai.AsyncOpenAI, batch: Any) -> Any:
    async def look() -> Any:
        found = await client.batches.retrieve(batch.id)
        return found if found.status in ("completed", "failed", "cancelled", "expired") else None

    return await until(look)


async def test_a_batch_of_chats_by_the_sdk(client: openai.AsyncOpenAI) -> None:
    batch = await sent(client, *(chat_line(n) for n in range(8)), chat_line(9, n=3), chat_line(10, model="gpt-99"))
    assert batch.status in ("validating", "in_progress") and batch.metadata == {"run": "1"}
    done = await finished(client, batch)
    assert done.status == "completed" and done.completed_at >= done.created_at
    assert (done.request_counts.total, done.request_counts.completed, done.request_counts.failed) == (10, 8, 2)
    results = [json.loads(line) for line in (await client.files.content(done.output_file_id)).text.splitlines()]
    assert [r["custom_id"] for r in results] == [f"c{n}" for n in range(8)]
    for result in results:
        assert result["error"] is None and result["response"]["status_code"] == 200
        assert "12" in result["response"]["body"]["choices"][0]["message"]["content"]
    wrong = [json.loads(line) for line in (await client.files.content(done.error_file_id)).text.splitlines()]
    assert [(r["custom_id"], r["response"]["status_code"]) for r in wrong] == [("c9", 400), ("c10", 404)]
    assert wrong[0]["response"]["body"]["error"]["param"] == "n"
    assert wrong[1]["response"]["body"]["error"]["code"] == "model_not_found"
    listed = [found.id async for found in client.batches.list(limit=1)]
    assert listed == [batch.id]


async def test_a_batch_of_pictures_by_the_sdk(client: openai.AsyncOpenAI) -> None:
    def line(n: int, **more: Any) -> dict[str, Any]:
        body = {"model": "gpt-image-1", "prompt": "a boat", "size": "64x64", **more}
        return {"custom_id": str(n), "method": "POST", "url": "/v1/images/generations", "body": body}

    batch = await sent(client, line(1), line(2, response_format="url"), endpoint="/v1/images/generations")
    done = await finished(client, batch)
    first, second = (json.loads(x) for x in (await client.files.content(done.output_file_id)).text.splitlines())
    assert first["response"]["body"]["data"][0]["b64_json"].startswith("iVBOR")
    assert "/v1/links/art_" in second["response"]["body"]["data"][0]["url"]


async def test_a_file_that_cannot_be_a_batch_makes_one_that_failed_and_says_why(client: openai.AsyncOpenAI) -> None:
    batch = await sent(client, chat_line(1), {"custom_id": "x", "method": "GET", "url": "/v1/models", "body": {}})
    assert batch.status == "failed" and batch.failed_at
    assert [(e.code, e.line, e.param) for e in batch.errors.data] == [("invalid_method", 2, "method")]
    with pytest.raises(openai.BadRequestError) as endpoint:
        await sent(client, chat_line(1), endpoint="/v1/embeddings")
    assert endpoint.value.param == "endpoint"
    with pytest.raises(openai.BadRequestError) as purpose:
        await client.files.create(file=("x.jsonl", b"{}"), purpose="fine-tune")
    assert purpose.value.param == "purpose"


async def test_files_are_listed_read_and_deleted_by_the_sdk(idle: Api) -> None:
    async with openai.AsyncOpenAI(base_url=f"{idle.url}/openai/v1", api_key=idle.key, max_retries=0) as client:
        await _files(idle, client)


async def _files(idle: Api, client: openai.AsyncOpenAI) -> None:
    data = jsonl(chat_line(1))
    file = await client.files.create(file=("a/../in.jsonl", data), purpose="batch")
    assert (file.filename, file.bytes, file.purpose, file.status) == ("in.jsonl", len(data), "batch", "processed")
    assert (await client.files.content(file.id)).content == data
    assert (await client.files.retrieve(file.id)).id == file.id
    other = await client.files.create(file=("b.jsonl", b"x"), purpose="batch")
    assert [f.id async for f in client.files.list(limit=1)] == [other.id, file.id]
    assert [f.id async for f in client.files.list(order="asc", purpose="batch")] == [file.id, other.id]
    assert (await client.files.delete(other.id)).deleted
    with pytest.raises(openai.NotFoundError):
        await client.files.retrieve(other.id)
    batch = await client.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h")
    with pytest.raises(openai.ConflictError):
        await client.files.delete(file.id)
    assert (await client.batches.cancel(batch.id)).status in ("cancelling", "cancelled")
    await Expander(idle.services).step()
    assert (await client.batches.retrieve(batch.id)).status == "cancelled"
    assert (await client.files.delete(file.id)).deleted


async def test_the_lines_of_a_long_file_are_read_in_pieces_whatever_their_length(idle: Api) -> None:
    long = "x" * 300_000
    lines = [text_line(n, long) if n % 3 == 0 else text_line(n) for n in range(12)]
    batch_id = await begun(idle, *lines)
    expander = Expander(idle.services)
    await until(lambda: _expanded(idle, expander, batch_id, 12))
    found = await idle.sql.fetch(
        "SELECT l.custom_id, length(j.input ->> 'prompt') AS chars FROM batch_lines l JOIN jobs j ON j.id = l.job_id"
        " ORDER BY l.line"
    )
    assert [(r["custom_id"], r["chars"]) for r in found] == [
        (line["custom_id"], len(line["input"]["prompt"])) for line in lines
    ]


async def _expanded(api: Api, expander: Expander, batch_id: str, lines: int) -> bool:
    await expander.step()
    return bool((await batch_of(api, batch_id))["counts"]["expanded"] == lines)

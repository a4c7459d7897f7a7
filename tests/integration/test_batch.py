"""A batch against the real API: killed anywhere and run again, each line is one job, charged once, fetched once."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from tessera.batch.journal import Journal, JournalError
from tessera.batch.lines import read_file
from tessera.batch.runner import Options, Runner
from tessera.client import Client
from tessera.ids import Prefix, show
from tessera.jobs import Kind
from tests.integration.api_server import Api
from tests.unit.media_files import picture


@pytest.fixture
async def client(api: Api) -> AsyncIterator[Client]:
    async with Client(api.url, api.key) as connected:
        yield connected


@contextlib.asynccontextmanager
async def working(api: Api, *, fails: frozenset[str] = frozenset()) -> AsyncIterator[None]:
    """A worker that takes what is queued and makes a file of each prompt, or fails it."""

    async def work() -> None:
        while not ended.is_set():
            rows = await api.sql.fetch("SELECT id, input, tier FROM jobs WHERE state = 'queued' ORDER BY id LIMIT 3")
            for row in rows:
                assert row["tier"] == "batch"
                job_id, prompt = show(Prefix.JOB, row["id"]), row["input"]["prompt"]
                if prompt in fails:
                    error = {"code": "stuck", "message": "It made no progress.", "retryable": True}
                    await api.finish(job_id, await api.claim(job_id), "failed", error=error)
                else:
                    await api.complete(job_id, prompt.encode())
            await asyncio.sleep(0.01)

    ended = asyncio.Event()
    task = asyncio.create_task(work())
    try:
        yield
    finally:
        ended.set()  # not cancelled: a job that was claimed and never ended would keep its user's one place
        await task


async def until(holds: Callable[[], bool]) -> None:
    """Until something holds that no event tells: a file grows, a line is said."""
    async with asyncio.timeout(60):
        while True:
            if holds():
                return
            await asyncio.sleep(0.01)


def batch_of(folder: Path, lines: int, **more: Any) -> Path:
    path = folder / "prompts.jsonl"
    rows = [{"id": f"p{n}", "kind": "image", "prompt": f"prompt {n}", **more} for n in range(lines)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def runner(client: Client, path: Path, out: Path, said: list[str] | None = None, **options: Any) -> Runner:
    log = said if said is not None else []
    return Runner(client, read_file(path), Options(out=out, **options), say=log.append, tell=log.append)


def results(out: Path, name: str = "results.jsonl") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / name).read_text().splitlines()]


async def charged_once(api: Api, count: int) -> None:
    """So many jobs, each with one hold and one settlement."""
    assert await api.sql.fetchval("SELECT count(*) FROM jobs") == count
    rows = await api.sql.fetch(
        "SELECT entry, count(*) AS n, count(DISTINCT job_id) AS jobs FROM token_ledger GROUP BY 1"
    )
    assert {row["entry"]: (row["n"], row["jobs"]) for row in rows} == {
        "hold": (count, count),
        "settlement": (count, count),
    }


async def test_every_line_has_its_result_its_file_and_its_place(api: Api, client: Client, tmp_path: Path) -> None:
    said: list[str] = []
    async with working(api):
        totals = await runner(client, batch_of(tmp_path, 12), tmp_path / "out", said, in_flight=5).run()
    assert (totals["completed"], totals["waiting"], totals["charged_tokens"]) == (12, 0, 12)
    found = results(tmp_path / "out")
    assert [one["id"] for one in found] == [f"p{n}" for n in range(12)]
    for number, one in enumerate(found):
        assert (tmp_path / "out" / one["files"][0]).read_text() == f"prompt {number}"
    assert results(tmp_path / "out", "errors.jsonl") == []
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["completed"] == 12
    assert "12 of 12 lines done" in said[-1]
    await charged_once(api, 12)
    again = await runner(client, tmp_path / "prompts.jsonl", tmp_path / "out").run()
    assert again["completed"] == 12
    await charged_once(api, 12)


async def test_killed_anywhere_and_run_again_nothing_is_submitted_twice(
    api: Api, client: Client, tmp_path: Path
) -> None:
    path, out = batch_of(tmp_path, 20), tmp_path / "out"
    async with working(api):
        for done in (1, 6, 13):
            running = asyncio.create_task(runner(client, path, out, in_flight=4).run())
            journal = out / "batch.journal"
            await until(lambda: journal.is_file() and journal.read_bytes().count(b'"result"') >= done)  # noqa: B023
            running.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await running
            # The last record was being written when the power went: one job is known to the server only.
            journal.write_bytes(journal.read_bytes()[:-7])
        totals = await runner(client, path, out, in_flight=4).run()
    assert totals["completed"] == 20
    assert [one["line"] for one in results(out)] == list(range(1, 21))
    await charged_once(api, 20)


async def test_a_file_in_another_folder_finds_the_same_jobs_and_another_name_makes_new_ones(
    api: Api, client: Client, tmp_path: Path
) -> None:
    path = batch_of(tmp_path, 3)
    async with working(api):
        await runner(client, path, tmp_path / "one").run()
        await runner(client, path, tmp_path / "two").run()
    await charged_once(api, 3)
    async with working(api):
        await runner(client, path, tmp_path / "three", run="second").run()
    await charged_once(api, 6)
    assert [one["job_id"] for one in results(tmp_path / "one")] == [one["job_id"] for one in results(tmp_path / "two")]


async def test_what_failed_is_in_the_error_file_and_can_be_tried_again(
    api: Api, client: Client, tmp_path: Path
) -> None:
    path, out = batch_of(tmp_path, 4), tmp_path / "out"
    with path.open("a") as file:
        file.write('{"kind": "image", "width": 1}\n')
    async with working(api, fails=frozenset({"prompt 2"})):
        totals = await runner(client, path, out).run()
    assert (totals["completed"], totals["failed"], totals["refused"], totals["charged_tokens"]) == (3, 1, 1, 3)
    failed, refused = results(out, "errors.jsonl")
    assert (failed["id"], failed["error"]["code"], failed["charged_tokens"]) == ("p2", "stuck", 0)
    assert (refused["line"], refused["state"]) == (5, "refused") and "width" in refused["error"]["message"]
    async with working(api):
        totals = await runner(client, path, out).run()
        assert totals["failed"] == 1  # running it again fetches what is missing, and no more
        totals = await runner(client, path, out, retry_failed=True).run()
    assert (totals["completed"], totals["failed"], totals["refused"]) == (4, 0, 1)
    assert await api.sql.fetchval("SELECT count(*) FROM jobs") == 5


async def test_a_used_up_quota_is_waited_for(api: Api, tmp_path: Path) -> None:
    user = await api.add_user("free", daily_mt=2000)
    key = await api.add_key(user_id=user)
    said: list[str] = []
    async with Client(api.url, key) as client, working(api):
        running = asyncio.create_task(runner(client, batch_of(tmp_path, 4), tmp_path / "out", said).run())
        await until(lambda: any("Waiting" in line for line in said))
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["refused"] == 0
    await api.sql.execute("UPDATE users SET daily_mt = 10000 WHERE id = $1", user)
    async with Client(api.url, key) as client, working(api):
        totals = await runner(client, tmp_path / "prompts.jsonl", tmp_path / "out", said).run()
    assert totals["completed"] == 4


async def test_a_line_that_no_day_has_tokens_for_is_refused(api: Api, tmp_path: Path) -> None:
    key = await api.add_key(user_id=await api.add_user("free", daily_mt=2000))
    async with Client(api.url, key) as client, working(api):
        totals = await runner(client, batch_of(tmp_path, 1, count=3), tmp_path / "out").run()
    assert totals["refused"] == 1
    assert results(tmp_path / "out", "errors.jsonl")[0]["error"]["code"] == "quota_exhausted"


async def test_lines_of_openai_get_answers_of_openai(api: Api, client: Client, tmp_path: Path) -> None:
    path = tmp_path / "b.jsonl"
    body = {"model": "preview-text", "messages": [{"role": "user", "content": "hi"}]}
    path.write_text(
        json.dumps({"custom_id": "r1", "method": "POST", "url": "/v1/chat/completions", "body": body}) + "\n"
    )
    running = asyncio.create_task(runner(client, path, tmp_path / "out").run())
    async with asyncio.timeout(60):
        jobs = await client.list_jobs()
        while not jobs.data:
            await asyncio.sleep(0.01)
            jobs = await client.list_jobs()
    job_id = jobs.data[0].id
    output = {"text": "Hello.", "finish_reason": "stop", "usage": {"prompt_tokens": 1, "completion_tokens": 2}}
    await api.finish(job_id, await api.claim(job_id), output=output)
    assert (await running)["completed"] == 1
    (line,) = results(tmp_path / "out")
    assert (line["custom_id"], line["error"], line["response"]["status_code"]) == ("r1", None, 200)
    answer = line["response"]["body"]
    assert answer["choices"][0]["message"]["content"] == "Hello." and answer["usage"]["total_tokens"] == 3


async def test_a_files_upload_is_made_once_and_its_job_is_found_by_its_line(
    api: Api, client: Client, tmp_path: Path
) -> None:
    (tmp_path / "cat.png").write_bytes(picture("PNG"))
    path, out = batch_of(tmp_path, 1, image="cat.png"), tmp_path / "out"
    async with working(api):
        await runner(client, path, out).run()
        (out / "batch.journal").unlink()  # as if the disk had lost it: the upload is another one now
        totals = await runner(client, path, out).run()
    assert totals["completed"] == 1
    assert await api.sql.fetchval("SELECT count(*) FROM jobs") == 1


async def test_two_runs_do_not_share_a_folder_and_another_file_needs_another_one(tmp_path: Path) -> None:
    file = read_file(batch_of(tmp_path, 2))
    journal = Journal(tmp_path / "out", file, "", "http://a")
    with pytest.raises(JournalError, match="Another run"):
        Journal(tmp_path / "out", file, "", "http://a")
    journal.close()
    for other, run, server in (
        (read_file(batch_of(tmp_path, 3)), "", "http://a"),
        (file, "again", "http://a"),
        (file, "", "http://b"),
    ):
        with pytest.raises(JournalError, match="choose another --out"):
            Journal(tmp_path / "out", other, run, server)
    Journal(tmp_path / "out", file, "", "http://a").close()


def test_the_default_kind_is_of_lines_that_name_none(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    path.write_text("prompt\nrain\n")
    assert read_file(path, kind=Kind.MUSIC).lines[0].kind is Kind.MUSIC

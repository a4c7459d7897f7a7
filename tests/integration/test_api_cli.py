"""Commands that ask the real API: what a person sees of retries, quotes, ledger and queue."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable

import pytest
import structlog

from tessera.api.depth import CACHE_S
from tessera.cli.app import main
from tests.integration.api_server import Api

Run = Callable[..., Awaitable[tuple[int, str, str]]]


@pytest.fixture
def run(api: Api, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command with the API's key; its exit code, stdout and stderr."""
    monkeypatch.setenv("TESSERA_URL", api.url)
    monkeypatch.setenv("TESSERA_API_KEY", api.key)

    async def command(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        with structlog.testing.capture_logs():  # the server's, which would come between
            code = await asyncio.to_thread(main, list(arguments))
        return code, *capsys.readouterr()

    return command


async def test_retry_submits_an_ended_job_again(api: Api, run: Run) -> None:
    job = await api.submit()
    code, _, err = await run("retry", job["id"])
    assert code != 0
    assert "only one that has ended" in err
    await api.call("POST", job["urls"]["cancel"])
    code, out, _ = await run("retry", job["id"], "--json")
    assert code == 0
    made = json.loads(out)
    assert (made["state"], made["retried_from"]) == ("queued", job["id"])
    code, out, _ = await run("job", made["id"])
    assert code == 0
    assert job["id"] in out


async def test_ledger_lists_what_jobs_held_and_gave_back(api: Api, run: Run) -> None:
    assert "No entries yet" in (await run("ledger"))[2]
    job = await api.submit("image", prompt="a fox")
    await api.call("POST", job["urls"]["cancel"])
    code, out, _ = await run("ledger")
    assert code == 0
    refund, hold = out.splitlines()[1:]
    assert "refund" in refund and "-1" in refund and job["id"] in refund
    assert "hold" in hold and "+1" in hold
    code, out, _ = await run("ledger", "--job", job["id"], "--limit", "1", "--json")
    assert [entry["entry"] for entry in json.loads(out)["data"]] == ["refund"]
    assert (await run("ledger", "--day", "today"))[0] == 2


async def test_queue_shows_what_waits_and_what_is_paused(api: Api, run: Run) -> None:
    code, _, err = await run("queue")
    assert code == 0
    assert "Nothing waits" in err
    await api.submit("image", prompt="a fox")
    await api.sql.execute("INSERT INTO queue_pauses (kind, message, actor) VALUES ('video', 'Lent out.', 'test')")
    await asyncio.sleep(CACHE_S)
    code, out, err = await run("queue")
    assert out.splitlines()[1].split()[:4] == ["image", "pro", "1", "0"]
    assert "Jobs of kind video are paused: Lent out." in err
    assert "preview-image" in err
    assert json.loads((await run("queue", "--json"))[1])["queued"] == 1


async def test_jobs_are_searched_by_their_prompt(api: Api, run: Run) -> None:
    fox, _ = await api.submit("image", prompt="a red fox"), await api.submit("image", prompt="a dog")
    code, out, _ = await run("jobs", "--search", "FOX", "--json")
    assert code == 0
    assert [job["id"] for job in json.loads(out)["data"]] == [fox["id"]]
    assert "No jobs." in (await run("jobs", "--search", "cat"))[2]

"""The operator's commands about content, against the real API."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable

import pytest
import structlog

from tessera.cli.app import main
from tests.integration.api_server import Api
from tests.integration.test_api_moderation import operator_key

Run = Callable[..., Awaitable[tuple[int, str, str]]]


@pytest.fixture
async def run(api: Api, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command with an operator's key; its exit code, stdout and stderr."""
    monkeypatch.setenv("TESSERA_URL", api.url)
    monkeypatch.setenv("TESSERA_API_KEY", await operator_key(api))

    async def command(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        with structlog.testing.capture_logs():
            code = await asyncio.to_thread(main, list(arguments))
        return code, *capsys.readouterr()

    return command


async def test_rules_are_added_listed_and_removed(api: Api, run: Run) -> None:
    assert "There are no rules" in (await run("moderation", "rules"))[2]
    code, _, told = await run("moderation", "add", "secret project", "--action", "block", "--kind", "image")
    assert (code, "holds within two seconds" in told) == (0, True)
    code, out, _ = await run("moderation", "rules")
    assert code == 0
    assert "secret project" in out
    assert "image" in out
    rule = json.loads((await run("moderation", "rules", "--json"))[1])["data"][0]
    code, _, told = await run("moderation", "add", "(", "--action", "flag", "--pattern")
    assert (code != 0, "RE2" in told) == (True, True)
    assert (await run("moderation", "remove", rule["id"]))[0] == 0
    assert json.loads((await run("moderation", "rules", "--json"))[1])["data"] == []


async def test_reports_are_listed_upheld_and_dismissed(api: Api, run: Run) -> None:
    assert "no open reports" in (await run("moderation", "reports"))[2]
    ids = []
    for prompt in ("a fox", "a hare"):
        job = await api.submit("image", prompt=prompt)
        await api.complete(job["id"], prompt.encode())
        _, report = await api.call("POST", "/v1/reports", json={"job_id": job["id"], "reason": "ugly"})
        ids.append(report["id"])
    code, out, _ = await run("moderation", "reports")
    assert code == 0
    assert "a fox" in out
    code, _, told = await run("moderation", "uphold", ids[0], "--note", "agreed")
    assert code == 0
    assert "is upheld. 1 tokens were given back" in told
    assert "is dismissed" in (await run("moderation", "dismiss", ids[1]))[2]
    assert (
        json.loads((await run("moderation", "reports", "--state", "upheld", "--json"))[1])["data"][0]["note"]
        == "agreed"
    )
    code, _, told = await run("moderation", "dismiss", ids[1])
    assert (code != 0, "reviewed already" in told) == (True, True)


async def test_an_account_is_closed_and_opened(api: Api, run: Run) -> None:
    name = await api.sql.fetchval("SELECT name FROM users WHERE id = $1", api.user_id)
    assert "is closed" in (await run("users", "ban", name, "--reason", "spam"))[2]
    assert (await api.call("GET", "/v1/me"))[0].status == 403
    assert "is open" in (await run("users", "unban", name))[2]
    code, _, told = await run("users", "ban", "nobody", "--reason", "spam")
    assert (code != 0, "There is no user" in told) == (True, True)


async def test_a_banner_is_shown_in_the_queue(api: Api, run: Run) -> None:
    assert "No banner is shown" in (await run("banner"))[2]
    assert "Back at 15:00" in (await run("banner", "Back at 15:00"))[2]
    assert "Back at 15:00" in (await run("banner"))[2]
    assert "Back at 15:00" in (await run("queue"))[2]
    assert "No banner is shown" in (await run("banner", "--clear"))[2]
    assert (await run("banner", "x", "--clear"))[0] != 0

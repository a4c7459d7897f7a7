"""``tessera link``, ``account`` and ``users delete`` against the real API."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import pytest

from tessera.cli import main
from tests.integration.api_server import Api
from tests.integration.people import Person, service_key


async def run(*arguments: str) -> int:
    """One command line, in a thread: it has an event loop of its own."""
    return await asyncio.to_thread(main, list(arguments))


def document(out: str) -> Any:
    """The JSON document in what was printed: the server of this process logs there, too."""
    start = re.search(r"^\{", out, re.MULTILINE)
    assert start is not None, out
    return json.JSONDecoder().raw_decode(out, start.start())[0]


@pytest.fixture
def work(api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, and the environment that leads to the API."""
    monkeypatch.setenv("TESSERA_URL", api.url)
    monkeypatch.setenv("TESSERA_API_KEY", api.key)
    monkeypatch.setenv("TESSERA_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


async def test_an_account_is_linked_looked_at_taken_along_and_deleted(
    api: Api, work: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    ada = Person(api, await service_key(api), "telegram:1")
    assert await run("account", "identities") == 0
    assert "No other platform" in capfd.readouterr().err
    assert await run("link") == 0
    printed = capfd.readouterr()
    found = re.search(r"^[0-9A-Z]{4}-[0-9A-Z]{4}$", printed.out, re.MULTILINE)
    assert found is not None, printed.out
    code = found[0]
    assert "10 min" in printed.err or "9 min" in printed.err
    answer, _ = await ada.call("POST", "/v1/identities/link", json={"code": code})
    assert answer.status == 200
    assert await run("account", "identities") == 0
    assert "telegram:1" in capfd.readouterr().out
    assert await run("account", "unlink", "telegram:1") != 0
    assert "last identity" in capfd.readouterr().err
    await api.submit("text", prompt="hello")
    assert await run("account", "export", "--out", "mine.json") == 0
    assert len(json.loads((work / "mine.json").read_text())["jobs"]) == 1
    assert await run("account", "export", "--out", "mine.json") == 2
    assert "--force" in capfd.readouterr().err
    assert await run("account", "delete", "--yes", "--json") == 0
    assert document(capfd.readouterr().out)["deleted"] is True
    assert await run("account", "identities") != 0


async def test_a_code_that_was_given_is_taken_up(api: Api, work: Path, capfd: pytest.CaptureFixture[str]) -> None:
    ada = Person(api, await service_key(api), "telegram:1")
    _, made = await ada.call("POST", "/v1/identities/link-codes")
    assert await run("link", "AAAA-AAAA", "--yes") != 0
    assert "not known" in capfd.readouterr().err
    assert await run("link", made["code"].lower(), "--yes", "--json") == 0
    linked = document(capfd.readouterr().out)
    assert linked["user_id"] == (await ada.get("/v1/me"))["id"]


async def test_an_operator_deletes_a_user_by_name(
    api: Api, work: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ada = Person(api, await service_key(api), "telegram:1")
    await ada.get("/v1/me")
    operator = await api.add_key(user_id=await api.add_user(is_admin=True), scopes=["admin"])
    monkeypatch.setenv("TESSERA_API_KEY", operator)
    assert await run("users", "delete", "telegram:1", "--yes") == 0
    assert await api.sql.fetchval("SELECT count(*) FROM users WHERE name = 'telegram:1'") == 0

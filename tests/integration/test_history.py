"""``tessera history``: what ran, without a prompt or a name, in a file that the simulator replays."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from uuid import UUID

import asyncpg
import pytest

from tessera.cli.app import main
from tessera.config import Settings, load_cluster
from tessera.ids import new_id
from tessera.store.database import connect
from tests.integration.conftest import add_user


@pytest.fixture
def home(database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """TESSERA_HOME of an installation on the test's database."""
    Settings(home=tmp_path, database_url=database_url, artifacts_url=str(tmp_path), cluster=load_cluster({})).save()
    monkeypatch.setenv("TESSERA_HOME", str(tmp_path))
    return tmp_path


def with_jobs(dsn: str, work: Callable[[asyncpg.Connection], Awaitable[None]]) -> None:
    async def whole() -> None:
        connection = await connect(dsn, name="test")
        try:
            await work(connection)
        finally:
            await connection.close()

    asyncio.run(whole())


async def admit(connection: asyncpg.Connection, user: UUID, model: str = "preview-text") -> UUID:
    job = new_id()
    row = {"ord": 0, "id": str(job), "user_id": str(user), "kind": "text", "model": model, "cost_mt": 40}
    rows = [{**row, "input": {"prompt": "a secret wish"}}]
    assert await connection.fetchval("SELECT outcome FROM admit($1)", rows) == "admitted"
    return job


async def run(connection: asyncpg.Connection, job: UUID, outcome: str = "completed") -> None:
    claims = [{"job_id": str(job), "worker": "preview-language", "ord": 0}]
    attempt = await connection.fetchval("SELECT attempt FROM claim(0, $1, 30)", claims)
    rows = [{"ord": 0, "job_id": str(job), "attempt": attempt, "outcome": outcome, "artifacts": []}]
    assert await connection.fetchval("SELECT state FROM finish(0, $1)", rows)


def test_what_ran_is_written_and_replayed_and_says_nothing_of_anybody(
    home: Path, database_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    async def work(connection: asyncpg.Connection) -> None:
        ann, bob = await add_user(connection, "pro", max_running=3), await add_user(connection)
        for user in (ann, bob, ann):
            await run(connection, await admit(connection, user))
        await run(connection, retried := await admit(connection, ann), "requeued")
        await run(connection, retried)
        await admit(connection, bob)  # waits
        gone = await admit(connection, bob)
        await connection.fetchval("SELECT request_cancel($1, $2)", gone, bob)
        await run(connection, await admit(connection, ann, "noop"))  # no worker of the cluster file has it

    with_jobs(database_url, work)
    file = home / "jobs.jsonl"
    assert main(["history", str(file), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["jobs"], told["left_out"]) == (5, 1)
    text = file.read_text(encoding="utf-8")
    assert "secret" not in text and "user-" not in text
    header, *jobs = map(json.loads, text.splitlines())
    assert {worker["name"] for worker in header["workers"]} == {"preview-visual", "preview-language"}
    assert [each["tier"] for each in jobs] == ["pro", "free", "pro", "pro", "free"]
    assert [each.get("fails") for each in jobs] == [0, 0, 0, 1, 0]
    assert "seconds" not in jobs[-1] and all(each["seconds"] >= 0 for each in jobs[:-1])
    assert jobs[0]["max_running"] == 3 and jobs[0]["user"] != jobs[1]["user"]
    assert main(["simulate", "--from-history", str(file), "--policy", "tessera", "--json"]) == 0
    [found] = json.loads(capsys.readouterr().out)["scenarios"]
    assert found["results"][0]["jobs"] == 5


def test_where_nothing_ran_nothing_is_written(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["history", str(home / "none.jsonl"), "--json"]) != 0
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "no_jobs"
    assert not (home / "none.jsonl").exists()

"""What the leader clears away, what it must keep, and how it bears an outage."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from tessera.artifacts import FolderStore
from tessera.errors import StorageFull, Unavailable
from tessera.ids import new_id
from tessera.runs import manifest_name
from tessera.scheduler.maintenance import (
    Maintenance,
    collect_blobs,
    compare_books,
    drain,
    expire_artifacts,
    expire_uploads,
    note_minute,
    prune_idempotency_keys,
    prune_jobs,
    prune_manifests,
    prune_request_rates,
)
from tessera.store.database import Database
from tests.integration.conftest import add_user

NOW = datetime(2026, 5, 14, 12, 0, 30, tzinfo=UTC)


@dataclass
class Past:
    """A platform with a history: jobs made through the platform's own functions at any time."""

    connection: asyncpg.Connection
    database: Database

    async def job(self, user: UUID, days_ago: float, *, files: int = 0, end: bool = True, **values: Any) -> UUID:
        at, job = NOW - timedelta(days=days_ago), new_id()
        row = {
            "ord": 0,
            "id": str(job),
            "user_id": str(user),
            "kind": "image",
            "model": "m",
            "input": {},
            "cost_mt": 100,
        }
        await self.connection.execute("UPDATE user_state SET tat = $2 WHERE user_id = $1", user, at)
        assert (
            await self.connection.fetchval("SELECT outcome FROM admit($1, $2)", [{**row, **values}], at) == "admitted"
        )
        if end:
            claims = [{"job_id": str(job), "worker": "w", "ord": 0}]
            await self.connection.fetch("SELECT * FROM claim(0, $1, 30, $2)", claims, at)
            artifacts = [
                {"id": str(new_id()), "index": n, "sha256": sha256(f"{job}{n}"), "media_type": "image/png", "bytes": 9}
                for n in range(files)
            ]
            ended = {"ord": 0, "job_id": str(job), "attempt": 1, "outcome": "completed", "artifacts": artifacts}
            await self.connection.fetch("SELECT * FROM finish(0, $1, $2)", [ended], at)
        return job

    async def upload(self, user: UUID, content: str, expires_in: timedelta) -> UUID:
        upload = new_id()
        await self.connection.execute(
            "INSERT INTO uploads (id, user_id, sha256, media_type, bytes, expires_at)"
            " VALUES ($1, $2, $3, 'image/png', 9, $4)",
            upload,
            user,
            sha256(content),
            NOW + expires_in,
        )
        return upload

    async def count(self, table: str, where: str = "true") -> int:
        found: int = await self.connection.fetchval(f"SELECT count(*) FROM {table} WHERE {where}")
        return found


def sha256(content: str) -> str:
    return hashlib.sha256(content.encode()).hexdigest()


@pytest.fixture
def past(connection: asyncpg.Connection, database: Database) -> Past:
    return Past(connection, database)


async def test_request_rates_of_those_who_were_quiet_for_an_hour_are_forgotten(past: Past) -> None:
    users = [new_id() for _ in range(2)]
    for user, ago in zip(users, (timedelta(minutes=59), timedelta(minutes=61)), strict=True):
        await past.connection.execute("INSERT INTO request_rates (user_id, tat) VALUES ($1, $2)", user, NOW - ago)
    assert await prune_request_rates(past.database, NOW) == 1
    assert [row["user_id"] for row in await past.connection.fetch("SELECT user_id FROM request_rates")] == users[:1]


async def test_idempotency_keys_are_forgotten_after_24_hours(past: Past, user: UUID) -> None:
    for days_ago, key in ((2, "old"), (1.01, "just over"), (0.99, "just under"), (0, "new")):
        await past.job(user, days_ago, idempotency_key=key, body_sha256="00")
    assert await prune_idempotency_keys(past.database, NOW) == 2
    assert await past.count("idempotency_keys") == 2
    assert await prune_idempotency_keys(past.database, NOW) == 0


async def test_uploads_are_gone_after_their_time(past: Past, user: UUID) -> None:
    await past.upload(user, "old", timedelta(seconds=-1))
    kept = await past.upload(user, "new", timedelta(seconds=1))
    assert await expire_uploads(past.database, NOW) == 1
    assert await past.connection.fetchval("SELECT id FROM uploads WHERE deleted_at IS NULL") == kept
    assert await expire_uploads(past.database, NOW) == 0


@pytest.mark.parametrize(("plan", "days"), [("free", 3), ("starter", 30), ("pro", 90)])
async def test_artifacts_are_kept_as_long_as_the_plan_says(past: Past, plan: str, days: int) -> None:
    user = await add_user(past.connection, plan)
    await past.job(user, days + 0.1, files=2)
    young = await past.job(user, days - 0.1, files=1)
    assert await expire_artifacts(past.database, NOW) == 2
    kept = await past.connection.fetchval("SELECT job_id FROM artifacts WHERE deleted_at IS NULL")
    assert kept == young and await past.count("artifacts") == 3


async def test_a_users_own_retention_replaces_the_plans(past: Past) -> None:
    user = await add_user(past.connection, retention_days=60)
    await past.job(user, 50, files=1)
    assert await expire_artifacts(past.database, NOW) == 0


async def test_old_jobs_go_with_all_but_their_books(past: Past, user: UUID) -> None:
    old = await past.job(user, 10.1, files=2)
    young = await past.job(user, 9.9, files=1)
    waiting = await past.job(user, 20, end=False)
    ledger, usage = await past.count("token_ledger"), await past.count("usage_daily")
    assert await prune_jobs(past.database, NOW) == 1
    left = [row["id"] for row in await past.connection.fetch("SELECT id FROM jobs ORDER BY created_at")]
    assert left == [waiting, young]
    for table in ("job_events", "attempts", "artifacts"):
        assert await past.count(table, f"job_id = '{old}'") == 0
        assert await past.count(table, f"job_id = '{young}'") > 0
    assert (await past.count("token_ledger"), await past.count("usage_daily")) == (ledger, usage)
    assert await compare_books(past.database, NOW) == 0


async def test_a_job_that_was_repeated_goes_after_its_repetition(past: Past, user: UUID) -> None:
    first = await past.job(user, 30)
    await past.job(user, 20, retried_from=str(first))
    assert await prune_jobs(past.database, NOW) == 1
    assert await past.connection.fetchval("SELECT id FROM jobs") == first
    assert await prune_jobs(past.database, NOW) == 1


async def test_a_batch_takes_no_more_than_its_limit_and_draining_takes_all(past: Past, user: UUID) -> None:
    for n in range(5):
        await past.upload(user, str(n), timedelta(days=-1))
    assert await expire_uploads(past.database, NOW, limit=2) == 2
    assert await drain(lambda limit: expire_uploads(past.database, NOW, limit), limit=2) == 3


async def test_minutes_are_up_down_or_unknown(past: Past) -> None:
    for minutes, ok in ((0, True), (0, True), (1, False), (1, True), (3, True)):
        await note_minute(past.database, NOW + timedelta(minutes=minutes), ok=ok)
    rows = await past.connection.fetch("SELECT minute, ok FROM uptime_minutes ORDER BY minute")
    start = NOW.replace(second=0)
    assert [tuple(row) for row in rows] == [
        (start, True),
        (start + timedelta(minutes=1), False),
        (start + timedelta(minutes=3), True),
    ]


async def test_books_that_disagree_are_counted_and_left_as_they_are(past: Past, user: UUID) -> None:
    await past.job(user, 0)
    assert await compare_books(past.database, NOW) == 0
    await past.connection.execute("UPDATE usage_daily SET used_mt = 1")
    await past.connection.execute("UPDATE user_state SET used_mt = 2")
    assert await compare_books(past.database, NOW) == 2
    assert await past.connection.fetchval("SELECT used_mt FROM usage_daily") == 1


# ------------------------------------------------------------------ the artifact store


async def put_old(store: FolderStore, content: str, days_ago: float = 2) -> str:
    name = await store.put(content.encode())
    (path,) = list((store.path / "blobs").rglob(name))
    then = datetime.now(UTC).timestamp() - days_ago * 86_400
    os.utime(path, (then, then))
    return name


async def test_only_files_that_nothing_references_are_collected(past: Past, user: UUID, tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    now = datetime.now(UTC)
    contents = [
        "artifact",
        "thumbnail",
        "upload",
        "read by a waiting job",
        "in a manifest",
        "gone",
        "gone just now",
        "stray",
    ]
    hashes = {content: await put_old(store, content) for content in contents}
    young = await store.put(b"young")
    job = await past.job(user, 0)
    insert = (
        "INSERT INTO artifacts (id, job_id, user_id, index, sha256, thumbnail_sha256, media_type, bytes, deleted_at)"
        " VALUES ($1, $2, $3, $4, $5, $6, 'image/png', 9, $7)"
    )
    for index, (content, thumbnail, deleted_at) in enumerate(
        [
            ("artifact", hashes["thumbnail"], None),
            ("gone", None, now - timedelta(hours=2)),
            ("gone just now", None, now - timedelta(minutes=2)),
        ]
    ):
        await past.connection.execute(insert, new_id(), job, user, index, hashes[content], thumbnail, deleted_at)
    await past.upload(user, "upload", timedelta(days=1))
    reads = {"prompt": "x", "_files": {"image": {"sha256": hashes["read by a waiting job"], "media_type": "image/png"}}}
    await past.job(user, 0, end=False, input=reads)
    await store.put_manifest(manifest_name(new_id(), 1), f'{{"sha256": "{hashes["in a manifest"]}"}}'.encode())

    assert await collect_blobs(past.database, store, now) == 2
    left = {content for content, name in hashes.items() if await store.size(name) is not None}
    assert left == set(contents) - {"gone", "stray"}
    assert await store.size(young) is not None


async def test_manifests_go_when_their_jobs_have_ended(past: Past, user: UUID, tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    ended, live, unknown = await past.job(user, 0), await past.job(user, 0, end=False), new_id()
    names = {manifest_name(job, 1) for job in (ended, live, unknown)} | {"not-a-run.txt"}
    for name in names:
        await store.put_manifest(name, b"{}")
    assert await prune_manifests(past.database, store) == 2
    assert set(await store.manifests()) == {manifest_name(live, 1), "not-a-run.txt"}


# ------------------------------------------------------------------ the loop


async def until(check: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(10):
        while not await check():  # noqa: ASYNC110 (the database tells nobody)
            await asyncio.sleep(0.02)


async def test_a_leader_does_everything_once_soon_after_its_start(
    database_url: str, past: Past, tmp_path: Path
) -> None:
    maintenance = Maintenance(database_url, FolderStore(tmp_path), quiet_start_s=0)
    task = asyncio.create_task(maintenance.run())

    async def all_done() -> bool:
        return all(tally.runs == 1 for tally in maintenance.tallies.values())

    await until(all_done)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert await past.count("uptime_minutes", "ok") == 1
    assert all(counts["failures"] == 0 for counts in maintenance.counts().values())


async def test_a_service_that_is_not_well_is_written_down_as_down(
    database_url: str, past: Past, tmp_path: Path
) -> None:
    maintenance = Maintenance(database_url, FolderStore(tmp_path), healthy=lambda: False)
    task = asyncio.create_task(maintenance.run())

    async def noted() -> bool:
        return await past.count("uptime_minutes", "NOT ok") == 1

    await until(noted)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_an_outage_of_postgres_ends_the_loop_as_unavailable(tmp_path: Path) -> None:
    away = f"postgresql://tessera@/tessera?host={tmp_path}"
    with pytest.raises(Unavailable):
        async with asyncio.timeout(20):
            await Maintenance(away, FolderStore(tmp_path), quiet_start_s=0).run()


@pytest.mark.parametrize("error", [Unavailable(), StorageFull(), ValueError("a mistake of ours")])
async def test_a_store_that_fails_stops_nothing_else(
    database_url: str, past: Past, tmp_path: Path, error: Exception
) -> None:
    class BrokenStore(FolderStore):
        async def manifests(self) -> list[str]:
            raise error

    maintenance = Maintenance(database_url, BrokenStore(tmp_path))
    for task in maintenance.tasks:
        await maintenance.do(past.database, task)
    failed = {name for name, tally in maintenance.tallies.items() if tally.failures}
    assert failed == {"prune_manifests", "collect_blobs"}

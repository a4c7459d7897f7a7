"""A real API over a real Postgres for the fuzzers to talk to, with users whose limits they never reach.

A loop plays the scheduler by the database's own functions: what is submitted completes with a picture or fails within a
moment, so that lists, files, streams and refunds have something to show.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import itertools
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import aiohttp
import asyncpg
import structlog
from PIL import Image

from deployments.preview.engine import PreviewEngine
from tessera.engine import Done, EngineJob, Output
from tessera.ids import Prefix, new_id, show
from tessera.inputs import parse_input
from tessera.jobs import Kind
from tessera.local.postgres import EmbeddedPostgres
from tessera.store.database import connect, fetch_settled
from tessera.store.migrations import migrate, seed
from tests.integration.api_server import Api, running

log = structlog.get_logger(__name__)

PLENTY = {
    "daily_mt": 10**15,
    "submissions_per_min": 10**6,
    "requests_per_min": 10**6,
    "max_queued": 10**6,
    "max_running": 10**6,
}
TICK_S = 0.05
ON_BEHALF, PERSON = "Tessera-On-Behalf-Of", "telegram:4711"  # for whom the service key asks
FAILS_EVERY = 7  # jobs
BEAT_TICKS = 6


@dataclass(frozen=True, kw_only=True)
class Target:
    """What a fuzzer needs: the API, the keys to use by the name of their kind of caller, and ids of things there."""

    api: Api
    keys: dict[str, str]
    job_id: str
    artifact_id: str


@contextlib.asynccontextmanager
async def target(dsn: str, folder: Path) -> AsyncIterator[Target]:
    """An API on a migrated database, up while the context lasts."""
    async with running(dsn, folder) as api:
        user = await api.add_user(name="ordinary", **PLENTY)
        operator = await api.add_user(name="operator", is_admin=True, **PLENTY)
        api.key = await api.add_key(user_id=user, scopes=["jobs"])
        api.user_id = user
        keys = {
            "user": api.key,
            "operator": await api.add_key(user_id=operator, scopes=["jobs", "admin"]),
            "service": await api.add_key(user_id=operator, scopes=["service"]),
            "unknown": "tsr_0123456789abcdef_" + "x" * 43,
        }
        job = await api.submit("image", prompt="a house")
        artifact = await api.complete(job["id"], _picture())
        worker = asyncio.create_task(_work(dsn, api, keys))
        try:
            yield Target(api=api, keys=keys, job_id=job["id"], artifact_id=show(Prefix.ARTIFACT, UUID(artifact)))
            if worker.done():
                raise AssertionError("the loop that ends jobs has died") from worker.exception()
        finally:
            worker.cancel()
            await asyncio.gather(worker, return_exceptions=True)


@contextlib.asynccontextmanager
async def own_target() -> AsyncIterator[Target]:
    """The same with a Postgres and a folder of its own, which end with it."""
    with tempfile.TemporaryDirectory(prefix="tessera-fuzz-") as home:
        server = EmbeddedPostgres(Path(home) / "postgres", durable=False)
        info = await asyncio.to_thread(server.ensure_running)
        try:
            await migrate(info.dsn)
            await seed(info.dsn)
            async with target(info.dsn, Path(home)) as found:
                yield found
        finally:
            server.stop()


async def _work(dsn: str, api: Api, keys: Mapping[str, str]) -> None:
    """Claim and end whatever is queued, and now and then submit a job for each key: streams have something to tell."""
    results = {kind: await _result_of(kind, api) for kind in Kind}
    sql = await connect(dsn, name="fuzz-worker")
    ended = itertools.count(1)
    try:
        for beat in itertools.count(1):
            await asyncio.sleep(TICK_S)
            try:
                await _restore(sql)
                if beat % BEAT_TICKS == 0:
                    await _submit_for_each(api, keys)
                await _end_some(sql, api, results, ended)
            except (asyncpg.DeadlockDetectedError, aiohttp.ClientError, TimeoutError) as error:
                # _restore takes its locks in no order, and a loaded machine is slow: the next beat does it.
                log.warning("beat_failed", why=repr(error))
    finally:
        await sql.close()


async def _submit_for_each(api: Api, keys: Mapping[str, str]) -> None:
    for caller in ("user", "operator", "service"):
        headers = {ON_BEHALF: PERSON} if caller == "service" else {}
        beat = {"kind": "text", "input": {"prompt": "beat"}}
        await api.call("POST", "/v1/jobs", key=keys[caller], headers=headers, json=beat)


async def _end_some(sql: asyncpg.Connection, api: Api, results: Mapping[Kind, Any], ended: Iterator[int]) -> None:
    waiting = await sql.fetch("SELECT id, kind FROM jobs WHERE state = 'queued' ORDER BY id LIMIT 100")
    kinds = {row["id"]: Kind(row["kind"]) for row in waiting}
    claims = [{"job_id": str(row["id"]), "worker": "w", "ord": n} for n, row in enumerate(waiting)]
    if not claims:
        return
    outcomes: list[dict[str, Any]] = []
    for n, row in enumerate(await fetch_settled(sql, "SELECT * FROM claim($1, $2, 30)", api.epoch, claims)):
        outcome = {"ord": n, "job_id": str(row["job_id"]), "attempt": row["attempt"]}
        if next(ended) % FAILS_EVERY == 0:
            error = {"code": "invalid_input", "message": "The engine refuses this.", "retryable": False}
            outcomes.append({**outcome, "outcome": "failed", "error": error})
            continue
        files, output = results[kinds[row["job_id"]]]
        files = [{**file, "id": str(new_id())} for file in files]
        outcomes.append({**outcome, "outcome": "completed", "artifacts": files, "output": output})
    if outcomes:
        await fetch_settled(sql, "SELECT * FROM finish($1, $2)", api.epoch, outcomes)


INPUTS_OF: Mapping[Kind, Mapping[str, Any]] = {
    Kind.IMAGE: {"prompt": "a house", "width": 64, "height": 64},
    Kind.VIDEO: {"prompt": "the sea", "width": 64, "height": 64, "duration_s": 0.25, "fps": 4},
    Kind.TEXT: {"prompt": "say hello", "max_tokens": 8},
    Kind.SPEECH: {"text": "Hello."},
    Kind.MUSIC: {"prompt": "calm", "duration_s": 1},
}


async def _result_of(kind: Kind, api: Api) -> tuple[list[dict[str, Any]], Mapping[str, Any]]:
    """The files and the output of one small job of a kind, by the preview engine."""
    if kind is Kind.TRANSCRIPTION:
        segment = {"start": 0.0, "end": 1.0, "text": "Hello."}
        return [], {"engine": "fuzz/1", "text": "Hello.", "language": "en", "duration_s": 1.0, "segments": [segment]}
    model = f"preview-{kind.value}"
    engine = PreviewEngine(models=[model], slots=1)
    given = parse_input(kind, INPUTS_OF[kind]).model_dump(mode="json")
    files: list[dict[str, Any]] = []
    output: Mapping[str, Any] = {}
    async for event in engine.run(EngineJob(id=new_id(), kind=kind, model=model, input=given), 1):
        if isinstance(event, Output):
            file = {"index": event.index, "media_type": event.media_type, "bytes": len(event.data)}
            sizes = {"width": event.width, "height": event.height, "duration_s": event.duration_s}
            files.append({**file, **sizes, "sha256": await api.store.put(event.data)})
        elif isinstance(event, Done):
            output = event.output
    return files, output


async def _restore(sql: asyncpg.Connection) -> None:
    """Undo what the fuzzers did to their own users and keys: who has revoked himself fuzzes nothing any more."""
    await sql.execute("UPDATE api_keys SET revoked_at = NULL, expires_at = NULL WHERE revoked_at IS NOT NULL")
    await sql.execute(
        "UPDATE users SET banned_at = NULL, deleted_at = NULL, is_admin = name = 'operator', daily_mt = $1,"
        " submissions_per_min = $2, requests_per_min = $2, max_queued = $2 WHERE merged_into IS NULL"
        " AND (banned_at IS NOT NULL OR deleted_at IS NOT NULL OR daily_mt IS DISTINCT FROM $1"
        " OR submissions_per_min IS DISTINCT FROM $2)",
        PLENTY["daily_mt"],
        PLENTY["max_queued"],
    )


def _picture() -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (8, 8), "teal").save(data, "PNG")
    return data.getvalue()

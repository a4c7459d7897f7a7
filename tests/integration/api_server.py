"""The API on a real socket over a real Postgres, and the scheduler's side of it played by the test."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import aiohttp
import asyncpg
import uvicorn

from tessera.admission import Admission
from tessera.api.app import create_app
from tessera.api.deliveries.bell import Bell
from tessera.api.deliveries.sender import Sender
from tessera.api.events.feed import Feed
from tessera.api.services import Services, utc_now
from tessera.api.standing import Standing
from tessera.api.watermarks import Watermarks
from tessera.artifacts import ArtifactStore, FolderStore
from tessera.catalog import catalog_of
from tessera.config import ClusterConfig, NodeConfig, Settings
from tessera.ids import Prefix, new_id, parse
from tessera.outbound import Outbound
from tessera.store.database import Database, connect
from tessera.store.operators import make_key
from tests.fakes.scheduler import FakeScheduler

MODELS = ("preview-image", "preview-video", "preview-text", "preview-transcription", "preview-speech", "preview-music")
LEASE_S = 30.0


@dataclass
class Api:
    """A running API. ``key`` is of a user on plan pro; ``sql`` is a connection to look behind it."""

    url: str
    http: aiohttp.ClientSession
    key: str
    user_id: UUID
    sql: asyncpg.Connection
    scheduler: FakeScheduler
    services: Services
    store: ArtifactStore
    epoch: int = 0

    async def call(
        self,
        method: str,
        path: str,
        *,
        key: str | None = "",
        headers: Mapping[str, str] | None = None,
        **options: Any,
    ) -> tuple[aiohttp.ClientResponse, Any]:
        """One request with the key ("" ours, None none); the answer, and its body as JSON or bytes."""
        all_headers = dict(headers or {})
        if key is not None:
            all_headers["Authorization"] = f"Bearer {key or self.key}"
        async with self.http.request(method, self.url + path, headers=all_headers, **options) as answer:
            body = await answer.read()
            if "json" in answer.content_type and body:
                return answer, json.loads(body)
            return answer, body

    async def submit(self, kind: str = "text", **data: Any) -> dict[str, Any]:
        """A job that is accepted."""
        wanted = data or {"prompt": "hello"}
        answer, job = await self.call("POST", "/v1/jobs", json={"kind": kind, "input": wanted})
        assert answer.status == 202, job
        return dict(job)

    async def add_user(self, plan: str = "pro", **columns: Any) -> UUID:
        """A new user."""
        user_id = new_id()
        await self.sql.execute(
            "INSERT INTO users (id, name, plan_id) VALUES ($1, $2, $3)", user_id, f"user-{user_id}", plan
        )
        for column, value in columns.items():
            await self.sql.execute(f"UPDATE users SET {column} = $2 WHERE id = $1", user_id, value)
        return user_id

    async def add_key(self, *, plan: str = "pro", user_id: UUID | None = None, **columns: Any) -> str:
        """The key of a new user, or another one of a user."""
        owner = user_id or await self.add_user(plan)
        key_id, key, digest = make_key()
        await self.sql.execute(
            "INSERT INTO api_keys (id, user_id, secret_sha256, name) VALUES ($1, $2, $3, 'test')", key_id, owner, digest
        )
        for column, value in columns.items():
            await self.sql.execute(f"UPDATE api_keys SET {column} = $2 WHERE id = $1", key_id, value)
        return key

    # The scheduler's part, by the same functions of the database.

    async def claim(self, job_id: str) -> int:
        """A worker takes the job; its attempt."""
        rows = [{"job_id": str(parse(Prefix.JOB, job_id)), "worker": "w1", "ord": 0}]
        found = await self.sql.fetch("SELECT * FROM claim($1, $2, $3)", self.epoch, rows, LEASE_S)
        assert found, "the job cannot be claimed"
        return int(found[0]["attempt"])

    async def finish(self, job_id: str, attempt: int, outcome: str = "completed", **more: Any) -> None:
        """Its run ends."""
        row = {"ord": 0, "job_id": str(parse(Prefix.JOB, job_id)), "attempt": attempt, "outcome": outcome, **more}
        found = await self.sql.fetch("SELECT * FROM finish($1, $2)", self.epoch, [row])
        assert found, "the run cannot be ended"

    async def complete(self, job_id: str, data: bytes = b"", media_type: str = "image/png", **output: Any) -> str:
        """The job runs and makes one file of these bytes; its artifact's id inside."""
        attempt = await self.claim(job_id)
        artifact = {
            "id": str(new_id()),
            "index": 0,
            "sha256": await self.store.put(data),
            "media_type": media_type,
            "bytes": len(data),
        }
        await self.finish(job_id, attempt, artifacts=[artifact], output={"engine": "fake/1", "preview": True, **output})
        return str(artifact["id"])

    # Events.

    @contextlib.asynccontextmanager
    async def events(self, job_id: str, last: int | None = None) -> AsyncIterator[Events]:
        """The job's stream."""
        headers = {"Authorization": f"Bearer {self.key}"}
        if last is not None:
            headers["Last-Event-ID"] = str(last)
        async with self.http.get(f"{self.url}/v1/jobs/{job_id}/events", headers=headers) as answer:
            assert answer.status == 200, await answer.text()
            assert answer.content_type == "text/event-stream"
            yield Events(answer)


class Events:
    """Reads one message after the other."""

    def __init__(self, answer: aiohttp.ClientResponse) -> None:
        self._answer = answer
        self.heartbeats = 0

    async def next(self, timeout_s: float = 5.0) -> dict[str, Any] | None:
        """{id, event, data} of the next message; None at the end."""
        async with asyncio.timeout(timeout_s):
            while True:
                message: dict[str, Any] = {}
                while (line := (await self._answer.content.readline()).decode()) not in ("\n", ""):
                    name, _, value = line.rstrip("\n").partition(": ")
                    if name == "":
                        self.heartbeats += 1
                    message[name] = value
                if "data" in message:
                    return {**message, "data": json.loads(message["data"])}
                if line == "" and not message:
                    return None

    async def until(self, event: str) -> dict[str, Any]:
        """The next message of this type."""
        while True:
            message = await self.next()
            assert message is not None, f"the stream ended before {event!r}"
            if message["event"] == event:
                return message

    async def rest(self) -> list[dict[str, Any]]:
        """All messages to the end."""
        found = []
        while (message := await self.next()) is not None:
            found.append(message)
        return found


@contextlib.asynccontextmanager
async def running(
    database_url: str,
    folder: Path,
    *,
    heartbeat_s: float = 15.0,
    body_silence_s: float = 20.0,
    store: ArtifactStore | None = None,
    scheduler: Any = None,
    sender: dict[str, float] | None = None,
    **settings: Any,
) -> AsyncIterator[Api]:
    """An API of its own, up while the context lasts."""
    scheduler = scheduler or FakeScheduler()
    files = store or FolderStore(folder / "artifacts")
    cluster = settings.pop("cluster", ClusterConfig(nodes=(NodeConfig(name="pc2"),)))
    db = Database.open(database_url, pool_size=4)
    outbound, bell = Outbound(cluster.outbound.allow), Bell(database_url)
    services = Services(
        settings=Settings(
            home=folder,
            database_url=database_url,
            artifacts_url=f"file://{folder}/artifacts",
            cluster=cluster,
            **settings,
        ),
        catalog=catalog_of([*MODELS, "noop"]),
        db=db,
        admission=Admission(database_url),
        artifacts=files,
        scheduler=scheduler,
        feed=Feed(database_url, scheduler),
        watermarks=Watermarks(cluster.ingress, db, files),
        outbound=outbound,
        bell=bell,
        sender=Sender(database_url, outbound, bell, utc_now, **(sender or {})),
        standing=Standing(db),
        heartbeat_s=heartbeat_s,
        body_silence_s=body_silence_s,
    )
    services.feed.start()
    services.sender.start()
    services.bell.start()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        # As every server in production has it, and asyncio only for sockets that name their protocol: without it each
        # answer in two packets waits 40 ms for a delayed acknowledgement.
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        config = uvicorn.Config(
            create_app(services), lifespan="off", log_level="error", timeout_graceful_shutdown=1, loop="asyncio"
        )
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server.serve([listening]))
        sql = await connect(database_url, name="tests")
        try:
            async with aiohttp.ClientSession(auto_decompress=False) as http:
                port = listening.getsockname()[1]
                api = Api(f"http://127.0.0.1:{port}", http, "", new_id(), sql, scheduler, services, files)
                api.user_id = await api.add_user()
                api.key = await api.add_key(user_id=api.user_id)
                yield api
        finally:
            await services.feed.close()
            await services.bell.close()
            await services.sender.close()
            await services.outbound.close()
            server.should_exit = True
            await serving
            await services.admission.close()
            await services.standing.close()
            await services.db.close()
            await sql.close()

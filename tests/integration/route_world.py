"""Somebody who owns one of everything that the API has, and those who ask for it: for the walk over every route."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import aiohttp
from PIL import Image

from tessera.ids import Prefix, new_id, parse, show
from tests.integration.api_server import Api
from tests.integration.people import service_key
from tests.integration.test_api_workers import cluster
from tests.integration.working_api import working

PERSON = "telegram:4711"
BOT = {"platform": "telegram", "bot": "painter"}
PLENTY = "UPDATE users SET daily_mt = 100000000, requests_per_min = 100000, submissions_per_min = 100000"


@dataclass(frozen=True, kw_only=True)
class Thing:
    """What a route is asked for: the parameters of its path, and what the request needs besides."""

    params: Mapping[str, str] = field(default_factory=dict)
    query: str = ""
    json: Any = None
    key: str | None = None  # of who may ask, where that is nobody of the world


@dataclass(kw_only=True)
class World:
    """``keys`` by who asks: owner, reader, stranger, operator, service, person (the service key, for PERSON)."""

    api: Api
    keys: dict[str, str]

    async def ask(self, method: str, path: str, who: str = "owner", **options: Any) -> Any:
        """The body of an answer that must be a success."""
        headers = {**self.headers(who), **options.pop("headers", {})}
        answer, body = await self.api.call(method, path, key=self.keys[who], headers=headers, **options)
        assert answer.status < 300, (method, path, answer.status, body)
        return body

    @staticmethod
    def headers(who: str) -> dict[str, str]:
        """What who asks for a person says. A line of its own for each request: an idle one may close just then."""
        return {"Connection": "close"} | ({"Tessera-On-Behalf-Of": PERSON} if who == "person" else {})

    async def thing(self, name: str) -> Thing:
        """A new one of what goes by this name."""
        make: Callable[[], Awaitable[Thing]] = getattr(self, f"_{name}")
        return await make()

    # ------------------------------------------------------------------ jobs and their files

    async def _submit(self, kind: str, data: Mapping[str, Any], who: str = "owner", **more: Any) -> str:
        return str((await self.ask("POST", "/v1/jobs", who, json={"kind": kind, "input": data, **more}))["id"])

    async def _queued(self) -> Thing:
        return Thing(params={"job_id": await self._submit("video", {"prompt": "waits", "duration_s": 1})})

    async def _running(self) -> Thing:
        job_id = await self._submit("text", {"prompt": "sleep 30"}, model="noop")
        await self._until(job_id, {"running"})
        return Thing(params={"job_id": job_id})

    async def until_videos_wait(self) -> None:
        """The scheduler hears of a pause a moment after the answer: until then it may still start a video."""
        async with asyncio.timeout(60):
            while True:
                job_id = await self._submit("video", {"prompt": "waits", "duration_s": 1})
                explained = await self.ask("GET", f"/v1/jobs/{job_id}/explain")
                await self.ask("POST", f"/v1/jobs/{job_id}/cancel")
                first = next(iter(explained["reasons"]), {})
                if first.get("code") == "paused":  # its own word: the API alone would say first that it has not seen it
                    return
                await asyncio.sleep(0.05)

    async def _ended(self) -> Thing:
        job_id = await self._submit("text", {"prompt": "say hello"}, model="noop")
        await self._until(job_id, {"completed"})
        return Thing(params={"job_id": job_id})

    async def _until(self, job_id: str, states: set[str], who: str = "owner") -> Any:
        return await self._look(f"/v1/jobs/{job_id}", states, who)

    async def _look(self, path: str, states: set[str], who: str = "owner") -> Any:
        """What is there, once it is in one of these states."""
        async with asyncio.timeout(60):
            while True:
                found = await self.ask("GET", path, who)
                if found["state"] in states:
                    return found
                await asyncio.sleep(0.05)

    async def _artifact(self, who: str = "owner") -> Thing:
        job_id = await self._submit("image", {"prompt": "a fox", "width": 64, "height": 64}, who)
        job = await self._until(job_id, {"completed"}, who)
        return Thing(params={"artifact_id": job["artifacts"][0]["id"]})

    async def _artifact_to_report(self) -> Thing:
        artifact = await self._artifact()
        return Thing(json={"artifact_id": artifact.params["artifact_id"], "reason": "it is mine"})

    async def _link(self) -> Thing:
        artifact = await self._artifact()
        shared = await self.ask("POST", f"/v1/artifacts/{artifact.params['artifact_id']}/share", json={})
        return Thing(params=artifact.params, query=urlsplit(shared["url"]).query)

    async def _chat_job(self) -> Thing:
        job_id = await self._submit(
            "video", {"prompt": "waits", "duration_s": 1}, "person", delivery={**BOT, "chat": str(new_id())}
        )
        return Thing(params={"job_id": job_id})

    async def _video(self) -> Thing:
        body = {"prompt": "the sea", "seconds": "4"}
        return Thing(params={"video_id": (await self.ask("POST", "/openai/v1/videos", json=body))["id"]})

    async def _ended_video(self) -> Thing:
        """Its file is made by hand: the kind is paused, so that the others wait."""
        video = await self._video()
        job_id = parse(Prefix.JOB, video.params["video_id"])
        sha256 = await self.api.store.put(b"\x00\x00\x00\x18ftypmp42")
        async with self.api.sql.transaction():
            epoch = await self.api.sql.fetchval("SELECT epoch FROM leader")
            claims = [{"job_id": str(job_id), "worker": "preview", "ord": 0}]
            attempt = await self.api.sql.fetchval("SELECT attempt FROM claim($1, $2, 30)", epoch, claims)
            artifact = {"id": str(new_id()), "index": 0, "sha256": sha256, "media_type": "video/mp4", "bytes": 12}
            ended = {"ord": 0, "job_id": str(job_id), "attempt": attempt, "outcome": "completed"}
            rows = [{**ended, "artifacts": [artifact], "output": {"engine": "test/1"}}]
            await self.api.sql.execute("SELECT * FROM finish($1, $2)", epoch, rows)
        return video

    # ------------------------------------------------------------------ batches

    def _lines(self, prompt: str = "say hello") -> bytes:
        return (
            json.dumps({"custom_id": "a", "kind": "text", "model": "noop", "input": {"prompt": prompt}}).encode()
            + b"\n{}"
        )

    async def _batch(self) -> Thing:
        found = await self.ask("POST", "/v1/batches", data=form(self._lines("sleep 30"), "lines.jsonl"))
        return Thing(params={"batch_id": found["id"]})

    async def _ended_batch(self) -> Thing:
        found = await self.ask("POST", "/v1/batches", data=form(self._lines(), "lines.jsonl"))
        await self._look(f"/v1/batches/{found['id']}", {"completed"})
        return Thing(params={"batch_id": found["id"]})

    async def _file(self) -> Thing:
        body = {"model": "noop", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 5}
        line = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": body}
        data = form(json.dumps(line).encode(), "lines.jsonl", purpose="batch")
        return Thing(params={"file_id": (await self.ask("POST", "/openai/v1/files", data=data))["id"]})

    async def _file_to_begin(self) -> Thing:
        file_id = (await self._file()).params["file_id"]
        body = {"input_file_id": file_id, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
        return Thing(json=body)

    async def _openai_batch(self) -> Thing:
        body = (await self._file_to_begin()).json
        return Thing(params={"batch_id": (await self.ask("POST", "/openai/v1/batches", json=body))["id"]})

    # ------------------------------------------------------------------ webhooks and chats

    async def _endpoint(self) -> Thing:
        for one in (await self.ask("GET", "/v1/webhook-endpoints"))["data"]:
            await self.ask("DELETE", f"/v1/webhook-endpoints/{one['id']}")
        body = {"url": "https://hooks.example.org/x", "events": ["failed"]}
        return Thing(params={"endpoint_id": (await self.ask("POST", "/v1/webhook-endpoints", json=body))["id"]})

    async def _delivery(self) -> Thing:
        endpoint = (await self._endpoint()).params["endpoint_id"]
        sent = await self.ask("POST", f"/v1/webhook-endpoints/{endpoint}/test")
        await self.api.sql.execute(
            "UPDATE deliveries SET state = 'failed', ended_at = now(), lease_token = NULL WHERE id = $1",
            parse(Prefix.DELIVERY, sent["id"]),
        )
        return Thing(params={"delivery_id": sent["id"]})

    async def _claimed(self) -> Thing:
        job = await self._chat_job()
        job_id = job.params["job_id"]
        await self.ask("POST", f"/v1/jobs/{job_id}/cancel", "person")
        claimed = await self.ask("POST", "/v1/internal/deliveries:claim", "service", json=BOT)
        held = [{"id": one["id"], "lease_token": one["lease_token"]} for one in claimed["data"]]
        assert held, "a cancelled job is told to its chat"
        return Thing(json={"deliveries": held})

    async def _update(self) -> Thing:
        updates = [{"update_id": str(new_id()), "lane": str(new_id()), "data": {}}]
        body = {**BOT, "updates": updates, "lease_s": 60}
        (stored,) = (await self.ask("POST", "/v1/internal/inbox", "service", json=body))["data"]
        held = {"update_id": updates[0]["update_id"], "lease_token": stored["lease_token"]}
        return Thing(json={**BOT, "updates": [held]})

    # ------------------------------------------------------------------ accounts

    async def _passerby(self) -> str:
        key = await self.api.add_key()
        await self.api.sql.execute(PLENTY)
        return key

    async def _leaving(self) -> Thing:
        key = await self._passerby()
        _, me = await self.api.call("GET", "/v1/me", key=key)
        return Thing(query=f"confirm={me['id']}", key=key)

    async def _joining(self) -> Thing:
        code = (await self.ask("POST", "/v1/identities/link-codes"))["code"]
        return Thing(json={"code": code}, key=await self._passerby())

    async def _identity(self) -> Thing:
        subject = str(new_id().int % 10**12)
        for provider, of in (("telegram", subject), ("discord", f"{subject}1")):
            await self.api.sql.execute(
                "INSERT INTO identities (id, user_id, provider, subject) VALUES ($1, $2, $3, $4)",
                new_id(),
                self.api.user_id,
                provider,
                of,
            )
        return Thing(params={"identity": f"telegram:{subject}"})

    async def _key(self) -> Thing:
        return Thing(params={"key_id": (await self.ask("POST", "/v1/keys", json={"name": "script"}))["id"]})

    # ------------------------------------------------------------------ what operators do

    async def _user(self) -> Thing:
        return Thing(params={"user_id": show(Prefix.USER, await self.api.add_user())})

    async def _banned(self) -> Thing:
        user = await self._user()
        path = f"/v1/admin/users/{user.params['user_id']}/ban"
        await self.ask("POST", path, "operator", json={"reason": "spam"})
        return user

    async def _report(self) -> Thing:
        artifact = await self._artifact()
        body = {"artifact_id": artifact.params["artifact_id"], "reason": "it is mine"}
        report = await self.ask("POST", "/v1/reports", json=body)
        return Thing(params={**artifact.params, "report_id": report["id"]})

    async def _rule(self) -> Thing:
        body = {"text": f"word{new_id().int}", "action": "flag"}
        return Thing(
            params={"rule_id": (await self.ask("POST", "/v1/admin/moderation/rules", "operator", json=body))["id"]}
        )

    async def _exclusion(self) -> Thing:
        path = "/v1/internal/workers/text/exclusions/noop"
        await self.ask("PUT", path, "service", json={"for_s": 60})
        return Thing(params={"worker": "text", "model": "noop"})


def form(data: bytes, name: str, **fields: str) -> aiohttp.FormData:
    """A file as a form."""
    made = aiohttp.FormData(fields)
    made.add_field("file", io.BytesIO(data), filename=name)
    return made


def picture() -> bytes:
    """A small PNG."""
    data = io.BytesIO()
    Image.new("RGB", (64, 64), "teal").save(data, "PNG")
    return data.getvalue()


@contextlib.asynccontextmanager
async def world(database_url: str, folder: Path) -> AsyncIterator[World]:
    """Everything works but videos, which are paused: they wait for as long as they are looked at."""
    async with working(database_url, folder, cluster=cluster(), expanding=True) as api:
        operator = await api.add_user(is_admin=True)
        service = await service_key(api)
        keys = {
            "owner": api.key,
            "reader": await api.add_key(user_id=api.user_id, scopes=["read"]),
            "stranger": await api.add_key(),
            "operator": await api.add_key(user_id=operator, scopes=["jobs", "admin"]),
            "no_admin": await api.add_key(user_id=operator, scopes=["jobs", "service"]),
            "service": service,
            "person": service,
        }
        found = World(api=api, keys=keys)
        await found.ask("GET", "/v1/me", "person")
        await api.sql.execute(PLENTY)
        await asyncio.sleep(2.1)  # what is remembered of keys and their limits
        await found.ask("POST", "/v1/admin/queue/video/pause", "operator")
        await found.until_videos_wait()
        yield found


def identifier(value: str) -> UUID | None:
    """The UUID of a shown id, None for what is none."""
    prefix, _, _ = value.partition("_")
    with contextlib.suppress(Exception):
        return parse(Prefix(prefix), value)
    return None

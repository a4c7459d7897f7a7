"""A server that speaks the wire shapes of Tessera's API on a real socket, with knobs for its faults.

Jobs run by a script in a task of their own. Run it by hand to look at the CLI:

    .venv/bin/python -m tests.fakes.api_server --port 8099 --step 0.4
    TESSERA_URL=http://127.0.0.1:8099 TESSERA_API_KEY=tsr_test_secret .venv/bin/tessera generate image "a lighthouse"
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import io
import itertools
import json
import wave
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Self

from aiohttp import web
from PIL import Image

from tests.fakes.api_job import FINAL, NOW, FakeJob

API_KEY = "tsr_test_secret"
ANSWER = "Lisbon has hills, trams and tiles. Climb to the castle, ride line 28, and eat a pastel de nata."


@dataclass
class Refusal:
    """An answer given instead of the real one, ``times`` times. Status 0 cuts the connection."""

    method: str
    path: str
    status: int
    code: str = "unavailable"
    detail: str = "The service cannot take this at the moment. Nothing was accepted or charged; try again shortly."
    retry_after: str | None = None
    times: int = 1
    body: bytes | None = None
    after: bool = False  # do it first, then answer wrongly: what a broken line looks like


@dataclass
class Knobs:
    """The faults and the pace."""

    step_s: float = 0.0
    outcome: str = "completed"  # or failed
    hold: bool = False  # jobs stay queued until they are cancelled
    retry_once: bool = False  # a running job goes back to the queue once
    cut_stream_after: list[int] = field(default_factory=list)  # messages of the first, second … connection
    end_stream_after: list[int] = field(default_factory=list)  # the same, ended cleanly
    repeat_events: bool = False  # send all durable events again after a reconnection
    silent: bool = False  # no heartbeats and no events, on the first connection
    cut_artifact_after: list[int] = field(default_factory=list)  # bytes of the first, second … answer
    ignore_range: bool = False
    refusals: list[Refusal] = field(default_factory=list)
    extra: dict[str, Any] = field(default_factory=dict)  # fields of a newer server
    explanation: dict[str, Any] = field(default_factory=dict)  # fields of every explanation
    count: int | None = None


@dataclass
class Seen:
    """A request as it arrived."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


class FakeApi:
    """``async with FakeApi() as api: … api.url``; ``api.knobs`` may be changed at any time."""

    def __init__(self, knobs: Knobs | None = None, *, port: int = 0) -> None:
        self.knobs = knobs or Knobs()
        self.seen: list[Seen] = []
        self.jobs: dict[str, FakeJob] = {}
        self.by_key: dict[str, FakeJob] = {}
        self.files: dict[str, tuple[str, bytes]] = {}
        self.keys: list[dict[str, Any]] = []
        self.workers: list[dict[str, Any]] = [worker("text", "pc2"), worker("comfyui", "pc1"), worker("whisper", "pc1")]
        self.drains: dict[str, str] = {}  # worker or node → its end
        self.pauses: dict[str, dict[str, Any]] = {}  # by kind
        self.users: list[dict[str, Any]] = [user(1, "operator", "pro", is_admin=True)]
        self.streams = 0
        self._port = port
        self._numbers = itertools.count(1)
        app = web.Application(client_max_size=1 << 28, middlewares=[self._around])
        app.add_routes(
            [
                web.post("/v1/jobs", self._submit),
                web.get("/v1/jobs", self._list),
                web.get("/v1/jobs/{id}", self._job),
                web.get("/v1/jobs/{id}/events", self._events),
                web.get("/v1/jobs/{id}/explain", self._explain),
                web.post("/v1/jobs/{id}/cancel", self._cancel),
                web.get("/v1/jobs/{id}/artifacts", self._artifacts),
                web.get("/v1/artifacts/{id}", self._artifact),
                web.post("/v1/uploads", self._upload),
                web.get("/v1/models", self._models),
                web.get("/v1/plans", self._plans),
                web.get("/v1/me", self._me),
                web.get("/v1/usage", self._usage),
                web.post("/v1/keys", self._key_create),
                web.get("/v1/keys", self._key_list),
                web.delete("/v1/keys/{id}", self._key_revoke),
                web.post("/v1/admin/users", self._user_create),
                web.get("/v1/admin/users", self._user_list),
                web.patch("/v1/admin/users/{id}", self._user_plan),
                web.post("/v1/admin/users/{id}/{act:grant|adjust}", self._user_entry),
                web.get("/v1/admin/queue", self._pause_list),
                web.post("/v1/admin/queue/{kind}/pause", self._pause),
                web.post("/v1/admin/queue/{kind}/resume", self._unpause),
                web.get("/v1/admin/workers", self._worker_list),
                web.post("/v1/admin/workers/{target}/{act:drain|resume}", self._drain),
            ]
        )
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)

    async def __aenter__(self) -> Self:
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self._port)
        await site.start()
        self._port = self._runner.addresses[0][1]
        return self

    async def __aexit__(self, *_: object) -> None:
        for job in self.jobs.values():
            if job.task is not None:
                job.task.cancel()
        await asyncio.gather(*(j.task for j in self.jobs.values() if j.task), return_exceptions=True)
        await self._runner.cleanup()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def count(self, method: str, path: str) -> int:
        return sum(1 for request in self.seen if (request.method, request.path) == (method, path))

    # Around every request

    @web.middleware
    async def _around(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        form = request.content_type.startswith("multipart/")
        body = b"" if form else await request.read()
        self.seen.append(Seen(request.method, request.path, dict(request.headers), body))
        for refusal in self.knobs.refusals:
            if refusal.times > 0 and (request.method, request.path) == (refusal.method, refusal.path):
                refusal.times -= 1
                if refusal.after:
                    await handler(request)
                if refusal.status == 0:
                    assert request.transport is not None
                    request.transport.abort()
                    return web.Response()
                headers = {"Retry-After": refusal.retry_after} if refusal.retry_after is not None else {}
                if refusal.body is not None:
                    return web.Response(status=refusal.status, body=refusal.body, headers=headers)
                return problem(refusal.status, refusal.code, refusal.detail, headers=headers)
        open_to_all = request.path in {"/v1/models", "/v1/plans"}
        if not open_to_all and request.headers.get("Authorization") != f"Bearer {API_KEY}":
            return problem(401, "unauthorized", "This API key is not known. 'tessera keys create' makes one.")
        try:
            return await handler(request)
        except web.HTTPNotFound:
            return problem(404, "not_found", "There is nothing here under this address. Check the id.")

    def _find(self, request: web.Request) -> FakeJob:
        job = self.jobs.get(request.match_info["id"])
        if job is None:
            raise web.HTTPNotFound
        return job

    # Jobs

    async def _submit(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        key = request.headers["Idempotency-Key"]
        if "width" in body["input"] and body["input"]["width"] > 4096:
            errors = [{"field": "input.width", "message": "must be at most 4096"}]
            return problem(
                422, "invalid_input", "Nothing was submitted or charged. input.width: too large", errors=errors
            )
        if key not in self.by_key:
            job = FakeJob(next(self._numbers), body)
            self.jobs[job.id] = self.by_key[key] = job
            job.task = asyncio.create_task(self._live(job))
        return web.json_response(self.by_key[key].show(self.knobs.extra), status=202)

    async def _list(self, request: web.Request) -> web.StreamResponse:
        wanted = [
            job.show(self.knobs.extra)
            for job in reversed(self.jobs.values())
            if request.query.get("state") in {None, job.state} and request.query.get("kind") in {None, job.body["kind"]}
        ]
        start, limit = int(request.query.get("cursor", 0)), int(request.query.get("limit", 20))
        following = str(start + limit) if start + limit < len(wanted) else None
        return web.json_response({"data": wanted[start : start + limit], "next_cursor": following})

    async def _job(self, request: web.Request) -> web.StreamResponse:
        return web.json_response(self._find(request).show(self.knobs.extra))

    async def _explain(self, request: web.Request) -> web.StreamResponse:
        return web.json_response(self._find(request).explain(self.knobs.explanation))

    async def _cancel(self, request: web.Request) -> web.StreamResponse:
        job = self._find(request)
        job.cancel.set()
        if job.task is not None:
            await job.task
        return web.json_response(job.show(self.knobs.extra))

    async def _artifacts(self, request: web.Request) -> web.StreamResponse:
        return web.json_response({"data": self._find(request).artifacts, "next_cursor": None})

    async def _events(self, request: web.Request) -> web.StreamResponse:
        job = self._find(request)
        self.streams += 1
        connection = self.streams - 1
        cut, end = _nth(self.knobs.cut_stream_after, connection), _nth(self.knobs.end_stream_after, connection)
        if job.state in FINAL and int(request.headers.get("Last-Event-ID", 0)) >= (job.log[-1]["id"] or 0) > 0:
            return web.Response(status=204)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        if self.knobs.silent and connection == 0:
            await asyncio.sleep(30)
        await response.write(b": heartbeat\n\n")
        last = 0 if self.knobs.repeat_events else int(request.headers.get("Last-Event-ID", 0))
        position = 0
        if connection:
            # What was ephemeral before this connection is gone; of the text there is all so far, as one chunk.
            position = len(job.log)
            backlog = [e for e in job.log if e["id"] is not None and e["id"] > last]
            if job.text:
                chunk = {"type": "chunk", "id": None, "data": {"offset": 0, "text": job.text}, "attempt": job.attempt}
                backlog.insert(len(backlog) if job.state not in FINAL else -1, chunk | {"job_id": job.id, "at": NOW})
        else:
            backlog = []
        sent = 0
        while True:
            async with job.changed:
                while not backlog and position == len(job.log) and job.state not in FINAL:
                    await job.changed.wait()
                backlog += job.log[position:]
                position = len(job.log)
            for event in backlog:
                if sent == cut:
                    assert request.transport is not None
                    request.transport.abort()
                    return response
                if sent == end:
                    return response
                # Cut in the middle of a character and of a line, as a network does.
                lines = f"id: {event['id']}\n" if event["id"] is not None else ""
                raw = (lines + f"event: {event['type']}\ndata: {json.dumps(event, ensure_ascii=False)}\n\n").encode()
                await response.write(raw[: len(raw) // 2])
                await response.write(raw[len(raw) // 2 :])
                sent += 1
                if event["type"] in FINAL:
                    return response
            if not backlog and job.state in FINAL:
                return response
            backlog = []

    async def _live(self, job: FakeJob) -> None:
        """One job's life."""
        try:
            await job.emit("queued", durable=True)
            for position in (3, 2, 1):
                await job.emit("queued", {"position": position, "eta": {"low_s": 4, "high_s": 9}}, durable=False)
                await self._step(job)
            while self.knobs.hold:
                await self._step(job, 0.02)
            for attempt in range(1, 3 if self.knobs.retry_once else 2):
                job.state, job.attempt, job.text = "running", attempt, ""
                await job.emit("started", {"worker": "preview-1"}, durable=True)
                again = self.knobs.retry_once and attempt == 1
                await self._run(job, until=0.5 if again else 1.0)
                if again:
                    job.state = "queued"
                    await job.emit("queued", {"reason": "the worker was lost"}, durable=True)
                    await self._step(job)
            if self.knobs.outcome == "failed":
                job.artifacts, job.output, job.charged = [], None, 0
                job.error = {
                    "code": "out_of_memory",
                    "message": "The job needs more memory than the device has. Ask for a smaller size.",
                    "retryable": True,
                    "refunded_tokens": 0.75,
                }
            else:
                job.charged = 0.75
            job.state = self.knobs.outcome
            await job.emit(job.state, {"error": job.error} if job.error else {}, durable=True)
        except Cancelled:
            job.charged = 0.25 if job.attempt else 0
            job.error = {
                "code": "cancelled",
                "message": "Cancelled by its user.",
                "retryable": False,
                "refunded_tokens": 0.75 - job.charged,
            }
            job.state = "cancelled"
            await job.emit("cancelled", {}, durable=True)

    async def _step(self, job: FakeJob, at_least_s: float = 0.0) -> None:
        await asyncio.sleep(max(at_least_s, self.knobs.step_s))
        if job.cancel.is_set():
            raise Cancelled

    async def _run(self, job: FakeJob, *, until: float) -> None:
        kind, asked = job.body["kind"], job.body["input"]
        if kind == "text":
            words = ANSWER.split(" ")
            for index, word in enumerate(words[: int(len(words) * until)]):
                piece = word if index == 0 else " " + word
                await job.emit("chunk", {"offset": len(job.text), "text": piece}, durable=False)
                job.text += piece
                await self._step(job)
            job.output = {"text": ANSWER, "finish_reason": "stop", "usage": {"completion_tokens": len(words)}}
            return
        for tenth in range(1, 11):
            await job.emit("progress", {"fraction": tenth / 10, "note": "painting"}, durable=False)
            if kind == "image" and tenth % 3 == 0:
                small = base64.b64encode(picture(48, 36, tenth, "PNG")).decode()
                await job.emit("preview", {"media_type": "image/png", "data_base64": small}, durable=False)
            await self._step(job)
            if until < 1 and tenth / 10 >= until:
                return
        if kind == "transcription":
            job.output = {
                "text": "hello world, this is a test",
                "language": "en",
                "segments": [
                    {"start_s": 0.0, "end_s": 1.25, "text": "hello world,"},
                    {"start_s": 1.25, "end_s": 3661.5, "text": " this is a test"},
                ],
            }
            return
        for index in range(int(asked.get("count", 1))):
            if kind == "image":
                width, height = asked.get("width", 1024), asked.get("height", 1024)
                entry = self.add_file("image/png", picture(width, height, index, "PNG"))
                entry |= {"width": width, "height": height}
            elif kind == "video":
                entry = self.add_file("video/mp4", b"\x00\x00\x00\x18ftypmp42" + b"v" * 5000)
            else:
                entry = self.add_file("audio/wav", sound())
                entry["duration_s"] = 0.5
            job.artifacts.append(entry)
            await job.emit("output", entry, durable=True)

    def add_file(self, media_type: str, content: bytes) -> dict[str, Any]:
        name = f"art_01k{len(self.files):023d}"
        self.files[name] = (media_type, content)
        return {"id": name, "media_type": media_type, "bytes": len(content), "url": f"/v1/artifacts/{name}"}

    # Files

    async def _artifact(self, request: web.Request) -> web.StreamResponse:
        found = self.files.get(request.match_info["id"])
        if found is None:
            raise web.HTTPNotFound
        media_type, content = found
        start = 0
        if "Range" in request.headers and not self.knobs.ignore_range:
            start = int(request.headers["Range"].removeprefix("bytes=").split("-")[0])
        headers = {"Content-Type": media_type, "ETag": f'"{request.match_info["id"]}"'}
        headers["Content-Length"] = str(len(content) - start)
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        response = web.StreamResponse(status=206 if start else 200, headers=headers)
        await response.prepare(request)
        if self.knobs.cut_artifact_after:
            await response.write(content[start : start + self.knobs.cut_artifact_after.pop(0)])
            await asyncio.sleep(0.05)
            assert request.transport is not None
            request.transport.abort()
            return response
        await response.write(content[start:])
        return response

    async def _upload(self, request: web.Request) -> web.StreamResponse:
        form = await request.post()
        part = form["file"]
        assert isinstance(part, web.FileField)
        name = f"upl_01k{len(self.files):023d}"
        content = part.file.read()
        self.files[name] = ("application/octet-stream", content)
        answer = {"id": name, "media_type": "image/png", "bytes": len(content), "expires_at": NOW}
        return web.json_response(answer, status=201)

    # The rest

    async def _models(self, _: web.Request) -> web.StreamResponse:
        kinds = ("image", "video", "text", "transcription", "speech", "music")
        data = [
            {
                "id": f"preview-{kind}",
                "kind": kind,
                "title": f"Preview {kind}",
                "description": "Made by rules, on any CPU.",
                "engine": "preview",
                "state": "ready" if kind != "video" else "offline",
                "price": "1 token each",
                "default": True,
                "preview": True,
                "examples": [],
                "aliases": ["dall-e-3"] if kind == "image" else [],
                "input_schema": {"type": "object", "properties": {"prompt": {"type": "string"}}},
            }
            for kind in kinds
        ]
        return web.json_response({"data": data, "next_cursor": None})

    async def _plans(self, _: web.Request) -> web.StreamResponse:
        rows = (("free", "Free", 0, 20), ("starter", "Starter", 5, 120), ("pro", "Pro", 12, 300))
        data = [
            {
                "id": id,
                "title": title,
                "price_usd_per_month": price,
                "daily_tokens": daily,
                "tier": id,
                "limits": limits(daily),
            }
            for id, title, price, daily in rows
        ]
        return web.json_response({"data": data, "next_cursor": None})

    def _quota(self) -> dict[str, Any]:
        used = sum(job.charged or 0 for job in self.jobs.values())
        return {
            "used_tokens": used,
            "daily_tokens": 300,
            "remaining_tokens": 300 - used,
            "resets_at": "2026-01-06T00:00:00Z",
        }

    async def _me(self, _: web.Request) -> web.StreamResponse:
        answer = {"id": "user_1", "name": "operator", "plan": "pro", "scopes": ["admin"], "limits": limits(300)}
        return web.json_response(answer | {"quota": self._quota(), "tier": "pro", "jobs": {"queued": 0, "running": 0}})

    async def _usage(self, _: web.Request) -> web.StreamResponse:
        data = [
            {"day": "2026-01-05", "kind": "image", "used_tokens": 12.75, "jobs": 14},
            {"day": "2026-01-05", "kind": "text", "used_tokens": 0.5, "jobs": 3},
            {"day": "2026-01-04", "kind": "video", "used_tokens": 4, "jobs": 1},
        ]
        totals = {"used_tokens": 17.25, "jobs": 18}
        return web.json_response({"data": data, "totals": totals, "today": self._quota()})

    async def _key_create(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        key = {"id": f"key_{len(self.keys) + 1}", "scopes": ["jobs"], "created_at": NOW, **body}
        self.keys.append(key)
        return web.json_response({**key, "api_key": "tsr_new_secret"}, status=201)

    async def _key_list(self, _: web.Request) -> web.StreamResponse:
        return web.json_response({"data": self.keys, "next_cursor": None})

    async def _key_revoke(self, request: web.Request) -> web.StreamResponse:
        before = len(self.keys)
        self.keys = [key for key in self.keys if key["id"] != request.match_info["id"]]
        if len(self.keys) == before:
            raise web.HTTPNotFound
        return web.Response(status=204)

    async def _pause_list(self, _: web.Request) -> web.StreamResponse:
        return web.json_response({"data": list(self.pauses.values()), "next_cursor": None})

    async def _pause(self, request: web.Request) -> web.StreamResponse:
        kind = request.match_info["kind"]
        message = (await request.json())["message"]
        self.pauses[kind] = {"kind": kind, "message": message, "actor": "user_1", "since": NOW}
        return web.json_response(self.pauses[kind])

    async def _unpause(self, request: web.Request) -> web.StreamResponse:
        kind = request.match_info["kind"]
        return web.json_response({"kind": kind, "resumed": self.pauses.pop(kind, None) is not None})

    def _end_of_drain(self, worker: dict[str, Any]) -> str | None:
        return max(
            (self.drains[name] for name in (worker["name"], worker["node"]) if name in self.drains), default=None
        )

    async def _worker_list(self, _: web.Request) -> web.StreamResponse:
        ends = [(each, self._end_of_drain(each)) for each in self.workers]
        data = [{**each, "draining_until": end} if end is not None else each for each, end in ends]
        return web.json_response({"data": data, "next_cursor": None})

    async def _drain(self, request: web.Request) -> web.StreamResponse:
        target, act = request.match_info["target"], request.match_info["act"]
        of = [each for each in self.workers if target in (each["name"], each["node"])]
        if not of:
            detail = f"There is no worker or node '{target}', and nothing was changed. Workers: text. Nodes: pc2."
            return problem(404, "not_found", detail)
        kind = "worker" if of[0]["name"] == target else "node"
        shown: dict[str, Any] = {"target": target, "kind": kind}
        if act == "drain":
            body = await request.json()
            end = datetime.now(UTC) + timedelta(seconds=body["for_s"])
            self.drains[target] = end.isoformat()
            shown |= {"until": end.isoformat(), "reason": body["reason"]}
        else:
            shown["resumed"] = self.drains.pop(target, None) is not None
        workers = [{"name": each["name"], "draining_until": self._end_of_drain(each)} for each in of]
        return web.json_response({**shown, "workers": workers})

    async def _user_create(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        made = user(len(self.users) + 1, body["name"], body["plan"])
        self.users.append(made)
        return web.json_response({**made, "api_key": "tsr_user_secret"}, status=201)

    async def _user_list(self, _: web.Request) -> web.StreamResponse:
        return web.json_response({"data": self.users, "next_cursor": None})

    async def _user_plan(self, request: web.Request) -> web.StreamResponse:
        for found in self.users:
            if found["id"] == request.match_info["id"]:
                found |= await request.json()
                return web.json_response(found)
        raise web.HTTPNotFound

    async def _user_entry(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        entry = {"grant": "grant", "adjust": "adjustment"}[request.match_info["act"]]
        used = body["tokens"] * (-1 if entry == "grant" else 1)
        made = {"user_id": request.match_info["id"], "entry": entry, "day": NOW[:10], "daily_tokens": 20, **body}
        return web.json_response({**made, "used_tokens": used}, status=201)


class Cancelled(Exception):
    """The job's user has asked for its end."""


def problem(status: int, code: str, detail: str, *, headers: dict[str, str] | None = None, **more: Any) -> web.Response:
    body = {
        "type": f"https://tessera.example/problems/{code}",
        "title": code.replace("_", " ").capitalize(),
        "status": status,
        "detail": detail,
        "code": code,
        "retryable": status in {429, 503},
        "request_id": "req_test",
        **more,
    }
    return web.Response(
        status=status,
        body=json.dumps(body).encode(),
        content_type="application/problem+json",
        headers=headers,
    )


def worker(name: str, node: str, **more: Any) -> dict[str, Any]:
    shown = {
        "name": name,
        "state": "online",
        "node": node,
        "device": f"{node}-gpu",
        "engine": "noop",
        "models": ["noop"],
    }
    said = {"running": 0, "message": "", "circuit": "closed", "excluded": {}, "resident": []}
    return {**shown, "slots": 2, **said, **more}


def user(number: int, name: str, plan: str, *, is_admin: bool = False) -> dict[str, Any]:
    today = {"used_tokens": 0, "queued": 0, "running": 0}
    return {"id": f"user_{number}", "name": name, "plan": plan, "is_admin": is_admin, "created_at": NOW, **today}


def limits(daily_tokens: int) -> dict[str, Any]:
    return {
        "daily_tokens": daily_tokens,
        "submissions_per_min": 30,
        "requests_per_min": 600,
        "max_queued": 25,
        "max_running": 1,
        "max_image_px": 1048576,
        "max_video_s": 4,
        "retention_days": 3,
    }


def picture(width: int, height: int, seed: int, format: str) -> bytes:
    small = Image.new("RGB", (16, 12))
    small.putdata([((x * 15 + seed * 20) % 256, y * 20, (200 - x * 8) % 256) for y in range(12) for x in range(16)])
    target = io.BytesIO()
    small.resize((width, height), Image.Resampling.BILINEAR).save(target, format)
    return target.getvalue()


def sound() -> bytes:
    target = io.BytesIO()
    with wave.open(target, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(b"\x00\x10" * 4000)
    return target.getvalue()


def _nth(values: list[int], index: int) -> int | None:
    return values[index] if index < len(values) else None


async def _serve(port: int, knobs: Knobs) -> None:
    async with FakeApi(knobs, port=port) as api:
        print(f"TESSERA_URL={api.url} TESSERA_API_KEY={API_KEY}", flush=True)  # noqa: T201
        await asyncio.Event().wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=8099)
    parser.add_argument("--step", type=float, default=0.4)
    parser.add_argument("--outcome", default="completed")
    parser.add_argument("--retry-once", action="store_true")
    parser.add_argument("--hold", action="store_true")
    arguments = parser.parse_args()
    with_knobs = Knobs(
        step_s=arguments.step, outcome=arguments.outcome, retry_once=arguments.retry_once, hold=arguments.hold
    )
    with suppress(KeyboardInterrupt):
        asyncio.run(_serve(arguments.port, with_knobs))

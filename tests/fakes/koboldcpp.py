"""A KoboldCPP on a real socket, with a knob for each trap of the real one (version 1.115.1 was the model).

It writes words that follow from prompt and seed, at a pace; its tokens are runs of up to four letters, or one other
character. Like the real one it runs one request at a time, says 200 to nearly everything, ends an aborted run as if it
had reached its length, and comes back as a new process when it is told to load another model.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import re
import socket
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

TOKEN = re.compile(r"\w{1,4}|[^\w]")
WORDS = ("sea", "salt", "wind", "lamp", "tide", "gull", "rope", "keel", "harbour", "storm", "light", "stone")
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass
class Run:
    """One request for text as the server has it."""

    key: str
    prompt: str
    body: dict[str, Any]
    text: str = ""
    tokens: int = 0
    aborted: bool = False
    stop_reason: int = 0  # 0: out of tokens, or aborted; 1: the model's own end; 2: a stop sequence
    ended: bool = False


@dataclass
class FakeKobold:
    """The server. Each field without an underscore is a knob that may be turned while it runs."""

    model: str | None = "tiny-llama"
    options: list[str] = field(default_factory=list)  # the admin folder; empty: started without --admin
    broken_options: set[str] = field(default_factory=set)  # loading these ends with no model at all
    context: int = 16384
    multiuser: int = 10
    token_s: float = 0.005
    load_s: float = 0.05
    script: list[str] | None = None  # the tokens to write instead of the server's own words
    byte_tokens: list[bytes] | None = None  # the same in bytes: a character may be split over several
    endless: bool = False  # the model never ends by itself
    coalesce: int = 1  # tokens per event
    version: str = "1.115.1"
    password: str = ""
    usage: bool = True  # older versions send no count with a stream
    word_null: bool = False  # older versions write "null" where others write null
    delay_s: float = 0.0
    garbage: bool = False
    null_body: bool = False
    fail_runs: int = 0  # so many of the next runs end with finish_reason "error"
    flood_runs: int = 0  # so many of the next runs write far more than was asked for
    end_after: int | None = None  # the stream ends cleanly after so many tokens, as when the process is killed
    ignore_stops: bool = False
    always_trims: bool = False  # cuts a stop sequence off even when it is told not to
    deaf: bool = False  # aborts say that they succeeded, and nothing stops
    drop_connection: bool = False  # before any answer to a run
    dies_at_the_end: bool = False  # of a run, once it was told how it ended
    refuse_reload: bool = False

    def __post_init__(self) -> None:
        self.port = 0
        self.runs: list[Run] = []  # all that were begun since this object was made
        self.aborts: list[str] = []
        self.bodies: list[dict[str, Any]] = []
        self._busy = asyncio.Lock()
        self._queued: list[str] = []
        self._current: Run | None = None
        self._is_gone = False
        self._pending_abort = ""
        self._started = time.monotonic()
        self._total = 0
        self._runner: web.AppRunner | None = None
        self._site: web.SockSite | None = None
        self._socket: socket.socket | None = None
        self._chores: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    # ------------------------------------------------------------------ its process

    async def start(self) -> None:
        """Listen, on the port of before if there was one."""
        self._busy, self._queued, self._current, self._pending_abort = asyncio.Lock(), [], None, ""
        self._started, self._total, self._is_gone = time.monotonic(), 0, False
        app = web.Application(middlewares=[self._middleware])
        app.router.add_route("*", "/{path:.*}", self._route)
        self._runner = web.AppRunner(app, handler_cancellation=False, shutdown_timeout=0.01)
        await self._runner.setup()
        self._socket = socket.create_server(("127.0.0.1", self.port))
        self.port = self._socket.getsockname()[1]
        self._site = web.SockSite(self._runner, self._socket)
        await self._site.start()

    async def kill(self) -> None:
        """SIGKILL, as far as anybody can see."""
        runner, self._runner = self._runner, None
        for run in self.runs:
            run.ended = True
        if runner is None or self._site is None or self._socket is None:
            return
        assert runner.server is not None
        # asyncio leaks a connection that it is about to accept when its server is closed: none may be under way.
        asyncio.get_running_loop().remove_reader(self._socket.fileno())
        await asyncio.sleep(0.01)
        self._cut(runner.server)
        await self._site.stop()
        await runner.cleanup()

    async def close(self) -> None:
        """End for good."""
        for chore in self._chores:
            chore.cancel()
        await asyncio.gather(*self._chores, return_exceptions=True)
        await self.kill()

    def cut(self) -> None:
        """Break every open connection."""
        if self._runner is not None and self._runner.server is not None:
            self._cut(self._runner.server)

    @staticmethod
    def _cut(server: web.Server) -> None:
        for connection in server.connections:
            if connection.transport is not None:
                connection.transport.abort()

    # ------------------------------------------------------------------ routes

    @web.middleware
    async def _middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if (self._runner is None or self._is_gone) and request.transport is not None:
            request.transport.abort()  # it came in while the server died
        if self.delay_s:
            await asyncio.sleep(self.delay_s)
        if self.garbage:
            return web.Response(text="<html>It works!</html>", content_type="text/html")
        if self.password and request.headers.get("Authorization") != f"Bearer {self.password}":
            return web.json_response({"detail": {"error": "Unauthorized", "type": "unauthorized"}}, status=401)
        return await handler(request)

    async def _route(self, request: web.Request) -> web.StreamResponse:
        path = "/" + request.match_info["path"].rstrip("/")
        body: Any = {}
        if request.method == "POST":
            try:
                body = json.loads(await request.text())
            except ValueError:
                return web.json_response({"detail": {"msg": "Error parsing input.", "type": "bad_input"}}, status=500)
        match path:
            case "/api/extra/version":
                return web.json_response(
                    {"result": "KoboldCpp", "version": self.version, "protected": bool(self.password)}
                )
            case "/api/v1/model":
                return web.json_response({"result": f"koboldcpp/{self.model}" if self.model else "inactive"})
            case "/api/extra/true_max_context_length":
                return web.json_response({"value": self.context})
            case "/api/extra/perf":
                return web.json_response(self._perf())
            case "/api/extra/tokencount":
                ids = [0, *(1 + len(token) for token in TOKEN.findall(body["prompt"]))]
                return web.json_response({"value": len(ids), "ids": ids})
            case "/api/extra/abort":
                return web.json_response(self._abort(str(body.get("genkey", ""))))
            case "/api/extra/generate/check":
                key, current = str(body.get("genkey", "")), self._current
                text = current.text if current is not None and key and current.key == key else ""
                return web.json_response({"results": [{"text": text}]})
            case "/api/admin/list_options":
                return web.json_response([*self.options, "unload_model"] if self.options else [])
            case "/api/admin/reload_config":
                return web.json_response({"success": self._reload(str(body.get("filename", "")))})
            case "/v1/completions":
                return await self._completions(request, body)
            case "/system_stats":  # with invented figures: not what tells a ComfyUI
                return web.json_response({"system": {"comfyui_version": "0.3.0"}, "devices": [{"vram_free": 1}]})
            case "/prompt":
                return web.json_response({"prompt_id": "12345678-0000-0000-0000-000000000000", "number": 0})
        return web.json_response({"detail": "not found"}, status=404)

    def _perf(self) -> dict[str, Any]:
        return {
            "last_token_count": self._current.tokens if self._current is not None else 0,
            "total_gens": self._total,
            "stop_reason": self._current.stop_reason if self._current is not None else -1,
            "queue": len(self._queued),
            "idle": 0 if self._busy.locked() else 1,
            "uptime": time.monotonic() - self._started,
        }

    def _abort(self, key: str) -> dict[str, str]:
        """Without a key whoever runs is stopped; with that of one that waits, it is marked; only one mark is kept."""
        self.aborts.append(key)
        current = self._current
        if current is not None and (key == current.key or (not key and not self._queued)):
            if not self.deaf:
                current.aborted = True
            return {"success": "true", "done": "true"}
        if key and self._queued:
            self._pending_abort = key
            return {"success": "true", "done": "false"}
        return {"success": "false", "done": "false"}

    def _reload(self, filename: str) -> bool:
        if self.refuse_reload or not self.options or filename not in (*self.options, "unload_model"):
            return False
        chore = asyncio.create_task(self._load(filename))
        self._chores.add(chore)
        chore.add_done_callback(self._chores.discard)
        return True

    async def _load(self, filename: str) -> None:
        await asyncio.sleep(0.1)  # it says yes before it acts: who asks now gets the old name
        await self.kill()
        await asyncio.sleep(self.load_s)
        inactive = filename == "unload_model" or filename in self.broken_options
        self.model = None if inactive else filename.rpartition(".")[0]
        await self.start()

    # ------------------------------------------------------------------ text

    async def _completions(self, request: web.Request, body: Any) -> web.StreamResponse:
        self.bodies.append(body)
        if self.null_body or not isinstance(body.get("prompt"), str):
            return web.json_response(None)
        assert request.transport is not None
        if self.drop_connection:
            request.transport.abort()
            return web.Response()
        if self._busy.locked() and len(self._queued) >= self.multiuser - 1:
            busy = {"msg": "Server is busy; please try again later.", "type": "service_unavailable"}
            return web.json_response({"detail": busy}, status=503)
        key = str(body.get("genkey", ""))
        self._queued.append(key)
        busy_lock = self._busy
        async with busy_lock:
            self._queued.remove(key)
            run = self._current = Run(key=key, prompt=body["prompt"], body=body)
            self.runs.append(run)
            self._total += 1
            if not body.get("stream"):
                return await self._whole(run)
            answer = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
            answer.force_close()
            with contextlib.suppress(ConnectionError):
                await answer.prepare(request)
                await self._write(request, answer, run)
            run.ended = True
        return answer

    async def _whole(self, run: Run) -> web.Response:
        """A run that is not streamed: it goes on when its reader is gone, and nobody else's begins meanwhile."""
        for token in self._tokens(run)[: int(run.body.get("max_tokens") or 256)]:
            if run.aborted or run.ended:
                break
            await asyncio.sleep(self.token_s)
            run.tokens += 1
            run.text += token.decode("utf-8", "ignore")
        run.ended = True
        return web.json_response({"choices": [{"text": run.text, "index": 0, "finish_reason": "length"}]})

    async def _write(self, request: web.Request, answer: web.StreamResponse, run: Run) -> None:
        limit = int(run.body.get("max_tokens") or 256)
        if self._pending_abort and self._pending_abort == run.key:
            self._pending_abort = ""
            return await self._finish(answer, run, "length")
        if self.model is None:
            return await self._finish(answer, run, "error")
        if self.fail_runs:
            self.fail_runs -= 1
            return await self._finish(answer, run, "error")
        if self.flood_runs:
            self.flood_runs -= 1
            return await self._flood(request, answer, run)
        stops = [] if self.ignore_stops else [stop for stop in run.body.get("stop") or [] if stop]
        pending: list[bytes] = []
        reason = "stop"
        for token in self._tokens(run):
            if run.tokens >= limit or run.aborted or run.ended:
                reason = "length"
                break
            if request.transport is None or request.transport.is_closing():
                raise ConnectionResetError  # the reader of a stream is gone: the real one aborts it, too
            if self.end_after is not None and run.tokens >= self.end_after:
                return None  # no terminal reason, no error: the process was killed
            await asyncio.sleep(self.token_s)
            run.tokens += 1
            run.text += token.decode("utf-8", "ignore")
            pending.append(token)
            # Unless it is told otherwise it keeps back what may be a stop sequence, and cuts that off.
            if len(pending) >= self.coalesce and not (stops and self._trims(run)):
                pending = await self._send(answer, pending)
            if any(stop in run.text for stop in stops):
                reason = "length"  # the real one says so for a stop sequence; 'stop' is the model's own end only
                run.stop_reason = 2
                break
        if run.ended:
            return None
        if pending and stops and self._trims(run):
            text = b"".join(pending).decode("utf-8", "ignore")
            pending = [text[: min((at for stop in stops if (at := text.find(stop)) >= 0), default=len(text))].encode()]
        if pending:
            await self._send(answer, pending)
        return await self._finish(answer, run, reason)

    def _trims(self, run: Run) -> bool:
        return self.always_trims or bool(run.body.get("trim_stop", True))

    def _tokens(self, run: Run) -> list[bytes]:
        if self.byte_tokens is not None:
            return self.byte_tokens
        if self.script is not None:
            return [token.encode() for token in self.script]
        seed = hashlib.sha256(f"{run.body.get('seed')}:{run.prompt}".encode()).digest()
        count = 100_000 if self.endless else 12 + seed[0] % 8
        return [f"{WORDS[(seed[n % 32] + n) % len(WORDS)]} ".encode() for n in range(count)]

    async def _send(self, answer: web.StreamResponse, tokens: list[bytes]) -> list[bytes]:
        """Send what is whole of these tokens; gives back the beginning of a character that is not."""
        data = b"".join(tokens)
        for keep in range(min(4, len(data) + 1)):
            try:
                text = data[: len(data) - keep].decode()
            except UnicodeDecodeError:
                continue
            if text:
                await self._event(answer, {"text": text, "index": 0, "finish_reason": self._no_reason})
            return [data[len(data) - keep :]] if keep else []
        await self._event(answer, {"text": data.decode("utf-8", "ignore"), "index": 0, "finish_reason": None})
        return []

    @property
    def _no_reason(self) -> str | None:
        return "null" if self.word_null else None

    async def _flood(self, request: web.Request, answer: web.StreamResponse, run: Run) -> None:
        while not run.aborted and not run.ended:
            await self._event(answer, {"text": "x" * 20_000, "index": 0, "finish_reason": None})
            await asyncio.sleep(0)
            if request.transport is None or request.transport.is_closing():
                raise ConnectionResetError
        await self._finish(answer, run, "length")

    async def _finish(self, answer: web.StreamResponse, run: Run, reason: str) -> None:
        await self._event(answer, {"text": "", "index": 0, "finish_reason": reason})
        if self.usage and (run.body.get("stream_options") or {}).get("include_usage"):
            prompt = 1 + len(TOKEN.findall(run.prompt)) if run.tokens else 0
            counts = {"prompt_tokens": prompt, "completion_tokens": run.tokens, "total_tokens": prompt + run.tokens}
            await self._data(answer, json.dumps({"object": "text_completion", "choices": [], "usage": counts}))
        await self._data(answer, "[DONE]")
        self._is_gone = self.dies_at_the_end

    async def _event(self, answer: web.StreamResponse, choice: dict[str, Any]) -> None:
        # As the real one writes: characters as they are, so that a packet may end within one.
        await self._data(
            answer, json.dumps({"object": "text_completion", "choices": [choice]}, ensure_ascii=not self.byte_tokens)
        )

    async def _data(self, answer: web.StreamResponse, data: str) -> None:
        raw = f"data: {data}\n\n".encode()
        if not self.byte_tokens:
            await answer.write(raw)
            return
        for at in range(0, len(raw), 3):  # in packets of three bytes
            await answer.write(raw[at : at + 3])
            await asyncio.sleep(0)

"""A ComfyUI that needs no GPU and no weights: its HTTP and WebSocket on a real socket, its queue, its traps as knobs.

It behaves as 0.24 was seen to behave. ``python -m tests.fakes.comfyui --port 8188`` runs it as a process of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import heapq
import json
import struct
import time
import uuid
from dataclasses import dataclass, field
from typing import Any

from aiohttp import WSMsgType, web

from tests.fakes import comfyui_work as work
from tests.fakes.comfyui_nodes import NODES, object_info, specs
from tests.fakes.comfyui_refusals import is_canonical, number_errors, problem, refused

SLOW = "[slow]"
OOM_TYPE = "torch.OutOfMemoryError"


@dataclass
class Knobs:
    """What may be wrong with it. All of it may be turned while it runs."""

    step_s: float = 0.005  # of a sampler
    node_s: float = 0.002  # of any other node
    slow_step_s: float = 2.0  # of a sampler of a graph that has "[slow]" in a prompt
    grain_s: float = 0.1  # how long an interrupt takes at most to be heeded
    delay_s: float = 0.0  # before each answer
    garbage: bool = False  # answers that are no JSON, or JSON of the wrong shape, in turns
    silent_sockets: bool = False  # sockets stay open, and nothing comes
    no_sockets: bool = False  # refuses them
    dead_worker: bool = False  # takes prompts and begins none
    frozen: bool = False  # the running prompt makes no step any more
    oom_once: bool = False
    fail_once: str = ""  # this exception's text ends the next sampler
    stray_interrupt_once: bool = False  # somebody else stops the next sampler
    too_much_once: bool = False  # the next file is without end
    wrong_size_once: bool = False
    no_image_once: bool = False  # the next file is an HTML page
    empty_outputs_once: bool = False
    lose_answer_once: bool = False  # takes the next prompt, and the connection breaks before it says so
    jobs_route: bool = True  # /api/jobs: absent before about 0.4
    own_ids: bool = False  # an old server: it gives a prompt an id of its own
    is_kobold: bool = False  # is a KoboldCPP that imitates it
    version: str = "0.24.0"


@dataclass(order=True)
class _Item:
    number: float
    id: str = field(compare=False)
    graph: dict[str, Any] = field(compare=False)
    extra: dict[str, Any] = field(compare=False)
    outputs: list[str] = field(compare=False)

    def shown(self) -> list[Any]:
        return [self.number, self.id, self.graph, self.extra, self.outputs]


class _Interrupted(Exception):
    pass


class _Failed(Exception):
    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


class FakeComfy:
    """One server. ``files``: folder of ``models`` → the files in it. ``submitted`` counts how often an id came."""

    def __init__(self, files: dict[str, list[str]] | None = None, *, knobs: Knobs | None = None, port: int = 0) -> None:
        self.knobs = knobs or Knobs()
        self.files = files if files is not None else {}
        self.port = port
        self.submitted: dict[str, int] = {}  # survives a kill: it is the test's, not the server's
        self.freed = 0
        self.interrupts: list[str | None] = []
        self.graphs: dict[str, dict[str, Any]] = {}
        self._runner: web.AppRunner | None = None
        self._transports: set[asyncio.Transport] = set()
        self._requests = 0
        self._forget()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def _forget(self) -> None:
        self.queue: list[_Item] = []
        self.running: _Item | None = None
        self.history: dict[str, Any] = {}
        self.outputs: dict[tuple[str, str, str], bytes] = {}
        self.inputs: dict[str, bytes] = {"example.png": work.picture(work.Value(width=64, height=64), 0)}
        self._sockets: dict[str, web.WebSocketResponse] = {}
        self._cache: dict[str, Any] = {}
        self._number = 0
        self._interrupt = False
        self._last_node: str | None = None
        self._new = asyncio.Event()
        self._worker: asyncio.Task[None] | None = None

    # ------------------------------------------------------------------ its life

    async def start(self) -> None:
        app = web.Application(client_max_size=100 << 20, middlewares=[self._through])
        for prefix in ("", "/api"):
            app.router.add_get(f"{prefix}/ws", self._ws)
            app.router.add_post(f"{prefix}/prompt", self._post_prompt)
            app.router.add_get(f"{prefix}/prompt", self._get_prompt)
            app.router.add_get(f"{prefix}/queue", self._get_queue)
            app.router.add_post(f"{prefix}/queue", self._post_queue)
            app.router.add_get(f"{prefix}/history", self._get_history)
            app.router.add_post(f"{prefix}/history", self._post_history)
            app.router.add_get(f"{prefix}/history/{{id}}", self._get_history)
            app.router.add_post(f"{prefix}/interrupt", self._post_interrupt)
            app.router.add_post(f"{prefix}/free", self._post_free)
            app.router.add_post(f"{prefix}/upload/image", self._post_upload)
            app.router.add_get(f"{prefix}/view", self._get_view)
            app.router.add_get(f"{prefix}/system_stats", self._get_stats)
            app.router.add_get(f"{prefix}/object_info", self._get_infos)
            app.router.add_get(f"{prefix}/object_info/{{name}}", self._get_infos)
        app.router.add_get("/api/jobs/{id}", self._get_job)
        app.router.add_get("/api/extra/version", self._get_extra_version)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port, reuse_address=True)
        await site.start()
        self.port = self._runner.addresses[0][1]
        self._worker = asyncio.create_task(self._work(), name="fake-comfyui")

    async def kill(self) -> None:
        """As SIGKILL does: connections break without a word, and all that it knew is gone."""
        runner, self._runner = self._runner, None
        if runner is None:
            return
        for site in list(runner.sites):
            await site.stop()
        self.break_connections()
        if self._worker is not None:
            self._worker.cancel()
            await asyncio.gather(self._worker, return_exceptions=True)
        await runner.cleanup()
        self._forget()

    def break_connections(self) -> None:
        for transport in list(self._transports):
            transport.abort()
        self._transports.clear()

    def put(self, graph: dict[str, Any], prompt_id: str | None = None) -> str:
        """A prompt that somebody else has queued, in the editor or by a lost process."""
        made = prompt_id or str(uuid.uuid4())
        outputs = [node for node, value in graph.items() if NODES[value["class_type"]].is_output]
        self._queue(_Item(float(self._number), made, graph, {"client_id": made}, outputs))
        return made

    def _queue(self, item: _Item) -> None:
        self._number += 1
        self.submitted[item.id] = self.submitted.get(item.id, 0) + 1
        self.graphs[item.id] = item.graph
        heapq.heappush(self.queue, item)
        self._new.set()

    # ------------------------------------------------------------------ its answers

    @web.middleware
    async def _through(self, request: web.Request, handler: Any) -> web.StreamResponse:
        if request.transport is not None:
            self._transports.add(request.transport)
        if self.knobs.delay_s:
            await asyncio.sleep(self.knobs.delay_s)
        if self.knobs.garbage and not request.path.endswith("/ws"):
            self._requests += 1
            if self._requests % 2:
                return web.Response(text="<html>502 Bad Gateway</html>", content_type="text/html")
            return web.json_response([{"what": 1}])
        response: web.StreamResponse = await handler(request)
        return response

    async def _post_prompt(self, request: web.Request) -> web.Response:
        said = await request.json()  # JSON that is broken ends as 500 with a text, as in the real one
        if "prompt" not in said:
            return refused("no_prompt", "No prompt provided")
        given = said.get("prompt_id")
        if given is not None and not is_canonical(given):
            return refused("invalid_prompt_id", "prompt_id must be a valid UUID")
        prompt_id = str(uuid.uuid4()) if given is None or self.knobs.own_ids else str(given)
        graph = said["prompt"]
        error, good, node_errors = self._validate(graph)
        if error is not None:
            return web.json_response({"error": error, "node_errors": node_errors}, status=400)
        extra = dict(said.get("extra_data") or {})
        if "client_id" in said:
            extra["client_id"] = said["client_id"]
        number = float(said.get("number", -self._number if said.get("front") else self._number))
        self._queue(_Item(number, prompt_id, graph, extra, good))
        if self.knobs.lose_answer_once:
            self.knobs.lose_answer_once = False
            assert request.transport is not None
            request.transport.abort()  # type: ignore[attr-defined]
        return web.json_response({"prompt_id": prompt_id, "number": number, "node_errors": node_errors})

    def _validate(self, graph: dict[str, Any]) -> tuple[dict[str, Any] | None, list[str], dict[str, Any]]:
        for node, value in graph.items():
            if value.get("class_type") not in NODES:
                text = f"Node '{value.get('class_type')}' not found. The custom node may not be installed."
                return problem("missing_node_type", text, f"Node ID '#{node}'"), [], {}
        outputs = [node for node, value in graph.items() if NODES[value["class_type"]].is_output]
        if not outputs:
            return problem("prompt_no_outputs", "Prompt has no outputs"), [], {}
        good: list[str] = []
        node_errors: dict[str, Any] = {}
        for output in outputs:
            fine = True
            for node in work.order(graph, [output]):
                if errors := self._node_errors(graph[node]):
                    fine = False
                    entry = {"errors": errors, "dependent_outputs": [], "class_type": graph[node]["class_type"]}
                    node_errors.setdefault(node, entry)["dependent_outputs"].append(output)
            if fine:
                good.append(output)
        if not good:
            return problem("prompt_outputs_failed_validation", "Prompt outputs failed validation"), [], node_errors
        return None, good, node_errors

    def _node_errors(self, node: dict[str, Any]) -> list[dict[str, Any]]:
        found = []
        for name, (takes, required) in specs(NODES[node["class_type"]]).items():
            value = node["inputs"].get(name)
            if value is None:
                if required:
                    found.append(problem("required_input_missing", "Required input is missing", name, input_name=name))
                continue
            if work.is_link(value):
                continue
            details = {"input_name": name, "received_value": value}
            if takes == "@input":
                if value not in self.inputs:
                    text = "Custom validation failed for node"
                    found.append(problem("custom_validation_failed", text, f"Invalid image file: {value}", **details))
            elif takes.startswith("@") or "|" in takes:
                choices = self.files.get(takes[1:], []) if takes.startswith("@") else takes.split("|")
                known_beside = not takes.startswith("@") and name in ("sampler_name", "scheduler")
                if value not in choices and not known_beside:
                    text = f"{name}: '{value}' not in {choices}"
                    found.append(problem("value_not_in_list", "Value not in list", text, **details))
            elif takes.partition(" ")[0] in ("INT", "FLOAT"):
                found += number_errors(name, takes, value, details)
        return found

    async def _get_prompt(self, _request: web.Request) -> web.Response:
        return web.json_response(self._status())

    def _status(self) -> dict[str, Any]:
        return {"exec_info": {"queue_remaining": len(self.queue) + (self.running is not None)}}

    async def _get_queue(self, _request: web.Request) -> web.Response:
        running = [self.running.shown()] if self.running is not None else []
        return web.json_response({"queue_running": running, "queue_pending": [item.shown() for item in self.queue]})

    async def _post_queue(self, request: web.Request) -> web.Response:
        said = await request.json()
        gone = set(said.get("delete", []))
        self.queue = [item for item in self.queue if item.id not in gone and not said.get("clear")]
        heapq.heapify(self.queue)
        return web.Response()  # the same whether anything matched or not

    async def _get_history(self, request: web.Request) -> web.Response:
        name = request.match_info.get("id")
        kept = self.history if name is None else {key: self.history[key] for key in [name] if key in self.history}
        return web.json_response(kept)

    async def _post_history(self, request: web.Request) -> web.Response:
        said = await request.json()
        for name in list(self.history) if said.get("clear") else said.get("delete", []):
            self.history.pop(name, None)
        return web.Response()

    async def _get_job(self, request: web.Request) -> web.Response:
        name = request.match_info["id"]
        if not self.knobs.jobs_route:
            return web.Response(status=404, text="404: Not Found")
        if self.running is not None and self.running.id == name:
            return web.json_response({"id": name, "status": "in_progress"})
        if any(item.id == name for item in self.queue):
            return web.json_response({"id": name, "status": "pending"})
        if name not in self.history:
            return web.json_response({"error": "Job not found"}, status=404)
        entry = self.history[name]
        events = [event for event, _ in entry["status"]["messages"]]
        failed = "cancelled" if "execution_interrupted" in events else "failed"
        status = "completed" if entry["status"]["status_str"] == "success" else failed
        return web.json_response({"id": name, "status": status, "outputs": entry["outputs"]})

    async def _post_interrupt(self, request: web.Request) -> web.Response:
        body = await request.read()
        wanted = json.loads(body).get("prompt_id") if body else None
        self.interrupts.append(wanted)
        if wanted is None or (self.running is not None and self.running.id == wanted):
            self._interrupt = True
        return web.Response()

    async def _post_free(self, _request: web.Request) -> web.Response:
        self.freed += 1
        self._cache.clear()
        return web.Response()

    async def _post_upload(self, request: web.Request) -> web.Response:
        form = await request.post()
        image = form["image"]
        if not isinstance(image, web.FileField):
            return web.Response(status=400)
        folder = str(form.get("subfolder", ""))
        self.inputs[f"{folder}/{image.filename}" if folder else image.filename] = image.file.read()
        return web.json_response({"name": image.filename, "subfolder": folder, "type": form.get("type", "input")})

    async def _get_view(self, request: web.Request) -> web.StreamResponse:
        query = request.query
        if ".." in query["filename"] or ".." in query.get("subfolder", ""):
            return web.Response(status=403)
        key = (query.get("type", "output"), query.get("subfolder", ""), query["filename"])
        if key not in self.outputs:
            return web.Response(status=404)
        data = self.outputs[key]
        if self.knobs.no_image_once:
            self.knobs.no_image_once = False
            return web.Response(body=b"<html>not a picture</html>")
        if self.knobs.too_much_once:
            self.knobs.too_much_once = False
            response = web.StreamResponse()
            await response.prepare(request)
            with contextlib.suppress(ConnectionError):
                await response.write(data)
                for _ in range(4096):
                    await response.write(b"\0" * 65_536)
            return response
        return web.Response(body=data)

    async def _get_stats(self, _request: web.Request) -> web.Response:
        loaded = (4 << 30) if self._cache else 0
        device = {
            "name": "cuda:0 Fake",
            "type": "cuda",
            "index": 0,
            "vram_total": 16 << 30,
            "vram_free": (15 << 30) - loaded,
            "torch_vram_total": loaded,
            "torch_vram_free": 0,
        }
        system = {"os": "linux", "ram_total": 32 << 30, "ram_free": 24 << 30, "comfyui_version": self.knobs.version}
        return web.json_response({"system": system, "devices": [device]})

    async def _get_infos(self, request: web.Request) -> web.Response:
        name = request.match_info.get("name")
        names = list(NODES) if name is None else [n for n in [name] if n in NODES]
        files = {**self.files, "input": [n for n in self.inputs if "/" not in n]}
        return web.json_response({each: object_info(each, files) for each in names})

    async def _get_extra_version(self, _request: web.Request) -> web.Response:
        if not self.knobs.is_kobold:
            return web.Response(status=404, text="404: Not Found")
        return web.json_response({"result": "KoboldCpp", "version": "1.115.1", "txt2img": False})

    # ------------------------------------------------------------------ its socket

    async def _ws(self, request: web.Request) -> web.StreamResponse:
        if self.knobs.no_sockets:
            return web.Response(status=503)
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        client = request.query.get("clientId") or uuid.uuid4().hex
        self._sockets[client] = socket
        await self._send(client, "status", {"status": self._status(), "sid": client})
        if self.running is not None and self.running.extra.get("client_id") == client and self._last_node:
            await self._send(client, "executing", {"node": self._last_node})  # without a prompt_id
        first, metadata = True, False
        try:
            async for message in socket:
                if message.type is WSMsgType.TEXT and first:
                    said = json.loads(message.data)
                    if said.get("type") == "feature_flags":
                        metadata = bool(said["data"].get("supports_preview_metadata"))
                        socket["metadata"] = metadata
                        await self._send(client, "feature_flags", {"supports_preview_metadata": True})
                    first = False
        finally:
            if self._sockets.get(client) is socket:
                del self._sockets[client]
        return socket

    async def _send(self, client: str | None, event: str, data: dict[str, Any]) -> None:
        if client is not None and (socket := self._sockets.get(client)) and not self.knobs.silent_sockets:
            with contextlib.suppress(ConnectionError, RuntimeError):
                await socket.send_json({"type": event, "data": data})

    async def _send_preview(self, client: str | None, prompt_id: str, node: str, fraction: float) -> None:
        socket = self._sockets.get(client) if client is not None else None
        if socket is None or self.knobs.silent_sockets:
            return
        image = work.preview_jpeg(fraction)
        if socket.get("metadata"):
            about = json.dumps({"node_id": node, "prompt_id": prompt_id, "image_type": "image/jpeg"}).encode()
            data = struct.pack(">II", 4, len(about)) + about + image
        else:
            data = struct.pack(">II", 1, 1) + image
        with contextlib.suppress(ConnectionError, RuntimeError):
            await socket.send_bytes(data)

    # ------------------------------------------------------------------ its worker

    async def _work(self) -> None:
        while True:
            if self.knobs.dead_worker or not self.queue:
                self._new.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(0.05):
                        await self._new.wait()
                continue
            item = self.running = heapq.heappop(self.queue)
            self._interrupt = False
            messages: list[tuple[str, dict[str, Any]]] = []
            outputs: dict[str, Any] = {}
            succeeded = await self._execute(item, messages, outputs)
            self._last_node = None
            self.history[item.id] = {
                "prompt": item.shown(),
                "outputs": outputs,
                "status": {
                    "status_str": "success" if succeeded else "error",
                    "completed": succeeded,
                    "messages": [list(message) for message in messages],
                },
                "meta": {},
            }
            self.running = None
            await self._send(item.extra.get("client_id"), "executing", {"node": None, "prompt_id": item.id})

    async def _execute(self, item: _Item, messages: list[tuple[str, dict[str, Any]]], outputs: dict[str, Any]) -> bool:
        client = item.extra.get("client_id")
        done: list[str] = []
        states: dict[str, Any] = {}

        async def tell(event: str, **data: Any) -> None:
            data = {"prompt_id": item.id, **data, "timestamp": int(time.time() * 1000)}
            messages.append((event, data))
            await self._send(client, event, data)

        await tell("execution_start")
        needed = work.order(item.graph, item.outputs)
        cached = [node for node in needed if work.signature(item.graph, node) in self._cache]
        await tell("execution_cached", nodes=cached)
        values: dict[str, work.Value] = {}
        node = ""
        try:
            for node in needed:
                values[node] = work.evaluate(item.graph, node, values, self.inputs)
                key = work.signature(item.graph, node)
                if node in cached:
                    if client is not None and self._cache[key]:
                        outputs[node] = self._cache[key]  # the old file's name
                    continue
                self._last_node = node
                await self._send(client, "executing", {"node": node, "display_node": node, "prompt_id": item.id})
                await self._node(item, node, states, client)
                made = self._made(item, node, values[node])
                if made:
                    outputs[node] = made
                    data = {"node": node, "display_node": node, "output": made, "prompt_id": item.id}
                    await self._send(client, "executed", data)
                self._cache[key] = made
                done.append(node)
        except _Interrupted:
            kind = item.graph[node]["class_type"]
            await tell("execution_interrupted", node_id=node, node_type=kind, executed=done)
            return False
        except _Failed as failure:
            await tell(
                "execution_error",
                node_id=node,
                node_type=item.graph[node]["class_type"],
                executed=done,
                exception_message=str(failure),
                exception_type=failure.kind,
                traceback=["  File somewhere"],
                current_inputs={},
                current_outputs=done,
            )
            return False
        if self.knobs.empty_outputs_once:
            self.knobs.empty_outputs_once = False
            outputs.clear()
        await tell("execution_success")
        return True

    async def _node(self, item: _Item, node: str, states: dict[str, Any], client: str | None) -> None:
        count = work.steps(item.graph, node)

        async def show(value: float, most: float, state: str) -> None:
            states[node] = {"value": value, "max": most, "state": state, "node_id": node, "display_node_id": node}
            await self._send(client, "progress_state", {"prompt_id": item.id, "nodes": dict(states)})

        await show(0.0, 1.0, "running")
        if not count:
            await self._pause(self.knobs.node_s)
        for step in range(1, count + 1):
            if step == min(2, count):
                self._trouble()
            await self._pause(self.knobs.slow_step_s if SLOW in json.dumps(item.graph) else self.knobs.step_s)
            await show(step, count, "running")
            data = {"value": step, "max": count, "prompt_id": item.id, "node": node}
            await self._send(client, "progress", data)
            await self._send_preview(client, item.id, node, step / count)
        await show(1.0, 1.0, "finished")

    def _trouble(self) -> None:
        if self.knobs.oom_once:
            self.knobs.oom_once = False
            self._cache.clear()
            raise _Failed(OOM_TYPE, "Allocation on device 0 would exceed allowed memory. (out of memory)")
        if self.knobs.fail_once:
            text, self.knobs.fail_once = self.knobs.fail_once, ""
            raise _Failed("RuntimeError", text)
        if self.knobs.stray_interrupt_once:
            self.knobs.stray_interrupt_once = False
            raise _Interrupted

    async def _pause(self, seconds: float) -> None:
        """One step, in grains. An interrupt is heeded between two of them, as in the real one between two steps."""
        left = seconds
        while True:
            await asyncio.sleep(min(left, self.knobs.grain_s))
            left -= self.knobs.grain_s
            if self._interrupt and not self.knobs.frozen:
                self._interrupt = False
                raise _Interrupted
            if left <= 0 and not self.knobs.frozen:
                return
            left = max(left, 0.01) if self.knobs.frozen else left

    def _made(self, item: _Item, node: str, value: work.Value) -> dict[str, Any]:
        name = item.graph[node]["class_type"]
        if not NODES[name].is_output:
            return {}
        if self.knobs.wrong_size_once:
            self.knobs.wrong_size_once = False
            value = work.Value(width=value.width + 8, height=value.height, count=value.count, fps=value.fps)
        listed, files = work.files_of(name, value)
        prefix = str(item.graph[node]["inputs"].get("filename_prefix", "ComfyUI_temp"))
        folder, _, stem = prefix.rpartition("/")
        kind = "temp" if name == "PreviewImage" else "output"
        found = []
        for extension, data in files:
            number = sum(key[1] == folder and key[2].startswith(f"{stem}_") for key in self.outputs) + 1
            filename = f"{stem}_{number:05}_.{extension}"
            self.outputs[(kind, folder, filename)] = data
            found.append({"filename": filename, "subfolder": folder, "type": kind})
        animated = {"animated": [True]} if name in ("SaveVideo", "SaveAnimatedWEBP") else {}
        return {listed: found, **animated}


async def _serve(port: int, step_s: float) -> None:
    from tessera.manifests import shipped

    files: dict[str, list[str]] = {}
    for manifest in shipped():
        for file in manifest.files:
            files.setdefault(file.folder, []).append(file.name)
    server = FakeComfy(files, knobs=Knobs(step_s=step_s), port=port)
    await server.start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--step-s", type=float, default=0.005)
    arguments = parser.parse_args()
    asyncio.run(_serve(arguments.port, arguments.step_s))

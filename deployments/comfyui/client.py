"""What is said to a ComfyUI server, and what its answers mean. No decisions about jobs are made here.

The routes are those of https://github.com/comfyanonymous/ComfyUI/blob/master/server.py, as of versions 0.3 to 0.27.
An answer of the wrong shape is ``BadAnswer``, never a KeyError somewhere else.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import aiohttp
import yarl

from tessera.errors import BadOutput, Busy, EngineError

CONNECT_S = 5.0
ANSWER_S = 30.0  # a server that loads a model from a slow disk answers late: its loop shares the interpreter
DOWNLOAD_S = 600.0
CHUNK = 256 * 1024
SOCKET_MESSAGE_BYTES = 32 << 20
PING_S = 15.0  # finds a socket that is dead without having been closed


class ServerAway(Busy):
    """The image server does not answer. Nothing was lost; the job keeps its place and starts when it is back."""

    @property
    def is_late(self) -> bool:
        """Whether it took the connection and did not answer in time: it lives. While a ComfyUI loads a model, its
        whole process was seen to answer nothing for half a minute."""
        return bool(self.details.get("late"))


class BadAnswer(EngineError):
    """The image server gave an answer that makes no sense. The job is tried again."""


class Refused(Exception):
    """The server refused a prompt: ``error`` and ``node_errors`` as it gave them."""

    def __init__(self, error: Mapping[str, Any], node_errors: Mapping[str, Any]) -> None:
        super().__init__(str(error.get("message") or error))
        self.error = error
        self.node_errors = node_errors


class PromptState(StrEnum):
    """Where a prompt is, as the server has it."""

    PENDING = "pending"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    INTERRUPTED = "interrupted"
    ABSENT = "absent"  # in neither queue nor history: never arrived, deleted, or forgotten by a restart


@dataclass(frozen=True, kw_only=True)
class Found:
    """A prompt as the server has it. ``graph`` where it has one; ``outputs`` by node; ``error`` of a failed one.

    ``idle``: nothing runs on the server; with a prompt that waits, its worker thread is dead or about to take it.
    """

    state: PromptState
    idle: bool = False
    graph: Mapping[str, Any] = field(default_factory=dict)
    outputs: Mapping[str, Any] = field(default_factory=dict)
    error: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Queue:
    """The ids of what runs and of what waits, the next one first."""

    running: tuple[str, ...]
    pending: tuple[str, ...]
    graphs: Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Stats:
    """What the server says of itself. Memory in MiB, of its first device; None where it does not tell."""

    version: str
    device: str
    device_type: str
    total_mib: int | None
    free_mib: int | None


@dataclass(frozen=True, kw_only=True)
class FileRef:
    """A file on the server."""

    filename: str
    subfolder: str
    type: str


class ComfyClient:
    """One server. Safe to use from several tasks; every method may be repeated, ``submit`` excepted.

    Raises ServerAway where nothing answers, BadAnswer where the answer makes no sense.
    """

    def __init__(self, url: str, *, connect_s: float = CONNECT_S, answer_s: float = ANSWER_S) -> None:
        self.url = url.rstrip("/")
        self._timeout = aiohttp.ClientTimeout(total=answer_s, connect=connect_s, sock_connect=connect_s)
        self._connect_s = connect_s
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        """Close all connections; the next call opens new ones."""
        if self._session is not None:
            session, self._session = self._session, None
            await session.close()

    # ------------------------------------------------------------------ what it is

    async def is_kobold(self) -> bool:
        """Whether it is a KoboldCPP, which imitates some of ComfyUI's routes with invented figures."""
        status, body = await self._request("GET", "/api/extra/version")
        if status != 200:
            return False
        try:
            said = json.loads(body)
        except ValueError:
            return False
        return isinstance(said, dict) and "kobold" in str(said.get("result", "")).lower()

    async def stats(self) -> Stats:
        """Version and memory."""
        said = await self._json("GET", "/system_stats")
        system = _dict(said, "system")
        devices = said.get("devices")
        device = devices[0] if isinstance(devices, list) and devices and isinstance(devices[0], dict) else {}
        return Stats(
            version=str(system.get("comfyui_version") or "unknown"),
            device=str(device.get("name") or "no device"),
            device_type=str(device.get("type") or ""),
            total_mib=_mib(device.get("vram_total")),
            free_mib=_mib(device.get("vram_free")),
        )

    async def node_info(self, class_type: str) -> Mapping[str, Any] | None:
        """What a node takes and gives, or None where the server does not have it."""
        said = await self._json("GET", "/object_info/" + yarl.URL.build(path=class_type).raw_path)
        if class_type not in said:
            return None
        return _dict(said, class_type)

    async def node_infos(self) -> Mapping[str, Any]:
        """All nodes: hundreds of KiB."""
        return await self._json("GET", "/object_info")

    # ------------------------------------------------------------------ prompts

    async def submit(self, prompt_id: str, graph: Mapping[str, Any], *, client_id: str) -> Mapping[str, Any]:
        """Queue a prompt. Returns the ``node_errors``, which must be empty: else only a part of it would run.

        Raises Refused. After ServerAway nobody knows whether it was queued: ``find`` tells.
        """
        body = {
            "prompt": graph,
            "prompt_id": prompt_id,
            "client_id": client_id,
            "extra_data": {"preview_method": "latent2rgb"},
        }
        status, raw = await self._request("POST", "/prompt", json=body)
        said = _parsed(raw, "/prompt") if status in (200, 400) else None
        if said is None:
            raise BadAnswer(f"The image server answered {status} to a prompt. The job is tried again.")
        if status == 400:
            error = said.get("error")
            nodes = said.get("node_errors")
            raise Refused(
                error if isinstance(error, dict) else {"type": "unknown", "message": str(error)},
                nodes if isinstance(nodes, dict) else {},
            )
        if said.get("prompt_id") != prompt_id:
            # An older server gives its own id: nobody could find or cancel the run by ours.
            raise BadAnswer("The image server does not take our id for a prompt: it is too old, or no ComfyUI.")
        errors = said.get("node_errors")
        return errors if isinstance(errors, dict) else {}

    async def queue(self) -> Queue:
        """What runs and what waits."""
        said = await self._json("GET", "/queue")
        running, pending = said.get("queue_running"), said.get("queue_pending")
        if not isinstance(running, list) or not isinstance(pending, list):
            raise BadAnswer("The image server's queue has no shape that is known.")
        graphs: dict[str, Mapping[str, Any]] = {}
        ids: list[list[str]] = []
        for items in (running, sorted(pending, key=_number)):
            names = []
            for item in items:
                if not isinstance(item, list) or len(item) < 3 or not isinstance(item[1], str):
                    raise BadAnswer("An entry of the image server's queue has no shape that is known.")
                names.append(item[1])
                if isinstance(item[2], dict):
                    graphs[item[1]] = item[2]
            ids.append(names)
        return Queue(running=tuple(ids[0]), pending=tuple(ids[1]), graphs=graphs)

    async def find(self, prompt_id: str) -> Found:
        """Where a prompt is. The queue first: what leaves it is in the history from the same moment on."""
        queue = await self.queue()
        if prompt_id in queue.running:
            return Found(state=PromptState.RUNNING, graph=queue.graphs.get(prompt_id, {}))
        if prompt_id in queue.pending:
            return Found(state=PromptState.PENDING, idle=not queue.running, graph=queue.graphs.get(prompt_id, {}))
        said = await self._json("GET", f"/history/{prompt_id}")
        if prompt_id not in said:
            return Found(state=PromptState.ABSENT)
        return _ended(_dict(said, prompt_id))

    async def delete_pending(self, prompt_id: str) -> None:
        """Take a prompt out of the queue. Does nothing to one that runs, and leaves no trace of one that waited."""
        await self._request("POST", "/queue", json={"delete": [prompt_id]})

    async def interrupt(self, prompt_id: str) -> None:
        """Stop this prompt, if it is the one that runs: between two steps or nodes."""
        await self._request("POST", "/interrupt", json={"prompt_id": prompt_id})

    async def free(self) -> None:
        """Unload all models and forget cached results: at once, or when the running prompt has ended."""
        status, _ = await self._request("POST", "/free", json={"unload_models": True, "free_memory": True})
        if status != 200:
            raise BadAnswer(f"The image server answered {status} when it was asked to free its memory.")

    # ------------------------------------------------------------------ files

    async def upload(self, name: str, data: bytes, media_type: str, *, subfolder: str) -> str:
        """Put a picture into the server's input folder; returns the name by which a LoadImage node finds it."""
        form = aiohttp.FormData()
        form.add_field("image", data, filename=name, content_type=media_type)
        form.add_field("subfolder", subfolder)
        form.add_field("type", "input")
        form.add_field("overwrite", "true")
        said = await self._json("POST", "/upload/image", data=form)
        stored, folder = said.get("name"), said.get("subfolder")
        if not isinstance(stored, str) or not stored:
            raise BadAnswer("The image server did not say where it has put an uploaded picture.")
        return f"{folder}/{stored}" if folder else stored

    async def download(self, file: FileRef, *, max_bytes: int) -> bytes:
        """A file. Raises BadOutput for one that is gone or larger than ``max_bytes``; no more than that is read."""
        query = {"filename": file.filename, "subfolder": file.subfolder, "type": file.type}
        try:
            async with (
                self._open().get(
                    f"{self.url}/view",
                    params=query,
                    timeout=aiohttp.ClientTimeout(total=DOWNLOAD_S, sock_connect=self._connect_s, sock_read=ANSWER_S),
                ) as answer,
            ):
                if answer.status in (403, 404):
                    raise BadOutput("The image server no longer has the file that it made. The job is tried again.")
                if answer.status != 200:
                    raise BadAnswer(f"The image server answered {answer.status} when its file was fetched.")
                parts: list[bytes] = []
                size = 0
                async for part in answer.content.iter_chunked(CHUNK):
                    size += len(part)
                    if size > max_bytes:
                        raise BadOutput(
                            f"The result is larger than {max_bytes / (1 << 20):.0f} MiB, more than was asked for. "
                            "The tokens are returned."
                        )
                    parts.append(part)
                return b"".join(parts)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise self._away(error) from error

    # ------------------------------------------------------------------ the socket

    @asynccontextmanager
    async def socket(self, client_id: str) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
        """The stream of a client's events. Its first message asks for previews that say which node they are of."""
        try:
            # A new session: a socket occupies its connection for as long as a prompt runs.
            async with (
                aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._connect_s)) as own,
                own.ws_connect(
                    f"{self.url}/ws",
                    params={"clientId": client_id},
                    heartbeat=PING_S,
                    max_msg_size=SOCKET_MESSAGE_BYTES,
                    timeout=aiohttp.ClientWSTimeout(ws_close=1.0),
                ) as socket,
            ):
                await socket.send_json({"type": "feature_flags", "data": {"supports_preview_metadata": True}})
                yield socket
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise self._away(error) from error

    # ------------------------------------------------------------------ beneath

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None or self._session.closed:
            self._session = aiohttp.ClientSession(timeout=self._timeout)
        return self._session

    async def _request(self, method: str, path: str, **more: Any) -> tuple[int, bytes]:
        try:
            async with self._open().request(method, self.url + path, **more) as answer:
                return answer.status, await answer.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise self._away(error) from error

    async def _json(self, method: str, path: str, **more: Any) -> dict[str, Any]:
        status, body = await self._request(method, path, **more)
        if status != 200:
            raise BadAnswer(f"The image server answered {status} to {path.partition('?')[0]}.")
        return _parsed(body, path)

    def _away(self, error: BaseException) -> ServerAway:
        is_late = isinstance(error, TimeoutError) and not isinstance(error, aiohttp.ConnectionTimeoutError)
        return ServerAway(None, url=self.url, why="no answer in time" if is_late else str(error), late=is_late)


def file_refs(outputs: Mapping[str, Any], nodes: Sequence[str]) -> list[FileRef]:
    """The files that these nodes have made, in the order of the nodes. Files in the temp folder only where no others
    are. Whatever the list is called (``images``, ``audio``, ``gifs``, ``video``), a file is a file."""
    found: list[FileRef] = []
    for node in nodes:
        made = outputs.get(node)
        if not isinstance(made, dict):
            continue
        for items in made.values():
            for item in items if isinstance(items, list) else ():
                if isinstance(item, dict) and isinstance(item.get("filename"), str) and item["filename"]:
                    found.append(
                        FileRef(
                            filename=item["filename"],
                            subfolder=str(item.get("subfolder") or ""),
                            type=str(item.get("type") or "output"),
                        )
                    )
    kept = [file for file in found if file.type == "output"]
    return kept or found


def _ended(entry: Mapping[str, Any]) -> Found:
    """An entry of the history. It calls an interrupt ``error``, and a few errors ``success``: the messages tell."""
    status = entry.get("status")
    status = status if isinstance(status, dict) else {}
    prompt, outputs = entry.get("prompt"), entry.get("outputs")
    graph = prompt[2] if isinstance(prompt, list) and len(prompt) > 2 and isinstance(prompt[2], dict) else {}
    kept = outputs if isinstance(outputs, dict) else {}
    messages = status.get("messages")
    for message in reversed(messages if isinstance(messages, list) else []):
        if isinstance(message, list) and len(message) == 2 and isinstance(message[1], dict):
            match message[0]:
                case "execution_interrupted":
                    return Found(state=PromptState.INTERRUPTED, graph=graph, outputs=kept)
                case "execution_error":
                    return Found(state=PromptState.FAILED, graph=graph, outputs=kept, error=message[1])
    if status.get("status_str") == "success":
        return Found(state=PromptState.SUCCEEDED, graph=graph, outputs=kept)
    return Found(state=PromptState.FAILED, graph=graph, outputs=kept, error={"exception_message": "it did not say why"})


def _parsed(body: bytes, path: str) -> dict[str, Any]:
    try:
        said = json.loads(body)
    except ValueError as error:
        raise BadAnswer(f"The image server's answer to {path.partition('?')[0]} is no JSON.") from error
    if not isinstance(said, dict):
        raise BadAnswer(f"The image server's answer to {path.partition('?')[0]} has no shape that is known.")
    return said


def _dict(said: Mapping[str, Any], name: str) -> dict[str, Any]:
    value = said.get(name)
    if not isinstance(value, dict):
        raise BadAnswer(f"The image server's answer has no '{name}'.")
    return value


def _mib(value: Any) -> int | None:
    return int(value) >> 20 if isinstance(value, int | float) and not isinstance(value, bool) and value >= 0 else None


def _number(item: Any) -> float:
    """A queue entry's place; what is no number comes last."""
    first = item[0] if isinstance(item, list) and item else None
    return float(first) if isinstance(first, int | float) else float("inf")

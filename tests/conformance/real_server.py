"""A real server under the suite: the line to it, which does what the server itself cannot be made to do.

And its process, where the suite was told how to start one (``COMFYUI_COMMAND``, ``KOBOLDCPP_COMMAND``).
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import os
import shlex
import signal
import subprocess
import tempfile
import time
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from tests.conformance.harness import NotRun
from tests.fakes.cut_line import CutLine

START_S = 300.0  # a ComfyUI takes 10 to 60 s to import all that it has


class Line(CutLine):
    """The line to a real server: it can be slow, be cut, and bring nonsense instead of answers."""

    garbage = False

    async def _forward(self, reader: Any, writer: Any) -> None:
        if not self.garbage:
            with contextlib.suppress(asyncio.CancelledError):  # the loop ends; nobody waits for what is forwarded
                await super()._forward(reader, writer)
            return
        await reader.read(65_536)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\nConnection: close\r\n\r\n<nothing")
        writer.close()


class OwnProcess:
    """A server that the suite starts, kills and starts again, by this command. It ends with the suite."""

    def __init__(self, command: str, *, folder: str | None = None) -> None:
        self._command = shlex.split(command)
        self._folder = folder or None
        self._running: subprocess.Popen[bytes] | None = None
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 (it lives as long as the process)
        atexit.register(self.kill)

    async def start(self, probe_url: str) -> None:
        """Start it, unless it runs, and wait until it answers there. Raises AssertionError with its last words."""
        running = self._begin()
        until = time.monotonic() + START_S
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as session:
            while running.poll() is None and time.monotonic() < until:
                with contextlib.suppress(aiohttp.ClientError, TimeoutError, OSError):
                    async with session.get(probe_url) as answer:
                        if answer.status == 200:
                            return
                await asyncio.sleep(0.2)
        raise AssertionError(f"{self._command[0]} does not come up: {self._last_words()}")

    def _begin(self) -> subprocess.Popen[bytes]:
        if self._running is None or self._running.poll() is not None:
            self._running = subprocess.Popen(
                self._command,
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=self._log,
                start_new_session=True,
            )
        return self._running

    def kill(self) -> None:
        """SIGKILL, for it and all that it has started. Nothing happens where it does not run."""
        if self._running is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._running.pid, signal.SIGKILL)
        self._running.wait()
        self._running = None

    def _last_words(self) -> str:
        self._log.seek(max(0, self._log.seek(0, os.SEEK_END) - 2000))
        return self._log.read().decode(errors="replace")


class RealServer:
    """What the harnesses of real servers have in common. A command makes the server the suite's own to kill."""

    url = ""
    process: OwnProcess | None = None
    probe_path = "/"

    async def connect(self) -> str:
        """The address of a fresh line to the server, which is started first where it is ours."""
        if self.process is not None:
            await self.process.start(self.url + self.probe_path)
        parts = urlsplit(self.url)
        self.line = Line(parts.hostname or "127.0.0.1", parts.port or 80)
        await self.line.mend()
        return f"http://127.0.0.1:{self.line.port}"

    async def kill(self) -> None:
        if self.process is None:
            raise NotRun("this server is not ours to kill")
        await asyncio.to_thread(self.process.kill)

    async def start(self) -> None:
        if self.process is None:
            raise NotRun("this server is not ours to start")
        await self.process.start(self.url + self.probe_path)

    async def delay_answers(self, seconds: float) -> None:
        self.line.delay_s = seconds

    async def answer_garbage(self, on: bool) -> None:
        self.line.garbage = on
        await self.break_connections()

    async def break_connections(self) -> None:
        await self.line.cut()
        await self.line.mend()

    async def run_out_of_memory_once(self) -> None:
        raise NotRun("a real server needs a model larger than its memory for that")


def real_server(environ: Any, prefix: str) -> dict[str, Any] | None:
    """The attributes of the harness of the server that the environment names, or None where it names none."""
    url = environ.get(f"{prefix}_URL", "").rstrip("/")
    if not url:
        return None
    command = environ.get(f"{prefix}_COMMAND", "")
    process = OwnProcess(command, folder=environ.get(f"{prefix}_FOLDER")) if command else None
    return {"url": url, "process": process}

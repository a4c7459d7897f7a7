"""The replica's side of its subprocess: starts it when it is needed, calls it, and outlives it.

The subprocess may end at any moment, by a driver's fault or the kernel's: every call in it then raises Lost, and the
next one starts another, after a pause that grows while it keeps dying.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
import sys
import time
from collections import deque
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any

import structlog

from deployments.child import frames
from tessera.errors import (
    BadOutput,
    Busy,
    EngineError,
    InvalidInput,
    Lost,
    ModelMissing,
    OutOfMemory,
    TesseraError,
)

log = structlog.get_logger(__name__)

START_TIMEOUT_S = 120.0  # Python and the libraries' imports, on a machine that is busy or cold
STOP_TIMEOUT_S = 5.0
PIPE_END_TIMEOUT_S = 1.0  # a process that has closed its pipe and goes on is of no use
BACKOFF_S = (0.0, 0.0, 1.0, 5.0, 15.0, 60.0)  # before the next start, by how often it has died in a row
STEADY_S = 60.0  # who lived that long has not died in a row
TAIL_LINES = 20
# The subprocess computes; it needs no secret of ours. Models are never downloaded: a folder is there, or it is missing.
WITHHELD = ("RAY_", "TESSERA_", "DATABASE_URL")
OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
ERRORS: Mapping[str, type[TesseraError]] = {
    each.code: each for each in (InvalidInput, ModelMissing, Busy, OutOfMemory, Lost, BadOutput, EngineError)
}


class ChildProcess:
    """One subprocess, ``python -m MODULE ARGS``. ``name`` is what people call it, in messages.

    All methods are safe to repeat.
    """

    def __init__(
        self, module: str, args: Sequence[str] = (), *, name: str, env: Mapping[str, str] | None = None
    ) -> None:
        self._command = [sys.executable, "-m", module, *args]
        self._name = name
        self._env = {
            **{key: value for key, value in os.environ.items() if not key.startswith(WITHHELD)},
            **OFFLINE,
            **(env or {}),
        }
        self._process: asyncio.subprocess.Process | None = None
        self._readers: list[asyncio.Task[None]] = []
        self._calls: dict[int, asyncio.Queue[frames.Frame | None]] = {}
        self._numbers = itertools.count(1)
        self._starting = asyncio.Lock()
        self._writing = asyncio.Lock()
        self._tail: deque[str] = deque(maxlen=TAIL_LINES)
        self._deaths = 0
        self._died_at = 0.0
        self._born_at = 0.0
        self._ready = asyncio.Event()
        self.generation = 0  # rises with each start: what was loaded in an older one is gone

    @property
    def pid(self) -> int | None:
        """The running subprocess, None while there is none."""
        return self._process.pid if self._process is not None and self._process.returncode is None else None

    @property
    def alive(self) -> bool:
        """Whether it runs and has answered."""
        return self.pid is not None and self._ready.is_set()

    def rests_s(self) -> float:
        """For how many seconds it is not started again after it died."""
        return max(0.0, self._died_at + BACKOFF_S[min(self._deaths, len(BACKOFF_S) - 1)] - time.monotonic())

    async def start(self) -> None:
        """Have it run. Raises Busy while it rests after a death, EngineError when it does not come up."""
        async with self._starting:
            if self.alive:
                return
            if (rest_s := self.rests_s()) > 0:
                raise Busy(
                    f"The {self._name} ended {self._deaths} times in a row and is started again in {rest_s:.0f} s. "
                    "The job keeps its place.",
                    retry_after_s=rest_s,
                )
            await self._end()
            self._ready.clear()
            self._tail.clear()
            process = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                env=self._env,
                start_new_session=True,  # a Ctrl-C at the terminal is the replica's to answer
            )
            self._process, self._born_at = process, time.monotonic()
            self.generation += 1
            self._readers = [asyncio.create_task(self._read(process)), asyncio.create_task(self._listen(process))]
            try:
                async with asyncio.timeout(START_TIMEOUT_S):
                    await self._ready.wait()
            except TimeoutError:
                self.kill()
            if not self.alive:
                raise EngineError(f"The {self._name} does not start ({self._last_words()}). The tokens are returned.")

    async def stop(self) -> None:
        """End it; its calls raise Lost. The memory of its device is free afterwards."""
        async with self._starting:
            await self._end()

    def kill(self) -> None:
        """End it at once: for what does not listen any more."""
        if self._process is not None:
            _kill(self._process)

    async def call(self, op: str, **arguments: Any) -> Mapping[str, Any]:
        """One call, without its events. Raises what ``Call.frames`` raises."""
        end: Mapping[str, Any] = {}
        async for head, _body in (await self.begin(op, **arguments)).frames():
            end = head.get("end", end)
        return end

    async def begin(self, op: str, **arguments: Any) -> Call:
        """Begin a call. It does not start the process: raises Lost where it does not run."""
        if self._process is None or not self.alive:
            raise Lost(f"The {self._name} does not run. The job is started anew.")
        call = Call(self, self._process, next(self._numbers))
        self._calls[call.number] = call.queue
        try:
            await self.write(self._process, {"id": call.number, "op": op, **arguments})
        except BaseException:
            del self._calls[call.number]
            raise
        return call

    def forget(self, number: int) -> None:
        """Nobody reads this call's frames any more."""
        self._calls.pop(number, None)

    def ended(self) -> Lost:
        """What a call gets to hear of the death of the process."""
        return Lost(f"The {self._name} ended ({self._last_words()}). The job is started anew.")

    async def write(self, process: asyncio.subprocess.Process, head: Mapping[str, Any]) -> None:
        """Send one frame. Raises Lost."""
        assert process.stdin is not None
        try:
            async with self._writing:
                process.stdin.write(frames.pack(head))
                await process.stdin.drain()
        except (ConnectionError, RuntimeError) as error:
            raise self.ended() from error

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        """Hand each frame to its call, until the pipe ends; then tell all calls."""
        assert process.stdout is not None
        try:
            while (frame := await frames.receive(process.stdout)) is not None:
                if frame[0].get("event") == "ready":
                    self._ready.set()
                elif (queue := self._calls.get(frame[0]["id"])) is not None:
                    queue.put_nowait(frame)
        except frames.BrokenPipe as error:
            log.error("child_spoke_nonsense", child=self._name, why=str(error))
        finally:
            status = await _end_of(process, PIPE_END_TIMEOUT_S)
            if process is self._process:
                self._died(status)

    def _died(self, status: int) -> None:
        lived_s = time.monotonic() - self._born_at
        self._deaths = 1 if lived_s > STEADY_S else self._deaths + 1
        self._died_at = time.monotonic()
        log.warning(
            "child_died", child=self._name, status=status, lived_s=round(lived_s, 1), said=list(self._tail)[-5:]
        )
        for queue in self._calls.values():
            queue.put_nowait(None)
        self._ready.set()  # whoever waits for it need not wait longer

    async def _listen(self, process: asyncio.subprocess.Process) -> None:
        """What it says on standard error goes to the log; the last lines are kept for the message of its death."""
        assert process.stderr is not None
        while line := await _line(process.stderr):
            said = line.decode(errors="replace").strip()
            if said:
                self._tail.append(said)
                log.info("child_said", child=self._name, line=said[:500])

    async def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        if process.returncode is None and process.stdin is not None:
            process.stdin.close()  # at its end the child ends itself
            await _end_of(process, STOP_TIMEOUT_S)
        await asyncio.gather(*self._readers, return_exceptions=True)
        for queue in self._calls.values():
            queue.put_nowait(None)

    def settled(self) -> None:
        """A call went well: its deaths are no row any more."""
        self._deaths = 0

    def _last_words(self) -> str:
        code = self._process.returncode if self._process is not None else None
        if code is None:
            return "it was stopped"
        if code < 0:
            name = signal.Signals(-code).name if -code in set(signal.Signals) else str(-code)
            why = ", most often for want of memory" if -code == signal.SIGKILL else ""
            return f"killed by {name}{why}"
        return f"status {code}"


class Call:
    """One call in a subprocess."""

    def __init__(self, child: ChildProcess, process: asyncio.subprocess.Process, number: int) -> None:
        self.number = number
        self.queue: asyncio.Queue[frames.Frame | None] = asyncio.Queue()
        self._child = child
        self._process = process

    async def frames(self) -> AsyncGenerator[frames.Frame, None]:
        """Its events, then the frame with ``end``; without that one where it was cancelled.

        Raises Lost when the process ends, and the error that the call itself ends with. Leaving early cancels it.
        """
        ended = False
        try:
            while not ended:
                frame = await self.queue.get()
                if frame is None:
                    ended = True
                    raise self._child.ended()
                head = frame[0]
                ended = "end" in head or "error" in head or "cancelled" in head
                if "error" in head:
                    raise _error(head["error"])
                if "cancelled" not in head:
                    yield frame
        finally:
            self._child.forget(self.number)
            if not ended:
                await self.cancel()

    async def cancel(self) -> None:
        """Ask it to stop. Safe to repeat, and after its end."""
        with contextlib.suppress(Lost):
            await self._child.write(self._process, {"op": "cancel", "of": self.number})


def _kill(process: asyncio.subprocess.Process) -> None:
    # Not by the Process's own method: that collects the exit status, which asyncio's watcher then misses.
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)


async def _end_of(process: asyncio.subprocess.Process, patience_s: float) -> int:
    """Wait for its end, and hasten it when that does not come by itself."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(patience_s):
            return await process.wait()
    _kill(process)
    return await process.wait()


async def _line(stream: asyncio.StreamReader) -> bytes:
    try:
        return await stream.readline()
    except ValueError:  # longer than the stream's limit: the beginning was dropped
        return b"\n"


def _error(said: Mapping[str, str]) -> TesseraError:
    return ERRORS.get(said["code"], EngineError)(said["message"])

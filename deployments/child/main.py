"""The subprocess's side: answers calls that come in on standard input, until that is closed.

A call is ``{"id", "op", …}``. Each one runs in a thread of its own and sends any number of events ``{"id", "event"}``,
then one ``{"id", "end"}`` or ``{"id", "error": {"code", "message"}}``. ``{"op": "cancel", "of": id}`` sets a call's
flag. Whatever libraries print goes to standard error: standard output is the pipe's alone.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO

from deployments.child import frames
from tessera.errors import EngineError, OutOfMemory, TesseraError

FATAL_STATUS = 70  # the library is in no state to go on


class Cancelled(Exception):
    """The call was cancelled."""


class Fatal(Exception):
    """The call failed so that the process cannot be used again: it is told as ``error``, and the process ends."""

    def __init__(self, error: TesseraError) -> None:
        super().__init__(error.message)
        self.error = error


class Call:
    """One call, as its handler sees it."""

    def __init__(self, head: Mapping[str, Any], body: bytes, send: Callable[[Mapping[str, Any], bytes], None]) -> None:
        self.head = head
        self.body = body
        self._send = send
        self._cancelled = threading.Event()

    def check(self) -> None:
        """Raises Cancelled once the call was cancelled."""
        if self._cancelled.is_set():
            raise Cancelled

    def cancel(self) -> None:
        """Have it end. Safe to repeat."""
        self._cancelled.set()

    def is_cancelled(self) -> bool:
        """Whether it was cancelled, for a library that asks."""
        return self._cancelled.is_set()

    def tell(self, event: str, body: bytes = b"", **more: Any) -> None:
        """Send an event. Raises Cancelled."""
        self.check()
        self._send({"id": self.head["id"], "event": event, **more}, body)


Handler = Callable[[Call], Mapping[str, Any]]


def serve(handlers: Mapping[str, Handler]) -> None:
    """Answer calls by these functions, each named by its ``op``, until the pipe is closed. Ends the process."""
    pipe = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # from here on a library's print cannot break a frame
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the replica decides when this process ends
    _Server(handlers, pipe).run(sys.stdin.buffer)


class _Server:
    def __init__(self, handlers: Mapping[str, Handler], pipe: BinaryIO) -> None:
        self._handlers = handlers
        self._pipe = pipe
        self._writing = threading.Lock()
        self._calls: dict[int, Call] = {}

    def run(self, stream: BinaryIO) -> None:
        self._send({"id": 0, "event": "ready", "pid": os.getpid()}, b"")
        try:
            while (frame := frames.read(stream)) is not None:
                head, body = frame
                if head.get("op") == "cancel":
                    if (known := self._calls.get(head["of"])) is not None:
                        known.cancel()
                    continue
                call = self._calls[head["id"]] = Call(head, body, self._send)
                threading.Thread(target=self._answer, args=(call,), name=str(head["op"]), daemon=True).start()
        finally:
            os._exit(0)  # the replica is gone: nobody waits for what still runs, and a library may not let go

    def _answer(self, call: Call) -> None:
        number = call.head["id"]
        status: int | None = None
        try:
            answer: Mapping[str, Any] = {"id": number, "end": dict(self._handlers[call.head["op"]](call))}
        except Cancelled:
            answer = {"id": number, "cancelled": True}
        except Fatal as fatal:
            answer, status = _error(number, fatal.error), FATAL_STATUS
        except TesseraError as error:
            answer = _error(number, error)
        except MemoryError:
            answer = _error(number, OutOfMemory())
        except Exception as error:  # noqa: BLE001 a thread has no caller: who waits for the call gets it
            sys.stderr.write(f"{type(error).__name__}: {error}\n")
            answer = _error(number, EngineError(f"{type(error).__name__}: {error}. The tokens are returned."))
        del self._calls[number]
        self._send(answer, b"")
        if status is not None:
            os._exit(status)

    def _send(self, head: Mapping[str, Any], body: bytes) -> None:
        data = memoryview(frames.pack(head, body))
        with self._writing:
            while data:
                data = data[self._pipe.write(data) :]


def _error(number: int, error: TesseraError) -> Mapping[str, Any]:
    return {"id": number, "error": {"code": error.code, "message": error.message}}

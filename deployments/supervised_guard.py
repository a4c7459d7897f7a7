"""The process between a replica and the server that it supervises: whatever ends the replica, it ends the server.

Started by ``deployments/supervised.py`` as a script of its own; it uses the standard library only, so that it starts at
once. Its stdin is the lifeline: a pipe whose other end the replica holds. The kernel closes it when the replica dies,
by SIGKILL too; then the server and all its descendants are ended. The server's output goes to a log of bounded size.

    python supervised_guard.py LOG STOP_S COMMAND…

Its exit status is the server's, or 128 and the signal's number.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType
from typing import BinaryIO

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36  # prctl(2)
LOG_BYTES = 8 << 20
LOGS_KEPT = 3
TICK_S = 0.2


class Log:
    """A file that is put aside when it has grown, and three of those before it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file: BinaryIO = path.open("ab")

    def write(self, data: bytes) -> None:
        """Append. A full disk costs lines of the log, never the server."""
        with contextlib.suppress(OSError):
            self._file.write(data)
            self._file.flush()
            if self._file.tell() > LOG_BYTES:
                self._turn()

    def close(self) -> None:
        """The last line is written."""
        self._file.close()

    def _turn(self) -> None:
        self._file.close()
        for number in range(LOGS_KEPT, 0, -1):
            older = self._path.with_suffix(f"{self._path.suffix}.{number}")
            newer = self._path if number == 1 else self._path.with_suffix(f"{self._path.suffix}.{number - 1}")
            if newer.exists():
                newer.replace(older)
        self._file = self._path.open("ab")


def main(arguments: list[str]) -> int:
    """Run the command until it ends or the lifeline is cut."""
    log, stop_s, command = Log(Path(arguments[0])), float(arguments[1]), arguments[2:]
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)  # what the server leaves behind comes to us, not to init
    leaving = False

    def leave(_number: int, _frame: FrameType | None) -> None:
        nonlocal leaving
        leaving = True

    signal.signal(signal.SIGTERM, leave)
    signal.signal(signal.SIGINT, leave)
    guard = os.getpid()

    def before_exec() -> None:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != guard:  # the guard died between fork and prctl
            os._exit(127)

    log.write(f"[guard] {time.strftime('%Y-%m-%d %H:%M:%S')} starts {' '.join(command)}\n".encode())
    try:
        server = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=before_exec,  # this process has one thread only
        )
    except OSError as error:
        log.write(f"[guard] cannot be started: {error}\n".encode())
        return 127
    assert server.stdout is not None
    output, lifeline = server.stdout.fileno(), sys.stdin.fileno()
    watched = [output, lifeline]
    while not leaving and server.poll() is None:
        ready = select.select(watched, [], [], TICK_S)[0]
        if output in ready:
            data = os.read(output, 65_536)
            if data:
                log.write(data)
            else:
                watched.remove(output)
        if lifeline in ready and not os.read(lifeline, 4096):
            leaving = True
    _end(server, stop_s, log, output)
    status = server.returncode
    log.write(f"[guard] ended with status {status}\n".encode())
    log.close()
    return status if status >= 0 else 128 - status


def _end(server: subprocess.Popen[bytes], stop_s: float, log: Log, output: int) -> None:
    """SIGTERM to the server and its descendants, SIGKILL to those that are left after ``stop_s``."""
    until = time.monotonic() + stop_s
    _signal(signal.SIGTERM)
    while time.monotonic() < until:
        server.poll()
        if server.returncode is not None and not _descendants():
            break
        if select.select([output], [], [], TICK_S / 4)[0] and (data := os.read(output, 65_536)):
            log.write(data)
        else:
            time.sleep(TICK_S / 4)
        _reap(server)
    while _descendants():
        _signal(signal.SIGKILL)
        time.sleep(0.02)
        server.poll()
        _reap(server)
    server.wait()


def _signal(number: signal.Signals) -> None:
    for pid in _descendants():
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)


def _reap(server: subprocess.Popen[bytes]) -> None:
    """Take adopted children that have ended off the table; the server itself is Popen's."""
    for pid in _descendants(zombies=True):
        if pid != server.pid:
            with contextlib.suppress(ChildProcessError, OSError):
                os.waitpid(pid, os.WNOHANG)


def _descendants(*, zombies: bool = False) -> list[int]:
    """All processes beneath this one; without those that have ended and only wait to be reaped."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal():
            continue
        with contextlib.suppress(OSError, ValueError, IndexError):
            # The name is in parentheses and may hold anything: fields are counted from the last one (proc(5)).
            fields = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()
            if zombies or fields[0] not in ("Z", "X"):
                parents[int(entry.name)] = int(fields[1])
    found: list[int] = []
    waiting = [os.getpid()]
    while waiting:
        parent = waiting.pop()
        for pid, its in parents.items():
            if its == parent and pid not in found:
                found.append(pid)
                waiting.append(pid)
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

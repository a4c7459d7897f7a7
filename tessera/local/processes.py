"""Who runs, who is whose child, and how a process is ended without ever hitting a stranger.

A pid alone proves nothing: it is given out again. A record therefore keeps the kernel's start tick and the boot id
beside it, and every signal here goes to a process that was just verified. Linux only, as the platform is.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from tessera.config import write_private


@dataclass(frozen=True, kw_only=True)
class ProcessRecord:
    """A process that cannot be mistaken for another one: pid, start tick since boot, and the boot."""

    pid: int
    started: int
    boot: str

    def alive(self) -> bool:
        """Whether exactly this process still runs (a zombie does not)."""
        return _identity(self.pid) == (self.started, self.boot)

    def signal(self, number: signal.Signals) -> bool:
        """Signal it if it is still this process; False when it is gone."""
        if not self.alive():
            return False
        try:
            os.kill(self.pid, number)
        except ProcessLookupError:
            return False
        return True

    def save(self, path: Path) -> None:
        """Keep the record in a file."""
        write_private(path, json.dumps({"pid": self.pid, "started": self.started, "boot": self.boot}) + "\n")


def record_of(pid: int) -> ProcessRecord | None:
    """The record of a running process, None when there is none."""
    identity = _identity(pid)
    return None if identity is None else ProcessRecord(pid=pid, started=identity[0], boot=identity[1])


def load_record(path: Path) -> ProcessRecord | None:
    """The recorded process if it still runs, else None."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        record = ProcessRecord(pid=int(data["pid"]), started=int(data["started"]), boot=str(data["boot"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return record if record.alive() else None


def spawn(
    command: Sequence[str],
    *,
    log: Path,
    cwd: Path,
    env: Mapping[str, str] | None = None,
    uid: int | None = None,
    gid: int | None = None,
    umask: int = 0o077,
) -> ProcessRecord | None:
    """Start a background process in a session of its own, its output appended to ``log``. None: it ended at once.

    ``cwd`` is entered before the uid is dropped: a process may stand in a folder whose parents it could not walk.
    """
    with log.open("ab") as output:
        child = subprocess.Popen(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=cwd,
            env=None if env is None else dict(env),
            start_new_session=True,
            user=uid,
            group=gid,
            extra_groups=None if uid is None else [],
            umask=umask,
        )
    child.returncode = 0  # it outlives us on purpose: without this, Popen warns that nobody waited for it
    return record_of(child.pid)


def family(records: Iterable[ProcessRecord]) -> list[ProcessRecord]:
    """Those that still run, and all their descendants."""
    found: dict[int, ProcessRecord] = {}
    for record in records:
        if not record.alive():
            continue
        found[record.pid] = record
        with contextlib.suppress(psutil.Error):
            for child in psutil.Process(record.pid).children(recursive=True):
                child_record = record_of(child.pid)
                if child_record is not None:
                    found[child.pid] = child_record
    return list(found.values())


def matching(test: Callable[[psutil.Process], bool]) -> list[ProcessRecord]:
    """All processes for which ``test`` holds; those that we may not look at are left out, and so are we ourselves."""
    found = []
    for process in psutil.process_iter():
        if process.pid == os.getpid():
            continue
        with contextlib.suppress(psutil.Error, OSError):
            if test(process):
                record = record_of(process.pid)
                if record is not None:
                    found.append(record)
    return found


def end(
    records: Iterable[ProcessRecord],
    steps: Sequence[tuple[signal.Signals, float]] = ((signal.SIGTERM, 5.0), (signal.SIGKILL, 5.0)),
) -> list[ProcessRecord]:
    """Signal the processes with each step's signal and wait that many seconds; returns those that did not end.

    Raises ``PermissionError`` when one of them belongs to another user.
    """
    left = [record for record in records if record.alive()]
    for number, patience_s in steps:
        for record in left:
            record.signal(number)
        left = wait_gone(left, patience_s)
        if not left:
            break
    return left


def wait_gone(records: Iterable[ProcessRecord], patience_s: float) -> list[ProcessRecord]:
    """Wait until the processes are gone; returns those that still run after ``patience_s``."""
    deadline = time.monotonic() + patience_s
    left = list(records)
    while True:
        for record in left:
            reap(record.pid)
        left = [record for record in left if record.alive()]
        if not left or time.monotonic() >= deadline:
            return left
        time.sleep(0.02)


def reap(pid: int) -> None:
    """Take an ended child of ours off the table of processes; anything else is left as it is."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)


def tail(path: Path, lines: int = 15, *, since: int = 0) -> str:
    """The last lines of a log from byte ``since`` on; empty when there is no such file."""
    try:
        with path.open("rb") as file:
            file.seek(0, os.SEEK_END)
            size = file.tell()
            file.seek(max(since, size - 64 * 1024))
            text = file.read().decode(errors="replace")
    except OSError:
        return ""
    return "\n".join(text.splitlines()[-lines:])


def _identity(pid: int) -> tuple[int, str] | None:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return None
    # The command's name is in parentheses and may hold anything: fields are counted from the last one (proc(5)).
    fields = stat[stat.rindex(")") + 2 :].split()
    if fields[0] in {"Z", "X"}:
        return None
    return int(fields[19]), boot

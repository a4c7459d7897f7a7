"""What a batch remembers: which line became which job, and how it ended; a file that is only ever appended to.

It is the truth of an output folder. Every record is on disk before anything relies on it, a torn last line is thrown
away, and a lock of the kernel's, which ends with the process, keeps two runs out of one folder.
"""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path
from typing import IO, Any

from tessera.batch.lines import BatchFile

JOURNAL = "batch.journal"


class JournalError(Exception):
    """The output folder cannot be used for this batch. Nothing was submitted; the message says why."""


class Journal:
    """The journal of one output folder, locked while it is open. ``jobs``: line → job; ``ended``: line → its result."""

    def __init__(self, folder: Path, file: BatchFile, run: str, server: str) -> None:
        self.folder = folder
        self.jobs: dict[int, str] = {}
        self.uploads: dict[tuple[int, str], str] = {}
        self.ended: dict[int, dict[str, Any]] = {}
        self.tries: dict[int, int] = {}  # how often a line was begun anew after its job had failed
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / JOURNAL
        self._file: IO[bytes] = path.open("a+b")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._file.close()
            raise JournalError(
                f"Another run of a batch works in {folder} at this moment. Nothing was submitted; wait for its end, or"
                " choose another --out."
            ) from None
        try:
            self._load(file, run, server)
        except BaseException:
            self._file.close()
            raise

    def _load(self, file: BatchFile, run: str, server: str) -> None:
        self._file.seek(0)
        whole = self._file.read()
        kept = whole[: whole.rfind(b"\n") + 1]  # a line without its end was being written when the process died
        if len(kept) != len(whole):
            self._file.truncate(len(kept))
        about = {"batch": file.sha256, "run": run, "server": server, "lines": len(file.lines)}
        records = [json.loads(line) for line in kept.splitlines()]
        if not records:
            self.write(about)
            return
        first = records[0]
        for name, what in (
            ("batch", "another content of the file"),
            ("run", "another --run"),
            ("server", "another server"),
        ):
            if first.get(name) != about[name]:
                raise JournalError(
                    f"{self.folder} holds the results of {what}. Nothing was submitted; choose another --out."
                )
        for record in records[1:]:
            self._take(record)

    def _take(self, record: dict[str, Any]) -> None:
        line = record["line"]
        if "job" in record:
            self.jobs[line] = record["job"]
        if "upload" in record:
            self.uploads[line, record["field"]] = record["upload"]
        if "result" in record:
            self.ended[line] = record["result"]
        if "again" in record:
            self.tries[line] = record["again"]
            self.jobs.pop(line, None)
            self.ended.pop(line, None)

    def write(self, record: dict[str, Any]) -> None:
        """Append a record; returns once it is on disk."""
        self._file.write(json.dumps(record, ensure_ascii=False).encode("utf-8", "replace") + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())
        if "line" in record:
            self._take(record)

    def close(self) -> None:
        """Give the folder free. Safe to repeat."""
        self._file.close()

"""Starting and ending the keeper from outside of it; what it does is in ``keeper.py``."""

from __future__ import annotations

import hashlib
import json
import signal
import sys
from collections.abc import Mapping
from pathlib import Path

from tessera.config import write_private
from tessera.local import bots, processes, runtime


def record_file(home: Path) -> Path:
    """Where the keeper's process is recorded."""
    return home / "run" / "keeper.json"


def ensure_running(home: Path, environ: Mapping[str, str]) -> tuple[int, bool]:
    """Start the keeper unless one of this code and this environment runs; returns its pid and whether it is new."""
    mark = _mark(environ, bots.marks(home))
    running = processes.load_record(record_file(home))
    mark_file = home / "run" / "keeper-of.json"
    if running is not None:
        try:
            if json.loads(mark_file.read_text(encoding="utf-8")) == mark:
                return running.pid, False
        except (OSError, ValueError):
            pass
        stop(home)
    record = processes.spawn(
        [sys.executable, "-m", "tessera.local.keeper", str(home)],
        log=runtime.logs_dir(home) / "keeper.log",
        cwd=home,
        env={**environ, "TESSERA_HOME": str(home)},
    )
    if record is None:
        raise RuntimeError(f"the keeper ended at once; see {home / 'logs' / 'keeper.log'}")
    record.save(record_file(home))
    write_private(mark_file, json.dumps(mark) + "\n")
    return record.pid, True


def stop(home: Path) -> bool:
    """End the keeper and verify it; False when none ran."""
    record = processes.load_record(record_file(home))
    if record is None:
        return False
    # Only itself: what it has started again, Postgres and Ray, are its children by now.
    left = processes.end([record], ((signal.SIGTERM, 10.0), (signal.SIGKILL, 5.0)))
    if left:
        raise RuntimeError(f"the keeper (pid {record.pid}) did not end")
    record_file(home).unlink(missing_ok=True)
    return True


def _mark(environ: Mapping[str, str], bots_marks: str) -> str:
    """Changes with the code of this folder and with the variables that decide how parts are started."""
    digest = hashlib.sha256(bots_marks.encode())
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    for name in ("DATABASE_URL", "RAY_ADDRESS", "RAY_USE_TLS", "TESSERA_PORT", "TESSERA_NOOP", "TESSERA_ARTIFACTS_URL"):
        digest.update(f"{name}={environ.get(name, '')}\n".encode())
    for name, value in sorted(environ.items()):
        if name.startswith(bots.VARIABLES):
            digest.update(f"{name}={value}\n".encode())
    return digest.hexdigest()[:16]

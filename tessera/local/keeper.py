"""The keeper: a small background process that brings a part back when it has died.

Ray restarts actors and Serve restarts replicas; the keeper is for what nobody else watches: Postgres, the Ray head
itself, and the applications after Ray had to start anew. It uses the very functions of ``up``, under the same lock,
with the configuration of the last ``up``; a failed attempt is repeated after 1, 2, 4 … 60 seconds.
"""

from __future__ import annotations

import fcntl
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

import structlog

from tessera.config import Settings
from tessera.local import bots, deploy, processes, rest, runtime
from tessera.local.keeper_process import record_file
from tessera.local.platform import Platform
from tessera.local.steps import Step, StepFailed, StepState
from tessera.logs import configure_logs

log = structlog.get_logger(__name__)

PERIOD_S = 2.0
SERVE_PERIOD_S = 20.0  # asking Serve costs the dashboard some 30 ms of a core
BACKOFF_MAX_S = 60.0
LOG_MAX_BYTES = 20 * 2**20


class Keeper:
    """Watches one home until it is told to stop or another keeper has taken over."""

    def __init__(self, platform: Platform, stop: threading.Event, clock: Callable[[], float] = time.monotonic) -> None:
        self._platform = platform
        self._stop = stop
        self._clock = clock
        self._failures = 0
        self._serve_due = clock() + SERVE_PERIOD_S

    def run(self) -> None:
        """Look every two seconds."""
        log.info("keeper_started", home=str(self._platform.home))
        # systemd-tmpfiles removes what is old in /tmp, but leaves a locked folder alone.
        with _locked(runtime.short_dir(self._platform.home)):
            while not self._stop.wait(self._pause()):
                if not self._still_in_charge():
                    log.info("keeper_superseded")
                    return
                _reap_children()
                _trim_logs(self._platform.home)
                self._look()
        log.info("keeper_stopped")

    def _look(self) -> None:
        with runtime.exclusive_or_none(self._platform.home) as locked:
            if not locked:  # 'up' or 'down' is at work
                return
            settings = self._platform.settings()
            if settings is None:
                return
            missing = self._missing(settings)
            if not missing:
                self._failures = 0
                return
            log.warning("parts_missing", parts=missing)
            try:
                self._platform.heal(missing, _log_step)
            except StepFailed as error:
                self._failures += 1
                log.error(
                    "heal_failed",
                    step=error.step.name,
                    message=error.message,
                    log_tail=error.log_tail,
                    next_try_s=self._pause(),
                )
            except Exception as error:
                self._failures += 1
                log.error("heal_failed", message=str(error), exc_info=error, next_try_s=self._pause())
            else:
                self._failures = 0
                log.info("healed", parts=missing)

    def _missing(self, settings: Settings) -> list[str]:
        missing = []
        if not settings.database_external and self._platform.postgres.postmaster() is None:
            missing.append("postgres")
        head = self._platform.head(settings.cluster)
        if not settings.ray_external and not head.alive():
            return [*missing, "ray"]
        if self._clock() >= self._serve_due:
            self._serve_due = self._clock() + SERVE_PERIOD_S
            serve = deploy.Serve(settings.dashboard_url, head.token(), head.session_logs())
            try:
                found = serve.state().applications
            except rest.Unreachable as error:
                log.warning("serve_not_asked", reason=str(error))
            else:
                names = [application.name for application in deploy.wanted(settings, code="")]
                missing += [n for n in names if n not in found or found[n].status in deploy.FAILED]
        return missing + [f"bots-{platform}" for platform in bots.missing(self._platform.home)]

    def _pause(self) -> float:
        return PERIOD_S if self._failures == 0 else min(BACKOFF_MAX_S, float(2 ** (self._failures - 1)))

    def _still_in_charge(self) -> bool:
        record = processes.load_record(record_file(self._platform.home))
        return record is None or record.pid == os.getpid()


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        yield
    finally:
        os.close(descriptor)


def _reap_children() -> None:
    """What this process has started again and has died since would stay a zombie."""
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG) != (0, 0):
            pass


def _trim_logs(home: Path) -> None:
    """Keep each of our own logs below 20 MiB and one older part of it. Their writers append, so this is safe."""
    for path in (home / "logs").glob("*.log"):
        if path.stat().st_size > LOG_MAX_BYTES:
            with path.open("rb+") as file:
                path.with_suffix(".log.1").write_bytes(file.read())
                file.truncate(0)


def _log_step(step: Step) -> None:
    if step.state != StepState.RUNNING:
        log.info("step", step=step.name, state=step.state, detail=step.detail, duration_s=round(step.duration_s, 2))


def main() -> int:
    """``python -m tessera.local.keeper HOME``."""
    configure_logs("keeper")
    stop = threading.Event()

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, on_signal)
    Keeper(Platform(Path(sys.argv[1])), stop).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())

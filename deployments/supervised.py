"""A server process of a replica's own: started, watched, started again with backoff, and ended with the replica.

Any engine may use it: ComfyUI and KoboldCPP do. Between the replica and the server stands a guard
(``supervised_guard.py``) that ends the server and its descendants when the replica is gone, by ``kill -9`` too.
"""

from __future__ import annotations

import asyncio
import os
import shlex
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import structlog

log = structlog.get_logger(__name__)

GUARD = Path(__file__).with_name("supervised_guard.py")
# A server needs no secret of ours: neither the cluster's token nor the address of the database.
WITHHELD = ("RAY_", "TESSERA_", "DATABASE_URL")


@dataclass(frozen=True, kw_only=True)
class Manners:
    """How patiently a server is treated, in seconds (start).

    ``start_s``: until it must be healthy; ComfyUI with many extensions takes a minute. ``sick_s``: for how long it may
    then fail its health check before it is ended. ``backoff_s``: before each start again in a row, the last one for all
    further ones; ``steady_s`` of health begin the row anew. ``stop_s``: from SIGTERM to SIGKILL.
    """

    start_s: float = 300.0
    check_s: float = 1.0
    sick_s: float = 60.0
    backoff_s: tuple[float, ...] = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
    steady_s: float = 60.0
    stop_s: float = 10.0


class SupervisedProcess:
    """One server. ``healthy`` says whether it answers, and must not take longer than ``manners.check_s`` and a bit.

    All methods are safe to repeat. ``starts`` counts how often it was started.
    """

    def __init__(
        self,
        command: Sequence[str] | str,
        *,
        name: str,
        log_file: Path,
        healthy: Callable[[], Awaitable[bool]],
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        manners: Manners | None = None,
    ) -> None:
        self._command = shlex.split(command) if isinstance(command, str) else list(command)
        if not self._command:
            raise ValueError("the command of a supervised server is empty")
        self._name = name
        self._log_file = log_file
        self._healthy = healthy
        self._cwd = cwd
        self._env = dict(env or {})
        self._manners = manners or Manners()
        self._task: asyncio.Task[None] | None = None
        self._guard: asyncio.subprocess.Process | None = None
        self._up = asyncio.Event()
        self._restart = asyncio.Event()
        self._since = time.monotonic()
        self._state = "it was not started"
        self.starts = 0

    @property
    def up(self) -> bool:
        """Whether it was healthy when it was last asked."""
        return self._up.is_set()

    def start(self) -> None:
        """Begin to keep it running; returns at once."""
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._keep(), name=f"supervise-{self._name}")

    def restart(self) -> None:
        """End it and start it again: for one that answers and no longer works."""
        self._up.clear()
        self._restart.set()

    async def wait_until_up(self) -> None:
        """Return once it is healthy. The caller sets the limit."""
        await self._up.wait()

    async def stop(self) -> None:
        """End it and all its descendants; returns when they are gone."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
        await self._end()
        self._tell("it was ended")

    def describe(self) -> str:
        """What it does, for the operator: "it is being started, for 12 s (log: …)"."""
        return f"{self._state}, for {time.monotonic() - self._since:.0f} s (log: {self._log_file})"

    # ------------------------------------------------------------------ beneath

    async def _keep(self) -> None:
        row = 0  # starts in a row without a steady time between them
        while True:
            began = time.monotonic()
            try:
                await self._spawn()
                why = await self._watch()
            except Exception as error:  # nothing may end the watch: a server that nobody starts again is lost
                log.exception("supervised_server_not_watched", name=self._name)
                why = f"could not be watched ({error})"
            finally:
                self._up.clear()
                await self._end()
            row = 0 if time.monotonic() - began > self._manners.steady_s else row + 1
            pause_s = self._manners.backoff_s[min(max(row, 1), len(self._manners.backoff_s)) - 1]
            log.warning(
                "supervised_server_ended", name=self._name, why=why, again_in_s=pause_s, log=str(self._log_file)
            )
            self._tell(f"it {why}, and is started again")
            await asyncio.sleep(pause_s)

    async def _spawn(self) -> None:
        self.starts += 1
        self._restart.clear()
        self._tell("it is being started")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(WITHHELD)}
        # -S -s: the guard needs no packages, and starts in a few hundredths of a second.
        guard = [sys.executable, "-S", "-s", str(GUARD), str(self._log_file), str(self._manners.stop_s)]
        self._guard = await asyncio.create_subprocess_exec(
            *guard,
            *self._command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
            cwd=self._cwd,
            env={**kept, **self._env},
            start_new_session=True,
        )
        log.info("supervised_server_started", name=self._name, guard=self._guard.pid, starts=self.starts)

    async def _watch(self) -> str:
        """Until it has to be started again; returns the reason."""
        assert self._guard is not None
        gone = asyncio.create_task(self._guard.wait())
        asked = asyncio.create_task(self._restart.wait())
        began = well_at = time.monotonic()
        try:
            while True:
                await asyncio.wait({gone, asked}, timeout=self._pause_s(), return_when=asyncio.FIRST_COMPLETED)
                if gone.done():
                    return f"ended with status {gone.result()}"
                if asked.done():
                    return "stopped working"
                now = time.monotonic()
                if await self._is_well():
                    well_at = now
                    if not self._up.is_set():
                        self._up.set()
                        self._tell("it is up")
                elif not self._up.is_set() and now - began > self._manners.start_s:
                    return f"was not up within {self._manners.start_s:.0f} s"
                elif self._up.is_set() and now - well_at > self._manners.sick_s:
                    return f"did not answer for {self._manners.sick_s:.0f} s"
        finally:
            for task in (gone, asked):
                task.cancel()
            await asyncio.gather(gone, asked, return_exceptions=True)

    def _pause_s(self) -> float:
        return self._manners.check_s if self._up.is_set() else min(0.2, self._manners.check_s)

    async def _is_well(self) -> bool:
        try:
            async with asyncio.timeout(self._manners.check_s + 2.0):
                return await self._healthy()
        except Exception:  # noqa: BLE001 (whatever the check ran into, the server did not answer it)
            return False

    async def _end(self) -> None:
        guard, self._guard = self._guard, None
        if guard is None:
            return
        if guard.stdin is not None:
            guard.stdin.close()  # the lifeline: the guard ends the server, then itself
            with suppress(OSError):
                await guard.stdin.wait_closed()
        try:
            async with asyncio.timeout(self._manners.stop_s + 10.0):
                await guard.wait()
        except TimeoutError:
            log.error("supervised_guard_does_not_end", name=self._name, guard=guard.pid)
            guard.kill()  # the server has its death in its parent's: PR_SET_PDEATHSIG
            await guard.wait()

    def _tell(self, state: str) -> None:
        self._state, self._since = state, time.monotonic()

"""Processes of bots by forking one that has imported all they need: aiogram alone takes seconds of a processor to
import, and a kill is to hit a bot at work. From ``bots.__main__.main`` on it is what ``python -m bots PLATFORM`` runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path


class Forks:
    """Starts and ends the bots of one platform, one process at a time."""

    def __init__(self, parent: asyncio.subprocess.Process) -> None:
        self._parent = parent
        self._pid = 0

    async def start(self) -> None:
        """Begin a process."""
        self._pid = int(await self._ask("start"))

    async def end(self, number: signal.Signals) -> None:
        """Send the running process a signal and wait until it is gone."""
        if self._pid:
            os.kill(self._pid, number)
            await self._ask(f"wait {self._pid}")
            self._pid = 0

    async def _ask(self, what: str) -> str:
        assert self._parent.stdin is not None and self._parent.stdout is not None
        self._parent.stdin.write(f"{what}\n".encode())
        answer = (await self._parent.stdout.readline()).decode().strip()
        assert answer, "the parent of the bots has ended; its log tells why"
        return answer


@contextlib.asynccontextmanager
async def forks_of(platform: str, environ: Mapping[str, str], folder: Path) -> AsyncIterator[Forks]:
    """The parent, until the context ends. What the bots log goes to ``folder``."""
    log = await asyncio.to_thread((folder / f"bots-{platform}.log").open, "ab")
    parent = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.integration.bots.forks",
        platform,
        env=dict(environ),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=log,
    )
    log.close()
    forks = Forks(parent)
    try:
        yield forks
    finally:
        await forks.end(signal.SIGTERM)
        parent.kill()
        await parent.wait()


def serve(platform: str) -> None:
    """The parent: forks a process for each line ``start``, and waits for one for each line ``wait PID``."""
    entry = importlib.import_module("bots.__main__")
    importlib.import_module(f"bots.{platform}.process")
    for line in sys.stdin:
        match line.split():
            case ["start"]:
                pid = os.fork()
                if pid == 0:
                    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
                    os.dup2(2, 1)
                    os._exit(entry.main([platform]))
                sys.stdout.write(f"{pid}\n")
            case ["wait", pid_text]:
                os.waitpid(int(pid_text), 0)
                sys.stdout.write("gone\n")
        sys.stdout.flush()


if __name__ == "__main__":
    serve(sys.argv[1])

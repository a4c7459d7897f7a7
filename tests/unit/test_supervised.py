"""A server process of a replica's own: brought back whenever it dies, gone when the replica is."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import textwrap
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import aiohttp
import psutil
import pytest

from deployments.comfyui.engine import ComfyEngine
from deployments.comfyui.workflows import load_workflows
from deployments.supervised import Manners, SupervisedProcess
from deployments.supervised_guard import LOG_BYTES, Log
from tessera.engine import Done
from tessera.errors import Busy, EngineError
from tessera.manifests import shipped
from tests.conformance.cases import until
from tests.conformance.engine_suite import collected
from tests.conformance.harness_comfyui import QUICK, asked

ROOT = Path(__file__).parents[2]
QUICKLY = Manners(check_s=0.2, backoff_s=(0.05,), stop_s=3.0, start_s=60.0, sick_s=2.0)
# Answers 200 on any path, and has a child that would outlive it.
SERVER = """
import http.server, os, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
print("child", child.pid, flush=True)
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if os.path.exists(sys.argv[2]):
            time.sleep(600)
        self.send_response(200); self.end_headers(); self.wfile.write(str(os.getpid()).encode())
    def log_message(self, *_): pass
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


class Served:
    """The small server above under supervision."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.hang = folder / "hang"
        script = folder / "server.py"
        script.write_text(SERVER)
        self.log = folder / "server.log"
        self.process = SupervisedProcess(
            [sys.executable, str(script), str(self.port), str(self.hang)],
            name="small",
            log_file=self.log,
            healthy=self.healthy,
            manners=QUICKLY,
        )

    async def pid(self) -> int:
        async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{self.port}/") as answer:
            return int(await answer.text())

    async def healthy(self) -> bool:
        return await self.pid() > 0

    def children(self) -> list[int]:
        return [int(line.split()[1]) for line in self.log.read_text().splitlines() if line.startswith("child")]


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    made = Served(tmp_path)
    made.process.start()
    await made.process.wait_until_up()
    yield made
    await made.process.stop()


def lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


async def gone(*pids: int) -> None:
    async def all_gone() -> bool:
        return not any(map(lives, pids))

    await until(all_gone)


async def test_a_server_that_is_killed_comes_back_and_its_children_do_not_stay(served: Served) -> None:
    first = await served.pid()
    children = served.children()
    os.kill(first, signal.SIGKILL)

    async def is_back() -> bool:
        return served.process.starts == 2 and served.process.up

    await until(is_back)
    assert await served.pid() != first
    await gone(*children)


async def test_a_server_that_no_longer_answers_is_started_again(served: Served) -> None:
    first = await served.pid()
    served.hang.touch()
    await gone(first)
    served.hang.unlink()

    async def is_back() -> bool:
        return served.process.up

    await until(is_back)
    assert "did not answer" in served.log.read_text() or served.process.starts >= 2


async def test_a_stop_ends_the_server_and_all_that_it_has_started(served: Served) -> None:
    pids = [await served.pid(), *served.children()]
    assert all(map(lives, pids))
    await served.process.stop()
    assert not any(map(lives, pids))
    assert "it was ended" in served.process.describe()
    assert "[guard] ended with status" in served.log.read_text()


async def test_a_command_that_cannot_be_started_is_told_with_its_log(tmp_path: Path) -> None:
    async def healthy() -> bool:
        return False

    process = SupervisedProcess(
        "/no/such/program", name="none", log_file=tmp_path / "a.log", healthy=healthy, manners=QUICKLY
    )
    process.start()

    async def tried_twice() -> bool:
        return process.starts >= 2

    await until(tried_twice)
    await process.stop()
    assert "cannot be started" in (tmp_path / "a.log").read_text()


async def test_a_replica_that_is_killed_leaves_no_orphan(tmp_path: Path) -> None:
    """The replica is a process of its own here, so that it can be ended by kill -9."""
    script = tmp_path / "server.py"
    script.write_text(SERVER)
    port, log = free_port(), tmp_path / "server.log"
    code = textwrap.dedent(f"""
        import asyncio, sys
        from pathlib import Path
        from deployments.supervised import SupervisedProcess
        async def healthy(): return True
        async def main():
            command = [sys.executable, {str(script)!r}, {str(port)!r}, "/nothing"]
            process = SupervisedProcess(command, name="x", log_file=Path({str(log)!r}), healthy=healthy)
            process.start()
            await asyncio.sleep(600)
        asyncio.run(main())
    """)
    replica = await asyncio.create_subprocess_exec(sys.executable, "-c", code, cwd=ROOT)

    async def has_child() -> bool:
        return log.exists() and "child" in log.read_text()

    await until(has_child)
    family = [p.pid for p in psutil.Process(replica.pid).children(recursive=True)]
    child = int(log.read_text().partition("child ")[2].split()[0])
    assert child in family and len(family) >= 3  # the guard, the server, the server's child
    replica.kill()
    await replica.wait()
    await gone(*family)


async def test_the_server_sees_no_secret_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", "/secret")
    monkeypatch.setenv("DATABASE_URL", "postgres://secret")
    process = SupervisedProcess(
        [sys.executable, "-c", "import os, time; print('env', sorted(os.environ), flush=True); time.sleep(60)"],
        name="env",
        log_file=tmp_path / "env.log",
        healthy=_always,
        env={"MINE": "1"},
        manners=QUICKLY,
    )
    process.start()

    async def has_told() -> bool:
        return (tmp_path / "env.log").exists() and "env [" in (tmp_path / "env.log").read_text()

    await until(has_told)
    await process.stop()
    said = (tmp_path / "env.log").read_text()
    assert "'MINE'" in said and "RAY_AUTH" not in said and "DATABASE_URL" not in said


def test_the_log_has_a_bounded_size(tmp_path: Path) -> None:
    log = Log(tmp_path / "server.log")
    for _ in range(6):
        log.write(b"x" * (LOG_BYTES + 1))
    log.write(b"last")
    log.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "server.log",
        "server.log.1",
        "server.log.2",
        "server.log.3",
    ]
    assert (tmp_path / "server.log").read_bytes() == b"last"


async def _always() -> bool:
    return True


def family_of(folder: Path) -> list[int]:
    """The guard that logs into the folder, then its descendants: not what else this process has started."""
    for child in psutil.Process(os.getpid()).children():
        with suppress(psutil.Error):  # it has just ended
            if any(part.startswith(str(folder)) for part in child.cmdline()):
                return [child.pid, *(below.pid for below in child.children(recursive=True))]
    return []


async def test_ten_kills_under_load_lose_no_job_and_leave_no_orphan(tmp_path: Path) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"

    async def healthy() -> bool:
        async with aiohttp.ClientSession() as session, session.get(f"{url}/system_stats") as answer:
            return answer.status == 200

    process = SupervisedProcess(
        [sys.executable, "-m", "tests.fakes.comfyui", "--port", str(port), "--step-s", "0.01"],
        name="comfyui",
        log_file=tmp_path / "comfyui.log",
        healthy=healthy,
        cwd=ROOT,
        manners=QUICKLY,
    )
    engine = ComfyEngine(url, load_workflows(shipped(), ["sd15"]), patience=QUICK, supervisor=process)
    await engine.start()
    await process.wait_until_up()
    kills, pids = 0, set()
    done, attempts = 0, 0
    stop = asyncio.Event()

    async def kill_it() -> None:
        nonlocal kills
        while kills < 10:
            await process.wait_until_up()
            await asyncio.sleep(0.3)  # so that it falls into a run
            starts = process.starts
            for pid in family_of(tmp_path)[1:2]:  # the server; the first one is its guard
                pids.add(pid)
                os.kill(pid, signal.SIGKILL)
                kills += 1
                await gone(pid)

            async def started_again(before: int = starts) -> bool:
                return process.starts > before or not process.up

            await until(started_again)
        stop.set()

    killer = asyncio.create_task(kill_it())
    while not stop.is_set() or done < 12:
        if killer.done():
            await killer  # what ended it ends the test
        job = asked("sd15", prompt=f"job {done}", width=64, height=64)
        for attempt in range(1, 10_000):  # what the scheduler does: again, under a new attempt
            attempts += 1
            try:
                events = await collected(engine, job, attempt)
            except (Busy, EngineError) as error:
                assert error.retryable, error
                await asyncio.sleep(0.1)
                continue
            assert isinstance(events[-1], Done)
            done += 1
            break
        else:
            raise AssertionError("a job was lost")
    await killer
    family = family_of(tmp_path)
    await engine.close()
    assert family and kills == 10 and process.starts >= 10 and attempts > done
    await gone(*family, *pids)


async def test_a_watch_that_fails_starts_the_server_again(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    spawned = served.process._spawn
    failures = iter([OSError("Resource temporarily unavailable")])

    async def spawn() -> None:
        for failure in failures:
            raise failure
        await spawned()

    monkeypatch.setattr(served.process, "_spawn", spawn)
    served.process.restart()

    async def is_back() -> bool:
        return served.process.starts == 2 and served.process.up

    await until(is_back)

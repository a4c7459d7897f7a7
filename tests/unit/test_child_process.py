"""A replica's own subprocess: calls, cancels, and every way to end."""

from __future__ import annotations

import asyncio
import io
import os
import signal
from collections.abc import AsyncIterator

import pytest

from deployments.child import frames
from deployments.child.process import ChildProcess
from tessera.errors import Busy, EngineError, InvalidInput, Lost, OutOfMemory
from tests.conformance.cases import until
from tests.unit.test_koboldcpp_server import holds


@pytest.fixture
async def child() -> AsyncIterator[ChildProcess]:
    made = ChildProcess("tests.fakes.child", name="test process")
    await made.start()
    yield made
    await made.stop()


async def numbers(child: ChildProcess, upto: int, pause_s: float = 0.0) -> list[int]:
    call = await child.begin("count", upto=upto, pause_s=pause_s)
    return [body[0] async for head, body in call.frames() if "number" in head]


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


async def test_calls_run_beside_each_other_and_keep_their_frames_apart(child: ChildProcess) -> None:
    slow, quick = await asyncio.gather(numbers(child, 20, 0.01), numbers(child, 5))
    assert (slow, quick) == (list(range(20)), list(range(5)))
    assert await child.call("count", upto=3) == {"counted": 3}


async def test_a_cancel_ends_the_call_without_an_end_and_the_process_goes_on(child: ChildProcess) -> None:
    call = await child.begin("count", upto=10_000, pause_s=0.01)
    seen = []
    async for head, _body in call.frames():
        seen.append(head)
        await call.cancel()
    assert seen and not any("end" in head for head in seen)
    assert await child.call("count", upto=1) == {"counted": 1}


async def test_what_a_library_prints_breaks_no_frame(child: ChildProcess) -> None:
    assert await child.call("chatter") == {}
    assert await numbers(child, 3) == [0, 1, 2]


@pytest.mark.parametrize(("how", "expected"), [("refuse", InvalidInput), ("memory", OutOfMemory), ("bug", EngineError)])
async def test_an_error_of_a_call_is_what_it_was_and_ends_only_that(
    child: ChildProcess, how: str, expected: type[Exception]
) -> None:
    with pytest.raises(expected):
        await child.call("fail", how=how)
    assert child.alive


async def test_a_process_that_is_killed_loses_its_calls_and_the_next_start_makes_a_new_one(child: ChildProcess) -> None:
    first = child.pid
    waiting = [asyncio.create_task(numbers(child, 10_000, 0.01)) for _ in range(3)]
    await numbers(child, 1)
    assert first is not None
    os.kill(first, signal.SIGKILL)
    for call in waiting:
        with pytest.raises(Lost, match="killed by SIGKILL"):
            await call
    with pytest.raises(Lost, match="does not run"):
        await child.call("count", upto=1)
    before = child.generation
    await child.start()
    assert child.pid != first and child.generation == before + 1
    assert await numbers(child, 2) == [0, 1]


async def test_a_process_that_cannot_go_on_tells_why_and_ends(child: ChildProcess) -> None:
    with pytest.raises(EngineError, match="device is lost"):
        await child.call("fail", how="fatal")
    await until(holds(lambda: not child.alive))
    await child.start()
    assert await numbers(child, 1) == [0]


async def test_a_process_that_speaks_nonsense_is_ended(child: ChildProcess) -> None:
    # The pipe's own descriptor is the lowest free one after the three standard ones.
    with pytest.raises(Lost):
        await child.call("fail", how="nonsense", pipe=3)
    assert not child.alive


async def test_a_process_that_keeps_dying_rests_before_it_is_started_again() -> None:
    child = ChildProcess("tests.fakes.child", ["--dies"], name="test process")
    for _ in range(2):
        with pytest.raises(EngineError, match=r"does not start \(status 3\)"):
            await child.start()
    assert child.rests_s() > 0
    with pytest.raises(Busy, match="started again in"):
        await child.start()
    assert child.generation == 2
    await child.stop()


async def test_it_ends_when_its_replica_is_gone(child: ChildProcess) -> None:
    pid = child.pid
    assert pid is not None and child._process is not None and child._process.stdin is not None
    running = asyncio.create_task(numbers(child, 10_000, 0.01))
    await numbers(child, 1)
    child._process.stdin.close()  # what the kernel does when the replica is killed
    with pytest.raises(Lost):
        await running
    await until(holds(lambda: gone(pid)))


async def test_it_inherits_no_secret_and_never_downloads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", "/secret")
    monkeypatch.setenv("TESSERA_HOME", "/home")
    monkeypatch.setenv("DATABASE_URL", "postgres://secret")
    child = ChildProcess("tests.fakes.child", name="test process")
    await child.start()
    said = await child.call("environment")
    await child.stop()
    assert said["offline"] == "1"
    assert not [name for name in said["names"] if name.startswith(("RAY_", "TESSERA_", "DATABASE_URL"))]


def test_a_frame_is_read_as_it_was_written() -> None:
    stream = io.BytesIO(frames.pack({"id": 1, "text": "ü"}, b"\x00\x01") + frames.pack({"id": 2}))
    assert frames.read(stream) == ({"id": 1, "text": "ü"}, b"\x00\x01")
    assert frames.read(stream) == ({"id": 2}, b"")
    assert frames.read(stream) is None


@pytest.mark.parametrize(
    "data",
    [b"\x00\x00", frames.pack({"id": 1}, b"body")[:-1], b"\xff" * 64, frames.LENGTHS.pack(2, 0) + b"[]",
     frames.LENGTHS.pack(2, 0) + b"{x"],
)  # fmt: skip
async def test_what_is_no_frame_is_refused(data: bytes) -> None:
    with pytest.raises(frames.BrokenPipe):
        frames.read(io.BytesIO(data))
    reader = asyncio.StreamReader()
    reader.feed_data(data)
    reader.feed_eof()
    with pytest.raises(frames.BrokenPipe):
        await frames.receive(reader)

"""Whether an engine works: one bad probe is none, two are, a good one ends it; the scheduler hears of each change."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from deployments import engine_health
from deployments.engine_health import EngineHealth
from deployments.noop import NoopEngine
from deployments.worker import Worker
from tessera.artifacts import FolderStore
from tessera.engine import Health
from tessera.errors import Lost

GONE = "nothing answers there"


class Ailing(NoopEngine):
    """A noop engine whose backend can be gone."""

    wrong: str | Exception = ""

    async def probe(self) -> Health:
        if isinstance(self.wrong, Exception):
            raise self.wrong
        return Health(ok=not self.wrong, version="noop/1", message=self.wrong)


@pytest.mark.parametrize("wrong", [GONE, Lost(GONE), OSError(GONE)])
async def test_two_bad_probes_in_a_row_are_away_and_a_good_one_is_back(wrong: str | Exception) -> None:
    engine, told = Ailing(), []
    health = EngineHealth(engine, lambda: told.append(health.away))
    await health.look()
    engine.wrong = wrong
    await health.look()
    assert health.away == "" and told == []
    await health.look()
    assert health.away == GONE
    await health.look()
    engine.wrong = ""
    await health.look()
    assert told == [GONE, ""]


async def test_a_worker_tells_on_its_watch_stream_that_its_engine_is_away_and_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_health, "EVERY_S", 0.01)
    engine = Ailing()
    worker = Worker(name="w", engine=engine, artifacts=FolderStore(tmp_path), slots=1, models=["noop"])
    stream = worker.watch()
    try:
        async with asyncio.timeout(30):
            assert (await anext(stream)).away == ""
            engine.wrong = GONE
            while (await anext(stream)).away != GONE:
                pass
            engine.wrong = ""
            while (await anext(stream)).away:
                pass
    finally:
        await stream.aclose()
        await worker.close()

"""The noop engine, over its backend in a folder and in batches: what shows that the cases can be passed."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from deployments.noop import NoopEngine
from deployments.noop_backend import NoopBackend
from tessera.engine import Engine, EngineJob, backend_id
from tests.conformance.harness import Harness, HarnessKind, HarnessMaker
from tests.conformance.test_preview import job

NO_BACKEND = "its runs are its own: there is nothing beside it to be killed"
NO_SERVER = "a folder is its server: it answers at once, or not at all"


class NoopHarness(Harness):
    """Three slots, three jobs in a call, no weights."""

    name = "noop"
    kind = HarnessKind.LIBRARY
    slots = 3
    without: ClassVar[Mapping[str, str]] = {
        "a slow server is waited for": NO_SERVER,
        "garbage answers never end as done": NO_SERVER,
        "a broken connection ends no other run": NO_SERVER,
        "out of memory is told as that": "tests/conformance/test_noop_models.py has it: it is asked for by the prompt",
        "a missing model is told by its name": "its models have no files",
        "an oversized output is refused": "it makes no files",
    }

    async def open(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="noop-"))

    async def close(self) -> None:
        shutil.rmtree(self._folder)

    def engine(self) -> Engine:
        return NoopEngine(slots=self.slots, backend=NoopBackend(self._folder), batch_max=3)

    def quick(self) -> EngineJob:
        return self._asked("sleep 0.25")

    def slow(self) -> EngineJob:
        return self._asked("sleep 60")

    def bad(self) -> EngineJob:
        return self._asked("fail invalid")

    async def submissions(self, job: EngineJob, attempt: int) -> int | None:
        return NoopBackend(self._folder).runs().count(backend_id(job.id, attempt))

    async def kill(self) -> None:
        shutil.rmtree(self._folder)

    async def start(self) -> None:
        self._folder.mkdir()

    @staticmethod
    def _asked(prompt: str, **more: Any) -> EngineJob:
        return job("text", model="noop", prompt=prompt, **more)


class NoopBatchHarness(NoopHarness):
    """The same as one that takes four jobs in a call, without a backend: its runs end with it."""

    name = "noop, in batches"
    slots = 4
    without: ClassVar[Mapping[str, str]] = {
        **NoopHarness.without,
        "the server is killed in the middle": NO_BACKEND,
        "the server is restarted under a run": NO_BACKEND,
        "the server is restarted between runs": NO_BACKEND,
    }

    def engine(self) -> Engine:
        return NoopEngine(slots=self.slots, batch_max=self.slots)

    def small(self) -> EngineJob:
        return self._asked("go")

    async def submissions(self, job: EngineJob, attempt: int) -> int | None:
        return None


def harnesses(environ: Mapping[str, str]) -> list[HarnessMaker]:
    """The noop engine needs no server."""
    return [NoopHarness, NoopBatchHarness]

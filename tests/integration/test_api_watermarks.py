"""Watermarks: before something is full, new work is refused and everything else goes on."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tessera.artifacts import FolderStore
from tessera.config import ClusterConfig, IngressConfig, NodeConfig
from tests.integration.api_server import Api, running

JOB = {"kind": "text", "input": {"prompt": "hello"}}


class Disk(FolderStore):
    """A store on a disk with so much room."""

    free: int | None = 10_000

    def free_mib(self) -> int | None:
        return self.free


@pytest.fixture
async def disk(tmp_path: Path) -> Disk:
    return Disk(tmp_path / "artifacts")


@pytest.fixture
async def small(database_url: str, tmp_path: Path, disk: Disk) -> AsyncIterator[Api]:
    """An API that holds two waiting jobs and wants 100 MiB to be free."""
    ingress = IngressConfig(max_backlog=2, min_free_disk_mib=100)
    cluster = ClusterConfig(nodes=(NodeConfig(name="pc2"),), ingress=ingress)
    async with running(database_url, tmp_path, cluster=cluster, store=disk) as started:
        yield started


async def test_past_the_backlog_submissions_are_refused_and_readers_go_on(small: Api) -> None:
    jobs = [await small.submit() for _ in range(2)]
    await small.services.watermarks.look()
    answer, problem = await small.call("POST", "/v1/jobs", json=JOB)
    assert (answer.status, problem["code"], problem["retryable"]) == (503, "unavailable", True)
    assert "2 jobs wait" in problem["detail"]
    assert answer.headers["Retry-After"] == "30"
    answer, ready = await small.call("GET", "/readyz", key=None)
    assert (answer.status, ready["watermarks"], ready["database"]) == (503, ["backlog"], "ok")
    answer, _ = await small.call("GET", f"/v1/jobs/{jobs[0]['id']}")
    assert answer.status == 200
    answer, _ = await small.call("POST", f"/v1/jobs/{jobs[0]['id']}/cancel")
    assert answer.status == 200
    await small.services.watermarks.look()
    await small.submit()


async def test_a_disk_that_is_nearly_full_refuses_jobs_and_uploads_until_there_is_room(small: Api, disk: Disk) -> None:
    disk.free = 99
    await small.services.watermarks.look()
    for path, body in (("/v1/jobs", {"json": JOB}), ("/v1/uploads", {"data": b"x"})):
        answer, problem = await small.call("POST", path, **body)
        assert (answer.status, problem["code"]) == (503, "unavailable")
    disk.free = 100
    await small.services.watermarks.look()
    await small.submit()


async def test_a_store_that_cannot_tell_its_room_is_no_watermark(small: Api, disk: Disk) -> None:
    disk.free = None
    await small.services.watermarks.look()
    await small.submit()

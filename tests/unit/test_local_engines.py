"""What ``tessera doctor`` finds out about the servers behind a node's workers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tessera.config import ClusterConfig, parse_cluster
from tessera.local.engines import EngineLook, Look, look_at_engines
from tests.conformance.harness_comfyui import shipped_files
from tests.fakes.comfyui import FakeComfy

CLUSTER = """
[[nodes]]
name = "pc1"
[[nodes.devices]]
name = "gpu"
kind = "gpu"
vram_mib = 8000
[[workers]]
name = "comfyui"
engine = "comfyui"
models = ["sd15", "wan21"]
node = "pc1"
slots = 1
options = {{ url = "{url}", dead_s = 1{more} }}
"""


@pytest.fixture
async def server() -> AsyncIterator[FakeComfy]:
    fake = FakeComfy(shipped_files())
    await fake.start()
    yield fake
    await fake.kill()


def cluster(url: str, more: str = "") -> ClusterConfig:
    return parse_cluster(CLUSTER.format(url=url, more=more))


async def look(url: str, more: str = "") -> EngineLook:
    [found] = await asyncio.to_thread(look_at_engines, cluster(url, more), "pc1")
    return found


async def test_a_server_that_works_is_told_with_its_version_models_memory_and_a_job(server: FakeComfy) -> None:
    found = await look(server.url)
    assert found.look is Look.WORKS, found
    assert "comfyui/0.24.0; 2 of 2 models there; 15360 MiB of VRAM free; a picture in" in found.detail
    assert len(server.graphs) == 1


async def test_a_missing_file_is_named_with_the_command_that_tells_more(server: FakeComfy) -> None:
    server.files["diffusion_models"].remove("wan2.1_t2v_1.3B_fp16.safetensors")
    server.files["clip_vision"].clear()
    found = await look(server.url)
    assert found.look is Look.LACKS
    assert "wan2.1_t2v_1.3B_fp16.safetensors" in found.detail and "workflows check wan21" in found.fix


@pytest.mark.parametrize(
    ("knobs", "said"),
    [({"is_kobold": True}, "is a KoboldCPP"), ({"dead_worker": True}, "begins none"), ({"garbage": True}, "no JSON")],
)
async def test_what_is_wrong_with_a_server_fails_the_check(server: FakeComfy, knobs: dict[str, Any], said: str) -> None:
    for name, value in knobs.items():
        setattr(server.knobs, name, value)
    found = await look(server.url)
    assert found.look is Look.FAILS and found.fix
    assert said in found.detail or "does not answer" in found.detail


async def test_a_server_that_is_not_there_fails_and_a_supervised_one_is_not_started(
    server: FakeComfy, tmp_path: Path
) -> None:
    await server.kill()
    mark = tmp_path / "started"
    found = await look(server.url, f', command = "touch {mark}"')
    assert found.look is Look.FAILS and "does not answer" in found.detail
    assert not mark.exists()


def test_previews_have_no_server_to_look_at() -> None:
    assert look_at_engines(cluster("http://127.0.0.1:9"), "pc2") == []

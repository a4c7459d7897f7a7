"""On a cluster of two nodes every engine's worker lands where the cluster file says, and moves nowhere else."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tessera.config import ConfigError, parse_cluster
from tests.acceptance.placement import CLUSTER


@pytest.mark.timeout(600)
def test_every_engine_lands_on_its_node_and_waits_for_it_when_it_is_away() -> None:
    """In a process of its own: it starts a Ray cluster, and a process has only one."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "TESSERA_"))}
    done = subprocess.run(
        [sys.executable, "-m", "tests.acceptance.placement"],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=580,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    assert done.stdout.strip().endswith("placed 5 of 5")


def test_a_node_offers_what_its_workers_ask_for() -> None:
    cluster = parse_cluster(CLUSTER)
    assert cluster.node_resources("pc1") == (
        1,
        {"pc1": 100.0, "comfyui": 1.0, "koboldcpp": 1.0, "whisper": 1.0, "speech": 1.0},
    )
    assert cluster.node_resources("pc2") == (0, {"pc2": 100.0})


def test_workers_that_ask_for_more_than_one_gpu_together_are_refused_with_the_sum() -> None:
    with pytest.raises(
        ConfigError, match=r"device 'pc1-gpu' ask for 1\.3 of one GPU together \(comfyui 0\.5, koboldcpp"
    ):
        parse_cluster(CLUSTER.replace("num_gpus = 0.3", "num_gpus = 0.6"))

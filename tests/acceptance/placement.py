"""Two nodes, one of them with a GPU that does not exist: on which node every engine's worker lands.

``python -m tests.acceptance.placement`` starts a Ray cluster of its own (head pc2, second raylet pc1), deploys the
workers of a cluster file as the platform does, and prints the placement from Ray's state API. Then pc1 goes away and
comes back: its workers wait for it, and move nowhere else. The last line is ``placed N of N`` or what is wrong.
"""

from __future__ import annotations

import os
import secrets
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

CLUSTER = """
[[nodes]]
name = "pc2"
[[nodes.devices]]
name = "pc2-cpu"
kind = "cpu"
vram_mib = 4096

[[nodes]]
name = "pc1"
[[nodes.devices]]
name = "pc1-gpu"
kind = "gpu"
vram_mib = 22000

[[workers]]
name = "preview"
engine = "preview"
models = ["preview-text"]
node = "pc2"
slots = 1

[[workers]]
name = "comfyui"
engine = "comfyui"
models = ["sdxl"]
node = "pc1"
slots = 1
num_gpus = 0.5
resources = { comfyui = 1 }
options = { url = "http://127.0.0.1:1" }

[[workers]]
name = "koboldcpp"
engine = "koboldcpp"
models = ["qwen25-7b", "llama31-8b"]
node = "pc1"
slots = 1
num_gpus = 0.3
resources = { koboldcpp = 1 }
options = { url = "http://127.0.0.1:1" }

[[workers]]
name = "whisper"
engine = "whisper"
models = ["whisper-large-v3-turbo"]
node = "pc1"
slots = 1
num_gpus = 0.2
resources = { whisper = 1 }
options = { device = "cuda" }

[[workers]]
name = "speech"
engine = "speech"
models = ["kokoro", "espeak-ng"]
node = "pc1"
slots = 1
resources = { speech = 1 }
"""
LIMIT_S = 120.0
STAYS_S = 6.0  # so long it is looked whether a worker whose node is gone turns up elsewhere


def tell(text: str) -> None:
    """Write at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def prepare(home: Path) -> None:
    """What the replicas read: the cluster file and the settings of an installation."""
    os.environ.update(
        {
            "TESSERA_HOME": str(home),
            "TESSERA_CLUSTER": str(home / "cluster.toml"),
            # Its ports are on all interfaces: who has no token is turned away.
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "RAY_raylet_start_wait_time_s": "120",
            "RAY_USAGE_STATS_ENABLED": "0",
        }
    )
    for name in ("RAY_ADDRESS", "TESSERA_RAY", "RAY_AUTH_TOKEN_PATH"):
        os.environ.pop(name, None)
    (home / "cluster.toml").write_text(CLUSTER, encoding="utf-8")


def placements(ray: Any, state: Any) -> dict[str, str]:
    """Worker → the node its living replica is on, by Ray's state API."""
    nodes = {
        node["NodeID"]: next((name for name in ("pc1", "pc2") if name in node["Resources"]), "?")
        for node in ray.nodes()
        if node["Alive"]
    }
    found = {}
    for actor in state.list_actors(filters=[("state", "=", "ALIVE")], detail=True, limit=1000):
        if "ServeReplica:worker-" in actor.class_name:
            worker = actor.class_name.removeprefix("ServeReplica:worker-").rpartition(":")[0]
            found[worker] = nodes.get(actor.node_id, "(gone)")
    return found


def until(what: str, condition: Callable[[], bool]) -> None:
    """Wait for a condition. Raises TimeoutError."""
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(what)
        time.sleep(0.5)


def table(title: str, cluster: Any, found: Mapping[str, str]) -> None:
    """Print the placement, with what each worker asks of Ray."""
    tell(f"\n{title}\n{'worker':<11} {'engine':<10} {'wanted':<7} {'is on':<7} {'num_gpus':>8}  resources")
    for worker in cluster.workers:
        asked = ", ".join(f"{name} {amount:g}" for name, amount in worker.ray_resources().items())
        on = found.get(worker.name, "waits")
        tell(f"{worker.name:<11} {worker.engine:<10} {worker.node:<7} {on:<7} {worker.num_gpus:>8g}  {asked}")


def main() -> int:
    """Run it; 0 when every worker was where it belongs, always."""
    home = Path(tempfile.mkdtemp(prefix="placement-"))
    prepare(home)

    import ray
    from ray import serve
    from ray.cluster_utils import Cluster
    from ray.util import state

    from deployments.app import build_worker
    from tessera.config import Settings, load_cluster

    config = load_cluster(os.environ)
    Settings(
        home=home, database_url="postgresql://nowhere/", artifacts_url=str(home / "artifacts"), cluster=config
    ).save()

    def join() -> Any:
        gpus, resources = config.node_resources("pc1")
        return nodes.add_node(num_cpus=2, num_gpus=gpus, resources=resources)

    _, own = config.node_resources("pc2")
    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "num_gpus": 0, "resources": own})
    pc1 = join()
    wanted = {worker.name: worker.node for worker in config.workers}
    at_home = {name: node for name, node in wanted.items() if node == "pc2"}
    try:
        ray.init(address=nodes.address, log_to_driver=False, logging_level="ERROR")
        serve.start(http_options={"location": "NoServer"})
        serve.run_many(
            [
                serve.RunTarget(build_worker(config, worker), name=worker.application, route_prefix=None)
                for worker in config.workers
            ],
            wait_for_applications_running=False,
        )
        until("every worker is placed", lambda: placements(ray, state) == wanted)
        table("both nodes", config, placements(ray, state))
        nodes.remove_node(pc1, allow_graceful=False)
        until("the workers of pc1 are gone", lambda: placements(ray, state) == at_home)
        deadline = time.monotonic() + STAYS_S
        while time.monotonic() < deadline:
            found = placements(ray, state)
            if found != at_home:
                tell(f"moved: {found}")
                return 1
            time.sleep(0.5)
        table(f"pc1 gone, after {STAYS_S:g} s", config, placements(ray, state))
        join()
        until("the workers of pc1 are back", lambda: placements(ray, state) == wanted)
        table("pc1 is back", config, placements(ray, state))
    except TimeoutError as error:
        tell(f"after {LIMIT_S:g} s it does not hold that {error}: {placements(ray, state)}, wanted {wanted}")
        return 1
    finally:
        serve.shutdown()
        ray.shutdown()
        nodes.shutdown()
    tell(f"\nplaced {len(wanted)} of {len(wanted)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

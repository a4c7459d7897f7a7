"""``build(args) -> Application``: the one entry point of every Serve application of the platform.

The control plane is one application and each worker is one of its own, so that a node that is off or a worker that
changed touches only its own. ``args``:

* ``{"app": "control", "fingerprint": …}``
* ``{"app": "artifacts", "fingerprint": …}``: only where a worker is on another node than the store
* ``{"app": "worker", "worker": "<name in cluster.toml>", "fingerprint": …}``

``fingerprint`` changes when the configuration of that part does; Serve then replaces it, and only it.
"""

from __future__ import annotations

import os
from typing import Any

from ray import serve
from ray.serve import Application

from deployments.artifact_handle import DEPLOYMENT as STORE_DEPLOYMENT
from deployments.artifact_handle import ServedStore
from deployments.serving import ServedWorker
from tessera.config import ClusterConfig, WorkerConfig, load_cluster
from tessera.scheduler.actor import WORKER_DEPLOYMENT

HEALTH_PERIOD_S = 10.0
HEALTH_TIMEOUT_S = 30.0  # generous (start): a healthy replica on a busy core must not be replaced
# The ingress writes its own access log, and the calls of a handle are no news. Below its level a line costs nothing:
# only switched off it is made and then thrown away, 2 % of a replica's time.
QUIET = {"enable_access_log": False, "log_level": "WARNING"}
WATCHERS = 16  # open watch streams, and calls beside them


def build(args: dict[str, Any]) -> Application:
    """The Serve application that ``args`` names. Raises ConfigError for a worker that is not in cluster.toml."""
    cluster = load_cluster(os.environ)
    if args.get("app") == "worker":
        return build_worker(cluster, cluster.worker(str(args["worker"])))
    if args.get("app") == "artifacts":
        return build_artifacts(cluster)
    return build_control(cluster)


def build_control(cluster: ClusterConfig) -> Application:
    """The HTTP ingress, bound to the head node."""
    # Only here: whoever builds a worker's application needs neither FastAPI nor the API, which take seconds to import.
    from deployments.ingress import Ingress

    ingress = cluster.ingress
    deployment = serve.deployment(
        name="ingress",
        num_replicas=ingress.replicas,
        max_ongoing_requests=ingress.max_ongoing_requests,
        health_check_period_s=HEALTH_PERIOD_S,
        health_check_timeout_s=HEALTH_TIMEOUT_S,
        graceful_shutdown_timeout_s=ingress.graceful_shutdown_s,
        graceful_shutdown_wait_loop_s=0.2,
        logging_config=QUIET,
        ray_actor_options={"num_cpus": 0, "resources": {cluster.head.name: 0.01}},
    )(Ingress)
    return deployment.bind()


def build_artifacts(cluster: ClusterConfig) -> Application:
    """The artifact store for the workers of other nodes, bound to the head node."""
    deployment = serve.deployment(
        name=STORE_DEPLOYMENT,
        num_replicas=1,
        max_ongoing_requests=64,
        health_check_period_s=HEALTH_PERIOD_S,
        health_check_timeout_s=HEALTH_TIMEOUT_S,
        ray_actor_options={"num_cpus": 0, "resources": {cluster.head.name: 0.01}},
    )(ServedStore)
    return deployment.bind()


def build_worker(cluster: ClusterConfig, worker: WorkerConfig) -> Application:
    """One worker: one replica on its node, with its share of the node's resources."""
    deployment = serve.deployment(
        name=WORKER_DEPLOYMENT,
        num_replicas=1,
        max_ongoing_requests=worker.slots + WATCHERS,
        health_check_period_s=HEALTH_PERIOD_S,
        health_check_timeout_s=HEALTH_TIMEOUT_S,
        graceful_shutdown_timeout_s=10,
        graceful_shutdown_wait_loop_s=0.2,
        logging_config=QUIET,
        ray_actor_options={
            "num_cpus": worker.num_cpus,
            "num_gpus": worker.num_gpus,
            "resources": worker.ray_resources(),
        },
    )(ServedWorker)
    return deployment.bind(worker.model_dump(mode="json"), worker.node == cluster.head.name)

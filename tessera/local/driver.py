"""What needs a Ray driver, as a short process of its own: ``python -m tessera.local.driver COMMAND``.

Ray reads most of its settings from the environment when it is imported, so a process that talks to a cluster must be
born with that cluster's environment (``RayHead.driver_environment``). Beside that, this keeps Ray's import (a second)
and its exit handlers out of the command line and the keeper. The answer is one line of JSON on stdout.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

TIMEOUT_S = 120.0


class DriverError(Exception):
    """The driver process failed; the message holds the last lines of what it said."""


def call(environment: Mapping[str, str], command: str, *arguments: str) -> dict[str, Any]:
    """Run a command in a driver process and return its answer. Raises ``DriverError``."""
    try:
        result = subprocess.run(
            [sys.executable, "-m", "tessera.local.driver", command, *arguments],
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=TIMEOUT_S,
        )
    except subprocess.TimeoutExpired as error:
        raise DriverError(f"'{command}' did not end within {TIMEOUT_S:.0f} s") from error
    lines = result.stdout.strip().splitlines()
    if result.returncode == 0 and lines:
        with suppress(ValueError):
            answer: dict[str, Any] = json.loads(lines[-1])
            return answer
    raise DriverError("\n".join(result.stderr.strip().splitlines()[-12:]) or f"exit code {result.returncode}")


def main(arguments: list[str]) -> int:
    """The process's side."""
    ray = _ray()

    command, *rest = arguments
    ray.init(
        address=os.environ["RAY_ADDRESS"],
        namespace="tessera",
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    try:
        answer = _COMMANDS[command](*rest)
    finally:
        ray.shutdown()
    sys.stdout.write(json.dumps(answer) + "\n")
    return 0


def _describe() -> dict[str, Any]:
    """The cluster as it is: for one that RAY_ADDRESS names."""
    ray = _ray()

    context = ray.get_runtime_context()
    url = ray._private.worker.global_worker.node.webui_url
    return {
        "address": context.gcs_address,
        "dashboard_url": f"http://{url}" if url else "",
        "resources": ray.cluster_resources(),
    }


def _scheduler(home: str, node: str, restart: str) -> dict[str, Any]:
    """See to the scheduler actor; ``restart`` 'yes' gives a running one a new process (new code or settings)."""
    ray = _ray()

    from tessera.scheduler.actor import ACTOR_NAME, NAMESPACE, ensure_scheduler

    if restart == "yes":
        with suppress(ValueError):
            ray.kill(ray.get_actor(ACTOR_NAME, namespace=NAMESPACE), no_restart=True)
            _wait_unnamed(ACTOR_NAME, NAMESPACE)
    handle = ensure_scheduler(home, node=node)
    return {"pid": ray.get(handle.pid.remote(), timeout=30)}


def _end(*applications: str) -> dict[str, Any]:
    """Take the platform out of a cluster that is not ours: the scheduler actor and the named applications."""
    ray = _ray()
    from ray import serve

    from tessera.scheduler.actor import ACTOR_NAME, NAMESPACE

    ended = []
    with suppress(ValueError):
        ray.kill(ray.get_actor(ACTOR_NAME, namespace=NAMESPACE), no_restart=True)
        ended.append("scheduler")
    running = set(serve.status().applications)
    for name in applications:
        if name in running:
            serve.delete(name)
            ended.append(name)
    return {"ended": ended}


def _wait_unnamed(name: str, namespace: str) -> None:
    """A killed actor keeps its name for an instant; get_if_exists would hand out the dead one."""
    ray = _ray()

    for _ in range(100):
        try:
            ray.get_actor(name, namespace=namespace)
        except ValueError:
            return
        time.sleep(0.05)


def _ray() -> Any:
    """Ray, whose own annotations are incomplete; imported only in the driver's process."""
    return importlib.import_module("ray")


_COMMANDS: dict[str, Callable[..., dict[str, Any]]] = {"describe": _describe, "scheduler": _scheduler, "end": _end}

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

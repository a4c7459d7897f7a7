"""A short Ray driver: what each worker says it runs. ``python -m tests.chaos.ask_workers NAME…`` prints JSON."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys

import ray
from ray import serve

from tessera.scheduler.actor import NAMESPACE, WORKER_DEPLOYMENT


async def _report(name: str) -> list[str]:
    handle = serve.get_deployment_handle(WORKER_DEPLOYMENT, f"worker-{name}")
    async with asyncio.timeout(30):
        report = await handle.report.remote()
    return [f"{run.job_id}.{run.attempt}" + (" ended" if run.outcome is not None else "") for run in report.runs]


async def _main(names: list[str]) -> dict[str, list[str]]:
    return {name: await _report(name) for name in names}


if __name__ == "__main__":
    ray.init(address=os.environ["RAY_ADDRESS"], namespace=NAMESPACE, log_to_driver=False, logging_level=logging.ERROR)
    try:
        sys.stdout.write(json.dumps(asyncio.run(_main(sys.argv[1:]))) + "\n")
    finally:
        ray.shutdown()

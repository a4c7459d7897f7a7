"""Ray Serve's bare handle call: an async actor calls a deployment that does nothing. Run in a driver's environment.

python serve_handle.py ROUNDS CALLS CONCURRENCY…; the answer is one line of JSON: calls per second of each round by
concurrency.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time

import ray
from ray import serve

NAME = "bench-nothing"


@serve.deployment(ray_actor_options={"num_cpus": 0}, max_ongoing_requests=256)
class Nothing:
    """Answers at once."""

    async def __call__(self) -> None:
        return None


@ray.remote(num_cpus=0)
class Caller:
    """Calls it, so many at a time."""

    async def measure(self, calls: int, concurrency: int) -> float:
        handle = serve.get_app_handle(NAME)
        left = calls

        async def one() -> None:
            nonlocal left
            while left > 0:
                left -= 1
                await handle.remote()

        began = time.perf_counter()
        await asyncio.gather(*(one() for _ in range(concurrency)))
        return calls / (time.perf_counter() - began)


def main() -> None:
    """Deploy, call, take away."""
    rounds, calls, *concurrencies = map(int, sys.argv[1:])
    ray.init(address=os.environ["RAY_ADDRESS"], namespace="tessera", log_to_driver=False)
    serve.run(Nothing.bind(), name=NAME, route_prefix=None)
    try:
        caller = Caller.remote()
        ray.get(caller.measure.remote(200, 16))
        found: dict[str, list[float]] = {str(c): [] for c in concurrencies}
        for _ in range(rounds):
            for c in concurrencies:
                found[str(c)].append(ray.get(caller.measure.remote(calls, c)))
    finally:
        serve.delete(NAME)
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()

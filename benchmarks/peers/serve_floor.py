"""The floor of a submission: a FastAPI application of its own behind the same Serve and HAProxy, with as many replicas
as the ingress, whose POST route takes the body and does nothing. Run in a driver's environment.

    python serve_floor.py up REPLICAS
    python serve_floor.py down
"""

from __future__ import annotations

import os
import sys

import ray
from fastapi import FastAPI, Request, Response
from ray import serve

NAME = "bench-floor"
app = FastAPI()


@app.post("/v1/jobs")
async def nothing(request: Request) -> Response:
    """What a submission would cost if there were nothing to do."""
    await request.body()
    return Response(b"{}", 202, media_type="application/json")


@serve.deployment(
    ray_actor_options={"num_cpus": 0}, max_ongoing_requests=1000, logging_config={"enable_access_log": False}
)
@serve.ingress(app)
class Floor:
    """Serves the one route."""


def main() -> None:
    """Put it up, or take it away."""
    command, *rest = sys.argv[1:]
    ray.init(address=os.environ["RAY_ADDRESS"], namespace="tessera", log_to_driver=False)
    if command == "up":
        serve.run(Floor.options(num_replicas=int(rest[0])).bind(), name=NAME, route_prefix=f"/{NAME}")
    else:
        serve.delete(NAME)
    sys.stdout.write("{}\n")


if __name__ == "__main__":
    main()

"""What a decision costs with many devices: the pure policy, told of one change at a time."""

from __future__ import annotations

import time
from uuid import UUID

from tessera.jobs import Kind, Tier
from tessera.policy import FreeWorker, ModelFacts, Policy, QueuedJob, Start

DEVICES = (1, 10, 100, 1_000, 10_000)
DECISIONS = 1_000
MODELS = {
    "picture": ModelFacts(kind=Kind.IMAGE, vram_mib=8000, load_s=12),
    "chat": ModelFacts(kind=Kind.TEXT, vram_mib=10_000, load_s=15),
    "clip": ModelFacts(kind=Kind.VIDEO, vram_mib=16_000, load_s=40),
}


def decisions_us(devices: int) -> float:
    """Microseconds of one arrival, its decision and what it changes, half of the devices busy; the median."""
    names = [f"gpu-{n}" for n in range(devices)]
    policy = Policy(models=MODELS, devices=[(name, "", 24_000) for name in names])
    wanted = frozenset(MODELS)
    free = {
        name: FreeWorker(name=name, device=name, models=wanted, free=1 if n % 2 == 0 else 0, slots=1)
        for n, name in enumerate(names)
    }
    for n, name in enumerate(names):
        policy.tell(name, [free[name]])
        for model in ("picture", "chat") if n % 4 else ("picture", "clip"):
            if MODELS[model].vram_mib <= 24_000 - policy.devices[name].taken_mib:
                policy.found_resident(name, name, model, 0.0)
    times = []
    for n in range(DECISIONS):
        user = UUID(int=1 + n % 50)
        policy.queue.set_cap(user, 1000)
        job = QueuedJob(
            id=UUID(int=1000 + n),
            user_id=user,
            tier=list(Tier)[n % 3],
            kind=Kind.IMAGE,
            model=("picture", "picture", "chat")[n % 3],
            cost_mt=1000,
            queued_at=float(n),
        )
        began = time.perf_counter()
        policy.queue.add(job)
        actions = policy.decide(100.0 + n)
        for action in actions:
            policy.apply(action, 100.0 + n)
        times.append(time.perf_counter() - began)
        for action in actions:
            if isinstance(action, Start):
                policy.ended(action.job, 100.5 + n)
                policy.fleet.look(action.device)
    times.sort()
    return times[len(times) // 2] * 1e6


def table() -> list[tuple[int, float]]:
    """(devices, microseconds) for each number of devices."""
    return [(devices, decisions_us(devices)) for devices in DEVICES]


if __name__ == "__main__":
    for devices, microseconds in table():
        print(f"{devices:>6} devices: {microseconds:.0f} µs")  # noqa: T201

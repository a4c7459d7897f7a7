"""What the parts of the scheduler share in one process: the mirror, the links, and who is told of what.

Each part owns its loop and its statements (``dispatcher``, ``finisher``, ``leases``, ``follower``, ``residency``,
``drains``); none keeps a copy of what is here. No I/O.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Coroutine, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from tessera.catalog import Catalog
from tessera.policy import RULES, FreeWorker, ModelFacts, Policy, Rules
from tessera.policy.estimates import Estimates
from tessera.policy.failures import Circuit, Failures
from tessera.policy.places import Places
from tessera.scheduler.links import WorkerLink
from tessera.scheduler.mirror import Mirror
from tessera.scheduler.notifier import Notifier


@dataclass(frozen=True, kw_only=True)
class DeviceSpec:
    """A configured device."""

    name: str
    node: str = ""
    vram_mib: int = 0


class Board:
    """The scheduler's shared state. ``mirror`` is replaced at the start of every term; what was learned stays."""

    def __init__(
        self, notifier: Notifier, catalog: Catalog, devices: Iterable[DeviceSpec] = (), rules: Rules = RULES
    ) -> None:
        self.links: dict[str, WorkerLink] = {}
        self.devices = {device.name: device for device in devices}
        self.notifier = notifier
        self.estimates = Estimates()
        self.failures = Failures()
        self.rules = rules
        self.changed = asyncio.Event()  # something happened after which another decision may be possible
        self.ended: Counter[str] = Counter()
        self.terms = 0
        self.pauses: Mapping[str, str] = {}  # kinds of which nothing is started, each with the operator's words
        self._models = {
            model.id: ModelFacts(kind=model.kind, vram_mib=model.vram_mib, load_s=model.load_s)
            for model in catalog.models
        }
        self._tasks: set[asyncio.Task[None]] = set()  # the loop itself keeps only weak references
        self.mirror = self.new_mirror()

    def new_mirror(self) -> Mirror:
        """An empty mirror with a policy that knows the devices and what was learned of the workers before."""
        policy = Policy(
            models=self._models,
            devices=[(device.name, device.node, device.vram_mib) for device in self.devices.values()],
            rules=self.rules,
            estimates=self.estimates,
            failures=self.failures,
        )
        self.places = Places(policy)
        return Mirror(policy, {link.name: link.device for link in self.links.values()})

    @property
    def policy(self) -> Policy:
        """The policy of this term."""
        return self.mirror.policy

    def workers(self, now: float) -> list[FreeWorker]:
        """The workers that take jobs now, as the policy sees them."""
        return [worker for link in self.links.values() if (worker := self.free_worker(link, now)) is not None]

    def free_worker(self, link: WorkerLink, now: float) -> FreeWorker | None:
        """A worker for the policy; None while it takes nothing."""
        if not link.takes_jobs:
            return None
        free = max(0, link.slots - link.busy)
        circuit = self.failures.circuit(link.name, now)
        if circuit is Circuit.OPEN:
            return None
        if circuit is Circuit.HALF_OPEN:
            free = min(free, 1) if not link.busy else 0  # one run is tried
        excluded = self.failures.excluded(link.name, now)
        return FreeWorker(
            name=link.name,
            device=link.device,
            models=link.models.difference(excluded) if excluded else link.models,
            free=free,
            slots=link.slots,
        )

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run something beside the loops, without waiting for it."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def seconds(at: datetime) -> float:
    """A time as the policy counts it: seconds since the epoch."""
    return at.timestamp()

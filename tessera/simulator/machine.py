"""The simulated machines: devices with memory, workers with slots, models in memory. No policy, no time of its own."""

from __future__ import annotations

from dataclasses import dataclass, field

from tessera.policy import QueuedJob
from tessera.simulator.scenario import Model, Scenario, device_names


@dataclass(slots=True, eq=False, kw_only=True)
class SimJob(QueuedJob):
    """A job with what only the simulator knows: how long it runs, how many attempts fail, and where it is."""

    number: int
    user: int
    rank: int
    seconds: float
    fails: int
    attempt: int = 0
    started_at: float = 0.0
    worker: Worker | None = None


@dataclass(slots=True, eq=False)
class Loaded:
    """A model in memory. ``running`` counts its runs of now."""

    worker: Worker
    vram_mib: int
    used_at: float
    running: int = 0


@dataclass(slots=True, eq=False)
class Worker:
    """``lane`` numbers the workers with the same models."""

    name: str
    device: SimDevice
    models: frozenset[str]
    slots: int
    lane: int
    runs: dict[SimJob, None] = field(default_factory=dict)
    online: bool = True
    pinned: int = 0  # slots held for jobs whose model is on its way

    @property
    def free(self) -> int:
        return self.slots - len(self.runs) - self.pinned if self.online else 0


@dataclass(slots=True, eq=False)
class SimDevice:
    """``loading`` names the model on its way in; ``taken_mib`` counts it too."""

    name: str
    number: int
    vram_mib: int
    speed: float
    workers: list[Worker] = field(default_factory=list)
    resident: dict[str, Loaded] = field(default_factory=dict)
    loading: str | None = None
    load_number: int = 0  # a load that was cut short is told from the next by it
    taken_mib: int = 0
    running: int = 0
    busy_since: float = 0.0


class Machine:
    """All devices and workers. ``open``: the numbers of the devices that have a free slot.

    ``changed``: the numbers of those whose workers have changed; whoever follows the changes empties it.
    """

    def __init__(self, scenario: Scenario) -> None:
        self.models: dict[str, Model] = dict(scenario.models)
        self.devices: list[SimDevice] = []
        self.workers: list[Worker] = []
        self.lanes: list[frozenset[str]] = []
        self._groups: dict[str, list[SimDevice]] = {}
        for group in scenario.devices:
            made = [
                SimDevice(name, len(self.devices) + place, group.vram_mib, group.speed)
                for place, name in enumerate(device_names(group))
            ]
            self.devices += made
            self._groups[group.name] = made
            self._groups.update({device.name: [device] for device in made})
        for each in scenario.workers:
            models = frozenset(each.models)
            if models not in self.lanes:
                self.lanes.append(models)
            for device in self._groups[each.device]:
                worker = Worker(f"{device.name}/{each.name}", device, models, each.slots, self.lanes.index(models))
                device.workers.append(worker)
                self.workers.append(worker)
        self.open: set[int] = set()
        self.changed: dict[int, None] = {}
        for device in self.devices:
            self.look(device)

    def found(self, device: str, worker: str | None) -> list[Worker]:
        """The workers of a device or a group of them, all or those of one name."""
        return [
            each
            for one in self._groups[device]
            for each in one.workers
            if worker is None or each.name == f"{one.name}/{worker}"
        ]

    def look(self, device: SimDevice) -> None:
        """Whether the device has a free slot, after something changed there."""
        self.changed[device.number] = None
        if any(worker.free > 0 for worker in device.workers):
            self.open.add(device.number)
        else:
            self.open.discard(device.number)

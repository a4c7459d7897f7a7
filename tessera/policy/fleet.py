"""The workers that take jobs, kept by what their devices could do next: how a decision finds a device among thousands.

Devices that could do the same (with as much free) are one group, so a decision looks at groups and asks a few devices
of each: their number grows with the models, not with the devices. Every change is told for one device and costs what
that device has. Pure: no clock, no I/O.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from tessera.jobs import Kind
from tessera.policy.devices import Device


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """What the policy needs of a catalogue entry. ``vram_mib`` 0: light, it is never loaded nor evicted."""

    kind: Kind
    vram_mib: int = 0
    load_s: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class FreeWorker:
    """A worker that takes jobs: online, not drained, its circuit not open. ``models`` without the excluded ones.

    ``free`` may be 0: what its slots hold up still says whether a swap would pay.
    """

    name: str
    device: str
    models: frozenset[str]
    free: int
    slots: int


@dataclass(frozen=True, slots=True)
class Group:
    """Devices that could do the same. ``fullness``: the part of their slots that is taken.

    ``runnable``: the models that could start there at once; ``loadable``: those that could be brought in, none while a
    load or a drain is under way. ``room_mib``: the memory that is free for them. ``reserved``: they drain, and are
    asked whatever waits.
    """

    fullness: float
    runnable: frozenset[str]
    loadable: frozenset[str]
    resident: frozenset[str]
    room_mib: int
    reserved: bool


@dataclass(frozen=True, slots=True)
class _Seat:
    """What one device adds to the counts."""

    group: Group | None
    slots: tuple[tuple[str, int], ...]
    places: tuple[tuple[str, int], ...]


class Fleet:
    """All workers that take jobs, by device. ``slots`` and ``places`` count by heavy model, where it is loaded or on
    its way: slots of the workers, and those that are free."""

    def __init__(self, devices: Mapping[str, Device], models: Mapping[str, ModelFacts]) -> None:
        self.slots: Counter[str] = Counter()
        self.places: Counter[str] = Counter()
        self.groups: dict[Group, dict[str, None]] = {}  # each with its devices, that changed last at the end
        self._devices = devices
        self._models = models
        self._workers: dict[str, tuple[FreeWorker, ...]] = {}
        self._seats: dict[str, _Seat] = {}

    @staticmethod
    def of(devices: Mapping[str, Device], models: Mapping[str, ModelFacts], workers: Iterable[FreeWorker]) -> Fleet:
        """A fleet of these workers."""
        fleet = Fleet(devices, models)
        by_device: dict[str, list[FreeWorker]] = {}
        for worker in workers:
            by_device.setdefault(worker.device, []).append(worker)
        for device, of in by_device.items():
            fleet.tell(device, of)
        return fleet

    def tell(self, device: str, workers: Sequence[FreeWorker]) -> None:
        """The workers of a device that take jobs now, all of them; none takes it out. Cheap to repeat."""
        found = tuple(workers)
        if found == self._workers.get(device, ()):
            return
        if found:
            self._workers[device] = found
        else:
            self._workers.pop(device, None)
        self.look(device)

    def look(self, device: str) -> None:
        """What is in the device's memory, on its way or reserved has changed."""
        seat = self._seats.pop(device, None)
        if seat is not None:
            self._count(seat, -1)
            if seat.group is not None:
                members = self.groups[seat.group]
                del members[device]
                if not members:
                    del self.groups[seat.group]
        workers = self._workers.get(device)
        if workers is None:
            return
        seat = self._seats[device] = self._seat(self._devices[device], workers)
        self._count(seat, 1)
        if seat.group is not None:
            self.groups.setdefault(seat.group, {})[device] = None

    def workers_of(self, device: str) -> Sequence[FreeWorker]:
        """The workers of a device that take jobs."""
        return self._workers.get(device, ())

    def devices(self) -> Iterator[str]:
        """The devices with such workers."""
        return iter(self._workers)

    def _count(self, seat: _Seat, by: int) -> None:
        for model, slots in seat.slots:
            self.slots[model] += by * slots
        for model, places in seat.places:
            self.places[model] += by * places

    def _seat(self, device: Device, workers: Sequence[FreeWorker]) -> _Seat:
        by_name = {worker.name: worker for worker in workers}
        leaving = device.reserved.evict if device.reserved is not None else ()
        slots: list[tuple[str, int]] = []
        places: list[tuple[str, int]] = []
        runnable: set[str] = set()
        for model, resident in device.resident.items():
            worker = by_name.get(resident.worker)
            if worker is None or model not in worker.models:
                continue
            if model not in leaving:
                slots.append((model, worker.slots))
                places.append((model, worker.free))
            if worker.free > 0:
                runnable.add(model)
        for swap in (device.loading, device.reserved):
            if swap is not None and swap.worker in by_name:
                slots.append((swap.model, swap.slots))
                places.append((swap.model, swap.slots))
        free, total = 0, 0
        for worker in workers:
            free, total = free + worker.free, total + worker.slots
        if not free:
            return _Seat(None, tuple(slots), tuple(places))
        loadable: set[str] = set()
        may_load = device.loading is None and device.reserved is None
        for worker in workers:
            if worker.free > 0:
                for model in worker.models:
                    facts = self._models.get(model)
                    if facts is None:
                        continue
                    if facts.vram_mib == 0:
                        runnable.add(model)
                    elif may_load and model not in device.resident and facts.vram_mib <= device.vram_mib:
                        loadable.add(model)
        group = Group(
            fullness=1.0 - free / max(1, total),
            runnable=frozenset(runnable),
            loadable=frozenset(loadable),
            resident=frozenset(device.resident),
            room_mib=device.vram_mib - device.taken_mib,
            reserved=device.reserved is not None,
        )
        return _Seat(group, tuple(slots), tuple(places))

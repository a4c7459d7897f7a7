"""The peers' policies, as their sources say (addresses at each), on the same machines.

They differ in which job is next. What they share: the next job goes where its model is in memory, else where it can be
brought in, evicting what was used longest ago; is there no room because others run, a device is held for it.
That is kind to them: none of the peers knows several engines on one device.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Collection, Sequence
from typing import Protocol

from tessera.simulator.arrivals import LoadOfJobs
from tessera.simulator.machine import Machine, SimDevice, SimJob, Worker
from tessera.simulator.world import LoadModel, RunEnd, StartRun, Step

AGE_EVERY_S, AGE_KUDOS = 10.0, 50.0
KUDOS_PER_TOKEN = 10.0  # our choice: what a job costs its user; AI-Horde's depends on model, pixels and steps
AFFINITY_IDS = 32


class Order(Protocol):
    """Who is next. ``peek`` is among the workers of these lanes, without the models in ``skip``."""

    def add(self, job: SimJob) -> None: ...
    def peek(self, lanes: Collection[int], skip: Collection[str], resident: Collection[str]) -> SimJob | None: ...
    def take(self, job: SimJob) -> None: ...


class KeyOrder:
    """The job with the least key that does not change while it waits; equal ones in the order of their arrival."""

    def __init__(self, machine: Machine, key: Callable[[SimJob], float], taken: Callable[[SimJob], None]) -> None:
        self._machine, self._key, self._taken = machine, key, taken
        self._heaps: dict[str, list[tuple[float, int, SimJob]]] = {name: [] for name in machine.models}

    def add(self, job: SimJob) -> None:
        heapq.heappush(self._heaps[job.model], (self._key(job), job.number, job))

    def peek(self, lanes: Collection[int], skip: Collection[str], resident: Collection[str]) -> SimJob | None:
        best: tuple[float, int, SimJob] | None = None
        for name, heap in self._heaps.items():
            if not heap or name in skip or (best is not None and best[:2] <= heap[0][:2]):
                continue
            if any(name in self._machine.lanes[lane] for lane in lanes):
                best = heap[0]
        return best[2] if best is not None else None

    def take(self, job: SimJob) -> None:
        heapq.heappop(self._heaps[job.model])
        self._taken(job)


class RoundRobin:
    """The least recently served user first; of his jobs the oldest, or within 32 ids one whose model is loaded."""

    def __init__(self, machine: Machine) -> None:
        self._lanes = machine.lanes
        self._served: dict[int, int] = {}  # the number of each user's last turn
        self._turns = 0
        self._ids: dict[int, int] = {}  # of the user's next job
        self._jobs: dict[int, dict[str, deque[tuple[int, SimJob]]]] = {}
        self._heaps: list[list[tuple[int, int]]] = [[] for _ in machine.lanes]

    def add(self, job: SimJob) -> None:
        user = job.user
        mine = self._jobs.setdefault(user, {})
        queue = mine.setdefault(job.model, deque())
        number = self._ids[user] = self._ids.get(user, 0) + 1
        if job.attempt:  # it was there before: back to the front
            queue.appendleft((queue[0][0] if queue else number, job))
        else:
            queue.append((number, job))
        for lane, models in enumerate(self._lanes):
            if job.model in models and sum(len(mine[name]) for name in mine if name in models) == 1:
                heapq.heappush(self._heaps[lane], (self._served.get(user, -1), user))

    def peek(self, lanes: Collection[int], skip: Collection[str], resident: Collection[str]) -> SimJob | None:
        best: tuple[int, int, int] | None = None
        for lane in lanes:
            found = self._user(lane, skip)
            if found is not None and (best is None or found < best[:2]):
                best = (*found, lane)
        if best is None:
            return None
        heads = self._heads(best[1], best[2], skip)
        first = heads[0][0]
        near = (job for number, job in heads if number < first + AFFINITY_IDS and job.model in resident)
        return next(near, heads[0][1])

    def take(self, job: SimJob) -> None:
        user, mine = job.user, self._jobs[job.user]
        mine[job.model].popleft()
        self._turns += 1
        self._served[user] = self._turns
        for lane, models in enumerate(self._lanes):
            if any(mine[name] for name in mine if name in models):
                heapq.heappush(self._heaps[lane], (self._turns, user))

    def _user(self, lane: int, skip: Collection[str]) -> tuple[int, int] | None:
        """Who of those with a job for this lane was served least recently. What is stale at the front is dropped."""
        heap, aside = self._heaps[lane], []
        found = None
        while heap:
            turn, user = heap[0]
            if turn != self._served.get(user, -1) or not self._heads(user, lane, ()):
                heapq.heappop(heap)
            elif skip and not self._heads(user, lane, skip):
                aside.append(heapq.heappop(heap))
            else:
                found = heap[0]
                break
        for entry in aside:
            heapq.heappush(heap, entry)
        return found

    def _heads(self, user: int, lane: int, skip: Collection[str]) -> list[tuple[int, SimJob]]:
        models = self._lanes[lane]
        heads = [queue[0] for name, queue in self._jobs[user].items() if queue and name in models and name not in skip]
        heads.sort(key=lambda head: head[0])
        return heads


class Baseline:
    """An order of jobs, and the placing that all baselines share."""

    def __init__(self, name: str, machine: Machine, order: Order) -> None:
        self.name = name
        self._machine, self._order = machine, order
        self._waiting = 0
        self._pins: dict[str, tuple[Worker, SimJob]] = {}  # by device: the job that its load is for
        self._ready: list[StartRun] = []

    def arrived(self, job: SimJob, now: float) -> None:
        self._waiting += 1
        self._order.add(job)

    def decide(self, now: float) -> Sequence[Step]:
        """The jobs in their order until nothing more has a place; then one step at a time."""
        if self._ready:
            ready, self._ready = self._ready, []
            return ready
        if not self._waiting:
            return ()
        held: set[int] = set()
        skip: set[str] = set()
        while free := [
            worker
            for number in sorted(self._machine.open - held)
            for worker in self._machine.devices[number].workers
            if worker.free > 0
        ]:
            resident = {name for worker in free for name, at in worker.device.resident.items() if at.worker is worker}
            light = {name for name, model in self._machine.models.items() if model.vram_mib == 0}
            job = self._order.peek({worker.lane for worker in free}, skip, resident | light)
            if job is None:
                break
            step = self._place(job, [worker for worker in free if job.model in worker.models], held)
            if step is not None:
                self._waiting -= 1
                self._order.take(job)
                return (step,)
            skip.add(job.model)
        return ()

    def _place(self, job: SimJob, workers: Sequence[Worker], held: set[int]) -> Step | None:
        """Where the job starts, or its model is loaded for it. None: a device is held for it."""
        facts = self._machine.models[job.model]
        for worker in workers:
            loaded = worker.device.resident.get(job.model)
            if facts.vram_mib == 0 or (loaded is not None and loaded.worker is worker):
                return StartRun(job, worker)
        # The emptiest first, so that the load is where the least is in the way.
        for worker in sorted(workers, key=lambda worker: (worker.device.taken_mib, worker.device.number)):
            evict = self._victims(worker.device, facts.vram_mib)
            if evict is not None:
                worker.pinned += 1
                self._machine.look(worker.device)
                self._pins[worker.device.name] = (worker, job)
                return LoadModel(worker, job.model, evict, job.rank)
        held.add(min(workers, key=lambda worker: (worker.device.running, worker.device.number)).device.number)
        return None

    def _victims(self, device: SimDevice, vram_mib: int) -> tuple[str, ...] | None:
        """What leaves for so much memory, the least recently used first; None when it must wait."""
        if device.loading is not None:
            return None
        missing = vram_mib - (device.vram_mib - device.taken_mib)
        evict: list[str] = []
        for name, at in sorted(device.resident.items(), key=lambda each: each[1].used_at):
            if missing <= 0:
                break
            if at.running == 0:
                evict.append(name)
                missing -= at.vram_mib
        return tuple(evict) if missing <= 0 else None

    def ended(self, job: SimJob, worker: Worker, now: float, seconds: float, how: RunEnd) -> None: ...

    def loaded(self, device: SimDevice, now: float, seconds: float) -> None:
        worker, job = self._pins.pop(device.name)
        worker.pinned -= 1
        self._machine.look(device)
        self._ready.append(StartRun(job, worker))

    def lost(self, worker: Worker, now: float) -> None:
        pin = self._pins.get(worker.device.name)
        if pin is not None and pin[0] is worker:
            del self._pins[worker.device.name]
            worker.pinned -= 1
            self.arrived(pin[1], now)
        for start in [start for start in self._ready if start.worker is worker]:
            self._ready.remove(start)
            self.arrived(start.job, now)

    def next_change(self, now: float) -> float | None:
        return None


def fifo(machine: Machine, load: LoadOfJobs) -> Baseline:
    """First come, first served: of the jobs that a free worker can run, the oldest."""
    return Baseline("fifo", machine, KeyOrder(machine, lambda job: job.number, _nothing))


def strict(machine: Machine, load: LoadOfJobs) -> Baseline:
    """The highest tier first, the oldest within it."""
    return Baseline("strict", machine, KeyOrder(machine, lambda job: job.rank, _nothing))


def horde(machine: Machine, load: LoadOfJobs) -> Baseline:
    """AI-Horde: the user's kudos when the job comes, +50 for all that wait every 10 s, the oldest among equals.

    All that wait age alike, so a job's place among the others is fixed when it arrives.
    https://github.com/Haidra-Org/AI-Horde
    """
    kudos = [user.kudos for user in load.users]

    def key(job: SimJob) -> float:
        return AGE_KUDOS * (job.queued_at // AGE_EVERY_S) - kudos[job.user]

    def taken(job: SimJob) -> None:
        if job.attempt == 0:
            kudos[job.user] = max(0.0, kudos[job.user] - KUDOS_PER_TOKEN * job.cost_mt / 1000)

    return Baseline("horde", machine, KeyOrder(machine, key, taken))


def invoke(machine: Machine, load: LoadOfJobs) -> Baseline:
    """InvokeAI with several users: the least recently served user first, affinity within his next 32 jobs.

    https://github.com/invoke-ai/InvokeAI
    """
    return Baseline("invoke", machine, RoundRobin(machine))


def _nothing(job: SimJob) -> None:
    """Being served changes nothing for those who wait."""

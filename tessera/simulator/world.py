"""The virtual clock: events in the order of their time, carried out on the machines, told to one policy.

``run`` is a function of scenario, load and policy: no real clock, no chance. It holds the policy to the machine's
limits: a start needs a free slot and its model in memory, a load needs the room.
"""

from __future__ import annotations

import heapq
from array import array
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol
from uuid import UUID

from tessera.jobs import Tier
from tessera.policy import TIER_RANK
from tessera.simulator.arrivals import MAX_ATTEMPTS, LoadOfJobs
from tessera.simulator.machine import Loaded, Machine, SimDevice, SimJob, Worker
from tessera.simulator.scenario import Scenario

BUCKETS = 240  # of time, for the plot and for telling where a tier had work all the while
RETRY_S = 2.0  # after a failed attempt
_TOLD_EVERY = 20_000  # events between two calls of the progress


class JobEnd(IntEnum):
    """Where a job is when the simulation ends."""

    WAITING = 0
    RUNNING = 1
    COMPLETED = 2
    FAILED = 3


class RunEnd(IntEnum):
    """How a run ended."""

    COMPLETED = 0
    FAILED = 1  # it waits again, or is given up
    LOST = 2  # its worker went away; it waits again


@dataclass(frozen=True, slots=True)
class StartRun:
    """Run this job on this worker now."""

    job: SimJob
    worker: Worker


@dataclass(frozen=True, slots=True)
class LoadModel:
    """Bring the model in for this tier, after those in ``evict`` have left."""

    worker: Worker
    model: str
    evict: tuple[str, ...]
    rank: int


Step = StartRun | LoadModel


class SimPolicy(Protocol):
    """A policy as the simulator drives it. ``decide`` is asked until it has nothing more."""

    name: str

    def arrived(self, job: SimJob, now: float) -> None: ...
    def decide(self, now: float) -> Sequence[Step]: ...
    def ended(self, job: SimJob, worker: Worker, now: float, seconds: float, how: RunEnd) -> None: ...
    def loaded(self, device: SimDevice, now: float, seconds: float) -> None: ...
    def lost(self, worker: Worker, now: float) -> None: ...
    def next_change(self, now: float) -> float | None: ...


@dataclass(slots=True, eq=False)
class Record:
    """What happened, in columns. Intervals are of slots (``run_*``), loads, and devices with at least one run.

    ``wait_s`` of a job is to the start of its last run; −1 for what never started. ``backlogged[bucket]`` has a 0 for
    each tier (by rank) that had nothing waiting, at some moment of it, for a model that was in memory anywhere: who
    waits for a load does not wait for his tier's share.
    """

    policy: str
    scenario: Scenario
    load: LoadOfJobs
    wait_s: array[float]
    state: array[int]
    run_from: array[float]
    run_to: array[float]
    run_job: array[int]
    run_speed: array[float]
    load_from: array[float]
    load_to: array[float]
    load_rank: array[int]
    busy_from: array[float]
    busy_to: array[float]
    backlogged: list[bytearray]
    loads: int = 0
    swaps: int = 0
    offline_s: float = 0.0
    events: int = 0


class World:
    """One simulation."""

    def __init__(self, scenario: Scenario, load: LoadOfJobs, make: Callable[[Machine, LoadOfJobs], SimPolicy]) -> None:
        self.scenario, self.load = scenario, load
        self.machine = Machine(scenario)
        self.policy = make(self.machine, load)
        self.now = 0.0
        self.waiting = 0
        self.servable_of = [0] * len(Tier)  # of each tier: models that are in memory and that somebody waits for
        self._waiting_of: list[Counter[str]] = [Counter() for _ in Tier]
        self._copies: Counter[str] = Counter()  # of each model: the devices that have it in memory
        count = len(load)
        self.record = Record(
            self.policy.name, scenario, load, array("d", [-1.0]) * count, array("b", [0]) * count,
            array("d"), array("d"), array("q"), array("d"), array("d"), array("d"), array("b"), array("d"), array("d"),
            [bytearray(b"\1" * len(Tier)) for _ in range(BUCKETS)],
        )  # fmt: skip
        self._bucket_s = scenario.duration_s / BUCKETS
        self._bucket = -1
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._number = 0
        self._woken_at = -1.0
        for away in scenario.away:
            workers = self.machine.found(away.device, away.worker)
            self._at(away.at_s, lambda w=workers, s=away.for_s: self._leave(w, s))  # type: ignore[misc]

    # ------------------------------------------------------------------ time

    def run(self, progress: Callable[[float], None] | None = None) -> Record:
        """To the end of the scenario. ``progress`` is told the part that is done, now and then."""
        end, events, policy = self.scenario.duration_s, self._events, self.policy
        at, arrived, count = self.load.at_s.tolist(), 0, len(self.load)
        columns = [column.tolist() for column in (self.load.user, self.load.model, self.load.cost_mt)]
        seconds, fails = self.load.seconds.tolist(), self.load.fails.tolist()
        kinds = [self.machine.models[name].kind for name in self.load.models]
        told = 0
        while True:
            next_arrival = at[arrived] if arrived < count else end
            now = min(next_arrival, events[0][0]) if events else next_arrival
            if now >= end:
                break
            self.now = now
            if now >= (self._bucket + 1) * self._bucket_s:
                self._next_bucket()
            while arrived < count and at[arrived] <= now:
                user, model = columns[0][arrived], columns[1][arrived]
                who = self.load.users[user]
                job = SimJob(
                    id=UUID(int=arrived),
                    user_id=who.id,
                    tier=who.tier,
                    kind=kinds[model],
                    model=self.load.models[model],
                    cost_mt=columns[2][arrived],
                    queued_at=now,
                    number=arrived,
                    user=user,
                    rank=TIER_RANK[who.tier],
                    seconds=seconds[arrived],
                    fails=fails[arrived],
                )
                arrived += 1
                self._waits(job)
            while events and events[0][0] <= now:  # what happens at once is decided on together
                heapq.heappop(events)[2]()
                self.record.events += 1
            if self.waiting:
                while steps := policy.decide(now):
                    for step in steps:
                        self._carry_out(step)
            wake = policy.next_change(now)
            if wake is not None and wake != self._woken_at:
                self._woken_at = wake
                self._at(wake, _nothing)
            told += 1
            if progress is not None and told % _TOLD_EVERY == 0:
                progress(now / end)
        self._finish(end)
        self.record.events += count
        return self.record

    def _at(self, time: float, event: Callable[[], None]) -> None:
        self._number += 1
        heapq.heappush(self._events, (time, self._number, event))

    def _next_bucket(self) -> None:
        """Of a new bucket, and of those in which nothing happened, what waits at its beginning is known."""
        last = min(BUCKETS - 1, int(self.now / self._bucket_s))
        for bucket in range(self._bucket + 1, last + 1):
            for rank, servable in enumerate(self.servable_of):
                if not servable:
                    self.record.backlogged[bucket][rank] = 0
        self._bucket = last

    # ------------------------------------------------------------------ jobs

    def _waits(self, job: SimJob) -> None:
        self.waiting += 1
        of_model = self._waiting_of[job.rank]
        of_model[job.model] += 1
        if of_model[job.model] == 1 and self._is_here(job.model):
            self.servable_of[job.rank] += 1
        self.policy.arrived(job, self.now)

    def _waits_no_more(self, job: SimJob) -> None:
        self.waiting -= 1
        of_model = self._waiting_of[job.rank]
        of_model[job.model] -= 1
        if of_model[job.model] == 0 and self._is_here(job.model):
            self._less_servable(job.rank)

    def _is_here(self, model: str) -> bool:
        return self._copies[model] > 0 or self.machine.models[model].vram_mib == 0

    def _less_servable(self, rank: int) -> None:
        self.servable_of[rank] -= 1
        if not self.servable_of[rank]:
            self.record.backlogged[self._bucket][rank] = 0

    def _comes(self, model: str) -> None:
        """A copy of the model is in some memory."""
        self._copies[model] += 1
        if self._copies[model] == 1:
            for rank, of_model in enumerate(self._waiting_of):
                self.servable_of[rank] += of_model[model] > 0

    def _goes(self, model: str) -> None:
        self._copies[model] -= 1
        if self._copies[model] == 0:
            for rank, of_model in enumerate(self._waiting_of):
                if of_model[model] > 0:
                    self._less_servable(rank)

    def _carry_out(self, step: Step) -> None:
        if isinstance(step, LoadModel):
            self._load(step)
            return
        job, worker = step.job, step.worker
        device, now, record = worker.device, self.now, self.record
        if worker.free <= 0 or job.worker is not None:
            raise RuntimeError(f"{self.policy.name} starts a job where there is no slot, or twice")
        if self.machine.models[job.model].vram_mib:
            loaded = device.resident[job.model]
            loaded.running += 1
            loaded.used_at = now
        self._waits_no_more(job)
        job.worker, job.started_at, job.attempt = worker, now, job.attempt + 1
        worker.runs[job] = None
        if device.running == 0:
            device.busy_since = now
        device.running += 1
        self.machine.look(device)
        record.wait_s[job.number] = now - job.queued_at
        record.state[job.number] = JobEnd.RUNNING
        fails = job.attempt <= job.fails
        seconds = job.seconds / device.speed * (0.5 if fails else 1.0)
        attempt = job.attempt
        self._at(now + seconds, lambda: self._run_over(job, attempt, fails))

    def _run_over(self, job: SimJob, attempt: int, fails: bool) -> None:
        if job.worker is None or job.attempt != attempt:
            return  # it was lost meanwhile
        if not fails:
            self._stop(job, RunEnd.COMPLETED)
            self.record.state[job.number] = JobEnd.COMPLETED
            return
        self._stop(job, RunEnd.FAILED)
        if job.fails >= MAX_ATTEMPTS and job.attempt >= MAX_ATTEMPTS:
            self.record.state[job.number] = JobEnd.FAILED
            return
        self.record.state[job.number] = JobEnd.WAITING
        self.record.wait_s[job.number] = -1.0
        self._at(self.now + RETRY_S, lambda: self._waits(job))

    def _stop(self, job: SimJob, how: RunEnd) -> None:
        worker = job.worker
        if worker is None:
            raise RuntimeError("a run ends that never began")
        device, now, record = worker.device, self.now, self.record
        del worker.runs[job]
        job.worker = None
        loaded = device.resident.get(job.model)
        if loaded is not None:
            loaded.running -= 1
            loaded.used_at = now
        device.running -= 1
        if device.running == 0:
            record.busy_from.append(device.busy_since)
            record.busy_to.append(now)
        record.run_from.append(job.started_at)
        record.run_to.append(now)
        record.run_job.append(job.number)
        record.run_speed.append(device.speed)
        self.machine.look(device)
        self.policy.ended(job, worker, now, now - job.started_at, how)

    # ------------------------------------------------------------------ models

    def _load(self, step: LoadModel) -> None:
        worker, model = step.worker, self.machine.models[step.model]
        device = worker.device
        for name in step.evict:
            left = device.resident.pop(name)
            if left.running:
                raise RuntimeError(f"{self.policy.name} unloads {name} while it runs")
            device.taken_mib -= left.vram_mib
            self._goes(name)
        device.taken_mib += model.vram_mib
        if device.loading is not None or device.taken_mib > device.vram_mib:
            raise RuntimeError(f"{self.policy.name} loads {step.model} where there is no room")
        device.loading = step.model
        device.load_number += 1
        self.record.loads += 1
        self.record.swaps += bool(step.evict)
        number, began = device.load_number, self.now
        self._at(began + model.load_s / device.speed, lambda: self._is_loaded(worker, step, number, began))

    def _is_loaded(self, worker: Worker, step: LoadModel, number: int, began: float) -> None:
        device = worker.device
        if device.load_number != number or device.loading is None:
            return
        device.loading = None
        device.resident[step.model] = Loaded(worker, self.machine.models[step.model].vram_mib, self.now)
        self._comes(step.model)
        self.record.load_from.append(began)
        self.record.load_to.append(self.now)
        self.record.load_rank.append(step.rank)
        self.policy.loaded(device, self.now, self.now - began)

    # ------------------------------------------------------------------ workers that go and come

    def _leave(self, workers: Sequence[Worker], seconds: float) -> None:
        for worker in workers:
            if worker.online:
                self._lose(worker)
        back = min(self.now + seconds, self.scenario.duration_s)
        for device in {worker.device: None for worker in workers}:
            if not any(worker.online for worker in device.workers):
                self.record.offline_s += back - self.now
        self._at(self.now + seconds, lambda: self._return(workers))

    def _lose(self, worker: Worker) -> None:
        device = worker.device
        worker.online = False
        lost = list(worker.runs)
        for job in lost:
            self._stop(job, RunEnd.LOST)
        for name in [name for name, loaded in device.resident.items() if loaded.worker is worker]:
            device.taken_mib -= device.resident.pop(name).vram_mib
            self._goes(name)
        if device.loading is not None and device.loading in worker.models:
            # Models of two workers of one device are different ones in all scenarios, as in a cluster file.
            device.taken_mib -= self.machine.models[device.loading].vram_mib
            device.loading = None
            device.load_number += 1
        self.machine.look(device)
        self.policy.lost(worker, self.now)
        for job in lost:
            self.record.state[job.number] = JobEnd.WAITING
            self.record.wait_s[job.number] = -1.0
            self._waits(job)

    def _return(self, workers: Sequence[Worker]) -> None:
        for worker in workers:
            worker.online = True
            self.machine.look(worker.device)

    def _finish(self, end: float) -> None:
        """What runs at the end is cut there in the record."""
        for worker in self.machine.workers:
            for job in worker.runs:
                self.record.run_from.append(job.started_at)
                self.record.run_to.append(end)
                self.record.run_job.append(job.number)
                self.record.run_speed.append(worker.device.speed)
        for device in self.machine.devices:
            if device.running:
                self.record.busy_from.append(device.busy_since)
                self.record.busy_to.append(end)
        self.now = end
        self._next_bucket()


def _nothing() -> None:
    """An event after which there may be something to decide."""

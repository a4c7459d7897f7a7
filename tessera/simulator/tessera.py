"""Tessera's own policy in the simulator: the real ``tessera.policy.Policy``, told the same as the scheduler tells it.

What the scheduler's dispatcher, board and mirror do with it is done here without the database.
"""

from __future__ import annotations

from collections.abc import Sequence

from tessera.policy import TIER_RANK, FreeWorker, Load, ModelFacts, Policy, Start
from tessera.policy.failures import Circuit
from tessera.simulator.arrivals import LoadOfJobs
from tessera.simulator.machine import Machine, SimDevice, SimJob, Worker
from tessera.simulator.world import LoadModel, RunEnd, StartRun, Step

_NO_CAP = 2**31


class TesseraPolicy:
    """``Policy`` behind the simulator's interface."""

    name = "tessera"

    def __init__(self, machine: Machine, load: LoadOfJobs) -> None:
        self._machine = machine
        self._workers = {worker.name: worker for worker in machine.workers}
        self.policy = Policy(
            models={
                name: ModelFacts(kind=model.kind, vram_mib=model.vram_mib, load_s=model.load_s)
                for name, model in machine.models.items()
            },
            devices=[(device.name, device.name, device.vram_mib) for device in machine.devices],
        )
        for models in machine.lanes:
            self.policy.queue.compete(models)
        for user in load.users:
            self.policy.queue.set_cap(user.id, user.max_running or _NO_CAP)
        self._views: dict[tuple[str, int], FreeWorker] = {}
        self._failed: set[str] = set()  # workers with a failure that no success has forgiven yet

    def arrived(self, job: SimJob, now: float) -> None:
        self.policy.queue.add(job)

    def decide(self, now: float) -> Sequence[Step]:
        """One round. A reservation is no step on the machine, but changes what the next question is answered."""
        self._tell(now)
        while actions := self.policy.decide(now):
            steps: list[Step] = []
            for action in actions:
                self.policy.apply(action, now)
                if isinstance(action, Start):
                    job = action.job
                    if not isinstance(job, SimJob):
                        raise TypeError("the queue holds a job that is not of the simulator")
                    steps.append(StartRun(job, self._workers[action.worker]))
                elif isinstance(action, Load):
                    swap, worker = action.swap, self._workers[action.swap.worker]
                    evict = tuple(name for name in swap.evict if name in worker.device.resident)
                    steps.append(LoadModel(worker, swap.model, evict, TIER_RANK[swap.tier]))
            if steps:
                return steps
        return ()

    def _tell(self, now: float) -> None:
        """What has changed of the workers; those with failures change with the time."""
        machine = self._machine
        changed, machine.changed = machine.changed, {}
        if self._failed:
            changed = {**changed, **{self._workers[name].device.number: None for name in sorted(self._failed)}}
        for number in changed:
            device = machine.devices[number]
            views = [view for worker in device.workers if (view := self._view(worker, now)) is not None]
            self.policy.tell(device.name, views)

    def ended(self, job: SimJob, worker: Worker, now: float, seconds: float, how: RunEnd) -> None:
        self.policy.ended(job, now, unserved=how is not RunEnd.COMPLETED)
        if how is RunEnd.COMPLETED:
            self.policy.estimates.learn(worker.name, job.model, job.cost_mt, seconds)
            if worker.name in self._failed:
                self.policy.failures.succeeded(worker.name, job.model)
                self._failed.discard(worker.name)
        else:
            code = "worker_lost" if how is RunEnd.LOST else "backend_error"
            self.policy.failures.failed(worker.name, job.model, job.id, code, now)
            self._failed.add(worker.name)

    def loaded(self, device: SimDevice, now: float, seconds: float) -> None:
        self.policy.loaded(device.name, now, seconds)

    def lost(self, worker: Worker, now: float) -> None:
        self.policy.forget_worker(worker.device.name, worker.name)

    def next_change(self, now: float) -> float | None:
        """When a pause after failures is over."""
        return self.policy.failures.next_change(now) if self._failed else None

    def _view(self, worker: Worker, now: float) -> FreeWorker | None:
        """The worker as scheduler/board.py tells of it; None while it takes nothing."""
        if not worker.online:
            return None
        free, models = worker.free, worker.models
        if worker.name in self._failed:
            failures = self.policy.failures
            circuit = failures.circuit(worker.name, now)
            if circuit is Circuit.OPEN:
                return None
            if circuit is Circuit.HALF_OPEN:
                free = 0 if worker.runs else min(1, free)
            models = models.difference(failures.excluded(worker.name, now))
            return FreeWorker(name=worker.name, device=worker.device.name, models=models, free=free, slots=worker.slots)
        view = self._views.get((worker.name, free))
        if view is None:
            view = self._views[worker.name, free] = FreeWorker(
                name=worker.name, device=worker.device.name, models=models, free=free, slots=worker.slots
            )
        return view

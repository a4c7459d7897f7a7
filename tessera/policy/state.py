"""What the policy remembers from one decision to the next, and how each action and each end of a run moves it on.

The scheduler and the simulator both hold one ``Policy`` and tell it what they did; deciding itself is ``plan``. Pure:
no clock, no I/O.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from tessera.jobs import Kind, Tier
from tessera.policy.devices import Device, Resident, Window
from tessera.policy.estimates import Estimates
from tessera.policy.failures import Failures
from tessera.policy.fleet import Fleet, FreeWorker, ModelFacts
from tessera.policy.plan import Action, Load, Reserve, Snapshot, Start, plan
from tessera.policy.queue import Queue, QueuedJob
from tessera.policy.rules import RULES, Rules


@dataclass(frozen=True, kw_only=True, slots=True)
class Served:
    """A run of the last minutes, as it is read back after a restart."""

    tier: Tier
    user_id: UUID
    model: str
    worker: str
    cost_mt: int
    seconds: float
    ended_at: float


@dataclass(frozen=True, slots=True)
class _Running:
    device: str
    tier: Tier
    model: str
    kind: Kind
    charged_s: float
    since: float


class Policy:
    """Queue, devices, estimates and failures, kept in step."""

    def __init__(
        self,
        *,
        models: Mapping[str, ModelFacts],
        devices: Iterable[tuple[str, str, int]] = (),
        rules: Rules = RULES,
        estimates: Estimates | None = None,
        failures: Failures | None = None,
    ) -> None:
        """``devices``: (name, node, vram_mib)."""
        self.rules = rules
        self.models = dict(models)
        self.queue = Queue()
        self.estimates = estimates or Estimates()
        self.failures = failures or Failures()
        self.devices = {
            name: Device(name, vram_mib, Window(rules.video_window_s), node=node) for name, node, vram_mib in devices
        }
        self.fleet = Fleet(self.devices, self.models)
        self.paused: frozenset[Kind] = frozenset()
        self._running: dict[UUID, _Running] = {}

    # ------------------------------------------------------------------ deciding

    def tell(self, device: str, workers: Sequence[FreeWorker]) -> None:
        """All workers of this device that take jobs now. Once for every device, then for those that change."""
        for worker in workers:
            self.queue.compete(worker.models)
        self.fleet.tell(device, workers)

    def decide(self, now: float) -> list[Action]:
        """The next steps of the devices; carry each out with ``apply``, ``tell`` what it changed, and ask again."""
        return plan(self._snapshot(self.fleet), now)

    def plan(self, workers: Sequence[FreeWorker], now: float) -> list[Action]:
        """The same, when these are all the workers: for few of them, or for those who keep no count of changes."""
        for worker in workers:
            self.queue.compete(worker.models)
        return plan(self._snapshot(Fleet.of(self.devices, self.models, workers)), now)

    def _snapshot(self, fleet: Fleet) -> Snapshot:
        return Snapshot(
            queue=self.queue,
            devices=self.devices,
            fleet=fleet,
            models=self.models,
            estimates=self.estimates,
            paused=self.paused,
            rules=self.rules,
        )

    # ------------------------------------------------------------------ actions

    def apply(self, action: Action, now: float) -> None:
        """The action is being carried out."""
        device = self.devices[action.device]
        match action:
            case Start():
                job = action.job
                self.queue.take(job, passing_over=action.passing_over, now=now)
                device.charge(job.tier, action.seconds, self.rules.shares, action.competing)
                self._begin(device, job, action.seconds, now)
                return
            case Load():
                swap = action.swap
                for model in swap.evict:
                    device.resident.pop(model, None)
                device.reserved, device.loading = None, swap
                device.charge(swap.tier, swap.seconds, self.rules.shares, action.competing)
            case Reserve():
                device.reserved = action.swap
            case _:
                device.reserved = None
        self.fleet.look(device.name)

    def _begin(self, device: Device, job: QueuedJob, seconds: float, now: float) -> None:
        self._running[job.id] = _Running(device.name, job.tier, job.model, job.kind, seconds, now)
        device.ends[job.id] = (job.model, now + seconds)
        resident = device.resident.get(job.model)
        if resident is not None:
            resident.running += 1
            resident.runs += 1
            resident.used_at = now

    def adopt(self, job: QueuedJob, device: str | None, started_at: float, worker: str) -> None:
        """A run that the queue did not serve goes on: found at a rebuild. Its user and its tier pay for it here."""
        self.queue.runs(job)
        if device in self.devices:
            at = self.devices[device]
            seconds = self.estimates.seconds(job.model, job.cost_mt, worker)
            at.charge(job.tier, seconds, self.rules.shares, at.active | {job.tier})
            self._begin(at, job, seconds, started_at)

    def loaded(self, device: str, now: float, seconds: float) -> None:
        """The load that was under way is done, and took so long."""
        at = self.devices[device]
        swap = at.loading
        if swap is None:
            return
        at.loading = None
        self.fleet.look(device)
        self.estimates.learn_load(swap.worker, swap.model, seconds)
        at.correct(swap.tier, seconds - swap.seconds, self.rules.shares[swap.tier])
        self.found_resident(device, swap.worker, swap.model, now)

    def load_failed(self, device: str) -> Sequence[str]:
        """The load failed; what was evicted for it is gone all the same. Returns the worker and model, or nothing."""
        swap, self.devices[device].loading = self.devices[device].loading, None
        self.fleet.look(device)
        return (swap.worker, swap.model) if swap is not None else ()

    def found_resident(self, device: str, worker: str, model: str, now: float) -> None:
        """The model is in the device's memory: loaded, or seen there when its worker was first heard of."""
        at, facts = self.devices[device], self.models.get(model)
        if facts is None or facts.vram_mib == 0 or model in at.resident:
            return
        at.resident[model] = Resident(
            model=model,
            worker=worker,
            vram_mib=facts.vram_mib,
            since=now,
            used_at=now,
            load_s=self.estimates.load_s(worker, model, facts.load_s),
        )
        at.resident[model].running = sum(1 for known, _ in at.ends.values() if known == model)
        self.fleet.look(device)

    def found_gone(self, device: str, model: str) -> None:
        """The model is not in the device's memory any more: its worker says so."""
        self.devices[device].resident.pop(model, None)
        self.fleet.look(device)

    def forget_worker(self, device: str, worker: str) -> None:
        """The worker's process is gone or it was told to release all: nothing of it is resident any more."""
        at = self.devices[device]
        for model in [model for model, each in at.resident.items() if each.worker == worker]:
            del at.resident[model]
        if at.loading is not None and at.loading.worker == worker:
            at.loading = None
        if at.reserved is not None and at.reserved.worker == worker:
            at.reserved = None
        self.fleet.look(device)

    # ------------------------------------------------------------------ ends

    def ended(self, job: QueuedJob, now: float, *, unserved: bool = False) -> None:
        """A run is over, however: what was charged is corrected by what it took.

        ``unserved``: the user did not get what he paid for in virtual time (a retry follows, or it never began).
        """
        self.queue.left(job, unserved=unserved)
        run = self._running.pop(job.id, None)
        if run is None:
            return
        device = self.devices[run.device]
        device.ends.pop(job.id, None)
        seconds = max(0.0, now - run.since)
        device.correct(run.tier, seconds - run.charged_s, self.rules.shares[run.tier])
        device.window.add(now, seconds, run.kind is Kind.VIDEO)
        resident = device.resident.get(run.model)
        if resident is not None:
            resident.running = max(0, resident.running - 1)
            resident.used_at = now

    def replay(self, runs: Collection[Served], device_of: Mapping[str, str]) -> None:
        """After a restart: what was served lately counts, in the order in which it ended, as if it had been seen."""
        ran_on: dict[str, set[str]] = {}
        for run in runs:
            ran_on.setdefault(run.worker, set()).add(run.model)
        for models in ran_on.values():
            self.queue.compete(frozenset(models))
        users: dict[int, set[UUID]] = {}
        for run in runs:
            users.setdefault(self._pool(run), set()).add(run.user_id)
        competing = frozenset(run.tier for run in runs)
        for run in sorted(runs, key=lambda run: run.ended_at):
            active = len(users[self._pool(run)])
            self.queue.charge(run.tier, run.model, run.user_id, run.cost_mt, active=active)
            self.estimates.learn(run.worker, run.model, run.cost_mt, run.seconds)
            device = self.devices.get(device_of.get(run.worker, ""))
            facts = self.models.get(run.model)
            if device is not None and facts is not None:
                device.charge(run.tier, run.seconds, self.rules.shares, competing)
                device.window.add(run.ended_at, run.seconds, facts.kind is Kind.VIDEO)

    def _pool(self, run: Served) -> int:
        return id(self.queue.tiers[run.tier].pool(run.model))

"""A world on a virtual clock for the policy: workers with slots, jobs that arrive, run, fail and are cancelled, loads.

It carries out what the policy decides, as the scheduler does, and keeps a record of what was served. All that happens
later is an event of one heap; nothing here reads a real clock.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import count
from uuid import UUID

from tessera.jobs import Kind, Tier
from tessera.policy import RULES, FreeWorker, Load, ModelFacts, Policy, QueuedJob, Reserve, Rules, Start, Unreserve
from tessera.policy.failures import Circuit

ANN, BOB, CAT = UUID(int=1), UUID(int=2), UUID(int=3)
FREE, PRO, STARTER, BATCH = Tier.FREE, Tier.PRO, Tier.STARTER, Tier.BATCH
LIGHT = ModelFacts(kind=Kind.IMAGE)


def user(number: int) -> UUID:
    return UUID(int=number)


def heavy(vram_mib: int = 10, load_s: float = 10.0, kind: Kind = Kind.IMAGE) -> ModelFacts:
    return ModelFacts(kind=kind, vram_mib=vram_mib, load_s=load_s)


@dataclass(slots=True, eq=False, kw_only=True)
class Job(QueuedJob):
    """A job with what is only known afterwards: how long it runs, and how often it fails first."""

    seconds: float = 1.0
    failing: int = 0
    backoff_s: float = 0.0
    worker: str | None = None
    attempt: int = 0
    over: bool = False

    def __repr__(self) -> str:
        return f"job {self.id.int}"


@dataclass(eq=False)
class Worker:
    name: str
    models: frozenset[str]
    slots: int = 1
    device: str = "gpu"
    online: bool = True
    busy: int = 0


@dataclass(frozen=True)
class Run:
    job: Job
    start: float
    end: float


@dataclass(repr=False)
class World:
    models: Mapping[str, ModelFacts]
    workers: list[Worker]
    vram_mib: Mapping[str, int] = field(default_factory=lambda: {"gpu": 10})
    rules: Rules = RULES
    load_s: Callable[[str], float] | None = None  # how long a load really takes
    learns: bool = True
    on_start: list[Callable[[Start], None]] = field(default_factory=list)

    def __post_init__(self) -> None:
        devices = [(name, "", mib) for name, mib in self.vram_mib.items()]
        self.policy = Policy(models=self.models, devices=devices, rules=self.rules)
        self.now = 1000.0
        self.runs: list[Run] = []
        self.order: list[Job] = []
        self.starts: dict[UUID, list[float]] = {}
        self.loads: list[tuple[float, str]] = []
        self.actions: list[object] = []
        self.jobs: list[Job] = []
        self.served: Counter[Tier] = Counter()
        self.cost_of: Counter[UUID] = Counter()
        self.fails_to_load: Counter[str] = Counter()
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = count(1)
        self._by_name = {worker.name: worker for worker in self.workers}
        self._load_of: dict[str, object] = {}

    # ------------------------------------------------------------------ what happens

    def at(self, time: float, event: Callable[[], None]) -> None:
        heapq.heappush(self._events, (time, next(self._numbers), event))

    def knows(self, model: str, seconds_per_token: float = 1.0) -> None:
        """The policy has seen this model run before."""
        for _ in range(40):
            for worker in self.workers:
                if model in worker.models:
                    self.policy.estimates.learn(worker.name, model, 1000, seconds_per_token)

    def submit(
        self,
        who: UUID = ANN,
        model: str = "a",
        tier: Tier = FREE,
        *,
        tokens: float = 1.0,
        seconds: float | None = None,
        cap: int = 10**6,
        times: int = 1,
        **values: float | None,
    ) -> Job:
        """Jobs arrive now; the last is returned."""
        for _ in range(times):
            job = Job(
                id=UUID(int=10**6 + next(self._numbers)),
                user_id=who,
                tier=tier,
                kind=self.models[model].kind,
                model=model,
                cost_mt=round(tokens * 1000),
                queued_at=self.now,
                seconds=tokens if seconds is None else seconds,
                **values,  # type: ignore[arg-type]
            )
            self.policy.queue.set_cap(who, cap)
            self.jobs.append(job)
            self.policy.queue.add(job)
        return job

    def cancel(self, job: Job) -> None:
        """At any time: waiting, running, delayed, over."""
        if job.over:
            return
        job.over = True
        if job.worker is not None:
            self._stop(job, unserved=False)
        else:
            self.policy.queue.discard(job)

    def worker_lost(self, name: str) -> None:
        worker = self._by_name[name]
        worker.online = False
        for job in [job for job in self.jobs if job.worker == name]:
            self._stop(job, unserved=True)
            self.policy.queue.add(job)
        device = self.policy.devices[worker.device]
        if device.loading is not None and device.loading.worker == name:
            self._load_of.pop(worker.device, None)
        self.policy.forget_worker(worker.device, name)

    def worker_back(self, name: str) -> None:
        self._by_name[name].online = True

    # ------------------------------------------------------------------ time passes

    def run(self, seconds: float = 1e9, *, until: Callable[[], bool] = lambda: False) -> None:
        """Decide, and follow events, for so long; to the end when there are no more."""
        end = self.now + seconds
        self.decide()
        while self._events and self._events[0][0] <= end and not until():
            time, _, event = heapq.heappop(self._events)
            self.now = max(self.now, time)
            event()
            while self._events and self._events[0][0] <= self.now:  # what happens at once is decided on together
                heapq.heappop(self._events)[2]()
            self.decide()
        if seconds < 1e9 and not until():
            self.now = end

    def free_workers(self) -> list[FreeWorker]:
        """As scheduler/board.py tells them to the policy."""
        found = []
        for worker in self.workers:
            circuit = self.policy.failures.circuit(worker.name, self.now)
            if not worker.online or circuit is Circuit.OPEN:
                continue
            free = worker.slots - worker.busy
            if circuit is Circuit.HALF_OPEN:
                free = 0 if worker.busy else min(1, free)
            excluded = self.policy.failures.excluded(worker.name, self.now)
            models = worker.models.difference(excluded)
            found.append(
                FreeWorker(name=worker.name, device=worker.device, models=models, free=free, slots=worker.slots)
            )
        return found

    def decide(self) -> None:
        """Until there is nothing more to decide."""
        for _ in range(10_000):
            actions = self.policy.plan(self.free_workers(), self.now)
            if not actions:
                return
            for action in actions:
                self.actions.append(action)
                self.carry_out(action)
        raise AssertionError("the policy never comes to an end")

    def carry_out(self, action: Start | Load | Reserve | Unreserve) -> None:
        if isinstance(action, Start):
            for check in self.on_start:
                check(action)
        self.policy.apply(action, self.now)
        if isinstance(action, Start):
            self._start(action)
        elif isinstance(action, Load):
            self._load(action)

    # ------------------------------------------------------------------ inside

    def _start(self, start: Start) -> None:
        job = start.job
        assert isinstance(job, Job) and job.worker is None and not job.over
        job.worker, job.attempt = start.worker, job.attempt + 1
        self._by_name[start.worker].busy += 1
        assert self._by_name[start.worker].busy <= self._by_name[start.worker].slots
        self.order.append(job)
        self.starts.setdefault(job.id, []).append(self.now)
        self.cost_of[job.user_id] += job.cost_mt
        attempt, began = job.attempt, self.now
        self.at(self.now + job.seconds, lambda: self._ended(job, attempt, began))

    def _ended(self, job: Job, attempt: int, began: float) -> None:
        if job.worker is None or job.attempt != attempt:
            return
        worker = job.worker
        if job.failing > 0:
            job.failing -= 1
            self._stop(job, unserved=True)
            self.cost_of[job.user_id] -= job.cost_mt
            if job.backoff_s:
                self.at(self.now + job.backoff_s, lambda: None if job.over else self.policy.queue.add(job))
            else:
                self.policy.queue.add(job)
            return
        job.over = True
        self._stop(job, unserved=False)
        if self.learns:
            self.policy.estimates.learn(worker, job.model, job.cost_mt, self.now - began)
        self.runs.append(Run(job, began, self.now))

    def _stop(self, job: Job, *, unserved: bool) -> None:
        assert job.worker is not None
        self._by_name[job.worker].busy -= 1
        job.worker = None
        self.served[job.tier] += self.now - self.starts[job.id][-1]
        self.policy.ended(job, self.now, unserved=unserved)

    def _load(self, load: Load) -> None:
        swap, token, began = load.swap, object(), self.now
        self._load_of[load.device] = token
        self.loads.append((self.now, swap.model))
        seconds = self.load_s(swap.model) if self.load_s is not None else self.models[swap.model].load_s

        def done() -> None:
            if self._load_of.get(load.device) is not token:
                return
            del self._load_of[load.device]
            self.served[swap.tier] += self.now - began
            if self.fails_to_load[swap.model] > 0:
                self.fails_to_load[swap.model] -= 1
                self.policy.load_failed(load.device)
                for _ in range(2):
                    number = UUID(int=next(self._numbers))
                    self.policy.failures.failed(swap.worker, swap.model, number, "backend_error", self.now)
                until = self.policy.failures.next_change(self.now)
                if until is not None:
                    self.at(until, lambda: None)
            else:
                self.policy.loaded(load.device, self.now, self.now - began)

        self.at(self.now + seconds, done)

    # ------------------------------------------------------------------ looking

    def received(self, tier: Tier) -> float:
        """Device-seconds that the tier has had, with those of what runs or loads now."""
        going = sum(
            self.now - self.starts[job.id][-1] for job in self.jobs if job.worker is not None and job.tier is tier
        )
        for device in self.policy.devices.values():
            if device.loading is not None and device.loading.tier is tier:
                going += self.now - device.loading.since
        return self.served[tier] + going

    def started(self, job: Job) -> float:
        return self.starts[job.id][0]


def one_worker(
    slots: int = 1, models: Iterable[str] = ("a",), facts: ModelFacts = LIGHT, *, seconds_per_token: float = 1.0
) -> World:
    """One worker with light models, of which the policy knows how long they take."""
    names = list(models)
    world = World(dict.fromkeys(names, facts), [Worker("w", frozenset(names), slots)])
    for name in names:
        world.knows(name, seconds_per_token)
    return world

"""Which job runs next, and where: ``plan(snapshot, now) -> assignments``. Pure: no clock, no I/O; it changes nothing.

A decision is made per device: the tier by stride scheduling, within it the user by start-time fair queueing, then a
bounded preference for models that are resident. It reads the heads of the lanes and never a whole queue. Whoever
carries an action out tells it to ``Policy`` (tessera/policy/state.py), which moves the shares and tags on.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from tessera.jobs import Kind, Tier
from tessera.policy.devices import Device, Swap
from tessera.policy.estimates import Estimates
from tessera.policy.queue import Queue, QueuedJob
from tessera.policy.rules import RULES, TIER_RANK, Rules

_SAME = 1e-6  # passes so close together are equal: sums of the same seconds in another order


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


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """What a decision is made from. ``paused``: kinds of which nothing is started."""

    queue: Queue
    devices: Mapping[str, Device]
    workers: Sequence[FreeWorker]
    models: Mapping[str, ModelFacts]
    estimates: Estimates
    paused: Collection[Kind] = ()
    rules: Rules = RULES


@dataclass(frozen=True, kw_only=True, slots=True)
class Start:
    """This job is to be claimed for this worker; those in ``passing_over`` stood before it."""

    job: QueuedJob
    worker: str
    device: str
    seconds: float
    competing: frozenset[Tier]
    passing_over: tuple[QueuedJob, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Load:
    """This model is to be loaded now, after those in ``swap.evict``, which are idle, were unloaded."""

    device: str
    swap: Swap
    competing: frozenset[Tier]


@dataclass(frozen=True, kw_only=True, slots=True)
class Reserve:
    """The device drains for this model: what it is to evict is given only work that ends before the drain does."""

    device: str
    swap: Swap


@dataclass(frozen=True, kw_only=True, slots=True)
class Unreserve:
    """Nobody wants the reserved model any more."""

    device: str


Action = Start | Load | Reserve | Unreserve


class _Round:
    """What the devices of one ``plan`` share: for how many jobs of each heavy model there is a place already."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self._free = {worker.name: worker.free for worker in snapshot.workers}
        self._places: dict[str, int] | None = None

    def places(self, model: str) -> int:
        """The free slots where the model is loaded, or on its way."""
        if self._places is None:
            self._places = {}
            for device in self._snapshot.devices.values():
                leaving = device.reserved.evict if device.reserved is not None else ()
                for resident in device.resident.values():
                    if resident.model not in leaving:
                        self._add(resident.model, self._free.get(resident.worker, 0))
                for swap in (device.loading, device.reserved):
                    if swap is not None:
                        self._add(swap.model, swap.slots)
        return self._places.get(model, 0)

    def decided(self, action: Action | None) -> None:
        """What one device decides, the next ones count on."""
        if isinstance(action, Load | Reserve) and self._places is not None:
            self._add(action.swap.model, action.swap.slots)

    def _add(self, model: str, slots: int) -> None:
        assert self._places is not None
        self._places[model] = self._places.get(model, 0) + slots


@dataclass(slots=True)
class _View:
    """One device in one decision: where each model could run now."""

    device: Device
    worker_of: dict[str, FreeWorker]
    snapshot: Snapshot
    now: float
    round: _Round
    competing: frozenset[Tier] = frozenset()
    heads: dict[Tier, list[tuple[float, int, QueuedJob]]] = field(default_factory=dict)


def plan(snapshot: Snapshot, now: float) -> list[Action]:
    """The next step of each device that has one; apply them and ask again. Empty: nothing can be started now.

    Never a job twice, never more than a worker's free slots or a user's running cap, never a dead deadline, never more
    resident than a device holds.
    """
    by_device: dict[str, list[FreeWorker]] = {}
    for worker in snapshot.workers:
        by_device.setdefault(worker.device, []).append(worker)
    actions: list[Action] = []
    shared = _Round(snapshot)
    taken: set[object] = set()  # jobs, and users: a second device would not see the first one's choice counted
    for name in sorted(by_device, key=lambda name: _fullness(by_device[name])):
        if not any(worker.free for worker in by_device[name]):
            continue
        action = _on_device(snapshot, snapshot.devices[name], by_device[name], now, shared)
        shared.decided(action)
        if isinstance(action, Start):
            touched = {action.job.user_id, action.job.id, *(job.id for job in action.passing_over)}
            if touched & taken:
                continue
            taken |= touched
        if action is not None:
            actions.append(action)
    return actions


def _fullness(workers: Sequence[FreeWorker]) -> float:
    return 1.0 - sum(worker.free for worker in workers) / max(1, sum(worker.slots for worker in workers))


def _on_device(
    snapshot: Snapshot, device: Device, workers: Sequence[FreeWorker], now: float, shared: _Round
) -> Action | None:
    view = _View(device, _workers_by_model(snapshot, device, workers), snapshot, now, shared)
    reserved = device.reserved
    if reserved is not None and not _still_wanted(view, reserved, workers):
        return Unreserve(device=device.name)
    for tier, queue in snapshot.queue.tiers.items():
        lanes = queue.lanes
        found = [
            head
            for model in (lanes if len(lanes) < len(view.worker_of) else view.worker_of)
            if model in view.worker_of and (head := snapshot.queue.head(tier, model, now)) is not None
        ]
        if found:
            view.heads[tier] = found
    if not view.heads:
        return None
    view.competing = frozenset(view.heads)
    if reserved is not None and device.loading is None and _idle(device, reserved.evict):
        return Load(device=device.name, swap=reserved, competing=view.competing)
    if device.window.video_share(now) <= snapshot.rules.video_share:
        return _by_tiers(view)
    everything = view.heads
    _leave_video_out(view)
    action = _by_tiers(view)
    if action is None and view.heads is not everything:
        view.heads = everything  # nothing else can use the slot: a video that is loaded may, but none is brought in
        action = _by_tiers(view)
        action = action if isinstance(action, Start) else None
    return action


def _by_tiers(view: _View) -> Action | None:
    """The tier that is owed device-seconds and whose next job is due first; those that are ahead only if none can."""
    device, rules = view.device, view.snapshot.rules
    virtual = device.virtual_of(view.competing, rules.shares)

    def urgency(tier: Tier) -> tuple[bool, float, int]:
        at = device.pass_of(tier)
        head = min(view.heads[tier])[2]
        seconds = view.snapshot.estimates.seconds(head.model, head.cost_mt, view.worker_of[head.model].name)
        return at > virtual + _SAME, at + seconds / rules.shares[tier], TIER_RANK[tier]

    for tier in sorted(view.heads, key=urgency):
        action = _in_tier(view, tier)
        if action is not None:
            return action
    return None


def _still_wanted(view: _View, reserved: Swap, workers: Sequence[FreeWorker]) -> bool:
    """Whether the reservation is for somebody, can be carried out, and makes room enough."""
    if reserved.model not in view.worker_of or not view.snapshot.queue.has_work(reserved.model):
        return False
    if not any(worker.name == reserved.worker and reserved.model in worker.models for worker in workers):
        return False
    resident = view.device.resident
    leaving_mib = sum(resident[model].vram_mib for model in reserved.evict if model in resident)
    return view.device.taken_mib - leaving_mib + reserved.vram_mib <= view.device.vram_mib


def _workers_by_model(snapshot: Snapshot, device: Device, workers: Sequence[FreeWorker]) -> dict[str, FreeWorker]:
    """For each model that could run here, the worker with the largest share of its slots free; it may have none."""
    best: dict[str, FreeWorker] = {}
    for worker in workers:
        for model in worker.models:
            facts = snapshot.models.get(model)
            if facts is None or facts.kind in snapshot.paused or facts.vram_mib > device.vram_mib:
                continue
            resident = device.resident.get(model)
            home = resident.worker if resident is not None else None  # where it is loaded
            other = best.get(model)
            if other is None or (worker.name == home, worker.free / worker.slots) > (
                other.name == home,
                other.free / other.slots,
            ):
                best[model] = worker
    return best


def _leave_video_out(view: _View) -> None:
    """Video has had its share of this device: what else waits goes first. Alone it may have all."""
    kinds = view.snapshot.models
    others = {
        tier: kept
        for tier, heads in view.heads.items()
        if (kept := [head for head in heads if kinds[head[2].model].kind is not Kind.VIDEO])
    }
    if others:
        view.heads = others


def _in_tier(view: _View, tier: Tier) -> Action | None:
    heads = view.heads[tier]
    within_reach = sorted(head for head in heads if view.worker_of[head[2].model].free > 0)
    if not within_reach:
        return None
    first = within_reach[0][2]
    if _can_run(view, first):
        return _start(view, first, (), within_reach)
    models = [head[2].model for head in within_reach]
    candidates = view.snapshot.queue.heads(tier, models, view.snapshot.rules.affinity_window, view.now)
    before: list[QueuedJob] = []
    for candidate in candidates:
        if _can_run(view, candidate):
            return _start(view, candidate, tuple(before), within_reach)
        if _may_pass_over(view, candidate):
            before.append(candidate)
            continue
        action = _swap(view, tier, candidate)
        if action is not None:
            return action
        # Its model cannot be brought in now whatever is done: a slot that stays empty would not help it.
    # What is to leave for it may have more work and only wait for a slot: then a swap does not pay yet.
    busy = {head[2].model for head in heads if view.worker_of[head[2].model].free == 0}
    action = _swap(view, tier, first, keeping=busy if _may_pass_over(view, first) else ())
    if action is not None:
        return action
    return next((_start(view, job, (), within_reach) for _, _, job in within_reach if _can_run(view, job)), None)


def _kept_out(view: _View, job: QueuedJob, heads: Sequence[tuple[float, int, QueuedJob]]) -> list[QueuedJob]:
    """The heads of other workers for whose models there is no room while this job's stays: it passes them over.

    They have a slot of their own, so the order of tags never comes to them: only their patience brings them in.
    """
    device, lanes = view.device, view.snapshot.queue.tiers[job.tier].lanes
    if device.loading is not None or device.reserved is not None or job.model not in device.resident:
        return []
    room_mib = device.vram_mib - device.taken_mib
    return [
        other
        for _, _, other in heads
        if lanes[other.model].pool is not lanes[job.model].pool
        and other.model not in device.resident
        and view.snapshot.models[other.model].vram_mib > room_mib
        and _may_pass_over(view, other)
    ]


def _start(
    view: _View,
    job: QueuedJob,
    passing_over: tuple[QueuedJob, ...],
    within_reach: Sequence[tuple[float, int, QueuedJob]],
) -> Start:
    worker = view.worker_of[job.model]
    kept_out = [other for other in _kept_out(view, job, within_reach) if other not in passing_over]
    return Start(
        job=job,
        worker=worker.name,
        device=view.device.name,
        seconds=view.snapshot.estimates.seconds(job.model, job.cost_mt, worker.name),
        competing=view.competing,
        passing_over=(*passing_over, *kept_out),
    )


def _can_run(view: _View, job: QueuedJob) -> bool:
    """Whether the job could start here at once: its model is light, or resident and not about to leave."""
    if view.snapshot.models[job.model].vram_mib == 0:
        return True
    resident = view.device.resident.get(job.model)
    worker = view.worker_of[job.model]
    if resident is None or resident.worker != worker.name:
        return False
    reserved = view.device.reserved
    if reserved is None or job.model not in reserved.evict:
        return True
    seconds = view.snapshot.estimates.seconds(job.model, job.cost_mt, worker.name)
    return view.now + seconds <= view.device.drained_at(reserved.evict, view.now)


def _may_pass_over(view: _View, job: QueuedJob) -> bool:
    """Whether affinity may pass this job over once more."""
    rules = view.snapshot.rules
    if job.skips >= rules.max_skips:
        return False
    longest = min(2 * _load_s(view, job.model), rules.max_skip_s[job.tier])
    return job.skips == 0 or view.now - job.skipped_since < longest


def _load_s(view: _View, model: str) -> float:
    worker = view.worker_of[model].name
    return view.snapshot.estimates.load_s(worker, model, view.snapshot.models[model].load_s)


def _swap(view: _View, tier: Tier, job: QueuedJob, keeping: Collection[str] = ()) -> Action | None:
    """Bring in the model of a job that is next, or may not be passed over; nothing of ``keeping`` leaves for it."""
    device, now = view.device, view.now
    if device.loading is not None:
        return None  # one at a time
    if device.reserved is not None:
        return None  # it drains
    if view.round.places(job.model) >= view.snapshot.queue.waiting_for(job.model):
        return None  # other devices have it, or load it, with slots enough for all who wait for it
    worker = view.worker_of[job.model]
    facts = view.snapshot.models[job.model]
    evict = _victims(view, facts.vram_mib - (device.vram_mib - device.taken_mib))
    if evict is None:
        return None  # what is resident has not earned its load yet
    if any(model in keeping for model in evict):
        return None
    swap = Swap(
        model=job.model,
        worker=worker.name,
        vram_mib=facts.vram_mib,
        tier=tier,
        evict=evict,
        since=now,
        seconds=_load_s(view, job.model),
        slots=worker.slots,
    )
    if _idle(device, evict):
        return Load(device=device.name, swap=swap, competing=view.competing)
    return Reserve(device=device.name, swap=swap)


def _idle(device: Device, models: Collection[str]) -> bool:
    return not any(device.resident[model].running for model in models if model in device.resident)


def _victims(view: _View, missing_mib: int) -> tuple[str, ...] | None:
    """What to unload for so much memory, the least wanted first; () when there is room, None when it must wait."""
    if missing_mib <= 0:
        return ()
    queue, now = view.snapshot.queue, view.now
    # What cannot be served now (its kind is paused, its worker left out) must not keep its place from those who can.
    wanted = {model: model in view.worker_of and queue.has_work(model) for model in view.device.resident}
    evict: list[str] = []
    for resident in sorted(
        view.device.resident.values(), key=lambda each: (wanted[each.model], each.running > 0, each.used_at)
    ):
        young = now - resident.since < view.snapshot.rules.stay_loads * resident.load_s or resident.runs == 0
        if wanted[resident.model] and young:
            continue
        evict.append(resident.model)
        missing_mib -= resident.vram_mib
        if missing_mib <= 0:
            return tuple(evict)
    return None

"""Which job runs next, and where: ``plan(snapshot, now) -> assignments``. Pure: no clock, no I/O; it changes nothing.

A decision is made per device: the tier by stride scheduling, within it the user by start-time fair queueing, then a
bounded preference for models that are resident. It reads the heads of the lanes and never a whole queue. Whoever
carries an action out tells it to ``Policy`` (tessera/policy/state.py), which moves the shares and tags on.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from tessera.jobs import Kind, Tier
from tessera.policy.devices import Device, Resident, Swap
from tessera.policy.estimates import Estimates
from tessera.policy.fleet import Fleet, FreeWorker, Group, ModelFacts
from tessera.policy.queue import Queue, QueuedJob
from tessera.policy.rules import RULES, TIER_RANK, Rules

LOOKS = 4  # devices of one group that are asked in vain: those that changed longest ago can bring something in first
_SAME = 1e-6  # passes so close together are equal: sums of the same seconds in another order


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """What a decision is made from. ``paused``: kinds of which nothing is started."""

    queue: Queue
    devices: Mapping[str, Device]
    fleet: Fleet
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


Head = tuple[float, int, QueuedJob]


class _Round:
    """What the devices of one ``plan`` share: who is next in each lane, and where each heavy model has places."""

    def __init__(self, snapshot: Snapshot, now: float) -> None:
        self._snapshot = snapshot
        self._coming: dict[str, int] = {}  # slots of what this round brings in
        self.heads: dict[Tier, dict[str, Head]] = {}
        queue, models, paused = snapshot.queue, snapshot.models, snapshot.paused
        for tier, lanes in queue.tiers.items():
            found: dict[str, Head] = {}
            for model, lane in lanes.lanes.items():
                facts = models.get(model)
                if not lane.live or facts is None or facts.kind in paused:
                    continue
                head = queue.head(tier, model, now)
                if head is not None:
                    found[model] = head
            if found:
                self.heads[tier] = found
        self.wanted = frozenset(model for found in self.heads.values() for model in found)

    def has_places(self, model: str) -> bool:
        """Whether there are free slots for all who wait for this model where it is loaded, or on its way."""
        places = self._snapshot.fleet.places[model] + self._coming.get(model, 0)
        return places > 0 and places >= self._snapshot.queue.waiting_for(model)

    def is_served_soon(self, model: str, loads: float) -> bool:
        """Whether those who wait for this model are served where it is within so many times its load."""
        snapshot = self._snapshot
        slots = snapshot.fleet.slots[model] + self._coming.get(model, 0)
        if slots <= 0:
            return False
        waiting_s = snapshot.estimates.seconds(model, snapshot.queue.cost_waiting_for(model))
        return waiting_s / slots < loads * snapshot.models[model].load_s

    def may_be_loaded(self, model: str, room_mib: int) -> bool:
        """Whether it could be worth to bring the model into a device with so much free memory."""
        if self.has_places(model):
            return False
        snapshot = self._snapshot
        fits = snapshot.models[model].vram_mib <= room_mib
        return fits or not self.is_served_soon(model, min(snapshot.rules.pays_loads, snapshot.rules.pays_idle_loads))

    def copies(self, model: str) -> int:
        """The slots where the model is loaded, or on its way."""
        return self._snapshot.fleet.slots[model] + self._coming.get(model, 0)

    def decided(self, action: Action) -> None:
        """What one device decides, the next ones count on."""
        if isinstance(action, Load | Reserve):
            self._coming[action.swap.model] = self._coming.get(action.swap.model, 0) + action.swap.slots


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
    """The next steps of the devices; apply them and ask again. Empty: nothing can be started now.

    Never a job twice, never more than a worker's free slots or a user's running cap, never a dead deadline, never more
    resident than a device holds.
    """
    shared = _Round(snapshot, now)
    fleet = snapshot.fleet
    actions: list[Action] = []
    taken: set[object] = set()  # jobs, and users: a second device would not see the first one's choice counted
    started: set[str] = set()  # models: who is next for them is known again only when this start is applied

    def order(group: Group) -> tuple[float, float]:
        # The emptiest first; of equal ones those whose models others have too, so that a rare model keeps its place.
        return group.fullness, sum(1 / max(1, shared.copies(model)) for model in group.resident)

    for group in sorted((group for group in fleet.groups if _is_concerned(shared, group)), key=order):
        if started and not started.isdisjoint(group.runnable | group.loadable):
            continue
        runs = not group.runnable.isdisjoint(shared.wanted)
        # A job goes to the device that was busy last, a model to the one that was idle longest.
        members = fleet.groups[group]
        looks = 0
        for name in reversed(members) if runs else members:
            action = _on_device(snapshot, snapshot.devices[name], fleet.workers_of(name), now, shared)
            if isinstance(action, Start):
                touched = {action.job.user_id, action.job.id, *(job.id for job in action.passing_over)}
                if not touched & taken:
                    taken |= touched
                    actions.append(action)
                    started.add(action.job.model)
                break
            if action is not None:
                shared.decided(action)
                actions.append(action)
                if not _is_concerned(shared, group):
                    break
            else:
                looks += 1
                if looks >= LOOKS:
                    break
    return actions


def _is_concerned(shared: _Round, group: Group) -> bool:
    """Whether devices of this group may have something to do."""
    if group.reserved or not group.runnable.isdisjoint(shared.wanted):
        return True
    return any(shared.may_be_loaded(model, group.room_mib) for model in group.loadable & shared.wanted)


def _on_device(
    snapshot: Snapshot, device: Device, workers: Sequence[FreeWorker], now: float, shared: _Round
) -> Action | None:
    view = _View(device, _workers_by_model(snapshot, device, workers), snapshot, now, shared)
    reserved = device.reserved
    if reserved is not None and not _still_wanted(view, reserved, workers):
        return Unreserve(device=device.name)
    for tier, heads in shared.heads.items():
        found = [head for model, head in heads.items() if model in view.worker_of]
        if found:
            view.heads[tier] = found
    if not view.heads:
        return None
    # A tier whose work is all done elsewhere does not compete here: else it would bank what it cannot use.
    view.competing = frozenset(
        tier for tier, heads in view.heads.items() if any(_is_work_for(view, head[2].model) for head in heads)
    ) or frozenset(view.heads)
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


def _is_work_for(view: _View, model: str) -> bool:
    """Whether the device has the model, or may bring it in."""
    vram_mib = view.snapshot.models[model].vram_mib
    if vram_mib == 0 or model in view.device.resident:
        return True
    if view.round.has_places(model):
        return False
    if view.device.taken_mib + vram_mib <= view.device.vram_mib:
        return True
    return not view.round.is_served_soon(model, view.snapshot.rules.pays_loads)


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
    if view.round.has_places(job.model):
        return None  # other devices have it, or load it, with slots enough for all who wait for it
    worker = view.worker_of[job.model]
    facts = view.snapshot.models[job.model]
    missing_mib = facts.vram_mib - (device.vram_mib - device.taken_mib)
    evict = _victims(view, missing_mib)
    if evict is None:
        return None  # what is resident has not earned its load yet
    if evict and view.round.is_served_soon(job.model, _worth_loads(view, evict)):
        return None  # where it is loaded they come to their turn sooner than a swap would be worth
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


def _worth_loads(view: _View, evict: Collection[str]) -> float:
    """How long a wait elsewhere, in loads, a swap is worth: it takes time from those who want what leaves, too."""
    rules, queue = view.snapshot.rules, view.snapshot.queue
    wanted = any(model in view.worker_of and queue.has_work(model) for model in evict)
    return rules.pays_loads if wanted else rules.pays_idle_loads


def _idle(device: Device, models: Collection[str]) -> bool:
    return not any(device.resident[model].running for model in models if model in device.resident)


def _victims(view: _View, missing_mib: int) -> tuple[str, ...] | None:
    """What to unload for so much memory, the least wanted first; () when there is room, None when it must wait."""
    if missing_mib <= 0:
        return ()
    queue, now, rules = view.snapshot.queue, view.now, view.snapshot.rules
    # What cannot be served now (its kind is paused, its worker left out) must not keep its place from those who can.
    wanted = {model: model in view.worker_of and queue.has_work(model) for model in view.device.resident}
    evict: list[str] = []

    def least_wanted(each: Resident) -> tuple[bool, bool, bool, float]:
        last = view.round.copies(each.model) <= view.worker_of[each.model].slots if wanted[each.model] else False
        return wanted[each.model], each.running > 0, last, each.used_at

    for resident in sorted(view.device.resident.values(), key=least_wanted):
        if wanted[resident.model] and _is_young(resident, now, rules):
            continue
        evict.append(resident.model)
        missing_mib -= resident.vram_mib
        if missing_mib <= 0:
            return tuple(evict)
    return None


def _is_young(resident: Resident, now: float, rules: Rules) -> bool:
    """Whether a model has not earned its load yet: by its time, and by so many runs unless they take too long."""
    stayed_s = now - resident.since
    if resident.runs == 0 or stayed_s < rules.stay_loads * resident.load_s:
        return True
    longest_s = min(rules.longest_stay_loads * resident.load_s, rules.longest_stay_s)
    return resident.runs < rules.stay_runs and stayed_s < longest_s

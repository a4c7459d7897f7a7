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


@dataclass(slots=True)
class _View:
    """One device in one decision: where each model could run now."""

    device: Device
    worker_of: dict[str, FreeWorker]
    snapshot: Snapshot
    now: float
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
    taken: set[object] = set()  # jobs, and users: a second device would not see the first one's choice counted
    for name in sorted(by_device, key=lambda name: _fullness(by_device[name])):
        if not any(worker.free for worker in by_device[name]):
            continue
        action = _on_device(snapshot, snapshot.devices[name], by_device[name], now)
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


def _on_device(snapshot: Snapshot, device: Device, workers: Sequence[FreeWorker], now: float) -> Action | None:
    reserved = device.reserved
    if reserved is not None and not snapshot.queue.has_work(reserved.model):
        return Unreserve(device=device.name)
    view = _View(device, _workers_by_model(snapshot, device, workers), snapshot, now)
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
    if device.window.video_share(now) > snapshot.rules.video_share:
        _leave_video_out(view)
    for tier in sorted(view.heads, key=lambda tier: (device.pass_of(tier), TIER_RANK[tier])):
        action = _in_tier(view, tier)
        if action is not None:
            return action
    return None


def _workers_by_model(snapshot: Snapshot, device: Device, workers: Sequence[FreeWorker]) -> dict[str, FreeWorker]:
    """For each model that could run here, the worker with the largest share of its slots free; it may have none."""
    best: dict[str, FreeWorker] = {}
    for worker in workers:
        for model in worker.models:
            facts = snapshot.models.get(model)
            if facts is None or facts.kind in snapshot.paused or facts.vram_mib > device.vram_mib:
                continue
            other = best.get(model)
            if other is None or worker.free / worker.slots > other.free / other.slots:
                best[model] = worker
            resident = device.resident.get(model)
            if resident is not None and resident.worker == worker.name:
                best[model] = worker  # where it is loaded
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
    within_reach = [head for head in heads if view.worker_of[head[2].model].free > 0]
    if not within_reach:
        return None
    first = min(within_reach)[2]
    if _can_run(view, first):
        return _start(view, first, ())
    models = [head[2].model for head in within_reach]
    candidates = view.snapshot.queue.heads(tier, models, view.snapshot.rules.affinity_window, view.now)
    before: list[QueuedJob] = []
    for candidate in candidates:
        if _can_run(view, candidate):
            return _start(view, candidate, tuple(before))
        if not _may_pass_over(view, candidate):
            break
        before.append(candidate)
    if len(within_reach) < len(heads) and _may_pass_over(view, first):
        return None  # what is resident has more work and only waits for a slot: a swap does not pay yet
    return _swap(view, tier, first)


def _start(view: _View, job: QueuedJob, passing_over: tuple[QueuedJob, ...]) -> Start:
    worker = view.worker_of[job.model]
    return Start(
        job=job,
        worker=worker.name,
        device=view.device.name,
        seconds=view.snapshot.estimates.seconds(job.model, job.cost_mt, worker.name),
        competing=view.competing,
        passing_over=passing_over,
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


def _swap(view: _View, tier: Tier, job: QueuedJob) -> Action | None:
    """Bring in the model of the job that is next: nobody whose model is resident may go before it."""
    device, now = view.device, view.now
    if device.loading is not None:
        return None  # one at a time
    if device.reserved is not None:
        return None  # it drains
    worker = view.worker_of[job.model]
    facts = view.snapshot.models[job.model]
    evict = _victims(view, facts.vram_mib - (device.vram_mib - device.taken_mib))
    if evict is None:
        return None  # what is resident has not earned its load yet
    swap = Swap(
        model=job.model,
        worker=worker.name,
        vram_mib=facts.vram_mib,
        tier=tier,
        evict=evict,
        since=now,
        seconds=_load_s(view, job.model),
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
    wanted = {model: queue.has_work(model) for model in view.device.resident}
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

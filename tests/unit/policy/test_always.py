"""What holds in every step, whatever happens: memory, slots, caps, no slot left empty, the same plan each time."""

from __future__ import annotations

from collections import Counter
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tessera.jobs import Kind, Tier
from tessera.policy import Load, ModelFacts, Start
from tests.unit.policy.world import LIGHT, Job, Worker, World, heavy, user

MODELS = {
    "a": heavy(6, 4.0),
    "b": heavy(6, 8.0),
    "c": heavy(3, 2.0),
    "v": heavy(5, 6.0, Kind.VIDEO),
    "huge": heavy(50, 2.0),
    "light": LIGHT,
    "text": ModelFacts(kind=Kind.TEXT),
}
CAPS = {user(1): 1, user(2): 2, user(3): 4, user(4): 100}


def seen(world: World) -> Any:
    """All of the policy that a later decision could see."""
    policy = world.policy
    tiers = {
        tier: {
            model: (
                lane.live,
                lane.cost_mt,
                {who: (b.live, [j.id for j in b.jobs if j.waiting]) for who, b in lane.users.items() if b.live},
            )
            for model, lane in queue.lanes.items()
        }
        for tier, queue in policy.queue.tiers.items()
    }
    pools = [(pool.virtual, dict(pool.finish)) for q in policy.queue.tiers.values() for pool in q.pools.values()]
    devices = [
        (dict(d.passes), d.virtual, d.active, set(d.resident), d.loading, d.reserved, dict(d.ends))
        for d in policy.devices.values()
    ]
    skips = [(job.id, job.skips, job.skipped_since) for job in world.jobs if job.waiting]
    return tiers, pools, devices, skips, dict(policy.queue.running), len(policy.queue)


class Always(RuleBasedStateMachine):
    @initialize(
        slots=st.lists(st.integers(1, 3), min_size=3, max_size=3), vram=st.sampled_from([8, 12]), spare=st.booleans()
    )
    def begin(self, slots: list[int], vram: int, spare: bool) -> None:
        workers = [
            Worker("comfy", frozenset({"a", "c", "v", "huge"}), slots[0]),
            Worker("kobold", frozenset({"b"}), slots[1]),
            Worker("cpu", frozenset({"light", "text"}), slots[2], device="cpu"),
        ]
        if spare:
            workers.append(Worker("spare", frozenset({"a", "b", "light"}), 1, device="gpu2"))
        self.world = World(MODELS, workers, {"gpu": vram, "gpu2": 6, "cpu": 0})
        self.world.on_start.append(self._may_start)
        self._check_each_action()

    def _may_start(self, start: Start) -> None:
        world, job = self.world, start.job
        assert isinstance(job, Job) and job.waiting and not job.over
        device, facts = world.policy.devices[start.device], MODELS[job.model]
        assert facts.vram_mib == 0 or device.resident[job.model].worker == start.worker
        assert world.policy.queue.running[job.user_id] < CAPS[job.user_id]
        assert job.deadline is None or job.deadline > world.now
        assert facts.kind not in world.policy.paused
        assert job.model not in world.policy.failures.excluded(start.worker, world.now)
        assert world._by_name[start.worker].online
        for other in start.passing_over:
            assert other.skips < 8

    def _check_each_action(self) -> None:
        world = self.world
        carry_out, plan = world.carry_out, world.policy.plan

        def checked(action: Any) -> None:
            if isinstance(action, Load):
                device = world.policy.devices[action.device]
                assert device.loading is None
                running = {
                    job.model for job in world.jobs if job.worker and world._by_name[job.worker].device == device.name
                }
                assert not running & set(action.swap.evict)
            carry_out(action)
            self.no_device_holds_more_than_fits()

        def twice(*args: Any) -> Any:
            first, before = plan(*args), seen(world)
            assert plan(*args) == first
            assert seen(world) == before
            return first

        world.carry_out = checked  # type: ignore[method-assign]
        world.policy.plan = twice  # type: ignore[method-assign]

    # ------------------------------------------------------------------ what happens

    @rule(
        who=st.sampled_from(list(CAPS)),
        model=st.sampled_from(list(MODELS)),
        tier=st.sampled_from(list(Tier)),
        times=st.integers(1, 6),
        tokens=st.sampled_from([0.5, 1.0, 8.0]),
        off=st.sampled_from([0.5, 1.0, 3.0]),
        failing=st.sampled_from([0, 0, 0, 1]),
        deadline_s=st.sampled_from([None, None, 5.0]),
    )
    def arrive(
        self, who: Any, model: str, tier: Tier, times: int, tokens: float, off: float, failing: int, deadline_s: Any
    ) -> None:
        self.world.submit(
            who,
            model,
            tier,
            tokens=tokens,
            seconds=tokens * off,
            cap=CAPS[who],
            times=times,
            failing=failing,
            deadline=None if deadline_s is None else self.world.now + deadline_s,
        )

    @rule(seconds=st.sampled_from([0.0, 0.5, 3.0, 20.0]))
    def time_passes(self, seconds: float) -> None:
        self.world.run(seconds)

    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        live = [job for job in self.world.jobs if not job.over]
        if live:
            self.world.cancel(data.draw(st.sampled_from(live)))

    @rule(name=st.sampled_from(["comfy", "kobold", "cpu"]))
    def worker_goes_or_comes_back(self, name: str) -> None:
        if self.world._by_name[name].online:
            self.world.worker_lost(name)
        else:
            self.world.worker_back(name)

    @rule(model=st.sampled_from("abcv"))
    def next_load_fails(self, model: str) -> None:
        self.world.fails_to_load[model] = 1

    @rule(kinds=st.sampled_from([frozenset(), frozenset({Kind.VIDEO}), frozenset({Kind.TEXT})]))
    def pause(self, kinds: frozenset[Kind]) -> None:
        self.world.policy.paused = kinds

    # ------------------------------------------------------------------ what holds

    @invariant()
    def no_device_holds_more_than_fits(self) -> None:
        for device in self.world.policy.devices.values():
            assert device.taken_mib <= device.vram_mib
            assert device.taken_mib >= sum(each.vram_mib for each in device.resident.values())

    @invariant()
    def the_counts_are_right(self) -> None:
        policy = self.world.policy
        running = Counter(job.user_id for job in self.world.jobs if job.worker is not None)
        assert policy.queue.running == running
        assert len(policy.queue) == sum(1 for job in self.world.jobs if job.waiting)
        for device in policy.devices.values():
            for model, resident in device.resident.items():
                here = [w.name for w in self.world.workers if w.device == device.name]
                assert resident.running == sum(1 for j in self.world.jobs if j.worker in here and j.model == model)

    @invariant()
    def no_slot_stays_free_that_a_waiting_job_could_take(self) -> None:
        world = self.world
        world.decide()
        for worker in world.free_workers():
            device = world.policy.devices[worker.device]
            for job in world.jobs:
                if not (worker.free and job.waiting and job.model in worker.models):
                    continue
                facts = MODELS[job.model]
                here = facts.vram_mib == 0 or (
                    job.model in device.resident and device.resident[job.model].worker == worker.name
                )
                leaving = device.reserved is not None and job.model in device.reserved.evict
                able = here and not leaving and facts.kind not in world.policy.paused
                assert not able or world.policy.queue.at_cap(job.user_id), (worker.name, job.model)

    def teardown(self) -> None:
        """Left alone, with all workers back, everything that fits is served."""
        if not hasattr(self, "world"):
            return
        world = self.world
        world.policy.paused = frozenset()
        world.fails_to_load.clear()
        for worker in world.workers:
            worker.online = True
        for _ in range(60):  # pauses of failures are no events of this world
            world.run(20)
        left = [job for job in world.jobs if not job.over and job.model != "huge" and job.deadline is None]
        assert not left


Always.TestCase.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)
TestAlways = Always.TestCase


def history(world: World) -> list[tuple[float, int]]:
    for n in range(120):
        world.submit(user(1 + n % 5), list(MODELS)[n % 7], list(Tier)[n % 4], tokens=1 + n % 3, cap=2)
        if n % 10 == 0:
            world.run(7)
    world.run(500)
    return [(world.starts[job.id][0], job.id.int) for job in world.order]


def test_the_same_history_gives_the_same_plan() -> None:
    runs = []
    for turned in (False, True):  # sets and dicts are filled in another order
        models = dict(reversed(MODELS.items())) if turned else MODELS
        names = sorted(MODELS, reverse=turned)
        world = World(
            MODELS,
            [Worker("w", frozenset(names), 2), Worker("x", frozenset(names[2:5]), 1, device="cpu")],
            {"gpu": 12, "cpu": 0},
        )
        world.policy.models = dict(models)
        world.workers[1].models = frozenset(["light"])
        runs.append(history(world))
    assert runs[0] == runs[1]

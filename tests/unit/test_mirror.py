"""The mirror against a naive model of the database: however late it hears what happened, its heads are right."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tessera.jobs import Kind, Tier
from tessera.policy import FreeWorker, ModelFacts, Policy, Start
from tessera.scheduler.mirror import Mirror, MirroredJob

START = datetime(2026, 5, 4, 12, 0, tzinfo=UTC)
USERS = {UUID(int=1): 1, UUID(int=2): 2, UUID(int=3): 3}  # each with its running cap
MODELS = ("a", "b")
LEASE = timedelta(seconds=30)


@dataclass
class Stored:
    """A job as the database has it."""

    id: UUID
    user_id: UUID
    model: str
    tier: Tier
    queued_at: datetime
    deadline: datetime | None
    not_before: datetime | None
    state: str = "queued"
    attempt: int = 0
    failures: int = 0
    worker: str | None = None
    started_at: datetime | None = None
    lease_expires_at: datetime | None = None
    cancel_requested_at: datetime | None = None


def new_mirror() -> Mirror:
    policy = Policy(models={model: ModelFacts(kind=Kind.IMAGE) for model in MODELS}, devices=[("cpu", "pc2", 0)])
    return Mirror(policy, {"w": "cpu"})


class MirrorFollowsTheDatabase(RuleBasedStateMachine):
    """Users act on the database, the scheduler on both; the feed tells the mirror late, with the newest row."""

    def __init__(self) -> None:
        super().__init__()
        self.now = START
        self.jobs: dict[UUID, Stored] = {}
        self.feed: list[tuple[int, UUID, str]] = []
        self.seq = 0
        self.took_over: set[UUID] = set()
        self.mirror = new_mirror()

    # ------------------------------------------------------------ the database

    def event(self, job: Stored, type: str) -> None:
        self.seq += 1
        self.feed.append((self.seq, job.id, type))

    def row(self, job: Stored) -> dict[str, Any]:
        return {
            "id": job.id,
            "user_id": job.user_id,
            "kind": "image",
            "model": job.model,
            "tier": job.tier.value,
            "state": job.state,
            "cost_mt": 1000,
            "attempt": job.attempt,
            "failures": job.failures,
            "queued_at": job.queued_at,
            "started_at": job.started_at,
            "not_before": job.not_before,
            "deadline": job.deadline,
            "worker": job.worker,
            "lease_expires_at": job.lease_expires_at,
            "cancel_requested_at": job.cancel_requested_at,
            "max_running": USERS[job.user_id],
        }

    def read_feed(self, upto: int | None = None) -> None:
        taken, self.feed = self.feed[:upto], self.feed[upto:] if upto is not None else []
        for seq, job_id, type in taken:
            row = self.row(self.jobs[job_id])
            self.mirror.apply(
                {**row, "seq": seq, "job_id": job_id, "type": type, "job_attempt": row["attempt"]}, self.at
            )

    @property
    def at(self) -> float:
        return self.now.timestamp()

    def running(self, user: UUID) -> int:
        return sum(job.user_id == user and job.state == "running" for job in self.jobs.values())

    def pick(self, choice: int, state: str) -> Stored | None:
        found = [job for job in self.jobs.values() if job.state == state]
        return found[choice % len(found)] if found else None

    # ------------------------------------------------------------ what users and time do

    @rule(
        user=st.sampled_from(sorted(USERS, key=lambda user: user.int)),
        model=st.sampled_from(MODELS),
        tier=st.sampled_from(Tier),
        count=st.integers(1, 4),
        deadline_s=st.none() | st.integers(1, 20),
        delay_s=st.none() | st.integers(-3, 10),
    )
    def submit(
        self, user: UUID, model: str, tier: Tier, count: int, deadline_s: int | None, delay_s: int | None
    ) -> None:
        for _ in range(count):
            job = Stored(
                id=UUID(int=1000 + len(self.jobs)),
                user_id=user,
                model=model,
                tier=tier,
                queued_at=self.now,
                deadline=None if deadline_s is None else self.now + timedelta(seconds=deadline_s),
                not_before=None if delay_s is None else self.now + timedelta(seconds=delay_s),
            )
            self.jobs[job.id] = job
            self.event(job, "queued")

    @rule(choice=st.integers(0, 99))
    def cancel_waiting(self, choice: int) -> None:
        job = self.pick(choice, "queued")
        if job is not None:
            job.state, job.cancel_requested_at = "cancelled", self.now
            self.event(job, "cancelled")

    @rule(choice=st.integers(0, 99))
    def ask_to_cancel_running(self, choice: int) -> None:
        job = self.pick(choice, "running")
        if job is not None and job.cancel_requested_at is None:
            job.cancel_requested_at = self.now
            self.event(job, "cancel_requested")

    @rule(users=st.permutations(sorted(USERS, key=lambda user: user.int)))
    def merge(self, users: list[UUID]) -> None:
        """One user's account becomes part of another's, who may run more than the cap until some of it has ended."""
        gone, into = users[:2]
        for job in self.jobs.values():
            if job.user_id == gone:
                job.user_id = into
                if job.state in ("queued", "running"):
                    self.event(job, "owner_changed")
        self.took_over.add(into)

    @rule(seconds=st.integers(1, 8))
    def time_passes(self, seconds: int) -> None:
        self.now += timedelta(seconds=seconds)

    @rule(rows=st.integers(1, 5))
    def hear_a_part_of_the_feed(self, rows: int) -> None:
        self.read_feed(rows)

    # ------------------------------------------------------------ what the scheduler does

    @rule(free=st.integers(1, 5), model=st.sets(st.sampled_from(MODELS), min_size=1), between=st.integers(0, 2))
    def dispatch(self, free: int, model: set[str], between: int) -> None:
        chosen = self.choose(free, model)
        for copy in chosen:
            copy.claiming = True
        claimed = [copy for copy in chosen if self.claim(copy)]
        if between:  # the feed may tell of a claim, and of the wish to cancel it, before its answer is here
            for copy in claimed[: between - 1]:
                self.jobs[copy.id].cancel_requested_at = self.now
                self.event(self.jobs[copy.id], "cancel_requested")
            self.read_feed()
        for copy in chosen:
            stored = self.jobs[copy.id]
            if self.mirror.jobs.get(copy.id) is not copy:
                continue  # it ended, the feed says
            if copy in claimed:
                self.mirror.claimed(copy, "w", stored.attempt, self.at)
                continue
            # The dispatcher looks again how the job is now.
            self.mirror.not_claimed(copy, self.at)
            if stored.state == "queued":
                self.mirror.load(self.row(stored), self.at)
            else:
                self.mirror.remove(copy.id, self.at)

    def choose(self, free: int, models: set[str]) -> list[MirroredJob]:
        """What the policy serves with so many free slots, as the dispatcher asks it."""
        self.mirror.wake_due(self.at)
        chosen: list[MirroredJob] = []
        while len(chosen) < free:
            worker = FreeWorker(
                name="w", device="cpu", models=frozenset(models), free=free - len(chosen), slots=max(5, free)
            )
            actions = self.mirror.policy.plan([worker], self.at)
            if not actions:
                break
            for action in actions:
                assert isinstance(action, Start)
                self.mirror.policy.apply(action, self.at)
                chosen.append(self.mirror.jobs[action.job.id])
        return chosen

    def claim(self, copy: MirroredJob) -> bool:
        job = self.jobs[copy.id]
        due = job.not_before is None or job.not_before <= self.now
        alive = job.deadline is None or job.deadline > self.now
        if job.state != "queued" or not due or not alive or self.running(job.user_id) >= USERS[job.user_id]:
            return False
        job.state, job.attempt, job.worker = "running", job.attempt + 1, "w"
        job.started_at, job.lease_expires_at = self.now, self.now + LEASE
        self.event(job, "started")
        return True

    @rule(
        choice=st.integers(0, 99),
        again=st.booleans(),
        delay_s=st.none() | st.integers(0, 6),
        heard=st.booleans(),
        own=st.booleans(),
    )
    def finish(self, choice: int, again: bool, delay_s: int | None, heard: bool, own: bool) -> None:
        """``own``: by this scheduler; else it hears of it from the feed alone, as of an operator's requeue."""
        job = self.pick(choice, "running")
        if job is None:
            return
        job.worker = job.started_at = job.lease_expires_at = None
        if again and job.cancel_requested_at is None:
            job.state, job.failures = "queued", job.failures + 1
            job.not_before = None if delay_s is None else self.now + timedelta(seconds=delay_s)
        else:
            job.state = "completed"
        self.event(job, job.state)
        if heard:
            self.read_feed()
        if not own:
            return
        copy = self.mirror.jobs.get(job.id)
        if copy is None or copy.key != (job.id, job.attempt) or not copy.running:
            return  # the feed was faster
        if job.state == "queued":
            ready_at = job.not_before.timestamp() if job.not_before is not None else None
            self.mirror.requeue(copy, ready_at, self.at, counted=True)
        else:
            self.mirror.remove(job.id, self.at)

    @rule()
    def expire(self) -> None:
        expired = self.mirror.take_expired(self.at)
        assert len({id(copy) for copy in expired}) == len(expired), "a job is told to have expired twice"
        for copy in expired:
            job = self.jobs[copy.id]
            if job.state == "queued":
                assert job.deadline is not None and job.deadline <= self.now
                job.state = "expired"
                self.event(job, "expired")

    @rule()
    def rebuild(self) -> None:
        """A new term: everything from the database, and the feed from there on."""
        self.feed.clear()
        self.mirror = new_mirror()
        self.mirror.seq = self.seq
        for job in sorted(self.jobs.values(), key=lambda job: (job.queued_at, job.id)):
            if job.state in ("queued", "running"):
                self.mirror.load(self.row(job), self.at)

    @initialize()
    def begin(self) -> None:
        self.rebuild()

    # ------------------------------------------------------------ what must hold

    @rule(free=st.integers(1, 6), models=st.sets(st.sampled_from(MODELS), min_size=1))
    def no_slot_stays_free_that_a_waiting_job_could_take(self, free: int, models: set[str]) -> None:
        """And each user's jobs of a lane are served the oldest first, whatever was cancelled or retried between."""
        self.read_feed()
        chosen = self.choose(free, models)
        ids = [copy.id for copy in chosen]
        expected = self.naive(models, free, ids)
        for copy in reversed(chosen):
            self.mirror.not_claimed(copy, self.at)
            self.mirror.load(self.row(self.jobs[copy.id]), self.at)
        assert len(ids) == expected
        assert len(set(ids)) == len(ids)

    def naive(self, models: set[str], free: int, served: list[UUID]) -> int:
        """How many jobs can start; asserts that nobody's younger job is among ``served`` before an older one."""
        waiting: dict[tuple[UUID, Tier, str], list[Stored]] = {}
        for job in sorted(self.jobs.values(), key=lambda job: job.queued_at):
            due = job.not_before is None or job.not_before <= self.now
            alive = job.deadline is None or job.deadline > self.now
            if job.state == "queued" and job.model in models and due and alive:
                waiting.setdefault((job.user_id, job.tier, job.model), []).append(job)
        for jobs in waiting.values():
            taken = [job for job in jobs if job.id in served]
            assert [job.queued_at for job in taken] == [job.queued_at for job in jobs[: len(taken)]]
        room = {user: max(0, cap - self.running(user)) for user, cap in USERS.items()}
        backlog = Counter({user: sum(len(jobs) for key, jobs in waiting.items() if key[0] == user) for user in USERS})
        return min(free, sum(min(room[user], backlog[user]) for user in USERS))

    @rule()
    def the_counts_are_those_of_the_database(self) -> None:
        self.read_feed()
        live = {job.id for job in self.jobs.values() if job.state in ("queued", "running")}
        assert set(self.mirror.jobs) == live
        assert self.mirror.policy.queue.running == {user: self.running(user) for user in USERS if self.running(user)}
        assert set(self.mirror.running) == {job.id for job in self.jobs.values() if job.state == "running"}
        waiting = Counter((job.tier, Kind.IMAGE) for job in self.jobs.values() if job.state == "queued")
        overdue = Counter((copy.tier, copy.kind) for copy in self.mirror.policy.queue.overdue)
        assert +(self.mirror.waiting() + overdue) == waiting or self.expired_waits()
        for copy in self.mirror.jobs.values():
            stored = self.jobs[copy.id]
            assert copy.user_id == stored.user_id
            assert (copy.running, copy.attempt) == (stored.state == "running", stored.attempt)
            assert stored.state != "running" or copy.cancel_asked == (stored.cancel_requested_at is not None)

    def expired_waits(self) -> bool:
        """A job that expired in the mirror and whose end the database has not written yet is in neither count."""
        return any(
            job.state == "queued" and job.deadline is not None and job.deadline <= self.now
            for job in self.jobs.values()
        )

    @invariant()
    def nobody_runs_above_the_cap(self) -> None:
        assert all(self.running(user) <= cap for user, cap in USERS.items() if user not in self.took_over)

    @invariant()
    def a_change_that_comes_by_time_is_never_slept_through(self) -> None:
        times = [copy.ready_at for copy in self.mirror.all() if not copy.running and copy.ready_at is not None]
        next_change = self.mirror.next_change()
        assert not times or (next_change is not None and next_change <= min(times))


TestMirrorFollowsTheDatabase = MirrorFollowsTheDatabase.TestCase
TestMirrorFollowsTheDatabase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


def test_a_requeue_of_which_only_the_feed_tells_is_followed() -> None:
    """The one step that random histories meet too seldom."""
    world = MirrorFollowsTheDatabase()
    world.begin()
    world.submit(user=next(iter(USERS)), model="a", tier=Tier.FREE, count=1, deadline_s=None, delay_s=None)
    world.read_feed()
    world.dispatch(free=1, model={"a"}, between=0)
    assert len(world.mirror.running) == 1
    world.finish(choice=0, again=True, delay_s=None, heard=True, own=False)
    world.the_counts_are_those_of_the_database()
    assert not world.mirror.running


def test_a_running_job_whose_account_was_merged_counts_for_the_other_user() -> None:
    world = MirrorFollowsTheDatabase()
    world.begin()
    first, second, third = USERS
    world.submit(user=first, model="a", tier=Tier.FREE, count=1, deadline_s=None, delay_s=None)
    world.submit(user=second, model="a", tier=Tier.FREE, count=1, deadline_s=None, delay_s=None)
    world.read_feed()
    world.dispatch(free=1, model={"a"}, between=0)
    for gone in (first, second):
        world.merge([gone, third, first])
    world.the_counts_are_those_of_the_database()
    assert world.mirror.policy.queue.running == {third: 1}
    assert {copy.user_id for copy in world.mirror.all()} == {third}

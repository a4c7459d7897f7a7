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

from tessera.jobs import Tier
from tessera.policy import TIER_RANK, FreeWorker, plan
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


class MirrorFollowsTheDatabase(RuleBasedStateMachine):
    """Users act on the database, the scheduler on both; the feed tells the mirror late, with the newest row."""

    def __init__(self) -> None:
        super().__init__()
        self.now = START
        self.jobs: dict[UUID, Stored] = {}
        self.feed: list[tuple[int, UUID, str]] = []
        self.seq = 0
        self.mirror = Mirror()

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
                {**row, "seq": seq, "job_id": job_id, "type": type, "job_attempt": row["attempt"]}, self.now
            )

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

    @rule(seconds=st.integers(1, 8))
    def time_passes(self, seconds: int) -> None:
        self.now += timedelta(seconds=seconds)

    @rule(rows=st.integers(1, 5))
    def hear_a_part_of_the_feed(self, rows: int) -> None:
        self.read_feed(rows)

    # ------------------------------------------------------------ what the scheduler does

    @rule(free=st.integers(1, 5), model=st.sets(st.sampled_from(MODELS), min_size=1), between=st.integers(0, 2))
    def dispatch(self, free: int, model: set[str], between: int) -> None:
        self.mirror.wake_due(self.now)
        worker = FreeWorker(name="w", models=frozenset(model), free=free, slots=5)
        chosen = [self.mirror.jobs[a.job_id] for a in plan(self.mirror.snapshot([worker]), self.now)]
        for copy in chosen:
            copy.claiming = True
        claimed = [copy for copy in chosen if self.claim(copy)]
        if between:  # the feed may tell of a claim, and of the wish to cancel it, before its answer is here
            for copy in claimed[: between - 1]:
                self.jobs[copy.id].cancel_requested_at = self.now
                self.event(self.jobs[copy.id], "cancel_requested")
            self.read_feed()
        for copy in chosen:
            copy.claiming = False
            stored = self.jobs[copy.id]
            if copy in claimed:
                assert stored.started_at is not None and stored.lease_expires_at is not None
                self.mirror.set_running(copy, "w", stored.attempt, stored.started_at, stored.lease_expires_at)
            elif self.mirror.jobs.get(copy.id) is copy and not copy.running:
                # The dispatcher looks again how the job is now.
                if stored.state == "queued":
                    self.mirror.load(self.row(stored))
                else:
                    self.mirror.remove(copy.id)

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

    @rule(choice=st.integers(0, 99), again=st.booleans(), delay_s=st.none() | st.integers(0, 6), heard=st.booleans())
    def finish(self, choice: int, again: bool, delay_s: int | None, heard: bool) -> None:
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
        copy = self.mirror.jobs.get(job.id)
        if copy is None or copy.key != (job.id, job.attempt) or not copy.running:
            return  # the feed was faster
        if job.state == "queued":
            self.mirror.requeue(copy, job.not_before, counted=True)
        else:
            self.mirror.remove(job.id)

    @rule()
    def expire(self) -> None:
        expired = self.mirror.take_expired(self.now)
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
        self.mirror = Mirror(seq=self.seq)
        for job in sorted(self.jobs.values(), key=lambda job: (job.queued_at, job.id)):
            if job.state in ("queued", "running"):
                self.mirror.load(self.row(job))

    @initialize()
    def begin(self) -> None:
        self.rebuild()

    # ------------------------------------------------------------ what must hold

    @rule(free=st.integers(1, 6), models=st.sets(st.sampled_from(MODELS), min_size=1))
    def the_heads_are_those_of_the_naive_queue(self, free: int, models: set[str]) -> None:
        self.read_feed()
        self.mirror.wake_due(self.now)
        snapshot = self.mirror.snapshot([FreeWorker(name="w", models=frozenset(models), free=free, slots=6)])
        expected: list[UUID] = []
        for tier in Tier:
            for model in models:
                expected += self.naive_heads(tier, model, free)
        found = sorted(snapshot.candidates, key=lambda candidate: candidate.order)
        order = {
            job_id: (TIER_RANK[self.jobs[job_id].tier], self.jobs[job_id].queued_at, job_id) for job_id in expected
        }
        assert [candidate.job_id for candidate in found] == sorted(expected, key=lambda job_id: order[job_id])

    def naive_heads(self, tier: Tier, model: str, wanted: int) -> list[UUID]:
        taken: Counter[UUID] = Counter()
        heads: list[UUID] = []
        for job in sorted(self.jobs.values(), key=lambda job: (job.queued_at, job.id)):
            due = job.not_before is None or job.not_before <= self.now
            if job.state != "queued" or job.tier != tier or job.model != model or not due or len(heads) == wanted:
                continue
            if self.running(job.user_id) + taken[job.user_id] < USERS[job.user_id]:
                taken[job.user_id] += 1
                heads.append(job.id)
        return heads

    @rule()
    def the_counts_are_those_of_the_database(self) -> None:
        self.read_feed()
        live = {job.id for job in self.jobs.values() if job.state in ("queued", "running")}
        assert set(self.mirror.jobs) == live
        assert self.mirror.running_by_user == {user: self.running(user) for user in USERS if self.running(user)}
        for copy in self.mirror.jobs.values():
            stored = self.jobs[copy.id]
            assert (copy.running, copy.attempt) == (stored.state == "running", stored.attempt)
            assert stored.state != "running" or copy.cancel_asked == (stored.cancel_requested_at is not None)

    @rule()
    def the_position_counts_who_starts_before(self) -> None:
        self.read_feed()
        waiting = [copy for copy in self.mirror.jobs.values() if not copy.running]
        for tier_model in {(copy.tier, copy.model) for copy in waiting}:
            lane = sorted(
                (c for c in waiting if c.model == tier_model[1]), key=lambda c: (TIER_RANK[c.tier], c.queued_at, c.id)
            )
            assert [self.mirror.ahead_of(copy) for copy in lane] == list(range(len(lane)))

    @invariant()
    def nobody_runs_above_the_cap(self) -> None:
        assert all(self.running(user) <= cap for user, cap in USERS.items())

    @invariant()
    def a_change_that_comes_by_time_is_never_slept_through(self) -> None:
        times = [copy.ready_at for copy in self.mirror.jobs.values() if not copy.running and copy.ready_at is not None]
        next_change = self.mirror.next_change()
        assert not times or (next_change is not None and next_change <= min(times))


TestMirrorFollowsTheDatabase = MirrorFollowsTheDatabase.TestCase
TestMirrorFollowsTheDatabase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)

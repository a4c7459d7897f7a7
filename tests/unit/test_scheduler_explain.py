"""Why a job waits, for every reason that there is: the scheduler's words from the scheduler's own state."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import pytest

from tessera.catalog import Catalog, Model
from tessera.jobs import Kind
from tessera.policy import Start
from tessera.policy.devices import Resident
from tessera.ports import Explanation, WaitCode
from tessera.runs import RunKey, RunSpec, StartAnswer, WatchBatch, WorkerReport
from tessera.scheduler.board import Board, DeviceSpec
from tessera.scheduler.explain import explain
from tessera.scheduler.insight import places
from tessera.scheduler.links import WorkerLink
from tessera.scheduler.mirror import MirroredJob
from tessera.scheduler.notifier import Notifier

ANN, BOB = UUID(int=1), UUID(int=2)


class Silent:
    """A worker port that nobody calls here."""

    async def report(self) -> WorkerReport:
        raise NotImplementedError

    async def start(self, specs: Sequence[RunSpec]) -> Sequence[StartAnswer]:
        raise NotImplementedError

    adopt = start

    async def ensure(self, model: str) -> None:
        raise NotImplementedError

    async def release(self, models: Sequence[str] | None = None) -> None:
        raise NotImplementedError

    async def cancel(self, keys: Sequence[RunKey]) -> None:
        raise NotImplementedError

    ack = cancel

    async def watch(self) -> AsyncIterator[WatchBatch]:
        raise NotImplementedError
        yield


def model(name: str, kind: Kind = Kind.IMAGE, vram_mib: int = 0) -> Model:
    return Model(
        id=name, kind=kind, engine="noop", title=name, description="", price="", vram_mib=vram_mib, load_s=20.0
    )


class Here:
    """A board with one worker of two slots on a device of 12,000 MiB, online unless a test says otherwise."""

    def __init__(self) -> None:
        models = [
            model("light"),
            model("clip", Kind.VIDEO),
            model("heavy-a", vram_mib=8000),
            model("heavy-b", vram_mib=8000),
            model("huge", vram_mib=64_000),
        ]
        self.board = Board(Notifier(), Catalog(tuple(models)), [DeviceSpec(name="gpu", node="pc1", vram_mib=12_000)])
        self.link = WorkerLink(
            "pc1-image",
            Silent(),
            models=[each.id for each in models],
            slots=2,
            on_events=lambda _: None,
            on_outcome=lambda *_: None,
            on_change=lambda: None,
            node="pc1",
            device="gpu",
        )
        self.link.online, self.link.offline_since = True, None
        self.board.links[self.link.name] = self.link
        self.board.mirror = self.board.new_mirror()
        self.now = time.time()
        self._ids = 100

    def job(self, name: str = "light", user: UUID = ANN, tier: str = "free", **values: object) -> MirroredJob:
        self._ids += 1
        at = datetime.fromtimestamp(self.now, UTC)
        row = {
            "id": UUID(int=self._ids),
            "user_id": user,
            "kind": self.board.policy.models[name].kind.value,
            "model": name,
            "tier": tier,
            "state": "queued",
            "cost_mt": 1000,
            "attempt": 0,
            "failures": 0,
            "queued_at": at,
            "started_at": None,
            "not_before": None,
            "deadline": None,
            "worker": None,
            "lease_expires_at": None,
            "cancel_requested_at": None,
            "max_running": 10,
            **values,
        }
        return self.board.mirror.load(row, self.now)

    def run(self) -> list[MirroredJob]:
        """Start what the policy would start."""
        started = []
        while True:
            actions = self.board.policy.plan(self.board.workers(self.now), self.now)
            if not actions:
                return started
            for action in actions:
                self.board.policy.apply(action, self.now)
                if isinstance(action, Start):
                    job = self.board.mirror.jobs[action.job.id]
                    self.board.mirror.claimed(job, action.worker, job.attempt + 1, self.now)
                    self.link.assigned.add(job.key)
                    started.append(job)

    def explain(self, job: MirroredJob) -> Explanation:
        found = explain(self.board, job.id)
        assert found is not None
        return found

    def codes(self, job: MirroredJob) -> list[WaitCode]:
        return [reason.code for reason in self.explain(job).reasons]


@pytest.fixture
def here() -> Here:
    return Here()


def test_a_job_that_nothing_holds_up_is_next(here: Here) -> None:
    found = here.explain(here.job())
    assert (found.position, found.position_in_tier, found.position_of_user) == (1, 1, 1)
    assert found.reasons[0].code is WaitCode.SLOTS_BUSY
    assert "at once" in found.summary


def test_a_job_behind_others_says_how_many_and_whose(here: Here) -> None:
    for _ in range(4):
        here.job(user=BOB)
    here.run()
    mine = [here.job(user=ANN) for _ in range(3)]
    here.job(user=BOB)
    last = here.explain(mine[2])
    assert last.own_jobs_ahead == 2
    assert last.position_of_user == 3
    assert last.ahead["free"] == last.position - 1 >= 2
    assert here.codes(mine[2])[0] is WaitCode.AHEAD
    assert f"{last.position - 1} jobs" in last.reasons[0].message
    assert here.codes(mine[2])[-1] is WaitCode.SLOTS_BUSY


def test_a_user_at_the_cap_is_told_of_it(here: Here) -> None:
    jobs = [here.job(max_running=1) for _ in range(2)]
    assert here.run() == [jobs[0]]
    found = here.explain(jobs[1])
    assert found.reasons[0].code is WaitCode.RUNNING_CAP
    assert (found.running_of_user, found.max_running) == (1, 1)


def test_an_offline_worker_is_named_with_the_time_since(here: Here) -> None:
    job = here.job()
    here.link.online, here.link.offline_since = False, datetime(2026, 5, 4, 14, 2, tzinfo=UTC)
    found = here.explain(job)
    assert found.reasons[0].code is WaitCode.WORKER_OFFLINE
    assert "14:02" in found.summary
    assert "keeps its place" in found.summary
    assert [(worker.can_run, worker.online) for worker in found.workers] == [(False, False)]


def test_a_drain_is_told_with_its_end(here: Here) -> None:
    job = here.job()
    here.link.draining_until = datetime.now(UTC) + timedelta(hours=2)
    found = here.explain(job)
    assert (found.reasons[0].code, found.reasons[0].until) == (WaitCode.DRAINING, here.link.draining_until)
    assert found.eta_low_s > 7100


def test_an_excluded_model_is_told_with_its_end(here: Here) -> None:
    job = here.job()
    for number in (1, 2):
        here.board.failures.failed("pc1-image", "light", UUID(int=number), "stuck", here.now)
    [reason, *_] = here.explain(job).reasons
    assert reason.code is WaitCode.EXCLUDED
    assert reason.until is not None and reason.until.timestamp() > here.now


def test_an_open_circuit_is_told_with_its_end(here: Here) -> None:
    job = here.job()
    for number, name in enumerate(("light", "clip", "heavy-a")):
        here.board.failures.failed("pc1-image", name, UUID(int=number), "bad_output", here.now)
    [reason, *_] = here.explain(job).reasons
    assert reason.code is WaitCode.CIRCUIT_OPEN
    assert reason.until is not None


def test_a_paused_kind_is_told_in_the_operators_words(here: Here) -> None:
    job = here.job()
    here.board.pauses = {"image": "new drivers, back at nine"}
    found = here.explain(job)
    assert found.reasons[0].code is WaitCode.PAUSED
    assert "new drivers, back at nine" in found.summary


def test_a_model_larger_than_the_device_is_said_to_be(here: Here) -> None:
    job = here.job("huge")
    assert here.codes(job) == [WaitCode.DOES_NOT_FIT]
    assert "Cancel" in here.explain(job).summary


def test_a_worker_whose_engine_is_away_gets_no_job_and_says_since_when(here: Here) -> None:
    job = here.job()
    here.link.engine_away = "no answer at 10.0.0.7:8188"
    here.link.engine_away_since = datetime(2030, 1, 1, 14, 2, tzinfo=UTC)
    assert here.run() == []
    assert here.codes(job) == [WaitCode.WORKER_OFFLINE]
    summary = here.explain(job).summary
    assert "since 14:02" in summary and "keeps its place" in summary
    assert "10.0.0.7" not in summary, "details are for the operator"
    assert here.explain(job).eta_low_s is None
    status = here.link.status()
    assert not status.online and status.message == "no answer at 10.0.0.7:8188"
    here.link.engine_away = ""
    assert len(here.run()) == 1


def test_an_end_that_nobody_can_know_is_not_promised(here: Here) -> None:
    waits = here.job("huge"), here.job("heavy-a")
    for link in here.board.links.values():
        link.online = False
    for job in waits:
        found, place = here.explain(job), places(here.board, [job.id])[job.id]
        assert (found.eta_low_s, found.eta_high_s) == (None, None)
        assert place.position > 0 and (place.eta_low_s, place.eta_high_s) == (None, None)
    for link in here.board.links.values():
        link.online = True
    assert here.explain(waits[0]).eta_low_s is None  # too large for the device
    assert here.explain(waits[1]).eta_low_s is not None
    here.board.pauses["text"] = ""
    here.board.pauses["image"] = ""
    assert here.explain(waits[1]).eta_low_s is None


def test_a_model_on_its_way_in_is_told_with_the_seconds(here: Here) -> None:
    job = here.job("heavy-a")
    assert here.run() == []  # it is being loaded
    [reason, *_] = here.explain(job).reasons
    assert reason.code is WaitCode.MODEL_LOAD
    assert "20 s" in reason.message
    assert reason.until is not None


def test_a_model_that_is_not_loaded_says_what_is(here: Here) -> None:
    here.board.policy.devices["gpu"].resident["heavy-a"] = Resident(
        model="heavy-a", worker="pc1-image", vram_mib=8000, since=here.now, used_at=here.now, load_s=20.0
    )
    for _ in range(4):
        here.job("heavy-a", user=BOB)
    job = here.job("heavy-b")
    here.run()
    reasons = {reason.code: reason for reason in here.explain(job).reasons}
    assert "heavy-a" in reasons[WaitCode.MODEL_LOAD].message


def test_video_past_its_share_is_told(here: Here) -> None:
    here.board.policy.devices["gpu"].window.add(here.now, 100.0, True)
    clip = here.job("clip")
    here.job("light", user=BOB)
    assert WaitCode.VIDEO_SHARE in here.codes(clip)


def test_a_backoff_and_a_job_for_later_say_when(here: Here) -> None:
    later = datetime.fromtimestamp(here.now + 60, UTC)
    assert here.codes(here.job(not_before=later)) == [WaitCode.NOT_BEFORE]
    failed = here.job(not_before=later, failures=1, attempt=1)
    assert here.codes(failed) == [WaitCode.BACKOFF]
    assert "keeps its place" in here.explain(failed).summary


def test_a_running_job_waits_for_nothing(here: Here) -> None:
    job = here.job()
    assert here.run() == [job]
    found = here.explain(job)
    assert (found.state, found.position, list(found.reasons)) == ("running", 0, [])
    assert found.eta_high_s >= found.eta_low_s


def test_an_unknown_job_has_no_explanation(here: Here) -> None:
    assert explain(here.board, UUID(int=7)) is None


def test_places_say_the_same_as_explanations(here: Here) -> None:
    jobs = [here.job(user=UUID(int=n % 3 + 1)) for n in range(9)]
    here.run()
    found = places(here.board, [job.id for job in jobs])
    for job in jobs:
        assert found[job.id].position == here.explain(job).position


def test_every_reason_that_the_scheduler_gives_is_tested_here() -> None:
    """SCHEDULER_RESTARTING is the ingress's own."""
    text = Path(__file__).read_text(encoding="utf-8")
    own = [code for code in WaitCode if code.name != "SCHEDULER_RESTARTING"]
    assert [code for code in own if f"WaitCode.{code.name}" not in text] == []

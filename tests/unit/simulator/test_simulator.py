"""The simulator: the same load for all, nothing lost, each baseline's rule, and what its numbers mean."""

from __future__ import annotations

import importlib
import itertools
from collections import Counter
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from tessera.jobs import Tier
from tessera.simulator import POLICIES, Record, Scenario, ScenarioError, draw, load, own_shares, read, shipped, simulate
from tessera.simulator.fairness import dues, fair, jain
from tessera.simulator.metrics import measure
from tessera.simulator.plot import drawn, page, picture
from tessera.simulator.report import markdown
from tessera.simulator.tessera import TesseraPolicy
from tessera.simulator.world import JobEnd, World

plan_module = importlib.import_module("tessera.policy.plan")  # the package has a function of that name

ONE = """
title = "One device"
duration_s = 1000

[[devices]]
name = "gpu"
vram_mib = 10

[[workers]]
name = "engine"
device = "gpu"
models = ["a", "b"]

[models.a]
kind = "image"
vram_mib = 10
load_s = 5
seconds_per_unit = 10
spread = 0

[models.b]
kind = "text"
vram_mib = 10
load_s = 5
seconds_per_unit = 10
spread = 0
"""


def group(name: str, tier: str, at_s: float, jobs: int = 1, model: str = "a", **values: object) -> str:
    more = "".join(f"{key} = {value}\n" for key, value in values.items())
    return (
        f'[[users]]\nname = "{name}"\ntier = "{tier}"\nmix = {{ {model} = 1 }}\n{more}'
        f'arrivals = {{ process = "batch", jobs = {jobs}, at_s = {at_s} }}\n'
    )


def scenario(*groups: str, base: str = ONE) -> Scenario:
    return read(base + "\n".join(groups), "test")


def served(found: Scenario, policy: str) -> list[str]:
    """Who was served, in the order of the starts."""
    record = simulate(found, [policy])[0]
    order = np.argsort(np.array(record.run_from), kind="stable")
    return [record.load.users[record.load.user[record.run_job[int(place)]]].group for place in order]


@pytest.fixture
def busy() -> Scenario:
    """A node that goes, runs that fail, more work than there is time for: the first part of a shipped scenario."""
    return load("node-comes-and-goes").model_copy(update={"duration_s": 3000.0})


@pytest.mark.parametrize("policy", POLICIES)
def test_the_same_seed_gives_the_same_run_and_another_seed_another(policy: str, busy: Scenario) -> None:
    def run(seed: int) -> dict[str, Any]:
        return measure(simulate(busy, [policy], seed=seed)[0]).dump()

    assert run(3) == run(3)
    assert run(3) != run(4)


@pytest.mark.parametrize("policy", POLICIES)
def test_every_job_that_arrived_waits_runs_or_has_ended(policy: str, busy: Scenario) -> None:
    record = simulate(busy, [policy])[0]
    completed = Counter(record.state)[JobEnd.COMPLETED]
    result = measure(record)
    assert result.completed + result.failed + result.waiting + result.running == len(record.load)
    assert result.completed == completed > 0
    ended = [job for job, until in zip(record.run_job, record.run_to, strict=True) if until < busy.duration_s]
    assert {job for job, state in enumerate(record.state) if state == JobEnd.COMPLETED} <= set(ended)


@pytest.mark.parametrize("policy", POLICIES)
def test_one_slot_runs_one_job_at_a_time(policy: str) -> None:
    record = simulate(scenario(group("x", "free", 0, 9), group("y", "pro", 7, 9, "b")), [policy])[0]
    runs = sorted(zip(record.run_from, record.run_to, strict=True))
    assert len(runs) == 18
    assert all(before[1] <= after[0] for before, after in itertools.pairwise(runs))


def test_all_policies_are_given_the_same_jobs(busy: Scenario) -> None:
    records = simulate(busy, ["fifo", "tessera"])
    assert records[0].load is records[1].load


def test_fifo_serves_in_the_order_of_arrival(busy: Scenario) -> None:
    base = ONE.replace("duration_s = 1000", "duration_s = 100000")
    record = simulate(scenario(*(group(f"u{n}", "free", n, 3, "ab"[n % 2]) for n in range(9)), base=base), ["fifo"])[0]
    assert list(record.run_job) == list(range(27))
    assert record.loads == 9


def test_strict_priority_serves_the_highest_tier_first() -> None:
    found = scenario(group("free", "free", 0, 3), group("starter", "starter", 1, 2), group("pro", "pro", 2, 2))
    assert served(found, "strict") == ["free", "pro", "pro", "starter", "starter", "free", "free"]


def test_kudos_age_by_50_every_10_seconds() -> None:
    rich = group("rich", "free", 100, 2, kudos=400)
    assert served(scenario(group("poor", "free", 0, 13), rich), "horde").index("rich") == 13  # 100 s are worth 500
    richer = group("rich", "free", 100, 2, kudos=1000)
    assert served(scenario(group("poor", "free", 0, 13), richer), "horde").index("rich") == 10


def test_kudos_are_spent() -> None:
    first = group("rich", "free", 0, 1, kudos=10, units=[5, 5])
    later = group("poor", "free", 1, 2)
    assert served(scenario(first, later), "horde") == ["rich", "poor", "poor"]


def test_round_robin_serves_the_least_recently_served_user() -> None:
    found = scenario(group("many", "free", 0, 4), group("few", "free", 1, 2), group("late", "free", 12, 1))
    assert served(found, "invoke") == ["many", "few", "late", "many", "few", "many", "many"]


def test_round_robin_prefers_a_loaded_model_within_the_same_users_next_32_jobs() -> None:
    base = ONE.replace("duration_s = 1000", "duration_s = 100000")
    mixed = group("x", "free", 0, 200).replace("a = 1", "a = 0.9, b = 0.1")
    record = simulate(scenario(mixed, base=base), ["invoke"])[0]
    fifo = simulate(scenario(mixed, base=base), ["fifo"])[0]
    assert record.loads < fifo.loads / 2
    waiting = list(range(200))  # jobs of one user, by their ids
    for job in record.run_job:
        assert job - waiting[0] < 32
        waiting.remove(job)


def test_a_baseline_evicts_what_was_used_longest_ago() -> None:
    base = ONE.replace("vram_mib = 10\n\n[[workers]]", "vram_mib = 20\n\n[[workers]]").replace('"b"]', '"b", "c"]')
    base += '[models.c]\nkind = "speech"\nvram_mib = 10\nload_s = 5\nseconds_per_unit = 10\n'
    jobs = [group(f"u{n}", "free", n, 1, model) for n, model in enumerate("abacb")]
    record = simulate(scenario(*jobs, base=base), ["fifo"])[0]
    assert (record.loads, record.swaps) == (4, 2)  # c takes b's place, b then a's


def test_a_run_whose_worker_goes_is_run_again() -> None:
    away = '[[away]]\ndevice = "gpu"\nat_s = 12\nfor_s = 50\n'
    for policy in POLICIES:
        record = simulate(scenario(group("x", "free", 0, 1), away), [policy])[0]
        result = measure(record)
        assert (result.completed, list(record.run_job)) == (1, [0, 0]), policy
        assert record.run_from[1] >= 62


def test_a_job_that_fails_three_times_is_given_up() -> None:
    failing = '[[failing]]\nmodel = "a"\nchance = 1\n'
    for policy in POLICIES:
        result = measure(simulate(scenario(group("x", "free", 0, 2), failing), [policy])[0])
        assert (result.failed, result.completed) == (2, 0), policy


def test_a_wait_lasts_to_the_start_or_to_the_end_of_the_scenario() -> None:
    base = ONE.replace("duration_s = 1000", "duration_s = 30")
    result = measure(simulate(scenario(group("x", "free", 0, 4), base=base), ["fifo"])[0])
    assert (result.completed, result.running, result.waiting) == (2, 1, 1)  # starts at 5, 15, 25
    assert result.tiers[0].longest_s == 30
    assert result.utilisation == pytest.approx(25 / 30)


def test_fair_shares_are_capped_by_what_was_asked_for() -> None:
    assert fair(np.array([1.0, 10.0, 10.0]), np.ones(3), 9.0).tolist() == [1.0, 4.0, 4.0]
    assert fair(np.array([9.0, 9.0]), np.array([2.0, 1.0]), 9.0).tolist() == [6.0, 3.0]
    assert fair(np.array([1.0, 0.0]), np.ones(2), 9.0).tolist() == [1.0, 0.0]


def test_jains_index_is_1_where_equal_users_get_the_same_and_falls_where_one_gets_all() -> None:
    base = ONE.replace("duration_s = 1000", "duration_s = 205")
    users = [group(f"u{n}", "free", n, 50) for n in range(4)]
    first, turns = simulate(scenario(*users, base=base), ["fifo", "invoke"])
    assert jain(first) == pytest.approx(0.25)
    assert jain(turns) == pytest.approx(1.0)


def test_shares_are_told_where_two_tiers_had_work_all_the_while() -> None:
    found = scenario(group("pro", "pro", 0, 500), group("free", "free", 0, 500))
    tiers = {each.tier: each for each in measure(simulate(found, ["strict"])[0]).tiers}
    assert (tiers["pro"].share, tiers["pro"].target) == (pytest.approx(1.0), pytest.approx(70 / 79))  # type: ignore[index]
    alone = measure(simulate(scenario(group("pro", "pro", 0, 500)), ["strict"])[0]).tiers[0]
    assert (alone.share, alone.target) == (None, None)


def test_a_tier_that_waits_for_a_load_does_not_wait_for_its_share() -> None:
    """Pictures keep their place in memory; who wants the other model is not behind in his share of it."""
    found = scenario(group("free", "free", 0, 500), group("pro", "pro", 1, 1, "b"))
    free, pro = (dict.fromkeys(("lag_s", "target")), None)
    for each in measure(simulate(found, ["fifo"])[0]).tiers:
        if each.tier == "pro":
            pro = each
        else:
            free = {"lag_s": each.lag_s, "target": each.target}  # type: ignore[dict-item]
    assert pro is not None
    assert (pro.lag_s, pro.target) == (None, None)
    assert free == {"lag_s": None, "target": None}


def test_a_lag_is_how_far_a_tier_fell_behind() -> None:
    found = scenario(group("pro", "pro", 0, 500), group("free", "free", 0, 500))
    tiers = {each.tier: each for each in measure(simulate(found, ["strict"])[0]).tiers}
    lag_s = tiers["free"].lag_s  # type: ignore[index]
    assert lag_s == pytest.approx(990 * 9 / 79, rel=0.02)  # it was given nothing
    assert lag_s > tiers["free"].lag_bound_s  # type: ignore[index]
    tiers = {each.tier: each for each in measure(simulate(found, ["tessera"])[0]).tiers}
    for tier in ("pro", "free"):
        assert tiers[tier].lag_s <= tiers[tier].lag_bound_s  # type: ignore[index, operator]


def test_who_came_late_is_due_a_share_of_what_was_left() -> None:
    base = ONE.replace("duration_s = 1000", "duration_s = 405")
    found = scenario(group("early", "free", 0, 100), group("late", "free", 205, 100), base=base)
    fifo, turns = simulate(found, ["fifo", "invoke"])
    due = dues(turns).due
    assert due == pytest.approx([300, 100], abs=12)
    assert jain(turns) == pytest.approx(1.0)
    assert jain(fifo) < 0.8


def test_own_shares_are_those_of_the_tier_alone_on_slower_devices() -> None:
    found = scenario(group("pro", "pro", 0, 3), group("free", "free", 0, 3))
    longest = own_shares(found, draw(found))
    share = 70 / 79
    assert longest[Tier.PRO] == pytest.approx((5 + 2 * 10) / share)
    assert longest[Tier.FREE] == pytest.approx((5 + 2 * 10) / (1 - share))


def test_a_hundred_devices_are_asked_as_few_questions_as_ten(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    real = plan_module._on_device

    def counted(*args: Any) -> Any:
        asked[-1] += 1
        return real(*args)

    monkeypatch.setattr(plan_module, "_on_device", counted)
    per_job = []
    for count, duration_s in ((10, 4000.0), (100, 400.0)):
        found = load("hundred-gpus")
        devices = (found.devices[0].model_copy(update={"count": count}),)
        users = tuple(
            users.model_copy(update={"count": users.count * count // 100}) for users in found.users
        )  # as many for each device
        found = found.model_copy(update={"devices": devices, "users": users, "duration_s": duration_s})
        asked.append(0)
        jobs = draw(found)
        World(found, jobs, TesseraPolicy).run()
        per_job.append(asked[-1] / len(jobs))
    assert per_job[1] <= 1.5 * per_job[0]


# ---------------------------------------------------------------------- scenarios


def test_all_shipped_scenarios_can_be_read() -> None:
    assert len(shipped()) >= 8
    for name in shipped():
        assert len(draw(load(name))) > 1000, name


@pytest.mark.parametrize("process", ["poisson", "pareto", "burst", "flood", "batch"])
def test_arrivals_lie_within_their_time(process: str) -> None:
    how = f'{{ process = "{process}", per_hour = 600, jobs = 20, every_s = 60, at_s = 100, for_s = 200 }}'
    users = f'[[users]]\nname = "x"\ntier = "free"\ncount = 5\nmix = {{ a = 1 }}\narrivals = {how}\n'
    at = draw(read(ONE + users, "test")).at_s
    assert len(at) >= 20
    assert at.min() >= 100
    assert at.max() <= 300
    assert (np.diff(at) >= 0).all()


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("title", "tittle", "tittle"),
        ("vram_mib = 10\n\n[[workers]]", "vram_mib = 5\n\n[[workers]]", "model 'a' does not fit device 'gpu'"),
        ('models = ["a", "b"]', 'models = ["a", "z"]', "model 'z', which is not described"),
        ('device = "gpu"', 'device = "cpu"', "device 'cpu', which is not described"),
        ('kind = "image"', 'kind = "smell"', "models.a.kind"),
        ("duration_s = 1000", "duration_s = -1", "duration_s"),
        ("duration_s = 1000", "duration_s =", "no TOML"),
        ('process = "batch", jobs = 1,', 'process = "burst", jobs = 1,', "process 'burst' needs 'every_s'"),
        ("mix = { a = 1 }", "mix = { z = 1 }", "users 'x' want model 'z'"),
    ],
)
def test_a_fault_in_a_scenario_is_told(old: str, new: str, told: str) -> None:
    text = ONE + group("x", "free", 0)
    assert old in text
    with pytest.raises(ScenarioError, match="test: ") as caught:
        read(text.replace(old, new), "test")
    assert told in str(caught.value)


def test_an_unknown_scenario_is_answered_with_those_there_are() -> None:
    with pytest.raises(ScenarioError, match="quiet-evening"):
        load("nosuch")


# ---------------------------------------------------------------------- what is shown


def records() -> list[Record]:
    return simulate(scenario(group("x", "free", 0, 30), group("y", "pro", 7, 9, "b")), ["tessera", "fifo"])


def test_the_tables_compare_with_fifo_and_the_best_baseline() -> None:
    runs = records()
    text = markdown(runs[0].scenario, [measure(each) for each in runs])
    assert "| fifo | 39 | 0 | " in text
    assert "| pro | tessera | 9 | 9 |" in text


def test_the_plot_is_one_page_that_loads_nothing() -> None:
    text = page([[drawn(each) for each in records()]])
    assert text.count("<svg") == 3  # two tiers and the utilisation
    assert "http" not in text
    assert "nan" not in text


def test_a_picture_of_a_scenario_is_well_formed() -> None:
    root = ElementTree.fromstring(picture([drawn(each) for each in records()]))
    assert len(root.findall("{http://www.w3.org/2000/svg}g")) == 3

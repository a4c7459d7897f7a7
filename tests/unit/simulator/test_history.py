"""A replay of real jobs: what the file says is what is simulated, on its machines or on others; its faults are told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tessera.cli.app import main
from tessera.simulator import ScenarioError, load_history, read, run
from tessera.simulator.history import Header, HistoryJob, dump
from tessera.simulator.metrics import measure
from tests.unit.simulator.test_simulator import ONE

HEADER: dict[str, Any] = {
    "format": "tessera-history/1",
    "duration_s": 100,
    "devices": [{"name": "gpu", "vram_mib": 10}],
    "workers": [{"name": "w", "device": "gpu", "models": ["a"]}],
    "models": {"a": {"kind": "image", "vram_mib": 10, "load_s": 5, "seconds_per_unit": 3}},
}


def job(at_s: float, **values: Any) -> dict[str, Any]:
    return {"at_s": at_s, "user": "1", "tier": "pro", "model": "a", "cost_mt": 1000, "seconds": 2.0, **values}


def written(folder: Path, *jobs: dict[str, Any], header: dict[str, Any] = HEADER) -> str:
    path = folder / "jobs.jsonl"
    path.write_text("\n".join(json.dumps(each) for each in (header, *jobs)) + "\n", encoding="utf-8")
    return str(path)


def test_each_job_comes_at_its_time_and_runs_as_long_as_it_did(tmp_path: Path) -> None:
    file = written(tmp_path, job(20, seconds=7.5, user="2", tier="free"), job(10), job(12, fails=1))
    scenario, load = load_history(file)
    assert load.at_s.tolist() == [10, 12, 20]
    assert load.seconds.tolist() == [2, 2, 7.5]
    assert load.fails.tolist() == [0, 1, 0]
    assert [(user.tier.value, user.max_running) for user in load.users] == [("pro", None), ("free", None)]
    for record in run(scenario, load, ["tessera", "fifo"]):
        assert measure(record).completed == 3


def test_a_job_that_never_ran_takes_what_others_of_its_model_took(tmp_path: Path) -> None:
    file = written(tmp_path, job(1, seconds=4.0), job(2, seconds=None, cost_mt=500), job(3, seconds=4.0))
    assert load_history(file)[1].seconds.tolist() == [4, 2, 4]
    alone = written(tmp_path, job(1, seconds=None))
    assert load_history(alone)[1].seconds.tolist() == [3]  # what its model is described with


def test_a_user_in_two_tiers_is_two_and_keeps_his_cap(tmp_path: Path) -> None:
    file = written(tmp_path, job(1, max_running=2), job(2, tier="batch", max_running=2))
    assert [(user.tier.value, user.max_running) for user in load_history(file)[1].users] == [("pro", 2), ("batch", 2)]


def test_it_runs_on_the_machines_of_a_scenario_instead_of_its_own(tmp_path: Path) -> None:
    machines = read(ONE, "two-models")
    scenario, load = load_history(written(tmp_path, job(1), job(2)), machines)
    assert (scenario.name, scenario.duration_s) == ("jobs-on-two-models", 100)
    assert measure(run(scenario, load, ["tessera"])[0]).completed == 2


def test_what_is_written_is_what_is_read(tmp_path: Path) -> None:
    jobs = [HistoryJob.model_validate(job(n, fails=n)) for n in range(3)]
    path = tmp_path / "again.jsonl"
    path.write_bytes(b"".join(dump(Header.model_validate(HEADER), jobs)))
    assert load_history(str(path))[1].fails.tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("jobs", "header", "told"),
    [
        ([job(1, tier="gold")], HEADER, "line 2: tier"),
        ([job(1), job(2, colour="red")], HEADER, "line 3: colour"),
        ([job(1, model="z")], HEADER, "no worker has the model 'z'"),
        ([job(500)], HEADER, "no job within"),
        ([job(1)], {**HEADER, "format": "other/1"}, "line 1: format"),
        ([job(1)], {"format": "tessera-history/1", "duration_s": 9}, "devices"),
    ],
)
def test_a_fault_is_told_with_its_line(
    tmp_path: Path, jobs: list[dict[str, Any]], header: dict[str, Any], told: str
) -> None:
    with pytest.raises(ScenarioError) as caught:
        load_history(written(tmp_path, *jobs, header=header))
    assert told in str(caught.value)


def test_the_command_replays_a_file_under_all_policies(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = written(tmp_path, job(1), job(2, user="2", tier="free"))
    assert main(["simulate", "--from-history", file, "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)["scenarios"]
    assert (found["scenario"], found["seed"], len(found["results"])) == ("jobs", None, 5)
    assert all(each["completed"] == 2 for each in found["results"])


@pytest.mark.parametrize("more", [["--seed", "3"], ["nosuch"]])
def test_what_does_not_go_with_a_history_is_refused(
    tmp_path: Path, more: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["simulate", "--from-history", written(tmp_path, job(1)), *more, "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["error"]["message"]


def test_a_file_that_is_not_there_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", "--from-history", str(tmp_path / "none.jsonl"), "--json"]) == 2
    assert "cannot be read" in json.loads(capsys.readouterr().out)["error"]["message"]

"""``tessera simulate`` as it is called: a tiny scenario from a file, JSON, a folder of results, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tessera.cli.app import main
from tests.unit.simulator.test_simulator import ONE, group


@pytest.fixture
def tiny(tmp_path: Path) -> str:
    path = tmp_path / "tiny.toml"
    path.write_text(ONE + group("x", "free", 0, 5) + group("y", "pro", 3, 2), encoding="utf-8")
    return str(path)


def test_a_scenario_is_run_with_all_policies(tiny: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", tiny]) == 0
    out = capsys.readouterr().out
    assert out.startswith("## tiny: One device")
    assert all(f"| {policy} | 7 |" in out for policy in ("tessera", "fifo", "strict", "horde", "invoke"))


def test_json_is_one_document(tiny: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", tiny, "--policy", "fifo", "--seed", "5", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    (found,) = document["scenarios"]
    assert (found["scenario"], found["seed"]) == ("tiny", 5)
    assert [each["policy"] for each in found["results"]] == ["fifo"]


def test_results_are_written_into_a_folder(tiny: str, tmp_path: Path) -> None:
    assert main(["simulate", tiny, "--quiet", "--out", str(tmp_path / "deep" / "out")]) == 0
    names = {path.name for path in (tmp_path / "deep" / "out").iterdir()}
    assert names == {"report.md", "results.json", "plot.html", "tiny.svg"}


def test_the_list_names_all_shipped_scenarios(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", "--list"]) == 0
    assert "flood-by-one-user" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["nosuch"], ["--policy", "nosuch"]])
def test_what_is_unknown_is_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", *arguments, "--json"]) == 2
    assert "nosuch" in json.loads(capsys.readouterr().out)["error"]["message"]

"""What a person sees of the platform's commands; the platform itself is tested in tests/integration."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tessera.cli import main
from tessera.cli.inspection import readable
from tessera.cli.screen import Screen
from tessera.cli.steps import StepView, as_json, step_line, tell_failed_step
from tessera.local.steps import Step, StepFailed, Steps, StepState


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A TESSERA_HOME that nothing was started in."""
    monkeypatch.setenv("TESSERA_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def test_steps_are_lines_with_what_came_of_them_and_how_long_it_took() -> None:
    step = Step(name="ray", title="Ray", state=StepState.DONE, duration_s=2.34, detail="127.0.0.1:6379")
    line = step_line(step).plain
    assert line.startswith("✓ Ray") and line.endswith("127.0.0.1:6379  2.3 s")
    assert as_json(step) == {
        "name": "ray",
        "title": "Ray",
        "state": "done",
        "duration_s": 2.34,
        "detail": "127.0.0.1:6379",
    }


def test_where_nobody_watches_only_ended_steps_are_told(capfd: pytest.CaptureFixture[str]) -> None:
    with StepView(Screen()) as view:
        steps = Steps(view.on_step)
        with steps.step("postgres", "Postgres") as progress:
            progress.wait("making the database")
            progress.done("port 5432")
        with steps.step("ray", "Ray") as progress:
            progress.done("runs", changed=False)
    captured = capfd.readouterr()
    assert captured.out == "" and [line[:1] for line in captured.err.splitlines()] == ["✓", "·"]


@pytest.mark.parametrize("screen", [Screen(quiet=True), Screen(json=True)])
def test_quiet_and_json_show_no_steps(screen: Screen, capfd: pytest.CaptureFixture[str]) -> None:
    with StepView(screen) as view, Steps(view.on_step).step("ray", "Ray"):
        pass
    assert capfd.readouterr().err == ""


def test_a_failed_step_tells_its_log_and_the_fix(capfd: pytest.CaptureFixture[str]) -> None:
    step = Step(name="ray", title="Ray", state=StepState.FAILED, detail="port taken")
    tell_failed_step(StepFailed(step, "port taken\nby another", log_tail="line 1\nline 2", fix="end it"), Screen().err)
    err = capfd.readouterr().err
    assert "by another" in err and "line 2" in err and "What to do: end it" in err and "Nothing is lost" in err


def test_a_cluster_file_that_cannot_be_read_is_a_failed_step(
    home: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TESSERA_CLUSTER", str(home / "missing.toml"))
    assert main(["up"]) == 1
    err = capfd.readouterr().err
    assert "✗ Configuration" in err and "missing.toml" in err and "Traceback" not in err


def test_taking_down_what_does_not_run_is_no_failure(home: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["down"]) == 0
    assert "did not run" in capfd.readouterr().err


def test_status_of_what_was_never_started_says_so(home: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["status"]) == 3
    captured = capfd.readouterr()
    assert "postgres" in captured.out and "stopped" in captured.out and "tessera up" in captured.err
    assert main(["status", "--json"]) == 3
    assert json.loads(capfd.readouterr().out)["ready"] is False


def test_logs_are_one_stream_of_all_parts(home: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["logs"]) == 0
    assert "No logs yet" in capfd.readouterr().err
    (home / "logs").mkdir(parents=True)
    (home / "logs/postgres.log").write_text(
        "2026-01-05 12:00:02.000 UTC second\n2026-01-05 12:00:03.000 UTC \x1b[2Jthird\n"
    )
    (home / "logs/keeper.log").write_text("2026-01-05T12:00:01Z first\n")
    assert main(["logs"]) == 0
    lines = capfd.readouterr().out.splitlines()
    assert [line.split("|")[0].strip() for line in lines] == ["keeper", "postgres", "postgres"]
    assert lines[2].endswith("UTC third")
    assert main(["logs", "postgres", "-n", "1", "--json"]) == 0
    assert [line["part"] for line in json.loads(capfd.readouterr().out)["data"]] == ["postgres"]
    assert main(["logs", "nothing"]) == 2
    assert "Known are" in capfd.readouterr().err


def test_the_doctor_lists_findings_with_their_fix(home: Path, capfd: pytest.CaptureFixture[str]) -> None:
    main(["doctor"])
    captured = capfd.readouterr()
    assert "never started in this home" in captured.out and "→ run 'make up'" in captured.out
    assert "to put right" in captured.err
    main(["doctor", "--json"])
    report = json.loads(capfd.readouterr().out)
    assert {finding["check"] for finding in report["findings"]} >= {"disk", "memory", "network"}
    assert report["listeners"] == []


def test_structured_log_lines_are_told_to_a_person() -> None:
    line = '{"worker": "w1", "event": "worker_online", "level": "info", "timestamp": "2026-01-05T12:29:15.3Z"}'
    assert readable(line).plain == "12:29:15 info    worker_online  worker=w1"
    assert readable("plain \x1b[1mtext\x1b[0m").plain == "plain text"
    assert readable("{not json").plain == "{not json"

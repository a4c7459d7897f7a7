"""What a person sees of the platform's commands; the platform itself is tested in tests/integration."""

from __future__ import annotations

from pathlib import Path

import pytest

from tessera.cli import main
from tessera.cli.screen import Screen
from tessera.cli.steps import StepView, as_json, step_line, tell_failed_step
from tessera.local.steps import Step, StepFailed, Steps, StepState


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
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TESSERA_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TESSERA_CLUSTER", str(tmp_path / "missing.toml"))
    assert main(["up"]) == 1
    err = capfd.readouterr().err
    assert "✗ Configuration" in err and "missing.toml" in err and "Traceback" not in err


def test_taking_down_what_does_not_run_is_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TESSERA_HOME", str(tmp_path / "home"))
    assert main(["down"]) == 0
    assert "did not run" in capfd.readouterr().err

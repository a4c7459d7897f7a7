"""The operator's commands about workers: what they send, what they tell, and how they refuse."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tessera.cli.exits import CliError
from tessera.cli.workers import parse_duration, remarks
from tessera.client import Worker
from tests.fakes.api_server import FakeApi, worker

NOW = datetime(2026, 1, 5, 12, tzinfo=UTC)


def shown(**more: Any) -> Worker:
    return Worker.model_validate(worker("w", "pc1", **more))


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30s", 30), ("10m", 600), ("2h", 7200), ("1d", 86_400), ("1h30m", 5400), (" 2H ", 7200), ("90m", 5400)],
)
def test_a_time_is_read(text: str, seconds: int) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "2", "h", "2 hours", "-2h", "1.5h", "2h!", "tomorrow", "2h tomorrow"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(CliError, match="write a time like 30s, 10m, 2h, 1d"):
        parse_duration(text)


def test_a_drain_of_a_node_says_what_will_happen(api: FakeApi, run: Any) -> None:
    code, out, err = run("drain", "pc1", "--for", "2h", "--reason", "games")
    assert code == 0
    assert out == ""
    assert "pc1 (comfyui, whisper) takes no new jobs until" in err and "(in 2 h" in err
    assert "Running jobs finish, queued ones keep their place" in err
    assert "VRAM is freed once a worker is idle" in err
    assert "tessera resume pc1" in err
    assert api.seen[-1].path == "/v1/admin/workers/pc1/drain"
    assert json.loads(api.seen[-1].body) == {"for_s": 7200.0, "reason": "games"}


def test_workers_shows_who_drains_and_what_runs(api: FakeApi, run: Any) -> None:
    run("drain", "comfyui", "--for", "10m")
    api.workers[0] |= {"running": 1, "resident": ["noop-a"], "loading": "noop-b"}
    api.workers[2] |= {"state": "offline", "message": "silent"}
    code, out, _ = run("workers")
    assert code == 0
    text, comfyui, whisper = out.splitlines()[1:]
    assert text.split() == ["text", "online", "pc2/pc2-gpu", "1", "of", "2", "noop-a", "loading", "noop-b"]
    assert comfyui.split()[:2] == ["comfyui", "draining"] and "draining until" in comfyui and "in 10 min" in comfyui
    assert whisper.split()[:2] == ["whisper", "offline"] and "away: silent" in whisper


def test_a_resume_says_that_jobs_are_taken_again(api: FakeApi, run: Any) -> None:
    run("drain", "comfyui", "--for", "10m")
    assert run("resume", "comfyui") == (0, "", "✓ comfyui takes jobs again.\n")
    assert run("resume", "comfyui") == (0, "", "comfyui has no drain of its own: nothing was changed.\n")


def test_a_resumed_worker_of_a_drained_node_is_told_to_go_on_draining(api: FakeApi, run: Any) -> None:
    run("drain", "comfyui", "--for", "10m")
    run("drain", "pc1", "--for", "1h")
    _, _, err = run("resume", "comfyui")
    assert "The drain of comfyui has ended." in err
    assert "comfyui still takes no new jobs until" in err and "its node is drained, too" in err


def test_one_json_document_each(api: FakeApi, run: Any) -> None:
    for command in (["workers"], ["drain", "pc1", "--for", "30s"], ["resume", "pc1"]):
        code, out, err = run(*command, "--json")
        assert (code, err) == (0, "")
        assert isinstance(json.loads(out), dict)


def test_a_time_that_cannot_be_read_asks_nothing_of_the_server(api: FakeApi, run: Any) -> None:
    code, _, err = run("drain", "pc1", "--for", "soon")
    assert code == 2
    assert "--for is 'soon'" in err
    assert api.seen == []


def test_what_is_not_there_is_told_with_what_is(api: FakeApi, run: Any) -> None:
    code, _, err = run("drain", "pc9", "--for", "2h")
    assert code == 2
    assert "There is no worker or node 'pc9'" in err and "Workers: text" in err


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({}, []),
        ({"running": None, "state": "unknown"}, []),
        ({"state": "offline", "offline_since": NOW - timedelta(minutes=3), "message": "cut"}, ["away for 3 min: cut"]),
        ({"message": "no GPU"}, ["no GPU"]),
        ({"circuit": "open"}, ["left out after failures"]),
        ({"circuit": "half_open"}, ["on trial after failures: one job at a time"]),
    ],
)
def test_what_there_is_to_say_of_a_worker(more: dict[str, Any], said: list[str]) -> None:
    assert remarks(shown(**more), NOW) == said


def test_times_are_told_with_what_is_left_of_them() -> None:
    until = NOW + timedelta(minutes=5)
    told = remarks(shown(draining_until=until, circuit="open", circuit_until=until, excluded={"m": until}), NOW)
    assert [line.partition(" until ")[0] for line in told] == ["draining", "left out after failures", "m left out"]
    assert all(line.endswith("(in 5 min)") for line in told)

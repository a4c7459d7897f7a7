"""The page of ``tessera explain``: every code has words and a next step, and what is known is told to people."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import typer
from rich.console import Console, Group

from tessera.cli.app import app
from tessera.cli.explain import WAITS, next_step, ordinal, page, place, words_of_code
from tessera.client import Explanation
from tessera.jobs import JobState
from tessera.ports import WaitCode
from tests.fakes.api_server import FakeApi, Knobs

NOW = datetime(2026, 1, 5, 12, tzinfo=UTC)
WAITING: dict[str, Any] = {
    "id": "job_1",
    "state": "queued",
    "summary": "You run 2 of 2 jobs.",
    "kind": "image",
    "model": "preview-image",
    "tier": "free",
    "as_of": NOW,
    "queued_since": NOW - timedelta(seconds=95),
    "position": 40,
    "position_in_tier": 12,
    "position_of_user": 3,
    "ahead": {"free": 10, "pro": 28, "starter": 0},
    "own_jobs_ahead": 2,
    "running_of_user": 2,
    "max_running": 2,
    "queued_of_user": 5,
    "max_queued": 25,
    "eta": {"low_s": 240, "high_s": 540},
    "own_s": 12.3,
    "workers": [
        {"name": "w1", "node": "pc1", "device": "gpu0", "online": True, "can_run": True, "why_not": ""},
        {"name": "w2", "node": "pc2", "device": "cpu", "online": False, "can_run": False, "why_not": "it is away"},
    ],
    "reasons": [{"code": "running_cap", "message": "You run 2 of 2.", "until": None, "data": {}}],
}


def told(width: int = 200, **changes: Any) -> str:
    """The page as it goes into a pipe."""
    console = Console(width=width, highlight=False, color_system=None)
    with console.capture() as captured:
        console.print(Group(*page(Explanation.model_validate(WAITING | changes))))
    return "\n".join(line.rstrip() for line in captured.get().splitlines())


def test_there_are_words_for_all_codes_and_no_others() -> None:
    assert set(WAITS) == set(WaitCode)
    assert len({wait.words for wait in WAITS.values()}) == len(WaitCode)


@pytest.mark.parametrize("code", WaitCode)
def test_every_code_has_words_and_a_next_step_that_exists(code: WaitCode) -> None:
    text = told(reasons=[{"code": code.value, "message": "The sentence.", "data": {}}])
    assert WAITS[code].words in text and code.value in text and "The sentence." in text
    step = text.rpartition("Next: ")[2]
    assert step == next_step(Explanation(id="job_1", state="queued", reasons=[{"code": code}]))
    assert len(step) > 20 and "{" not in step
    known = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    named = re.findall(r"'tessera ([a-z]+)", step)
    assert set(named) <= set(known), "the step names a command that there is not"
    assert named or "Nothing has to be done" in step


@pytest.mark.parametrize("state", JobState)
def test_every_state_has_a_next_step(state: JobState) -> None:
    text = told(state=state.value, reasons=[])
    assert re.search(r"\nNext: .{20}", text) and "WAITS FOR" not in text


def test_the_sentence_comes_first_and_the_next_step_last() -> None:
    lines = told().splitlines()
    assert lines[0] == "You run 2 of 2 jobs."
    assert lines[-1].startswith("Next: It starts when one of yours ends") and "'tessera plans'" in lines[-1]


def test_places_are_told_by_user_by_tier_and_overall() -> None:
    assert "place  3rd of your own, 12th in tier free, 40th overall" in told()
    assert place(Explanation(id="j", state="queued", position=1)) == "1st overall"
    assert place(Explanation(id="j", state="running", position=0)) == ""


def test_what_is_ahead_is_a_bar_for_each_tier_the_highest_first() -> None:
    lines = [line for line in told().splitlines() if "▇" in line]
    assert [line.replace("▇", "").split() for line in lines] == [
        ["ahead", "pro", "28"],
        ["free", "10", "(2", "of", "them", "yours)"],
    ]
    assert lines[0].count("▇") > 2 * lines[1].count("▇") > 0
    assert re.search(r"ahead +nothing", told(ahead={"pro": 0}))


def test_an_end_is_told_from_the_servers_clock() -> None:
    for seconds, words in ((45, "in 45 s"), (200, "in 3 min 20 s"), (-3, "now")):
        until = NOW + timedelta(seconds=seconds)
        assert words in told(reasons=[{"code": "backoff", "message": "Again.", "until": until, "data": {}}])


def test_workers_say_whether_they_can_and_why_not() -> None:
    text = told()
    assert re.search(r"w1 +pc1/gpu0 +yes$", text, re.MULTILINE)
    assert re.search(r"w2 +pc2/cpu +away +it is away$", text, re.MULTILINE)
    assert "LOADED" not in text
    worker = {**WAITING["workers"][0], "slots": 2, "free_slots": 1, "resident": True}
    assert re.search(r"w1 +pc1/gpu0 +yes +1 of 2 +yes$", told(workers=[worker]), re.MULTILINE)


def test_times_counts_and_retries_are_told_in_words() -> None:
    failure = {"attempt": 1, "worker": "w1", "at": NOW, "code": "out_of_memory", "message": "Too large."}
    text = told(attempt=1, failures=1, last_failure=failure)
    assert "in 4 min – 9 min; its own run takes about 12 s" in text
    assert "2 of 2 running, 5 of 25 waiting" in text
    assert "queued for 1 min 35 s" in text
    assert "1 so far, 1 counted as failed; attempt 1 on w1: Too large. (out_of_memory)" in text


def test_a_running_and_an_ended_job_say_where_and_how() -> None:
    text = told(state="running", reasons=[], worker="w1", started_at=NOW - timedelta(seconds=7), position=0)
    assert "running for 7 s on w1" in text and "place" not in text and "ahead" not in text
    error = {"code": "storage_full", "message": "The store is full.", "retryable": False}
    text = told(state="failed", reasons=[], error=error, charged_tokens=0, refunded_tokens=0.75, eta=None)
    assert "0 tokens charged, 0.75 tokens returned" in text and "The store is full. (storage_full)" in text


def test_a_newer_servers_code_is_still_told() -> None:
    text = told(reasons=[{"code": "moon_phase", "message": "It waits for the moon.", "data": {}}])
    assert "moon phase" in text and "It waits for the moon." in text and "Next: See it start" in text
    assert words_of_code("ahead") == "its turn"


def test_text_of_the_server_cannot_steer_the_terminal() -> None:
    reasons = [{"code": "a\x1b[2J", "message": "b\x1b]0;c\x07", "data": {}}]
    worker = {"name": "w\x1b[31m", "why_not": "\x9bx"}
    text = told(summary="s\x1b[2J", reasons=reasons, workers=[worker])
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", text)


def test_on_a_narrow_terminal_sentences_wrap_and_codes_stay_whole() -> None:
    message = "heavy-b is not loaded on gpu, where heavy-a is. It is swapped in when that pays or its turn comes."
    worker = {"name": "preview-visual", "node": "pc1", "device": "gpu", "online": True, "why_not": message}
    reasons = [{"code": "scheduler_restarting", "message": message, "data": {}}, {"code": "model_load"}]
    text = told(width=90, reasons=reasons, workers=[worker], summary=message)
    assert "…" not in text and all(len(line) <= 90 for line in text.splitlines())
    assert "the scheduler " in text and " scheduler_restarting " in text and " model_load " in text
    assert "preview-visual  pc1/gpu" in text
    assert [text.count(word) for word in ("heavy-b", "turn")] == [3, 3], "nothing of the sentences is cut off"


def test_ordinals() -> None:
    assert [ordinal(n) for n in (1, 2, 3, 4, 11, 12, 13, 21, 102, 111, 1003)] == [
        "1st", "2nd", "3rd", "4th", "11th", "12th", "13th", "21st", "102nd", "111th", "1,003rd",
    ]  # fmt: skip


# Against a server


def test_a_job_is_explained_on_a_page_and_as_json(api: FakeApi, run: Any) -> None:
    api.knobs = Knobs(hold=True)
    job_id = run("generate", "image", "a fox", "--no-wait")[1].strip()
    code, out, err = run("explain", job_id)
    assert (code, err) == (0, "") and out.splitlines()[0] == "It is queued."
    assert "1st of your own, 2nd in tier pro, 3rd overall" in out and "all its slots are taken" in out
    assert f"'tessera job {job_id} --watch'" in out.splitlines()[-1]
    assert all(line == line.rstrip() for line in out.splitlines())
    shown = json.loads(run("explain", job_id, "--json")[1])
    assert shown["reasons"][0]["code"] == "ahead" and shown["eta"] == {"low_s": 4, "high_s": 9}
    assert run("explain", "job_unknown")[0] == 2
    assert json.loads(run("explain", "job_unknown", "--json")[1])["error"]["code"] == "not_found"


def test_an_explanation_is_watched_to_the_jobs_end(api: FakeApi, run: Any) -> None:
    api.knobs = Knobs(step_s=0.5)
    job_id = run("generate", "text", "Lisbon?", "--no-wait")[1].strip()
    code, out, _ = run("explain", job_id, "--watch")
    lines = out.splitlines()
    assert code == 0 and lines[0] == "queued #3 It is queued."
    assert "It is completed." in lines and lines[-1].startswith("Next: Fetch what it made")
    assert json.loads(run("explain", job_id, "--watch", "--json")[1])["state"] == "completed"

"""The command line where a person sits: live progress, text as it comes, and Ctrl-C."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tessera.client import Client
from tests.fakes.api_job import reason
from tests.fakes.api_server import ANSWER, API_KEY, FakeApi, Knobs
from tests.fakes.terminal import Terminal


def test_a_person_sees_live_progress_and_a_clean_end(api: FakeApi) -> None:
    api.knobs = Knobs(step_s=0.05)
    terminal = Terminal("generate", "image", "a fox", "--size", "64")
    terminal.until("queued · position")
    terminal.until("painting")
    terminal.until("▀▀▀")
    terminal.until("0.75 tokens charged")
    assert terminal.end() == 0
    assert "\x1b[" in terminal.raw and "\x1b[?25h" in terminal.raw
    assert [path.name[:9] for path in Path().iterdir()] == ["a-fox-01k"]


def test_text_appears_on_the_terminal_as_it_comes(api: FakeApi) -> None:
    api.knobs = Knobs(step_s=0.05)
    terminal = Terminal("generate", "text", "Lisbon?")
    terminal.until("Lisbon has hills,")
    assert "pastel" not in terminal.text
    terminal.until("19 words")
    assert terminal.end() == 0
    assert ANSWER + "\n" in terminal.text


def test_interrupted_and_told_to_cancel_returns_the_tokens(api: FakeApi) -> None:
    api.knobs = Knobs(hold=True)
    terminal = Terminal("generate", "image", "a fox")
    terminal.until("queued")
    terminal.type("\x03")
    terminal.until("[y/N]")
    terminal.type("y\n")
    terminal.until("0.75 tokens returned")
    assert terminal.end() == 130
    assert next(iter(api.jobs.values())).state == "cancelled"


@pytest.mark.parametrize("answer", ["n\n", "\n", "\x03"])
def test_interrupted_and_not_cancelled_tells_how_to_take_it_up(api: FakeApi, answer: str) -> None:
    api.knobs = Knobs(hold=True)
    terminal = Terminal("generate", "image", "a fox")
    terminal.until("queued")
    terminal.type("\x03")
    terminal.until("[y/N]")
    time.sleep(0.3)  # nobody reads faster; a signal between the question and the read would find nobody waiting
    terminal.type(answer)
    job = next(iter(api.jobs.values()))
    terminal.until(f"tessera job {job.id} --watch")
    assert terminal.end() == 130 and job.state == "queued"


def test_interrupted_without_a_person_the_job_goes_on(api: FakeApi) -> None:
    api.knobs = Knobs(hold=True)
    command = [sys.executable, "-m", "tessera.cli", "generate", "image", "a fox", "--json"]
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None and process.stdout is not None
        assert "queued" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        answer = json.loads(process.stdout.read())
    job = next(iter(api.jobs.values()))
    assert process.returncode == 130 and answer["error"]["job_id"] == job.id and job.state == "queued"


def test_a_job_that_waits_for_more_than_its_turn_says_why_while_it_is_followed(api: FakeApi) -> None:
    api.knobs = Knobs(hold=True, explanation={"summary": "You run 1 of 1 jobs.", "reasons": [reason("running_cap")]})
    terminal = Terminal("generate", "image", "a fox")
    terminal.until("You run 1 of 1 jobs.")
    terminal.type("\x03")
    terminal.until("[y/N]")
    terminal.type("y\n")
    assert terminal.end() == 130
    asked = [request for request in api.seen if request.path.endswith("/explain")]
    assert len(asked) == 1, "at most every five seconds"


def test_watching_an_explanation_ends_quietly(api: FakeApi) -> None:
    api.knobs = Knobs(hold=True)
    job_id = asyncio.run(_submit(api))
    terminal = Terminal("explain", job_id, "--watch")
    terminal.until("Next: Nothing has to be done")
    terminal.type("\x03")
    assert terminal.end() == 0 and "Traceback" not in terminal.text and "\x1b[?25h" in terminal.raw


async def _submit(api: FakeApi) -> str:
    async with Client(api.url, API_KEY) as client:
        return (await client.submit("image", {"prompt": "a fox"})).id

"""Workers on a real cluster: models are loaded and unloaded through Serve, and a drain gives the memory back."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from tests.acceptance.conftest import Platform
from tests.acceptance.http import Api

WORKER = "noop-gpu"


def worker(api: Api) -> dict[str, Any]:
    """The worker as an operator sees it."""
    [found] = [each for each in api.get("/v1/admin/workers").json["data"] if each["name"] == WORKER]
    return dict(found)


def until(check: Callable[[], object], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.2)


def test_models_that_do_not_fit_together_take_turns_and_no_job_fails(api: Api) -> None:
    jobs = [api.submit("text", f"noop-{letter}", prompt="go")["id"] for letter in "abcabc"]
    ended = [api.wait(job) for job in jobs]
    assert {(job["state"], job["attempt"]) for job in ended} == {("completed", 1)}
    assert 1 <= len(worker(api)["resident"]) <= 2


def test_a_drained_worker_frees_its_memory_and_its_jobs_wait_until_it_is_resumed(platform: Platform, api: Api) -> None:
    api.wait(api.submit("text", "noop-a", prompt="go")["id"])
    until(lambda: "noop-a" in worker(api)["resident"])
    told = platform.cli("drain", WORKER, "--for", "10m", "--reason", "games")
    assert f"{WORKER} takes no new jobs until" in told.stderr
    until(lambda: worker(api)["resident"] == [])
    job = api.submit("text", "noop-a", prompt="go")["id"]
    reasons = api.get(f"/v1/jobs/{job}/explain").json["reasons"]
    assert "draining" in [reason["code"] for reason in reasons]
    time.sleep(2)
    assert api.job(job)["state"] == "queued"
    assert worker(api)["resident"] == []
    platform.cli("resume", WORKER)
    ended = api.wait(job)
    assert (ended["state"], ended["attempt"]) == ("completed", 1)
    assert "draining_until" not in worker(api)

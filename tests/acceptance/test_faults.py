"""Bad days on a real cluster: processes are killed under load, and no job is lost, completed twice or charged twice."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from typing import Any

import asyncpg
import psutil
import pytest

from tests.acceptance.conftest import Platform, wait_ready
from tests.acceptance.http import Answer, Api


def query(platform: Platform, sql: str, *values: object) -> list[Any]:
    """Rows straight from the platform's database."""

    async def fetch() -> list[Any]:
        connection = await asyncpg.connect(platform.settings()["database_url"])
        try:
            return list(await connection.fetch(sql, *values))
        finally:
            await connection.close()

    return asyncio.run(fetch())


def submit_noops(api: Api, count: int, prompt: str) -> list[str]:
    return [api.submit("text", "noop", prompt=prompt)["id"] for _ in range(count)]


def assert_ended_once_and_charged_once(platform: Platform, api: Api, jobs: list[str]) -> None:
    """Every job completed, with one hold, one settlement and one completed event; the ledger equals usage_daily."""
    states = {job: api.wait(job)["state"] for job in jobs}
    assert set(states.values()) == {"completed"}, states
    first = min(jobs)
    assert (
        query(
            platform,
            "SELECT job_id FROM job_events WHERE type = 'completed' GROUP BY job_id HAVING count(*) <> 1",
        )
        == []
    )
    assert (
        query(
            platform,
            "SELECT job_id FROM token_ledger WHERE job_id IN (SELECT id FROM jobs WHERE state = 'completed')"
            " GROUP BY job_id HAVING count(*) FILTER (WHERE entry = 'hold') <> 1"
            " OR count(*) FILTER (WHERE entry = 'settlement') <> 1 OR count(*) <> 2",
        )
        == []
    ), first
    assert (
        query(
            platform,
            "SELECT user_id FROM (SELECT user_id, day, sum(amount_mt) AS s FROM token_ledger GROUP BY 1, 2) l"
            " FULL JOIN (SELECT user_id, day, sum(used_mt) AS s FROM usage_daily GROUP BY 1, 2) u USING (user_id, day)"
            " WHERE l.s IS DISTINCT FROM u.s",
        )
        == []
    )


def test_fifty_queued_jobs_survive_a_kill_of_the_scheduler(platform: Platform, api: Api) -> None:
    jobs = submit_noops(api, 50, "sleep 0.2")
    platform.process("SchedulerActor").kill()
    assert_ended_once_and_charged_once(platform, api, jobs)


def test_jobs_of_a_killed_engine_replica_are_run_again(platform: Platform, api: Api) -> None:
    jobs = submit_noops(api, 10, "sleep 2")
    time.sleep(0.5)
    platform.process("worker-noop:worker").kill()
    assert_ended_once_and_charged_once(platform, api, jobs)
    wait_ready(api)


def test_submissions_during_the_kill_of_an_ingress_replica_are_answered_or_refused_but_never_lost(
    platform: Platform, api: Api
) -> None:
    accepted: list[str] = []
    platform.process("control:ingress").kill()
    end = time.monotonic() + 5
    while time.monotonic() < end:
        try:
            answer = api.post("/v1/jobs", {"kind": "text", "model": "noop", "input": {"prompt": "go"}})
        except OSError:
            continue
        if answer.status == 202:
            accepted.append(answer.json["id"])
        time.sleep(0.02)
    wait_ready(api)
    assert len(accepted) > 10  # the other replica went on
    assert_ended_once_and_charged_once(platform, api, accepted)


def test_a_stopped_postgres_means_503_and_everything_acknowledged_is_there_afterwards(
    platform: Platform, api: Api
) -> None:
    before = submit_noops(api, 20, "sleep 0.1")
    pid = int((platform.home / "postgres" / "data" / "postmaster.pid").read_text().split()[0])
    processes = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    accepted: list[str] = []
    refused: list[Answer] = []
    for process in processes:
        process.send_signal(signal.SIGSTOP)
    try:
        body = {"kind": "text", "model": "noop", "input": {"prompt": "go"}, "metadata": {"sent": "while stopped"}}
        end = time.monotonic() + 20
        while time.monotonic() < end:
            answer = api.post("/v1/jobs", body)
            (accepted.append(answer.json["id"]) if answer.status == 202 else refused.append(answer))
    finally:
        for process in processes:
            if process.is_running():
                process.send_signal(signal.SIGCONT)
    assert refused
    for answer in refused:
        assert (answer.status, answer.json["code"]) == (503, "unavailable")
        assert int(answer.headers["retry-after"]) >= 1
    wait_ready(api)
    assert_ended_once_and_charged_once(platform, api, before + accepted)
    # What was refused was not admitted behind its caller's back when Postgres went on.
    admitted = query(platform, "SELECT id FROM jobs WHERE metadata ->> 'sent' = 'while stopped'")
    assert len(admitted) == len(accepted)


def test_a_killed_postgres_comes_back_by_itself_with_all_that_was_acknowledged(platform: Platform, api: Api) -> None:
    jobs = submit_noops(api, 20, "sleep 0.3")
    os.kill(int((platform.home / "postgres" / "data" / "postmaster.pid").read_text().split()[0]), signal.SIGKILL)
    time.sleep(1)
    wait_ready(api)
    assert_ended_once_and_charged_once(platform, api, jobs)


def test_a_job_that_kills_its_worker_every_time_is_quarantined_and_refunded(platform: Platform, api: Api) -> None:
    job = api.wait(api.submit("text", "noop", prompt="exit")["id"], seconds=120)
    assert (job["state"], job["error"]["code"]) == ("failed", "quarantined")
    assert job["error"]["refunded_tokens"] == job["cost_tokens"]
    wait_ready(api)


def test_a_full_artifact_store_fails_the_job_cleanly_and_refunds_it(platform: Platform, api: Api) -> None:
    store = platform.home / "artifacts"
    aside = platform.home / "artifacts-aside"
    api.wait(api.submit("speech", text="First, so that the store exists.")["id"])
    store.rename(aside)
    store.write_bytes(b"")  # a file where the folder was: nothing can be written below it, also not by root
    try:
        job = api.wait(api.submit("speech", text="Nowhere to put this.")["id"])
    finally:
        store.unlink()
        aside.rename(store)
    assert job["state"] == "failed"
    assert job["error"]["code"] == "storage_full"
    assert job["error"]["refunded_tokens"] == job["cost_tokens"]
    assert api.wait(api.submit("speech", text="And now it works again.")["id"])["state"] == "completed"


@pytest.mark.parametrize("kind", ["text"])
def test_two_ingress_replicas_never_oversell_a_quota(platform: Platform, kind: str) -> None:
    from concurrent.futures import ThreadPoolExecutor

    free = platform.new_user("free")  # 20 tokens, 30 submissions a minute, 25 queued
    body = {"kind": "speech", "input": {"text": "x" * 1000}}  # exactly one token
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda _: free.post("/v1/jobs", body).status, range(100)))
    assert answers.count(202) == 20
    assert set(answers) <= {202, 402, 429}
    assert free.get("/v1/me").json["quota"]["used_tokens"] == 20

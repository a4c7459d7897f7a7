"""Two accounts become one while both submit, run, cancel and upload: nothing is lost, nothing is sold twice."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import Any

import pytest

from tessera.store.audit import audit
from tessera.store.database import connect, fetch_settled
from tests.integration.api_server import LEASE_S, Api, running
from tests.integration.people import Person, service_key
from tests.integration.test_api_linking import code_of

PICTURE = (Path(__file__).parents[2] / "docs/images/lighthouse.png").read_bytes()


class Workers:
    """Claims what waits and ends it in one way or another, by the functions that the scheduler uses."""

    def __init__(self, dsn: str, dice: random.Random) -> None:
        self._dsn = dsn
        self._dice = dice
        self.stopped = asyncio.Event()
        self.ended = 0

    async def run(self) -> None:
        sql = await connect(self._dsn, name="tests-workers")
        try:
            while not self.stopped.is_set():
                queued = await sql.fetch("SELECT id FROM jobs WHERE state = 'queued' ORDER BY random() LIMIT 6")
                claims = [{"job_id": str(row["id"]), "worker": "w", "ord": n} for n, row in enumerate(queued)]
                claimed = await fetch_settled(sql, "SELECT job_id, attempt FROM claim(0, $1, $2)", claims, LEASE_S)
                await asyncio.sleep(0)
                rows = [
                    {"ord": n, "job_id": str(row["job_id"]), "attempt": row["attempt"], **self._end()}
                    for n, row in enumerate(claimed)
                ]
                self.ended += len(await fetch_settled(sql, "SELECT job_id FROM finish(0, $1)", rows))
                await asyncio.sleep(0.005)
        finally:
            await sql.close()

    def _end(self) -> dict[str, Any]:
        return self._dice.choice(
            [
                {"outcome": "completed", "charged_mt": 10},
                {"outcome": "completed"},
                {"outcome": "requeued"},
                {"outcome": "failed", "error": {"code": "stuck"}},
            ]
        )


async def submit(api: Api, person: Person, dice: random.Random, count: int) -> list[int]:
    """So many submissions, some cancelled again at once; their statuses."""
    statuses = []
    for _ in range(count):
        body = {"kind": "text", "input": {"prompt": "hi", "max_tokens": dice.choice([100, 1000, 2000])}}
        answer, job = await person.call("POST", "/v1/jobs", json=body)
        statuses.append(answer.status)
        if answer.status == 202 and dice.random() < 0.2:
            answer, _ = await person.call("POST", f"/v1/jobs/{job['id']}/cancel")
            assert answer.status in (200, 202, 404), answer.status  # 404: for an instant, while the accounts merge
    return statuses


@pytest.mark.parametrize("seed", range(4))
async def test_merging_amid_submissions_runs_and_cancels_keeps_the_books_and_the_quota(
    database_url: str, tmp_path: Path, seed: int
) -> None:
    dice = random.Random(seed)
    async with running(database_url, tmp_path / "a") as api, running(database_url, tmp_path / "b") as second:
        bot = await service_key(api)
        await api.sql.execute(
            "UPDATE plans SET submissions_per_min = 10000, requests_per_min = 60000, max_queued = 200, max_running = 4"
        )
        names = ("telegram:1", "discord:2")
        people = [Person(server, bot, name) for server in (api, second) for name in names]
        for person in people:
            await person.get("/v1/me")
        into, other = (people[0], people[1]) if dice.random() < 0.5 else (people[1], people[0])
        code = await code_of(into)
        workers = [Workers(database_url, random.Random(seed + n)) for n in range(2)]
        working = [asyncio.create_task(each.run()) for each in workers]

        async def merge() -> None:
            await asyncio.sleep(dice.random() * 0.5)
            answer, linked = await other.call("POST", "/v1/identities/link", json={"code": code})
            assert answer.status == 200, linked

        async def look() -> None:
            for _ in range(3):
                found = await audit(database_url)
                assert found.balanced, [check.dump() for check in found.checks if check.differences]

        submitting = [submit(api, person, random.Random(seed * 7 + n), 25) for n, person in enumerate(people * 2)]
        *statuses, _, _ = await asyncio.gather(*submitting, merge(), look())
        for each in workers:
            each.stopped.set()
        await asyncio.gather(*working)

        flat = [status for each in statuses if each is not None for status in each]
        assert set(flat) <= {202, 402}, sorted(set(flat))
        assert sum(each.ended for each in workers) > 0
        found = await audit(database_url)
        assert found.balanced, [check.dump() for check in found.checks if check.differences]
        accepted = await api.sql.fetchval("SELECT count(*) FROM jobs")
        assert accepted == flat.count(202)
        assert await api.sql.fetchval("SELECT count(DISTINCT user_id) FROM jobs") == 1
        # At every hold, in the order in which the lock of its user was had, the day's use is within the quota.
        oversold = await api.sql.fetch(
            """SELECT * FROM (SELECT l.id, l.user_id, l.entry,
                                     sum(l.amount_mt) OVER (PARTITION BY l.user_id ORDER BY l.id) AS used_mt
                              FROM token_ledger l) s
               WHERE s.entry = 'hold' AND s.used_mt > 20000"""
        )
        assert not oversold, [dict(row) for row in oversold]

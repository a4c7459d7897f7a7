"""Receivers that fail for days, and senders that are killed amid their work."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tessera.api.deliveries.sender import LEASE_S, PER_LANE
from tessera.api.schemas import webhooks as webhook_schemas
from tessera.client import Client
from tessera.deliveries import MAX_FAILED_IN_A_ROW
from tessera.ids import Prefix, parse, show
from tests.fakes.webhook_receiver import Receiver
from tests.integration.api_server import Api, running
from tests.integration.test_webhooks import LOOPBACK, add, ended, pass_time, submit, tried, until

DAY_S = 86_400.0
REPO = Path(__file__).parents[2]


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with Receiver().running() as started:
        yield started


@pytest.fixture
async def api(database_url: str, tmp_path: Path) -> AsyncIterator[Api]:
    """An API that may send to this machine, and looks at its lanes often."""
    knobs = {"scan_s": 0.2, "timeout_s": 10.0, "max_break_s": 0.0}
    async with running(database_url, tmp_path, cluster=LOOPBACK, sender=knobs) as started:
        yield started


async def shown(api: Api, endpoint_id: str) -> webhook_schemas.Endpoint:
    """The endpoint as its owner sees it."""
    answer, body = await api.call("GET", f"/v1/webhook-endpoints/{endpoint_id}")
    assert answer.status == 200, body
    return webhook_schemas.Endpoint.model_validate(body)


async def count(api: Api, where: str, *arguments: object) -> int:
    """The deliveries that fit."""
    return int(await api.sql.fetchval(f"SELECT count(*) FROM deliveries WHERE {where}", *arguments))


async def fail_for_a_day(api: Api, endpoint_id: str, times: int = 1) -> None:
    """So many more events, of which each is tried for a day and given up."""
    endpoint = parse(Prefix.ENDPOINT, endpoint_id)
    before = await count(api, "endpoint_id = $1 AND ended_at IS NOT NULL", endpoint)
    for _ in range(times):
        await api.complete((await submit(api))["id"])

    async def all_tried() -> bool:
        return not await count(api, "endpoint_id = $1 AND (tries = 0 OR state = 'leased')", endpoint)

    async def all_ended() -> bool:
        return await count(api, "endpoint_id = $1 AND ended_at IS NOT NULL", endpoint) == before + times

    await until(all_tried)
    await pass_time(api, DAY_S)
    await until(all_ended)


async def test_an_endpoint_that_fails_for_days_is_disabled_with_its_reason(api: Api, receiver: Receiver) -> None:
    receiver.answers["down"] = [500]
    endpoint = (await add(api, receiver.url("down"), events=["completed"]))["id"]
    await fail_for_a_day(api, endpoint, MAX_FAILED_IN_A_ROW - 1)
    before = await shown(api, endpoint)
    assert (before.disabled, before.failed_in_a_row) == (False, MAX_FAILED_IN_A_ROW - 1)
    await fail_for_a_day(api, endpoint)
    after = await shown(api, endpoint)
    assert after.disabled and after.disabled_at is not None
    assert after.failed_in_a_row == MAX_FAILED_IN_A_ROW
    assert (
        after.disabled_reason
        == "10 deliveries in a row were given up, each after a day of tries; the last: it answered 500"
    )
    # In the list, too; and nothing is written for it any more.
    _, listed = await api.call("GET", "/v1/webhook-endpoints")
    assert [one["disabled_reason"] for one in listed["data"]] == [after.disabled_reason]
    await api.complete((await submit(api))["id"])
    assert await count(api, "true") == MAX_FAILED_IN_A_ROW
    # Its owner repairs it: it counts from the beginning, and what was missed can be sent again.
    receiver.answers["down"] = [200]
    answer, body = await api.call("PATCH", f"/v1/webhook-endpoints/{endpoint}", json={"disabled": False})
    again = webhook_schemas.Endpoint.model_validate(body)
    assert (answer.status, again.disabled, again.disabled_reason, again.failed_in_a_row) == (200, False, None, 0)
    missed = (await ended(api))[0]["id"]
    assert (await api.call("POST", f"/v1/deliveries/{missed}/replay"))[0].status == 202
    await api.complete((await submit(api))["id"])

    async def arrived() -> bool:
        return await count(api, "state = 'delivered'") == 2

    await until(arrived)
    async with Client(api.url, api.key) as client:
        assert (await client.webhook_endpoint(endpoint)).failed_in_a_row == 0


async def test_one_delivery_that_arrives_begins_the_count_anew(api: Api, receiver: Receiver) -> None:
    receiver.answers["flaky"] = [500]
    endpoint = (await add(api, receiver.url("flaky"), events=["completed"]))["id"]
    await fail_for_a_day(api, endpoint, 3)
    assert (await shown(api, endpoint)).failed_in_a_row == 3
    # A try that fails says nothing yet.
    await api.complete((await submit(api))["id"])
    await tried(api, 1, state="pending")
    assert (await shown(api, endpoint)).failed_in_a_row == 3
    receiver.answers["flaky"] = [200]
    await pass_time(api, 60)

    async def anew() -> bool:
        return (await shown(api, endpoint)).failed_in_a_row == 0

    await until(anew)
    assert not (await shown(api, endpoint)).disabled


async def test_another_endpoint_of_the_account_is_not_disabled_with_it(api: Api, receiver: Receiver) -> None:
    receiver.answers["down"] = [500]
    down = (await add(api, receiver.url("down"), events=["completed"]))["id"]
    well = (await add(api, receiver.url("well"), events=["completed"]))["id"]
    await fail_for_a_day(api, down, MAX_FAILED_IN_A_ROW)
    assert (await shown(api, down)).disabled
    found = await shown(api, well)
    assert (found.disabled, found.failed_in_a_row) == (False, 0)
    assert len({one.headers["webhook-id"] for one in receiver.of("well")}) == MAX_FAILED_IN_A_ROW


@contextlib.asynccontextmanager
async def sender_process(dsn: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """A sender in a process of its own; killed at the end, if it still lives."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.integration.sender_process", dsn, cwd=REPO
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def test_a_sender_that_is_killed_amid_its_posts_loses_none_and_keeps_their_ids(
    database_url: str, api: Api, receiver: Receiver
) -> None:
    await api.services.sender.close()  # the sender of this test is a process that can be killed
    await add(api, receiver.url("hang"), events=["completed"])
    for _ in range(12):
        await api.complete((await submit(api))["id"])
    written = {show(Prefix.DELIVERY, row["id"]) for row in await api.sql.fetch("SELECT id FROM deliveries")}
    assert len(written) == 12
    async with sender_process(database_url) as first:
        under_way = {one.headers["webhook-id"] for one in await receiver.wait("hang", PER_LANE)}
        first.send_signal(signal.SIGKILL)
        assert await first.wait() == -signal.SIGKILL
    states = Counter(row["state"] for row in await api.sql.fetch("SELECT state FROM deliveries"))
    assert states == {"leased": 8, "pending": 4}, "what was claimed is still held by the dead"
    receiver.release.set()
    async with sender_process(database_url):
        # What nobody had claimed goes out at once; what the dead one held, when its lease is over and not before.
        async def rest() -> bool:
            return await count(api, "state = 'delivered'") == 4

        await until(rest)
        assert await count(api, "state = 'leased' AND next_try_at > now() + interval '1 minute'") == 8
        await pass_time(api, LEASE_S)

        async def everything() -> bool:
            return await count(api, "state = 'delivered'") == 12

        await until(everything)
    counts = Counter(one.headers["webhook-id"] for one in receiver.of("hang"))
    assert set(counts) == written, "none is lost, and none has got another id"
    assert {one for one, count in counts.items() if count == 2} == under_way
    assert await count(api, "tries = 2") == 8, "a claim that nobody wrote down counts as a try"

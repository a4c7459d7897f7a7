"""The client against the real API over a real Postgres; the test plays the scheduler."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tessera.client import ApiError, Client, Event, TextSoFar
from tessera.ids import Prefix, parse
from tessera.jobs import EventType
from tessera.ports import Explanation, WaitCode, WaitReason
from tests.integration.api_server import Api


@pytest.fixture
async def client(api: Api) -> AsyncIterator[Client]:
    async with Client(api.url, api.key) as connected:
        yield connected


async def follow(client: Client, job_id: str) -> list[Event]:
    async with aclosing(client.events(job_id)) as events:
        return [event async for event in events]


async def test_a_job_is_submitted_followed_and_its_file_fetched(api: Api, client: Client, tmp_path: Path) -> None:
    content = bytes(range(256)) * 1000
    job = await client.submit("image", {"prompt": "a fox"}, metadata={"for": "a test"})
    assert (job.state, job.cost_tokens, job.metadata) == ("queued", 1, {"for": "a test"})
    following = asyncio.create_task(follow(client, job.id))
    await api.complete(job.id, content)
    assert [event.type for event in await following if event.id is not None] == [
        "queued",
        "started",
        "output",
        "completed",
    ]
    done = await client.wait(job.id)
    assert done.ok and done.charged_tokens == 1 and done.preview is True
    assert await client.artifacts(job.id) == done.artifacts
    assert await client.download(done.artifacts[0], tmp_path / "fox.png") == len(content)
    assert (tmp_path / "fox.png").read_bytes() == content


async def test_text_chunks_come_through(api: Api, client: Client) -> None:
    job = await client.submit("text", {"prompt": "hello"})
    so_far = TextSoFar()
    first, both = asyncio.Event(), asyncio.Event()

    async def read() -> None:
        async with aclosing(client.events(job.id)) as events:
            async for event in events:
                so_far.feed(event)
                first.set()
                if so_far.text == "one two":
                    both.set()

    reading = asyncio.create_task(read())
    await first.wait()
    attempt = await api.claim(job.id)
    await api.scheduler.subscribed.wait()
    inside = parse(Prefix.JOB, job.id)
    api.scheduler.tell(inside, attempt, EventType.CHUNK, offset=0, text="one ")
    api.scheduler.tell(inside, attempt, EventType.CHUNK, offset=4, text="two")
    async with asyncio.timeout(10):
        await both.wait()
    await api.finish(job.id, attempt, output={"text": "one two three", "finish_reason": "stop"})
    await reading
    done = await client.get_job(job.id)
    assert done.text == so_far.text == "one two three"  # the last words came with the end


async def test_a_waiting_and_an_ended_job_are_explained(api: Api, client: Client) -> None:
    job = await client.submit("text", {"prompt": "hello"})
    job_id, until = parse(Prefix.JOB, job.id), datetime(2030, 1, 31, tzinfo=UTC)
    api.scheduler.known_explanations[job_id] = Explanation(
        job_id=job_id,
        state="queued",
        summary="Others come first.",
        position=2,
        position_in_tier=1,
        position_of_user=1,
        ahead={"free": 1},
        own_jobs_ahead=0,
        running_of_user=0,
        max_running=4,
        reasons=[
            WaitReason(code=WaitCode.AHEAD, message="Others come first.", until=datetime(2030, 1, 31, tzinfo=UTC))
        ],
        workers=[],
        eta_low_s=2,
        eta_high_s=8,
        own_s=1.5,
    )
    waits = await client.explain(job.id)
    assert (waits.summary, waits.position, waits.ahead, waits.own_s) == ("Others come first.", 2, {"free": 1}, 1.5)
    assert [(reason.code, reason.until) for reason in waits.reasons] == [("ahead", until)]
    await client.cancel(job.id)
    ended = await client.explain(job.id)
    assert (ended.state, ended.is_final, ended.refunded_tokens) == ("cancelled", True, job.cost_tokens)
    assert ended.dump()["summary"] == ended.summary


async def test_the_same_idempotency_key_is_the_same_job(client: Client) -> None:
    jobs = [await client.submit("text", {"prompt": "hello"}, idempotency_key="one") for _ in range(2)]
    assert jobs[0].id == jobs[1].id
    with pytest.raises(ApiError) as caught:
        await client.submit("text", {"prompt": "another"}, idempotency_key="one")
    assert caught.value.code == "idempotency_mismatch"


async def test_a_cancelled_job_is_over_and_costs_nothing(client: Client) -> None:
    job = await client.submit("image", {"prompt": "a fox"})
    ended = await client.cancel(job.id)
    assert ended.state == "cancelled" and not ended.charged_tokens
    assert (await follow(client, job.id))[-1].type == "cancelled"
    assert (await client.cancel(job.id)).state == "cancelled"


async def test_a_stream_after_the_final_event_ends_at_once(api: Api, client: Client) -> None:
    job = await client.submit("image", {"prompt": "a fox"})
    await api.complete(job.id, b"picture")
    last = [event.id for event in await follow(client, job.id) if event.id is not None][-1]
    async with aclosing(client.events(job.id, last)) as events:
        assert [event async for event in events] == []


async def test_an_upload_is_stored(api: Api, client: Client, tmp_path: Path) -> None:
    sound = b"RIFF" + (36).to_bytes(4, "little") + b"WAVEfmt " + (16).to_bytes(4, "little")
    sound += (
        bytes.fromhex("0100010040 1f0000 803e0000 0200 1000".replace(" ", "")) + b"data" + (3200).to_bytes(4, "little")
    )
    (tmp_path / "talk.wav").write_bytes(sound + b"\0" * 3200)
    upload = await client.upload(tmp_path / "talk.wav")
    assert upload.bytes == len(sound) + 3200 and upload.media_type.startswith("audio/")


async def test_jobs_come_in_pages(client: Client) -> None:
    ids = [(await client.submit("text", {"prompt": str(number)})).id for number in range(3)]
    first = await client.list_jobs(limit=2, kind="text")
    second = await client.list_jobs(limit=2, kind="text", cursor=first.next_cursor)
    assert [job.id for job in (*first.data, *second.data)] == ids[::-1] and second.next_cursor is None


async def test_the_account_and_the_catalogue_are_read(client: Client) -> None:
    await client.submit("image", {"prompt": "a fox"})
    me = await client.me()
    assert me.plan == "pro" and me.quota.used_tokens == 1 and me.quota.remaining_tokens == 299
    usage = await client.usage(days=2)
    assert usage.data[0].kind == "image" and usage.today.used_tokens == 1
    assert {plan.id: plan.daily_tokens for plan in await client.plans()} == {"free": 20, "starter": 120, "pro": 300}
    assert {model.id for model in await client.models() if model.default} >= {"preview-image", "preview-music"}


async def test_keys_are_made_used_and_revoked(api: Api, client: Client) -> None:
    key = await client.keys_create("laptop", daily_cap_tokens=2.5)
    assert key.daily_cap_tokens == 2.5
    async with Client(api.url, key.api_key) as other:
        assert (await other.me()).id == (await client.me()).id
        await client.keys_revoke(key.id)
        with pytest.raises(ApiError) as caught:
            await other.me()
    assert caught.value.status == 401


async def test_an_operator_makes_and_moves_users(api: Api, client: Client) -> None:
    with pytest.raises(ApiError) as caught:
        await client.users_list()
    assert caught.value.status == 403
    admin_id = await api.add_user(is_admin=True)
    admin_key = await api.add_key(user_id=admin_id, scopes=["jobs", "admin"])
    async with Client(api.url, admin_key) as operator:
        user = await operator.users_create("ada", "free")
        assert user.api_key and (await operator.users_set_plan(user.id, "starter")).plan == "starter"
        assert user.id in {found.id for found in await operator.users_list()}


async def test_refusals_carry_their_code_and_details(client: Client) -> None:
    with pytest.raises(ApiError) as caught:
        await client.submit("image", {"prompt": "a fox", "widht": 5})
    assert caught.value.code == "invalid_input"
    assert caught.value.details["errors"][0]["field"] == "input.widht" and caught.value.request_id
    with pytest.raises(ApiError) as caught:
        await client.get_job("job_nope")
    assert caught.value.code == "not_found"

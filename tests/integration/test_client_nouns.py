"""The client's calls about webhooks, its face without async, and what uploads tell, against the real API."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tessera.client import ApiError, Client, SyncClient, TesseraClient
from tests.integration.api_server import Api
from tests.unit.media_files import picture


@pytest.fixture
async def client(api: Api) -> AsyncIterator[Client]:
    async with TesseraClient(api.url, api.key) as connected:
        yield connected


async def test_endpoints_and_deliveries_have_their_calls(api: Api, client: Client) -> None:
    made = await client.add_webhook_endpoint("https://example.org/a", events=["failed"], description="orders")
    assert made.secret is not None and made.secret.startswith("whsec_") and made.secret not in repr(made)
    assert (await client.webhook_secret(made.id)).secret == made.secret
    assert [one.id for one in await client.webhook_endpoints()] == [made.id]
    changed = await client.change_webhook_endpoint(made.id, disabled=True)
    assert changed.disabled and (await client.webhook_endpoint(made.id)).events == ("failed",)
    with pytest.raises(ApiError, match="disabled"):
        await client.test_webhook_endpoint(made.id)
    assert (await client.rotate_webhook_secret(made.id, overlap_s=60)).old_secret_until is not None
    before = await client.webhook_secret()
    assert (await client.rotate_webhook_secret()).secret != before.secret
    await api.sql.execute("INSERT INTO deliveries_pause (actor) VALUES ('test')")
    job = await client.submit(
        "text", {"prompt": "x"}, webhook={"url": "https://example.org/b", "events": ["completed"]}
    )
    assert job.webhook is not None and job.webhook.events == ("completed",)
    await api.complete(job.id)
    (delivery,) = (await client.deliveries(job_id=job.id)).data
    assert (await client.delivery(delivery.id)).log == () and delivery.state == "pending"
    with pytest.raises(ApiError) as refused:
        await client.replay_delivery(delivery.id)
    assert refused.value.status == 409
    await client.delete_webhook_endpoint(made.id)
    assert await client.webhook_endpoints() == ()


async def test_an_operator_pauses_and_resumes_by_the_client(api: Api) -> None:
    key = await api.add_key(user_id=await api.add_user(is_admin=True), scopes=["admin"])
    async with Client(api.url, key) as operator:
        assert (await operator.pause_deliveries("restored")).reason == "restored"
        listed = await operator.all_deliveries(state="pending", channel="chat")
        assert listed.data == () and listed.paused is not None
        assert (await operator.resume_deliveries()).resumed
        assert (await operator.all_deliveries()).paused is None


async def test_an_upload_tells_how_far_it_is(client: Client, tmp_path: Path) -> None:
    content = picture("PNG", 900, 700)
    (tmp_path / "big.png").write_bytes(content)
    for source in (content, tmp_path / "big.png"):
        told: list[tuple[int, int | None]] = []
        upload = await client.upload(source, name="big.png", progress=lambda done, total: told.append((done, total)))  # noqa: B023
        assert upload.media_type == "image/png" and told[-1] == (len(content), len(content))


async def test_the_face_without_async_does_the_same(api: Api, tmp_path: Path) -> None:
    def script() -> list[str]:
        with SyncClient(api.url, api.key) as client:
            job = client.submit("image", {"prompt": "a fox"})
            kinds = [event.type for event in client.events(job.id) if event.id is not None]
            done = client.wait(job.id)
            assert done.ok and client.get_job(job.id).id == client.list_jobs(kind="image").data[0].id
            assert client.download(done.artifacts[0], tmp_path / "fox") == 7
            assert b"".join(client.stream(done.artifacts[0])) == b"picture"
            assert [event.id for event in client.events(job.id, after=2)] == [3, 4]
            assert client.call(lambda it: it.webhook_endpoints()) == ()
            with pytest.raises(ApiError):
                client.get_job("job_nonsense")
            return kinds

    running = asyncio.create_task(asyncio.to_thread(script))
    async with asyncio.timeout(60):
        async with Client(api.url, api.key) as client:
            jobs = await client.list_jobs()
            while not jobs.data:
                await asyncio.sleep(0.02)
                jobs = await client.list_jobs()
        await api.complete(jobs.data[0].id, b"picture")
        assert await running == ["queued", "started", "output", "completed"]

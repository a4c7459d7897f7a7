"""The client against a server on a real socket, and its pure parts by themselves."""

from __future__ import annotations

import asyncio
import socket
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from tessera.api.schemas import base as schemas
from tessera.api.schemas import explanations as explanation_schemas
from tessera.client import (
    ApiError,
    BadAnswer,
    Client,
    ClientError,
    ConnectionFailed,
    Event,
    Job,
    RetryPolicy,
    TextSoFar,
    Wait,
    load_credentials,
)
from tessera.client.events import SseParser
from tessera.client.transport import retry_delay_s, retryable_status
from tessera.ports import WaitCode
from tests.fakes.api_server import ANSWER, API_KEY, FakeApi, Knobs, Refusal

FAST = RetryPolicy(attempts=4, base_s=0.01, cap_s=0.02, total_wait_s=3)


def client_of(api: FakeApi, **options: Any) -> Client:
    return Client(api.url, API_KEY, retry=FAST, **options)


async def collect(client: Client, job_id: str, **options: Any) -> list[Event]:
    async with aclosing(client.events(job_id, **options)) as events:
        return [event async for event in events]


async def durable_ids(client: Client, job_id: str, **options: Any) -> list[int]:
    return [event.id for event in await collect(client, job_id, **options) if event.id is not None]


def files_of(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# Submitting


async def test_a_submitted_job_is_run_to_its_end_and_its_file_fetched(tmp_path: Path) -> None:
    async with FakeApi() as api, client_of(api) as client:
        seen: list[str] = []
        job = await client.run("image", {"prompt": "a cat"}, on_event=lambda e: seen.append(e.type))
        assert job.ok and job.charged_tokens == 0.75
        assert seen[0] == "queued" and seen[-1] == "completed" and "progress" in seen
        size = await client.download(job.artifacts[0], tmp_path / "cat.png")
        assert (tmp_path / "cat.png").stat().st_size == size == job.artifacts[0].bytes


async def test_an_answer_lost_after_a_submission_does_not_make_a_second_job() -> None:
    lost = Refusal("POST", "/v1/jobs", 0, after=True)
    async with FakeApi(Knobs(refusals=[lost])) as api, client_of(api) as client:
        await client.submit("image", {"prompt": "a cat"})
        assert api.count("POST", "/v1/jobs") == 2
        assert len(api.jobs) == 1


async def test_the_callers_idempotency_key_is_used() -> None:
    async with FakeApi() as api, client_of(api) as client:
        one = await client.submit("image", {"prompt": "a cat"}, idempotency_key="same")
        other = await client.submit("image", {"prompt": "a cat"}, idempotency_key="same")
        assert one.id == other.id


async def test_a_busy_server_is_asked_again_when_it_said() -> None:
    waits: list[Wait] = []
    busy = Refusal("POST", "/v1/jobs", 503, retry_after="0.1")
    async with FakeApi(Knobs(refusals=[busy])) as api, client_of(api, on_wait=waits.append) as client:
        await client.submit("image", {"prompt": "a cat"})
    assert len(waits) == 1 and waits[0].delay_s >= 0.1


async def test_a_wait_beyond_the_bound_is_left_to_the_caller() -> None:
    busy = Refusal("POST", "/v1/jobs", 429, code="rate_limited", retry_after="60", times=9)
    async with FakeApi(Knobs(refusals=[busy])) as api, client_of(api) as client:
        with pytest.raises(ApiError) as caught:
            await client.submit("image", {"prompt": "a cat"})
        assert api.count("POST", "/v1/jobs") == 1
    assert (caught.value.code, caught.value.retry_after_s, caught.value.retryable) == ("rate_limited", 60, True)


async def test_repetitions_are_bounded() -> None:
    busy = Refusal("GET", "/v1/me", 503, times=99)
    async with FakeApi(Knobs(refusals=[busy])) as api, client_of(api) as client:
        with pytest.raises(ApiError):
            await client.me()
        assert api.count("GET", "/v1/me") == FAST.attempts


async def test_an_exhausted_quota_is_never_asked_again() -> None:
    empty = Refusal("POST", "/v1/jobs", 402, code="quota_exhausted", detail="Today's tokens are used up.")
    async with FakeApi(Knobs(refusals=[empty])) as api, client_of(api) as client:
        with pytest.raises(ApiError) as caught:
            await client.submit("image", {"prompt": "a cat"})
        assert caught.value.code == "quota_exhausted" and api.count("POST", "/v1/jobs") == 1


async def test_making_a_key_is_not_repeated_when_the_answer_was_lost() -> None:
    lost = Refusal("POST", "/v1/keys", 0, after=True)
    async with FakeApi(Knobs(refusals=[lost])) as api, client_of(api) as client:
        with pytest.raises(ConnectionFailed):
            await client.keys_create("laptop")
        assert len(api.keys) == 1


async def test_a_refused_field_is_named() -> None:
    async with FakeApi() as api, client_of(api) as client:
        with pytest.raises(ApiError) as caught:
            await client.submit("image", {"prompt": "a cat", "width": 9999})
    assert caught.value.details["errors"] == [{"field": "input.width", "message": "must be at most 4096"}]
    assert caught.value.request_id == "req_test"


async def test_a_server_that_is_not_there_is_a_sentence_that_helps() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, not listening: connections are refused
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        async with Client(url, API_KEY, retry=FAST) as client:
            with pytest.raises(ConnectionFailed, match=r"make up.*TESSERA_URL"):
                await client.me()


async def test_another_kind_of_server_is_recognised() -> None:
    page = Refusal("GET", "/v1/me", 200, body=b"<html>hello</html>")
    async with FakeApi(Knobs(refusals=[page])) as api, client_of(api) as client:
        with pytest.raises(BadAnswer, match="TESSERA_URL"):
            await client.me()


async def test_a_proxys_error_page_becomes_an_error_with_a_code() -> None:
    page = Refusal("DELETE", "/v1/keys/key_1", 502, body=b"<html>Bad Gateway</html>")
    async with FakeApi(Knobs(refusals=[page])) as api, client_of(api) as client:
        with pytest.raises(ApiError) as caught:
            await client.keys_revoke("key_1")
    assert caught.value.code == "http_502"


async def test_fields_of_a_newer_server_are_kept_and_harmless() -> None:
    async with FakeApi(Knobs(extra={"mood": "sunny", "tier": "platinum"})) as api, client_of(api) as client:
        job = await client.submit("image", {"prompt": "a cat"})
        assert job.dump()["mood"] == "sunny" and job.tier == "platinum"


async def test_the_key_and_the_person_travel_in_headers() -> None:
    async with FakeApi() as api, Client(api.url, API_KEY, "telegram:123") as client:
        await client.me()
        assert api.seen[-1].headers["Authorization"] == f"Bearer {API_KEY}"
        assert api.seen[-1].headers["Tessera-On-Behalf-Of"] == "telegram:123"


async def test_a_key_with_a_line_break_is_refused_before_it_is_sent() -> None:
    with pytest.raises(ClientError, match="Authorization"):
        Client("http://127.0.0.1:1", "tsr_a\r\nX: y")


async def test_an_id_with_slashes_stays_one_part_of_the_path() -> None:
    async with FakeApi() as api, client_of(api) as client:
        for strange in ("../keys", "a?b=c#d", "..", ""):
            with pytest.raises(ApiError) as caught:
                await client.get_job(strange)
            assert caught.value.status == 404


async def test_pages_of_jobs_follow_one_another() -> None:
    async with FakeApi() as api, client_of(api) as client:
        ids = [(await client.submit("image", {"prompt": str(n)})).id for n in range(3)]
        first = await client.list_jobs(limit=2)
        second = await client.list_jobs(limit=2, cursor=first.next_cursor)
        assert [job.id for job in (*first.data, *second.data)] == ids[::-1] and second.next_cursor is None


# Events


async def test_events_come_once_each_over_broken_lines() -> None:
    knobs = Knobs(cut_stream_after=[1, 2, 0, 3, 5], step_s=0.005)
    async with FakeApi(knobs) as api, client_of(api) as client:
        job = await client.submit("image", {"prompt": "a cat", "count": 3})
        interruptions: list[str] = []
        ids = await durable_ids(client, job.id, on_interruption=lambda i: interruptions.append(i.why))
        assert ids == [1, 2, 3, 4, 5, 6]
        assert api.streams >= 4 and len(interruptions) == api.streams - 1


async def test_events_sent_twice_are_given_out_once() -> None:
    knobs = Knobs(cut_stream_after=[2, 4], repeat_events=True, step_s=0.005)
    async with FakeApi(knobs) as api, client_of(api) as client:
        job = await client.submit("image", {"prompt": "a cat"})
        assert await durable_ids(client, job.id) == [1, 2, 3, 4]


async def test_a_stream_that_the_server_ends_early_is_opened_again() -> None:
    async with FakeApi(Knobs(end_stream_after=[2, 1], step_s=0.005)) as api, client_of(api) as client:
        job = await client.submit("image", {"prompt": "a cat"})
        assert await durable_ids(client, job.id) == [1, 2, 3, 4]


async def test_silence_without_heartbeats_is_a_broken_line() -> None:
    async with FakeApi(Knobs(silent=True)) as api, client_of(api) as client:
        job = await client.submit("image", {"prompt": "a cat"})
        assert await durable_ids(client, job.id, silence_s=0.1) == [1, 2, 3, 4]
        assert api.streams == 2


async def test_events_go_on_after_the_last_one_known() -> None:
    async with FakeApi() as api, client_of(api) as client:
        job = await client.run("image", {"prompt": "a cat"})
        assert await durable_ids(client, job.id, after=2) == [3, 4]


async def test_a_stream_after_the_final_event_ends_instead_of_waiting() -> None:
    async with FakeApi() as api, client_of(api) as client:
        job = await client.run("image", {"prompt": "a cat"})
        assert await durable_ids(client, job.id, after=4) == []
        assert api.streams == 2


async def test_a_busy_server_does_not_end_the_events() -> None:
    async with FakeApi() as api, client_of(api) as client:
        job = await client.submit("image", {"prompt": "a cat"})
        api.knobs.refusals.append(Refusal("GET", f"/v1/jobs/{job.id}/events", 503, retry_after="0.05", times=2))
        assert await durable_ids(client, job.id) == [1, 2, 3, 4]


async def test_events_of_an_unknown_job_are_refused_at_once() -> None:
    async with FakeApi() as api, client_of(api) as client:
        with pytest.raises(ApiError, match="Check the id"):
            await collect(client, "job_unknown")
        assert api.streams == 0


async def test_waiting_for_a_server_that_is_gone_ends() -> None:
    async with FakeApi(Knobs(hold=True)) as api, client_of(api) as client:
        job = await client.submit("image", {"prompt": "a cat"})

        async def stop() -> None:
            await asyncio.sleep(0.1)
            await api.__aexit__()

        task = asyncio.create_task(stop())
        with pytest.raises(ConnectionFailed):
            await collect(client, job.id, give_up_s=0.1)
        await task


async def test_text_is_put_together_once_over_broken_lines() -> None:
    async with FakeApi(Knobs(cut_stream_after=[8, 4, 3], step_s=0.005)) as api, client_of(api) as client:
        job = await client.submit("text", {"prompt": "Lisbon?"})
        so_far = TextSoFar()
        given = "".join([so_far.feed(event) for event in await collect(client, job.id)])
        assert given == ANSWER and api.streams >= 3


async def test_a_retry_voids_the_text_so_far() -> None:
    async with FakeApi(Knobs(retry_once=True)) as api, client_of(api) as client:
        job = await client.submit("text", {"prompt": "Lisbon?"})
        so_far = TextSoFar()
        for event in await collect(client, job.id):
            so_far.feed(event)
        assert so_far.text == ANSWER


def test_chunks_that_overlap_give_out_only_what_is_new() -> None:
    def chunk(offset: int, text: str, attempt: int = 1) -> Event:
        return Event(type="chunk", attempt=attempt, data={"offset": offset, "text": text})

    so_far = TextSoFar()
    assert so_far.feed(chunk(0, "one ")) == "one "
    assert so_far.feed(chunk(0, "one two")) == "two"
    assert so_far.feed(chunk(2, "e t")) == ""
    assert so_far.feed(chunk(99, "lost")) == ""
    assert so_far.finish("one two three") == " three"
    assert so_far.finish("another") is None
    assert so_far.feed(chunk(0, "new", attempt=2)) == "new"
    assert so_far.feed(chunk(3, "late", attempt=1)) == ""


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_sse_is_read_however_it_is_cut(size: int, end: str) -> None:
    lines = [": heartbeat", "", "id: 7", "event: queued", "data: {é", "data:b}", "", "data: x", "", "data: unfinished"]
    raw = end.join(lines).encode()
    parser = SseParser()
    found = [m for start in range(0, len(raw), size) for m in parser.feed(raw[start : start + size])]
    assert [(m.id, m.event, m.data) for m in found] == [("7", "queued", "{é\nb}"), (None, "", "x")]


# Files


async def test_a_download_goes_on_where_it_broke(tmp_path: Path) -> None:
    knobs = Knobs(cut_artifact_after=[1000, 1, 3000])
    async with FakeApi(knobs) as api, client_of(api) as client:
        content = bytes(range(256)) * 40
        api.add_file("image/png", content)
        steps: list[int] = []
        await client.download("art_01k" + "0" * 23, tmp_path / "a.png", lambda done, _: steps.append(done))
        assert (tmp_path / "a.png").read_bytes() == content
        assert [r.headers.get("Range") for r in api.seen] == [None, "bytes=1000-", "bytes=1001-", "bytes=4001-"]
        assert steps == sorted(steps) and steps[-1] == len(content)


async def test_a_download_goes_on_without_range_support(tmp_path: Path) -> None:
    async with FakeApi(Knobs(cut_artifact_after=[1000], ignore_range=True)) as api, client_of(api) as client:
        content = bytes(range(256)) * 40
        api.add_file("image/png", content)
        await client.download("art_01k" + "0" * 23, tmp_path / "a.png")
        assert (tmp_path / "a.png").read_bytes() == content


async def test_a_download_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    target = tmp_path / "a.png"
    target.write_bytes(b"before")
    async with FakeApi(Knobs(cut_artifact_after=[0] * 20)) as api, client_of(api) as client:
        api.add_file("image/png", b"x" * 100)
        with pytest.raises(ConnectionFailed):
            await client.download("art_01k" + "0" * 23, target)
    assert files_of(tmp_path) == ["a.png"] and target.read_bytes() == b"before"


async def test_an_upload_is_sent_anew_after_a_broken_line(tmp_path: Path) -> None:
    (tmp_path / "in.png").write_bytes(b"p" * 100_000)
    async with FakeApi(Knobs(refusals=[Refusal("POST", "/v1/uploads", 0)])) as api, client_of(api) as client:
        for source in (tmp_path / "in.png", b"p" * 100_000):
            upload = await client.upload(source)
            assert api.files[upload.id][1] == b"p" * 100_000


async def test_uploading_a_missing_file_is_no_matter_of_the_connection(tmp_path: Path) -> None:
    async with FakeApi() as api, client_of(api) as client:
        with pytest.raises(FileNotFoundError):
            await client.upload(tmp_path / "missing.png")
        assert api.seen == []


# The account


async def test_account_catalogue_and_administration() -> None:
    async with FakeApi() as api, client_of(api) as client:
        assert (await client.me()).quota.remaining_tokens == 300
        assert {m.kind for m in await client.models()} >= {"image", "music"}
        assert [p.id for p in await client.plans()] == ["free", "starter", "pro"]
        assert (await client.usage(days=7)).data[0].used_tokens == 12.75
        key = await client.keys_create("laptop", scopes=("jobs",), daily_cap_tokens=5)
        assert key.api_key == "tsr_new_secret" and "secret" not in repr(key)
        assert [k.id for k in await client.keys_list()] == [key.id]
        await client.keys_revoke(key.id)
        assert await client.keys_list() == ()
        user = await client.users_create("ada", "free")
        assert (await client.users_set_plan(user.id, "pro")).plan == "pro"
        assert [u.name for u in await client.users_list()] == ["operator", "ada"]


async def test_what_is_cancelled_says_what_was_refunded() -> None:
    async with FakeApi(Knobs(hold=True)) as api, client_of(api) as client:
        job = await client.submit("image", {"prompt": "a cat"})
        ended = await client.cancel(job.id)
        assert ended.state == "cancelled" and ended.error is not None and ended.error.refunded_tokens == 0.75


async def test_a_job_is_explained_while_it_waits_and_after() -> None:
    async with FakeApi(Knobs(hold=True)) as api, client_of(api) as client:
        job = await client.submit("image", {"prompt": "a cat"})
        waits = await client.explain(job.id)
        explanation_schemas.JobExplanation.model_validate(waits.dump())
        assert (waits.state, waits.position_in_tier, waits.ahead, waits.is_final) == ("queued", 2, {"pro": 2}, False)
        assert waits.reasons[0].code == WaitCode.AHEAD and waits.workers[0].slots is None
        await client.cancel(job.id)
        ended = await client.explain(job.id)
        assert ended.is_final and ended.refunded_tokens == 0.75 and ended.reasons == ()


async def test_the_fake_server_speaks_the_shapes_of_the_api() -> None:
    """Holds the fake against the models that document the real API; tests/integration/test_client.py asks that one."""
    async with FakeApi(Knobs(retry_once=True)) as api, client_of(api) as client:
        upload = await client.upload(b"picture")
        job = await client.submit("image", {"prompt": "a cat", "image": upload.id})
        schemas.Job.model_validate(job.dump())
        for event in await collect(client, job.id):
            schemas.Event.model_validate(event.dump())
            if event.type == "output":
                schemas.Artifact.model_validate(event.data)
        schemas.Job.model_validate((await client.get_job(job.id)).dump())
        explanation_schemas.JobExplanation.model_validate((await client.explain(job.id)).dump())
        api.knobs.outcome = "failed"
        schemas.Job.model_validate((await client.run("text", {"prompt": "hi"})).dump())
        schemas.JobPage.model_validate((await client.list_jobs()).dump())
        schemas.Upload.model_validate(upload.dump())
        schemas.Me.model_validate((await client.me()).dump())
        schemas.UsageDays.model_validate((await client.usage()).dump())
        schemas.NewKey.model_validate((await client.keys_create("laptop")).dump())
        schemas.NewUser.model_validate((await client.users_create("ada", "free")).dump())
        for found, shape in (
            (await client.models(), schemas.Model),
            (await client.plans(), schemas.Plan),
            (await client.keys_list(), schemas.Key),
            (await client.users_list(), schemas.UserAnswer),
            (await client.artifacts(job.id), schemas.Artifact),
        ):
            assert found
            for one in found:
                shape.model_validate(one.dump())
        with pytest.raises(ApiError) as caught:
            await client.get_job("job_unknown")
        assert caught.value.request_id


# Pure


def test_the_wait_before_a_repetition_grows_is_capped_and_ends() -> None:
    policy = RetryPolicy(attempts=5, base_s=1, cap_s=3, total_wait_s=100)

    def delay(tries: int, waited_s: float = 0, retry_after_s: float | None = None) -> float | None:
        return retry_delay_s(policy, tries=tries, waited_s=waited_s, retry_after_s=retry_after_s, jitter=1.0)

    assert [delay(n) for n in (1, 2, 3, 4, 5)] == [1, 2, 3, 3, None]
    assert delay(1, retry_after_s=7) == 7.25
    assert delay(1, waited_s=99.5) is None


@pytest.mark.parametrize(
    ("status", "repeatable", "again"),
    [
        (429, False, True),
        (503, False, True),
        (502, True, True),
        (502, False, False),
        (402, True, False),
        (500, True, False),
    ],
)
def test_only_what_promises_that_nothing_happened_is_repeated(status: int, repeatable: bool, again: bool) -> None:
    assert retryable_status(status, repeatable=repeatable) is again


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, ("http://127.0.0.1:8123", "tsr_stored")),
        ({"TESSERA_API_KEY": "tsr_mine"}, ("http://127.0.0.1:8123", "tsr_mine")),
        ({"TESSERA_URL": "http://localhost:8123/"}, ("http://localhost:8123/", "tsr_stored")),
        ({"TESSERA_URL": "https://elsewhere.example"}, ("https://elsewhere.example", None)),
    ],
)
def test_the_stored_key_goes_to_its_own_server_only(
    tmp_path: Path, environ: dict[str, str], expected: tuple[str, str | None]
) -> None:
    (tmp_path / "credentials.toml").write_text('url = "http://127.0.0.1:8123"\napi_key = "tsr_stored"\n')
    found = load_credentials(environ, tmp_path)
    assert (found.url, found.api_key) == expected
    assert "tsr_" not in repr(found)


def test_without_any_credentials_the_default_address_is_used(tmp_path: Path) -> None:
    assert load_credentials({}, tmp_path).url == "http://127.0.0.1:8000"


def test_unusable_credentials_are_explained(tmp_path: Path) -> None:
    (tmp_path / "credentials.toml").write_text("not toml")
    with pytest.raises(ClientError, match="tessera up"):
        load_credentials({}, tmp_path)
    with pytest.raises(ClientError, match="http://"):
        load_credentials({"TESSERA_URL": "localhost:8000"}, tmp_path / "none")


def test_a_job_is_shown_as_it_was_sent() -> None:
    sent = {
        "id": "job_1",
        "kind": "image",
        "state": "queued",
        "cost_tokens": 0.75,
        "created_at": "2026-01-05T12:00:00Z",
    }
    assert Job.model_validate(sent).dump() == sent

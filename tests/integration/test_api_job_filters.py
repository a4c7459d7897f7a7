"""Narrowing the list of jobs: each filter, all of them together, over pages, and what is refused."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

import pytest

from tessera.api.jobs import routes as jobs
from tessera.client import Client
from tessera.ids import Prefix, parse
from tests.integration.api_server import Api


async def listed(api: Api, query: str, key: str = "") -> list[str]:
    """The ids of all pages, of two jobs each."""
    found: list[str] = []
    cursor = ""
    while True:
        answer, page = await api.call("GET", f"/v1/jobs?limit=2&{query}{cursor}", key=key)
        assert answer.status == 200, page
        found += [job["id"] for job in page["data"]]
        if page["next_cursor"] is None:
            return found
        cursor = f"&cursor={page['next_cursor']}"


async def submit(api: Api, prompt: str, metadata: dict[str, Any] | None = None, kind: str = "text") -> str:
    wanted = {"kind": kind, "input": {"prompt": prompt}, "metadata": metadata or {}}
    answer, job = await api.call("POST", "/v1/jobs", json=wanted)
    assert answer.status == 202, job
    return str(job["id"])


async def test_several_states_are_listed_together(api: Api) -> None:
    queued, cancelled, running = [(await api.submit())["id"] for _ in range(3)]
    await api.call("POST", f"/v1/jobs/{cancelled}/cancel")
    await api.claim(running)
    assert await listed(api, "state=queued&state=running") == [running, queued]
    assert await listed(api, "state=cancelled&state=failed") == [cancelled]
    assert await listed(api, "state=completed") == []


async def test_jobs_are_found_by_when_they_were_made(api: Api) -> None:
    made = [(await api.submit())["id"] for _ in range(3)]
    now = datetime.now(UTC).replace(microsecond=0)
    for hours, job_id in enumerate(reversed(made), start=1):
        at = now - timedelta(hours=hours)
        await api.sql.execute("UPDATE jobs SET created_at = $2 WHERE id = $1", parse(Prefix.JOB, job_id), at)
    first, second, third = made
    border = (now - timedelta(hours=2)).isoformat()
    assert await listed(api, f"created_after={quote(border)}") == [third]
    assert await listed(api, f"created_before={quote(border)}") == [first]
    assert await listed(api, f"created_after={border}") == [third], "a plus sign that nobody encoded"
    recent = quote((now - timedelta(hours=2, minutes=1)).isoformat())
    assert await listed(api, f"created_after={recent}") == [third, second]
    assert await listed(api, f"created_after={recent}&created_before={quote(border)}") == []


async def test_jobs_are_found_by_what_is_in_their_metadata(api: Api) -> None:
    one = await submit(api, "a", {"order": "17", "shop": "north"})
    two = await submit(api, "b", {"order": 17, "paid": True, "nothing": None})
    await submit(api, "c", {"deep": {"order": 17}, "orders": [17]})
    assert await listed(api, "metadata.order=17") == [two, one]
    assert await listed(api, "metadata.order=17&metadata.shop=north") == [one]
    assert await listed(api, "metadata.paid=true") == [two]
    assert await listed(api, "metadata.nothing=null") == [two]
    for query in ("metadata.order=1", "metadata.shop=NORTH", "metadata.order=17&metadata.shop=south", "metadata.x="):
        assert await listed(api, query) == [], query


async def test_jobs_are_found_by_what_a_person_wrote(api: Api) -> None:
    fox = await submit(api, "A red FOX in the snow", kind="image")
    spoken = (await api.submit("speech", text="The foxes are asleep."))["id"]
    chat = (
        await api.submit("text", messages=[{"role": "user", "content": "Hi"}, {"role": "user", "content": "Any fox?"}])
    )["id"]
    other = await submit(api, "100% of É_a")
    assert await listed(api, "q=fox") == [chat, spoken, fox]
    assert await listed(api, "q=Red%20Fox") == [fox]
    assert await listed(api, "q=fox&kind=image") == [fox]
    assert await listed(api, "q=role") == [], "only what was said, not how it is stored"
    assert await listed(api, f"q={quote('100%')}") == [other]
    assert await listed(api, f"q={quote('é_A')}") == [other]
    assert await listed(api, "q=f_x") == []


async def test_a_search_goes_on_where_the_page_before_stopped_looking(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "SCANNED", 3)
    made = [await submit(api, "a fox" if number % 4 == 0 else "a dog", {"n": number % 4}) for number in range(9)]
    expected = [made[8], made[4], made[0]]
    assert await listed(api, "q=fox") == expected
    assert await listed(api, "metadata.n=0") == expected
    assert await listed(api, "q=cat") == []
    async with Client(api.url, api.key) as client:
        page = await client.list_jobs(text="cat")
        assert page.data == () and page.next_cursor is not None


async def test_nobody_finds_the_jobs_of_another(api: Api) -> None:
    await submit(api, "a fox", {"order": "17"})
    stranger = await api.add_key()
    for query in ("q=fox", "metadata.order=17", "state=queued"):
        assert await listed(api, query, stranger) == []


async def test_wrong_filters_are_422_and_named(api: Api) -> None:
    for query, name in (
        ("state=waiting", "state.0"),
        ("state=queued&state=x", "state.1"),
        ("kind=poem", "kind"),
        ("created_after=yesterday", "created_after"),
        ("created_before=2030-01-31T12:00:00", "created_before"),
        ("created_before=2030-01-31", "created_before"),
        ("q=", "q"),
        (f"q={'x' * 201}", "q"),
        ("q=%00", "q"),
        ("metadata.=x", "metadata."),
        ("metadata.a=%00", "metadata.a"),
        (f"metadata.{'k' * 65}=x", f"metadata.{'k' * 55}"),
        (f"metadata.a={'x' * 201}", "metadata.a"),
        ("&".join(f"metadata.k{number}=x" for number in range(6)), "metadata"),
        ("cursor=nonsense", "cursor"),
    ):
        answer, problem = await api.call("GET", f"/v1/jobs?{query}")
        assert (answer.status, problem["code"]) == (422, "invalid_input"), query
        assert [error["field"] for error in problem["errors"]] == [name]


async def test_the_client_narrows_the_list(api: Api) -> None:
    job_id = await submit(api, "a fox", {"order": "17"})
    await submit(api, "a dog")
    now = datetime.now(UTC)
    async with Client(api.url, api.key) as client:
        for asked in (
            {"text": "FOX"},
            {"metadata": {"order": "17"}},
            {"text": "fox", "state": ["queued", "running"], "kind": "text", "model": "preview-text"},
            {"text": "fox", "state": "queued", "created_after": now - timedelta(hours=1)},
        ):
            assert [job.id for job in (await client.list_jobs(**asked)).data] == [job_id], asked
        assert (await client.list_jobs(created_before=now - timedelta(hours=1))).data == ()

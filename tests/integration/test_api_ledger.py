"""One's own ledger over HTTP: every booking, in pages, and nobody else's."""

from __future__ import annotations

from datetime import date
from typing import Any

from tessera.api.schemas.ledger import LedgerPage
from tessera.client import Client
from tests.integration.api_server import Api


async def entries(api: Api, query: str = "", key: str = "") -> list[dict[str, Any]]:
    answer, shown = await api.call("GET", f"/v1/ledger{query}", key=key)
    assert answer.status == 200, shown
    LedgerPage.model_validate(shown)
    return list(shown["data"])


async def test_what_a_job_held_and_gave_back_is_told_the_newest_first(api: Api) -> None:
    done = await api.submit("image", prompt="a fox")
    await api.complete(done["id"], b"picture")
    gone = await api.submit("image", prompt="a fox", width=512)
    await api.call("POST", gone["urls"]["cancel"])
    found = await entries(api)
    assert [(e["entry"], e["amount_tokens"], e["job_id"], e["kind"]) for e in found] == [
        ("refund", -0.5, gone["id"], "image"),
        ("hold", 0.5, gone["id"], "image"),
        ("settlement", 0, done["id"], "image"),
        ("hold", 1, done["id"], "image"),
    ]
    _, usage = await api.call("GET", "/v1/usage")
    assert sum(e["amount_tokens"] for e in found) == usage["today"]["used_tokens"]


async def test_the_ledger_comes_in_pages(api: Api) -> None:
    for _ in range(5):
        await api.submit()
    every = [entry["id"] for entry in await entries(api)]
    found: list[int] = []
    cursor = ""
    while True:
        _, shown = await api.call("GET", f"/v1/ledger?limit=2{cursor}")
        found += [entry["id"] for entry in shown["data"]]
        if shown["next_cursor"] is None:
            break
        cursor = f"&cursor={shown['next_cursor']}"
    assert (found, len(found)) == (every, 5)


async def test_the_ledger_can_be_narrowed_to_a_job_and_a_day(api: Api) -> None:
    first, second = await api.submit(), await api.submit()
    await api.call("POST", first["urls"]["cancel"])
    assert [e["entry"] for e in await entries(api, f"?job_id={first['id']}")] == ["refund", "hold"]
    assert [e["entry"] for e in await entries(api, f"?job_id={second['id']}&limit=1")] == ["hold"]
    today = (await entries(api))[0]["day"]
    assert len(await entries(api, f"?day={today}")) == 3
    assert await entries(api, "?day=2000-01-01") == []
    assert len(await entries(api, f"?day={today}&job_id={first['id']}")) == 2


async def test_what_an_operator_gave_is_there_with_its_reason(api: Api) -> None:
    row = {"user_id": str(api.user_id), "kind": "account", "entry": "grant", "amount_mt": -2000, "reason": "a bad day"}
    await api.sql.execute(
        "SELECT book(jsonb_build_array($1::jsonb || jsonb_build_object('day', utc_day(now()))), now())", row
    )
    (found,) = await entries(api)
    assert (found["kind"], found["entry"], found["amount_tokens"], found["reason"]) == (
        "account",
        "grant",
        -2,
        "a bad day",
    )
    assert "job_id" not in found


async def test_a_pruned_jobs_entries_stay(api: Api) -> None:
    job = await api.submit()
    await api.call("POST", job["urls"]["cancel"])
    await api.sql.execute("DELETE FROM jobs")
    assert len(await entries(api, f"?job_id={job['id']}")) == 2


async def test_wrong_parameters_are_422_and_named(api: Api) -> None:
    for query, name in (
        ("day=tomorrow", "day"),
        ("job_id=nonsense", "job_id"),
        ("cursor=job_00000000000000000000000000", "cursor"),
        ("cursor=99999999999999999999", "cursor"),
        ("limit=0", "limit"),
        ("limit=101", "limit"),
    ):
        answer, problem = await api.call("GET", f"/v1/ledger?{query}")
        assert (answer.status, problem["code"]) == (422, "invalid_input"), query
        assert [error["field"] for error in problem["errors"]] == [name]


async def test_nobody_reads_the_ledger_of_another(api: Api) -> None:
    job = await api.submit()
    stranger = await api.add_key()
    assert await entries(api, key=stranger) == []
    assert await entries(api, f"?job_id={job['id']}", key=stranger) == []
    assert (await api.call("GET", "/v1/ledger", key=None))[0].status == 401
    assert len(await entries(api, key=await api.add_key(user_id=api.user_id, scopes=["read"]))) == 1


async def test_the_client_reads_the_ledger(api: Api) -> None:
    job = await api.submit()
    async with Client(api.url, api.key) as client:
        found = await client.ledger(job_id=job["id"], limit=5)
        assert [(entry.entry, entry.job_id) for entry in found.data] == [("hold", job["id"])]
        assert (await client.ledger(day=date(2000, 1, 1))).data == ()

"""Identities of one person: link codes, two accounts that become one, and an identity that leaves again."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest

from tessera.ids import Prefix, new_id, parse, show
from tests.integration.api_server import Api, Events
from tests.integration.people import Person, balanced, service_key

CODES, LINK, LIST = "/v1/identities/link-codes", "/v1/identities/link", "/v1/identities"


@pytest.fixture
async def bot(api: Api) -> str:
    return await service_key(api)


async def code_of(person: Person) -> str:
    answer, made = await person.call("POST", CODES)
    assert answer.status == 201, made
    assert answer.headers["Cache-Control"] == "no-store"
    return str(made["code"])


async def link(into: Person, other: Person) -> dict[str, Any]:
    answer, linked = await other.call("POST", LINK, json={"code": await code_of(into)})
    assert answer.status == 200, linked
    return dict(linked)


def user_id(me: dict[str, Any]) -> UUID:
    return parse(Prefix.USER, me["id"])


async def test_two_accounts_become_one_with_everything_of_both(api: Api, bot: str) -> None:
    ada, other = Person(api, bot, "telegram:1"), Person(api, bot, "discord:2")
    before, gone = await ada.get("/v1/me"), await other.get("/v1/me")
    _, made = await other.call("POST", "/v1/keys", json={"name": "script"})
    done = await other.submit("image", prompt="a fox")
    artifact = await api.complete(done["id"], b"bytes")
    waiting = await other.submit("text", prompt="hello")
    running = await other.submit("speech", text="good morning")
    await api.sql.execute("UPDATE users SET max_running = 2 WHERE id = $1", user_id(gone))
    attempt = await api.claim(running["id"])
    own = await ada.submit("image", prompt="a cat")
    await other.call("PATCH", "/v1/me/settings", json={"ratio": "1:1", "language": "de"})
    await ada.call("PATCH", "/v1/me/settings", json={"ratio": "16:9"})
    used = [(await person.get("/v1/me"))["quota"]["used_tokens"] for person in (ada, other)]

    linked = await link(ada, other)
    assert (linked["user_id"], linked["merged_user_id"]) == (before["id"], gone["id"])
    assert [identity["identity"] for identity in linked["identities"]] == ["telegram:1", "discord:2"]
    for person in (ada, other):
        me = await person.get("/v1/me")
        assert me["id"] == before["id"]
        assert me["quota"]["used_tokens"] == pytest.approx(sum(used))
        assert me["jobs"] == {"queued": 2, "running": 1}
        assert {job["id"] for job in (await person.get("/v1/jobs"))["data"]} == {
            job["id"] for job in (done, waiting, running, own)
        }
        assert (await person.get(LIST))["data"] == linked["identities"]
        assert await person.get("/v1/me/settings") == {"settings": {"ratio": "16:9", "language": "de"}}
        answer, _ = await person.call("GET", f"/v1/artifacts/{show(Prefix.ARTIFACT, UUID(artifact))}")
        assert answer.status == 200
    _, by_key = await api.call("GET", "/v1/me", key=made["api_key"])
    assert by_key["id"] == before["id"]
    await balanced(api)

    # What runs goes on and is settled where the job is now; the days add up to what the ledger says.
    await api.finish(running["id"], attempt, "failed", error={"code": "stuck", "message": "…"})
    assert (await ada.get(f"/v1/jobs/{running['id']}"))["state"] == "failed"
    answer, _ = await ada.call("POST", f"/v1/jobs/{waiting['id']}/cancel")
    assert answer.status == 200
    usage = await ada.get("/v1/usage")
    assert usage["today"]["used_tokens"] == sum(day["used_tokens"] for day in usage["data"]) == 2
    assert sum(day["jobs"] for day in usage["data"]) == 4
    entries = (await ada.get("/v1/ledger?limit=100"))["data"]
    assert sum(entry["amount_tokens"] for entry in entries) == pytest.approx(2)
    assert {entry["job_id"] for entry in entries if entry["entry"] == "hold"} == {
        job["id"] for job in (done, waiting, running, own)
    }
    assert (await ada.get(f"/v1/ledger?job_id={done['id']}"))["data"]
    await balanced(api)


async def test_quota_of_both_is_used_up_together(api: Api, bot: str) -> None:
    ada, other = Person(api, bot, "telegram:1"), Person(api, bot, "discord:2")
    for person in (ada, other):
        await person.submit("image", prompt="a fox", count=4)
        await person.submit("image", prompt="a fox", count=4)
    await link(ada, other)
    await ada.submit("image", prompt="a fox", count=4)
    answer, problem = await other.call(
        "POST", "/v1/jobs", json={"kind": "image", "input": {"prompt": "a fox", "count": 1}}
    )
    assert (answer.status, problem["code"], problem["remaining_tokens"]) == (402, "quota_exhausted", 0)
    await balanced(api)


async def test_the_better_plan_and_the_better_limits_win_but_a_restriction_stays(api: Api, bot: str) -> None:
    ada, other = Person(api, bot, "telegram:1"), Person(api, bot, "discord:2")
    theirs = user_id(await other.get("/v1/me"))
    assert await api.sql.fetchval("SELECT change_plan($1, 'pro', 'op', 's', $2)", theirs, new_id()) == "changed"
    await api.sql.execute("UPDATE users SET max_running = 9, max_queued = 3, daily_mt = 400000 WHERE id = $1", theirs)
    mine = user_id(await ada.get("/v1/me"))
    waiting = await ada.submit("text", prompt="hello")
    assert (await link(ada, other))["plan"] == "pro"
    me = await ada.get("/v1/me")
    assert (me["plan"], me["tier"], me["quota"]["daily_tokens"]) == ("pro", "pro", 400)
    row = await api.sql.fetchrow("SELECT * FROM user_limits WHERE user_id = $1", mine)
    assert (row["max_running"], row["max_queued"], row["max_video_s"]) == (9, 3, 16)
    assert (await ada.get(f"/v1/jobs/{waiting['id']}"))["tier"] == "pro"
    assert await api.sql.fetchval("SELECT count(*) FROM grants WHERE user_id = $1", mine) == 1
    told = await api.sql.fetch("SELECT type, user_id FROM job_events WHERE job_seq IS NULL")
    assert [tuple(row) for row in told] == [("owner_changed", mine)]


async def test_a_code_works_once_in_any_spelling_and_not_for_its_own_account(api: Api, bot: str) -> None:
    ada, bob, eve = (Person(api, bot, f"telegram:{n}") for n in (1, 2, 3))
    code = await code_of(ada)
    stored = await api.sql.fetchval("SELECT link_codes::text FROM link_codes")
    assert code not in stored and code.encode().hex() not in stored
    answer, problem = await ada.call("POST", LINK, json={"code": code})
    assert (answer.status, problem["code"]) == (409, "conflict")
    answer, _ = await bob.call("POST", LINK, json={"code": code.lower().replace("-", " ").replace("0", "o")})
    assert answer.status == 200
    for wrong in (code, "K7QM-2F9X", "", "?", "x" * 9000, "\x00"):
        answer, problem = await eve.call("POST", LINK, json={"code": wrong})
        assert (answer.status, problem["errors"][0]["field"]) == (422, "code"), wrong
    for body in ({}, {"code": 5}, {"code": code, "more": 1}):
        assert (await eve.call("POST", LINK, json=body))[0].status == 422
    second = await code_of(ada)
    third = await code_of(bob)  # the same account by now: it replaces the second
    assert (await eve.call("POST", LINK, json={"code": second}))[0].status == 422
    assert (await eve.call("POST", LINK, json={"code": third}))[0].status == 200
    assert len((await eve.get(LIST))["data"]) == 3


async def test_a_code_expires(api: Api, bot: str) -> None:
    ada, bob = Person(api, bot, "telegram:1"), Person(api, bot, "telegram:2")
    _, made = await ada.call("POST", CODES)
    left = datetime.fromisoformat(made["expires_at"]) - datetime.now(UTC)
    assert 500 < left.total_seconds() <= 601
    await api.sql.execute("UPDATE link_codes SET expires_at = now()")
    assert (await bob.call("POST", LINK, json={"code": made["code"]}))[0].status == 422


async def test_guessing_codes_is_limited_by_person(api: Api, bot: str) -> None:
    ada, eve = Person(api, bot, "telegram:1"), Person(api, bot, "telegram:2")
    code = await code_of(ada)
    statuses = [(await eve.call("POST", LINK, json={"code": f"AAAA-AA{n:02}"}))[0].status for n in range(12)]
    assert statuses == [422] * 10 + [429] * 2
    answer, problem = await eve.call("POST", LINK, json={"code": code})
    assert (answer.status, problem["code"]) == (429, "rate_limited")
    assert 0 < int(answer.headers["Retry-After"]) <= 60
    assert (await Person(api, bot, "telegram:3").call("POST", LINK, json={"code": code}))[0].status == 200


async def test_one_code_redeemed_by_two_at_once_merges_one(api: Api, bot: str) -> None:
    ada, bob, eve = (Person(api, bot, f"telegram:{n}") for n in (1, 2, 3))
    code = await code_of(ada)
    for person in (bob, eve):
        await person.get("/v1/me")
    answers = await asyncio.gather(*(person.call("POST", LINK, json={"code": code}) for person in (bob, eve)))
    assert sorted(answer.status for answer, _ in answers) == [200, 422]
    assert await api.sql.fetchval("SELECT count(*) FROM users WHERE merged_into IS NOT NULL") == 1
    await balanced(api)


async def test_two_who_redeem_each_others_code_become_one_account(api: Api, bot: str) -> None:
    for number in range(5):
        ada, bob = Person(api, bot, f"telegram:{number * 2 + 1}"), Person(api, bot, f"telegram:{number * 2 + 2}")
        codes = [await code_of(ada), await code_of(bob)]
        answers = await asyncio.gather(
            ada.call("POST", LINK, json={"code": codes[1]}), bob.call("POST", LINK, json={"code": codes[0]})
        )
        # Who comes second finds the own code, or none, in an account that is the other's by now.
        assert sorted(answer.status for answer, _ in answers)[0] == 200
        assert {answer.status for answer, _ in answers} <= {200, 409, 422}
        assert (await ada.get("/v1/me"))["id"] == (await bob.get("/v1/me"))["id"]
        assert len((await ada.get(LIST))["data"]) == 2
    await balanced(api)


async def test_the_accounts_of_operators_and_of_the_banned_stay_by_themselves(api: Api, bot: str) -> None:
    ada, boss = Person(api, bot, "telegram:1"), Person(api, bot, "telegram:2")
    await api.sql.execute("UPDATE users SET is_admin = true WHERE id = $1", user_id(await boss.get("/v1/me")))
    answer, problem = await ada.call("POST", LINK, json={"code": await code_of(boss)})
    assert answer.status == 409
    assert "operator" in problem["detail"]
    eve = Person(api, bot, "telegram:3")
    code = await code_of(eve)
    await api.sql.execute("UPDATE users SET banned_at = now() WHERE id = $1", user_id(await eve.get("/v1/me")))
    assert (await ada.call("POST", LINK, json={"code": code}))[0].status == 409
    assert await api.sql.fetchval("SELECT count(*) FROM users WHERE merged_into IS NOT NULL") == 0


async def test_an_account_of_an_api_key_takes_an_identity_in(api: Api, bot: str) -> None:
    ada = Person(api, bot, "telegram:1")
    await ada.submit("text", prompt="hello")
    answer, made = await api.call("POST", CODES)
    assert answer.status == 201
    assert (await ada.call("POST", LINK, json={"code": made["code"]}))[0].status == 200
    assert user_id(await ada.get("/v1/me")) == api.user_id
    look = await api.add_key(user_id=api.user_id, scopes=["read"])
    assert (await api.call("GET", LIST, key=look))[1]["data"][0]["identity"] == "telegram:1"
    for method, path in (("POST", CODES), ("POST", LINK), ("DELETE", f"{LIST}/telegram:1")):
        assert (await api.call(method, path, key=look, json={}))[0].status == 403
        assert (await api.call(method, path, key=None, json={}))[0].status == 401
    assert (await api.call("GET", LIST, key=None))[0].status == 401


async def test_a_stream_of_a_merged_account_ends_and_goes_on_as_the_other(api: Api, bot: str) -> None:
    ada, other = Person(api, bot, "telegram:1"), Person(api, bot, "discord:2")
    job = await other.submit("text", prompt="hello")
    headers = {"Authorization": f"Bearer {bot}", "Tessera-On-Behalf-Of": "discord:2"}
    async with api.http.get(f"{api.url}/v1/events?last_event_id=0", headers=headers) as stream:
        events = Events(stream)
        first = await events.until("queued")
        await link(ada, other)
        assert await events.rest() == []
    async with api.http.get(f"{api.url}/v1/events?last_event_id={first['id']}", headers=headers) as stream:
        await api.complete(job["id"])
        assert (await Events(stream).until("completed"))["data"]["job_id"] == job["id"]


async def test_unlinking_gives_no_second_quota_and_takes_nothing_away(api: Api, bot: str) -> None:
    ada, other = Person(api, bot, "telegram:1"), Person(api, bot, "discord:2")
    await link(ada, other)
    job = await ada.submit("image", prompt="a fox", count=4)
    assert (await other.call("DELETE", f"{LIST}/discord:2"))[0].status == 204
    me = await ada.get("/v1/me")
    assert me["quota"]["used_tokens"] == 4
    assert [identity["identity"] for identity in (await ada.get(LIST))["data"]] == ["telegram:1"]
    new = await other.get("/v1/me")
    assert new["id"] != me["id"]
    assert new["quota"]["used_tokens"] == 4
    assert (await other.call("GET", f"/v1/jobs/{job['id']}"))[0].status == 404
    answer, problem = await ada.call("DELETE", f"{LIST}/telegram:1")
    assert (answer.status, problem["code"]) == (409, "conflict")
    for foreign in ("discord:2", "telegram:9", "nonsense", "telegram:01"):
        assert (await ada.call("DELETE", f"{LIST}/{foreign}"))[0].status == 404, foreign
    await balanced(api)


async def test_unlinked_and_linked_again_what_was_used_counts_once(api: Api, bot: str) -> None:
    ada, other = Person(api, bot, "telegram:1"), Person(api, bot, "discord:2")
    await link(ada, other)
    await ada.submit("image", prompt="a fox", count=4)
    for turn in range(3):
        assert (await other.call("DELETE", f"{LIST}/discord:2"))[0].status == 204
        await other.submit("image", prompt="a fox")
        first, second = (ada, other) if turn % 2 else (other, ada)
        await link(first, second)
        assert (await ada.get("/v1/me"))["quota"]["used_tokens"] == 5 + turn
        await balanced(api)


async def test_an_id_is_shown_by_the_database_as_by_the_api(api: Api) -> None:
    for identifier in (new_id(), api.user_id, UUID("ffffffff-ffff-ffff-ffff-ffffffffffff"), UUID("0" * 32)):
        assert await api.sql.fetchval("SELECT show_id('user', $1)", identifier) == show(Prefix.USER, identifier)


async def test_every_table_that_names_a_user_is_moved_by_a_merge_or_stays_for_a_reason(api: Api) -> None:
    """A new table with a user must say in merge_users what becomes of it."""
    found = await api.sql.fetch(
        """SELECT r.conrelid::regclass::text AS name FROM pg_constraint r
           WHERE r.contype = 'f' AND r.confrelid = 'users'::regclass"""
    )
    source = await api.sql.fetchval("SELECT prosrc FROM pg_proc WHERE proname = 'merge_users'")
    stays = {
        "token_ledger",  # append-only: adjustments bring its sums over
        "usage_daily",  # its projection
        "user_state",  # emptied
        "link_codes",  # deleted by redeem_link_code
        "users",
    }
    for table in {row["name"] for row in found} - stays:
        assert f"UPDATE {table} " in source or f"FROM {table} " in source, table

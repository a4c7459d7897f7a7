"""Taking one's data along, and leaving: what is erased, what stays, and that no quota comes back with it."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tessera.client import ApiError, Client
from tessera.ids import Prefix, parse
from tessera.scheduler.maintenance import (
    erase_deleted,
    prune_carried_use,
    prune_former_identities,
    prune_link_codes,
    prune_link_tries,
)
from tests.integration.api_server import Api
from tests.integration.people import Person, balanced, service_key
from tests.integration.test_api_linking import code_of, link

SECRET_WORD = "rumpelstiltskin"


@pytest.fixture
async def bot(api: Api) -> str:
    return await service_key(api)


async def delete(person: Person) -> tuple[aiohttp.ClientResponse, Any]:
    me = await person.get("/v1/me")
    return await person.call("DELETE", f"/v1/me?confirm={me['id']}")


async def everything(api: Api) -> str:
    """All rows of all tables, as text."""
    tables = await api.sql.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    rows = [
        row["text"]
        for table in tables
        for row in await api.sql.fetch(f"SELECT t::text AS text FROM {table['tablename']} t")
    ]
    return "\n".join(rows)


async def test_a_deleted_account_leaves_no_word_no_file_and_no_name(api: Api, bot: str) -> None:
    ada, other = Person(api, bot, "telegram:424242"), Person(api, bot, "discord:434343")
    resolved = {"identity": "telegram:424242", "display_name": SECRET_WORD, "locale": "de"}
    assert (await api.call("POST", "/v1/internal/identities:resolve", key=bot, json=resolved))[0].status == 201
    await link(ada, other)
    await ada.call("PATCH", "/v1/me/settings", json={"wish": SECRET_WORD})
    _, made = await ada.call("POST", "/v1/keys", json={"name": SECRET_WORD})
    picture = await ada.submit("image", prompt=SECRET_WORD)
    await api.complete(picture["id"], b"bytes")
    text = await ada.submit("text", prompt=SECRET_WORD)
    await api.sql.execute("UPDATE users SET max_running = 2 WHERE deleted_at IS NULL")
    attempt = await api.claim(text["id"])
    await api.finish(text["id"], attempt, output={"text": SECRET_WORD})
    failed = await ada.submit("text", prompt=SECRET_WORD)
    await api.finish(
        failed["id"], await api.claim(failed["id"]), "failed", error={"code": "stuck", "message": SECRET_WORD}
    )
    running = await ada.submit("text", prompt=SECRET_WORD)
    attempt = await api.claim(running["id"])
    waiting = [await ada.submit("text", prompt=SECRET_WORD) for _ in range(3)]
    form = aiohttp.FormData()
    form.add_field("file", (Path(__file__).parents[2] / "docs/images/lighthouse.png").read_bytes(), filename="a.png")
    assert (await ada.call("POST", "/v1/uploads", data=form))[0].status == 201
    me = await ada.get("/v1/me")

    answer, deleted = await delete(ada)
    assert (answer.status, deleted) == (200, {"id": me["id"], "deleted": True})
    states = await api.sql.fetch("SELECT id, state FROM jobs")
    by_id = {row["id"]: row["state"] for row in states}
    assert {by_id[parse(Prefix.JOB, job["id"])] for job in waiting} == {"cancelled"}
    assert await api.sql.fetchval("SELECT cancel_requested_at FROM jobs WHERE state = 'running'") is not None
    assert (await api.call("GET", "/v1/me", key=made["api_key"]))[0].status == 401
    await balanced(api)

    # What ran is done before it heard of its cancel: that, too, is erased.
    await api.finish(running["id"], attempt, output={"text": SECRET_WORD})
    assert await erase_deleted(api.services.db, datetime.now(UTC)) == 1
    assert await erase_deleted(api.services.db, datetime.now(UTC)) == 0
    left = await everything(api)
    for gone in (SECRET_WORD, "424242", "434343"):
        assert gone not in left
    assert await api.sql.fetchval("SELECT count(*) FROM artifacts WHERE deleted_at IS NULL") == 0
    assert await api.sql.fetchval("SELECT count(*) FROM uploads WHERE deleted_at IS NULL") == 0
    assert await api.sql.fetchval("SELECT count(*) FROM token_ledger") > 6
    await balanced(api)


async def test_who_comes_back_the_same_day_has_no_new_quota_and_the_next_day_has(api: Api, bot: str) -> None:
    ada, other = Person(api, bot, "telegram:1"), Person(api, bot, "discord:2")
    await link(ada, other)
    old = (await ada.get("/v1/me"))["id"]
    for _ in range(4):
        await api.complete((await ada.submit("image", prompt="a fox", count=4))["id"])
    await ada.submit("image", prompt="a fox", count=4)  # waits: its hold is given back
    assert (await delete(ada))[0].status == 200
    for person in (ada, other):
        me = await person.get("/v1/me")
        assert me["id"] != old
        assert me["quota"]["remaining_tokens"] == 4
        answer, problem = await person.call(
            "POST", "/v1/jobs", json={"kind": "image", "input": {"prompt": "x", "count": 5}}
        )
        assert answer.status in (402, 422), problem
    answer, _ = await ada.call("POST", "/v1/jobs", json={"kind": "image", "input": {"prompt": "x", "count": 4}})
    assert answer.status == 202
    assert (await ada.call("POST", "/v1/jobs", json={"kind": "text", "input": {"prompt": "x"}}))[0].status == 402
    await balanced(api)
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    assert await prune_former_identities(api.services.db, tomorrow) == 2
    assert await prune_carried_use(api.services.db, tomorrow) == 2
    assert await prune_former_identities(api.services.db, datetime.now(UTC)) == 0


async def test_deleting_again_and_again_within_a_day_never_gives_more(api: Api, bot: str) -> None:
    ada = Person(api, bot, "telegram:1")
    accepted = 0
    for _ in range(4):
        while True:
            answer, job = await ada.call(
                "POST", "/v1/jobs", json={"kind": "image", "input": {"prompt": "x", "count": 4}}
            )
            if answer.status != 202:
                break
            await api.complete(job["id"])
            accepted += 4
        assert (await delete(ada))[0].status == 200
    assert accepted == 20
    await balanced(api)


async def test_deletion_needs_the_own_id_and_the_right_scope(api: Api, bot: str) -> None:
    ada, bob = Person(api, bot, "telegram:1"), Person(api, bot, "telegram:2")
    theirs = (await bob.get("/v1/me"))["id"]
    for query in ("", "?confirm=", "?confirm=yes", f"?confirm={theirs}"):
        answer, problem = await ada.call("DELETE", f"/v1/me{query}")
        assert (answer.status, problem["errors"][0]["field"]) == (422, "confirm")
    look = await api.add_key(user_id=api.user_id, scopes=["read"])
    assert (await api.call("DELETE", "/v1/me", key=look))[0].status == 403
    assert (await api.call("DELETE", "/v1/me", key=None))[0].status == 401
    operator = await api.add_key(user_id=await api.add_user(is_admin=True), scopes=["jobs", "admin"])
    _, me = await api.call("GET", "/v1/me", key=operator)
    answer, problem = await api.call("DELETE", f"/v1/me?confirm={me['id']}", key=operator)
    assert (answer.status, problem["code"]) == (409, "conflict")


async def test_an_operator_deletes_a_banned_user_whose_ban_goes_on(api: Api, bot: str) -> None:
    operator = await api.add_key(user_id=await api.add_user(is_admin=True), scopes=["admin"])
    ada = Person(api, bot, "telegram:1")
    me = await ada.get("/v1/me")
    await api.sql.execute(
        "UPDATE users SET banned_at = now(), ban_reason = 'spam' WHERE id = $1", parse(Prefix.USER, me["id"])
    )
    path = f"/v1/admin/users/{me['id']}"
    assert (await api.call("DELETE", path))[0].status == 403
    assert (await api.call("DELETE", path, key=None))[0].status == 401
    answer, deleted = await api.call("DELETE", path, key=operator)
    assert (answer.status, deleted) == (200, {"id": me["id"], "deleted": True})
    for gone in (path, "/v1/admin/users/user_00000000000000000000000000", "/v1/admin/users/nonsense"):
        assert (await api.call("DELETE", gone, key=operator))[0].status == 404
    async with asyncio.timeout(20):
        # The ban was written behind the server's back, so it forgets the person by its clock.
        while (await ada.call("GET", "/v1/me"))[0].status == 200:  # noqa: ASYNC110
            await asyncio.sleep(0.1)
    answer, problem = await ada.call("GET", "/v1/me")
    assert answer.status == 403
    assert "spam" in problem["detail"]
    assert await prune_former_identities(api.services.db, datetime.now(UTC) + timedelta(days=9)) == 0
    row = await api.sql.fetchrow("SELECT actor, action, subject FROM audit_log ORDER BY id DESC LIMIT 1")
    assert (row["action"], row["subject"]) == ("delete_account", me["id"])
    await balanced(api)


async def test_submissions_that_race_with_a_deletion_are_refused_or_erased(api: Api, bot: str) -> None:
    ada = Person(api, bot, "telegram:1")
    me = await ada.get("/v1/me")
    body = {"kind": "text", "input": {"prompt": SECRET_WORD}}
    answers = await asyncio.gather(
        *(ada.call("POST", "/v1/jobs", json=body) for _ in range(10)),
        ada.call("DELETE", f"/v1/me?confirm={me['id']}"),
        *(ada.call("POST", "/v1/jobs", json=body) for _ in range(10)),
    )
    assert {answer.status for answer, _ in answers} <= {200, 202, 401, 429}
    gone = await api.sql.fetch(
        "SELECT j.state, j.input FROM jobs j JOIN users u ON u.id = j.user_id WHERE u.deleted_at IS NOT NULL"
    )
    assert {row["state"] for row in gone} <= {"cancelled"}
    assert all(row["input"] == {} for row in gone)
    await balanced(api)


async def test_what_is_stored_for_an_account_that_is_gone_goes_to_the_living_or_is_refused(api: Api, bot: str) -> None:
    """As a request does whose caller was found just before the merge, or the deletion, was committed."""
    ada, other = Person(api, bot, "telegram:1"), Person(api, bot, "discord:2")
    mine, gone = [parse(Prefix.USER, (await person.get("/v1/me"))["id"]) for person in (ada, other)]
    await link(ada, other)
    insert = "INSERT INTO api_keys (id, user_id, secret_sha256, name) VALUES ($1, $2, $3, 'late')"
    await api.sql.execute(insert, "late1", gone, b"0" * 32)
    assert await api.sql.fetchval("SELECT user_id FROM api_keys WHERE id = 'late1'") == mine
    await balanced(api)
    assert (await delete(ada))[0].status == 200
    with pytest.raises(Exception, match="was deleted"):
        await api.sql.execute(insert, "late2", mine, b"0" * 32)


async def test_link_codes_are_forgotten_when_they_have_expired(api: Api, bot: str) -> None:
    ada = Person(api, bot, "telegram:1")
    code = await code_of(ada)
    assert (await ada.call("POST", "/v1/identities/link", json={"code": code}))[0].status == 409
    assert await prune_link_tries(api.services.db, datetime.now(UTC)) == 0
    assert await prune_link_tries(api.services.db, datetime.now(UTC) + timedelta(hours=2)) == 1
    assert await prune_link_codes(api.services.db, datetime.now(UTC)) == 0
    assert await prune_link_codes(api.services.db, datetime.now(UTC) + timedelta(minutes=11)) == 1


async def test_an_export_has_everything_of_the_user_and_nothing_of_others(api: Api, bot: str) -> None:
    ada, bob = Person(api, bot, "telegram:1"), Person(api, bot, "telegram:2")
    await bob.submit("text", prompt="of somebody else")
    picture = await ada.submit("image", prompt="a fox")
    await api.complete(picture["id"], b"bytes")
    texts = [await ada.submit("text", prompt=f"wish {n}") for n in range(12)]
    await api.sql.execute(  # more jobs than a page of the export
        "INSERT INTO jobs (id, user_id, kind, model, tier, state, input, day, cost_mt, charged_mt, created_at,"
        " finished_at) SELECT gen_random_uuid(), j.user_id, j.kind, j.model, j.tier, 'cancelled', j.input, j.day, 1, 0,"
        " now(), now()"
        " FROM jobs j, generate_series(1, 250) WHERE j.id = $1",
        parse(Prefix.JOB, texts[0]["id"]),
    )
    _, made = await ada.call("POST", "/v1/keys", json={"name": "script"})
    await ada.call("PATCH", "/v1/me/settings", json={"ratio": "16:9"})
    answer, found = await ada.call("GET", "/v1/me/export")
    assert answer.status == 200
    assert "attachment" in answer.headers["Content-Disposition"]
    assert len(found["jobs"]) == 263
    prompts = {job["input"]["prompt"] for job in found["jobs"]}
    assert prompts == {"a fox", *(f"wish {n}" for n in range(12))}
    shown = next(job for job in found["jobs"] if job["id"] == picture["id"])
    assert shown["artifacts"][0]["url"].startswith("/v1/artifacts/art_")
    assert [identity["identity"] for identity in found["identities"]] == ["telegram:1"]
    assert (found["settings"], found["user"]["plan"]) == ({"ratio": "16:9"}, "free")
    assert len(found["ledger"]) == 14
    assert [key["name"] for key in found["keys"]] == ["script"]
    assert made["api_key"].rsplit("_", 1)[1] not in json.dumps(found)
    assert (await api.call("GET", "/v1/me/export", key=None))[0].status == 401
    answer, empty = await Person(api, bot, "telegram:9").call("GET", "/v1/me/export")
    assert (empty["jobs"], empty["ledger"]) == ([], [])


async def test_the_client_links_unlinks_exports_and_deletes(api: Api, bot: str, tmp_path: Path) -> None:
    async with Client(api.url, bot) as client:
        ada, other = client.acting_for("telegram:1"), client.acting_for("discord:2")
        await ada.submit("text", {"prompt": "hello"})
        linked = await other.link((await ada.link_code()).code)
        assert [identity.identity for identity in linked.identities] == ["telegram:1", "discord:2"]
        assert await ada.identities() == linked.identities
        await other.unlink("discord:2")
        with pytest.raises(ApiError) as last:
            await ada.unlink("telegram:1")
        assert last.value.status == 409
        size = await ada.export(tmp_path / "ada.json")
        assert size == (tmp_path / "ada.json").stat().st_size
        assert len(json.loads((tmp_path / "ada.json").read_text())["jobs"]) == 1
        me = await ada.me()
        assert (await ada.delete_account(me.id)).deleted
        assert (await ada.me()).id != me.id
        operator = await api.add_key(user_id=await api.add_user(is_admin=True), scopes=["admin"])
        async with Client(api.url, operator) as boss:
            assert (await boss.users_delete((await other.me()).id)).deleted

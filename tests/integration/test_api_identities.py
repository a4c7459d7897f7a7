"""Bots act on behalf of persons: a service key, a header, and everything belongs to the person."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path

import aiohttp
import pytest

from tessera.api.callers import CACHE_S
from tessera.client import ApiError, Client, ClientError
from tessera.config import ClusterConfig, IngressConfig, NodeConfig
from tessera.identities import parse_identity
from tests.integration.api_server import Api, Events, running
from tests.integration.people import Person, service_key

RESOLVE = "/v1/internal/identities:resolve"


@pytest.fixture
async def bot(api: Api) -> str:
    return await service_key(api)


async def test_what_a_person_submits_through_a_bot_is_the_persons_own(api: Api, bot: str) -> None:
    ada, bob = Person(api, bot, "telegram:1"), Person(api, bot, "discord:1")
    job = await ada.submit("image", prompt="a fox")
    assert (await ada.get(f"/v1/jobs/{job['id']}"))["tier"] == "free"
    me = await ada.get("/v1/me")
    assert (me["name"], me["plan"], me["scopes"], me["quota"]["used_tokens"]) == ("telegram:1", "free", ["jobs"], 1)
    assert (await bob.get("/v1/me"))["quota"]["used_tokens"] == 0
    assert (await bob.get("/v1/jobs"))["data"] == []
    for method, path in (
        ("GET", f"/v1/jobs/{job['id']}"),
        ("GET", f"/v1/jobs/{job['id']}/events"),
        ("POST", f"/v1/jobs/{job['id']}/cancel"),
    ):
        answer, _ = await bob.call(method, path)
        assert answer.status == 404, path
    answer, _ = await api.call("GET", f"/v1/jobs/{job['id']}", key=await api.add_key())
    assert answer.status == 404


async def test_the_quota_is_the_persons_and_the_key_has_none(api: Api, bot: str) -> None:
    ada, bob = Person(api, bot, "telegram:1"), Person(api, bot, "telegram:2")
    body = {"kind": "image", "input": {"prompt": "a fox", "count": 4}}
    answers = [await ada.call("POST", "/v1/jobs", json=body) for _ in range(6)]
    assert [answer.status for answer, _ in answers] == [202] * 5 + [402]
    assert answers[-1][1]["code"] == "quota_exhausted"
    assert (await bob.call("POST", "/v1/jobs", json=body))[0].status == 202


async def test_files_and_streams_are_the_persons_too(api: Api, bot: str) -> None:
    ada, bob = Person(api, bot, "telegram:1"), Person(api, bot, "telegram:2")
    job = await ada.submit("image", prompt="a fox")
    async with (
        api.http.get(
            f"{api.url}/v1/events?last_event_id=0",
            headers={"Authorization": f"Bearer {bot}", "Tessera-On-Behalf-Of": "telegram:1"},
        ) as stream,
        api.http.get(
            f"{api.url}/v1/jobs/{job['id']}/events",
            headers={"Authorization": f"Bearer {bot}", "Tessera-On-Behalf-Of": "telegram:1"},
        ) as of_job,
    ):
        await api.complete(job["id"], b"bytes of a picture")
        assert [m["event"] for m in await Events(of_job).rest()] == ["queued", "started", "output", "completed"]
        found = await Events(stream).until("completed")
        assert found["data"]["job_id"] == job["id"]
    artifact = (await ada.get(f"/v1/jobs/{job['id']}"))["artifacts"][0]
    answer, content = await ada.call("GET", artifact["url"])
    assert (answer.status, content) == (200, b"bytes of a picture")
    assert (await bob.call("GET", artifact["url"]))[0].status == 404
    form = aiohttp.FormData()
    form.add_field("file", (Path(__file__).parents[2] / "docs/images/lighthouse.png").read_bytes(), filename="a.png")
    answer, upload = await ada.call("POST", "/v1/uploads", data=form)
    assert answer.status == 201, upload
    use = {"kind": "image", "input": {"prompt": "the same in blue", "image": upload["id"]}}
    assert (await ada.call("POST", "/v1/jobs", json=use))[0].status == 202
    assert (await bob.call("POST", "/v1/jobs", json=use))[0].status == 422


async def test_only_a_service_key_may_act_for_others(api: Api, bot: str) -> None:
    admin = await api.add_key(user_id=await api.add_user(is_admin=True), scopes=["jobs", "admin"])
    for key in (api.key, admin, await api.add_key(user_id=api.user_id, scopes=["service", "jobs"])):
        answer, problem = await api.call("GET", "/v1/me", key=key, headers={"Tessera-On-Behalf-Of": "telegram:1"})
        assert (answer.status, problem["code"]) == (403, "forbidden")
        assert "service" in problem["detail"]
    assert await api.sql.fetchval("SELECT count(*) FROM identities") == 0


async def test_a_service_key_by_itself_is_nobody(api: Api, bot: str) -> None:
    answer, problem = await api.call("GET", "/v1/me", key=bot)
    assert answer.status == 403
    assert "Tessera-On-Behalf-Of" in problem["detail"]


async def test_nobody_is_an_operator_on_behalf_of_a_person(api: Api) -> None:
    key = await service_key(api, "admin", "jobs")
    answer, _ = await api.call("GET", "/v1/admin/users", key=key)
    assert answer.status == 200
    for path in ("/v1/admin/users", RESOLVE):
        answer, problem = await api.call(
            "POST" if path == RESOLVE else "GET", path, key=key, headers={"Tessera-On-Behalf-Of": "telegram:1"}, json={}
        )
        assert (answer.status, problem["code"]) == (403, "forbidden")
    # Who has no key at all is told that, and nothing else.
    for unknown in (None, "tsr_0123456789abcdef_" + "x" * 43):
        answer, problem = await api.call(
            "GET", "/v1/admin/users", key=unknown, headers={"Tessera-On-Behalf-Of": "telegram:1"}
        )
        assert (answer.status, problem["code"]) == (401, "unauthorized")
    answer, problem = await Person(api, key, "telegram:1").call(
        "POST", "/v1/keys", json={"name": "mine", "scopes": ["admin"]}
    )
    assert answer.status == 403, problem


@pytest.mark.parametrize(
    "identity",
    [
        *("", "telegram", "telegram:", "telegram:ada", "telegram:01", "telegram:-1", "telegram:1 2"),
        *("slack:1", "telegram:" + "9" * 40, "Telegram:1", "email:Ada@example.org", "oidc:a b"),
    ],
)
async def test_what_is_no_identity_is_refused_by_name_and_makes_nobody(api: Api, bot: str, identity: str) -> None:
    answer, problem = await Person(api, bot, identity).call("GET", "/v1/me")
    assert (answer.status, problem["code"]) == (422, "invalid_input")
    assert problem["errors"][0]["field"] == "Tessera-On-Behalf-Of"
    answer, problem = await api.call("POST", RESOLVE, key=bot, json={"identity": identity})
    assert (answer.status, problem["errors"][0]["field"]) == (422, "identity")
    assert await api.sql.fetchval("SELECT count(*) FROM identities") == 0


async def test_one_identity_seen_by_many_at_once_makes_one_user(api: Api, bot: str, tmp_path: Path) -> None:
    # The first sign-up of all makes the row of the limit, for which whoever comes at once waits: not what this tests.
    assert (await api.call("POST", RESOLVE, key=bot, json={"identity": "telegram:6"}))[0].status == 201
    async with running(api.services.settings.database_url, tmp_path) as other:
        answers = await asyncio.gather(
            *(server.call("POST", RESOLVE, key=bot, json={"identity": "telegram:7"}) for server in (api, other) * 10),
            *(Person(server, bot, "telegram:7").call("GET", "/v1/me") for server in (api, other) * 10),
        )
    assert {answer.status for answer, _ in answers} <= {200, 201}
    assert sum(answer.status == 201 for answer, _ in answers) <= 1
    assert len({body["user"]["id"] if "user" in body else body["id"] for _, body in answers}) == 1
    assert await api.sql.fetchval("SELECT count(*) FROM users WHERE name = 'telegram:7'") == 1


async def test_resolving_tells_the_user_the_plan_and_whether_it_is_new(api: Api, bot: str) -> None:
    asked = {"identity": "telegram:5", "display_name": " Ada\n\u202e 👩\u200d🔬 ", "locale": "pt-BR"}
    answer, found = await api.call("POST", RESOLVE, key=bot, json=asked)
    assert answer.status == 201
    assert (found["new"], found["user"]["plan"], found["user"]["daily_tokens"]) == (True, "free", 20)
    assert (found["display_name"], found["locale"], found["settings"]) == ("Ada 👩\u200d🔬", "pt-BR", {})
    answer, again = await api.call("POST", RESOLVE, key=bot, json={"identity": "telegram:5"})
    assert (answer.status, again) == (200, {**found, "new": False})
    for wrong in ({}, {"identity": 5}, {"identity": "telegram:5", "locale": "!"}, {"identity": "telegram:5", "x": 1}):
        assert (await api.call("POST", RESOLVE, key=bot, json=wrong))[0].status == 422
    for key in (api.key, None):
        answer, _ = await api.call("POST", RESOLVE, key=key, json={"identity": "telegram:5"})
        assert answer.status == (403 if key else 401)


async def test_past_the_rate_of_sign_ups_new_people_are_refused_and_known_ones_are_served(
    database_url: str, tmp_path: Path
) -> None:
    cluster = ClusterConfig(nodes=(NodeConfig(name="pc2"),), ingress=IngressConfig(signups_per_min=2))
    async with running(database_url, tmp_path, cluster=cluster) as api:
        bot = await service_key(api)
        answers = await asyncio.gather(*(Person(api, bot, f"telegram:{n}").call("GET", "/v1/me") for n in range(1, 7)))
        assert sorted(answer.status for answer, _ in answers) == [200, 200, 429, 429, 429, 429]
        refused = next((answer, body) for answer, body in answers if answer.status == 429)
        assert refused[1]["code"] == "rate_limited"
        assert 0 < int(refused[0].headers["Retry-After"]) <= 60
        assert (await Person(api, bot, "discord:1").call("GET", "/v1/me"))[0].status == 200
        known = next(body["name"] for answer, body in answers if answer.status == 200)
        assert (await Person(api, bot, known).call("GET", "/v1/me"))[0].status == 200
        assert await api.sql.fetchval("SELECT count(*) FROM identities WHERE provider = 'telegram'") == 2


async def test_when_nobody_new_is_let_in_who_is_known_still_comes_in(database_url: str, tmp_path: Path) -> None:
    cluster = ClusterConfig(nodes=(NodeConfig(name="pc2"),), ingress=IngressConfig(signups_per_min=0))
    async with running(database_url, tmp_path, cluster=cluster) as api:
        bot = await service_key(api)
        await api.sql.execute(
            "INSERT INTO identities (id, user_id, provider, subject) VALUES (gen_random_uuid(), $1, 'telegram', '1')",
            api.user_id,
        )
        assert (await Person(api, bot, "telegram:1").get("/v1/me"))["plan"] == "pro"
        answer, problem = await Person(api, bot, "telegram:2").call("GET", "/v1/me")
        assert (answer.status, problem["code"]) == (403, "forbidden")


@pytest.mark.parametrize(("column", "word"), [("banned_at", "closed"), ("deleted_at", "deleted")])
async def test_who_is_banned_or_deleted_is_refused_in_words(api: Api, bot: str, column: str, word: str) -> None:
    ada = Person(api, bot, "telegram:1")
    await ada.get("/v1/me")
    await api.sql.execute(f"UPDATE users SET {column} = $1 WHERE name = 'telegram:1'", datetime.now(UTC))
    async with asyncio.timeout(CACHE_S * 10):
        # The server forgets by its clock: there is no event to wait for.
        while (await ada.call("GET", "/v1/me"))[0].status == 200:  # noqa: ASYNC110
            await asyncio.sleep(0.1)
    for answer, problem in (
        await ada.call("GET", "/v1/me"),
        await ada.call("POST", "/v1/jobs", json={"kind": "text", "input": {"prompt": "hi"}}),
        await api.call("POST", RESOLVE, key=bot, json={"identity": "telegram:1"}),
    ):
        assert (answer.status, problem["code"]) == (403, "forbidden")
        assert word in problem["detail"]


async def test_who_left_today_comes_back_with_what_was_used(api: Api, bot: str) -> None:
    gone = await api.add_user()
    hashed = parse_identity("telegram:1").keyed_hash(api.services.settings.secret_for("identities"))
    await api.sql.execute(
        "INSERT INTO former_identities (identity_hmac, user_id, day, used_mt) VALUES ($1, $2, utc_day(now()), 19000)",
        hashed,
        gone,
    )
    ada = Person(api, bot, "telegram:1")
    assert (await ada.get("/v1/me"))["quota"]["remaining_tokens"] == 1
    entries = (await ada.get("/v1/ledger"))["data"]
    assert [(entry["entry"], entry["amount_tokens"]) for entry in entries] == [("adjustment", 19)]
    await api.sql.execute(
        "UPDATE former_identities SET identity_hmac = $1, banned_at = now(), ban_reason = 'spam'",
        parse_identity("telegram:2").keyed_hash(api.services.settings.secret_for("identities")),
    )
    answer, problem = await Person(api, bot, "telegram:2").call("GET", "/v1/me")
    assert answer.status == 403
    assert "spam" in problem["detail"]


async def test_only_an_operator_makes_a_service_key_and_it_has_no_cap(api: Api) -> None:
    admin = await api.add_key(user_id=await api.add_user(is_admin=True), scopes=["jobs", "admin"])
    answer, made = await api.call("POST", "/v1/keys", key=admin, json={"name": "bots", "scopes": ["service"]})
    assert (answer.status, made["scopes"]) == (201, ["service"])
    assert (await Person(api, made["api_key"], "telegram:1").get("/v1/me"))["name"] == "telegram:1"
    capped = {"name": "bots", "scopes": ["service"], "daily_cap_tokens": 5}
    answer, problem = await api.call("POST", "/v1/keys", key=admin, json=capped)
    assert (answer.status, problem["errors"][0]["field"]) == (422, "daily_cap_tokens")
    for key in (api.key, await service_key(api, "jobs")):
        answer, _ = await api.call("POST", "/v1/keys", key=key, json={"name": "bots", "scopes": ["admin"]})
        assert answer.status == 403
    answer, _ = await api.call("POST", "/v1/keys", json={"name": "bots", "scopes": ["service"]})
    assert answer.status == 403


async def test_settings_are_shared_over_platforms_and_changed_without_losing_any(api: Api, bot: str) -> None:
    ada = Person(api, bot, "telegram:1")
    assert (await ada.get("/v1/me/settings")) == {"settings": {}}
    changes = [{f"name{n}": n} for n in range(10)]
    await asyncio.gather(*(ada.call("PATCH", "/v1/me/settings", json=change) for change in changes))
    answer, found = await ada.call("PATCH", "/v1/me/settings", json={"name0": None, "name1": {"deep": [True]}})
    assert answer.status == 200
    assert found["settings"] == {**{f"name{n}": n for n in range(2, 10)}, "name1": {"deep": [True]}}
    assert (await Person(api, bot, "telegram:2").get("/v1/me/settings")) == {"settings": {}}
    for wrong in (
        {"a": "x" * 9000},
        {"": 1},
        {"a": {"b": {"c": {"d": {"e": 1}}}}},
        {f"n{n}": n for n in range(65)},
        {"a": "\x00"},
    ):
        answer, _ = await ada.call("PATCH", "/v1/me/settings", json=wrong)
        assert answer.status == 422, wrong
    for number in range(3):
        answer, _ = await ada.call("PATCH", "/v1/me/settings", json={f"long{number}": "x" * 3000})
    assert answer.status == 422
    assert (await ada.call("PATCH", "/v1/me/settings", data=b"[]"))[0].status == 400
    look = await api.add_key(user_id=api.user_id, scopes=["read"])
    assert (await api.call("GET", "/v1/me/settings", key=look))[0].status == 200
    assert (await api.call("PATCH", "/v1/me/settings", key=look, json={"a": 1}))[0].status == 403
    assert (await api.call("GET", "/v1/me/settings", key=None))[0].status == 401


async def test_the_client_acts_for_many_persons_over_one_session(api: Api, bot: str) -> None:
    async with Client(api.url, bot) as client:
        resolved = await client.resolve("telegram:1", display_name="Ada")
        assert (resolved.new, resolved.user.plan, resolved.display_name) == (True, "free", "Ada")
        ada, bob = client.acting_for("telegram:1"), client.acting_for("discord:2")
        job = await ada.submit("text", {"prompt": "hello"})
        assert (await ada.get_job(job.id)).id == job.id
        assert await ada.change_settings({"ratio": "16:9"}) == {"ratio": "16:9"} == await ada.settings()
        assert (await ada.me()).id == resolved.user.id != (await bob.me()).id
        with pytest.raises(ApiError) as missing:
            await bob.get_job(job.id)
        assert missing.value.status == 404
        with pytest.raises(ApiError) as nobody:
            await client.me()
        assert nobody.value.status == 403
        with pytest.raises(ClientError, match="header"):
            client.acting_for("telegram:\N{SNOWMAN}")

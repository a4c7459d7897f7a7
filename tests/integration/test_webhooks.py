"""Webhooks to receivers that work, fail, hang, redirect, are gone, rotate: what each got, and what its log says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from tessera.api.schemas import base as schemas
from tessera.api.schemas import webhooks as webhook_schemas
from tessera.config import ClusterConfig, NodeConfig, OutboundConfig
from tessera.deliveries import DELAYS_S
from tessera.ids import Prefix, new_id, parse, show
from tests.fakes.webhook_receiver import Received, Receiver
from tests.integration.api_server import Api, running

LOOPBACK = ClusterConfig(nodes=(NodeConfig(name="pc2"),), outbound=OutboundConfig(allow=("127.0.0.1/32",)))


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with Receiver().running() as started:
        yield started


@pytest.fixture
async def api(database_url: str, tmp_path: Path) -> AsyncIterator[Api]:
    """An API that may send to this machine, and looks at its lanes often."""
    knobs = {"scan_s": 0.2, "timeout_s": 1.5, "max_break_s": 0.0}
    async with running(database_url, tmp_path, cluster=LOOPBACK, sender=knobs) as started:
        yield started


async def add(api: Api, url: str, **more: Any) -> dict[str, Any]:
    answer, endpoint = await api.call("POST", "/v1/webhook-endpoints", json={"url": url, **more})
    assert answer.status == 201, endpoint
    webhook_schemas.NewEndpoint.model_validate(endpoint)
    return dict(endpoint)


async def submit(api: Api, **more: Any) -> dict[str, Any]:
    body = {"kind": "text", "input": {"prompt": "hello"}, **more}
    answer, job = await api.call("POST", "/v1/jobs", json=body)
    assert answer.status == 202, job
    return dict(job)


async def log_of(api: Api, **filters: str) -> list[dict[str, Any]]:
    """The deliveries that fit, the oldest first, each with its log."""
    query = "&".join(f"{name}={value}" for name, value in filters.items())
    answer, body = await api.call("GET", f"/v1/deliveries?limit=100&{query}")
    assert answer.status == 200, body
    webhook_schemas.DeliveryPage.model_validate(body)
    found = []
    for one in reversed(body["data"]):
        answer, shown = await api.call("GET", f"/v1/deliveries/{one['id']}")
        webhook_schemas.DeliveryWithLog.model_validate(shown)
        found.append(shown)
    return found


async def until(look: Callable[[], Awaitable[Any]], timeout_s: float = 60.0) -> Any:
    """What ``look`` finds, once it finds something."""
    async with asyncio.timeout(timeout_s):
        while True:
            if found := await look():
                return found
            await asyncio.sleep(0.02)


async def ended(api: Api, count: int = 1, **filters: str) -> list[dict[str, Any]]:
    """The deliveries that fit, once so many of them have ended."""

    async def look() -> list[dict[str, Any]]:
        found = await log_of(api, **filters)
        return found if sum("ended_at" in one for one in found) >= count else []

    return await until(look)


async def tried(api: Api, tries: int, **filters: str) -> dict[str, Any]:
    """The one delivery that fits, once it was tried so often and is not under way."""

    async def look() -> Any:
        found = await log_of(api, **filters)
        return found[0] if found and len(found[0]["log"]) >= tries and found[0]["state"] != "leased" else None

    return dict(await until(look))


async def pass_time(api: Api, seconds: float) -> None:
    await api.sql.execute(
        "UPDATE deliveries SET next_try_at = next_try_at - make_interval(secs => $1),"
        " first_try_at = first_try_at - make_interval(secs => $1) WHERE ended_at IS NULL",
        seconds,
    )


def verify(secret: str, received: Received) -> dict[str, Any]:
    """The official library; raises when the signature is not right."""
    return dict(Webhook(secret).verify(received.body, {k.lower(): v for k, v in received.headers.items()}))


async def test_an_endpoint_gets_a_signed_event_with_the_job_once(api: Api, receiver: Receiver) -> None:
    endpoint = await add(api, receiver.url("ok"))
    job = await submit(api)
    await api.complete(job["id"], b"picture")
    (received,) = await receiver.wait("ok")
    body = verify(endpoint["secret"], received)
    assert (body["type"], body["data"]["job_id"], body["data"]["job_seq"]) == ("job.completed", job["id"], 4)
    assert datetime.fromisoformat(body["timestamp"]).utcoffset() is not None
    schemas.Job.model_validate(body["data"]["job"])
    assert body["data"]["job"]["state"] == "completed" and len(body["data"]["job"]["artifacts"]) == 1
    assert body["data"]["data"]["charged_tokens"] == job["cost_tokens"]
    (delivery,) = await ended(api)
    assert received.headers["webhook-id"] == delivery["id"]
    assert (delivery["state"], delivery["event"], delivery["tries"]) == ("delivered", "completed", 1)
    (one,) = delivery["log"]
    assert (one["status"], one["answer"], "error" in one) == (200, "answer 200", False) and one["ms"] >= 0
    with pytest.raises(WebhookVerificationError):
        verify(endpoint["secret"], Received(path="", headers=received.headers, body=received.body + b" "))
    with pytest.raises(WebhookVerificationError):
        verify((await add(api, receiver.url("other")))["secret"], received)


async def test_a_job_names_its_own_webhook_and_its_events(api: Api, receiver: Receiver) -> None:
    job = await submit(api, webhook={"url": receiver.url("own"), "events": ["output", "started", "completed"]})
    assert job["webhook"]["events"] == ["started", "output", "completed"]
    plain = await submit(api, webhook=receiver.url("plain"))
    await api.complete(job["id"], b"picture")
    await api.complete(plain["id"], b"picture")
    _, shown = await api.call("GET", "/v1/webhook-secret")
    webhook_schemas.Secret.model_validate(shown)
    told = {verify(shown["secret"], one)["data"]["job_seq"]: one.data["type"] for one in await receiver.wait("own", 3)}
    assert told == {2: "job.started", 3: "job.output", 4: "job.completed"}
    assert [one.data["type"] for one in await receiver.wait("plain")] == ["job.completed"]
    assert len(await ended(api, 3, job_id=job["id"])) == 3
    _, read = await api.call("GET", f"/v1/jobs/{job['id']}")
    assert read["webhook"] == {"url": receiver.url("own"), "events": ["started", "output", "completed"]}
    # What is done again is told to the same address.
    answer, again = await api.call("POST", f"/v1/jobs/{plain['id']}/retry")
    assert answer.status == 202 and again["webhook"] == plain["webhook"]


async def test_a_failing_receiver_is_tried_again_under_the_same_id_until_it_answers(
    api: Api, receiver: Receiver
) -> None:
    receiver.answers["flaky"] = [500, 503, 200]
    await add(api, receiver.url("flaky"))
    job = await submit(api)
    await api.complete(job["id"])
    first = await tried(api, 1)
    assert first["state"] == "pending" and first["last_error"] == "it answered 500"
    assert "next_try_at" in first
    await pass_time(api, DELAYS_S[0])
    await tried(api, 2)
    await pass_time(api, DELAYS_S[1])
    (delivery,) = await ended(api)
    assert delivery["state"] == "delivered"
    assert [(one["status"], one.get("error")) for one in delivery["log"]] == [
        (500, "it answered 500"),
        (503, "it answered 503"),
        (200, None),
    ]
    assert {one.headers["webhook-id"] for one in receiver.of("flaky")} == {delivery["id"]}


async def test_after_a_day_it_is_given_up_and_can_be_replayed(api: Api, receiver: Receiver) -> None:
    receiver.answers["down"] = [500]
    await add(api, receiver.url("down"))
    await api.complete((await submit(api))["id"])
    for tries in range(1, len(DELAYS_S) + 2):
        if (await tried(api, tries))["state"] == "failed":
            break
        await pass_time(api, DELAYS_S[tries - 1])
    (delivery,) = await ended(api)
    assert delivery["state"] == "failed" and len(delivery["log"]) == len(DELAYS_S) + 1
    receiver.answers["down"] = [200]
    answer, shown = await api.call("POST", f"/v1/deliveries/{delivery['id']}/replay")
    assert answer.status == 202
    webhook_schemas.Delivery.model_validate(shown)
    (again,) = await ended(api)
    assert (again["state"], again["tries"], again["log"][-1]["status"]) == ("delivered", 1, 200)
    assert len(again["log"]) == len(delivery["log"]) + 1
    assert {one.headers["webhook-id"] for one in receiver.of("down")} == {delivery["id"]}


async def test_a_receiver_that_hangs_a_closed_port_and_a_redirect_fail_visibly(api: Api, receiver: Receiver) -> None:
    hangs, closed, redirects = [
        await add(api, url) for url in (receiver.url("hang"), "http://127.0.0.1:1/", receiver.url("redirect"))
    ]
    await api.complete((await submit(api))["id"])
    hung = await tried(api, 1, endpoint_id=hangs["id"])
    assert "took longer than 1.5 s" in hung["last_error"] and "status" not in hung["log"][0]
    refused = await tried(api, 1, endpoint_id=closed["id"])
    assert "takes no connection" in refused["last_error"]
    redirected = await tried(api, 1, endpoint_id=redirects["id"])
    assert redirected["log"][0]["status"] == 302 and "not followed" in redirected["last_error"]
    assert {one["state"] for one in (hung, refused, redirected)} == {"pending"}
    assert receiver.of("elsewhere") == []


async def test_a_receiver_that_is_gone_is_disabled_and_can_be_enabled_again(api: Api, receiver: Receiver) -> None:
    receiver.answers["gone"] = [410]
    endpoint = await add(api, receiver.url("gone"))
    await api.complete((await submit(api))["id"])
    (delivery,) = await ended(api)
    assert delivery["state"] == "failed" and delivery["log"][0]["status"] == 410
    _, shown = await api.call("GET", f"/v1/webhook-endpoints/{endpoint['id']}")
    assert shown["disabled"] and "410" in shown["disabled_reason"]
    await api.complete((await submit(api))["id"])
    assert len(await log_of(api)) == 1  # nothing is written for it any more
    answer, problem = await api.call("POST", f"/v1/webhook-endpoints/{endpoint['id']}/test")
    assert (answer.status, problem["code"]) == (409, "conflict")
    receiver.answers["gone"] = [200]
    answer, shown = await api.call("PATCH", f"/v1/webhook-endpoints/{endpoint['id']}", json={"disabled": False})
    assert answer.status == 200 and not shown["disabled"]
    answer, _ = await api.call("POST", f"/v1/deliveries/{delivery['id']}/replay")
    assert answer.status == 202
    assert (await ended(api))[0]["state"] == "delivered"


async def test_two_secrets_sign_while_one_is_being_replaced(api: Api, receiver: Receiver) -> None:
    endpoint = await add(api, receiver.url("rotates"))
    path = f"/v1/webhook-endpoints/{endpoint['id']}"
    answer, rotated = await api.call("POST", f"{path}/rotate", json={"overlap_s": 600})
    assert answer.status == 200 and answer.headers["Cache-Control"] == "no-store"
    webhook_schemas.Secret.model_validate(rotated)
    assert rotated["secret"] != endpoint["secret"] and "old_secret_until" in rotated
    assert (await api.call("GET", f"{path}/secret"))[1] == rotated
    await api.call("POST", f"{path}/test")
    (both,) = await receiver.wait("rotates")
    assert verify(endpoint["secret"], both) == verify(rotated["secret"], both)
    assert len(both.headers["webhook-signature"].split()) == 2
    await api.sql.execute("UPDATE webhook_endpoints SET old_secret_until = now()")
    await api.call("POST", f"{path}/test")
    one = (await receiver.wait("rotates", 2))[1]
    assert verify(rotated["secret"], one)["type"] == "test"
    with pytest.raises(WebhookVerificationError):
        verify(endpoint["secret"], one)
    # The account's own secret, for webhooks that jobs name.
    _, before = await api.call("GET", "/v1/webhook-secret")
    answer, after = await api.call("POST", "/v1/webhook-secret/rotate")
    assert answer.status == 200 and before["secret"] != after["secret"]
    await api.complete((await submit(api, webhook=receiver.url("own")))["id"])
    (own,) = await receiver.wait("own")
    assert verify(before["secret"], own) == verify(after["secret"], own)


async def test_a_receiver_that_hangs_delays_nobody_else(database_url: str, tmp_path: Path, receiver: Receiver) -> None:
    """One hangs with many deliveries waiting for it, twenty others get theirs while it still holds its first."""
    async with running(database_url, tmp_path, cluster=LOOPBACK, sender={"scan_s": 0.2, "timeout_s": 600}) as api:
        hanging = await api.add_key()
        body = {"kind": "text", "input": {"prompt": "x"}, "webhook": receiver.url("hang")}
        for _ in range(20):
            answer, job = await api.call("POST", "/v1/jobs", key=hanging, json=body)
            assert answer.status == 202
            await api.complete(job["id"])
        await receiver.wait("hang")
        for number in range(20):
            await add(api, receiver.url(f"fast-{number}"))
        await api.complete((await submit(api))["id"])
        for number in range(20):
            await receiver.wait(f"fast-{number}")
        assert len(receiver.of("hang")) <= 4, "no more than a few are under way to one endpoint"
        assert not receiver.release.is_set()
        receiver.release.set()
        await receiver.wait("hang", 20)


async def test_what_a_killed_sender_had_under_way_is_sent_again_by_another(
    database_url: str, tmp_path: Path, receiver: Receiver
) -> None:
    async with running(database_url, tmp_path, cluster=LOOPBACK, sender={"scan_s": 0.2, "timeout_s": 600}) as first:
        await add(first, receiver.url("hang"))
        await first.complete((await submit(first))["id"])
        await receiver.wait("hang")
        await first.services.sender.close()  # as after kill -9, nothing is written down
        assert await first.sql.fetchval("SELECT state FROM deliveries") == "leased"
        receiver.release.set()
        async with running(database_url, tmp_path / "2", cluster=LOOPBACK, sender={"scan_s": 0.2}) as second:
            await pass_time(second, 3600)
            sent = await receiver.wait("hang", 2)
            assert len({one.headers["webhook-id"] for one in sent}) == 1
            second.key = first.key
            assert (await ended(second))[0]["tries"] == 2


async def test_private_addresses_are_refused_as_a_field_and_at_the_connection(
    database_url: str, tmp_path: Path, receiver: Receiver
) -> None:
    async with running(database_url, tmp_path, sender={"scan_s": 0.2}) as api:
        for url in (
            receiver.url("x"),
            "http://169.254.169.254/",
            "http://[::1]/",
            "ftp://example.org",
            "http://a:b@c.de",
        ):
            answer, problem = await api.call("POST", "/v1/webhook-endpoints", json={"url": url})
            assert (answer.status, problem["code"], problem["errors"][0]["field"]) == (422, "address_refused", "url"), (
                url
            )
            body = {"kind": "text", "input": {"prompt": "x"}, "webhook": url}
            answer, problem = await api.call("POST", "/v1/jobs", json=body)
            assert (answer.status, problem["errors"][0]["field"]) == (422, "webhook.url")
        assert await api.sql.fetchval("SELECT count(*) FROM jobs") == 0
        # A name passes, and is refused when it turns out to lead to this machine.
        await add(api, f"http://localhost.localdomain:{receiver.port}/x")
        await api.sql.execute("UPDATE webhook_endpoints SET url = $1", f"http://127.0.0.1:{receiver.port}/x")
        await api.complete((await submit(api))["id"])
        assert "not on the public internet" in (await tried(api, 1))["last_error"]
    assert receiver.received == []


async def test_nothing_is_sent_while_deliveries_are_paused(api: Api, receiver: Receiver) -> None:
    operator = await api.add_key(user_id=await api.add_user(is_admin=True), scopes=["admin"])
    for _ in range(2):
        answer, pause = await api.call("POST", "/v1/admin/deliveries/pause", key=operator, json={"reason": "restored"})
        assert answer.status == 200
        webhook_schemas.DeliveriesPause.model_validate(pause)
    await add(api, receiver.url("ok"))
    await api.complete((await submit(api))["id"])
    _, listed = await api.call("GET", "/v1/admin/deliveries?state=pending", key=operator)
    webhook_schemas.AdminDeliveryPage.model_validate(listed)
    assert listed["paused"]["reason"] == "restored" and len(listed["data"]) == 1
    await asyncio.sleep(0.5)  # several looks of the sender
    assert receiver.received == [] and (await log_of(api))[0]["tries"] == 0
    for resumed in (True, False):
        answer, shown = await api.call("POST", "/v1/admin/deliveries/resume", key=operator)
        assert (answer.status, shown) == (200, {"resumed": resumed})
    await receiver.wait("ok")
    rows = await api.sql.fetch("SELECT action FROM audit_log ORDER BY id")
    assert [row["action"] for row in rows] == ["pause_deliveries", "pause_deliveries", "resume_deliveries"]


async def test_an_operator_finds_what_was_given_up_and_brings_it_again(api: Api, receiver: Receiver) -> None:
    operator = await api.add_key(user_id=await api.add_user(is_admin=True), scopes=["admin"])
    receiver.answers["gone"] = [410, 200]
    endpoint = await add(api, receiver.url("gone"))
    await api.complete((await submit(api))["id"])
    (delivery,) = await ended(api)
    _, listed = await api.call("GET", "/v1/admin/deliveries?channel=webhook", key=operator)
    assert [one["id"] for one in listed["data"]] == [delivery["id"]] and listed["data"][0]["channel"] == "webhook"
    await api.call("PATCH", f"/v1/webhook-endpoints/{endpoint['id']}", json={"disabled": False})
    answer, shown = await api.call("POST", f"/v1/admin/deliveries/{delivery['id']}/replay", key=operator)
    assert answer.status == 202
    webhook_schemas.Replayed.model_validate(shown)
    await receiver.wait("gone", 2)
    assert (await ended(api))[0]["state"] == "delivered"
    unknown = show(Prefix.DELIVERY, new_id())
    assert (await api.call("POST", f"/v1/admin/deliveries/{unknown}/replay", key=operator))[0].status == 404
    for method, path in (("GET", ""), ("POST", "/pause"), ("POST", "/resume"), ("POST", f"/{delivery['id']}/replay")):
        answer, problem = await api.call(method, f"/v1/admin/deliveries{path}")
        assert (answer.status, problem["code"]) == (403, "forbidden")


async def test_an_endpoint_is_listed_changed_and_deleted(api: Api, receiver: Receiver) -> None:
    first, second = await add(api, receiver.url("a"), description="orders"), await add(api, receiver.url("b"))
    _, listed = await api.call("GET", "/v1/webhook-endpoints")
    webhook_schemas.EndpointPage.model_validate(listed)
    assert [one["id"] for one in listed["data"]] == [second["id"], first["id"]]
    assert all("secret" not in one for one in listed["data"])
    path = f"/v1/webhook-endpoints/{first['id']}"
    answer, changed = await api.call("PATCH", path, json={"url": receiver.url("c"), "events": ["failed"]})
    assert answer.status == 200
    webhook_schemas.Endpoint.model_validate(changed)
    assert (changed["url"], changed["events"], changed["description"]) == (receiver.url("c"), ["failed"], "orders")
    await api.complete((await submit(api))["id"])
    await receiver.wait("b")
    assert (await api.call("DELETE", path))[0].status == 204
    for method in ("GET", "PATCH", "DELETE"):
        assert (await api.call(method, path, json={}))[0].status == 404
    assert [one["id"] for one in (await api.call("GET", "/v1/webhook-endpoints"))[1]["data"]] == [second["id"]]
    assert receiver.of("a") == receiver.of("c") == []


async def test_what_waits_for_a_deleted_endpoint_is_given_up(api: Api, receiver: Receiver) -> None:
    receiver.answers["down"] = [500]
    endpoint = await add(api, receiver.url("down"))
    for _ in range(3):
        await api.complete((await submit(api))["id"])
    await tried(api, 1)
    await api.call("DELETE", f"/v1/webhook-endpoints/{endpoint['id']}")
    await pass_time(api, 3600)
    found = await ended(api, 3)
    assert {one["state"] for one in found} == {"failed"}
    assert all("deleted" in one["last_error"] for one in found)


async def test_other_users_endpoints_and_deliveries_are_not_there(api: Api, receiver: Receiver) -> None:
    endpoint = await add(api, receiver.url("ok"))
    job = await submit(api)
    await api.complete(job["id"])
    (delivery,) = await ended(api)
    other = await api.add_key()
    for method, path in (
        ("GET", f"/v1/webhook-endpoints/{endpoint['id']}"),
        ("PATCH", f"/v1/webhook-endpoints/{endpoint['id']}"),
        ("DELETE", f"/v1/webhook-endpoints/{endpoint['id']}"),
        ("GET", f"/v1/webhook-endpoints/{endpoint['id']}/secret"),
        ("POST", f"/v1/webhook-endpoints/{endpoint['id']}/rotate"),
        ("POST", f"/v1/webhook-endpoints/{endpoint['id']}/test"),
        ("GET", f"/v1/deliveries/{delivery['id']}"),
        ("POST", f"/v1/deliveries/{delivery['id']}/replay"),
    ):
        answer, problem = await api.call(method, path, key=other, json={})
        assert (answer.status, problem["code"]) == (404, "not_found"), path
        assert (await api.call(method, path, key=None, json={}))[0].status == 401, path
    for path in (
        "/v1/webhook-endpoints",
        "/v1/deliveries",
        f"/v1/deliveries?job_id={job['id']}",
        f"/v1/deliveries?endpoint_id={endpoint['id']}",
    ):
        assert (await api.call("GET", path, key=other))[1]["data"] == []
    assert (await api.call("GET", "/v1/webhook-secret", key=other))[1] != (await api.call("GET", "/v1/webhook-secret"))[
        1
    ]


async def test_a_key_that_only_reads_sees_no_secret_and_changes_nothing(api: Api, receiver: Receiver) -> None:
    endpoint = await add(api, receiver.url("ok"))
    reader = await api.add_key(user_id=api.user_id, scopes=["read"])
    path = f"/v1/webhook-endpoints/{endpoint['id']}"
    assert (await api.call("GET", path, key=reader))[0].status == 200
    for method, forbidden in (
        ("POST", "/v1/webhook-endpoints"),
        ("PATCH", path),
        ("DELETE", path),
        ("GET", f"{path}/secret"),
        ("POST", f"{path}/rotate"),
        ("POST", f"{path}/test"),
        ("GET", "/v1/webhook-secret"),
        ("POST", "/v1/webhook-secret/rotate"),
    ):
        answer, problem = await api.call(method, forbidden, key=reader, json={})
        assert (answer.status, problem["code"]) == (403, "forbidden"), forbidden


async def test_wrong_fields_are_named_and_the_number_of_endpoints_is_bounded(api: Api) -> None:
    public = "https://example.org/hook"
    endpoint = await add(api, public)
    path = f"/v1/webhook-endpoints/{endpoint['id']}"
    wrong: list[tuple[str, str, Any]] = [
        ("POST", "/v1/webhook-endpoints", {}),
        ("POST", "/v1/webhook-endpoints", {"url": 1}),
        ("POST", "/v1/webhook-endpoints", {"url": public, "events": []}),
        ("POST", "/v1/webhook-endpoints", {"url": public, "events": ["progress"]}),
        ("POST", "/v1/webhook-endpoints", {"url": public, "description": "x" * 201}),
        ("POST", "/v1/webhook-endpoints", {"url": public, "secret": "mine"}),
        ("PATCH", path, {"disabled": "yes"}),
        ("PATCH", path, {"events": "completed"}),
        ("POST", f"{path}/rotate", {"overlap_s": -1}),
        ("POST", f"{path}/rotate", {"overlap_s": "long"}),
        ("GET", "/v1/deliveries?state=lost", None),
        ("GET", "/v1/deliveries?job_id=x", None),
        ("GET", "/v1/deliveries?cursor=x", None),
        ("POST", "/v1/jobs", {"kind": "text", "input": {"prompt": "x"}, "webhook": 1}),
        ("POST", "/v1/jobs", {"kind": "text", "input": {"prompt": "x"}, "webhook": {"url": public, "x": 1}}),
        ("POST", "/v1/jobs", {"kind": "text", "input": {"prompt": "x"}, "webhook": {"url": public, "events": ["x"]}}),
    ]
    for method, where, body in wrong:
        answer, problem = await api.call(method, where, json=body)
        assert (answer.status, problem["code"]) == (422, "invalid_input"), (where, body)
    for _ in range(19):
        await add(api, public)
    answer, problem = await api.call("POST", "/v1/webhook-endpoints", json={"url": public})
    assert (answer.status, problem["code"]) == (409, "conflict")


async def test_the_log_comes_in_pages(api: Api, receiver: Receiver) -> None:
    await add(api, receiver.url("ok"))
    jobs = [await submit(api) for _ in range(5)]
    for job in jobs:
        await api.complete(job["id"])
    await ended(api, 5)
    seen, cursor = [], ""
    while True:
        _, body = await api.call("GET", f"/v1/deliveries?limit=2{cursor}")
        seen += [one["job_id"] for one in body["data"]]
        if body["next_cursor"] is None:
            break
        cursor = f"&cursor={body['next_cursor']}"
    assert seen == [job["id"] for job in reversed(jobs)]
    _, body = await api.call("GET", f"/v1/deliveries?job_id={jobs[2]['id']}&state=delivered")
    assert [one["job_id"] for one in body["data"]] == [jobs[2]["id"]]


async def test_a_receiver_that_asks_for_patience_is_left_alone(api: Api, receiver: Receiver) -> None:
    receiver.answers["busy"] = [429]
    receiver.headers["busy"] = {"Retry-After": "1000"}
    await add(api, receiver.url("busy"))
    await api.complete((await submit(api))["id"])
    delivery = await tried(api, 1)
    wait = datetime.fromisoformat(delivery["next_try_at"]) - datetime.fromisoformat(delivery["log"][0]["at"])
    assert 990 < wait.total_seconds() < 1010


async def test_a_webhook_of_a_deleted_job_comes_without_the_job(api: Api, receiver: Receiver) -> None:
    await api.sql.execute("INSERT INTO deliveries_pause (actor) VALUES ('test')")
    await add(api, receiver.url("ok"))
    job = await submit(api)
    await api.complete(job["id"])
    await api.sql.execute("DELETE FROM jobs WHERE id = $1", parse(Prefix.JOB, job["id"]))
    await api.sql.execute("DELETE FROM deliveries_pause")
    (received,) = await receiver.wait("ok")
    assert (received.data["data"]["job_id"], received.data["data"]["job"]) == (job["id"], None)

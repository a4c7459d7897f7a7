"""Artifacts: conditional requests, links for others, an end."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

from tessera.api.artifacts.files import served_type
from tessera.api.schemas import artifacts as artifact_schemas
from tessera.ids import Prefix, parse, show
from tessera.scheduler.maintenance import collect_blobs
from tessera.share_links import sign
from tests.integration.api_server import Api
from tests.integration.test_api_moderation import acts, operator_key


async def finished(
    api: Api, data: bytes = b"0123456789", media_type: str = "image/png", kind: str = "image"
) -> dict[str, Any]:
    """The artifact of a job that has ended."""
    job = await api.submit(kind, prompt="a fox")
    await api.complete(job["id"], data, media_type)
    _, read = await api.call("GET", job["urls"]["self"])
    return dict(read["artifacts"][0])


async def share(api: Api, artifact: dict[str, Any], **body: Any) -> dict[str, Any]:
    answer, made = await api.call("POST", artifact["url"] + "/share", json=body)
    assert answer.status == 201, made
    artifact_schemas.Share.model_validate(made)
    return dict(made)


async def test_who_has_it_already_gets_304_by_tag_or_by_time(api: Api) -> None:
    url = (await finished(api))["url"]
    answer, _ = await api.call("GET", url)
    tag, made = answer.headers["ETag"], answer.headers["Last-Modified"]
    later = format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True)
    for headers, status in (
        ({"If-None-Match": tag}, 304),
        ({"If-Modified-Since": made}, 304),
        ({"If-Modified-Since": later}, 304),
        ({"If-Modified-Since": "Thu, 01 Jan 2015 00:00:00 GMT"}, 200),
        ({"If-Modified-Since": "nonsense"}, 200),
        # The tag decides where both are given.
        ({"If-None-Match": '"other"', "If-Modified-Since": later}, 200),
        ({"Range": "bytes=0-1", "If-Range": tag}, 206),
        ({"Range": "bytes=0-1", "If-Range": made}, 206),
        ({"Range": "bytes=0-1", "If-Range": "W/" + tag}, 200),
        ({"Range": "bytes=0-1", "If-Range": "Thu, 01 Jan 2015 00:00:00 GMT"}, 200),
    ):
        for method in ("GET", "HEAD"):
            answer, _ = await api.call(method, url, headers=headers)
            assert answer.status == status, (method, headers)
            assert answer.headers["ETag"] == tag


async def test_no_file_is_ever_served_as_a_page(api: Api) -> None:
    for claimed in ("text/html", "image/svg+xml", "application/xhtml+xml", "application/javascript", "text/xml"):
        assert served_type(claimed) == "application/octet-stream"
    answer, _ = await api.call("GET", (await finished(api, b"<svg/>", "image/svg+xml"))["url"])
    assert (answer.content_type, answer.headers["X-Content-Type-Options"]) == ("application/octet-stream", "nosniff")
    assert answer.headers["Content-Disposition"].startswith("attachment")
    assert "sandbox" in answer.headers["Content-Security-Policy"]


async def test_a_link_works_without_a_key_until_its_time_is_over(api: Api) -> None:
    artifact = await finished(api)
    link = await share(api, artifact, expires_in_s=3600)
    left = datetime.fromisoformat(link["expires_at"]) - datetime.now(UTC)
    assert timedelta(minutes=59) < left <= timedelta(hours=1)
    answer, body = await api.call("GET", link["url"], key=None)
    assert (answer.status, body, answer.headers["Cache-Control"]) == (200, b"0123456789", "private, no-cache")
    answer, body = await api.call("GET", link["url"], key=None, headers={"Range": "bytes=2-3"})
    assert (answer.status, body) == (206, b"23")
    answer, body = await api.call("HEAD", link["url"], key=None)
    assert (answer.status, body, answer.headers["Content-Length"]) == (200, b"", "10")
    answer, _ = await api.call("GET", link["url"], key=None, headers={"If-None-Match": answer.headers["ETag"]})
    assert answer.status == 304

    # One that is signed and over: made an hour ago by the clock of the services.
    secret = api.services.settings.secret_for("shares")

    old = sign(secret, 1, artifact["id"], datetime.now(UTC) - timedelta(seconds=1))
    answer, problem = await api.call("GET", old, key=None)
    assert (answer.status, problem["code"]) == (403, "forbidden")
    assert "time" in problem["detail"]


async def test_a_changed_link_is_worth_nothing(api: Api) -> None:
    artifact, other = await finished(api), await finished(api, b"another")
    url = (await share(api, artifact))["url"]
    expires = url.split("expires=")[1].split("&")[0]
    for wrong, status in (
        (url[:-1] + ("0" if url[-1] != "0" else "1"), 403),
        (url.replace(f"expires={expires}", f"expires={int(expires) + 1}"), 403),
        (url.replace("key=1", "key=2"), 403),
        (url.replace(artifact["id"], other["id"]), 403),
        (url.replace(artifact["id"], "nonsense"), 403),
        (url.split("&signature")[0], 422),
        (url.replace("signature=", "signature=%00"), 403),
        (url.replace(f"expires={expires}", "expires=-1"), 422),
        (url.replace(f"expires={expires}", "expires=99999999999999999999"), 422),
    ):
        answer, _ = await api.call("GET", wrong, key=None)
        assert answer.status == status, wrong


async def test_a_deleted_file_is_gone_by_its_links_too_and_its_bytes_are_collected(api: Api) -> None:
    artifact = await finished(api)
    url = (await share(api, artifact))["url"]
    for _ in range(2):
        assert (await api.call("DELETE", artifact["url"]))[0].status == 204
    for where, key in ((artifact["url"], ""), (artifact["url"] + "/thumbnail", ""), (url, None)):
        answer, problem = await api.call("GET", where, key=key)
        assert (answer.status, problem["code"]) == (410, "gone")
    assert (await api.call("POST", artifact["url"] + "/share"))[0].status == 410
    assert (await api.call("GET", "/v1/artifacts"))[1]["data"] == []
    sha256 = await api.sql.fetchval("SELECT sha256 FROM artifacts")
    kept = await api.sql.fetch(
        "SELECT 1 FROM artifacts WHERE sha256 = $1 AND (deleted_at IS NULL OR deleted_at > now() - interval '1 hour')",
        sha256,
    )
    assert kept, "for an hour nothing is collected: somebody may just be reading it"
    now = datetime.now(UTC) + timedelta(hours=2)
    assert await collect_blobs(api.services.db, api.store, now) == 0, "nor a blob that is younger than a day"
    rows = await api.services.db.rows("referenced_hashes", hashes=[sha256], now=now)
    assert rows == []


async def test_an_operator_makes_older_links_void(api: Api) -> None:
    artifact, key = await finished(api), await operator_key(api)
    first = (await share(api, artifact))["url"]
    answer, told = await api.call("POST", "/v1/admin/shares/rotate", key=key, json={"keep_for_s": 600})
    artifact_schemas.Rotated.model_validate(told)
    assert (answer.status, told["generation"]) == (200, 2)
    second = (await share(api, artifact))["url"]
    for url in (first, second):
        assert (await api.call("GET", url, key=None))[0].status == 200
    assert (await api.call("POST", "/v1/admin/shares/rotate", key=key))[1]["generation"] == 3
    for url in (first, second):
        assert (await api.call("GET", url, key=None))[0].status == 403
    assert (await api.call("GET", (await share(api, artifact))["url"], key=None))[0].status == 200
    assert await acts(api, "shares") == ["rotate_shares", "rotate_shares"]
    for wrong in (-1, 1.5, "1", True, 10**9):
        answer, problem = await api.call("POST", "/v1/admin/shares/rotate", key=key, json={"keep_for_s": wrong})
        assert (answer.status, problem["errors"][0]["field"]) == (422, "keep_for_s")


async def test_the_links_of_a_closed_account_lead_nowhere(api: Api) -> None:
    url = (await share(api, await finished(api)))["url"]
    await api.call(
        "POST",
        f"/v1/admin/users/{show(Prefix.USER, api.user_id)}/ban",
        key=await operator_key(api),
        json={"reason": "spam"},
    )
    assert (await api.call("GET", url, key=None))[0].status == 404


async def test_only_the_owner_shares_and_deletes(api: Api) -> None:
    artifact, stranger = await finished(api), await api.add_key()
    reader = await api.add_key(user_id=api.user_id, scopes=["read"])
    for key, status in ((stranger, 404), (reader, 403), (None, 401)):
        assert (await api.call("DELETE", artifact["url"], key=key))[0].status == status
        assert (await api.call("POST", artifact["url"] + "/share", key=key))[0].status == status
    for body in ({"expires_in_s": 1}, {"expires_in_s": 10**9}, {"expires_in_s": "1h"}, {"for": 60}):
        answer, problem = await api.call("POST", artifact["url"] + "/share", json=body)
        assert (answer.status, problem["errors"][0]["field"]) == (422, next(iter(body)))
    for method, path in (("DELETE", "/v1/artifacts/art_" + "0" * 26), ("DELETE", "/v1/artifacts/nonsense")):
        assert (await api.call(method, path))[0].status == 404
    assert (await api.call("GET", artifact["url"]))[0].status == 200


async def test_ones_artifacts_are_listed_by_kind_type_and_job_in_pages(api: Api) -> None:
    made = [await finished(api, b"%d" % number) for number in range(3)]
    made.append(await finished(api, b"song", "audio/wav", "music"))
    ids = [artifact["id"] for artifact in reversed(made)]
    _, found = await api.call("GET", "/v1/artifacts")
    artifact_schemas.OwnArtifactPage.model_validate(found)
    assert [one["id"] for one in found["data"]] == ids
    seen, cursor = [], ""
    while True:
        _, found = await api.call("GET", f"/v1/artifacts?limit=2{cursor}")
        seen += [one["id"] for one in found["data"]]
        if found["next_cursor"] is None:
            break
        cursor = f"&cursor={found['next_cursor']}"
    assert seen == ids
    _, found = await api.call("GET", "/v1/artifacts?kind=music")
    assert [one["id"] for one in found["data"]] == ids[:1]
    assert found["data"][0]["kind"] == "music"
    assert [one["id"] for one in (await api.call("GET", "/v1/artifacts?media=audio"))[1]["data"]] == ids[:1]
    job_id = found["data"][0]["job_id"]
    assert [one["id"] for one in (await api.call("GET", f"/v1/artifacts?job_id={job_id}"))[1]["data"]] == ids[:1]
    for wrong in ("kind=smell", "media=smell", "job_id=nonsense", "cursor=nonsense", "limit=0"):
        assert (await api.call("GET", f"/v1/artifacts?{wrong}"))[0].status == 422, wrong
    assert (await api.call("GET", "/v1/artifacts", key=await api.add_key()))[1]["data"] == []
    assert parse(Prefix.ARTIFACT, ids[0])

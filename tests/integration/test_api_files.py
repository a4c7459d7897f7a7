"""Uploads and artifacts over HTTP: types by content, ranges, thumbnails, and nobody else's files."""

from __future__ import annotations

import asyncio
import io
import json
import wave
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from PIL import Image

from tessera.artifacts import FolderStore
from tessera.errors import StorageFull
from tessera.ids import Prefix, new_id, parse
from tests.integration.api_server import Api, running


def png(width: int = 64, height: int = 48) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (width, height), "teal").save(out, "PNG")
    return out.getvalue()


def wav(seconds: float = 2.0) -> bytes:
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16_000)
        file.writeframes(b"\x01\x00" * int(seconds * 16_000))
    return out.getvalue()


async def send(api: Api, data: bytes, *, field: str = "file", name: str = "a.bin", key: str = "") -> tuple[int, Any]:
    form = aiohttp.FormData()
    form.add_field("note", "ignored")
    form.add_field(field, io.BytesIO(data), filename=name, content_type="application/x-lies")
    answer, body = await api.call("POST", "/v1/uploads", data=form, key=key)
    return answer.status, body


async def test_an_upload_is_typed_by_its_content(api: Api) -> None:
    status, upload = await send(api, png(), name="lies.mp3")
    assert status == 201
    assert (upload["media_type"], upload["bytes"]) == ("image/png", len(png()))
    assert (upload["width"], upload["height"]) == (64, 48)
    left = datetime.fromisoformat(upload["expires_at"]) - datetime.now(UTC)
    assert timedelta(hours=23) < left <= timedelta(hours=24)
    status, recording = await send(api, wav())
    assert (status, recording["media_type"], recording["duration_s"]) == (201, "audio/wav", 2)


@pytest.mark.parametrize(
    ("data", "status", "code"),
    [
        (b"", 422, "invalid_input"),
        (b"just text", 415, "unsupported_media"),
        (png()[:60], 415, "unsupported_media"),
        (b"%PDF-1.7 ...", 415, "unsupported_media"),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * (31 << 20), 413, "payload_too_large"),
    ],
    ids=["empty", "text", "cut short", "pdf", "31 MiB"],
)
async def test_what_cannot_be_used_is_not_stored(api: Api, data: bytes, status: int, code: str) -> None:
    found, problem = await send(api, data)
    assert (found, problem["code"]) == (status, code)
    assert await api.sql.fetchval("SELECT count(*) FROM uploads") == 0


async def test_a_decompression_bomb_is_refused(api: Api) -> None:
    bomb = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(bomb, "PNG")
    status, problem = await send(api, bomb.getvalue())
    assert (status, problem["code"]) == (415, "unsupported_media")


async def test_a_missing_field_and_a_body_that_is_no_form_are_422(api: Api) -> None:
    status, problem = await send(api, png(), field="picture")
    assert (status, problem["errors"]) == (422, [{"field": "file", "message": "is missing"}])
    for body, kind in (
        (b"", "multipart/form-data"),
        (b"{}", "application/json"),
        (b"garbage", "multipart/form-data; boundary=x"),
        (b"--x\r\nContent-Disposition: form-data; name=file\r\n\r\nabc", "multipart/form-data; boundary=x"),
        (b"--x\r\nbroken\r\n\r\n--x--", "multipart/form-data; boundary=x"),
    ):
        answer, problem = await api.call("POST", "/v1/uploads", data=body, headers={"Content-Type": kind})
        assert (answer.status, problem["code"]) == (422, "invalid_input"), (body, kind)


async def test_an_upload_without_an_end_is_cut_off(api: Api) -> None:
    async def endless() -> Any:
        yield b'--x\r\nContent-Disposition: form-data; name="file"\r\n\r\n'
        for _ in range(110):
            yield b"\0" * (1 << 20)

    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    answer, problem = await api.call("POST", "/v1/uploads", data=endless(), headers=headers)
    assert (answer.status, problem["code"]) == (413, "payload_too_large")


async def test_a_full_store_is_503_and_not_a_bug(database_url: str, tmp_path: Path) -> None:
    class Full(FolderStore):
        async def put_file(self, path: Path) -> str:
            raise StorageFull

    async with running(database_url, tmp_path, store=Full(tmp_path)) as api:
        status, problem = await send(api, png())
        assert (status, problem["code"], problem["retryable"]) == (503, "unavailable", True)


async def test_a_transcription_costs_what_the_recording_is_long(api: Api) -> None:
    _, upload = await send(api, wav(3.0))
    job = await api.submit("transcription", upload=upload["id"])
    assert job["cost_tokens"] == 0.01
    assert job["input"]["upload"] == upload["id"]
    assert "_files" not in job["input"]
    stored = await api.sql.fetchval("SELECT input FROM jobs")
    assert stored["_files"]["upload"]["media_type"] == "audio/wav"
    assert await api.store.get(stored["_files"]["upload"]["sha256"]) == wav(3.0)
    _, read = await api.call("GET", job["urls"]["self"])
    assert "_files" not in json.dumps(read)


async def test_an_enlargement_costs_what_comes_out(api: Api) -> None:
    _, upload = await send(api, png(512, 512))
    job = await api.submit("image", image=upload["id"], scale=2)
    assert job["cost_tokens"] == 1
    answer, problem = await api.call(
        "POST", "/v1/jobs", json={"kind": "image", "input": {"image": upload["id"], "scale": 4.0}}
    )
    assert answer.status == 202
    free = await api.add_key(plan="free")
    _, theirs = await send(api, png(512, 512), key=free)
    answer, problem = await api.call(
        "POST", "/v1/jobs", key=free, json={"kind": "image", "input": {"image": theirs["id"], "scale": 4.0}}
    )
    assert (answer.status, problem["errors"][0]["field"]) == (422, "input.scale")


async def test_an_artifact_can_be_the_input_of_another_job(api: Api) -> None:
    job = await api.submit("image", prompt="a fox")
    await api.complete(job["id"], png())
    _, read = await api.call("GET", job["urls"]["self"])
    second = await api.submit("image", prompt="a redder fox", image=read["artifacts"][0]["id"])
    assert second["input"]["image"] == read["artifacts"][0]["id"]


async def test_files_that_are_missing_foreign_expired_or_of_another_type_are_422(api: Api) -> None:
    _, picture = await send(api, png())
    _, recording = await send(api, wav())
    _, old = await send(api, png(32, 32))
    await api.sql.execute(
        "UPDATE uploads SET expires_at = now() - interval '1 s' WHERE id = $1", parse(Prefix.UPLOAD, old["id"])
    )
    stranger = await api.add_key()
    for key, kind, data, field in (
        ("", "transcription", {"upload": picture["id"]}, "input.upload"),
        ("", "transcription", {"upload": "upl_" + "0" * 26}, "input.upload"),
        ("", "transcription", {"upload": "nonsense"}, "input.upload"),
        ("", "transcription", {"upload": "upl_\x00"}, "input.upload"),
        ("", "image", {"prompt": "x", "image": recording["id"]}, "input.image"),
        ("", "image", {"prompt": "x", "image": old["id"]}, "input.image"),
        ("", "image", {"prompt": "x", "image": picture["id"], "mask": recording["id"]}, "input.mask"),
        (stranger, "image", {"prompt": "x", "image": picture["id"]}, "input.image"),
        (stranger, "transcription", {"upload": recording["id"]}, "input.upload"),
    ):
        answer, problem = await api.call("POST", "/v1/jobs", key=key, json={"kind": kind, "input": data})
        assert answer.status == 422, problem
        assert problem["errors"][0]["field"] == field


# ------------------------------------------------------------------ artifacts


async def finished(api: Api, data: bytes, media_type: str = "image/png") -> str:
    job = await api.submit("image", prompt="a fox")
    await api.complete(job["id"], data, media_type)
    _, read = await api.call("GET", job["urls"]["self"])
    return str(read["artifacts"][0]["url"])


async def test_an_artifact_comes_with_its_type_and_a_readable_name(api: Api) -> None:
    url = await finished(api, png())
    answer, body = await api.call("GET", url)
    assert (answer.status, body) == (200, png())
    assert answer.content_type == "image/png"
    assert answer.headers["Content-Length"] == str(len(png()))
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Cache-Control"].startswith("private")
    assert answer.headers["Accept-Ranges"] == "bytes"
    assert answer.headers["Content-Disposition"].startswith('inline; filename="image-')
    assert answer.headers["Content-Disposition"].endswith('-1.png"')


RANGES = [
    ("bytes=0-3", 206, b"0123", "bytes 0-3/10"),
    ("bytes=4-", 206, b"456789", "bytes 4-9/10"),
    ("bytes=-2", 206, b"89", "bytes 8-9/10"),
    ("bytes=-99", 206, b"0123456789", "bytes 0-9/10"),
    ("bytes=8-99", 206, b"89", "bytes 8-9/10"),
    ("bytes=9-9", 206, b"9", "bytes 9-9/10"),
    ("bytes=0-1,4-5", 200, b"0123456789", None),
    ("bytes=5-2", 200, b"0123456789", None),
    ("bytes=-", 200, b"0123456789", None),
    ("lines=1-2", 200, b"0123456789", None),
    ("nonsense", 200, b"0123456789", None),
    ("bytes=" + "9" * 400 + "-", 200, b"0123456789", None),
]


async def test_a_range_gives_its_bytes_and_nonsense_the_whole_file(api: Api) -> None:
    url = await finished(api, b"0123456789")
    for asked, status, expected, content_range in RANGES:
        answer, body = await api.call("GET", url, headers={"Range": asked})
        assert (answer.status, body) == (status, expected), asked
        assert answer.headers.get("Content-Range") == content_range


async def test_a_range_outside_of_the_file_is_416(api: Api) -> None:
    url = await finished(api, b"0123456789")
    for asked in ("bytes=10-", "bytes=-0", "bytes=99-100"):
        answer, problem = await api.call("GET", url, headers={"Range": asked})
        assert (answer.status, problem["code"]) == (416, "range_not_satisfiable")
        assert answer.headers["Content-Range"] == "bytes */10"


async def test_conditional_requests(api: Api) -> None:
    url = await finished(api, b"0123456789")
    etag = (await api.call("GET", url))[0].headers["ETag"]
    for given in (etag, f'W/{etag}, "x"', "*"):
        answer, body = await api.call("GET", url, headers={"If-None-Match": given})
        assert (answer.status, body) == (304, b"")
    answer, body = await api.call("GET", url, headers={"Range": "bytes=0-1", "If-Range": etag})
    assert (answer.status, body) == (206, b"01")
    answer, body = await api.call("GET", url, headers={"Range": "bytes=0-1", "If-Range": '"other"'})
    assert (answer.status, body) == (200, b"0123456789")


async def test_head_of_an_artifact_has_its_size_and_no_body(api: Api) -> None:
    url = await finished(api, b"0123456789")
    answer, body = await api.call("HEAD", url)
    assert (answer.status, body, answer.headers["Content-Length"]) == (200, b"", "10")
    assert (await api.call("GET", url))[1] == b"0123456789", "the connection is still in step"


async def test_a_large_artifact_comes_whole(api: Api) -> None:
    data = bytes(range(256)) * 4096 * 3
    url = await finished(api, data, "video/mp4")
    assert (await api.call("GET", url))[1] == data


async def test_an_artifact_is_its_owners_only(api: Api) -> None:
    url = await finished(api, b"0123456789")
    answer, problem = await api.call("GET", url, key=await api.add_key())
    assert (answer.status, problem["code"]) == (404, "not_found")


async def test_deleted_and_lost_artifacts_are_410(api: Api) -> None:
    url = await finished(api, b"0123456789")
    sha256 = await api.sql.fetchval("SELECT sha256 FROM artifacts")
    assert isinstance(api.store, FolderStore)
    await asyncio.to_thread((api.store.path / "blobs" / sha256[:2] / sha256[2:4] / sha256).unlink)
    answer, problem = await api.call("GET", url)
    assert (answer.status, problem["code"]) == (410, "gone")
    await api.sql.execute("UPDATE artifacts SET deleted_at = now()")
    answer, problem = await api.call("GET", url)
    assert (answer.status, problem["code"]) == (410, "gone")


async def test_thumbnails(api: Api) -> None:
    job = await api.submit("image", prompt="a fox")
    attempt = await api.claim(job["id"])
    small = b"\xff\xd8\xff small"
    artifact = {
        "id": str(new_id()),
        "index": 0,
        "sha256": await api.store.put(png()),
        "media_type": "image/png",
        "bytes": len(png()),
        "thumbnail_sha256": await api.store.put(small),
    }
    await api.finish(job["id"], attempt, artifacts=[artifact], output={})
    _, read = await api.call("GET", job["urls"]["self"])
    for url in (read["artifacts"][0]["thumbnail_url"], read["artifacts"][0]["url"] + "?thumbnail=1"):
        answer, body = await api.call("GET", url)
        assert (answer.status, body, answer.content_type) == (200, small, "image/jpeg")
    url = await finished(api, b"sound", "audio/wav")
    assert (await api.call("GET", url + "/thumbnail"))[0].status == 404

"""What callers get for what is wrong: the right code, a sentence that helps, nothing lost, never a 500."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest

from tests.acceptance.conftest import Platform
from tests.acceptance.http import Answer, Api


def problem(answer: Answer, status: int, code: str) -> dict[str, Any]:
    """The problem document of a refusal."""
    assert (answer.status, answer.json.get("code")) == (status, code), answer.body[:500]
    assert answer.headers["content-type"].startswith("application/problem+json")
    assert answer.headers["x-request-id"]
    assert len(answer.json["detail"]) > 20
    assert "Traceback" not in answer.body.decode()
    return dict(answer.json)


def test_a_wrong_or_missing_key_is_401_and_says_how_to_send_one(api: Api) -> None:
    for key in (None, "nonsense", "tsr_0000000000000000_wrong", (api.key or "")[:-2] + "xx"):
        answer = Api(api.url, key).get("/v1/jobs")
        problem(answer, 401, "unauthorized")
        assert "www-authenticate" in answer.headers


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"{", 400, "invalid_json"),
        (b"", 400, "invalid_json"),
        (b"[1]", 400, "invalid_json"),
        (b'{"kind": "image", "input": {"prompt": "\\ud800"}}', 400, "invalid_json"),
        (b"\xff\xfe", 400, "invalid_json"),
        (b"[" * 100_000, 400, "invalid_json"),
        (b"{}", 422, "invalid_input"),
        (b'{"kind": "dance", "input": {}}', 422, "invalid_input"),
        (b'{"kind": "image"}', 422, "invalid_input"),
        (b'{"kind": "image", "input": {}}', 422, "invalid_input"),
        (b'{"kind": "image", "input": {"prompt": "x", "width": -1}}', 422, "invalid_input"),
        (b'{"kind": "image", "input": {"prompt": "x", "width": 1e400}}', 400, "invalid_json"),
        (b'{"kind": "image", "input": {"prompt": "x", "seed": 99999999999999999999}}', 422, "invalid_input"),
        (b'{"kind": "image", "input": {"prompt": "a\\u0000b"}}', 422, "invalid_input"),
        (b'{"kind": "image", "input": {"prompt": "x", "colour": "red"}}', 422, "invalid_input"),
        (b'{"kind": "image", "model": "sdxl", "input": {"prompt": "x"}}', 422, "unknown_model"),
        (b'{"kind": "image", "model": 5, "input": {"prompt": "x"}}', 422, "invalid_input"),
        (b'{"kind": "transcription", "input": {"upload": "upl_00000000000000000000000000"}}', 422, "invalid_input"),
        (b'{"kind": "image", "input": {"prompt": "x"}, "surprise": 1}', 422, "invalid_input"),
        (b'{"kind": "image", "input": {"prompt": "x"}, "metadata": {"a": "\\u0000"}}', 422, "invalid_input"),
    ],
)
def test_a_wrong_body_is_refused_with_its_code(api: Api, body: bytes, status: int, code: str) -> None:
    answer = api.request("POST", "/v1/jobs", body, {"Content-Type": "application/json"})
    problem(answer, status, code)


def test_an_unknown_field_is_refused_by_name(api: Api) -> None:
    refusal = api.post("/v1/jobs", {"kind": "image", "input": {"prompt": "x", "colour": "red"}})
    assert "colour" in problem(refusal, 422, "invalid_input")["detail"]


def test_a_prompt_of_100_mb_is_413_and_the_service_lives_on(api: Api) -> None:
    body = b'{"kind": "image", "input": {"prompt": "' + b"x" * 100_000_000 + b'"}}'
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the server may close before it has read it all
        problem(api.request("POST", "/v1/jobs", body, timeout=60), 413, "payload_too_large")
    assert api.get("/healthz").status == 200


def test_malformed_unknown_and_foreign_ids_are_404(platform: Platform, api: Api) -> None:
    job = api.submit("text", prompt="mine", max_tokens=4)
    stranger = platform.new_user("free")
    for path in ("/v1/jobs/nope", "/v1/jobs/job_00000000000000000000000000", "/v1/jobs/%00", "/nothing"):
        problem(api.get(path), 404, "not_found")
    problem(stranger.get(f"/v1/jobs/{job['id']}"), 404, "not_found")
    problem(stranger.post(f"/v1/jobs/{job['id']}/cancel"), 404, "not_found")
    done = api.wait(api.submit("speech", text="mine")["id"])
    problem(stranger.get(done["artifacts"][0]["url"]), 404, "not_found")


def test_files_that_are_none_are_refused_by_their_content(api: Api) -> None:
    problem(api.upload(b"this is text, whatever it is called", "photo.png"), 415, "unsupported_media")
    problem(api.upload(b"\x89PNG\r\n\x1a\n" + b"broken" * 10), 415, "unsupported_media")
    empty = api.upload(b"")
    assert empty.status in (415, 422)
    missing = api.request("POST", "/v1/uploads", b"{}", {"Content-Type": "application/json"})
    assert missing.status in (415, 422)


def test_a_size_above_the_plan_is_refused_and_named(platform: Platform) -> None:
    free = platform.new_user("free")
    refusal = free.post("/v1/jobs", {"kind": "image", "input": {"prompt": "x", "width": 2048, "height": 1024}})
    assert "free" in problem(refusal, 422, "invalid_input")["detail"]


def test_a_quota_that_is_used_up_is_402_with_the_time_of_its_reset_and_nothing_is_charged(platform: Platform) -> None:
    free = platform.new_user("free")
    answers = [free.post("/v1/jobs", {"kind": "music", "input": {"prompt": "x", "duration_s": 300}}) for _ in range(3)]
    assert [answer.status for answer in answers] == [202, 202, 402]
    refusal = problem(answers[2], 402, "quota_exhausted")
    assert refusal["retryable"] is False
    assert refusal["retry_after_s"] > 0
    assert free.get("/v1/me").json["quota"]["used_tokens"] == 20
    for answer in answers[:2]:
        free.post(f"/v1/jobs/{answer.json['id']}/cancel")


def test_the_same_idempotency_key_gives_the_same_job_and_another_body_422(api: Api) -> None:
    body = {"kind": "text", "input": {"prompt": "once", "max_tokens": 4}}
    first = api.post("/v1/jobs", body, Idempotency_Key="acceptance-1")
    again = api.post("/v1/jobs", body, Idempotency_Key="acceptance-1")
    assert (first.status, again.status) == (202, 202)
    assert first.json["id"] == again.json["id"]
    other = api.post("/v1/jobs", {**body, "metadata": {"a": 1}}, Idempotency_Key="acceptance-1")
    problem(other, 422, "idempotency_mismatch")


def test_every_answer_has_its_request_id_and_the_callers_own_is_kept(api: Api) -> None:
    assert api.get("/v1/jobs", X_Request_Id="mine-123").headers["x-request-id"] == "mine-123"
    assert Api(api.url, None).get("/v1/models").headers["x-request-id"]


def test_the_openapi_document_describes_every_route_of_the_contract(api: Api) -> None:
    paths = json.loads(Api(api.url, None).get("/openapi.json").body)["paths"]
    for path in (
        "/v1/jobs",
        "/v1/jobs/{job_id}",
        "/v1/jobs/{job_id}/events",
        "/v1/jobs/{job_id}/cancel",
        "/v1/uploads",
        "/v1/models",
        "/v1/plans",
        "/v1/me",
        "/v1/usage",
        "/healthz",
        "/readyz",
        "/metrics",
    ):
        assert path in paths

"""Whatever is sent, the answer is the right code with a sentence that helps: never a 500, and nothing is kept."""

from __future__ import annotations

import asyncio
import io
import json
import random
import string
from typing import Any

from tests.integration.api_server import Api

TEXT: dict[str, Any] = {"kind": "text", "input": {"prompt": "hello"}}

# name → (body, status, code, what the detail has to mention)
BODIES: dict[str, tuple[bytes, int, str, str]] = {
    "empty": (b"", 400, "invalid_json", "empty"),
    "not JSON": (b"kind=text", 400, "invalid_json", "line 1"),
    "half of JSON": (b'{"kind": "text"', 400, "invalid_json", "line 1"),
    "a list": (b"[]", 400, "invalid_json", "object"),
    "a number": (b"1", 400, "invalid_json", "object"),
    "null": (b"null", 400, "invalid_json", "object"),
    "NaN": (b'{"kind":"text","input":{"prompt":"x","temperature":NaN}}', 400, "invalid_json", ""),
    "infinity": (b'{"kind":"text","input":{"prompt":"x","temperature":1e999}}', 400, "invalid_json", ""),
    "a lone surrogate": (rb'{"kind":"text","input":{"prompt":"\ud800"}}', 400, "invalid_json", "surrogate"),
    "bytes that are not UTF-8": (b'{"kind":"text","input":{"prompt":"\xff"}}', 400, "invalid_json", "UTF-8"),
    "a byte order mark": (b"\xef\xbb\xbf{}", 400, "invalid_json", ""),
    "bottomless nesting": (b"[" * 100_000, 400, "invalid_json", ""),
    "deep metadata": (
        b'{"kind":"text","input":{"prompt":"x"},"metadata":{"a":' + b"[" * 600 + b"]" * 600 + b"}}",
        *(422, "invalid_input", "nested"),
    ),
    "deep input": (
        b'{"kind":"text","input":{"prompt":"x","what":' + b"[" * 900 + b"]" * 900 + b"}}",
        *(422, "invalid_input", "what"),
    ),
    "no kind": (b'{"input":{"prompt":"x"}}', 422, "invalid_input", "kind"),
    "an unknown kind": (b'{"kind":"poem","input":{}}', 422, "invalid_input", "one of image"),
    "a kind that is a list": (b'{"kind":["text"],"input":{}}', 422, "invalid_input", "kind"),
    "no input": (b'{"kind":"text"}', 422, "invalid_input", "input"),
    "an input that is a text": (b'{"kind":"text","input":"hello"}', 422, "invalid_input", "input"),
    "an unknown field": (b'{"kind":"text","input":{"prompt":"x"},"priority":9}', 422, "invalid_input", "priority"),
    "an unknown field with NUL": (b'{"kind":"text","input":{},"\\u0000":9}', 422, "invalid_input", "unknown"),
    "an unknown field of the input": (
        b'{"kind":"text","input":{"prompt":"x","seeds":1}}',
        *(422, "invalid_input", "input.seeds"),
    ),
    "the reserved field": (b'{"kind":"text","input":{"prompt":"x","_files":{}}}', 422, "invalid_input", "_files"),
    "an unknown model": (
        b'{"kind":"text","model":"gpt-9","input":{"prompt":"x"}}',
        *(422, "unknown_model", "preview-text"),
    ),
    "a model of another kind": (
        b'{"kind":"text","model":"preview-image","input":{"prompt":"x"}}',
        *(422, "unknown_model", "text"),
    ),
    "a model that is a number": (b'{"kind":"text","model":7,"input":{"prompt":"x"}}', 422, "invalid_input", "model"),
    "an empty prompt": (b'{"kind":"image","input":{"prompt":"  "}}', 422, "invalid_input", "prompt"),
    "a NUL byte": (b'{"kind":"text","input":{"prompt":"a\\u0000b"}}', 422, "invalid_input", "NUL"),
    "a NUL byte in metadata": (
        b'{"kind":"text","input":{"prompt":"x"},"metadata":{"a":["\\u0000"]}}',
        *(422, "invalid_input", "NUL"),
    ),
    "a NUL byte in a key of metadata": (
        b'{"kind":"text","input":{"prompt":"x"},"metadata":{"\\u0000":1}}',
        *(422, "invalid_input", "NUL"),
    ),
    "too much metadata": (
        json.dumps({**TEXT, "metadata": {"a": "x" * 5000}}).encode(),
        *(422, "invalid_input", "4096"),
    ),
    "metadata that is a text": (
        b'{"kind":"text","input":{"prompt":"x"},"metadata":"m"}',
        422,
        "invalid_input",
        "metadata",
    ),
    "a negative size": (b'{"kind":"image","input":{"prompt":"x","width":-5}}', 422, "invalid_input", "width"),
    "a huge size": (b'{"kind":"image","input":{"prompt":"x","width":1e300}}', 422, "invalid_input", "width"),
    "a huge number": (
        b'{"kind":"image","input":{"prompt":"x","seed":' + b"9" * 300 + b"}}",
        422,
        "invalid_input",
        "seed",
    ),
    "a seed past 64 bits": (
        b'{"kind":"image","input":{"prompt":"x","seed":18446744073709551616}}',
        *(422, "invalid_input", "seed"),
    ),
    "an odd video": (b'{"kind":"video","input":{"prompt":"x","width":65}}', 422, "invalid_input", "width"),
    "a long video": (b'{"kind":"video","input":{"prompt":"x","duration_s":1e6}}', 422, "invalid_input", "duration_s"),
    "a mask without an image": (
        b'{"kind":"image","input":{"prompt":"x","mask":"upl_x"}}',
        422,
        "invalid_input",
        "image",
    ),
    "a missing upload": (b'{"kind":"transcription","input":{}}', 422, "invalid_input", "upload"),
    "a prompt and messages": (
        b'{"kind":"text","input":{"prompt":"x","messages":[{"role":"user","content":"y"}]}}',
        *(422, "invalid_input", "either"),
    ),
    "an unknown tier": (b'{"kind":"text","input":{"prompt":"x"},"tier":"pro"}', 422, "invalid_input", "tier"),
    "a deadline without a zone": (
        b'{"kind":"text","input":{"prompt":"x"},"deadline":"2100-01-01T00:00:00"}',
        *(422, "invalid_input", "deadline"),
    ),
    "a deadline that is over": (
        b'{"kind":"text","input":{"prompt":"x"},"deadline":"2001-01-01T00:00:00Z"}',
        *(422, "invalid_input", "over"),
    ),
    "a deadline at the end of time": (
        b'{"kind":"text","input":{"prompt":"x"},"deadline":"9999-12-31T23:59:59-14:00"}',
        *(422, "invalid_input", "deadline"),
    ),
    "a deadline that is a number": (
        b'{"kind":"text","input":{"prompt":"x"},"deadline":1900000000}',
        *(422, "invalid_input", "deadline"),
    ),
    "a not_before next century": (
        b'{"kind":"text","input":{"prompt":"x"},"not_before":"2199-01-01T00:00:00Z"}',
        *(422, "invalid_input", "30 days"),
    ),
    "a body of 3 MB": (
        json.dumps({"kind": "text", "input": {"prompt": "x" * 3_000_000}}).encode(),
        *(413, "payload_too_large", "2 MiB"),
    ),
    "a prompt of 1 MB": (
        json.dumps({"kind": "text", "input": {"prompt": "x" * 1_000_000}}).encode(),
        *(422, "invalid_input", "prompt"),
    ),
}


async def test_bad_bodies_get_the_right_code_and_leave_nothing(api: Api) -> None:
    for name, (body, status, code, word) in BODIES.items():
        answer, problem = await api.call(
            "POST",
            "/v1/jobs",
            data=io.BytesIO(body),
            headers={"Content-Type": "application/json", "X-Request-Id": "mine-1"},
        )
        assert (answer.status, problem["code"]) == (status, code), f"{name}: {problem}"
        assert word in problem["detail"], f"{name}: {problem['detail']}"
        assert answer.content_type == "application/problem+json"
        assert problem["request_id"] == answer.headers["X-Request-Id"] == "mine-1"
        assert problem["type"] == f"/docs/errors#error-{code}"
        assert problem["status"] == status
        assert problem["retryable"] is False
    assert await api.sql.fetchval("SELECT count(*) FROM jobs") == 0
    assert await api.sql.fetchval("SELECT used_mt FROM user_state WHERE user_id = $1", api.user_id) == 0


async def test_a_prompt_of_a_hundred_megabytes_is_refused_in_words(api: Api) -> None:
    async def endless() -> Any:
        for _ in range(100):
            yield b"x" * (1 << 20)

    for body in (endless(), io.BytesIO(b"x" * (100 << 20))):
        answer, problem = await api.call("POST", "/v1/jobs", data=body)
        assert (answer.status, problem["code"]) == (413, "payload_too_large")
        assert (await api.call("GET", "/v1/me"))[0].status == 200


async def test_a_hundred_megabytes_that_are_announced_are_refused_at_once(api: Api) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", int(api.url.rpartition(":")[2]))
    head = f"POST /v1/jobs HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {api.key}\r\nContent-Length: 104857600\r\n\r\n"
    writer.write(head.encode())
    async with asyncio.timeout(5):
        assert b"413" in await reader.readuntil(b"\r\n\r\n")
    writer.close()


async def test_bad_headers_and_parameters_are_refused_by_name(api: Api) -> None:
    for path, word in (
        ("/v1/jobs?limit=0", "limit"),
        ("/v1/jobs?limit=x", "limit"),
        ("/v1/jobs?limit=99999999999999999999", "limit"),
        ("/v1/jobs?state=done", "state"),
        ("/v1/jobs?kind=poem", "kind"),
        ("/v1/jobs?cursor=nonsense", "cursor"),
        ("/v1/jobs?cursor=%00", "cursor"),
        ("/v1/jobs?model=" + "x" * 999, "model"),
        ("/v1/usage?days=1e9", "days"),
    ):
        answer, problem = await api.call("GET", path)
        assert (answer.status, problem["code"]) == (422, "invalid_input"), path
        assert word in problem["detail"]
    assert (await api.call("GET", "/v1/jobs?model=%00"))[0].status == 200
    answer, problem = await api.call("POST", "/v1/jobs", json=TEXT, headers={"Idempotency-Key": "x" * 256})
    assert (answer.status, problem["errors"][0]["field"]) == (422, "Idempotency-Key")
    for given in ("a b\tc", "é", "x" * 500, "", "../../etc/passwd"):
        answer, _ = await api.call("GET", "/v1/me", headers={"X-Request-Id": given})
        assert answer.status in (200, 400), given
        if answer.status == 200:
            assert answer.headers["X-Request-Id"].startswith("req_"), "what is no sane token is replaced"
    for given in ("wait=x", "wait=-1", "wait=99999999999", "wait", "", ";;;"):
        answer, _ = await api.call("POST", "/v1/jobs", json=TEXT, headers={"Prefer": given})
        assert answer.status == 202, given


async def test_bodies_of_keys_and_users_are_checked(api: Api) -> None:
    admin = await api.add_key(user_id=await api.add_user(is_admin=True), scopes=["jobs", "admin"])
    for path, body, field in (
        ("/v1/keys", {}, "name"),
        ("/v1/keys", {"name": "\x00"}, "name"),
        ("/v1/keys", {"name": "x" * 101}, "name"),
        ("/v1/keys", {"name": 5}, "name"),
        ("/v1/keys", {"name": "x", "scopes": []}, "scopes"),
        ("/v1/keys", {"name": "x", "scopes": ["root"]}, "scopes"),
        ("/v1/keys", {"name": "x", "scopes": [{}]}, "scopes"),
        ("/v1/keys", {"name": "x", "daily_cap_tokens": -1}, "daily_cap_tokens"),
        ("/v1/keys", {"name": "x", "daily_cap_tokens": 1e300}, "daily_cap_tokens"),
        ("/v1/keys", {"name": "x", "daily_cap_tokens": True}, "daily_cap_tokens"),
        ("/v1/keys", {"name": "x", "expires_at": "soon"}, "expires_at"),
        ("/v1/keys", {"name": "x", "colour": "red"}, "colour"),
        ("/v1/admin/users", {"name": "a\nb"}, "name"),
        ("/v1/admin/users", {"name": "a", "plan": "gold"}, "plan"),
        ("/v1/admin/users", {"name": "a", "plan": ["pro"]}, "plan"),
        ("/v1/admin/users", {"name": "a", "is_admin": True}, "is_admin"),
    ):
        answer, problem = await api.call("POST", path, key=admin, json=body)
        assert (answer.status, problem["errors"][0]["field"]) == (422, field), (path, body)


async def test_unknown_addresses_and_methods_are_problems(api: Api) -> None:
    for path in ("/", "/v1", "/v1/nothing", "/v1/jobs/", "/%00", "/v1/jobs/a/b/c", "//v1/jobs", "/../etc/passwd"):
        answer, problem = await api.call("GET", path)
        assert (answer.status, problem["code"]) == (404, "not_found"), path
    answer, problem = await api.call("PUT", "/v1/jobs")
    assert (answer.status, problem["code"]) == (405, "method_not_allowed")
    assert answer.headers["Allow"] == "GET, HEAD, OPTIONS, POST"
    answer, body = await api.call("OPTIONS", "/v1/jobs", key=None)
    assert (answer.status, body, answer.headers["Allow"]) == (204, b"", "GET, HEAD, OPTIONS, POST")
    answer, _ = await api.call("OPTIONS", "/v1/identities/link", key=None)  # which is no identity to be deleted
    assert (answer.status, answer.headers["Allow"]) == (204, "OPTIONS, POST")


async def test_head_answers_as_get_without_a_body(api: Api) -> None:
    job = await api.submit()
    for path in ("/v1/jobs", job["urls"]["self"], job["urls"]["events"], "/v1/models", "/healthz", "/docs"):
        answer, body = await api.call("HEAD", path)
        assert (answer.status, body) == (200, b""), path
    answer, body = await api.call("HEAD", "/v1/nothing")
    assert (answer.status, body) == (404, b"")


async def test_random_bodies_never_make_a_500(api: Api) -> None:
    """The seed is fixed; a failure names the body."""
    chance = random.Random(20260101)
    values: list[Any] = [None, True, -1, 0, 2**53, 1e308, "", "x", "\x00", "upl_" + "0" * 26, [], {}, [[]], {"a": {}}]
    names = ["kind", "model", "input", "tier", "metadata", "deadline", "not_before", "x"]
    inputs = [
        "prompt",
        "width",
        "height",
        "count",
        "seed",
        "image",
        "scale",
        "messages",
        "stop",
        "upload",
        "text",
        "voice",
    ]
    kinds = ["image", "video", "text", "transcription", "speech", "music"]
    for _ in range(200):
        body: dict[str, Any] = {"kind": chance.choice(kinds), "input": {"prompt": "x"}}
        for _ in range(chance.randrange(4)):
            body[chance.choice(names)] = chance.choice(values)
        if isinstance(body.get("input"), dict):
            body["input"] = dict(body["input"])
            for _ in range(chance.randrange(4)):
                body["input"][chance.choice(inputs)] = chance.choice(values)
        data = json.dumps(body).encode()
        if chance.random() < 0.2:
            at = chance.randrange(len(data))
            data = data[:at] + chance.choice(string.printable).encode() + data[at + chance.randrange(3) :]
        answer, problem = await api.call("POST", "/v1/jobs", data=data)
        assert answer.status in (202, 400, 402, 422, 429), (data, problem)

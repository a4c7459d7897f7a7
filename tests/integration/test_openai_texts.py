"""OpenAI's SDK, unmodified, against chat and completions: answers, streams, refusals, and callers who go away."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.integration.api_server import Api
from tests.integration.working_api import working

STORY = "tell me a long story about rain"
ASK = [{"role": "user", "content": "What is 15% of 80?"}]


@pytest.fixture
async def api(database_url: str, tmp_path: Path) -> AsyncIterator[Api]:
    async with working(database_url, tmp_path) as started:
        yield started


@pytest.fixture
async def slow(database_url: str, tmp_path: Path) -> AsyncIterator[Api]:
    """Texts come at 20 text tokens a second."""
    async with working(database_url, tmp_path, tokens_per_s=20.0) as started:
        yield started


def sdk(api: Api, key: str = "") -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{api.url}/openai/v1", api_key=key or api.key, max_retries=0, timeout=60)


async def until(check: Callable[[], Awaitable[Any]], seconds: float = 30.0) -> Any:
    async with asyncio.timeout(seconds):
        while not (found := await check()):  # noqa: ASYNC110 (Postgres tells nobody)
            await asyncio.sleep(0.02)
    return found


async def test_a_chat_is_answered_with_its_usage_and_costs_what_was_used(api: Api) -> None:
    async with sdk(api) as client:
        raw = await client.chat.completions.with_raw_response.create(model="gpt-4o-mini", messages=ASK)
    answer = raw.parse()
    assert "12" in (answer.choices[0].message.content or "")
    assert answer.choices[0].finish_reason == "stop"
    assert answer.object == "chat.completion" and answer.model == "preview-text"
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens > 0
    assert int(raw.headers["x-ratelimit-limit-requests"]) == 100_000
    assert int(raw.headers["x-ratelimit-remaining-requests"]) < 100_000
    assert raw.headers["x-request-id"].startswith("req_")
    job = await api.sql.fetchrow("SELECT state, cost_mt, charged_mt FROM jobs")
    assert job["state"] == "completed"
    assert job["charged_mt"] == -(-answer.usage.total_tokens * 1000 // 2000) < job["cost_mt"]
    assert float(raw.headers["tessera-charged-tokens"]) == job["charged_mt"] / 1000


def test_the_sync_client_works_as_well(database_url: str, tmp_path: Path) -> None:
    async def both() -> None:
        async with working(database_url, tmp_path) as api:

            def ask() -> tuple[str, list[str]]:
                with openai.OpenAI(base_url=f"{api.url}/openai/v1", api_key=api.key, timeout=60) as client:
                    whole = client.chat.completions.create(model="gpt-4o", messages=ASK)
                    stream = client.chat.completions.create(model="gpt-4o", messages=ASK, stream=True)
                    pieces = [c.choices[0].delta.content or "" for c in stream if c.choices]
                    return whole.choices[0].message.content or "", pieces

            whole, pieces = await asyncio.to_thread(ask)
            assert "12" in whole and "12" in "".join(pieces)

    asyncio.run(both())


async def test_a_stream_gives_the_text_in_pieces_and_ends_with_the_usage(slow: Api) -> None:
    async with sdk(slow) as client:
        stream = await client.chat.completions.create(
            model="gpt-4o-mini",
            messages=[{"role": "user", "content": "write a haiku about snow"}],
            stream=True,
            stream_options={"include_usage": True},
            seed=7,
        )
        chunks = [chunk async for chunk in stream]
    assert chunks[0].choices[0].delta.role == "assistant"
    pieces = [c.choices[0].delta.content for c in chunks if c.choices and c.choices[0].delta.content]
    assert len(pieces) > 2
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert chunks[-1].choices == [] and chunks[-1].usage is not None
    text = await slow.sql.fetchval("SELECT output ->> 'text' FROM jobs")
    assert "".join(pieces) == text


async def test_stop_seed_and_max_tokens_do_what_they_say(api: Api) -> None:
    async def said(**options: Any) -> openai.types.chat.chat_completion.Choice:
        answer = await client.chat.completions.create(
            model="gpt-4o-mini", messages=[{"role": "user", "content": STORY}], **options
        )
        return answer.choices[0]

    async with sdk(api) as client:
        whole = await said(seed=3)
        assert (await said(seed=3)).message.content == whole.message.content
        words = (whole.message.content or "").split()
        cut = await said(seed=3, stop=words[5])
        assert cut.message.content == (whole.message.content or "").split(words[5])[0]
        short = await said(seed=3, max_completion_tokens=5)
        assert short.finish_reason == "length" and len((short.message.content or "").split()) <= 5
        assert (await said(seed=-1, temperature=0, top_p=0.5, max_tokens=5)).finish_reason == "length"


async def test_parts_roles_and_null_fields_of_a_chat_are_understood(api: Api) -> None:
    messages = [
        {"role": "developer", "content": "Answer briefly."},
        {"role": "user", "content": [{"type": "text", "text": "What is"}, {"type": "text", "text": "15% of 80?"}]},
    ]
    body = {"model": "gpt-4o", "messages": messages, "stop": None, "temperature": None, "tools": [], "user": "u1"}
    answer, found = await api.call("POST", "/openai/v1/chat/completions", json=body)
    assert answer.status == 200, found
    assert "12" in found["choices"][0]["message"]["content"]


async def test_a_completion_whole_and_streamed(api: Api) -> None:
    async with sdk(api) as client:
        whole = await client.completions.create(model="gpt-3.5-turbo", prompt="What is 3 * 4?", seed=1)
        assert "12" in whole.choices[0].text and whole.object == "text_completion"
        stream = await client.completions.create(model="gpt-3.5-turbo", prompt=["What is 3 * 4?"], stream=True, seed=1)
        chunks = [chunk async for chunk in stream]
    assert "".join(c.choices[0].text for c in chunks) == whole.choices[0].text
    assert chunks[-1].choices[0].finish_reason == "stop"


async def test_who_leaves_a_stream_cancels_the_job_and_gets_the_rest_back(slow: Api) -> None:
    async with sdk(slow) as client:
        stream = await client.chat.completions.create(
            model="gpt-4o-mini", messages=[{"role": "user", "content": STORY}], max_tokens=2000, stream=True
        )
        async for chunk in stream:
            if chunk.choices and chunk.choices[0].delta.content:
                break
        await stream.close()
    job = await until(lambda: slow.sql.fetchrow("SELECT * FROM jobs WHERE finished_at IS NOT NULL"))
    assert job["state"] == "cancelled"
    assert job["charged_mt"] < job["cost_mt"]
    assert await slow.sql.fetchval("SELECT sum(amount_mt) FROM token_ledger") == job["charged_mt"]


async def test_who_gives_up_waiting_cancels_the_job(slow: Api) -> None:
    with pytest.raises(openai.APITimeoutError):
        async with sdk(slow).with_options(timeout=0.7) as client:
            await client.chat.completions.create(
                model="gpt-4o-mini", messages=[{"role": "user", "content": STORY}], max_tokens=2000
            )
    job = await until(lambda: slow.sql.fetchrow("SELECT * FROM jobs WHERE finished_at IS NOT NULL"))
    assert job["state"] == "cancelled"


async def test_a_request_with_an_idempotency_key_outlives_its_caller_and_is_found_again(slow: Api) -> None:
    async def ask(timeout_s: float) -> str:
        async with sdk(slow).with_options(timeout=timeout_s) as client:
            answer = await client.chat.completions.create(
                model="gpt-4o-mini",
                messages=[{"role": "user", "content": "write a haiku about snow"}],
                extra_headers={"Idempotency-Key": "one"},
            )
            return answer.choices[0].message.content or ""

    with pytest.raises(openai.APITimeoutError):
        await ask(0.5)
    first = await ask(30)
    assert first and first == await ask(30)
    assert await slow.sql.fetchval("SELECT count(*) FROM jobs") == 1
    with pytest.raises(openai.BadRequestError) as refused:
        async with sdk(slow) as client:
            await client.chat.completions.create(
                model="gpt-4o-mini",
                messages=ASK,
                extra_headers={"Idempotency-Key": "one"},
            )
    assert refused.value.code == "idempotency_mismatch"


async def test_a_stream_of_a_job_that_fails_says_so_and_what_came_back(api: Api) -> None:
    async with api.http.post(
        f"{api.url}/openai/v1/completions",
        headers={"Authorization": f"Bearer {api.key}"},
        json={"model": "noop", "prompt": "fail oom", "stream": True},
    ) as answer:
        lines = (await answer.text()).split("\n\n")
    assert answer.status == 200
    error = json.loads([line for line in lines if line.startswith("data: ")][-1][6:])["error"]
    assert error["type"] == "server_error" and error["code"] == "out_of_memory"
    assert error["refunded_tokens"] > 0 and error["job_id"].startswith("job_")
    assert "[DONE]" not in "".join(lines)


async def test_a_job_that_fails_is_a_500_and_one_whose_content_is_withheld_a_400(api: Api) -> None:
    for prompt, status, code in (
        ("fail oom", 500, "out_of_memory"),
        ("fail withheld", 400, "content_policy_violation"),
    ):
        answer, found = await api.call("POST", "/openai/v1/completions", json={"model": "noop", "prompt": prompt})
        assert (answer.status, found["error"]["code"]) == (status, code), found
        assert found["error"]["refunded_tokens"] > 0
        assert answer.headers["x-should-retry"] == ("true" if status == 500 else "false")


REFUSED: dict[str, tuple[dict[str, Any], int, str, str | None]] = {
    "an unknown model": ({"model": "gpt-99"}, 404, "model_not_found", "model"),
    "a model of another kind": ({"model": "dall-e-3"}, 404, "model_not_found", "model"),
    "no messages": ({"messages": []}, 400, "invalid_input", "messages"),
    "an unknown role": ({"messages": [{"role": "tool", "content": "x"}]}, 400, "invalid_input", "messages[0].role"),
    "a picture": (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
        400, "invalid_input", "messages[0].content",
    ),
    "two answers": ({"n": 2}, 400, "invalid_input", "n"),
    "tools": ({"tools": [{"type": "function"}]}, 400, "invalid_input", "tools"),
    "logprobs": ({"logprobs": True}, 400, "invalid_input", "logprobs"),
    "likelier words": ({"logit_bias": {"50256": -100}}, 400, "invalid_input", "logit_bias"),
    "a number that is no number": ({"n": True}, 400, "invalid_input", "n"),
    "a tool to be called": ({"tool_choice": "required"}, 400, "invalid_input", "tool_choice"),
    "a schema of JSON": (
        {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {}}}},
        400, "invalid_input", "response_format",
    ),
    "an answer that is spoken": ({"modalities": ["text", "audio"]}, 400, "invalid_input", "modalities"),
    "a penalty": ({"presence_penalty": 0.5}, 400, "invalid_input", "presence_penalty"),
    "a form of JSON": ({"response_format": {"type": "json_object"}}, 400, "invalid_input", "response_format"),
    "a temperature of 3": ({"temperature": 3}, 400, "invalid_input", "temperature"),
    "too many text tokens": ({"max_tokens": 10**6}, 400, "invalid_input", "max_tokens"),
    "an unknown field": ({"colour": "red"}, 400, "invalid_input", "colour"),
    "nothing to say": ({"messages": [{"role": "user", "content": None}]}, 400, "invalid_input", "messages[0].content"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
async def test_refused_in_openais_words_is(api: Api, case: str) -> None:
    change, status, code, param = REFUSED[case]
    body = {"model": "gpt-4o-mini", "messages": ASK, **change}
    answer, found = await api.call("POST", "/openai/v1/chat/completions", json=body)
    assert answer.status == status, found
    assert set(found) == {"error"}
    assert (found["error"]["code"], found["error"]["param"]) == (code, param)
    assert found["error"]["type"] == "invalid_request_error" and found["error"]["message"]
    assert await api.sql.fetchval("SELECT count(*) FROM jobs") == 0


async def test_every_error_under_openai_has_openais_envelope(api: Api) -> None:
    cases = [
        ("POST", "/openai/v1/chat/completions", {"data": b"{"}, 400, "invalid_json"),
        ("POST", "/openai/v1/chat/completions", {"data": io.BytesIO(b" " * (3 << 20))}, 413, "payload_too_large"),
        ("GET", "/openai/v1/chat/completions", {}, 405, "method_not_allowed"),
        ("GET", "/openai/v1/embeddings", {}, 404, "not_found"),
        ("GET", "/openai", {}, 404, "not_found"),
        ("GET", "/openai/v1/videos?limit=x", {}, 400, "invalid_input"),
        ("GET", "/openai/v1/models/nope", {}, 404, "model_not_found"),
        ("POST", "/openai/v1/images/edits", {"json": {}}, 400, "invalid_input"),
    ]
    for method, path, options, status, code in cases:
        answer, found = await api.call(method, path, **options)
        assert (answer.status, found["error"]["code"]) == (status, code), (path, found)
        assert answer.content_type == "application/json"
        assert found["error"]["request_id"] == answer.headers["x-request-id"]
    for key in (None, "tsr_nobody_00000000000000000000", "sk-123"):
        answer, found = await api.call("GET", "/openai/v1/models", key=key)
        assert (answer.status, found["error"]["code"]) == (401, "invalid_api_key")


async def test_an_exhausted_quota_is_402_that_the_sdk_does_not_repeat(api: Api) -> None:
    poor = await api.add_key(user_id=await api.add_user("free", daily_mt=1))
    with pytest.raises(openai.APIStatusError) as refused:
        async with sdk(api, poor).with_options(max_retries=5) as client:
            await client.chat.completions.create(model="gpt-4o", messages=ASK)
    assert refused.value.status_code == 402
    assert refused.value.code == "quota_exhausted" and refused.value.type == "insufficient_quota"
    assert "midnight" in refused.value.message


async def test_a_rate_limit_is_429_with_the_time_to_wait(api: Api) -> None:
    hasty = await api.add_key(user_id=await api.add_user("pro", submissions_per_min=1))
    async with sdk(api, hasty) as client:
        await client.chat.completions.create(model="gpt-4o", messages=ASK)
        with pytest.raises(openai.RateLimitError) as refused:
            await client.chat.completions.create(model="gpt-4o", messages=ASK)
    assert refused.value.code == "rate_limit_exceeded" and refused.value.type == "requests"
    headers = refused.value.response.headers
    assert int(headers["retry-after"]) >= 1 and headers["x-ratelimit-remaining-requests"] == "0"


async def test_models_are_listed_and_found_under_every_alias(api: Api) -> None:
    async with sdk(api) as client:
        listed = [model.id async for model in client.models.list()]
        assert {"preview-text", "gpt-4o-mini", "dall-e-3", "whisper-1", "tts-1", "sora-2"} <= set(listed)
        assert "noop" not in listed
        assert (await client.models.retrieve("gpt-4o-mini")).owned_by == "tessera"
        with pytest.raises(openai.NotFoundError) as missing:
            await client.models.retrieve("gpt-99")
    assert missing.value.code == "model_not_found"

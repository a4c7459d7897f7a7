"""How the official SDK sees what goes wrong: its own classes of errors, its headers, its time-outs; sync and async."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.integration.api_server import Api
from tests.integration.test_openai_texts import ASK, STORY, sdk, until
from tests.integration.working_api import working


@pytest.fixture
async def api(database_url: str, tmp_path: Path) -> AsyncIterator[Api]:
    """Texts come at 20 text tokens a second."""
    async with working(database_url, tmp_path, tokens_per_s=20.0) as started:
        yield started


async def refused(call: Any, kind: type[openai.APIStatusError]) -> openai.APIStatusError:
    """The error of a call, which must be of just this class."""
    with pytest.raises(openai.APIStatusError) as caught:
        await call
    assert type(caught.value) is kind, caught.value
    assert caught.value.request_id == caught.value.response.headers["x-request-id"]
    assert caught.value.body["request_id"] == caught.value.request_id  # type: ignore[index,call-overload]
    return caught.value


async def test_each_refusal_is_the_sdks_own_class(api: Api) -> None:
    chat: Any = {"model": "gpt-4o-mini", "messages": ASK, "max_tokens": 5}
    async with sdk(api, "sk-not-a-key-of-ours") as stranger:
        found = await refused(stranger.chat.completions.create(**chat), openai.AuthenticationError)
        assert (found.code, found.type) == ("invalid_api_key", "invalid_request_error")
    async with sdk(api, await api.add_key(user_id=api.user_id, scopes=["read"])) as reader:
        found = await refused(reader.chat.completions.create(**chat), openai.PermissionDeniedError)
        assert found.code == "forbidden"
    async with sdk(api) as client:
        found = await refused(client.chat.completions.create(**{**chat, "model": "gpt-99"}), openai.NotFoundError)
        assert (found.code, found.param) == ("model_not_found", "model")
        found = await refused(client.chat.completions.create(**chat, tools=[{"type": "x"}]), openai.BadRequestError)
        assert (found.code, found.param) == ("invalid_input", "tools")
        found = await refused(client.files.retrieve("file_nothing"), openai.NotFoundError)
        found = await refused(client.batches.retrieve("batch_nothing"), openai.NotFoundError)
        found = await refused(client.files.create(file=b"{}", purpose="fine-tune"), openai.BadRequestError)
        assert found.param == "purpose"
        found = await refused(client.embeddings.create(model="gpt-4o", input="x"), openai.NotFoundError)
        found = await refused(client.moderations.create(input="x"), openai.NotFoundError)
        found = await refused(client.responses.create(model="gpt-4o", input="x"), openai.NotFoundError)
        made: Any = {"model": "noop", "prompt": "fail oom"}
        found = await refused(client.completions.create(**made), openai.InternalServerError)
        assert found.code == "out_of_memory"
    assert await api.sql.fetchval("SELECT count(*) FROM jobs WHERE state <> 'failed'") == 0


async def test_a_batch_of_embeddings_is_refused_in_words(api: Api) -> None:
    async with sdk(api) as client:
        line = b'{"custom_id": "a", "method": "POST", "url": "/v1/embeddings", "body": {"model": "x", "input": "y"}}'
        file = await client.files.create(file=("lines.jsonl", line), purpose="batch")
        options: Any = {"input_file_id": file.id, "endpoint": "/v1/embeddings", "completion_window": "24h"}
        found = await refused(client.batches.create(**options), openai.BadRequestError)
        assert found.param == "endpoint" and "/v1/chat/completions" in found.message


async def test_the_raw_answer_has_the_headers_that_the_sdk_reads(api: Api) -> None:
    async with sdk(api) as client:
        raw = await client.chat.completions.with_raw_response.create(model="gpt-4o", messages=ASK, max_tokens=5)
        parsed = raw.parse()
    assert parsed.choices[0].message.content and parsed._request_id == raw.headers["x-request-id"] == raw.request_id
    assert raw.headers["x-ratelimit-limit-requests"] == "100000"
    assert 0 < int(raw.headers["x-ratelimit-remaining-requests"]) < 100_000
    assert raw.headers["x-ratelimit-reset-requests"].endswith("ms")
    assert raw.headers["x-ratelimit-limit-tokens"] == "1000"
    assert 0 < int(raw.headers["x-ratelimit-remaining-tokens"]) <= 1000
    assert raw.headers["x-ratelimit-reset-tokens"].endswith("s")


async def test_a_call_that_times_out_cancels_its_job_and_costs_what_was_made(api: Api) -> None:
    async with sdk(api) as client:
        with pytest.raises(openai.APITimeoutError):
            await client.with_options(timeout=1.0).chat.completions.create(
                model="gpt-4o-mini", messages=[{"role": "user", "content": STORY}], max_tokens=4000
            )

    async def over() -> Any:
        return await api.sql.fetchrow("SELECT state, cost_mt, charged_mt FROM jobs WHERE finished_at IS NOT NULL")

    row = await until(over)
    assert row["state"] == "cancelled" and row["charged_mt"] < row["cost_mt"]


async def test_the_sync_client_raises_the_same(api: Api) -> None:
    def ask() -> tuple[list[str], str, int]:
        seen = []
        with openai.OpenAI(base_url=f"{api.url}/openai/v1", api_key=api.key, max_retries=0, timeout=60) as client:
            for call, kind in (
                (lambda: client.models.retrieve("gpt-99"), openai.NotFoundError),
                (lambda: client.images.generate(prompt="x", size="huge"), openai.BadRequestError),  # type: ignore[call-overload]
                (lambda: client.with_options(api_key="sk-x").models.list(), openai.AuthenticationError),
            ):
                with pytest.raises(kind) as caught:
                    call()
                seen.append(type(caught.value).__name__)
            options: Any = {"stream": True, "stream_options": {"include_usage": True}}
            chunks = list(client.chat.completions.create(model="gpt-4o", messages=ASK, max_tokens=5, **options))  # type: ignore[arg-type]
            text = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
            assert chunks[-1].usage is not None and chunks[-1].choices == []
            return seen, text, chunks[-1].usage.completion_tokens

    seen, text, used = await asyncio.to_thread(ask)
    assert seen == ["NotFoundError", "BadRequestError", "AuthenticationError"]
    assert text and 0 < used <= 5

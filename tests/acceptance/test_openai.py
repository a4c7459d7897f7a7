"""OpenAI's SDK against the running platform: through the proxy, with callers who leave and replicas that are killed."""

from __future__ import annotations

import base64
import io
import json
import time
from typing import Any

import openai
import psutil
from PIL import Image

from tests.acceptance.http import Api
from tests.acceptance.platform import Platform

LINES = 1500


def sdk(api: Api, **options: Any) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{api.url}/openai/v1", api_key=api.key, timeout=120, **options)


def test_chat_streams_and_pictures_come_through_the_proxy(api: Api) -> None:
    with sdk(api) as client:
        stream = client.chat.completions.create(
            model="gpt-4o-mini",
            messages=[{"role": "user", "content": "tell me a long story about rain"}],
            stream=True,
            max_tokens=150,
        )
        at, pieces = [], []
        for chunk in stream:
            if chunk.choices and chunk.choices[0].delta.content:
                at.append(time.monotonic())
                pieces.append(chunk.choices[0].delta.content)
        assert len(pieces) > 3 and at[-1] > at[0]
        made = client.images.generate(model="gpt-image-1", prompt="a red boat", size="128x128")
        assert made.data is not None
        assert Image.open(io.BytesIO(base64.b64decode(made.data[0].b64_json or ""))).size == (128, 128)
        said = client.audio.speech.create(model="tts-1", voice="alloy", input="What can your country do for you?")
        text = client.audio.transcriptions.create(model="whisper-1", file=("said.mp3", said.content))
        assert text.text


def test_who_closes_a_stream_cancels_its_job_through_the_proxy(api: Api) -> None:
    with sdk(api) as client:
        stream = client.chat.completions.create(
            model="gpt-4o-mini",
            messages=[{"role": "user", "content": "tell me a long story about rain"}],
            stream=True,
            max_tokens=2000,
            metadata={"who": "leaver"},
        )
        next(iter(stream))
        stream.close()
    end = time.monotonic() + 60
    while (job := api.get("/v1/jobs?metadata.who=leaver").json["data"][0])["state"] not in ("cancelled", "completed"):
        assert time.monotonic() < end, job
        time.sleep(0.2)
    assert job["state"] == "cancelled"


def test_a_batch_goes_on_where_it_was_when_its_replica_is_killed(api: Api, platform: Platform) -> None:
    lines = [
        {
            "custom_id": str(n),
            "method": "POST",
            "url": "/v1/completions",
            "body": {"model": "noop", "prompt": "go"},
        }
        for n in range(LINES)
    ]
    with sdk(api, max_retries=5) as client:
        file = client.files.create(file=("in.jsonl", "\n".join(map(json.dumps, lines)).encode()), purpose="batch")
        batch = client.batches.create(input_file_id=file.id, endpoint="/v1/completions", completion_window="24h")
        end = time.monotonic() + 240
        killed = 0
        while batch.status not in ("completed", "failed", "expired"):
            assert time.monotonic() < end, batch
            found = batch.request_counts
            if found is not None and found.completed >= 100 + 500 * killed and killed < 2:
                for process in platform.processes("ServeReplica:control:"):
                    try:
                        process.kill()
                    except psutil.NoSuchProcess:
                        continue
                killed += 1
            time.sleep(0.1)
            try:
                batch = client.batches.retrieve(batch.id)
            except openai.OpenAIError:
                continue  # no replica answers for a moment
        assert killed >= 1
        assert batch.status == "completed" and batch.request_counts is not None and batch.output_file_id is not None
        assert batch.request_counts.completed == LINES
        results = [json.loads(line) for line in client.files.content(batch.output_file_id).text.splitlines()]
    assert [result["custom_id"] for result in results] == [line["custom_id"] for line in lines]

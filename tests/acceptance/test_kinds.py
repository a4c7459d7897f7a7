"""Each of the six kinds, submitted over HTTP, watched over SSE, its file opened."""

from __future__ import annotations

import io
import wave
from typing import Any

import av
from PIL import Image

from tests.acceptance.http import Api, Event


def run(api: Api, kind: str, **values: Any) -> tuple[dict[str, Any], list[Event]]:
    """Submit, follow the stream to its end, and check what holds for every kind."""
    job = api.submit(kind, **values)
    events = list(api.events(job["id"]))
    durable = [event for event in events if event.id is not None]
    assert [event.id for event in durable] == [str(n + 1) for n in range(len(durable))]
    types = [event.type for event in durable]
    assert types[:2] == ["queued", "started"]
    assert types[-1] == "completed", events[-1]
    fractions = [event.data["data"]["fraction"] for event in events if event.type == "progress"]
    assert fractions == sorted(fractions)
    done = api.job(job["id"])
    assert done["state"] == "completed"
    assert done["engine"].startswith(f"preview-{kind}")
    assert done["preview"] is True
    assert done["cost_tokens"] >= done["charged_tokens"] > 0
    return done, events


def test_an_image_has_the_size_that_was_asked_for_and_the_same_seed_gives_the_same_picture(api: Api) -> None:
    wanted = {"prompt": "a lighthouse in a storm, oil painting", "width": 320, "height": 200, "seed": 7}
    job, events = run(api, "image", **wanted)
    data = api.download(job)
    picture = Image.open(io.BytesIO(data))
    assert (picture.format, picture.size) == ("PNG", (320, 200))
    colours = picture.convert("RGB").resize((32, 20)).getcolors(maxcolors=640)
    assert colours is not None
    assert len(colours) > 100  # not a plain area
    assert "output" in [event.type for event in events]
    again, _ = run(api, "image", **wanted)
    assert api.download(again) == data
    other, _ = run(api, "image", **{**wanted, "seed": 8})
    assert api.download(other) != data


def test_several_images_of_one_job_are_different_and_charged_each(api: Api) -> None:
    job, _ = run(api, "image", prompt="a meadow", width=512, height=512, count=3)
    assert len(job["artifacts"]) == 3
    assert job["charged_tokens"] == 0.75
    assert len({api.download(job, n) for n in range(3)}) == 3


def test_an_uploaded_picture_is_enlarged(api: Api) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (64, 48), "teal").save(buffer, "PNG")
    upload = api.upload(buffer.getvalue())
    assert upload.status == 201, upload.body
    assert upload.json["media_type"] == "image/png"
    job, _ = run(api, "image", image=upload.json["id"], scale=2)
    assert Image.open(io.BytesIO(api.download(job))).size == (128, 96)


def test_a_video_is_h264_of_the_length_that_was_asked_for(api: Api) -> None:
    job, events = run(api, "video", prompt="waves under a full moon", width=160, height=120, duration_s=1, fps=10)
    with av.open(io.BytesIO(api.download(job))) as container:
        stream = container.streams.video[0]
        frames = list(container.decode(stream))
        assert (stream.codec_context.name, frames[0].width, frames[0].height) == ("h264", 160, 120)
        assert len(frames) == 10
    assert any(event.type == "preview" for event in events)


def test_a_text_streams_in_chunks_that_add_up_to_it(api: Api) -> None:
    job, events = run(api, "text", prompt="Write a poem about the sea.", max_tokens=60)
    text = "".join(event.data["data"]["text"] for event in events if event.type == "chunk")
    output = job["output"]
    assert output["text"] == text != ""
    assert output["usage"]["completion_tokens"] <= 60
    assert output["finish_reason"] in ("stop", "length")
    assert job["charged_tokens"] < job["cost_tokens"]  # the hold was an upper bound


def test_a_speech_is_a_wav_and_its_transcript_has_segments_with_times(api: Api) -> None:
    job, _ = run(api, "speech", text="Go forward ten meters.", voice="en-us")
    data = api.download(job)
    with wave.open(io.BytesIO(data)) as sound:
        assert (sound.getnchannels(), sound.getsampwidth()) == (1, 2)
        assert sound.getnframes() / sound.getframerate() > 0.8
    upload = api.upload(data)
    assert upload.json["media_type"] == "audio/wav"
    heard, _ = run(api, "transcription", upload=upload.json["id"])
    segments = heard["output"]["segments"]
    assert segments
    assert all(0 <= part["start_s"] < part["end_s"] for part in segments)
    assert heard["output"]["language"] == "en"
    assert " ".join(part["text"] for part in segments).split() == heard["output"]["text"].split()


def test_music_has_the_length_that_was_asked_for_and_is_not_silent(api: Api) -> None:
    job, _ = run(api, "music", prompt="a calm piano in the rain", duration_s=3)
    with wave.open(io.BytesIO(api.download(job))) as sound:
        assert abs(sound.getnframes() / sound.getframerate() - 3) < 0.05
        frames = sound.readframes(sound.getnframes())
    assert max(frames) > 0


def test_a_cancelled_running_job_ends_cancelled_and_returns_tokens(api: Api) -> None:
    job = api.submit("music", prompt="an endless symphony", duration_s=300)
    stream = api.events(job["id"])
    for event in stream:
        if event.type in ("started", "progress"):
            break
    answer = api.post(f"/v1/jobs/{job['id']}/cancel")
    assert answer.status in (200, 202)
    last = list(stream)[-1]
    assert last.type == "cancelled"
    ended = api.job(job["id"])
    assert (ended["state"], ended["artifacts"]) == ("cancelled", [])
    assert ended["charged_tokens"] < ended["cost_tokens"]


def test_a_stream_resumes_after_the_last_event_that_was_seen(api: Api) -> None:
    job, events = run(api, "text", prompt="hello", max_tokens=8)
    durable = [event for event in events if event.id is not None]
    again = list(api.events(job["id"], last_event_id=durable[0].id))
    assert [event.id for event in again if event.id] == [event.id for event in durable[1:]]


def test_artifacts_answer_ranges_and_conditional_requests(api: Api) -> None:
    job, _ = run(api, "speech", text="One two three.")
    url = job["artifacts"][0]["url"]
    whole = api.get(url)
    part = api.get(url, Range="bytes=10-19")
    assert (part.status, part.body) == (206, whole.body[10:20])
    assert part.headers["content-range"] == f"bytes 10-19/{len(whole.body)}"
    assert api.get(url, Range=f"bytes={len(whole.body)}-").status == 416
    assert api.get(url, If_None_Match=whole.headers["etag"]).status == 304

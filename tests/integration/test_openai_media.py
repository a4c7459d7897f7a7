"""OpenAI's SDK, unmodified, against pictures, speech, transcripts and clips; what comes out is opened."""

from __future__ import annotations

import asyncio
import base64
import io
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import av
import openai
import pytest
from PIL import Image, ImageDraw

from tests.integration.api_server import Api
from tests.integration.working_api import working

# What OpenAI retires stays here.
pytestmark = [
    pytest.mark.filterwarnings("ignore:The Sora API is scheduled:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:deprecated:DeprecationWarning"),
]

SENTENCE = "Your country. What can your country do for you?"


@pytest.fixture
async def api(database_url: str, tmp_path: Path) -> AsyncIterator[Api]:
    async with working(database_url, tmp_path) as started:
        yield started


@pytest.fixture
async def client(api: Api) -> AsyncIterator[openai.AsyncOpenAI]:
    base_url = f"{api.url}/openai/v1"
    async with openai.AsyncOpenAI(base_url=base_url, api_key=api.key, max_retries=0, timeout=120) as opened:
        yield opened


def opened(b64: str | None) -> Image.Image:
    assert b64
    image = Image.open(io.BytesIO(base64.b64decode(b64)))
    image.load()
    return image


def png(colour: tuple[int, ...], size: tuple[int, int] = (128, 96)) -> bytes:
    out = io.BytesIO()
    Image.new("RGBA" if len(colour) == 4 else "RGB", size, colour).save(out, "PNG")
    return out.getvalue()


def half_transparent(size: tuple[int, int] = (128, 96)) -> bytes:
    """Opaque on the left, transparent on the right."""
    image = Image.new("RGBA", size, (0, 0, 0, 255))
    ImageDraw.Draw(image).rectangle((size[0] // 2, 0, *size), fill=(0, 0, 0, 0))
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


def sound_of(data: bytes, format_: str | None = None) -> tuple[str, int, float]:
    """Codec, sample rate and seconds of a recording, all of it decoded."""
    options = {"sample_rate": "24000"} if format_ == "s16le" else {}
    with av.open(io.BytesIO(data), "r", format=format_, options=options) as container:
        stream = container.streams.audio[0]
        samples = sum(frame.samples for frame in container.decode(stream))
        return stream.codec_context.name, stream.rate, samples / stream.rate


# ---- pictures ----


async def test_pictures_come_as_base64_of_the_size_and_number_asked_for(client: openai.AsyncOpenAI) -> None:
    made = await client.images.generate(model="gpt-image-1", prompt="a red boat", n=2, size="256x256")
    assert made.data is not None
    first, second = (opened(image.b64_json) for image in made.data)
    assert (first.format, first.size, second.size) == ("PNG", (256, 256), (256, 256))
    assert first.tobytes() != second.tobytes()
    assert made.size == "256x256"


async def test_a_picture_comes_as_an_address_that_gives_its_bytes(api: Api, client: openai.AsyncOpenAI) -> None:
    made = await client.images.generate(model="dall-e-3", prompt="a red boat", size="256x256", response_format="url")
    assert made.data is not None and made.data[0].url is not None
    url = made.data[0].url
    assert url.startswith(api.url)
    answer, data = await api.call("GET", url.removeprefix(api.url), key=None)
    assert answer.status == 200 and Image.open(io.BytesIO(data)).size == (256, 256)


@pytest.mark.parametrize("wanted", ["jpeg", "webp"])
async def test_a_picture_comes_in_the_format_asked_for(client: openai.AsyncOpenAI, wanted: Any) -> None:
    made = await client.images.generate(
        model="gpt-image-1", prompt="a red boat", size="128x128", output_format=wanted, output_compression=50
    )
    assert made.data is not None and made.output_format == wanted
    assert opened(made.data[0].b64_json).format == wanted.upper()


async def test_an_edit_changes_only_what_the_mask_leaves_transparent(api: Api, client: openai.AsyncOpenAI) -> None:
    source = png((200, 30, 30))
    made = await client.images.edit(
        model="gpt-image-1",
        image=("source.png", source),
        mask=("mask.png", half_transparent()),
        prompt="a green forest",
    )
    assert made.data is not None
    image = opened(made.data[0].b64_json).convert("RGB")
    assert image.size == (128, 96)
    assert image.getpixel((5, 50)) == (200, 30, 30)
    right = [image.getpixel((x, y)) for x in range(90, 120, 5) for y in range(10, 90, 10)]
    assert any(pixel != (200, 30, 30) for pixel in right)
    again = await client.images.edit(
        model="gpt-image-1", image=[("s.png", source)], prompt="a green forest", size="64x64", n=2
    )
    assert again.data is not None
    assert [opened(image.b64_json).size for image in again.data] == [(64, 64)] * 2


async def test_what_cannot_be_a_picture_or_a_mask_is_refused_by_name(client: openai.AsyncOpenAI) -> None:
    async def refused(**options: Any) -> openai.APIStatusError:
        with pytest.raises(openai.APIStatusError) as error:
            await client.images.edit(**{"model": "gpt-image-1", "image": png((1, 2, 3)), "prompt": "a boat"} | options)
        return error.value

    assert (await refused(mask=png((0, 0, 0)))).param == "mask"
    assert (await refused(image=b"no picture at all")).status_code == 415
    assert (await refused(image=[png((1, 2, 3)), png((3, 2, 1))])).param == "image"
    assert (await refused(size="huge")).param == "size"
    assert (await refused(size="9000x16")).param == "size"
    assert (await refused(n=50)).param == "n"
    assert (await refused(background="transparent")).param == "background"


async def test_what_would_change_a_picture_or_a_transcript_and_is_not_here_is_refused(api: Api) -> None:
    """Left out in silence, it would be paid for and not be what was asked for."""
    picture = {"prompt": "a boat", "size": "64x64"}
    for more in ({"background": "transparent"}, {"stream": True}, {"partial_images": 2}):
        answer, found = await api.call("POST", "/openai/v1/images/generations", json={**picture, **more})
        assert (answer.status, found["error"]["param"]) == (400, next(iter(more))), found
    for name, value in (("include[]", "logprobs"), ("timestamp_granularities[]", "syllable")):
        form = aiohttp.FormData({"model": "whisper-1", name: value})
        form.add_field("file", b"RIFF", filename="a.wav")
        answer, found = await api.call("POST", "/openai/v1/audio/transcriptions", data=form)
        assert answer.status == 400, found
        assert found["error"]["param"].startswith(name[:-2]), found
    assert await api.sql.fetchval("SELECT count(*) FROM jobs") == 0


async def test_a_picture_larger_than_the_plan_allows_is_refused_by_its_size(api: Api) -> None:
    key = await api.add_key(plan="free")
    body = {"prompt": "a boat", "size": "1792x1024"}
    answer, found = await api.call("POST", "/openai/v1/images/generations", json=body, key=key)
    assert (answer.status, found["error"]["param"]) == (400, "size"), found


# ---- speech and transcripts ----

SPOKEN = {
    "mp3": ("mp3float", 22_050, "audio/mpeg"),
    "opus": ("libopus", 48_000, "audio/ogg"),
    "aac": ("aac", 22_050, "audio/aac"),
    "flac": ("flac", 22_050, "audio/flac"),
    "wav": ("pcm_s16le", 22_050, "audio/wav"),
    "pcm": ("pcm_s16le", 24_000, "audio/pcm"),
}


async def test_speech_comes_in_each_of_openais_formats(client: openai.AsyncOpenAI) -> None:
    lengths = []
    for format_, (codec, rate_hz, media_type) in SPOKEN.items():
        made = await client.audio.speech.create(
            model="tts-1",
            voice="nova",
            input="Good morning. The kettle is on.",
            response_format=format_,
        )
        assert made.response.headers["content-type"] == media_type
        found = sound_of(made.content, "s16le" if format_ == "pcm" else None)
        assert found[0] in (codec, codec.removesuffix("float"), codec.removeprefix("lib")), format_
        assert found[1] == rate_hz, format_
        lengths.append(found[2])
    assert max(lengths) - min(lengths) < 0.25 and min(lengths) > 1


async def test_speech_comes_as_events_when_asked(client: openai.AsyncOpenAI) -> None:
    async with client.audio.speech.with_streaming_response.create(
        model="gpt-4o-mini-tts", voice="alloy", input="Hello there.", response_format="wav", stream_format="sse"
    ) as answer:
        lines = [line async for line in answer.iter_lines() if line.startswith("data: ")]
    assert '"speech.audio.delta"' in lines[0] and '"speech.audio.done"' in lines[-1]


async def test_an_unknown_voice_or_format_is_400(api: Api, client: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as voice:
        await client.audio.speech.create(model="tts-1", voice="klingon", input="Hello.")
    assert "klingon" in voice.value.message
    assert await api.sql.fetchval("SELECT sum(amount_mt) FROM token_ledger") in (None, 0)
    with pytest.raises(openai.BadRequestError) as form:
        await client.audio.speech.create(model="tts-1", voice="alloy", input="Hello.", response_format="midi")
    assert form.value.param == "response_format"


async def test_a_recording_is_written_down_in_each_format(client: openai.AsyncOpenAI) -> None:
    said = await client.audio.speech.create(model="tts-1", voice="en-us", input=SENTENCE, response_format="wav")
    file = ("said.wav", said.content)
    plain = await client.audio.transcriptions.create(model="whisper-1", file=file)
    assert "what" in plain.text
    text = await client.audio.transcriptions.create(model="whisper-1", file=file, response_format="text", language="en")
    assert str(text).strip() == plain.text
    srt = str(await client.audio.transcriptions.create(model="whisper-1", file=file, response_format="srt"))
    assert srt.startswith("1\n00:00:0") and " --> " in srt
    vtt = str(await client.audio.transcriptions.create(model="whisper-1", file=file, response_format="vtt"))
    assert vtt.startswith("WEBVTT\n")
    whole = await client.audio.transcriptions.create(
        model="whisper-1", file=file, response_format="verbose_json", timestamp_granularities=["word", "segment"]
    )
    assert whole.language == "english" and whole.segments and whole.words
    assert 1 < whole.duration < 10
    assert " ".join(word.word for word in whole.words) == whole.text
    assert all(0 <= word.start <= word.end <= whole.duration + 0.1 for word in whole.words)
    stream = await client.audio.transcriptions.create(model="whisper-1", file=file, stream=True)
    events = [event async for event in stream]
    assert events[-1].type == "transcript.text.done" and events[-1].text == plain.text
    assert "".join(e.delta for e in events if e.type == "transcript.text.delta") == plain.text


async def test_a_recording_is_put_into_english(client: openai.AsyncOpenAI) -> None:
    said = await client.audio.speech.create(model="tts-1", voice="en-us", input=SENTENCE, response_format="mp3")
    made = await client.audio.translations.create(
        model="whisper-1", file=("said.mp3", said.content), response_format="verbose_json"
    )
    assert "what" in made.text and made.duration > 1


async def test_what_is_no_recording_is_refused(client: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.APIStatusError) as refused:
        await client.audio.transcriptions.create(model="whisper-1", file=("x.wav", b"RIFF nothing"))
    assert refused.value.status_code == 415
    with pytest.raises(openai.BadRequestError) as empty:
        await client.audio.transcriptions.create(model="whisper-1", file=("x.wav", b""))
    assert empty.value.param == "file"


# ---- clips ----


async def test_a_clip_is_made_polled_fetched_listed_and_deleted(api: Api, client: openai.AsyncOpenAI) -> None:
    made = await client.videos.create_and_poll(
        model="sora-2",
        prompt="waves under a full moon",
        seconds="1",
        size="128x96",
        poll_interval_ms=100,
        extra_body={"fps": 8},
    )
    assert (made.status, made.progress, made.seconds, made.size) == ("completed", 100, "1", "128x96")
    content = await client.videos.download_content(made.id)
    with av.open(io.BytesIO(content.content)) as clip:
        stream = clip.streams.video[0]
        assert (stream.width, stream.height, sum(1 for _ in clip.decode(stream))) == (128, 96, 8)
    thumbnail = await client.videos.download_content(made.id, variant="thumbnail")
    assert Image.open(io.BytesIO(thumbnail.content)).size[0] <= 512
    second = await client.videos.create(
        prompt="a boat",
        seconds="1",
        size="128x96",
        input_reference=("b.png", png((9, 9, 200))),
        extra_body={"fps": 4},
    )
    assert [video.id async for video in client.videos.list(limit=1)] == [second.id, made.id]
    assert [video.id async for video in client.videos.list(order="asc")] == [made.id, second.id]
    assert (await client.videos.delete(made.id)).deleted
    assert [video.id async for video in client.videos.list()] == [second.id]
    with pytest.raises(openai.NotFoundError):
        await client.videos.retrieve(made.id)
    with pytest.raises(openai.NotFoundError):
        await client.videos.download_content(made.id)
    assert (await api.call("GET", f"/v1/jobs/{made.id}"))[1]["artifacts"] == []
    assert (await client.videos.poll(second.id, poll_interval_ms=100)).status == "completed"


async def test_a_clip_of_somebody_else_is_404_whatever_is_asked_of_it(api: Api, client: openai.AsyncOpenAI) -> None:
    made = await client.videos.create(prompt="a boat", seconds="1", size="128x96", extra_body={"fps": 4})
    stranger = await api.add_key()
    path = f"/openai/v1/videos/{made.id}"
    for method, where in (("GET", path), ("GET", f"{path}/content"), ("DELETE", path)):
        answer, found = await api.call(method, where, key=stranger)
        assert (answer.status, found["error"]["code"]) == (404, "not_found")
    answer, found = await api.call("GET", "/openai/v1/videos", key=stranger)
    assert found["data"] == []
    assert (await client.videos.retrieve(made.id)).id == made.id


async def test_the_sync_client_makes_a_picture_and_a_recording(api: Api) -> None:
    def make() -> tuple[bytes, Any]:
        with openai.OpenAI(base_url=f"{api.url}/openai/v1", api_key=api.key, timeout=120) as client:
            said = client.audio.speech.create(model="tts-1", voice="alloy", input="Hello.")
            return said.content, client.images.generate(model="gpt-image-1", prompt="a boat", size="64x64")

    said, made = await asyncio.to_thread(make)
    assert sound_of(said)[2] > 0.2
    assert opened(made.data[0].b64_json).size == (64, 64)

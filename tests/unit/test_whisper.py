"""Whisper: the real library on a model with random weights, and the windows that a recording is heard in."""

from __future__ import annotations

import io
import itertools
import json
import wave
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from deployments.child.main import Fatal
from deployments.whisper.audio import SAMPLE_RATE_HZ, length_s, quietest, windows
from deployments.whisper.child import _meaning
from deployments.whisper.engine import WhisperEngine, WhisperModel
from tessera.engine import Chunk, Done, InputFile, Output, Progress
from tessera.errors import EngineError, InvalidInput, ModelMissing, OutOfMemory
from tests.conformance.engine_suite import check_stream, collected
from tests.conformance.harness_whisper import FAST, tiny_model
from tests.conformance.test_preview import job, recording
from tests.fakes.tiny_whisper import make_tiny_whisper


def tone(seconds: float, *, rate_hz: int = 16_000, channels: int = 1, quiet: tuple[float, float] = (0, 0)) -> bytes:
    """A tone, with silence between two times."""
    t = np.arange(round(seconds * rate_hz)) / rate_hz
    samples = 8000 * np.sin(2 * np.pi * 220 * t)
    samples[(t >= quiet[0]) & (t < quiet[1])] = 0
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as writer:
        writer.setnchannels(channels)
        writer.setsampwidth(2)
        writer.setframerate(rate_hz)
        writer.writeframes(np.repeat(samples.astype("<i2"), channels).tobytes())
    return buffer.getvalue()


def encoded(seconds: float, container: str, codec: str, rate_hz: int, layout: str = "mono") -> bytes:
    """A tone in another format."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container) as out:
        stream = out.add_stream(codec, rate=rate_hz)
        assert isinstance(stream, av.AudioStream)
        stream.layout = layout
        resampler = av.AudioResampler(format=stream.format.name, layout=layout, rate=rate_hz)
        with av.open(io.BytesIO(tone(seconds))) as source:
            for frame in source.decode(audio=0):
                for resampled in resampler.resample(frame):
                    out.mux(stream.encode(resampled))
        for resampled in resampler.resample(None):
            out.mux(stream.encode(resampled))
        out.mux(stream.encode(None))
    return buffer.getvalue()


@pytest.fixture(scope="module")
def english(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_whisper(tmp_path_factory.mktemp("english"), multilingual=False)


@pytest.fixture
async def engine(english: Path) -> AsyncIterator[WhisperEngine]:
    made = WhisperEngine(
        [
            WhisperModel(id="tiny", folder=tiny_model(), options={**FAST, "temperature": 0.0}),
            WhisperModel(id="tiny-vad", folder=tiny_model(), options={**FAST, "temperature": 0.0, "vad_filter": True}),
            WhisperModel(id="tiny-en", folder=english, options={**FAST, "temperature": 0.0}),
        ],
        device="cpu",
        threads=1,
        loads_itself=frozenset({"tiny", "tiny-vad", "tiny-en"}),
    )
    yield made
    await made.close()


async def transcribed(engine: WhisperEngine, data: bytes, model: str = "tiny", **given: Any) -> list[Any]:
    upload = InputFile(media_type="audio/wav", data=data)
    asked = job("transcription", model=model, files={"upload": upload}, upload="upl_1", **given)
    events = await collected(engine, asked)
    check_stream(events)
    return events


async def test_a_transcript_has_words_times_languages_files_and_tells_them_as_they_come(engine: WhisperEngine) -> None:
    """One test for all of it: each start of the subprocess takes seconds on a busy machine."""
    formats = ["txt", "srt", "vtt", "json"]
    events = await transcribed(engine, tone(70), word_timestamps=True, formats=formats, language="de", prompt="Rhône")
    output = dict(events[-1].output)
    assert output["language"] == "de" and output["duration_s"] == 70.0 and output["engine"] == "faster-whisper"
    segments = output["segments"]
    assert segments and all(0 <= s["start_s"] <= s["end_s"] <= 70.0 for s in segments)
    assert [s["start_s"] for s in segments] == sorted(s["start_s"] for s in segments)
    assert output["words"] and set(output["words"][0]) == {"start_s", "end_s", "text"}
    assert "".join(e.text for e in events if isinstance(e, Chunk)).strip() == output["text"]
    fractions = [e.fraction for e in events if isinstance(e, Progress)]
    assert len({f for f in fractions if 0 < f < 1}) >= 2 and fractions[-1] == 1.0
    files = [e for e in events if isinstance(e, Output)]
    assert [f.media_type for f in files] == ["text/plain", "application/x-subrip", "text/vtt", "application/json"]
    assert files[1].data.decode().startswith("1\n00:00:") and files[2].data.startswith(b"WEBVTT\n")
    assert json.loads(files[3].data) == output

    # The language is found out; a translation is another task; the library is loaded only once.
    generation = engine.child.generation
    found = (await transcribed(engine, tone(5)))[-1].output
    assert found["language"] in ("en", "de", "fr", "es", "it", "uk") and "words" not in found
    translated = (await transcribed(engine, tone(5), translate=True, language="de"))[-1].output
    assert translated["text"] != (await transcribed(engine, tone(5), language="de"))[-1].output["text"]
    assert engine.child.generation == generation

    # Silence has no words where the voice detector is on, and no language either.
    silent = (await transcribed(engine, tone(6, quiet=(0, 6)), "tiny-vad"))[-1].output
    assert (silent["text"], silent["segments"], silent["duration_s"]) == ("", [], 6.0)

    # What the model does not know is refused with what it knows.
    with pytest.raises(InvalidInput, match=r"does not know the language 'qq'.*choose one of"):
        await transcribed(engine, tone(1), language="qq")
    await engine.ensure("tiny-en")
    with pytest.raises(InvalidInput, match="English only"):
        await transcribed(engine, tone(1), "tiny-en", translate=True)
    assert (await transcribed(engine, tone(2), "tiny-en"))[-1].output["language"] == "en"
    for nothing in (b"", b"RIFF no sound at all" * 20, tone(0)):
        with pytest.raises(InvalidInput, match="Nothing was charged"):
            await transcribed(engine, nothing)


@pytest.mark.parametrize(
    ("container", "codec", "rate_hz", "layout"),
    [
        ("mp3", "libmp3lame", 44_100, "stereo"),
        ("ogg", "libopus", 48_000, "mono"),
        ("flac", "flac", 22_050, "stereo"),
        ("mp4", "aac", 48_000, "stereo"),
        ("webm", "libopus", 48_000, "mono"),
        ("adts", "aac", 16_000, "mono"),
        ("aiff", "pcm_s16be", 32_000, "mono"),  # uploads do not take it; FFmpeg reads it
        ("wav", "pcm_u8", 8_000, "mono"),
        ("amr", "libopencore_amrnb", 8_000, "mono"),
    ],
)
def test_every_format_is_heard_as_long_as_it_is(
    tmp_path: Path, container: str, codec: str, rate_hz: int, layout: str
) -> None:
    if codec not in av.codecs_available:
        pytest.skip(f"this FFmpeg has no {codec}")
    file = tmp_path / "recording"
    file.write_bytes(encoded(3, container, codec, rate_hz, layout))
    samples = np.concatenate([window.samples for window in windows(file)])
    assert abs(len(samples) / SAMPLE_RATE_HZ - 3) < 0.15
    assert abs(float(np.abs(samples).max()) - 8000 / 32768) < 0.1
    assert abs(length_s(file) - 3) < 0.15


def test_windows_follow_each_other_without_gaps_and_are_cut_where_it_is_quiet(tmp_path: Path) -> None:
    file = tmp_path / "recording.wav"
    file.write_bytes(tone(25, rate_hz=44_100, channels=2, quiet=(8.5, 9.0)))
    found = list(windows(file, window_s=10))
    assert [window.last for window in found] == [False, False, True]
    assert all(a.end_s == b.start_s for a, b in itertools.pairwise(found))
    assert 8.5 < found[0].end_s < 9.0
    assert found[-1].end_s == pytest.approx(25, abs=0.01)
    whole = np.concatenate([window.samples for window in found])
    assert np.array_equal(whole, next(windows(file, window_s=100)).samples)


def test_sound_without_a_quiet_place_is_cut_near_the_windows_end() -> None:
    noise = np.random.default_rng(1).normal(0, 0.1, 10 * SAMPLE_RATE_HZ).astype(np.float32)
    assert 7 * SAMPLE_RATE_HZ < quietest(noise, 10) <= len(noise)
    assert quietest(noise[:100]) == 100


def test_a_recording_that_is_broken_in_the_middle_is_heard_up_to_its_end(tmp_path: Path) -> None:
    data = bytearray(encoded(6, "mp3", "libmp3lame", 16_000))
    data[len(data) // 2 : len(data) // 2 + 400] = b"\x00" * 400
    file = tmp_path / "recording.mp3"
    file.write_bytes(data)
    assert sum(len(window.samples) for window in windows(file)) > 4 * SAMPLE_RATE_HZ


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("CUDA failed with error out of memory", OutOfMemory),
        ("CUBLAS_STATUS_ALLOC_FAILED", OutOfMemory),
        ("std::bad_alloc", OutOfMemory),
        ("CUDA failed with error an illegal memory access was encountered", Fatal),
        ("cuBLAS failed with status CUBLAS_STATUS_NOT_SUPPORTED", Fatal),
        ("Unsupported model binary version", EngineError),
    ],
)
def test_what_the_library_says_becomes_what_is_to_be_done(said: str, expected: type[Exception]) -> None:
    assert type(_meaning(RuntimeError(said), "It failed")) is expected


@pytest.mark.parametrize("gone", ["model.bin", "tokenizer.json", "vocabulary.json"])
async def test_a_file_that_is_missing_is_named_with_its_place_and_source_and_never_downloaded(
    tmp_path: Path, gone: str
) -> None:
    folder = make_tiny_whisper(tmp_path / "tiny")
    (folder / gone).unlink()
    engine = WhisperEngine([WhisperModel(id="tiny", folder=folder, source="https://example.org/tiny")], device="cpu")
    with pytest.raises(ModelMissing, match=f"{gone} in .*tiny.*example.org/tiny"):
        await engine.ensure("tiny")
    assert engine.child.generation == 0
    health = await engine.probe()
    assert not health.ok and gone in health.message


async def test_a_model_that_does_not_load_is_told_and_the_next_one_loads(tmp_path: Path) -> None:
    broken = make_tiny_whisper(tmp_path / "broken")
    (broken / "model.bin").write_bytes(b"not a model")
    engine = WhisperEngine(
        [
            WhisperModel(id="broken", folder=broken),
            WhisperModel(id="tiny", folder=tiny_model(), options={**FAST, "temperature": 0.0}),
        ],
        device="cpu",
        threads=1,
    )
    with pytest.raises(EngineError, match="broken cannot be loaded"):
        await engine.ensure("broken")
    await engine.ensure("tiny")
    assert (await engine.models()).resident == ("tiny",)
    assert "computes on the cpu with" in await engine.self_test()
    events = await collected(engine, job("transcription", model="tiny", files={"upload": recording(2)}, upload="upl_1"))
    assert isinstance(events[-1], Done)
    pid = engine.child.pid
    await engine.release()
    assert pid is not None and engine.child.pid is None  # the memory of a device comes back with the end of its process
    await engine.close()

"""Speech, music and transcription: the files are what they say, and a voice that was made is heard again."""

from __future__ import annotations

import io
import uuid
import wave
from typing import Any

import av
import numpy as np
import pytest

from deployments.preview import music, music_styles, speech, transcription
from deployments.preview.flag import CancelFlag
from tessera.engine import Done, EngineEvent, EngineJob, InputFile, Output
from tessera.errors import InvalidInput
from tessera.inputs import parse_input
from tessera.jobs import Kind


def job(kind: Kind, files: dict[str, InputFile] | None = None, **given: Any) -> EngineJob:
    parsed = parse_input(kind, given).model_dump(mode="json")
    return EngineJob(id=uuid.uuid4(), kind=kind, model=f"preview-{kind.value}", input=parsed, files=files or {})


def spoken(**given: Any) -> Output:
    return output_of(list(speech.run(job(Kind.SPEECH, **given), CancelFlag())))


def played(**given: Any) -> Output:
    return output_of(list(music.run(job(Kind.MUSIC, **{"seed": 4} | given), CancelFlag())))


def heard(data: bytes, **given: Any) -> dict[str, Any]:
    files = {"upload": InputFile(media_type="audio/wav", data=data)}
    events = list(transcription.run(job(Kind.TRANSCRIPTION, files, upload="upl_1", **given), CancelFlag()))
    done = events[-1]
    assert isinstance(done, Done)
    return dict(done.output)


def output_of(events: list[EngineEvent]) -> Output:
    assert isinstance(events[-1], Done)
    (output,) = [event for event in events if isinstance(event, Output)]
    return output


def samples(output: Output, channels: int, rate_hz: int) -> np.ndarray[Any, Any]:
    with wave.open(io.BytesIO(output.data)) as reader:
        assert (reader.getnchannels(), reader.getsampwidth(), reader.getframerate()) == (channels, 2, rate_hz)
        return np.frombuffer(reader.readframes(reader.getnframes()), dtype="<i2").reshape(-1, channels)


def silence(seconds: float) -> bytes:
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as writer:
        writer.setnchannels(2)
        writer.setsampwidth(2)
        writer.setframerate(44_100)
        writer.writeframes(b"\0" * int(4 * 44_100 * seconds))
    return buffer.getvalue()


# ---- speech ----


def test_speech_is_a_mono_wav_as_long_as_it_says() -> None:
    output = spoken(text="Hello, this is Tessera.")
    pcm = samples(output, 1, 22_050)
    assert output.duration_s == pytest.approx(len(pcm) / 22_050)
    assert np.abs(pcm).max() > 3000


@pytest.mark.parametrize(("format_", "codec", "rate_hz"), [("mp3", "mp3float", 22_050), ("opus", "opus", 48_000)])
def test_speech_is_compressed_where_asked(format_: str, codec: str, rate_hz: int) -> None:
    output = spoken(text="Hello, this is Tessera.", format=format_)
    with av.open(io.BytesIO(output.data)) as container:
        stream = container.streams.audio[0]
        assert stream.codec_context.name == codec
        seconds = sum(frame.samples for frame in container.decode(stream)) / rate_hz
    assert seconds == pytest.approx(output.duration_s, abs=0.12)


def test_speed_makes_speech_shorter_and_slowness_longer() -> None:
    slowest, slow, normal, fast = (
        spoken(text="one two three four five", speed=speed).duration_s or 0 for speed in (0.25, 0.5, 1.0, 3.0)
    )
    assert slowest > slow > normal > fast


@pytest.mark.parametrize(
    "voice", [*speech.VOICES, "en", "en-us", "en-gb", "de", "es", "pt", "pt-br", "ru", "fr", "zh", "EN_US"]
)
def test_every_voice_of_the_catalogue_speaks(voice: str) -> None:
    assert (spoken(text="Hallo 12", voice=voice).duration_s or 0) > 0.2


@pytest.mark.parametrize("voice", ["klingon", "../../etc/passwd", "en+../x", "", "xx"])
def test_an_unknown_voice_is_refused_with_some_that_exist(voice: str) -> None:
    with pytest.raises(InvalidInput, match="alloy"):
        speech.resolve_voice(voice)


def test_control_characters_and_markup_are_not_obeyed() -> None:
    plain = spoken(text="hello world")
    assert spoken(text="\x01+50S hello world \x01100P").duration_s != 0
    assert speech.plain("a\x01b\x1bc") == "a b c"
    assert (spoken(text="<speak><break time='30s'/>hello</speak>").duration_s or 0) < 10 * (plain.duration_s or 1)


def test_text_without_anything_to_say_is_refused() -> None:
    with pytest.raises(InvalidInput, match="Nothing was charged"):
        spoken(text="\x01\x02")


def test_long_text_is_cut_into_pieces_without_losing_words() -> None:
    words = [f"word{index}" for index in range(400)]
    pieces = speech.sentences(" ".join(words) + ". And then? Nothing.")
    assert max(map(len, pieces)) <= 300
    assert " ".join(pieces).split() == [*words[:-1], "word399.", "And", "then?", "Nothing."]


# ---- transcription ----


def test_a_spoken_sentence_is_heard_in_part() -> None:
    said = spoken(text="Your country. What can your country do for you?", voice="en-us")
    output = heard(said.data)
    assert len({"what", "can", "your", "country", "do", "for", "you"} & set(output["text"].split())) >= 3
    assert output["language"] == "en"
    assert output["duration_s"] == pytest.approx(said.duration_s, abs=0.05)


def test_segments_lie_in_order_within_the_recording() -> None:
    pause = b"\0" * 44_100 * 2
    pcm = b"".join(
        samples(spoken(text=text), 1, 22_050).tobytes() + pause for text in ("One boat is here.", "Two cats are there.")
    )
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(2)
        writer.setframerate(22_050)
        writer.writeframes(pcm)
    output = heard(buffer.getvalue(), language="en", translate=True)
    times = [time for segment in output["segments"] for time in (segment["start_s"], segment["end_s"])]
    assert len(output["segments"]) >= 2
    assert times == sorted(times)
    assert times[-1] <= output["duration_s"] + 0.1
    assert output["text"] == " ".join(segment["text"] for segment in output["segments"])


def test_each_word_has_its_time_inside_of_its_segment_where_it_is_asked_for() -> None:
    said = spoken(text="Your country. What can your country do for you?", voice="en-us")
    output = heard(said.data, word_timestamps=True)
    assert "words" not in heard(said.data)
    assert " ".join(word["text"] for word in output["words"]) == output["text"]
    times = [time for word in output["words"] for time in (word["start_s"], word["end_s"])]
    assert times == sorted(times)
    first, last = output["segments"][0], output["segments"][-1]
    assert first["start_s"] <= times[0] < times[-1] <= last["end_s"]


def test_silence_has_no_segments() -> None:
    output = heard(silence(2.0))
    assert (output["text"], output["segments"]) == ("", [])
    assert output["duration_s"] == pytest.approx(2.0, abs=0.05)


@pytest.mark.parametrize("format_", ["mp3", "opus"])
def test_compressed_recordings_are_decoded(format_: str) -> None:
    said = spoken(text="What can your country do for you?", format=format_)
    assert heard(said.data)["duration_s"] == pytest.approx(said.duration_s, abs=0.15)


@pytest.mark.parametrize("data", [b"", b"RIFF", b"nonsense" * 200])
def test_what_is_no_recording_is_refused_in_a_sentence(data: bytes) -> None:
    with pytest.raises(InvalidInput, match="Nothing was charged"):
        heard(data)


def test_another_language_is_refused_naming_the_one_that_works() -> None:
    with pytest.raises(InvalidInput, match="English only"):
        heard(silence(0.5), language="de")


# ---- music ----


@pytest.mark.parametrize("duration_s", [1.0, 3.21, 7.0])
def test_music_lasts_exactly_as_long_as_asked(duration_s: float) -> None:
    output = played(prompt="calm piano", duration_s=duration_s)
    assert len(samples(output, 2, 44_100)) == round(duration_s * 44_100)
    assert output.duration_s == pytest.approx(duration_s, abs=1e-4)


@pytest.mark.parametrize("style", list(music_styles.STYLES))
def test_every_style_plays_without_clipping_and_ends_softly(style: str) -> None:
    pcm = samples(played(prompt=style, duration_s=6), 2, 44_100) / 32_768
    peak_db = 20 * np.log10(np.abs(pcm).max())
    assert -2.5 < peak_db < -0.9
    assert np.abs(pcm[0]).max() < 0.01
    assert np.abs(pcm[-200:]).max() < 0.01
    assert np.sqrt((pcm**2).mean()) > 0.03
    assert abs(float(pcm.mean())) < 0.01


def test_the_prompt_decides_style_tempo_and_key() -> None:
    import random

    def asked(prompt: str) -> music_styles.Plan:
        return music_styles.plan(prompt, random.Random(1))

    assert asked("an epic battle").style.name == "epic"
    assert asked("a waltz").style.beats == 3
    assert asked("techno, 140 bpm").bpm == 140
    assert asked("piano in D minor").key == 2
    assert asked("piano in D minor").style.scale == "minor"
    assert asked("happy flute").style.lead == "flute"
    assert asked("lofi without drums").style.drums == ""


def test_another_seed_is_another_piece() -> None:
    assert played(prompt="lofi", duration_s=3, seed=1).data != played(prompt="lofi", duration_s=3, seed=2).data

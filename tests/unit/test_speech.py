"""Speech: what is cut and joined between a text and its sound, and the real runtime on a network that hums."""

from __future__ import annotations

import io
import wave
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.speech.engine import SpeechEngine, SpeechModel
from deployments.speech.joining import Joiner, Samples, pcm
from deployments.speech.kokoro import MAX_TOKENS, RATE_HZ, Kokoro, phonemes_of
from deployments.speech.sentences import Pause, pieces
from deployments.speech.voices import BEST, OPENAI, offered, resolve
from tessera.engine import Output, Progress
from tessera.errors import EngineError, InvalidInput, ModelMissing
from tests.conformance.engine_suite import check_stream, collected
from tests.conformance.harness_speech import LONG, tiny_network
from tests.conformance.test_preview import job
from tests.fakes.tiny_kokoro import SAMPLES, VOICES


def texts(text: str, language: str = "en", limit: int = 280) -> list[str]:
    return [piece.text for piece in pieces(text, limit=limit, language=language)]


# ------------------------------------------------------------------ sentences


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Hello. How are you? Fine!", ["Hello.", "How are you?", "Fine!"]),
        ("Pi is 3.14. It goes on.", ["Pi is 3.14.", "It goes on."]),
        ("Dr. Smith met Mr. Jones at No. 5.", ["Dr. Smith met Mr. Jones at No. 5."]),
        ("J. R. R. Tolkien wrote it, e.g. The Hobbit.", ["J. R. R. Tolkien wrote it, e.g. The Hobbit."]),
        ("It ends at 5 p.m. Then we leave.", ["It ends at 5 p.m.", "Then we leave."]),
        ("We met at 5 p.m. on Monday.", ["We met at 5 p.m. on Monday."]),
        ("See example.org. It is good.", ["See example.org.", "It is good."]),
        ("Version 2.0.1 costs $1,299.50 today.", ["Version 2.0.1 costs $1,299.50 today."]),
        ('"Why?" she asked. "Well… perhaps."', ['"Why?" she asked.', '"Well… perhaps."']),
        ("1. Wash it. 2. Dry it.", ["1. Wash it.", "2. Dry it."]),
        ("Es war 1999. Dann kam er.", ["Es war 1999.", "Dann kam er."]),
        ("你好。今天很好！再见", ["你好。", "今天很好！", "再见"]),
        ("Wait... what? No!", ["Wait... what?", "No!"]),
        ("A heading\nA line that was\nwrapped here.\n\nNext.", ["A heading", "A line that was wrapped here.", "Next."]),
    ],
)
def test_sentences_end_where_they_end_and_not_at_every_full_stop(text: str, expected: list[str]) -> None:
    assert texts(text) == expected


def test_the_number_of_a_day_ends_no_sentence_where_languages_write_it_so() -> None:
    assert texts("Am 3. Mai kam z.B. Dr. Maier. Er blieb.", "de") == ["Am 3. Mai kam z.B. Dr. Maier.", "Er blieb."]
    assert texts("There are 3. Then more came.", "en") == ["There are 3.", "Then more came."]


@given(st.text(alphabet=st.sampled_from("ab .,!?\n1A…。"), max_size=200), st.integers(8, 60))
def test_no_word_is_lost_or_said_twice_and_no_piece_is_too_long(text: str, limit: int) -> None:
    found = texts(text, limit=limit)
    assert "".join("".join(found).split()) == "".join(text.split())
    assert all(0 < len(piece) <= limit for piece in found)


def test_a_long_sentence_is_cut_at_a_comma_with_a_short_pause_or_between_words_with_none() -> None:
    [first, second] = pieces("one two three four, five six seven eight", limit=24)
    assert (first.text, first.pause) == ("one two three four,", Pause.CLAUSE)
    assert second.pause is Pause.PARAGRAPH
    cut = pieces("word " * 20, limit=24)
    assert {piece.pause for piece in cut[:-1]} == {Pause.NONE}
    assert all(piece.text.replace("word", "").strip() == "" for piece in cut)


# ------------------------------------------------------------------ phonemes


def test_phonemes_keep_punctuation_but_not_that_inside_of_numbers() -> None:
    [said] = phonemes_of("Hello, it costs 3.50, at 12:30.", "en-us")
    assert said.count(",") == 2 and said.count(".") == 1 and ":" not in said
    assert said.startswith("həlˈO,")


def test_sounds_are_written_as_the_network_learned_them() -> None:
    assert "".join(phonemes_of("judge oyster", "en-us")) == "ʤˈʌʤ ˈYstəɹ"
    assert "^" not in "".join(phonemes_of("¿Qué tal, muchacho?", "es"))


def test_what_the_network_cannot_take_at_once_comes_in_parts() -> None:
    parts = list(phonemes_of("internationally " * 80, "en-us"))
    assert len(parts) > 1 and all(0 < len(part) <= MAX_TOKENS for part in parts)


# ------------------------------------------------------------------ joining


def hum(seconds: float, level: float = 0.5, phase: float = 0.7) -> Samples:
    t = np.arange(round(seconds * RATE_HZ)) / RATE_HZ
    return (level * np.sin(2 * np.pi * 150 * t + phase)).astype(np.float32)


def jump(samples: Samples) -> float:
    return float(np.abs(np.diff(samples)).max())


@pytest.mark.parametrize("pause_s", [0.0, 0.14, 0.34])
def test_joined_pieces_have_no_larger_jumps_than_a_piece_has_inside(pause_s: float) -> None:
    joiner = Joiner(RATE_HZ)
    parts = [hum(0.5, 0.5, 0.7), hum(0.3, 0.9, 2.9), hum(0.4, 0.3, 4.4)]
    raw = jump(np.concatenate(parts))
    joined = np.concatenate([*(joiner.add(part, pause_s) for part in parts), joiner.end()])
    inside = max(jump(part) for part in parts)
    assert raw > 2 * inside  # laid end to end they would click
    assert jump(joined) <= 1.25 * inside
    assert abs(joined[0]) < 0.001 and abs(joined[-1]) < 0.001
    assert len(joined) / RATE_HZ == pytest.approx(1.2 + 2 * pause_s, abs=0.07)


def test_silence_around_a_piece_is_cut_but_for_a_breath_and_an_empty_piece_changes_nothing() -> None:
    joiner = Joiner(RATE_HZ)
    silence = np.zeros(RATE_HZ, np.float32)
    sound = np.concatenate([silence, hum(0.5), silence])
    joined = np.concatenate([joiner.add(sound, 0.1), joiner.add(silence, 0.1), joiner.add(sound, 0.0), joiner.end()])
    assert len(joined) / RATE_HZ == pytest.approx(1.22, abs=0.05)


def test_what_is_too_loud_is_cut_and_does_not_wrap() -> None:
    assert np.frombuffer(pcm(np.array([1.5, -1.5, 0.0], np.float32)), "<i2").tolist() == [32767, -32767, 0]


# ------------------------------------------------------------------ voices


def test_names_of_openai_and_of_languages_mean_voices_of_the_network() -> None:
    there = {*OPENAI.values(), *BEST.values()}
    for name in (*OPENAI, *BEST, "EN_US", "af_heart", "AF-Heart"):
        assert resolve(name, there) is not None
    heart = resolve("en", there)
    assert heart is not None and (heart.name, heart.language) == ("af_heart", "en-us")
    assert resolve("de", there) is None and resolve("klingon", there) is None


def test_a_voice_that_is_not_there_is_another_one_of_its_language() -> None:
    found = resolve("onyx", VOICES)
    assert found is not None and found.name == "am_adam"
    assert resolve("it", VOICES) is None
    assert "jf_alpha" not in offered(VOICES)  # espeak-ng reads no Japanese


# ------------------------------------------------------------------ the engine


@pytest.fixture
async def engine() -> AsyncIterator[SpeechEngine]:
    network, voices = tiny_network()
    made = SpeechEngine(
        [SpeechModel(id="kokoro", network=network, voices=voices), SpeechModel(id="espeak-ng")],
        threads=1,
        loads_itself=frozenset({"kokoro", "espeak-ng"}),
    )
    yield made
    await made.close()


async def spoken(engine: SpeechEngine, model: str = "kokoro", **given: Any) -> tuple[dict[str, Any], Output, list[Any]]:
    events = await collected(engine, job("speech", model=model, **{"text": "Good morning. It is 9.30.", **given}))
    check_stream(events)
    [file] = [event for event in events if isinstance(event, Output)]
    return dict(events[-1].output), file, events


def decoded(file: Output) -> tuple[int, int, Samples]:
    with av.open(io.BytesIO(file.data)) as container:
        stream = container.streams.audio[0]
        frames = [frame.to_ndarray() for frame in container.decode(stream)]
        rate, channels = stream.rate, stream.channels
    return rate, channels, np.concatenate([frame.reshape(-1) for frame in frames]).astype(np.float32)


async def test_text_is_spoken_in_each_format_speed_and_language(engine: SpeechEngine) -> None:
    """One test for all of it: each start of the subprocess takes seconds on a busy machine."""
    output, file, events = await spoken(engine, voice="alloy")
    assert (output["engine"], output["voice"], output["format"]) == ("kokoro", "af_heart", "wav")
    with wave.open(io.BytesIO(file.data)) as reader:
        assert (reader.getframerate(), reader.getnchannels(), reader.getsampwidth()) == (RATE_HZ, 1, 2)
        assert reader.getnframes() / RATE_HZ == pytest.approx(output["duration_s"], abs=0.01)
        samples = np.frombuffer(reader.readframes(reader.getnframes()), "<i2").astype(np.float32) / 32768
    assert any(0 < event.fraction < 1 for event in events if isinstance(event, Progress))

    # No click anywhere: no jump beyond those of the loudest tone itself.
    network, voices = tiny_network()
    alone = Kokoro(network, voices, threads=1, provider="CPUExecutionProvider")
    inside = max(jump(alone.speak(part, "af_heart", 1.0)) for part in phonemes_of("Good morning. It is 9.30.", "en-us"))
    assert jump(samples) <= 1.1 * inside

    # Ogg Opus at 48 kHz in mono is what Telegram takes for a voice message.
    _, opus, _ = await spoken(engine, format="opus")
    assert opus.media_type == "audio/ogg" and opus.data[:4] == b"OggS" and b"OpusHead" in opus.data[:64]
    assert decoded(opus)[:2] == (48_000, 1)
    _, mp3, _ = await spoken(engine, format="mp3")
    assert mp3.media_type == "audio/mpeg" and decoded(mp3)[1] == 1

    # Twice as fast is half as long, and so it is where the network alone would slur.
    usual, _, _ = await spoken(engine)
    for speed in (0.25, 0.5, 2.0, 4.0):
        changed, _, _ = await spoken(engine, speed=speed)
        assert changed["duration_s"] * speed == pytest.approx(usual["duration_s"], rel=0.35)

    # A language that the network does not speak has espeak-ng's voice, and says so.
    german, _, _ = await spoken(engine, text="Guten Morgen.", voice="de")
    assert german["engine"] == "espeak-ng" and german["preview"] is True
    plain, _, _ = await spoken(engine, "espeak-ng", voice="en-gb", format="opus")
    assert plain["engine"] == "espeak-ng"
    with pytest.raises(InvalidInput, match=r"no voice 'af_nobody'.*af_heart"):
        await spoken(engine, voice="af_nobody")
    assert "espeak-ng said a word" in await engine.self_test()
    with pytest.raises(InvalidInput, match="no voice 'klingon'"):
        await spoken(engine, voice="klingon")
    with pytest.raises(InvalidInput, match="nothing in 'text' that can be spoken"):
        await spoken(engine, text="... !!!")


async def test_a_long_text_is_spoken_whole(engine: SpeechEngine) -> None:
    output, file, events = await spoken(engine, text=LONG[:4000], format="opus")
    phonemes = sum(len(part) for piece in pieces(LONG[:4000], limit=280) for part in phonemes_of(piece.text, "en-us"))
    assert output["duration_s"] > 0.9 * phonemes * SAMPLES / RATE_HZ
    assert len({event.fraction for event in events if isinstance(event, Progress)}) > 40
    assert file.duration_s == pytest.approx(output["duration_s"], abs=0.01)


async def test_missing_files_are_named_with_their_source(tmp_path: Path) -> None:
    model = SpeechModel(
        id="kokoro", network=tmp_path / "k.onnx", voices=tmp_path / "v.bin", source="https://example.org/kokoro"
    )
    engine = SpeechEngine([model])
    with pytest.raises(ModelMissing, match=r"k\.onnx and .*v\.bin.*https://example.org/kokoro"):
        await engine.ensure("kokoro")
    assert not (await engine.probe()).ok
    assert (await SpeechEngine([model, SpeechModel(id="espeak-ng")]).probe()).ok  # espeak-ng is always there


def test_a_file_that_is_no_such_network_is_told(tmp_path: Path) -> None:
    _, voices = tiny_network()
    (tmp_path / "broken.onnx").write_bytes(b"not a network")
    with pytest.raises(EngineError, match=r"broken\.onnx cannot be loaded"):
        Kokoro(tmp_path / "broken.onnx", voices, threads=1, provider="CPUExecutionProvider")
    network, _ = tiny_network()
    (tmp_path / "voices.npz").write_bytes(b"no voices")
    with pytest.raises(EngineError, match=r"voices\.npz cannot be read"):
        Kokoro(network, tmp_path / "voices.npz", threads=1, provider="CPUExecutionProvider")

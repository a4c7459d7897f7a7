"""Text: exact where it can be, honest where it cannot, and always within its limits."""

from __future__ import annotations

import time
import uuid
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deployments.preview import answers, text
from deployments.preview.flag import CancelFlag
from tessera.engine import Chunk, Done, EngineJob
from tessera.inputs import parse_input
from tessera.jobs import Kind

STORY = (
    "The lighthouse of Norden was built in 1871 by Ada Holm. It stands on a cliff because ships were lost there. "
    "Its lamp can be seen from 40 kilometres. Today it is a museum, and a cat lives in it."
)


def answered(**asked: Any) -> dict[str, Any]:
    parsed = parse_input(Kind.TEXT, {"seed": 1} | asked).model_dump(mode="json")
    job = EngineJob(id=uuid.uuid4(), kind=Kind.TEXT, model="preview-text", input=parsed)
    events = list(text.run(job, CancelFlag(), tokens_per_s=0))
    done = events[-1]
    assert isinstance(done, Done)
    assert "".join(event.text for event in events if isinstance(event, Chunk)) == done.output["text"]
    assert done.cost_units == done.output["usage"]["total_tokens"]
    return dict(done.output)


@pytest.mark.parametrize(
    ("question", "part"),
    [
        ("What is 12*7+3?", "87"),
        ("15% of 80", "12"),
        ("what is (3 + 4) × 12", "84"),
        ("1,200 plus 34", "1,234"),
        ("7 / 0", "divides by zero"),
        ("square root of 144 + 1", "13"),
        ("list the first 5 primes", "2, 3, 5, 7, 11"),
        ("count to 4", "1, 2, 3, 4"),
        ("name 3 planets", "3. Earth"),
        ("How many words are in: one two three", "3 words"),
        ('how many r in "strawberry"', "3 times"),
        ("sort: pear, apple, fig", "apple, fig, pear"),
        ("uppercase: sea", "SEA"),
        (f"{STORY} When was the lighthouse built?", "1871"),
        (f"{STORY}\n\nWho built it, the lighthouse of Norden?", "Ada Holm"),
        (f"Why does it stand on a cliff?\n\n{STORY}", "ships were lost"),
        (f"Summarise in one sentence: {STORY}", "lighthouse"),
        ("translate house into German", "cannot translate"),
    ],
)
def test_what_can_be_worked_out_is_answered(question: str, part: str) -> None:
    assert part in answered(prompt=question)["text"]


def test_what_cannot_be_known_is_said_to_be_unknown() -> None:
    reply = answered(prompt="What is the capital of France?")["text"]
    assert "preview engine" in reply
    assert "language model" in reply


def test_a_question_about_an_earlier_message_is_answered_from_it() -> None:
    messages = [
        {"role": "user", "content": STORY},
        {"role": "assistant", "content": "Noted."},
        {"role": "user", "content": "From how far can its lamp be seen?"},
    ]
    assert "40 kilometres" in answered(messages=messages)["text"]


def test_temperature_zero_ignores_the_seed_and_warmth_follows_it() -> None:
    cold = {answered(prompt="Explain love", temperature=0, seed=seed)["text"] for seed in range(6)}
    warm = {answered(prompt="Explain love", temperature=1.5, seed=seed)["text"] for seed in range(6)}
    assert len(cold) == 1
    assert len(warm) > 1


def test_a_small_top_p_takes_the_first_choice_and_a_whole_one_changes_nothing() -> None:
    def said(**given: object) -> set[str]:
        return {answered(prompt="Explain love", temperature=1.5, seed=seed, **given)["text"] for seed in range(6)}

    assert said(top_p=0.01) == {answered(prompt="Explain love", temperature=0)["text"]}
    assert said(top_p=1) == said()


def test_max_tokens_cuts_and_says_length() -> None:
    output = answered(prompt="tell me a story about rain", max_tokens=7)
    assert output["finish_reason"] == "length"
    assert output["usage"]["completion_tokens"] == 7


def test_a_stop_sequence_ends_the_text_and_is_not_part_of_it() -> None:
    output = answered(prompt="count to 9", stop=["5", "7"])
    assert output["text"] == "1, 2, 3, 4, "
    assert output["finish_reason"] == "stop"


def test_usage_counts_words_and_punctuation() -> None:
    assert text.count_tokens("Hello, world! 2+2") == 7
    assert text.count_tokens("a" * 33) == 3
    assert answered(prompt="2 + 2")["usage"]["prompt_tokens"] == 3


def test_a_long_story_reaches_the_limit_of_tokens() -> None:
    assert answered(prompt="a long story about a boat", max_tokens=8192)["usage"]["completion_tokens"] == 8192


def test_streaming_is_paced_with_the_first_chunk_at_once() -> None:
    parsed = parse_input(Kind.TEXT, {"prompt": "count to 30"}).model_dump(mode="json")
    job = EngineJob(id=uuid.uuid4(), kind=Kind.TEXT, model="preview-text", input=parsed)
    start = time.monotonic()
    at = [
        time.monotonic() - start for event in text.run(job, CancelFlag(), tokens_per_s=150) if isinstance(event, Chunk)
    ]
    assert len(at) > 3
    assert at[-1] >= 0.3


@settings(max_examples=60, deadline=None)
@given(st.text(min_size=1, max_size=300), st.integers(1, 40), st.floats(0, 2))
def test_any_prompt_is_answered_within_its_tokens(prompt: str, max_tokens: int, temperature: float) -> None:
    reply = answers.reply([("user", prompt)], seed=1, temperature=temperature)
    pieces, _ = text.limited(reply, max_tokens, [])
    assert reply
    assert text.count_tokens("".join(pieces)) <= max_tokens


@pytest.mark.parametrize(
    "hostile", ["9" * 5000 + "*9", "(" * 3000 + "1+1", "9**9**9**9", "1" + "+1" * 90, "what is 2**64**64"]
)
def test_arithmetic_that_would_take_for_ever_is_left_alone(hostile: str) -> None:
    assert answers.reply([("user", hostile)], seed=0, temperature=0.0)

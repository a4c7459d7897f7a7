"""Inputs: unknown fields and values out of range are refused by name, whatever is sent."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tessera.errors import InvalidInput
from tessera.inputs import MAX_PROMPT_CHARS, MAX_TEXT_CHARS, VideoInput, parse_input
from tessera.jobs import Kind

SMALLEST: dict[Kind, dict[str, Any]] = {
    Kind.IMAGE: {"prompt": "a"},
    Kind.VIDEO: {"prompt": "a"},
    Kind.TEXT: {"prompt": "a"},
    Kind.TRANSCRIPTION: {"upload": "upl_x"},
    Kind.SPEECH: {"text": "a"},
    Kind.MUSIC: {"prompt": "a"},
}


@pytest.mark.parametrize("kind", Kind)
def test_each_kind_needs_only_what_it_is_made_from(kind: Kind) -> None:
    assert parse_input(kind, SMALLEST[kind])


@pytest.mark.parametrize("kind", Kind)
def test_an_unknown_field_is_refused_by_name_with_those_that_there_are(kind: Kind) -> None:
    with pytest.raises(InvalidInput, match="steps") as refused:
        parse_input(kind, {**SMALLEST[kind], "steps": 5})
    assert refused.value.details["errors"][0]["field"] == "input.steps"
    assert next(iter(SMALLEST[kind])) in refused.value.details["errors"][0]["message"]


@pytest.mark.parametrize(
    ("kind", "data", "field"),
    [
        (Kind.IMAGE, {}, "input"),
        (Kind.IMAGE, {"prompt": "   "}, "input"),
        (Kind.IMAGE, {"prompt": "a", "width": -5}, "input.width"),
        (Kind.IMAGE, {"prompt": "a", "width": "wide"}, "input.width"),
        (Kind.IMAGE, {"prompt": "a", "height": 5000}, "input.height"),
        (Kind.IMAGE, {"prompt": "a", "count": 0}, "input.count"),
        (Kind.IMAGE, {"prompt": "a", "seed": 2**53}, "input.seed"),
        (Kind.IMAGE, {"prompt": "a\0b"}, "input.prompt"),
        (Kind.IMAGE, {"prompt": "a\ud800"}, "input.prompt"),
        (Kind.IMAGE, {"prompt": "a" * (MAX_PROMPT_CHARS + 1)}, "input.prompt"),
        (Kind.IMAGE, {"prompt": "a", "mask": "upl_x"}, "input"),
        (Kind.IMAGE, {"image": "upl_x", "scale": float("nan")}, "input.scale"),
        (Kind.IMAGE, {"image": "upl_x", "mask": "upl_y", "scale": 2}, "input"),
        (Kind.VIDEO, {}, "input.prompt"),
        (Kind.VIDEO, {"prompt": "a", "width": 513}, "input.width"),
        (Kind.VIDEO, {"prompt": "a", "duration_s": float("inf")}, "input.duration_s"),
        (Kind.TEXT, {}, "input"),
        (Kind.TEXT, {"prompt": "a", "messages": [{"role": "user", "content": "b"}]}, "input"),
        (Kind.TEXT, {"messages": []}, "input.messages"),
        (Kind.TEXT, {"messages": [{"role": "robot", "content": "b"}]}, "input.messages.0.role"),
        (Kind.TEXT, {"messages": [{"role": "user", "content": "b" * MAX_TEXT_CHARS}] * 2}, "input"),
        (Kind.TEXT, {"prompt": "a", "max_tokens": 0}, "input.max_tokens"),
        (Kind.TRANSCRIPTION, {}, "input.upload"),
        (Kind.TRANSCRIPTION, {"upload": "upl_x", "language": "english"}, "input.language"),
        (Kind.SPEECH, {"text": ""}, "input.text"),
        (Kind.SPEECH, {"text": "a", "format": "aiff"}, "input.format"),
        (Kind.MUSIC, {"prompt": "a", "duration_s": 301}, "input.duration_s"),
    ],
)
def test_a_wrong_value_is_refused_and_its_field_is_named(kind: Kind, data: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidInput, match="Nothing was submitted or charged") as refused:
        parse_input(kind, data)
    assert field in [error["field"] for error in refused.value.details["errors"]]


@pytest.mark.parametrize(("duration_s", "fps", "frames"), [(2, 12, 24), (0.25, 1, 1), (16, 30, 480), (0.3, 10, 3)])
def test_a_clip_has_at_least_one_frame(duration_s: float, fps: int, frames: int) -> None:
    assert VideoInput(prompt="a", duration_s=duration_s, fps=fps).frames == frames


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=150)
@given(
    kind=st.sampled_from(Kind),
    data=st.dictionaries(
        st.sampled_from(["prompt", "messages", "upload", "text", "width", "duration_s", "seed", "image", "stop", "x"]),
        JSON,
    ),
)
def test_whatever_is_sent_is_taken_or_refused_in_words(kind: Kind, data: dict[str, Any]) -> None:
    try:
        parse_input(kind, data)
    except InvalidInput as refused:
        assert refused.details["errors"]

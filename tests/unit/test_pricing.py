"""Prices follow from parameters, are exact integers, and are never above what was held."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tessera.inputs import AnyInput, ImageInput, MusicInput, SpeechInput, TextInput, TranscriptionInput, VideoInput
from tessera.pricing import charge_for_items_mt, charge_for_partial_mt, price_mt, prompt_tokens_bound, text_mt


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (ImageInput(prompt="a"), 1000),
        (ImageInput(prompt="a", count=4), 4000),
        (ImageInput(prompt="a", width=2048, height=1024), 2000),
        (ImageInput(prompt="a", width=512, height=512), 250),
        (ImageInput(prompt="a", width=16, height=16), 1),  # 0.24 mt: rounded up to the smallest amount
        (ImageInput(prompt="a", width=1024, height=1025), 1001),
        (VideoInput(prompt="a", width=1024, height=1024, duration_s=2, fps=12), 3000),
        (VideoInput(prompt="a", width=512, height=512, duration_s=2, fps=12), 750),
        (MusicInput(prompt="a", duration_s=30), 1000),
        (MusicInput(prompt="a", duration_s=30.001), 1001),
        (SpeechInput(text="a" * 1000), 1000),
        (SpeechInput(text="a"), 1),
        (TextInput(prompt="abcd", max_tokens=1980), 1000),  # 4 bytes, 16 of the template, 1980 to come
    ],
)
def test_the_price_follows_from_the_parameters(data: AnyInput, expected: int) -> None:
    assert price_mt(data) == expected


@pytest.mark.parametrize(("seconds", "expected"), [(300, 1000), (0.05, 1), (301, 1004), (None, 1)])
def test_a_transcription_is_priced_by_its_measured_length(seconds: float | None, expected: int) -> None:
    assert price_mt(TranscriptionInput(upload="upl_x"), audio_s=seconds) == expected


def test_an_enlargement_is_priced_by_the_area_that_comes_out() -> None:
    data = ImageInput(image="upl_x", scale=2)
    assert price_mt(data, source_px=512 * 512) == 1000


def test_many_images_cost_exactly_as_many_times_one() -> None:
    one = price_mt(ImageInput(prompt="a", width=1000, height=700))
    assert price_mt(ImageInput(prompt="a", width=1000, height=700, count=8)) == 8 * one


@given(st.text(min_size=1, max_size=200).filter(str.strip).filter(lambda t: "\0" not in t))
def test_a_prompt_is_bounded_by_its_bytes_whatever_its_script(prompt: str) -> None:
    try:
        data = TextInput(prompt=prompt)
    except ValueError:
        return  # a lone surrogate
    assert prompt_tokens_bound(data) >= len(prompt.encode()) > 0


@given(used=st.integers(0, 10_000), prompt=st.text("ab ", max_size=300), most=st.integers(1, 8192))
def test_a_text_never_costs_more_than_was_held_for_it(used: int, prompt: str, most: int) -> None:
    data = TextInput(prompt=f"x{prompt}", max_tokens=most)
    assert text_mt(min(used, prompt_tokens_bound(data) + most)) <= price_mt(data)


@given(cost=st.integers(1, 10**9), executed=st.floats(-1, 2))
def test_a_cancelled_run_is_charged_within_its_hold(cost: int, executed: float) -> None:
    charged = charge_for_partial_mt(cost, executed=executed)
    assert 0 <= charged <= cost
    assert (executed > 0 or charged == 0) and (executed < 1 or charged == cost)


@given(cost=st.integers(1, 10**9), asked=st.integers(1, 8), delivered=st.integers(0, 9))
def test_missing_items_are_given_back(cost: int, asked: int, delivered: int) -> None:
    charged = charge_for_items_mt(cost, delivered=delivered, asked=asked)
    assert 0 <= charged <= cost
    assert charged == cost if delivered >= asked else charged * asked <= cost * delivered

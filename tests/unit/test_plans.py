"""Limits: the plan's, replaced by a user's own; what is larger is refused by name."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tessera.errors import InvalidInput
from tessera.inputs import AnyInput, ImageInput, TextInput, VideoInput
from tessera.plans import Limits, check_limits, tokens

FREE = Limits(
    daily_mt=20_000,
    submissions_per_min=30,
    requests_per_min=600,
    max_queued=25,
    max_running=1,
    max_image_px=1024 * 1024,
    max_video_s=4,
    retention_days=3,
)


@pytest.mark.parametrize(
    ("millitokens", "shown"), [(0, 0), (1, 0.001), (1000, 1), (1500, 1.5), (20_000, 20), (-250, -0.25)]
)
def test_tokens_are_shown_with_at_most_three_places(millitokens: int, shown: float) -> None:
    assert tokens(millitokens) == shown


@given(st.integers(0, 10**12))
def test_no_millitoken_is_lost_in_what_is_shown(millitokens: int) -> None:
    assert round(tokens(millitokens) * 1000) == millitokens


def test_a_users_own_limits_replace_those_of_the_plan() -> None:
    own = FREE.overridden({"daily_mt": 5, "max_running": None, "unrelated": 1})
    assert (own.daily_mt, own.max_running, own.max_queued) == (5, 1, 25)


def test_a_quota_of_zero_is_a_limit_and_not_an_absent_one() -> None:
    assert FREE.overridden({"daily_mt": 0}).daily_mt == 0


@pytest.mark.parametrize(
    "data",
    [
        ImageInput(prompt="a"),
        ImageInput(prompt="a", width=2048, height=512),
        VideoInput(prompt="a", duration_s=4),
        TextInput(prompt="a"),
    ],
)
def test_what_the_plan_allows_passes(data: AnyInput) -> None:
    check_limits(FREE, "free", data)


@pytest.mark.parametrize(
    ("data", "field"),
    [
        (ImageInput(prompt="a", width=1024, height=1025), "input.width"),
        (VideoInput(prompt="a", width=1920, height=1080), "input.width"),
        (VideoInput(prompt="a", duration_s=4.25), "input.duration_s"),
    ],
)
def test_what_is_larger_than_the_plan_is_refused_by_name(data: AnyInput, field: str) -> None:
    with pytest.raises(InvalidInput, match="Nothing was submitted or charged") as refused:
        check_limits(FREE, "free", data)
    assert [error["field"] for error in refused.value.details["errors"]] == [field]

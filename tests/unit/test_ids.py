"""Ids: what is shown can be read back, and nothing else can."""

from __future__ import annotations

from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tessera.errors import NotFound
from tessera.ids import Prefix, new_id, parse, show


@given(st.uuids(), st.sampled_from(Prefix))
def test_a_shown_id_reads_back_as_itself(value: UUID, prefix: Prefix) -> None:
    text = show(prefix, value)
    assert parse(prefix, text) == value
    assert text.startswith(f"{prefix.value}_") and len(text) == len(prefix.value) + 27 and text == text.lower()


@given(st.uuids(), st.uuids())
def test_shown_ids_sort_like_the_ids(one: UUID, other: UUID) -> None:
    assert (show(Prefix.JOB, one) < show(Prefix.JOB, other)) == (one < other)


@given(st.text(max_size=40))
def test_any_text_is_an_id_that_show_wrote_or_is_not_found(text: str) -> None:
    try:
        value = parse(Prefix.JOB, text)
    except NotFound:
        return
    assert show(Prefix.JOB, value) == text


@given(st.text("0123456789abcdefghjkmnpqrstvwxyzilouA-", min_size=26, max_size=26))
def test_a_body_that_is_read_is_written_the_same_way(body: str) -> None:
    try:
        value = parse(Prefix.JOB, f"job_{body}")
    except NotFound:
        return
    assert show(Prefix.JOB, value) == f"job_{body}"


@pytest.mark.parametrize(
    "text",
    ["", "job_", "job", "job_8" + "z" * 25, "job_" + "0" * 25, "job_" + "0" * 27, "job_" + "I" * 26, "art_" + "0" * 26],
)
def test_what_is_no_id_of_a_job_is_not_found(text: str) -> None:
    with pytest.raises(NotFound):
        parse(Prefix.JOB, text)


def test_later_ids_sort_later() -> None:
    made = [new_id() for _ in range(1000)]
    assert made == sorted(made) and len(set(made)) == 1000
    assert {value.version for value in made} == {7}

"""What becomes of texts on their way to and from KoboldCPP: chat templates and stop sequences."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.koboldcpp.engine import MAX_SEED, server_seed
from deployments.koboldcpp.stops import StopFilter
from deployments.koboldcpp.templates import templates

CHAT = {
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hello?"},
        {"role": "assistant", "content": "Hi."},
        {"role": "user", "content": "Who are you?"},
    ]
}


def filtered(pieces: list[str], stops: list[str]) -> tuple[str, bool]:
    stop_filter = StopFilter(stops)
    shown = "".join([*(stop_filter.feed(piece) for piece in pieces), stop_filter.rest()])
    return shown, stop_filter.stopped


@given(
    text=st.text("ab\nU:", max_size=40),
    cuts=st.lists(st.integers(0, 40), max_size=8),
    stops=st.lists(st.text("ab\nU:", min_size=1, max_size=4), max_size=3),
)
def test_the_way_a_text_is_cut_into_pieces_changes_nothing(text: str, cuts: list[int], stops: list[str]) -> None:
    edges = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    pieces = [text[a:b] for a, b in itertools.pairwise(edges)]
    ends = [(text.find(stop) + len(stop), text.find(stop)) for stop in stops if stop in text]
    expected = text[: min(ends)[1]] if ends else text
    assert filtered(pieces, stops) == (expected, bool(ends))


def test_a_stop_sequence_split_over_three_pieces_is_not_shown_in_part() -> None:
    stop_filter = StopFilter(["\nUser:"])
    assert [stop_filter.feed(piece) for piece in ("Yes.", "\n", "Us", "er: and")] == ["Yes.", "", "", ""]
    assert stop_filter.stopped
    assert stop_filter.feed("more") == ""


def test_what_only_looked_like_a_stop_sequence_is_shown() -> None:
    stop_filter = StopFilter(["\nUser:"])
    assert stop_filter.feed("a\nUse") == "a"
    assert stop_filter.feed("less") == "\nUseless"
    assert not stop_filter.stopped


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "chatml",
            "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHello?<|im_end|>\n"
            "<|im_start|>assistant\nHi.<|im_end|>\n<|im_start|>user\nWho are you?<|im_end|>\n<|im_start|>assistant\n",
        ),
        (
            "llama-3",
            "<|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
            "<|start_header_id|>user<|end_header_id|>\n\nHello?<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\nHi.<|eot_id|>"
            "<|start_header_id|>user<|end_header_id|>\n\nWho are you?<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\n",
        ),
        ("mistral", "[INST] Be brief.\n\nHello?[/INST] Hi.</s>[INST] Who are you?[/INST] "),
        (
            "llama-2",
            "[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nHello? [/INST] Hi. </s><s>[INST] Who are you? [/INST] ",
        ),
        (
            "gemma",
            "<start_of_turn>user\nBe brief.\n\nHello?<end_of_turn>\n<start_of_turn>model\nHi.<end_of_turn>\n"
            "<start_of_turn>user\nWho are you?<end_of_turn>\n<start_of_turn>model\n",
        ),
        (
            "alpaca",
            "Be brief.\n\n### Instruction:\nHello?\n\n### Response:\nHi.\n\n"
            "### Instruction:\nWho are you?\n\n### Response:\n",
        ),
    ],
)
def test_a_chat_is_written_as_the_family_was_trained(name: str, expected: str) -> None:
    assert templates()[name].render(CHAT) == expected


@pytest.mark.parametrize("name", templates())
def test_every_template_holds_all_that_was_said_and_opens_the_answer(name: str) -> None:
    template = templates()[name]
    prompt = template.render(CHAT)
    for message in CHAT["messages"]:
        assert message["content"] in prompt
    assert prompt.endswith(template.answer)
    assert template.user.count("{}") == template.assistant.count("{}") == 1


@pytest.mark.parametrize("name", [name for name in templates() if templates()[name].marks])
def test_nobody_can_speak_as_another_role(name: str) -> None:
    template = templates()[name]
    attack = f"hi{''.join(template.marks)}obey"
    prompt = template.render({"messages": [{"role": "user", "content": attack}]})
    honest = template.render({"messages": [{"role": "user", "content": "hi"}]})
    for mark in template.marks:
        assert prompt.count(mark) == honest.count(mark)


def test_a_prompt_is_the_users_message_and_stays_as_it_is_for_a_base_model() -> None:
    assert templates()["chatml"].render({"prompt": "Hi", "messages": None}) == (
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )
    assert templates()["none"].render({"prompt": "Once upon", "messages": None}) == "Once upon"


def test_an_answer_that_was_begun_is_gone_on_with() -> None:
    begun = {"messages": [{"role": "user", "content": "Count."}, {"role": "assistant", "content": "One, two"}]}
    assert templates()["chatml"].render(begun).endswith("<|im_start|>assistant\nOne, two")


def test_a_system_message_alone_is_asked_by_the_user_where_there_is_no_such_role() -> None:
    alone = {"messages": [{"role": "system", "content": "Say hello."}]}
    assert templates()["gemma"].render(alone).startswith("<start_of_turn>user\nSay hello.<end_of_turn>")


@pytest.mark.parametrize("seed", [0, 1, 7, 2**31, 2**53 - 1, None])
def test_a_seed_becomes_one_that_the_server_takes_as_it_is(seed: int | None) -> None:
    assert 1 <= server_seed(seed) <= MAX_SEED
    if seed is not None:
        assert server_seed(seed) == server_seed(seed)

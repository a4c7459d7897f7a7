"""How steps are told, and what becomes of an exception inside one."""

from __future__ import annotations

import pytest

from tessera.local.steps import Step, StepFailed, Steps, StepState


class Explained(Exception):
    log_tail = "the last line"
    fix = "do this"


def test_a_step_is_told_at_its_begin_on_each_news_and_at_its_end() -> None:
    told: list[Step] = []
    steps = Steps(told.append)

    with steps.step("ray", "Ray") as progress:
        progress.wait("waiting")
        progress.wait("waiting")
        progress.done("it runs", changed=False)

    assert [(step.state, step.detail) for step in told] == [
        (StepState.RUNNING, ""),
        (StepState.RUNNING, "waiting"),
        (StepState.UNCHANGED, "it runs"),
    ]
    assert steps.all == [told[-1]]


def test_a_failure_carries_the_log_and_the_fix_of_its_cause() -> None:
    told: list[Step] = []
    steps = Steps(told.append)

    with pytest.raises(StepFailed) as failure, steps.step("ray", "Ray"):
        raise Explained("it ended")

    assert (failure.value.message, failure.value.log_tail, failure.value.fix) == (
        "it ended",
        "the last line",
        "do this",
    )
    assert told[-1].state == StepState.FAILED

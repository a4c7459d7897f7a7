"""The table of transitions itself; tests/integration/test_state_machine.py compares it with the database."""

from __future__ import annotations

from tessera.jobs import FINAL, FINAL_EVENTS, TRANSITIONS, EventType, JobState


def test_every_state_has_its_transitions() -> None:
    assert set(TRANSITIONS) == set(JobState)


def test_final_states_absorb_and_only_they_do() -> None:
    assert {state for state, onward in TRANSITIONS.items() if not onward} == FINAL


def test_every_state_can_be_reached_and_can_end() -> None:
    reached = {JobState.CREATED}
    for _ in JobState:
        reached |= {onward for state in reached for onward in TRANSITIONS[state]}
    assert reached == set(JobState)
    ends = set(FINAL)
    for _ in JobState:
        ends |= {state for state, onward in TRANSITIONS.items() if onward & ends}
    assert ends == set(JobState)


def test_nothing_completes_that_did_not_run() -> None:
    assert [state for state, onward in TRANSITIONS.items() if JobState.COMPLETED in onward] == [JobState.RUNNING]


def test_each_final_state_has_its_event() -> None:
    assert {state.value for state in FINAL} == {event.value for event in FINAL_EVENTS}
    assert set(EventType) >= FINAL_EVENTS

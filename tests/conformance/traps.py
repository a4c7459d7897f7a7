"""The traps of the real servers, each with what reproduces it in a fake and the tests that hold the engine against it.

``python -m tests.conformance.traps`` prints the table. A knob is a field of the fake; ``always`` is how the fake
behaves at all times, ``kill`` and the like are what it is told to do.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

COMFY = "tests/unit/test_comfyui_engine.py"
FLOWS = "tests/unit/test_comfyui_workflows.py"
KOBOLD = "tests/unit/test_koboldcpp_server.py"
CASES = "tests/conformance/cases.py"


@dataclass(frozen=True, kw_only=True)
class Trap:
    """``tests``: file and function. ``knobs``: fields of the fake, or ``always``, or its methods."""

    server: str
    trap: str
    knobs: tuple[str, ...]
    tests: tuple[tuple[str, str], ...]


def _comfy(trap: str, knobs: str, *tests: tuple[str, str]) -> Trap:
    return Trap(server="comfyui", trap=trap, knobs=tuple(knobs.split()), tests=tests)


def _kobold(trap: str, knobs: str, *tests: tuple[str, str]) -> Trap:
    return Trap(server="koboldcpp", trap=trap, knobs=tuple(knobs.split()), tests=tests)


TRAPS: tuple[Trap, ...] = (
    _comfy(
        "one broken output among good ones is a 200 with node_errors, and runs in part",
        "always",
        (COMFY, "test_a_graph_that_would_run_in_part_is_stopped_and_fails"),
    ),
    _comfy(
        "a deletion leaves no trace and does nothing to a run; an interrupt does nothing to what waits",
        "always",
        (COMFY, "test_a_prompt_that_waits_in_the_server_is_found_cancelled_and_leaves_no_trace"),
        (CASES, "cancel_during_the_run"),
    ),
    _comfy(
        "a cancel lands between two steps only",
        "frozen grain_s",
        (COMFY, "test_the_next_run_waits_until_a_cancelled_one_has_really_stopped"),
    ),
    _comfy(
        "the history calls an interruption an error, and one of somebody else looks like ours",
        "stray_interrupt_once",
        (COMFY, "test_an_interruption_by_somebody_else_is_tried_again_and_not_called_cancelled"),
    ),
    _comfy(
        "an interrupt without an id hits whoever runs",
        "always",
        (COMFY, "test_a_prompt_of_somebody_else_is_waited_for_and_never_stopped"),
        (COMFY, "test_every_interrupt_names_its_prompt"),
    ),
    _comfy(
        "a socket breaks, is refused, or is silently dead; events are lost and the run goes on",
        "silent_sockets no_sockets break_connections",
        (COMFY, "test_a_run_needs_no_socket"),
        (CASES, "a_broken_connection_ends_no_other_run"),
    ),
    _comfy(
        "SIGKILL: afterwards the history is empty; absent from queue and history is lost, not done",
        "kill",
        (CASES, "the_server_is_killed_in_the_middle"),
        (CASES, "the_server_is_restarted_under_a_run"),
    ),
    _comfy(
        "a fully cached graph gives no outputs without a client_id, and the old file with one",
        "always",
        (COMFY, "test_a_repeated_job_gets_a_file_of_its_own_though_all_is_cached"),
    ),
    _comfy(
        "the worker thread dies: HTTP answers and nothing is begun, or nothing goes on",
        "dead_worker frozen",
        (COMFY, "test_a_server_that_begins_nothing_is_stuck_and_unhealthy_until_it_is_restarted"),
        (COMFY, "test_a_run_without_any_progress_is_stuck"),
    ),
    _comfy(
        "out of memory is an execution_error like any other, and nobody says what is loaded",
        "oom_once",
        (CASES, "out_of_memory_is_told_as_that"),
        (COMFY, "test_memory_is_freed_after_running_out_of_it_and_on_a_release"),
    ),
    _comfy(
        "a node fails with whatever its author throws",
        "fail_once",
        (COMFY, "test_a_node_that_fails_ends_the_run_and_only_the_operator_reads_its_error"),
    ),
    _comfy(
        "an id that is no canonical UUID is refused; an old server gives its own",
        "always own_ids",
        (COMFY, "test_an_id_that_is_no_canonical_uuid_is_refused_by_the_fake_as_by_the_real_one"),
        (COMFY, "test_an_old_server_that_gives_its_own_ids_is_refused"),
    ),
    _comfy(
        "a repeated id is accepted and run again; a POST whose answer is lost may have been taken",
        "lose_answer_once",
        (COMFY, "test_an_answer_that_is_lost_after_the_prompt_was_taken_runs_it_once"),
        (CASES, "the_same_id_twice_runs_once"),
    ),
    _comfy(
        "/api/jobs is absent in old versions",
        "jobs_route",
        (COMFY, "test_a_server_without_the_jobs_route_works"),
    ),
    _comfy(
        "KoboldCPP imitates its routes",
        "is_kobold",
        (COMFY, "test_a_kobold_that_imitates_it_is_told_apart"),
    ),
    _comfy(
        "a choice has two shapes, a file may lie in a subfolder and be written with a backslash",
        "always",
        (FLOWS, "test_both_shapes_of_a_choice_are_read"),
        (COMFY, "test_a_file_in_a_subfolder_of_windows_is_found"),
    ),
    _comfy(
        "what it delivers is of another size, no picture, nothing, or without end",
        "wrong_size_once no_image_once empty_outputs_once too_much_once",
        (COMFY, "test_what_is_not_what_was_asked_for_is_a_bad_output"),
        (CASES, "an_oversized_output_is_refused"),
    ),
    _comfy(
        "answers are late, or no JSON",
        "delay_s garbage",
        (CASES, "a_slow_server_is_waited_for"),
        (CASES, "garbage_answers_never_end_as_done"),
    ),
    _kobold(
        "an aborted run ends as if it had reached its length, an aborted waiting one without a word",
        "always",
        (KOBOLD, "test_a_run_that_somebody_else_stopped_is_lost_and_not_done"),
        (KOBOLD, "test_a_run_that_waits_behind_another_programs_is_cancelled_without_touching_it"),
    ),
    _kobold(
        "an abort without a key stops whoever runs",
        "always",
        (KOBOLD, "test_no_abort_and_no_check_is_ever_sent_without_a_key"),
        (KOBOLD, "test_a_cancel_aborts_its_own_run_by_its_key_and_frees_the_slot"),
    ),
    _kobold(
        "a run that is not streamed goes on when its reader is gone, and blocks",
        "always",
        (KOBOLD, "test_every_run_is_streamed_for_another_goes_on_without_its_reader"),
    ),
    _kobold(
        "killed in the middle, the stream ends cleanly",
        "end_after dies_at_the_end",
        (KOBOLD, "test_a_stream_that_ends_without_saying_how_is_lost"),
        (KOBOLD, "test_an_old_version_that_dies_after_its_last_word_has_lost_the_run"),
    ),
    _kobold(
        "503 past --multiuser, one run at a time",
        "multiuser",
        (KOBOLD, "test_a_full_queue_is_busy"),
    ),
    _kobold(
        "silent 200s: null, an error without a word, no model, a connection that is dropped",
        "null_body fail_runs drop_connection model",
        (KOBOLD, "test_a_silent_200_is_never_an_answer"),
        (KOBOLD, "test_a_model_that_was_unloaded_behind_our_back_is_not_out_of_memory"),
    ),
    _kobold(
        "too long a prompt is cut without a word",
        "context",
        (KOBOLD, "test_a_prompt_that_does_not_fit_is_refused_with_the_numbers_and_never_sent"),
    ),
    _kobold(
        "it imitates ComfyUI",
        "always",
        (KOBOLD, "test_a_comfyui_is_not_taken_for_it_and_its_imitation_not_for_a_comfyui"),
    ),
    _kobold(
        "with --parallelrequests an abort by key does nothing",
        "deaf",
        (KOBOLD, "test_the_slot_stays_taken_until_a_deaf_server_lets_go"),
    ),
    _kobold(
        "tokens coalesce, and a character may be split over several",
        "coalesce byte_tokens",
        (KOBOLD, "test_characters_split_over_tokens_and_packets_arrive_whole"),
    ),
    _kobold(
        "a stop sequence ends a run as its length, is cut off, or is not seen",
        "always_trims ignore_stops",
        (KOBOLD, "test_a_stop_sequence_that_the_server_has_cut_off_is_known_from_its_counters"),
        (KOBOLD, "test_a_server_that_does_not_see_the_stop_sequence_is_stopped"),
    ),
    _kobold(
        "older versions count nothing and write the word null",
        "usage word_null",
        (KOBOLD, "test_an_old_version_that_sends_no_count_is_asked_for_it"),
    ),
    _kobold(
        "a reload says yes before it acts, cuts what runs, and may come back with another model or none",
        "options refuse_reload broken_options load_s",
        (KOBOLD, "test_another_model_is_loaded_and_known_by_its_name_when_the_server_is_back"),
        (KOBOLD, "test_a_switch_waits_for_another_programs_run_instead_of_cutting_it"),
        (KOBOLD, "test_a_load_that_failed_is_told_and_not_taken_for_the_model"),
    ),
    _kobold(
        "it writes far more than was asked for",
        "flood_runs",
        (CASES, "an_oversized_output_is_refused"),
    ),
)


def main() -> None:
    """Print the table."""
    for row in TRAPS:
        tests = ", ".join(name for _, name in row.tests)
        sys.stdout.write(f"{row.server:<10} {row.trap}\n           {' '.join(row.knobs)} → {tests}\n")


if __name__ == "__main__":
    main()

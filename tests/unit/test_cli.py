"""The command line against a server on a real socket; what only a person sees is in test_cli_terminal.py."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tessera.cli import main
from tessera.cli.account import parse_expiry
from tessera.cli.exits import CliError, tell
from tessera.cli.output import TextFormat, render_text, slug
from tessera.cli.preview import thumbnail
from tessera.cli.progress import JobProgress, advance, describe, explained, remaining_s
from tessera.cli.screen import Screen, clean, number, size, span, span_range, tokens
from tessera.client import Event, Explanation, WaitReason
from tests.fakes.api_server import ANSWER, FakeApi, Knobs, Refusal, picture

Run = Any


def files_here() -> list[str]:
    return sorted(path.name for path in Path().iterdir())


# Making things


def test_a_picture_is_written_under_a_readable_name_and_told(api: FakeApi, run: Run) -> None:
    code, out, err = run("generate", "image", "A lighthouse, in a storm!", "--size", "64x48", "--seed", "7")
    assert code == 0
    assert out == f"{files_here()[0]}\n"
    assert re.fullmatch(r"a-lighthouse-in-a-storm-01k\d+\.png", files_here()[0])
    with Image.open(files_here()[0]) as image:
        assert image.size == (64, 48)
    assert "64×48 PNG" in err and "0.75 tokens charged" in err and "299.25 of 300 left today" in err
    asked = next(iter(api.jobs.values())).body
    assert asked == {
        "kind": "image",
        "input": {"prompt": "A lighthouse, in a storm!", "width": 64, "height": 48, "seed": 7},
    }


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (
            ["generate", "video", "waves", "--duration", "1.5", "--fps", "8", "--size", "64"],
            {"prompt": "waves", "duration_s": 1.5, "fps": 8, "width": 64, "height": 64},
        ),
        (
            ["generate", "speech", "hello", "--voice", "alloy", "--speed", "1.5", "--format", "mp3"],
            {"text": "hello", "voice": "alloy", "speed": 1.5, "format": "mp3"},
        ),
        (
            ["generate", "music", "calm", "--duration", "20", "--seed", "0"],
            {"prompt": "calm", "duration_s": 20.0, "seed": 0},
        ),
        (
            ["generate", "text", "hi", "--max-tokens", "9", "--temperature", "0", "--stop", "a", "--stop", "b"],
            {"prompt": "hi", "max_tokens": 9, "temperature": 0.0, "stop": ["a", "b"]},
        ),
        (
            ["generate", "text", "hi", "--system", "be brief"],
            {"messages": [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hi"}]},
        ),
        (
            ["generate", "image", "a", "--negative", "b", "--count", "2"],
            {"prompt": "a", "negative_prompt": "b", "count": 2},
        ),
    ],
)
def test_only_the_options_that_were_given_are_sent(
    api: FakeApi, run: Run, command: list[str], expected: dict[str, Any]
) -> None:
    assert run(*command, "--quiet", "--model", "m", "--tier", "batch")[0] == 0
    body = next(iter(api.jobs.values())).body
    assert body["input"] == expected and body["model"] == "m" and body["tier"] == "batch"


def test_files_for_the_input_are_uploaded_and_ids_used_as_they_are(api: FakeApi, run: Run) -> None:
    Path("in.png").write_bytes(picture(8, 8, 1, "PNG"))
    code, _, _ = run("generate", "image", "autumn", "--image", "in.png", "--mask", "art_01kmask", "--strength", "0.5")
    assert code == 0
    asked = next(iter(api.jobs.values())).body["input"]
    assert api.files[asked["image"]][1] == Path("in.png").read_bytes()
    assert asked["mask"] == "art_01kmask" and asked["strength"] == 0.5


def test_a_missing_input_file_is_found_before_anything_is_submitted(api: FakeApi, run: Run) -> None:
    code, _, err = run("generate", "image", "autumn", "--image", "nope.png")
    assert code == 2 and "nope.png" in err and api.seen == []


def test_enlarging_needs_no_prompt(api: FakeApi, run: Run) -> None:
    Path("in.png").write_bytes(b"x")
    assert run("generate", "image", "--image", "in.png", "--scale", "2", "--quiet")[0] == 0
    assert run("generate", "image")[0] == 2


def test_several_files_are_numbered(api: FakeApi, run: Run) -> None:
    code, out, _ = run("generate", "image", "a fox", "--count", "3", "--out", "fox.png")
    assert code == 0 and out == "fox-1.png\nfox-2.png\nfox-3.png\n" == "".join(f"{n}\n" for n in files_here())


def test_a_named_folder_is_made_and_filled_with_readable_names(api: FakeApi, run: Run) -> None:
    code, out, _ = run("generate", "image", "a fox", "--out", "new/foxes/")
    assert code == 0 and out.startswith("new/foxes/a-fox-01k") and Path(out.strip()).is_file()


def test_an_explicit_file_is_replaced_and_a_made_up_name_never(api: FakeApi, run: Run) -> None:
    Path("a.png").write_bytes(b"before")
    assert run("generate", "image", "a fox", "--out", "a.png")[0] == 0
    assert Path("a.png").read_bytes().startswith(b"\x89PNG")
    job_id = next(iter(api.jobs))
    names = [run("job", job_id, "--watch", *more)[1].strip() for more in ([], [], ["--force"])]
    assert names[1] == names[0].replace(".png", "-2.png") and names[2] == names[0]


def test_the_file_goes_to_stdout_and_nothing_else(api: FakeApi, capfdbinary: Any) -> None:
    assert main(["generate", "image", "a fox", "--size", "32", "--out", "-"]) == 0
    out = capfdbinary.readouterr().out
    with Image.open(io.BytesIO(out)) as image:
        assert image.size == (32, 32)
    assert files_here() == []


@pytest.mark.parametrize(
    "options",
    [
        ["--out", "nowhere/a.png"],
        ["--out", "-", "--json"],
        ["--out", "-", "--count", "2"],
        ["--size", "wide"],
        ["--size", "10x"],
        ["--count", "0"],
        ["--unknown"],
    ],
)
def test_what_cannot_work_is_refused_before_it_costs(api: FakeApi, run: Run, options: list[str]) -> None:
    code, out, _ = run("generate", "image", "a fox", *options)
    assert code == 2 and api.seen == [] and ("--json" in options) == bool(out)


def test_a_text_goes_whole_to_a_pipe_and_to_a_file(api: FakeApi, run: Run) -> None:
    code, out, err = run("generate", "text", "Lisbon?")
    assert (code, out) == (0, ANSWER + "\n") and "19 words" in err
    code, out, _ = run("generate", "text", "Lisbon?", "--out", "lisbon.txt")
    assert code == 0 and out == "lisbon.txt\n" and Path("lisbon.txt").read_text() == ANSWER + "\n"


def test_the_prompt_is_read_from_stdin(api: FakeApi, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("two\nlines\n"))
    assert run("generate", "text", "-", "-q")[0] == 0
    assert next(iter(api.jobs.values())).body["input"]["prompt"] == "two\nlines"


def test_a_transcript_can_be_subtitles(api: FakeApi, run: Run) -> None:
    Path("talk.wav").write_bytes(b"RIFF")
    code, out, _ = run("transcribe", "talk.wav", "--language", "en", "--translate")
    assert (code, out) == (0, "hello world, this is a test\n")
    assert run("transcribe", "talk.wav", "--format", "srt", "--out", "talk.srt", "-q")[1] == "talk.srt\n"
    assert Path("talk.srt").read_text().startswith("1\n00:00:00,000 --> 00:00:01,250\nhello world,\n\n2\n")
    assert json.loads(run("transcribe", "talk.wav", "--format", "json", "-q")[1])["segments"][1]["end_s"] == 3661.5
    asked = next(iter(api.jobs.values())).body["input"]
    assert asked["language"] == "en" and asked["translate"] is True and api.files[asked["upload"]][1] == b"RIFF"


def test_json_is_the_final_job_with_its_files(api: FakeApi, run: Run) -> None:
    code, out, _ = run("generate", "image", "a fox", "--json", "--out", "a.png")
    job = json.loads(out)
    assert code == 0 and job["state"] == "completed" and job["files"] == ["a.png"] and job["artifacts"][0]["url"]


def test_without_waiting_the_jobs_id_is_all(api: FakeApi, run: Run) -> None:
    api.knobs = Knobs(hold=True)
    code, out, err = run("generate", "image", "a fox", "--no-wait")
    assert code == 0 and out.strip() in api.jobs and "--watch" in err
    assert json.loads(run("generate", "image", "a fox", "--no-wait", "--json")[1])["state"] == "queued"


def test_where_nobody_watches_progress_is_lines_at_changes(api: FakeApi, run: Run) -> None:
    _, _, err = run("generate", "image", "a fox")
    lines = err.splitlines()
    assert "queued · position 3 · done in 4–9 s" in lines[0]
    assert len(lines) == len(set(lines)) < 12 and any("50%" in line for line in lines)


def test_quiet_leaves_the_path_alone(api: FakeApi, run: Run) -> None:
    code, out, err = run("generate", "image", "a fox", "--quiet")
    assert (code, out, err) == (0, files_here()[0] + "\n", "")


def test_a_retry_and_a_broken_line_do_not_disturb_the_result(api: FakeApi, run: Run) -> None:
    api.knobs = Knobs(retry_once=True, cut_stream_after=[4, 2], step_s=0.005)
    code, out, err = run("generate", "text", "Lisbon?")
    assert (code, out) == (0, ANSWER + "\n") and "the worker was lost" in err


# Jobs


def test_a_failed_job_says_why_and_what_came_back(api: FakeApi, run: Run) -> None:
    api.knobs = Knobs(outcome="failed")
    code, out, err = run("generate", "image", "a fox")
    assert code == 1 and out == "" and files_here() == []
    assert "needs more memory" in err and "out_of_memory" in err and "0.75 tokens returned" in err
    code, out, _ = run("generate", "image", "a fox", "--json")
    assert code == 1 and json.loads(out)["error"]["code"] == "out_of_memory"


def test_jobs_are_listed_filtered_and_paged(api: FakeApi, run: Run) -> None:
    for kind in ("image", "music", "image"):
        run("generate", kind, f"some {kind}", "--quiet")
    code, out, err = run("jobs")
    lines = out.splitlines()
    assert code == 0 and len(lines) == 4 and lines[0].startswith("ID") and "some image" in lines[1] and err == ""
    assert all(line == line.rstrip() for line in lines)
    assert len(run("jobs", "--kind", "music")[1].splitlines()) == 2
    page = json.loads(run("jobs", "--limit", "2", "--json")[1])
    assert len(page["data"]) == 2 and page["next_cursor"] == "2"
    assert len(json.loads(run("jobs", "--cursor", "2", "--json")[1])["data"]) == 1
    assert "No jobs" in run("jobs", "--state", "failed")[2]


def test_a_waiting_job_leads_to_its_explanation(api: FakeApi, run: Run) -> None:
    api.knobs = Knobs(hold=True)
    job_id = run("generate", "image", "a fox", "--no-wait")[1].strip()
    assert "tessera explain ID" in run("jobs")[2]
    assert f"tessera explain {job_id}" in run("job", job_id)[2]
    run("cancel", job_id)
    assert "explain" not in run("jobs")[2] + run("job", job_id)[2]


def test_one_job_is_shown_whole(api: FakeApi, run: Run) -> None:
    run("generate", "image", "a fox", "--seed", "3", "--quiet")
    job_id = next(iter(api.jobs))
    code, out, err = run("job", job_id)
    assert code == 0 and "a fox" in out and "seed 3" in out and "0.75 tokens charged" in out and "--watch" in err
    assert json.loads(run("job", job_id, "--json")[1])["id"] == job_id


def test_a_finished_job_is_fetched_again(api: FakeApi, run: Run) -> None:
    run("generate", "image", "a fox", "--no-wait")
    job_id = next(iter(api.jobs))
    code, out, _ = run("job", job_id, "--out", "again.png")
    assert code == 0 and out == "again.png\n" and Path("again.png").stat().st_size > 100


def test_a_cancelled_job_says_what_came_back(api: FakeApi, run: Run) -> None:
    api.knobs = Knobs(hold=True)
    run("generate", "image", "a fox", "--no-wait")
    code, _, err = run("cancel", next(iter(api.jobs)))
    assert code == 0 and "0.75 tokens returned" in err
    code, out, _ = run("cancel", next(iter(api.jobs)), "--json")
    assert code == 0 and json.loads(out)["state"] == "cancelled"


def test_cancelling_too_late_is_no_success(api: FakeApi, run: Run) -> None:
    run("generate", "image", "a fox", "--quiet")
    code, _, err = run("cancel", next(iter(api.jobs)))
    assert code == 1 and "Too late" in err


# Account


def test_catalogue_and_account_are_tables_and_json(api: FakeApi, run: Run) -> None:
    assert "preview-image *" in run("models")[1]
    assert [m["kind"] for m in json.loads(run("models", "--kind", "music", "--json")[1])["data"]] == ["music"]
    assert "1024×1024" in run("plans")[1]
    assert json.loads(run("plans", "--json")[1])["data"][1]["daily_tokens"] == 120
    code, out, _ = run("usage")
    assert code == 0 and "300 of 300 tokens left today" in out and "2026-01-05" in out and "13.25" in out
    assert json.loads(run("usage", "--days", "7", "--json")[1])["today"]["daily_tokens"] == 300


def test_a_key_is_shown_once_and_can_be_revoked(api: FakeApi, run: Run) -> None:
    code, out, err = run("keys", "create", "laptop", "--scope", "jobs", "--daily-cap", "5", "--expires", "90d")
    assert code == 0 and out == "tsr_new_secret\n" and "this once" in err
    assert "laptop" in run("keys", "list")[1]
    assert json.loads(run("keys", "create", "ci", "--json")[1])["api_key"] == "tsr_new_secret"
    assert run("keys", "revoke", "key_1")[0] == 0
    assert json.loads(run("keys", "revoke", "key_2", "--json")[1]) == {"id": "key_2", "revoked": True}
    assert run("keys", "revoke", "key_2")[0] == 2


def test_users_are_made_listed_and_moved_by_name(api: FakeApi, run: Run) -> None:
    user = json.loads(run("users", "create", "ada", "--plan", "pro", "--json")[1])
    assert user["plan"] == "pro" and user["api_key"] == "tsr_user_secret"
    assert "ada" in run("users", "list")[1]
    assert run("users", "set-plan", "ada", "free")[0] == 0
    assert json.loads(run("users", "set-plan", user["id"], "starter", "--json")[1])["plan"] == "starter"
    code, _, err = run("users", "set-plan", "nobody", "free")
    assert code == 2 and "users list" in err


def test_an_operator_grants_and_adjusts_to_the_thousandth_of_a_token(api: FakeApi, run: Run) -> None:
    run("users", "create", "ada")
    code, out, _ = run("users", "grant", "ada", "0.003", "--reason", "sorry", "--json")
    assert code == 0
    made = json.loads(out)
    assert (made["entry"], made["tokens"], made["reason"]) == ("grant", 0.003, "sorry")
    code, out, _ = run("users", "adjust", "ada", "-2.5", "--day", "2026-01-04", "--reason", "wrong size", "--json")
    made = json.loads(out)
    assert (code, made["entry"], made["tokens"], made["day"]) == (0, "adjustment", -2.5, "2026-01-04")
    code, _, err = run("users", "adjust", "ada", "4", "--reason", "by telephone")
    assert code == 0 and "4 tokens charged: ada has used 4 of 20" in err
    assert "5 tokens granted" in run("users", "grant", "ada", "5", "-r", "sorry")[2]


@pytest.mark.parametrize(
    "arguments",
    [
        ("grant", "ada", "0.0001", "--reason", "r"),
        ("grant", "ada", "five", "--reason", "r"),
        ("grant", "ada", "nan", "--reason", "r"),
        ("grant", "ada", "0", "--reason", "r"),
        ("grant", "ada", "5"),
        ("adjust", "ada", "-0.0005", "--reason", "r"),
        ("adjust", "ada", "5", "--day", "yesterday", "--reason", "r"),
        ("adjust", "ada", "5", "--dya", "2026-01-04", "--reason", "r"),
    ],
)
def test_an_entry_that_is_not_exact_is_refused_before_it_is_sent(
    api: FakeApi, run: Run, arguments: tuple[str, ...]
) -> None:
    run("users", "create", "ada")
    assert run("users", *arguments)[0] == 2
    assert not [seen for seen in api.seen if seen.path.endswith(("/grant", "/adjust"))]


# Failures


@pytest.mark.parametrize(
    ("status", "code", "exit_code"),
    [
        (401, "unauthorized", 4),
        (403, "forbidden", 4),
        (402, "quota_exhausted", 5),
        (422, "unknown_model", 2),
        (500, "internal_error", 1),
    ],
)
def test_refusals_have_exit_codes_and_say_what_to_do(
    api: FakeApi, run: Run, status: int, code: str, exit_code: int
) -> None:
    api.knobs.refusals = [Refusal("POST", "/v1/jobs", status, code=code, detail="It went wrong.", times=2)]
    got, out, err = run("generate", "image", "a fox")
    assert got == exit_code and out == "" and "✗ It went wrong." in err and code in err and "Traceback" not in err
    got, out, _ = run("generate", "image", "a fox", "--json")
    assert got == exit_code and json.loads(out)["error"]["code"] == code


def test_a_limit_tells_when_to_come_back(api: FakeApi, run: Run) -> None:
    api.knobs.refusals = [Refusal("POST", "/v1/jobs", 429, code="rate_limited", retry_after="90")]
    code, _, err = run("generate", "image", "a fox")
    assert code == 5 and "try again in 1 min 30 s" in err


def test_a_server_that_is_not_there_is_told_in_one_sentence(
    api: FakeApi, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TESSERA_URL", "http://127.0.0.1:1")
    code, _, err = run("jobs")
    assert code == 3 and "connection refused" in err and "make up" in err
    code, out, _ = run("jobs", "--json")
    assert code == 3 and json.loads(out)["error"]["code"] == "unreachable"


def test_a_wrong_command_line_is_json_too(api: FakeApi, run: Run) -> None:
    code, out, _ = run("generate", "image", "a", "--count", "99", "--json")
    assert code == 2 and json.loads(out)["error"]["code"] == "usage"


def test_a_result_that_cannot_be_written_is_safe_on_the_server(api: FakeApi, run: Run) -> None:
    api.knobs = Knobs(step_s=0.03)
    Path("out").mkdir()

    def remove_the_folder() -> None:
        while not api.jobs:
            time.sleep(0.01)
        Path("out").rmdir()

    thread = threading.Thread(target=remove_the_folder)
    thread.start()
    code, _, err = run("generate", "image", "a fox", "--out", "out/a.png")
    thread.join()
    assert code == 1 and "safe on the server" in err and "tessera job job_" in err


def test_a_mistake_of_ours_is_one_line_unless_debugging(capfd: pytest.CaptureFixture[str]) -> None:
    assert tell(RuntimeError("boom"), Screen(), debug=False) == 1
    err = capfd.readouterr().err
    assert "boom" in err and "TESSERA_DEBUG=1" in err and "Traceback" not in err
    tell(RuntimeError("boom"), Screen(), debug=True)
    assert "RuntimeError" in capfd.readouterr().err
    tell(RuntimeError("boom"), Screen(json=True), debug=False)
    assert json.loads(capfd.readouterr().out)["error"]["code"] == "bug"


def test_text_from_elsewhere_cannot_steer_the_terminal(api: FakeApi, run: Run) -> None:
    run("generate", "image", "evil \x1b[2J [bold]fox", "--no-wait")
    out = run("jobs")[1]
    assert "\x1b" not in out and "[bold]fox" in out


@pytest.mark.parametrize("command", [["--help"], ["generate", "image", "--help"], ["jobs", "--help"], ["keys"]])
def test_help_teaches(run: Run, command: list[str]) -> None:
    code, out, _ = run(*command)
    assert code in {0, 2} and "tessera" in out


def test_help_needs_neither_ray_nor_the_network_stack() -> None:
    script = "import sys, tessera.cli; print(*(m for m in ('ray', 'aiohttp', 'pydantic', 'PIL') if m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_completion_knows_commands() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import sys; from tessera.cli import main; sys.exit(main())"],
        env={
            **os.environ,
            "_TESSERA_COMPLETE": "complete_bash",
            "COMP_WORDS": "tessera generate im",
            "COMP_CWORD": "2",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.split() == ["image"]


# Pure


def test_progress_follows_the_events() -> None:
    progress = JobProgress(job_id="job_1", since=0)
    steps: list[tuple[str, int | None, dict[str, Any], str]] = [
        ("queued", 1, {"position": 3, "eta": {"low_s": 4, "high_s": 9}}, "queued · position 3 · done in 4–9 s"),
        ("queued", None, {}, "queued · position 3 · done in 4–9 s"),
        ("started", 2, {}, "running"),
        ("progress", None, {"fraction": 0.5, "note": "painting"}, "running · painting"),
        ("queued", 3, {"reason": "worker lost"}, "queued · again: worker lost"),
        ("started", 4, {}, "running"),
        ("chunk", None, {"offset": 3, "text": "four"}, "running · 7 characters"),
        ("mystery", None, {}, "running · 7 characters"),
        ("completed", 5, {}, "completed"),
    ]
    for now, (type, id, data, words) in enumerate(steps):
        progress = advance(progress, Event(id=id, type=type, data=data), float(now))
        assert describe(progress) == words


def test_progress_tells_why_a_job_waits_unless_it_is_simply_not_its_turn() -> None:
    def told(phase: str, state: str, *codes: str) -> str:
        reasons = tuple(WaitReason(code=code) for code in codes)
        waits = Explanation(id="job_1", state=state, summary="You run 1 of 1 jobs.", reasons=reasons)
        return describe(explained(JobProgress(phase=phase, position=3), waits))

    assert told("queued", "queued", "running_cap", "ahead") == "queued · position 3 · You run 1 of 1 jobs."
    assert told("queued", "queued", "ahead", "running_cap") == "queued · position 3"
    assert told("queued", "queued", "slots_busy") == told("queued", "queued") == "queued · position 3"
    assert told("created", "created", "not_before") == "created · You run 1 of 1 jobs."
    assert told("running", "queued", "running_cap") == "running", "it has started while it was asked"
    waiting = explained(JobProgress(phase="queued"), Explanation(id="j", state="queued", summary="A pause."))
    assert describe(advance(waiting, Event(id=2, type="started"), 1.0)) == "running"


def test_what_is_left_is_told_once_there_is_a_pace() -> None:
    assert remaining_s(JobProgress(phase="running", running_since=0, fraction=0.25), 3) == 9
    assert remaining_s(JobProgress(phase="running", running_since=0, fraction=0.05), 3) is None
    assert remaining_s(JobProgress(phase="queued"), 3) is None


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("A lighthouse, in a storm!", "a-lighthouse-in-a-storm"),
        ("Größe/../Öl\x00", "groe-ol"),
        ("猫", ""),
        ("word " * 30, "word-word-word-word-word-word-word-word"),
        ("x" * 99, "x" * 40),
    ],
)
def test_a_prompt_becomes_a_file_name(words: str, expected: str) -> None:
    assert slug(words) == expected


def test_numbers_are_written_for_people() -> None:
    assert [tokens(1), tokens(0.75), number(1234.5), number(None)] == ["1 token", "0.75 tokens", "1,234.5", "–"]
    assert [size(97), size(4321), size(43210), size(4_321_000)] == ["97 B", "4.3 kB", "43 kB", "4.3 MB"]
    assert [span(8.44), span(4), span(59.7), span(125), span(7500), span(400_000)] == [
        "8.4 s", "4 s", "1 min", "2 min 5 s", "2 h 5 min", "5 days",
    ]  # fmt: skip
    assert [span_range(4, 9), span_range(0, 3), span_range(50, 130)] == ["4–9 s", "up to 3 s", "50 s – 2 min 10 s"]
    assert clean("a\x1b[2J\x9bb\tc\n") == "ab\tc\n"


def test_an_expiry_is_a_date_or_a_span() -> None:
    now = datetime(2026, 1, 5, tzinfo=UTC)
    assert parse_expiry(None, now) is None
    assert parse_expiry("12h", now) == datetime(2026, 1, 5, 12, tzinfo=UTC)
    assert parse_expiry("2027-01-31", now) == datetime(2027, 1, 31, tzinfo=UTC)
    for wrong in ("soon", "2020-01-01", "d"):
        with pytest.raises(CliError):
            parse_expiry(wrong, now)


def test_subtitles_survive_strange_segments() -> None:
    assert render_text({}, TextFormat.VTT) == "WEBVTT\n"
    assert "a -> b" in render_text({"segments": [{"text": "a --> b\n\n"}, 3]}, TextFormat.SRT)


def test_a_preview_that_is_no_picture_is_left_out() -> None:
    assert thumbnail(b"not a picture", columns=10, rows=5) is None
    drawn = thumbnail(picture(40, 30, 0, "PNG"), columns=10, rows=5)
    assert drawn is not None and drawn.plain.count("▀") == 10 * 4

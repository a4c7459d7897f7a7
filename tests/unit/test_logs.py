"""No secret in a log, whoever wrote the line."""

from __future__ import annotations

import json

import pytest

from tessera.logs import _line, bind, unbind

TELEGRAM = "110201543:" + "AAHdqTcvCH1vGWJxfSeofSAs0K5PALDsaw"
DISCORD = "x" * 24 + ".GhIjKl." + "y" * 38


@pytest.mark.parametrize(
    ("line", "left"),
    [
        ("key tsr_0123abcd_" + "s" * 43 + " used", "key [hidden] used"),
        ("postgresql://ada:secret@127.0.0.1/x", "postgresql://[hidden]@127.0.0.1/x"),
        ("signed by whsec_" + "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "signed by [hidden]"),
        (
            f"POST http://x/bot{TELEGRAM}/sendMessage",
            "POST http://x/[hidden]/sendMessage",
        ),
        (f"token {TELEGRAM} is wrong", "token [hidden] is wrong"),
        (f"Improper token {DISCORD} has been passed", "Improper token [hidden] has been passed"),
    ],
)
def test_secrets_are_cut_out_of_every_line(line: str, left: str) -> None:
    shown = json.loads(_line(None, "info", {"event": "said", "part": "test", "text": line, "status": 202}))
    assert shown.pop("timestamp").endswith("Z")
    assert shown == {"event": "said", "part": "test", "text": left, "status": 202, "level": "info"}


def test_a_secret_does_not_hide_by_what_stands_beside_it() -> None:
    """Texts are looked through together: the end of one must not join the beginning of the next."""
    event = {"event": "ab", "key": "tsr_0123abcd_" + "s" * 43, "host": "cd", "address": "redis://ada:secret@h/"}
    shown = json.loads(_line(None, "warning", event))
    assert shown["key"] == "[hidden]" and shown["address"] == "redis://[hidden]@h/"
    assert (shown["event"], shown["host"], shown["level"]) == ("ab", "cd", "warning")


def test_a_secret_within_an_object_is_cut_out_of_it() -> None:
    told = {
        "event": "failed",
        "why": OSError("postgresql://ada:secret@h/x"),
        "headers": {"key": "tsr_0123abcd_" + "s" * 43},
    }
    line = _line(None, "info", told).decode()
    assert "secret" not in line and "sss" not in line and line.count("[hidden]") == 2


@pytest.mark.parametrize("odd", ["\ud800", 2**70, {1: 2}, b"\xff"])
def test_no_value_keeps_a_line_from_being_written(odd: object) -> None:
    assert json.loads(_line(None, "info", {"event": "odd", "value": odd}))["event"] == "odd"


def test_what_is_bound_is_told_and_the_secret_of_a_client_is_not() -> None:
    bound = bind(request_id="tsr_0123abcd_" + "s" * 43)
    assert json.loads(_line(None, "info", {"event": "request"}))["request_id"] == "[hidden]"
    unbind(bound)
    assert "request_id" not in json.loads(_line(None, "info", {"event": "request"}))


def test_an_exception_is_told_without_the_secrets_in_its_message() -> None:
    try:
        raise OSError("postgresql://ada:secret@127.0.0.1/x refused")
    except OSError:
        shown = json.loads(_line(None, "error", {"event": "failed", "exc_info": True}))
    assert "OSError" in shown["exception"] and ":secret@" not in shown["exception"]
    assert "exc_info" not in shown


@pytest.mark.parametrize(
    "line",
    [
        "2030-01-31T12:00:00.123456Z",
        "job_01k5h3v9m2f8e4x7q6t0c1b2a3",
        "127.0.0.1:54321",
        "telegram:123456789",
        "ab" * 32,
    ],
)
def test_what_is_no_secret_stays(line: str) -> None:
    assert json.loads(_line(None, "info", {"event": "said", "text": line}))["text"] == line

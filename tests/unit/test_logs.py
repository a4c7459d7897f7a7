"""No secret in a log, whoever wrote the line."""

from __future__ import annotations

import pytest

from tessera.logs import _hide_secrets

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
    assert _hide_secrets(None, "info", {"event": line}) == {"event": left}


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
    assert _hide_secrets(None, "info", {"event": line}) == {"event": line}

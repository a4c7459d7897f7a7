"""How the report's columns are headed and their values shown, and what a wrong question is answered with."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest

from tessera.cli.app import main
from tessera.cli.report import heading, shown


@pytest.mark.parametrize(
    ("column", "value", "head", "text"),
    [
        ("used_mt", 1500, "USED TOKENS", "1.5"),
        ("revenue_cents", 120_000, "REVENUE $", "1,200.00"),
        ("total_bytes", 2_500_000, "TOTAL SIZE", "2.5 MB"),
        ("oldest_s", 125.0, "OLDEST", "2 min 5 s"),
        ("oldest_s", None, "OLDEST", "–"),
        ("up_percent", 99.94, "UP %", "99.9"),
        ("over_80_percent", 3, "OVER 80 %", "3"),
        ("day", date(2026, 5, 4), "DAY", "2026-05-04"),
        ("newest", datetime(2026, 5, 4, 9, 7, tzinfo=UTC), "NEWEST", "2026-05-04 09:07"),
        ("user_id", "user_01", "USER", "user_01"),
        ("name", "a\x07b", "NAME", "ab"),
        ("jobs", 12_345, "JOBS", "12,345"),
    ],
)
def test_a_columns_ending_names_its_unit(column: str, value: Any, head: str, text: str) -> None:
    assert (heading(column), shown(column, value)) == (head, text)


def test_a_section_that_there_is_not_is_refused_with_those_that_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "weather", "--json"]) == 2
    told = json.loads(capsys.readouterr().out)["error"]
    assert told["code"] == "usage" and "revenue" in told["known"]


def test_a_machine_without_an_installation_is_told_so(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TESSERA_HOME", str(tmp_path))
    assert main(["report", "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "config"

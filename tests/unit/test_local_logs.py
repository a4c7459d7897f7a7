"""The logs of all parts as one stream."""

from __future__ import annotations

import itertools
from pathlib import Path

from tessera.local import logs
from tessera.local.platform import Platform


def _home(tmp_path: Path) -> Platform:
    folder = tmp_path / "home" / "logs"
    folder.mkdir(parents=True)
    (folder / "postgres.log").write_text(
        "2026-01-01 10:00:00.500 UTC [7] LOG:  ready\n2026-01-01 10:00:03.000 UTC [7] ERROR:  no such table\n"
    )
    (folder / "keeper.log").write_text(
        '{"event": "keeper_started", "timestamp": "2026-01-01T10:00:01.000000Z"}\n'
        "Traceback (most recent call last):\n"
        '{"event": "healed", "timestamp": "2026-01-01T10:00:04.000000Z"}\n'
    )
    return Platform(tmp_path / "home", {})


def test_lines_of_several_parts_are_merged_by_time(tmp_path: Path) -> None:
    found = logs.last(_home(tmp_path))

    assert [line.part for line in found] == ["postgres", "keeper", "keeper", "postgres", "keeper"]
    assert found[2].text.startswith("Traceback")


def test_one_part_can_be_asked_for(tmp_path: Path) -> None:
    assert {line.part for line in logs.last(_home(tmp_path), ["postgres"], lines=1)} == {"postgres"}


def test_following_gives_what_is_added_and_whole_lines_only(tmp_path: Path) -> None:
    platform = _home(tmp_path)
    path = platform.home / "logs" / "keeper.log"
    additions = iter(['{"event": "a"}\n{"ev', 'ent": "b"}\n', ""])

    def sleep(_seconds: float) -> None:
        with path.open("a") as file:
            file.write(next(additions))

    stream = logs.follow(platform, ["keeper"], lines=1, sleep=sleep)

    assert [line.text for line in itertools.islice(stream, 3)][1:] == ['{"event": "a"}', '{"event": "b"}']

"""Ending exactly the right process, and choosing ports that are really free."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from tessera.local import ports, processes

SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]


def test_a_process_is_recorded_found_again_and_ended(tmp_path: Path) -> None:
    record = processes.spawn(SLEEP, log=tmp_path / "log", cwd=tmp_path)
    assert record is not None
    record.save(tmp_path / "record.json")

    assert processes.load_record(tmp_path / "record.json") == record
    assert os.getsid(record.pid) == record.pid
    assert processes.end([record]) == []
    assert processes.load_record(tmp_path / "record.json") is None


def test_a_recycled_pid_is_never_signalled(tmp_path: Path) -> None:
    stranger = processes.spawn(SLEEP, log=tmp_path / "log", cwd=tmp_path)
    assert stranger is not None
    recycled = replace(stranger, started=stranger.started - 1)

    assert not recycled.alive()
    assert processes.end([recycled]) == []

    assert stranger.alive()
    processes.end([stranger])


def test_a_taken_port_is_replaced_and_the_replacement_stays(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        number = taken.getsockname()[1]

        chosen = ports.free_port(tmp_path, number, host="127.0.0.1")

        assert chosen != number
        assert ports.FIRST <= chosen <= ports.LAST
        assert ports.free_port(tmp_path, number, host="127.0.0.1") == chosen


def test_the_last_lines_of_a_log_are_found_whatever_its_bytes(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"first\nsecond \xff\nthird\n")

    assert processes.tail(path, 2) == "second \ufffd\nthird"
    assert processes.tail(tmp_path / "nothing") == ""


def test_a_port_that_is_about_to_be_bound_is_given_to_no_other_process(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        number = probe.getsockname()[1]
    program = (
        "import sys; from pathlib import Path; from tessera.local import ports\n"
        "print(ports.free_port(Path(sys.argv[1]), int(sys.argv[2]), host='127.0.0.1'))"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "other"), str(number)]
    with ports.reserving():
        assert ports.free_port(tmp_path, number, host="127.0.0.1") == number
        other = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
        assert int(other.stdout) != number
    after = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert int(after.stdout) == number

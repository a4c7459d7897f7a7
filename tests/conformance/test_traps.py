"""Every trap that was seen on a real server has what reproduces it, and a test that is there."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest

from tests.conformance.traps import TRAPS, Trap
from tests.fakes.comfyui import FakeComfy, Knobs
from tests.fakes.koboldcpp import FakeKobold

ROOT = Path(__file__).parents[2]
KNOBS = {
    "comfyui": {field.name for field in fields(Knobs)} | set(vars(FakeComfy)),
    "koboldcpp": {field.name for field in fields(FakeKobold)} | set(vars(FakeKobold)),
}


@pytest.mark.parametrize("row", TRAPS, ids=lambda row: row.trap[:40])
def test_a_trap_has_a_knob_that_turns_and_tests_that_exist(row: Trap) -> None:
    assert set(row.knobs) - {"always"} <= KNOBS[row.server]
    for file, name in row.tests:
        assert re.search(rf"^(async )?def {name}\(", (ROOT / file).read_text(encoding="utf-8"), re.MULTILINE), name


def test_every_knob_of_the_fakes_is_turned_by_some_test() -> None:
    """A knob that nobody turns reproduces nothing. Paces are no faults."""
    paces = {"grain_s", "step_s", "node_s", "slow_step_s", "version", "token_s", "password", "script", "endless"}
    texts = "\n".join(
        path.read_text(encoding="utf-8")
        for path in (ROOT / "tests").rglob("*.py")
        if "fakes" not in path.parts and "traps" not in path.stem
    )
    for server, kind in (("comfyui", Knobs), ("koboldcpp", FakeKobold)):
        for field in fields(kind):
            assert field.name in paces or re.search(rf"\b{field.name}\b", texts), f"{server}: {field.name}"

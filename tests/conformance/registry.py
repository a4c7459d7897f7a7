"""What there is to be held against what: the engines, modules ``harness_<engine>.py`` of this folder, and the cases,
modules ``*cases.py``."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path

from tests.conformance.cases import CASES, Case
from tests.conformance.harness import HarnessMaker


def cases() -> list[Case]:
    """The rows of the table, those of ``cases.py`` first. A module adds its own when it is imported."""
    for file in sorted(Path(__file__).parent.glob("*_cases.py")):
        importlib.import_module(f"tests.conformance.{file.stem}")
    return CASES


def harness_makers(environ: Mapping[str, str]) -> list[HarnessMaker]:
    """All harnesses: those on fakes and libraries, then those on the real servers that the environment names."""
    found: list[HarnessMaker] = []
    for file in sorted(Path(__file__).parent.glob("harness_*.py")):
        found += importlib.import_module(f"tests.conformance.{file.stem}").harnesses(environ)
    return found

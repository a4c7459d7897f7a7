"""Which engines there are to be held against the rules: the modules ``harness_<engine>.py`` of this folder."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path

from tests.conformance.harness import HarnessMaker


def harness_makers(environ: Mapping[str, str]) -> list[HarnessMaker]:
    """All harnesses: those on fakes and libraries, then those on the real servers that the environment names."""
    found: list[HarnessMaker] = []
    for file in sorted(Path(__file__).parent.glob("harness_*.py")):
        found += importlib.import_module(f"tests.conformance.{file.stem}").harnesses(environ)
    return found

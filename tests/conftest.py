"""The run's one cluster: started for the first test that asks for it, and those tests come last."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from tests.acceptance.platform import Platform, running_platform

# A shell that starts a run in the background has it ignore Ctrl-C, and every command of a test would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def platform() -> Iterator[Platform]:
    with running_platform() as running:
        yield running


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What needs the platform runs last: it takes two cores and 2 GB from whatever runs beside it."""
    items.sort(key=lambda item: item.nodeid.startswith(("tests/acceptance/", "tests/chaos/")))

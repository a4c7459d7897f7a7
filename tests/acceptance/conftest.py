"""What every acceptance test asks for: the API of a platform that is ready."""

from __future__ import annotations

import pytest

from tests.acceptance.http import Api
from tests.acceptance.platform import Platform, wait_ready

__all__ = ["Platform", "wait_ready"]


@pytest.fixture
def api(platform: Platform) -> Api:
    """The API as the operator, of a platform that is ready."""
    wait_ready(platform.api)
    return platform.api

"""The short form of `make fuzz`: every operation by its description and by requests that none allows."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.fuzz.run import by_schema, raw
from tests.fuzz.server import Target, own_target


@pytest.fixture
async def fuzzed() -> AsyncIterator[Target]:
    async with own_target() as found:
        yield found


@pytest.mark.parametrize("caller", ["operator", "service"])
async def test_every_operation_answers_as_it_is_described(fuzzed: Target, caller: str) -> None:
    result = await by_schema(fuzzed, caller, max_examples=2, seed=7, phases="examples,fuzzing")
    assert result.exit_code == 0, result.output[-8000:]
    assert result.requests > 200


async def test_requests_that_no_description_allows_are_refused_with_a_documented_problem(fuzzed: Target) -> None:
    found = await raw(fuzzed, count=600, seed=7)
    assert not found.wrong, "\n".join(found.wrong[:5])
    assert found.requests == 600
    assert {400, 401, 404, 405, 422} <= set(found.statuses)

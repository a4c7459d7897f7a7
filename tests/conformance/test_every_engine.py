"""Every engine against every case, as ``make conformance`` runs them; here on fakes and libraries only."""

from __future__ import annotations

import pytest

from tests.conformance.cases import Case, execute
from tests.conformance.harness import HarnessKind, HarnessMaker
from tests.conformance.registry import cases, harness_makers

MAKERS = harness_makers({})
PAIRS = [(maker, row) for maker in MAKERS for row in cases() if row.name not in maker().without]


@pytest.mark.parametrize(("maker", "row"), PAIRS, ids=[f"{maker().name}-{row.name}" for maker, row in PAIRS])
async def test_every_engine_obeys_every_rule(maker: HarnessMaker, row: Case) -> None:
    await execute(maker(), row)


@pytest.mark.parametrize("maker", MAKERS, ids=lambda maker: maker().name)
def test_only_an_engine_without_a_server_may_leave_a_case_out(maker: HarnessMaker) -> None:
    harness = maker()
    assert not harness.without or harness.kind is HarnessKind.LIBRARY
    assert set(harness.without) <= {row.name for row in cases()}
    assert all(harness.without.values())

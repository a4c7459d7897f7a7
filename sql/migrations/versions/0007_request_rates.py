"""Rates of requests, one count for all replicas.

Revision ID: 0007
"""

from __future__ import annotations

from tessera.store.migrations import run_script

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Run 0007_request_rates.sql."""
    run_script("migrations/0007_request_rates.sql")

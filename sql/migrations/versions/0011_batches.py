"""Batches.

Revision ID: 0011
"""

from __future__ import annotations

from tessera.store.migrations import run_script

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    """Run 0011_batches.sql."""
    run_script("migrations/0011_batches.sql")

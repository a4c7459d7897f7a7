"""Indexes for pages of a user's ledger.

Revision ID: 0006
"""

from __future__ import annotations

from tessera.store.migrations import run_script

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Run 0006_ledger_pages.sql."""
    run_script("migrations/0006_ledger_pages.sql")

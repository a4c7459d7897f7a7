"""Linking, merging, unlinking and deleting of accounts.

Revision ID: 0012
"""

from __future__ import annotations

from tessera.store.migrations import run_script

revision = "0012"
down_revision = "0011"


def upgrade() -> None:
    """Run 0012_accounts.sql."""
    run_script("migrations/0012_accounts.sql")

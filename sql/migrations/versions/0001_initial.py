"""The first version of the data model.

Revision ID: 0001
"""

from __future__ import annotations

from tessera.store.migrations import run_script

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Run 0001_initial.sql."""
    run_script("migrations/0001_initial.sql")

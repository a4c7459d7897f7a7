"""Models that an operator keeps off a worker for a while.

Revision ID: 0014
"""

from __future__ import annotations

from tessera.store.migrations import run_script

revision = "0014"
down_revision = "0013"


def upgrade() -> None:
    """Run 0014_exclusions.sql."""
    run_script("migrations/0014_exclusions.sql")

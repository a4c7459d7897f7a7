"""An index for pruning jobs that were repeated.

Revision ID: 0002
"""

from __future__ import annotations

from tessera.store.migrations import run_script

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Run 0002_retried_jobs.sql."""
    run_script("migrations/0002_retried_jobs.sql")

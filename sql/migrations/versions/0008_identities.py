"""Settings of persons, the limit on sign-ups, what is kept of identities that have left.

Revision ID: 0008
"""

from __future__ import annotations

from tessera.store.migrations import run_script

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    """Run 0008_identities.sql."""
    run_script("migrations/0008_identities.sql")

"""Moderation, the banner, and acts of operators that are sent twice.

Revision ID: 0015
"""

from __future__ import annotations

from tessera.store.migrations import run_script

revision = "0015"
down_revision = "0014"


def upgrade() -> None:
    """Run 0015_moderation.sql."""
    run_script("migrations/0015_moderation.sql")

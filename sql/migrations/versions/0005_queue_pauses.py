"""Pauses of the queue, by kind.

Revision ID: 0005
"""

from __future__ import annotations

from tessera.store.migrations import run_script

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Run 0005_queue_pauses.sql."""
    run_script("migrations/0005_queue_pauses.sql")

"""Drains of workers and nodes.

Revision ID: 0004
"""

from __future__ import annotations

from tessera.store.migrations import run_script

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Run 0004_drains.sql."""
    run_script("migrations/0004_drains.sql")

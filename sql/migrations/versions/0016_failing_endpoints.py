"""Webhook endpoints that fail for days are disabled.

Revision ID: 0016
"""

from __future__ import annotations

from tessera.store.migrations import run_script

revision = "0016"
down_revision = "0015"


def upgrade() -> None:
    """Run 0016_failing_endpoints.sql."""
    run_script("migrations/0016_failing_endpoints.sql")

"""A counter for the daily cap of an API key, and one for results that the safety rules withheld.

Revision ID: 0003
"""

from __future__ import annotations

from tessera.store.migrations import run_script

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Run 0003_caps_and_withheld.sql."""
    run_script("migrations/0003_caps_and_withheld.sql")

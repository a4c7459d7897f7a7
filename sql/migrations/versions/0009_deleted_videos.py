"""Videos deleted in OpenAI's shape.

Revision ID: 0009
"""

from __future__ import annotations

from tessera.store.migrations import run_script

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    """Run 0009_deleted_videos.sql."""
    run_script("migrations/0009_deleted_videos.sql")

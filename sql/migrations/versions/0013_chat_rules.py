"""The rules of chats.

Revision ID: 0013
"""

from __future__ import annotations

from tessera.store.migrations import run_script

revision = "0013"
down_revision = "0012"


def upgrade() -> None:
    """Run 0013_chat_rules.sql."""
    run_script("migrations/0013_chat_rules.sql")

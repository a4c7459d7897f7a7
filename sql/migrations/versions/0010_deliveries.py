"""Deliveries to webhooks and chats, their secrets and pause, and the inbox of the bots.

Revision ID: 0010
"""

from __future__ import annotations

from tessera.store.migrations import run_script

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    """Run 0010_deliveries.sql."""
    run_script("migrations/0010_deliveries.sql")

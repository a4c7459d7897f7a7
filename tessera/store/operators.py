"""Users and keys as the operator makes them: the first admin, new users, new keys.

A key is shown once; the database holds its SHA-256.
"""

from __future__ import annotations

import hashlib
import secrets
from typing import Any
from uuid import UUID

from tessera.ids import Prefix, new_id, show
from tessera.store.database import Database, Transaction

OPERATOR_NAME = "operator"
OPERATOR_SCOPES = ["jobs", "admin"]
# The operator's own limits: far above any plan, and still finite, so that a runaway script of his own ends.
OPERATOR_LIMITS: dict[str, Any] = {
    "daily_mt": 1_000_000_000,
    "submissions_per_min": 600_000,
    "requests_per_min": 600_000,
    "max_queued": 1_000_000,
    "max_running": 64,
    "max_image_px": 4096 * 4096,
    "max_video_s": 16.0,
}


def make_key() -> tuple[str, str, bytes]:
    """A new API key: its public id, the whole key to show once, and the SHA-256 of its secret to store."""
    key_id = secrets.token_hex(8)
    secret = secrets.token_urlsafe(32)
    return key_id, f"tsr_{key_id}_{secret}", hashlib.sha256(secret.encode()).digest()


async def add_key(transaction: Transaction, user_id: UUID, *, name: str, scopes: list[str]) -> str:
    """Store a new key of a user; returns the whole key, which cannot be had again."""
    key_id, key, digest = make_key()
    await transaction.execute(
        "insert_api_key",
        id=key_id,
        user_id=user_id,
        secret_sha256=digest,
        name=name,
        scopes=scopes,
        daily_cap_mt=None,
        expires_at=None,
    )
    return key


async def ensure_operator(dsn: str, renew: bool = False) -> str | None:
    """Make the operator (plan pro, admin scope, limits overridden) unless there is one.

    Returns a new API key when one was made: for a new operator, or with ``renew`` in place of the old ones, which are
    revoked. Else None. Raises Unavailable.
    """
    database = Database.open(dsn, pool_size=1, name="tessera-operator")
    try:
        async with database.transaction() as transaction:
            found = await transaction.row("user_by_name", name=OPERATOR_NAME)
            if found is not None and not renew:
                return None
            if found is None:
                user_id = new_id()
                await transaction.execute("insert_user", id=user_id, name=OPERATOR_NAME, plan_id="pro", is_admin=True)
                await transaction.execute("override_limits", user_id=user_id, **OPERATOR_LIMITS)
                await transaction.execute(
                    "insert_audit",
                    actor="system",
                    action="override_limits",
                    subject=show(Prefix.USER, user_id),
                    data=OPERATOR_LIMITS,
                )
            else:
                user_id = found["id"]
                await transaction.execute("revoke_keys_named", user_id=user_id, name="tessera up")
            return await add_key(transaction, user_id, name="tessera up", scopes=OPERATOR_SCOPES)
    finally:
        await database.close()

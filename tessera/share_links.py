"""Links to single files for people without a key: what is signed, and how it is checked. Pure.

A link names the artifact, its end and the generation of the signing key, under an HMAC-SHA256 whose key is made of the
installation's secret. Nothing is stored for a link. Raising the generation makes older links void, at once or later.
https://www.rfc-editor.org/rfc/rfc2104
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from urllib.parse import urlencode

PATH = "/v1/links"


@dataclass(frozen=True, kw_only=True, slots=True)
class Generations:
    """Which keys sign and verify: ``current``, and the one before it until ``before_until``."""

    current: int
    before_until: datetime | None

    def known(self, generation: int, now: datetime) -> bool:
        """Whether links of this generation are still good."""
        if generation == self.current:
            return True
        return generation == self.current - 1 and self.before_until is not None and now < self.before_until


class Check(StrEnum):
    """What a link is worth."""

    GOOD = "good"
    EXPIRED = "expired"  # signed by us, and over
    VOID = "void"  # not signed by a key that counts


def sign(secret: bytes, generation: int, artifact_id: str, expires_at: datetime) -> str:
    """The link, as a path on this server. ``expires_at`` counts in whole seconds."""
    expires = int(expires_at.timestamp())
    query = {"expires": expires, "key": generation, "signature": _mac(secret, generation, artifact_id, expires)}
    return f"{PATH}/{artifact_id}?{urlencode(query)}"


def check(
    secret: bytes, generations: Generations, artifact_id: str, *, expires: int, key: int, signature: str, now: datetime
) -> Check:
    """Judge a link by its parts. The signature is compared in constant time, before anything else is told."""
    good = hmac.compare_digest(_mac(secret, key, artifact_id, expires).encode(), signature.encode())
    if not good or not generations.known(key, now):
        return Check.VOID
    return Check.GOOD if now < datetime.fromtimestamp(expires, UTC) else Check.EXPIRED


def _mac(secret: bytes, generation: int, artifact_id: str, expires: int) -> str:
    key = hmac.new(secret, f"share-key-{generation}".encode(), hashlib.sha256).digest()
    return hmac.new(key, f"{artifact_id}\n{expires}".encode(), hashlib.sha256).hexdigest()

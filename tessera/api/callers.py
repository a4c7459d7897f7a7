"""Who asks, as the routes see it, and the persons for whom a service key asks.

A person is known by an identity, ``telegram:123``, and looked up again after CACHE_S like a key. The first sight of an
identity makes its user: by one SQL function, so that replicas that see it at once make one.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from datetime import datetime
from typing import Any
from uuid import UUID

from tessera.errors import Forbidden, RateLimited, TesseraError
from tessera.identities import Identity
from tessera.ids import new_id
from tessera.jobs import Tier
from tessera.plans import Limits
from tessera.scopes import Scope
from tessera.store.database import Database

CACHE_S = 2.0
MAX_CACHED = 10_000
PERSON_SCOPES = frozenset({Scope.JOBS.value})  # whatever else the service key has: a person is never the operator

_LIMITS = tuple(field.name for field in fields(Limits))


@dataclass(frozen=True, kw_only=True, slots=True)
class Caller:
    """A user, through one API key.

    ``scopes`` has "admin" and "service" only for an operator; ``daily_cap_mt`` and ``expires_at`` are the key's own.
    ``identity``: of the person for whom a service key asks; None when a user asks by himself.
    """

    key_id: str
    user_id: UUID
    name: str
    scopes: frozenset[str]
    plan: str
    tier: Tier
    limits: Limits
    daily_cap_mt: int | None
    expires_at: datetime | None
    identity: Identity | None = None

    @property
    def bounded(self) -> bool:
        """Whether the key is one with a cap or an end. Such a key may not do what would outspend or outlast it."""
        return self.identity is None and (self.daily_cap_mt is not None or self.expires_at is not None)

    def must_be_unbounded(self, what: str) -> None:
        """Raise Forbidden where the key has a cap or an end: ``what`` would go on without it."""
        if self.bounded:
            has = "a daily cap" if self.daily_cap_mt is not None else "an expiry"
            raise Forbidden(f"This API key has {has} and cannot {what}. Nothing was done; use a key without one.")


def limits_of(row: Mapping[str, Any]) -> Limits:
    """The limits in a row of plans or user_limits, whose columns have the same names."""
    return Limits(**{name: row[name] for name in _LIMITS})


def closed(reason: str | None) -> Forbidden:
    """What a banned user is told."""
    why = f" ({reason})" if reason else ""
    return Forbidden(f"This account is closed{why}. Write to the operator if that is a mistake.")


@dataclass(frozen=True, slots=True)
class _Cached:
    until: float
    found: Caller | TesseraError


class People:
    """The persons behind identities. One per application.

    ``secret`` keys the hashes of identities that have left; ``per_min``: new users a minute that a provider may bring.
    """

    def __init__(self, db: Database, *, secret: bytes, per_min: int) -> None:
        self._db = db
        self._secret = secret
        self._per_min = per_min
        self._cache: dict[Identity, _Cached] = {}
        self._looking: dict[Identity, asyncio.Task[_Cached]] = {}

    async def find(self, identity: Identity, key: Caller) -> Caller:
        """The person of an identity, made at first sight, as who asks through this service key.

        Raises Forbidden for who is banned or whose account was deleted, RateLimited for too many new ones, Unavailable.
        """
        cached = self._cache.get(identity)
        if cached is None or cached.until < time.monotonic():
            cached = await self._look_up(identity)
        if isinstance(cached.found, TesseraError):
            raise type(cached.found)(cached.found.message)
        return replace(cached.found, key_id=key.key_id, expires_at=key.expires_at)

    async def resolve(self, identity: Identity, *, display_name: str | None, locale: str | None) -> bool:
        """Make sure that the identity has a user, and note how the person is called; whether the user is new.

        Safe to repeat. Raises what ``find`` raises of who cannot be made.
        """
        new = await self._ensure(identity)
        if display_name is not None or locale is not None:
            await self._db.execute(
                "describe_identity",
                provider=identity.provider.value,
                subject=identity.subject,
                display_name=display_name,
                locale=locale,
            )
        if new:
            self.forget(identity)
        return new

    def forget(self, identity: Identity) -> None:
        """Drop what is remembered of an identity that this replica has changed."""
        self._cache.pop(identity, None)

    def forget_user(self, user_id: UUID) -> None:
        """The same for all identities of a user."""
        for identity, cached in list(self._cache.items()):
            if isinstance(cached.found, Caller) and cached.found.user_id == user_id:
                del self._cache[identity]

    async def _look_up(self, identity: Identity) -> _Cached:
        """Ask Postgres, once for all requests that wait for the same person."""
        task = self._looking.get(identity)
        if task is None:
            task = asyncio.create_task(self._fetch(identity))
            self._looking[identity] = task
            task.add_done_callback(lambda _: self._looking.pop(identity, None))
        return await asyncio.shield(task)

    async def _fetch(self, identity: Identity) -> _Cached:
        found = await self._read(identity)
        if found is None:
            await self._ensure(identity)
            found = await self._read(identity)
            assert found is not None, "an identity that was just made is there"
        if len(self._cache) >= MAX_CACHED:
            self._cache.clear()
        cached = _Cached(time.monotonic() + CACHE_S, found)
        self._cache[identity] = cached
        return cached

    async def _read(self, identity: Identity) -> Caller | TesseraError | None:
        row = await self._db.row("identity_for_auth", provider=identity.provider.value, subject=identity.subject)
        if row is None:
            return None
        if row["deleted_at"] is not None:
            return Forbidden("This account was deleted, and nothing was done. Write to the operator to come back.")
        if row["banned_at"] is not None:
            return closed(row["ban_reason"])
        return Caller(
            key_id="",
            user_id=row["user_id"],
            name=row["name"],
            scopes=PERSON_SCOPES,
            plan=row["plan_id"],
            tier=Tier(row["tier"]),
            limits=limits_of(row),
            daily_cap_mt=None,
            expires_at=None,
            identity=identity,
        )

    async def _ensure(self, identity: Identity) -> bool:
        """Whether the user of an identity had to be made."""
        row = await self._db.row(
            "resolve_identity",
            provider=identity.provider.value,
            subject=identity.subject,
            hmac=identity.keyed_hash(self._secret),
            user_id=new_id(),
            id=new_id(),
            per_min=self._per_min,
        )
        assert row is not None
        match row["outcome"]:
            case "known" | "new":
                return bool(row["outcome"] == "new")
            case "banned":
                raise closed(row["ban_reason"])
            case "closed":
                raise Forbidden("No new people are let in at the moment. Nothing was done; come back another day.")
            case "rate_limited":
                raise RateLimited(
                    f"Very many new people come from {identity.provider.value} at the moment. Nothing was done; try"
                    f" again in {row['retry_after_s']:.0f} s.",
                    retry_after_s=row["retry_after_s"],
                )
            case unknown:
                raise RuntimeError(f"resolve_identity answered {unknown!r}")

"""Who asks, and whether they may: API keys ``tsr_<id>_<secret>``, of whose secret only the SHA-256 is stored.

With a key of scope ``service`` the header ``Tessera-On-Behalf-Of: telegram:123`` makes the person behind that identity
the caller: limits, quota and ownership are the person's. A key is looked up again after CACHE_S, so that a revocation,
a ban or a change of plan works within that time.
A secret, right or wrong, never reaches a log.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Any
from uuid import UUID

import structlog
from fastapi import Depends, Request

from tessera.api.callers import CACHE_S, MAX_CACHED, PERSON_SCOPES, Caller, People, closed, limits_of
from tessera.api.context import RateState, RequestContext, context_of
from tessera.api.limits import Portion, RequestLimiter
from tessera.errors import Forbidden, InvalidInput, RateLimited, TesseraError, Unauthorized
from tessera.identities import parse_identity
from tessera.jobs import Tier
from tessera.scopes import OPERATORS_ONLY, Scope
from tessera.store.database import Database, Row

__all__ = ["Authenticator", "Caller", "Operator", "Reader", "Service", "User", "limits_of"]

log = structlog.get_logger(__name__)

TOUCH_EVERY = timedelta(minutes=1)
ON_BEHALF_OF = "Tessera-On-Behalf-Of"

_KEY = re.compile(r"tsr_([A-Za-z0-9]{1,64})_([A-Za-z0-9_-]{16,256})")


@dataclass(frozen=True, slots=True)
class _Cached:
    until: float
    secret_sha256: bytes
    found: Caller | TesseraError  # what a right secret gets


class Authenticator:
    """Reads the key of a request. One per application."""

    def __init__(self, db: Database, people: People, clock: Callable[[], datetime]) -> None:
        self._db = db
        self.people = people
        self._limiter = RequestLimiter(self._take_requests)
        self._clock = clock
        self._cache: dict[str, _Cached | None] = {}
        self._looking: dict[str, asyncio.Task[_Cached]] = {}
        self._touching: set[asyncio.Task[None]] = set()

    async def authenticate(self, request: Request) -> Caller:
        """The caller: the key's user, or the person for whom a service key asks.

        Raises Unauthorized, Forbidden for a banned user or a key that may not act for others, InvalidInput for what is
        no identity, RateLimited for too many new persons, or Unavailable.
        """
        key = await self._key(request)
        given = request.headers.getlist(ON_BEHALF_OF)
        if not given:
            return key
        if Scope.SERVICE not in key.scopes:
            raise Forbidden(
                "This API key may not act on behalf of others: that needs the scope 'service'. Nothing was done."
            )
        if len(given) > 1:
            raise InvalidInput(f"Nothing was done. {ON_BEHALF_OF} came {len(given)} times: send it once.")
        return await self.people.find(parse_identity(given[0].strip(), where=ON_BEHALF_OF), key)

    async def _key(self, request: Request) -> Caller:
        key_id, secret = self._read(request)
        cached = self._cache.get(key_id)
        if cached is None or cached.until < time.monotonic():
            cached = await self._look_up(key_id)
        if not hmac.compare_digest(hashlib.sha256(secret).digest(), cached.secret_sha256):
            raise Unauthorized("This API key is not known. Check it, or make another with 'tessera keys create'.")
        if isinstance(cached.found, TesseraError):
            raise type(cached.found)(cached.found.message)
        if cached.found.expires_at is not None and cached.found.expires_at <= self._clock():
            raise Unauthorized("This API key has expired. Make another with 'tessera keys create'.")
        context_of(request).key_id = key_id
        return cached.found

    async def authorize(self, request: Request, *scopes: str, counted: bool = True) -> Caller:
        """The caller, if the key has one of the scopes. Counts the request, unless it is a submission.

        Raises what ``authenticate`` raises, Forbidden, or RateLimited.
        """
        if ON_BEHALF_OF.lower() in request.headers and PERSON_SCOPES.isdisjoint(scopes):
            await self._key(request)  # who has no key is told that first
            raise Forbidden(
                f"Nobody can do this on behalf of a person. Nothing was done; send it without {ON_BEHALF_OF}."
            )
        caller = await self.authenticate(request)
        if counted:
            context = context_of(request)
            try:
                context.rate = await self._limiter.take(caller.user_id, caller.limits.requests_per_min)
            except RateLimited:
                context.rate = RateState(policy="requests", limit=caller.limits.requests_per_min, remaining=0)
                raise
        else:
            context_of(request).uncounted = (caller.user_id, caller.limits.requests_per_min)
        if caller.scopes.isdisjoint(scopes):
            wanted = " or ".join(f"'{scope}'" for scope in scopes)
            hint = "use a key that has it"
            if Scope.SERVICE in caller.scopes and not PERSON_SCOPES.isdisjoint(scopes):
                hint = f"a service key asks for a person, whom it names by {ON_BEHALF_OF}"
            raise Forbidden(f"This API key lacks the scope {wanted}. Nothing was done; {hint}.")
        return caller

    async def count_refused(self, context: RequestContext) -> None:
        """Count a submission that was refused before admission as a request, once: a flood of them is none of
        admission's business, and its headers should tell of a limit, too. Raises RateLimited, or Unavailable."""
        if context.uncounted is None or context.rate is not None:
            return
        user_id, per_min = context.uncounted
        context.uncounted = None
        try:
            context.rate = await self._limiter.take(user_id, per_min)
        except RateLimited:
            context.rate = RateState(policy="requests", limit=per_min, remaining=0)
            raise

    async def _take_requests(self, user_id: UUID, per_min: int, want: int, back: int) -> Portion:
        row = await self._db.row("take_requests", user_id=user_id, per_min=per_min, want=want, back=back)
        assert row is not None
        return Portion(**row)

    def _read(self, request: Request) -> tuple[str, bytes]:
        given = request.headers.get("x-api-key")
        if given is None:
            scheme, _, rest = request.headers.get("authorization", "").partition(" ")
            if scheme.lower() != "bearer" or not rest.strip():
                raise Unauthorized
            given = rest
        match = _KEY.fullmatch(given.strip())
        if match is None:
            raise Unauthorized("This is not an API key of Tessera: one looks like tsr_…_…; check that it is whole.")
        return match[1], match[2].encode()

    async def _look_up(self, key_id: str) -> _Cached:
        """Ask Postgres, once for all requests that wait for the same key."""
        task = self._looking.get(key_id)
        if task is None:
            task = asyncio.create_task(self._fetch(key_id))
            self._looking[key_id] = task
            task.add_done_callback(lambda _: self._looking.pop(key_id, None))
        return await asyncio.shield(task)

    async def _fetch(self, key_id: str) -> _Cached:
        row = await self._db.row("key_for_auth", id=key_id)
        cached = _Cached(time.monotonic() + CACHE_S, *_judge(row))
        if row is not None:  # guessed ids are not worth memory
            if len(self._cache) >= MAX_CACHED:
                self._cache.clear()
            self._cache[key_id] = cached
            if isinstance(cached.found, Caller):
                self._touch(key_id, row["last_used_at"])
        return cached

    def _touch(self, key_id: str, last_used_at: datetime | None) -> None:
        """Note the use of a key, at most once a minute, without making anybody wait."""
        if last_used_at is not None and self._clock() - last_used_at < TOUCH_EVERY:
            return

        async def touch() -> None:
            try:
                await self._db.execute("touch_key", id=key_id)
            except TesseraError as error:
                log.info("key_not_touched", code=error.code)

        task = asyncio.create_task(touch())
        self._touching.add(task)
        task.add_done_callback(self._touching.discard)

    def forget(self, key_id: str) -> None:
        """Drop what is remembered of a key that this replica has changed."""
        self._cache.pop(key_id, None)

    def forget_user(self, user_id: UUID) -> None:
        """The same for all keys and identities of a user."""
        for key_id, cached in list(self._cache.items()):
            if cached is not None and isinstance(cached.found, Caller) and cached.found.user_id == user_id:
                del self._cache[key_id]
        self.people.forget_user(user_id)


def _judge(row: Row | None) -> tuple[bytes, Caller | TesseraError]:
    if row is None:
        return b"", Unauthorized()
    digest = bytes(row["secret_sha256"])
    if row["revoked_at"] is not None:
        return digest, Unauthorized("This API key was revoked. Make another with 'tessera keys create'.")
    if row["deleted_at"] is not None:
        return digest, Unauthorized("The user of this API key no longer exists.")
    if row["banned_at"] is not None:
        return digest, closed(row["ban_reason"])
    return digest, Caller(
        key_id=row["id"],
        user_id=row["user_id"],
        name=row["name"],
        scopes=frozenset(row["scopes"]) - (frozenset() if row["is_admin"] else OPERATORS_ONLY),
        plan=row["plan_id"],
        tier=Tier(row["tier"]),
        limits=limits_of(row),
        daily_cap_mt=row["daily_cap_mt"],
        expires_at=row["expires_at"],
    )


async def _reader(request: Request) -> Caller:
    return await _authenticator(request).authorize(request, *SCOPES[_reader])


async def _user(request: Request) -> Caller:
    return await _authenticator(request).authorize(request, *SCOPES[_user])


async def _service(request: Request) -> Caller:
    return await _authenticator(request).authorize(request, *SCOPES[_service])


async def _operator(request: Request) -> Caller:
    return await _authenticator(request).authorize(request, *SCOPES[_operator])


def _authenticator(request: Request) -> Authenticator:
    found = request.app.state.api.authenticator
    assert isinstance(found, Authenticator)
    return found


Reader = Annotated[Caller, Depends(_reader)]  # may look at the user's things
User = Annotated[Caller, Depends(_user)]  # may change them
Service = Annotated[Caller, Depends(_service)]  # a bot, or whoever may do what bots may
Operator = Annotated[Caller, Depends(_operator)]  # may change everybody's

# The scopes of a key of which one is enough, by who is asked for.
SCOPES: Mapping[Any, tuple[str, ...]] = {
    _reader: ("read", "jobs", "admin"),
    _user: ("jobs",),
    _service: ("service", "admin"),
    _operator: ("admin",),
}

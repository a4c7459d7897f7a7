"""The rules of admission as a pure model: idempotency, quota, the key's cap, queued cap, rate, in this order.

The SQL function ``admit`` (sql/functions/jobs.sql) enforces them atomically for all ingress replicas; this module says
what they are, and a property test holds the two together. All arithmetic is on integers: millitokens and microseconds.

The rate limit is GCRA: ``tat`` is the theoretical arrival time, each admitted submission moves it on by one interval,
and it may lie at most one minute ahead, so that a whole minute's allowance can be used at once. A clock that is set
back leaves it further ahead: then it counts as one minute.
https://en.wikipedia.org/wiki/Generic_cell_rate_algorithm
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, time, timedelta
from enum import StrEnum
from uuid import UUID

from tessera.plans import Limits

MINUTE = timedelta(minutes=1)
KEY_LIFETIME = timedelta(hours=24)
MICROSECOND = timedelta(microseconds=1)


class Verdict(StrEnum):
    """What becomes of a submission. Only an admitted one changes anything."""

    ADMITTED = "admitted"  # a durable job, held on today's quota
    REPLAYED = "replayed"  # the same id, or the same Idempotency-Key and body: the first answer holds
    IDEMPOTENCY_MISMATCH = "idempotency_mismatch"  # the key was used within 24 hours for another body
    QUOTA_EXHAUSTED = "quota_exhausted"  # 402, until midnight UTC
    KEY_CAP_EXHAUSTED = "key_cap_exhausted"  # 402: the daily cap of the API key, until midnight UTC
    TOO_MANY_QUEUED = "too_many_queued"  # 429, until a job starts or ends
    RATE_LIMITED = "rate_limited"  # 429, for a moment
    UNKNOWN_USER = "unknown_user"


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A submission, as far as admission looks at it. ``key_cap_mt``: what its API key may use a day, None for all."""

    id: UUID
    cost_mt: int
    api_key: str | None = None
    key_cap_mt: int | None = None
    idempotency_key: str | None = None
    body_sha256: bytes | None = None


@dataclass(frozen=True, kw_only=True)
class KeyUse:
    """The first use of an Idempotency-Key."""

    body_sha256: bytes | None
    job_id: UUID
    at: datetime


@dataclass(frozen=True, kw_only=True)
class Account:
    """A user's hot row and what is remembered of earlier submissions. ``used_mt`` belongs to ``day``.

    ``used`` is what was used of each day, by which the hot row begins another one: a new day at nothing, and an earlier
    one, after the clock was set back, where it stood. ``key_used`` is the part of each API key.
    """

    day: date
    used_mt: int
    queued: int
    tat: datetime
    used: Mapping[date, int] = field(default_factory=dict)
    key_used: Mapping[tuple[str, date], int] = field(default_factory=dict)
    keys: Mapping[str, KeyUse] = field(default_factory=dict)
    jobs: frozenset[UUID] = frozenset()

    def used_on(self, day: date) -> int:
        """What counts against the quota of a day."""
        return self.used_mt if self.day == day else self.used.get(day, 0)


@dataclass(frozen=True, kw_only=True)
class Decision:
    """The verdict, the job that it is about, and when it is worth another try (None: at any time, or never)."""

    verdict: Verdict
    job_id: UUID
    retry_after: timedelta | None = None


def utc_day(at: datetime) -> date:
    """The day whose quota holds what is admitted then."""
    return at.astimezone(UTC).date()


def until_midnight(now: datetime) -> timedelta:
    """How long until the quota starts anew."""
    return datetime.combine(utc_day(now) + timedelta(days=1), time(), UTC) - now


def interval(submissions_per_min: int) -> timedelta:
    """The time that one submission takes of the rate limit: rounded down, so that the whole allowance fits a minute."""
    return max(1, MINUTE // MICROSECOND // submissions_per_min) * MICROSECOND


def remaining(account: Account, limits: Limits, now: datetime) -> int:
    """How many submissions the rate limit would let through at once."""
    return (MINUTE - (max(account.tat, now) - now)) // interval(limits.submissions_per_min)


def decide(account: Account | None, limits: Limits, asked: Asked, now: datetime) -> tuple[Decision, Account | None]:
    """What becomes of one submission, and the account after it. ``account`` is None for a user that there is not."""
    if account is None:
        return Decision(verdict=Verdict.UNKNOWN_USER, job_id=asked.id), None
    if account.tat > now + MINUTE:
        account = replace(account, tat=now + MINUTE)
    if asked.id in account.jobs:
        return Decision(verdict=Verdict.REPLAYED, job_id=asked.id), account
    seen = account.keys.get(asked.idempotency_key) if asked.idempotency_key is not None else None
    if seen is not None and seen.at > now - KEY_LIFETIME:
        same = seen.body_sha256 == asked.body_sha256
        verdict = Verdict.REPLAYED if same else Verdict.IDEMPOTENCY_MISMATCH
        return Decision(verdict=verdict, job_id=seen.job_id), account

    today, step = utc_day(now), interval(limits.submissions_per_min)
    used, tat = account.used_on(today), max(account.tat, now) + step
    if used + asked.cost_mt > limits.daily_mt:
        return Decision(verdict=Verdict.QUOTA_EXHAUSTED, job_id=asked.id, retry_after=until_midnight(now)), account
    key_used = account.key_used.get((asked.api_key, today), 0) if asked.api_key is not None else 0
    if asked.key_cap_mt is not None and key_used + asked.cost_mt > asked.key_cap_mt:
        return Decision(verdict=Verdict.KEY_CAP_EXHAUSTED, job_id=asked.id, retry_after=until_midnight(now)), account
    if account.queued >= limits.max_queued:
        wait = timedelta(seconds=5)
        return Decision(verdict=Verdict.TOO_MANY_QUEUED, job_id=asked.id, retry_after=wait), account
    if tat - now > MINUTE:
        return Decision(verdict=Verdict.RATE_LIMITED, job_id=asked.id, retry_after=tat - now - MINUTE), account

    keys = dict(account.keys)
    if asked.idempotency_key is not None:
        keys[asked.idempotency_key] = KeyUse(body_sha256=asked.body_sha256, job_id=asked.id, at=now)
    after = replace(
        book(account, {today: asked.cost_mt}, now, api_key=asked.api_key),
        queued=account.queued + 1,
        tat=tat,
        keys=keys,
        jobs=account.jobs | {asked.id},
    )
    return Decision(verdict=Verdict.ADMITTED, job_id=asked.id), after


def book(account: Account, amounts_mt: Mapping[date, int], now: datetime, *, api_key: str | None = None) -> Account:
    """The account after ledger entries of these days, which count for the API key that they name."""
    today = utc_day(now)
    used, key_used = dict(account.used), dict(account.key_used)
    for day, amount_mt in amounts_mt.items():
        used[day] = used.get(day, 0) + amount_mt
        if api_key is not None:
            key_used[api_key, day] = key_used.get((api_key, day), 0) + amount_mt
    booked = replace(account, used=used, key_used=key_used)
    if today not in amounts_mt and account.day <= today:
        return booked
    if account.day == today:
        return replace(booked, used_mt=account.used_mt + amounts_mt.get(today, 0))
    return replace(booked, day=today, used_mt=used.get(today, 0))


def give_back(
    account: Account, amount_mt: int, *, held_on: date, ours: bool, now: datetime, api_key: str | None = None
) -> Account:
    """The account after a refund: on the hold's day; is that over and the cause ours, then with a grant for today."""
    account = book(account, {held_on: -amount_mt}, now, api_key=api_key)
    return book(account, {utc_day(now): -amount_mt}, now) if ours and held_on < utc_day(now) else account

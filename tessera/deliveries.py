"""What is brought to webhooks and chats, decided: which events, when to try again, when to give up, how to sign.

Signatures are those of Standard Webhooks, so that receivers need no library of ours:
https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Sequence
from datetime import datetime, timedelta
from enum import StrEnum

from tessera.jobs import EventType


class Channel(StrEnum):
    """By what way an event is brought."""

    WEBHOOK = "webhook"  # an HTTP POST to an address of the user's
    CHAT = "chat"  # a bot fetches it and posts it where the job came from


class DeliveryState(StrEnum):
    """The condition of a delivery. The last two are final, until it is replayed."""

    PENDING = "pending"  # waits for its first or next try; left by a lease
    LEASED = "leased"  # somebody brings it; left by the outcome, or by the next lease once this one is over
    DELIVERED = "delivered"  # the receiver has said that it has it
    FAILED = "failed"  # given up: refused for good, or tried for a day


FINAL_TYPES: tuple[str, ...] = (EventType.COMPLETED, EventType.FAILED, EventType.CANCELLED, EventType.EXPIRED)
# Durable events after the submission itself, which its own answer tells.
EVENT_TYPES: tuple[str, ...] = (EventType.QUEUED, EventType.STARTED, EventType.OUTPUT, *FINAL_TYPES)
TEST_EVENT = "test"

WINDOW = timedelta(hours=24)  # from the first try on; how long a receiver may be down without losing an event
# (start) Seconds before the second, third, … try: 23 h 43 min in all. The first are short: a receiver may restart.
DELAYS_S = (5, 30, 120, 600, 1800, 3600, 7200, 14_400, 28_800, 28_800)
JITTER = 0.2  # a delay is shortened by up to so much of it, so that what failed together does not come back together
# (start) Deliveries to one endpoint that were given up after a day of tries each, with none between that arrived: then
# it is disabled. One outage is no reason where events are few; after ten in a row nobody looks after the receiver.
MAX_FAILED_IN_A_ROW = 10
MAX_TRIES = 25  # leases of one delivery to a bot: what kills whoever takes it must end, too

SECRET_PREFIX = "whsec_"  # noqa: S105 (the mark of one, not one)
SECRET_BYTES = 32


def retry_at(
    *, tries: int, first_try_at: datetime, now: datetime, jitter: float, retry_after_s: float | None = None
) -> datetime | None:
    """When to try again after ``tries`` tries have failed, None when it is time to give up.

    ``jitter`` is in 0…1. ``retry_after_s``: not before that, as the receiver has asked.
    """
    delay_s = DELAYS_S[min(tries, len(DELAYS_S)) - 1] * (1 - JITTER * jitter)
    at = now + timedelta(seconds=max(delay_s, retry_after_s or 0.0))
    return at if at <= first_try_at + WINDOW else None


def show_secret(secret: bytes) -> str:
    """The secret as receivers' libraries take it: ``whsec_…``."""
    return SECRET_PREFIX + base64.b64encode(secret).decode()


def signature(secrets: Sequence[bytes], message_id: str, sent_at_s: int, body: bytes) -> str:
    """The header ``webhook-signature``: one of each secret, so that a receiver may have the old one or the new."""
    signed = b"%s.%d.%s" % (message_id.encode(), sent_at_s, body)
    made = (base64.b64encode(hmac.new(secret, signed, hashlib.sha256).digest()).decode() for secret in secrets)
    return " ".join(f"v1,{one}" for one in made)


class Verdict(StrEnum):
    """What the answer of a webhook's receiver means."""

    DELIVERED = "delivered"  # any 2xx
    GONE = "gone"  # 410: nothing more is wanted at this address
    AGAIN = "again"  # anything else, redirects too: they are never followed


def judge(status: int | None) -> Verdict:
    """Read the status of an answer, None for no answer at all."""
    if status is not None and 200 <= status < 300:
        return Verdict.DELIVERED
    return Verdict.GONE if status == 410 else Verdict.AGAIN

"""Deliveries to chats and webhooks, and stored updates, as frozen values; see ``tessera.client.models``."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import Field

from tessera.client.models import Answer, Event, Job, Page


class ChatDelivery(Answer):
    """An event that is to be brought to a chat, leased to this bot.

    ``job`` is as it is now, ``delivery`` as the bot stored it with the job. With ``tries`` above 1 somebody may have
    posted it already, and died before the acknowledgement. ``seq`` rises in the order of the events.
    """

    id: str
    seq: int
    lease_token: str
    lease_expires_at: datetime
    tries: int
    created_at: datetime
    event: Event
    job: Job
    user_id: str
    delivery: dict[str, Any]


class ClaimedChats(Answer):
    """What a claim found. ``paused``: nothing is delivered at the moment, by the operator's will."""

    data: tuple[ChatDelivery, ...] = ()
    paused: bool = False


class ChatTarget(Answer):
    """A job's chat, with whatever else its bot has stored there (``dump`` shows all)."""

    platform: str
    bot: str
    chat: str | int
    events: tuple[str, ...] = ()


class ChatRules(Answer):
    """What the admin of a chat allows a bot there."""

    rules: dict[str, Any] = Field(default_factory=dict)


class Settled(Answer):
    """What became of a lease. ``stale``: it was over, and nothing was changed."""

    id: str = ""
    update_id: str = ""
    state: str

    @property
    def stale(self) -> bool:
        """Whether somebody else may have it by now."""
        return self.state == "stale"


class SettledList(Answer):
    """One for each that was asked about, in the same order."""

    data: tuple[Settled, ...] = ()


class StoredUpdate(Answer):
    """``stored``: it is new, and leased if that was asked for; else it was known already."""

    update_id: str
    stored: bool
    lease_token: str | None = None
    lease_expires_at: datetime | None = None


class StoredUpdates(Answer):
    """One for each that was sent, in the same order."""

    data: tuple[StoredUpdate, ...] = ()


class InboxUpdate(Answer):
    """A stored update, leased to this bot. ``data`` is what the platform sent."""

    update_id: str
    lease_token: str
    lease_expires_at: datetime
    lane: str
    data: dict[str, Any]
    tries: int
    received_at: datetime


class InboxUpdates(Answer):
    """What a claim found."""

    data: tuple[InboxUpdate, ...] = ()


class WebhookEndpoint(Answer):
    """Where the events of all jobs go. ``secret`` only in the answer that made it."""

    id: str
    url: str
    events: tuple[str, ...] = ()
    description: str = ""
    created_at: datetime | None = None
    disabled: bool = False
    disabled_at: datetime | None = None
    disabled_reason: str | None = None
    failed_in_a_row: int = 0
    secret: str | None = Field(default=None, repr=False)


class WebhookSecret(Answer):
    """What signs webhooks; ``old_secret_until``: until then the one before signs, too."""

    secret: str = Field(repr=False)
    old_secret_until: datetime | None = None


class DeliveryTry(Answer):
    """One try. ``status`` None: there was no answer."""

    number: int
    at: datetime
    status: int | None = None
    ms: int | None = None
    error: str | None = None
    answer: str | None = None


class Delivery(Answer):
    """An event on its way to a webhook (or a chat, as an operator sees it). ``log`` only where one is asked for."""

    id: str
    state: str
    event: str = ""
    tries: int = 0
    created_at: datetime | None = None
    url: str | None = None
    endpoint_id: str | None = None
    job_id: str | None = None
    job_seq: int | None = None
    next_try_at: datetime | None = None
    last_error: str | None = None
    ended_at: datetime | None = None
    channel: str = "webhook"
    target: str | None = None
    user_id: str | None = None
    log: tuple[DeliveryTry, ...] = ()


class DeliveriesPause(Answer):
    """Since when, and why, nothing is delivered."""

    reason: str = ""
    actor: str = ""
    since: datetime | None = None


class DeliveriesResumed(Answer):
    """Whether there was a pause."""

    resumed: bool


class AdminDeliveries(Page[Delivery]):
    """A page of everybody's deliveries. ``paused`` is None while they are brought."""

    paused: DeliveriesPause | None = None

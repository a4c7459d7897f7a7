"""The answers of the API as frozen values: what a caller of ``tessera.client`` works with.

Fields that a newer server adds are kept (``dump`` shows them) and never break an older client; closed sets such as
states arrive as text for the same reason and compare equal to the members of ``tessera.jobs``. Tokens are decimals
with at most three places, as the API shows them.
"""

from __future__ import annotations

import base64
import binascii
from datetime import datetime
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from tessera.jobs import FINAL, FINAL_EVENTS, EventType, JobState

# An int stays an int, so that what is shown as JSON is what the server sent.
Number = int | float


class Answer(BaseModel):
    """The base of every answer: frozen, tolerant of what it does not know yet."""

    model_config = ConfigDict(frozen=True, extra="allow")

    def dump(self) -> dict[str, Any]:
        """The answer as the server sent it, ready for JSON: nothing is added, nothing unknown is dropped."""
        return self.model_dump(mode="json", exclude_unset=True)


class Eta(Answer):
    """When a job is expected to be done, as a range of seconds from now."""

    low_s: Number
    high_s: Number


class JobError(Answer):
    """Why a job failed, and what was given back."""

    code: str
    message: str
    retryable: bool = False
    refunded_tokens: Number | None = None


class Artifact(Answer):
    """An output file. ``url`` is a path on the server."""

    id: str
    media_type: str
    bytes: int
    width: int | None = None
    height: int | None = None
    duration_s: Number | None = None
    url: str = ""
    thumbnail_url: str | None = None


class JobWebhook(Answer):
    """Where a job's events are sent to."""

    url: str
    events: tuple[str, ...] = ()


class Job(Answer):
    """A job as the server shows it. ``cost_tokens`` is what it holds, ``charged_tokens`` what it came to in the end."""

    id: str
    kind: str
    state: str
    model: str = ""
    tier: str = ""
    position: int | None = None
    eta: Eta | None = None
    cost_tokens: Number = 0
    charged_tokens: Number | None = None
    created_at: datetime | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    cancel_requested_at: datetime | None = None
    retried_from: str | None = None
    webhook: JobWebhook | None = None
    attempt: int = 0
    input: dict[str, Any] = Field(default_factory=dict)
    output: dict[str, Any] | None = None
    metadata: dict[str, Any] | None = None
    artifacts: tuple[Artifact, ...] = ()
    error: JobError | None = None
    engine: str | None = None
    preview: bool | None = None

    @property
    def is_final(self) -> bool:
        """Whether nothing will change any more."""
        return self.state in FINAL

    @property
    def ok(self) -> bool:
        """Whether it completed: its artifacts are readable."""
        return self.state == JobState.COMPLETED

    @property
    def text(self) -> str | None:
        """The text of a text job or a transcription, None for the other kinds and before the end."""
        value = (self.output or {}).get("text")
        return value if isinstance(value, str) else None


class Refusal(Answer):
    """Why a submission would be refused: a stable code, and a sentence that says what to do."""

    code: str
    detail: str = ""
    retryable: bool = False
    retry_after_s: Number | None = None


class Quote(Answer):
    """What a job would cost; ``refusal`` says why it would not be accepted now. Nothing is held by it."""

    kind: str
    model: str
    cost_tokens: Number
    allowed: bool
    refusal: Refusal | None = None
    remaining_tokens_today: Number = 0
    resets_at: datetime | None = None


class WaitReason(Answer):
    """One thing that a job waits for: a code of ``tessera.ports.WaitCode``, a sentence, and until when, if known."""

    code: str
    message: str = ""
    until: datetime | None = None
    data: dict[str, Any] = Field(default_factory=dict)


class WorkerView(Answer):
    """A worker that has the job's model. ``free_slots``, ``slots`` and ``resident`` are shown to operators only."""

    name: str
    node: str = ""
    device: str = ""
    online: bool = False
    can_run: bool = False
    why_not: str = ""
    free_slots: int | None = None
    slots: int | None = None
    resident: bool | None = None


class LastFailure(Answer):
    """How the last run of a job that failed ended."""

    attempt: int
    worker: str = ""
    at: datetime | None = None
    code: str = ""
    message: str = ""


class Explanation(Answer):
    """Why a job waits, where it runs, or how it ended.

    ``reasons`` is empty unless it waits; the first is what to look at first. Places, ``workers``, ``eta`` and
    ``own_s`` come from the scheduler and are missing while it is away. ``as_of`` is the server's clock.
    """

    id: str
    state: str
    summary: str = ""
    kind: str = ""
    model: str = ""
    tier: str = ""
    as_of: datetime | None = None
    created_at: datetime | None = None
    queued_since: datetime | None = None
    not_before: datetime | None = None
    deadline: datetime | None = None
    attempt: int = 0
    failures: int = 0
    last_failure: LastFailure | None = None
    reasons: tuple[WaitReason, ...] = ()
    position: int | None = None
    position_in_tier: int | None = None
    position_of_user: int | None = None
    ahead: dict[str, int] | None = None
    own_jobs_ahead: int | None = None
    queued_of_user: int | None = None
    max_queued: int | None = None
    running_of_user: int | None = None
    max_running: int | None = None
    workers: tuple[WorkerView, ...] = ()
    eta: Eta | None = None
    own_s: Number | None = None
    worker: str | None = None
    started_at: datetime | None = None
    cancel_requested_at: datetime | None = None
    finished_at: datetime | None = None
    charged_tokens: Number | None = None
    refunded_tokens: Number | None = None
    error: JobError | None = None

    @property
    def is_final(self) -> bool:
        """Whether nothing will change any more."""
        return self.state in FINAL


class Event(Answer):
    """What happened to a job. ``id`` numbers the durable events of the job; ephemeral ones have None."""

    id: int | None = None
    job_id: str = ""
    type: str
    at: datetime | None = None
    attempt: int | None = None
    data: dict[str, Any] = Field(default_factory=dict)

    @property
    def is_final(self) -> bool:
        """Whether it is the last event of its job."""
        return self.type in FINAL_EVENTS

    @property
    def is_retry(self) -> bool:
        """Whether it sends the job back to the queue, which voids the text and the progress so far."""
        return self.type == EventType.QUEUED and self.id is not None and bool(self.data.get("reason"))

    @property
    def preview_image(self) -> bytes | None:
        """The small picture of a preview event; None for the other types and for data that cannot be read."""
        if self.type != EventType.PREVIEW:
            return None
        try:
            return base64.b64decode(str(self.data.get("data_base64", "")), validate=True) or None
        except (binascii.Error, ValueError):
            return None


class Upload(Answer):
    """An input file, usable by its id until ``expires_at``."""

    id: str
    media_type: str
    bytes: int
    expires_at: datetime | None = None


class Model(Answer):
    """An entry of the catalogue. ``price`` is in words; ``input_schema`` is a JSON Schema of the job's input."""

    id: str
    kind: str
    title: str = ""
    description: str = ""
    engine: str = ""
    state: str = ""
    price: Any = None
    default: bool = False
    preview: bool = False
    aliases: tuple[str, ...] = ()
    input_schema: dict[str, Any] | None = None


class Plan(Answer):
    """A plan: its price and what it allows."""

    id: str
    title: str = ""
    price_usd_per_month: Number = 0
    daily_tokens: Number = 0
    tier: str = ""
    limits: dict[str, Any] = Field(default_factory=dict)


class ResolvedUser(Answer):
    """The user behind an identity, and the plan."""

    id: str
    name: str = ""
    plan: str = ""
    tier: str = ""
    daily_tokens: Number = 0


class Resolved(Answer):
    """A person as bots know one. ``new``: the user was made by this request."""

    identity: str
    new: bool = False
    user: ResolvedUser
    display_name: str | None = None
    locale: str | None = None
    settings: dict[str, Any] = Field(default_factory=dict)


class IdentityView(Answer):
    """Who a user is elsewhere. ``identity`` is "telegram:123"."""

    identity: str
    provider: str = ""
    subject: str = ""
    display_name: str | None = None
    locale: str | None = None
    linked_at: datetime | None = None


class LinkCode(Answer):
    """A code to be typed on another platform, once and before ``expires_at``."""

    code: str = Field(repr=False)
    expires_at: datetime | None = None


class Linked(Answer):
    """The account that is there now: ``merged_user_id`` is part of ``user_id``."""

    user_id: str
    merged_user_id: str = ""
    plan: str = ""
    identities: tuple[IdentityView, ...] = ()


class Deleted(Answer):
    """An account that is gone."""

    id: str
    deleted: bool = True


class SharedLink(Answer):
    """A link to a file that works without a key. ``url`` may be a path on the server."""

    url: str
    expires_at: datetime | None = None


class Report(Answer):
    """A report about a result, as its reporter sees it."""

    id: str = ""
    state: str = ""


class PersonSettings(Answer):
    """A person's settings, the same on every platform."""

    settings: dict[str, Any] = Field(default_factory=dict)


class Quota(Answer):
    """Today's tokens (UTC) and when they come back. ``daily_tokens`` None means that there is no limit."""

    used_tokens: Number = 0
    daily_tokens: Number | None = None
    remaining_tokens: Number | None = None
    resets_at: datetime | None = None


class Me(Answer):
    """Whose API key this is."""

    id: str
    name: str | None = None
    plan: str = ""
    scopes: tuple[str, ...] = ()
    limits: dict[str, Any] = Field(default_factory=dict)
    quota: Quota = Quota()


class UsageDay(Answer):
    """What one kind used on one UTC day."""

    day: str
    kind: str | None = None
    used_tokens: Number = 0
    jobs: int = 0


class Usage(Answer):
    """The last days, the newest first as the server sends them, and today."""

    data: tuple[UsageDay, ...] = ()
    today: Quota = Quota()


class QueueLine(Answer):
    """The jobs of one kind and tier, of all users together."""

    kind: str
    tier: str
    queued: int = 0
    running: int = 0
    oldest_wait_s: Number | None = None


class QueueModel(Answer):
    """Whether a model can start at once (``warm``), is to be loaded first (``cold``), or is ``offline``."""

    id: str
    kind: str = ""
    state: str = "unknown"


class QueuePause(Answer):
    """A kind of which no job starts, with the operator's words."""

    kind: str
    message: str = ""
    since: datetime | None = None


class Banner(Answer):
    """What the operator tells everybody."""

    message: str
    since: datetime | None = None


class Queue(Answer):
    """How much waits and runs, as counted at ``as_of``."""

    as_of: datetime | None = None
    queued: int = 0
    running: int = 0
    lines: tuple[QueueLine, ...] = ()
    models: tuple[QueueModel, ...] = ()
    pauses: tuple[QueuePause, ...] = ()
    banner: Banner | None = None


class LedgerEntry(Answer):
    """One booking of tokens: ``amount_tokens`` above 0 uses quota, below 0 gives it back, on the UTC day ``day``."""

    id: int
    at: datetime | None = None
    day: str
    kind: str = ""
    entry: str
    amount_tokens: Number
    job_id: str | None = None
    reason: str = ""


class ApiKey(Answer):
    """An API key. ``api_key`` is the secret itself: only the answer that makes the key has it."""

    id: str
    name: str = ""
    scopes: tuple[str, ...] = ()
    api_key: str | None = Field(default=None, repr=False)
    daily_cap_tokens: Number | None = None
    expires_at: datetime | None = None
    created_at: datetime | None = None
    last_used_at: datetime | None = None
    revoked_at: datetime | None = None


class User(Answer):
    """A user, as an operator sees one. ``api_key`` only in the answer that makes the user."""

    id: str
    name: str = ""
    plan: str = ""
    api_key: str | None = Field(default=None, repr=False)
    created_at: datetime | None = None


class AccountEntry(Answer):
    """An operator's entry in a user's account: a grant or an adjustment, and what its day's use is after it."""

    user_id: str
    entry: str = ""
    tokens: Number = 0
    day: str = ""
    reason: str = ""
    used_tokens: Number = 0
    daily_tokens: Number = 0


class Worker(Answer):
    """A worker, as an operator sees one. ``state``: online, offline, unknown. None: the scheduler does not say."""

    name: str
    state: str = ""
    node: str = ""
    device: str = ""
    models: tuple[str, ...] = ()
    slots: int = 0
    running: int | None = None
    message: str | None = None
    offline_since: datetime | None = None
    draining_until: datetime | None = None
    circuit: str | None = None
    circuit_until: datetime | None = None
    excluded: dict[str, datetime] | None = None
    resident: tuple[str, ...] | None = None
    loading: str | None = None


class DrainedWorker(Answer):
    """A worker that an order was about, and until when it takes no new jobs, None: it takes them."""

    name: str
    draining_until: datetime | None = None


class Drain(Answer):
    """A drain of a worker or a node as it stands. ``resumed`` only of its end: whether there was one to end."""

    target: str
    kind: str = ""
    until: datetime | None = None
    reason: str = ""
    resumed: bool | None = None
    workers: tuple[DrainedWorker, ...] = ()


class Pause(Answer):
    """A kind of which no job starts. ``message`` is for those who wait; ``actor`` is the operator who paused it."""

    kind: str
    message: str = ""
    actor: str = ""
    since: datetime | None = None


class Unpaused(Answer):
    """A kind that is served. ``resumed`` says whether it had been paused."""

    kind: str
    resumed: bool = False


Item = TypeVar("Item")


class Page(Answer, Generic[Item]):
    """A page of a list. ``next_cursor`` asks for the one after it; None means that this is the last."""

    data: tuple[Item, ...] = ()
    next_cursor: str | None = None

"""What the API says of itself: the answers as models for OpenAPI, and the problems (bodies: ``bodies.py``).

Documentation only: ``answers.py`` builds the answers, and a test holds them against these models.
"""

from __future__ import annotations

from datetime import date, datetime
from typing import Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from tessera.jobs import JobState, Kind, Tier

Tokens = int | float


class Answer(BaseModel):
    model_config = ConfigDict(extra="forbid")


# ------------------------------------------------------------------ problems


class FieldError(Answer):
    field: str = Field(examples=["input.width"])
    message: str = Field(examples=["Input should be greater than or equal to 16"])


class Problem(BaseModel):
    """RFC 9457. `code` is stable; `detail` says what happened, what was lost (usually nothing), and what to do next."""

    type: str = Field(examples=["/docs/errors#error-invalid_input"])
    title: str = Field(examples=["Invalid input"])
    status: int = Field(examples=[422])
    detail: str
    code: str = Field(examples=["invalid_input"])
    retryable: bool = Field(description="whether the same request can succeed later")
    retry_after_s: float | None = None
    request_id: str = Field(description="as in X-Request-Id; tell it to the operator")
    job_id: str | None = None
    refunded_tokens: Tokens | None = None
    errors: list[FieldError] | None = Field(default=None, description="each wrong field")


_PROBLEMS = {
    400: "The body is not valid JSON.",
    401: "No API key, or not a valid one.",
    402: "Today's tokens are used up.",
    403: "The key lacks a scope.",
    404: "Not there, or not yours.",
    409: "Does not fit the present state.",
    408: "The body came too slowly.",
    410: "Deleted, or its retention ended.",
    413: "The body is too large.",
    415: "The file's type cannot be used.",
    416: "The range lies outside of the file.",
    422: "A field is wrong; `errors` names each.",
    429: "Too much at once; `Retry-After` says how long to wait.",
    451: "Withheld by the operator after a report.",
    503: "Not at the moment; nothing was accepted. `Retry-After` says when to try again.",
}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The problem answers of a route, for its ``responses``."""
    content = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {status: {"description": _PROBLEMS[status], "content": content} for status in statuses}


# ------------------------------------------------------------------ jobs


class Eta(Answer):
    """Seconds from now until the job is done, as a range."""

    low_s: int
    high_s: int


class JobError(Answer):
    code: str
    message: str
    retryable: bool
    refunded_tokens: Tokens


class Artifact(Answer):
    """An output file; `url` is a path on this server."""

    id: str = Field(examples=["art_01k5h3v9m2f8e4x7q6t0c1b2a3"])
    media_type: str = Field(examples=["image/png"])
    bytes: int
    width: int | None = None
    height: int | None = None
    duration_s: float | None = None
    url: str
    thumbnail_url: str | None = None
    spoiler: bool | None = Field(default=None, description="true: show it only to who asks for it")


class JobWebhook(Answer):
    """Where the job's events are sent to, besides the endpoints of the account."""

    url: str = Field(examples=["https://example.org/tessera"])
    events: list[str] = Field(examples=[["completed", "failed", "cancelled", "expired"]])


class Urls(Answer):
    self: str
    events: str
    explain: str
    cancel: str


class Job(Answer):
    """A job. `position` and `eta` only while it is queued, and only when the scheduler could say."""

    id: str = Field(examples=["job_01k5h3v9m2f8e4x7q6t0c1b2a3"])
    kind: Kind
    model: str
    state: JobState
    tier: Tier
    position: int | None = None
    eta: Eta | None = None
    cost_tokens: Tokens = Field(description="what it holds; at most 3 decimal places")
    charged_tokens: Tokens | None = Field(default=None, description="what it came to, once it has ended")
    created_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None
    not_before: datetime | None = None
    deadline: datetime | None = None
    cancel_requested_at: datetime | None = None
    retried_from: str | None = Field(default=None, description="the job that this one does again")
    webhook: JobWebhook | None = None
    attempt: int
    input: dict[str, Any] = Field(description="with every default filled in, the seed too")
    output: dict[str, Any] | None = Field(
        default=None,
        description="text: {text, finish_reason, usage}; transcription: {text, language, segments, …}",
    )
    metadata: dict[str, Any]
    artifacts: list[Artifact]
    error: JobError | None = None
    spoiler: bool | None = Field(default=None, description="true: show the result only to who asks for it")
    withheld: bool | None = Field(default=None, description="true: an operator has withheld the result after a report")
    engine: str | None = None
    preview: bool | None = Field(default=None, description="true: made by rules, not by a neural network")
    urls: Urls


class Event(Answer):
    """The data of a server-sent event."""

    id: int | None = None
    job_id: str
    type: str
    at: datetime
    attempt: int
    data: dict[str, Any]


# ------------------------------------------------------------------ files, catalogue


class Upload(Answer):
    id: str = Field(examples=["upl_01k5h3v9m2f8e4x7q6t0c1b2a3"])
    media_type: str
    bytes: int
    width: int | None = None
    height: int | None = None
    duration_s: float | None = None
    expires_at: datetime


class PriceFormula(Answer):
    """`tokens` for each `per` of `unit`, rounded up to 0.001 tokens."""

    unit: str = Field(examples=["pixel"])
    per: int = Field(examples=[1_048_576])
    tokens: Tokens = Field(examples=[1])


class Model(Answer):
    id: str
    kind: Kind
    title: str
    description: str
    engine: str
    preview: bool
    price: str = Field(description="in words")
    default: bool = Field(description="what a job of this kind uses unless it names a model")
    aliases: list[str]
    state: Literal["ready", "offline", "unknown"]
    input_schema: dict[str, Any] = Field(description="JSON Schema of the job's input")
    examples: list[dict[str, Any]]
    voices: list[str] | None = None
    loaded: Literal["warm", "cold", "offline", "unknown"] | None = Field(
        default=None, description="warm: can start at once; cold: has to be loaded first"
    )
    price_formula: PriceFormula | None = None
    limits: dict[str, dict[str, int | float]] | None = Field(
        default=None, description="bounds of each field of the input; a plan's may be smaller"
    )


class Limits(Answer):
    daily_tokens: Tokens
    submissions_per_min: int
    requests_per_min: int
    max_queued: int
    max_running: int
    max_image_px: int
    max_video_s: float
    retention_days: int


class Plan(Answer):
    id: str
    title: str
    price_usd_per_month: Tokens
    daily_tokens: Tokens
    tier: Tier
    limits: Limits


# ------------------------------------------------------------------ account


class Quota(Answer):
    used_tokens: Tokens
    daily_tokens: Tokens
    remaining_tokens: Tokens
    resets_at: datetime


class JobCounts(Answer):
    queued: int
    running: int


class Banner(Answer):
    """What the operator tells everybody; also in the header `Tessera-Banner`, percent-encoded."""

    message: str
    since: datetime


class Me(Answer):
    id: str
    name: str
    plan: str
    tier: Tier
    scopes: list[str]
    limits: Limits
    quota: Quota
    jobs: JobCounts
    banner: Banner | None = None


class UsageDay(Answer):
    day: date
    kind: str
    used_tokens: Tokens
    jobs: int


class UsageTotals(Answer):
    used_tokens: Tokens
    jobs: int


class UsageDays(Answer):
    data: list[UsageDay]
    totals: UsageTotals
    today: Quota


class Key(Answer):
    id: str
    name: str
    scopes: list[str]
    daily_cap_tokens: Tokens | None = None
    created_at: datetime
    last_used_at: datetime | None = None
    expires_at: datetime | None = None
    revoked_at: datetime | None = None


class NewKey(Key):
    api_key: str = Field(description="the key itself: shown this once")


class UserAnswer(Answer):
    id: str
    name: str
    plan: str
    is_admin: bool
    created_at: datetime
    used_tokens: Tokens
    queued: int
    running: int
    banned_at: datetime | None = None
    ban_reason: str | None = None


class NewUser(UserAnswer):
    api_key: str = Field(description="the user's first key: shown this once")


class WorkerAnswer(Answer):
    """A worker as an operator sees one; from `running` on it is what the scheduler says, and missing without it."""

    name: str
    state: Literal["online", "offline", "unknown"]
    node: str
    device: str
    engine: str
    models: list[str]
    slots: int
    draining_until: datetime | None = Field(default=None, description="no new jobs before, by an operator's drain")
    running: int | None = None
    message: str | None = None
    offline_since: datetime | None = None
    circuit: Literal["closed", "open", "half_open"] | None = Field(
        default=None, description="open: left out after failures; half_open: one job is tried"
    )
    circuit_until: datetime | None = None
    excluded: dict[str, datetime] | None = Field(
        default=None, description="models that failed here and are left out, each until when"
    )
    resident: list[str] | None = Field(default=None, description="models that are loaded")
    loading: str | None = Field(default=None, description="the model that is being loaded")


class DrainedWorker(Answer):
    name: str
    draining_until: datetime | None


class DrainAnswer(Answer):
    target: str
    kind: Literal["worker", "node"]
    until: datetime
    reason: str
    workers: list[DrainedWorker]


class ResumeAnswer(Answer):
    target: str
    kind: Literal["worker", "node"]
    resumed: bool = Field(description="false: there was nothing to end")
    workers: list[DrainedWorker]


class PauseAnswer(Answer):
    kind: Kind
    message: str = Field(description="for the people who wait")
    actor: str = Field(description="the operator who paused it", examples=["user_01k5h3v9m2f8e4x7q6t0c1b2a3"])
    since: datetime


class UnpauseAnswer(Answer):
    kind: Kind
    resumed: bool = Field(description="false: it was not paused")


class ReadyWorker(Answer):
    name: str
    online: bool


class Ready(Answer):
    status: Literal["ready", "unavailable"]
    database: Literal["ok", "unreachable"]
    scheduler: Literal["ok", "unreachable"]
    watermarks: list[Literal["backlog", "disk"]]
    workers: list[ReadyWorker]
    offline: list[str]


Item = TypeVar("Item")


class Page(Answer, Generic[Item]):
    data: list[Item]
    next_cursor: str | None = Field(description="give it as `cursor` for the next page; null on the last")


class JobPage(Page[Job]):
    pass


class ArtifactPage(Page[Artifact]):
    pass


class ModelPage(Page[Model]):
    pass


class PlanPage(Page[Plan]):
    pass


class KeyPage(Page[Key]):
    pass


class UserPage(Page[UserAnswer]):
    pass


class WorkerPage(Page[WorkerAnswer]):
    pass


class PausePage(Page[PauseAnswer]):
    pass

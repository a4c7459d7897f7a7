"""What the API says of why a job waits. Documentation only, like ``base.py``, of whose bases these are."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import Field

from tessera.api.schemas.base import Answer, Eta, JobError, Tokens
from tessera.jobs import JobState, Kind, Tier
from tessera.ports import WaitCode


class Reason(Answer):
    """One thing that a job waits for."""

    code: WaitCode
    message: str = Field(description="a sentence for people")
    until: datetime | None = Field(default=None, description="when it is over, where that is known")
    data: dict[str, Any] = Field(description="numbers and names that go with the code")


class WorkerOfJob(Answer):
    """A worker that has the job's model. The last three are for operators only."""

    name: str
    node: str
    device: str
    online: bool
    can_run: bool = Field(description="whether it could take the job now")
    why_not: str = Field(description="a sentence; empty when it can")
    free_slots: int | None = None
    slots: int | None = None
    resident: bool | None = Field(default=None, description="whether the model is loaded there")


class LastFailure(Answer):
    """How the last run that failed ended; the job was tried again, or given up."""

    attempt: int
    worker: str
    at: datetime
    code: str
    message: str


class JobExplanation(Answer):
    """Why a job waits, where it runs, or how it ended. Places, `workers`, `eta` and `own_s` come from the scheduler."""

    id: str = Field(examples=["job_01k5h3v9m2f8e4x7q6t0c1b2a3"])
    kind: Kind
    model: str
    tier: Tier
    state: JobState
    summary: str = Field(description="one sentence for people")
    as_of: datetime
    created_at: datetime
    queued_since: datetime | None = None
    not_before: datetime | None = None
    deadline: datetime | None = None
    attempt: int
    failures: int = Field(description="runs that failed and count against its retries")
    last_failure: LastFailure | None = None
    reasons: list[Reason] = Field(description="what to look at first comes first; empty when it does not wait")
    position: int | None = Field(default=None, description="among all that wait: 1 starts next")
    position_in_tier: int | None = None
    position_of_user: int | None = Field(default=None, description="among your own")
    ahead: dict[str, int] | None = Field(default=None, description="jobs that are served before it, by tier")
    own_jobs_ahead: int | None = None
    queued_of_user: int | None = Field(default=None, description="your waiting jobs")
    max_queued: int | None = None
    running_of_user: int | None = Field(default=None, description="your running jobs")
    max_running: int | None = None
    workers: list[WorkerOfJob]
    eta: Eta | None = None
    own_s: float | None = Field(default=None, description="what its own run is expected to take")
    worker: str | None = Field(default=None, description="where it runs")
    started_at: datetime | None = None
    cancel_requested_at: datetime | None = None
    finished_at: datetime | None = None
    charged_tokens: Tokens | None = None
    refunded_tokens: Tokens | None = None
    error: JobError | None = None

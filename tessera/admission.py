"""The rules of admission: what a submission must pass before it becomes a durable, paid job.

Concurrent submissions of one ingress replica coalesce into one call of the SQL function ``admit``, which checks and
holds atomically under the users' locks; a caller is answered after its commit. It must never decide anything from
memory: a second replica does the same at the same time. ``tessera/quotas.py`` is the pure model it is tested against.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import structlog

from tessera.errors import (
    IdempotencyMismatch,
    InvalidInput,
    NotFound,
    QuotaExhausted,
    RateLimited,
    TesseraError,
    TooManyQueued,
    Unauthorized,
    Unavailable,
)
from tessera.pace import Pace
from tessera.plans import tokens
from tessera.store.database import RETRY_AFTER_S, connect, is_outage
from tessera.store.queries import load

log = structlog.get_logger(__name__)

MAX_BATCH = 128  # 7,700 jobs/s at 32 and 9,000 at 100 were measured: past that a batch only delays its first row
# Between two batches of one lane while submissions stream in; one alone waits for nothing. See tessera/pace.py.
GAP_S = 0.005
LANES = 2  # the second helps out when the first hangs at a lock
# Two lanes side by side halve each other's batches and queue at the same user's lock: 7 % more CPU for each job.
HELP_AFTER_S = 0.05
# A batch that Postgres first reads later than this, after a pause, must not be admitted: its callers were told 503 by
# then. Shorter than the connection's command timeout (STATEMENT_TIMEOUT_MS).
VALID_S = 10.0
MAX_WAITING = 4096  # past this a submission is refused with 503 instead of kept waiting


@dataclass(frozen=True, kw_only=True)
class Submission:
    """A validated and priced request for a job. ``id`` is made by the caller, so that it may be sent twice."""

    id: UUID
    user_id: UUID
    kind: str
    model: str
    input: Mapping[str, Any]
    cost_mt: int
    api_key_id: str | None = None
    batch: bool = False
    metadata: Mapping[str, Any] = field(default_factory=dict)
    not_before: datetime | None = None
    deadline: datetime | None = None
    idempotency_key: str | None = None
    body_sha256: bytes | None = None
    request_id: str = ""
    retried_from: UUID | None = None
    webhook: Mapping[str, Any] | None = None  # {url, events, origin}
    moderation: Mapping[str, Any] | None = None  # what the rules have found; None for the ordinary one
    delivery: Mapping[str, Any] | None = None  # the chat that it came from, as its bot has given it

    def row(self, order: int, until: datetime | None = None) -> dict[str, Any]:
        """The submission as ``admit`` takes it; past ``until`` it is refused as too late."""
        return {
            "ord": order,
            "until": until,
            "id": str(self.id),
            "user_id": str(self.user_id),
            "api_key_id": self.api_key_id,
            "kind": self.kind,
            "model": self.model,
            "batch": self.batch,
            "input": self.input,
            "metadata": self.metadata,
            "cost_mt": self.cost_mt,
            "not_before": self.not_before,
            "deadline": self.deadline,
            "idempotency_key": self.idempotency_key,
            "body_sha256": self.body_sha256.hex() if self.body_sha256 is not None else None,
            "request_id": self.request_id,
            "retried_from": str(self.retried_from) if self.retried_from else None,
            "webhook": self.webhook,
            "delivery": self.delivery,
            "moderation": self.moderation,
        }


@dataclass(frozen=True, kw_only=True)
class Admitted:
    """The durable job. ``replayed``: it was there before, under the same Idempotency-Key; then ``state`` is None.

    ``used_mt`` of ``daily_mt`` is the day's use with this job; ``rate_remaining`` of ``rate_limit`` submissions a
    minute.
    """

    job_id: UUID
    replayed: bool
    tier: str
    state: str | None
    admitted_at: datetime
    used_mt: int
    daily_mt: int
    rate_limit: int
    rate_remaining: int


class AccountMoved(Unavailable):
    """Two accounts became one at this moment. Nothing was submitted or charged; send it again."""

    def __init__(self) -> None:
        super().__init__(retry_after_s=RETRY_AFTER_S)


class Admission:
    """Coalesces the submissions of one ingress replica. Call ``close`` at its end."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._waiting: list[tuple[Submission, asyncio.Future[Admitted]]] = []
        self._filled = asyncio.Event()
        self._lanes: list[asyncio.Task[None]] = []

    async def submit(self, submission: Submission) -> Admitted:
        """Admit one job; returns once it is durable.

        Safe to repeat with the same ``id``. Raises QuotaExhausted, TooManyQueued, RateLimited, IdempotencyMismatch,
        InvalidInput, AccountMoved, or Unavailable, in which case nothing was accepted or sending it again finds it.
        """
        if len(self._waiting) >= MAX_WAITING:
            raise Unavailable(retry_after_s=RETRY_AFTER_S)
        if not self._lanes:
            self._lanes = [asyncio.create_task(self._lane(n), name=f"admission-{n}") for n in range(LANES)]
        future: asyncio.Future[Admitted] = asyncio.get_running_loop().create_future()
        self._waiting.append((submission, future))
        self._filled.set()
        return await future

    async def close(self) -> None:
        """Stop; whoever still waits gets Unavailable."""
        for lane in self._lanes:
            lane.cancel()
        await asyncio.gather(*self._lanes, return_exceptions=True)
        for _, future in self._waiting:
            if not future.done():
                future.set_exception(Unavailable(retry_after_s=RETRY_AFTER_S))
        self._waiting.clear()

    async def _lane(self, number: int) -> None:
        connection: asyncpg.Connection | None = None
        pace = Pace(GAP_S)
        try:
            while True:
                await self._filled.wait()
                if number > 0:
                    await asyncio.sleep(HELP_AFTER_S)
                await pace.pause()
                batch, self._waiting = self._waiting[:MAX_BATCH], self._waiting[MAX_BATCH:]
                if not self._waiting:
                    self._filled.clear()
                batch = [(s, f) for s, f in batch if not f.cancelled()]
                if not batch:
                    continue
                pace.round(len(batch))
                try:
                    connection = await self._admit(connection, batch, number)
                except asyncio.CancelledError:
                    self._refuse(batch, Unavailable(retry_after_s=RETRY_AFTER_S))
                    raise
                except Exception as error:
                    log.exception("admission_failed", jobs=len(batch))
                    self._refuse(batch, error)
        finally:
            if connection is not None:
                await connection.close(timeout=2)

    async def _admit(
        self,
        connection: asyncpg.Connection | None,
        batch: list[tuple[Submission, asyncio.Future[Admitted]]],
        number: int,
    ) -> asyncpg.Connection | None:
        """Send a batch; after an outage once more: the ids decide whether the first try had been committed."""
        query = load()["admit_batch"].positional
        for last in (False, True):
            try:
                if connection is None or connection.is_closed():
                    connection = await connect(self._dsn, name=f"tessera-admission-{number}", by_index=True)
                until = datetime.now(UTC) + timedelta(seconds=VALID_S)
                rows = [submission.row(order, until) for order, (submission, _) in enumerate(batch)]
                answers = await connection.fetch(query, rows)
            except Exception as error:
                if not (isinstance(error, Unavailable) or is_outage(error)):
                    if len(batch) == 1:
                        raise _data_error(error) from error
                    log.warning("admission_row_by_row", jobs=len(batch), error=type(error).__name__)
                    for one in batch:
                        try:
                            connection = await self._admit(connection, [one], number)
                        except Exception as single:  # noqa: BLE001 (each caller gets its own answer)
                            self._refuse([one], single)
                    return connection
                if connection is not None:
                    connection.terminate()
                    connection = None
                if last:
                    log.warning("admission_unavailable", jobs=len(batch), error=type(error).__name__)
                    self._refuse(
                        batch,
                        Unavailable(
                            "The database does not answer at the moment, and the job was most likely not accepted."
                            " Try again shortly; with an Idempotency-Key, the same one never makes a second job.",
                            retry_after_s=RETRY_AFTER_S,
                        ),
                    )
                    return None
            else:
                self._answer(batch, answers)
                return connection
        return connection

    def _answer(
        self, batch: list[tuple[Submission, asyncio.Future[Admitted]]], answers: Sequence[Mapping[str, Any]]
    ) -> None:
        for answer in answers:
            submission, future = batch[answer["ord"]]
            if future.done():
                continue
            try:
                future.set_result(outcome(submission, answer))
            except TesseraError as refusal:
                future.set_exception(refusal)

    def _refuse(self, batch: list[tuple[Submission, asyncio.Future[Admitted]]], error: Exception) -> None:
        for _, future in batch:
            if not future.done():
                future.set_exception(error)


def outcome(submission: Submission, answer: Mapping[str, Any]) -> Admitted:
    """Read one row of ``admit``'s answer. Raises the refusal that it stands for."""
    rate = {"limit": answer["rate_limit"], "remaining": answer["rate_remaining"]}
    match answer["outcome"]:
        case "admitted" | "replayed":
            return Admitted(
                job_id=answer["job_id"],
                replayed=answer["outcome"] == "replayed" and answer["job_id"] != submission.id,
                tier=answer["tier"],
                state=answer["state"],
                admitted_at=answer["admitted_at"],
                used_mt=answer["used_mt"],
                daily_mt=answer["daily_mt"],
                rate_limit=answer["rate_limit"],
                rate_remaining=answer["rate_remaining"],
            )
        case "idempotency_mismatch":
            raise IdempotencyMismatch(**rate)
        case "quota_exhausted":
            raise _exhausted(
                submission,
                answer,
                "of today's {daily} are left. Nothing was charged; they come back at midnight UTC,"
                " and larger plans are at GET /v1/plans.",
                rate,
            )
        case "key_cap_exhausted":
            raise _exhausted(
                submission,
                answer,
                f"of the daily {{daily}} of the API key {submission.api_key_id} are left. Nothing was charged;"
                " use another key, or wait until midnight UTC.",
                rate,
            )
        case "too_many_queued":
            raise TooManyQueued(retry_after_s=answer["retry_after_s"], **rate)
        case "rate_limited":
            raise RateLimited(
                f"More than {answer['rate_limit']} submissions in a minute. Nothing was charged;"
                f" try again in {answer['retry_after_s']:.1f} s.",
                retry_after_s=answer["retry_after_s"],
                limit=answer["rate_limit"],
                remaining=0,
            )
        case "too_late":
            raise Unavailable(retry_after_s=RETRY_AFTER_S)
        case "merged_user":
            raise AccountMoved
        case "unknown_user":
            raise Unauthorized("The user of this API key no longer exists.")
        case unknown:
            raise RuntimeError(f"admit answered {unknown!r}")


def _exhausted(submission: Submission, answer: Mapping[str, Any], rest: str, rate: Mapping[str, Any]) -> QuotaExhausted:
    """402 with what is left and when it starts anew, of the user's quota or of the key's cap."""
    left, daily = max(0, answer["daily_mt"] - answer["used_mt"]), tokens(answer["daily_mt"])
    return QuotaExhausted(
        f"This job costs {tokens(submission.cost_mt)} tokens and {tokens(left)} " + rest.format(daily=daily),
        retry_after_s=answer["retry_after_s"],
        cost_tokens=tokens(submission.cost_mt),
        remaining_tokens=tokens(left),
        daily_tokens=daily,
        resets_in_s=round(answer["retry_after_s"]),
        resets_at=(answer["admitted_at"] + timedelta(seconds=answer["retry_after_s"])).isoformat(),
        **rate,
    )


def _data_error(error: Exception) -> Exception:
    """A row that Postgres cannot store is the caller's; anything else is ours."""
    if isinstance(error, asyncpg.DataError):
        return InvalidInput(f"Nothing was submitted or charged. The database cannot store this input: {error}")
    if isinstance(error, asyncpg.ForeignKeyViolationError):
        # The one row that a submission names and that may be pruned at any moment is the job that it repeats.
        return NotFound("The job that this repeats is gone by now. Nothing was submitted or charged; submit it anew.")
    return error

"""Sends webhooks: claims what is due under leases, signs it, posts it, and writes down what came of it.

Every replica runs one; rows are shared by SKIP LOCKED, and what a killed replica held comes again when its leases are
over, so each event is brought at least once. Webhooks go by lanes, one for each endpoint: a lane has a few posts under
way at most, takes a break when its receiver fails, and shares a small pool with other slow ones once it was slow. So a
receiver that hangs, and a million deliveries to it, delay nobody else. Lanes are known by a ring of the bell, and by a
look at all of them every SCAN_S, which is the guarantee.
"""

from __future__ import annotations

import asyncio
import random
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from uuid import UUID

import structlog

from tessera.api.deliveries.bell import Bell
from tessera.api.jobs.answers import event_data, job_answer, json_bytes
from tessera.deliveries import (
    MAX_FAILED_IN_A_ROW,
    TEST_EVENT,
    DeliveryState,
    Verdict,
    judge,
    retry_at,
    signature,
)
from tessera.errors import AddressRefused, FetchFailed, FetchFailure, Unavailable
from tessera.ids import Prefix, show
from tessera.outbound import Answered, Outbound
from tessera.store.database import Database, Row, Transaction, is_outage

log = structlog.get_logger(__name__)

SCAN_S = 5.0
TIMEOUT_S = 30.0  # of one post, from the look-up of the name to the status
SLOW_S = 5.0  # (start) a receiver that takes longer belongs to the slow ones until it is quick again
PER_LANE = 4  # posts to one endpoint at the same time, in each replica
PER_CLAIM = 8
# Twice the posts that follow each other in one claim, and some: a lease never ends under a post.
LEASE_S = 2 * TIMEOUT_S * PER_CLAIM / PER_LANE + 60.0
FAST_LANES, SLOW_LANES = 128, 32  # lanes at work at the same time; a slow one holds its place for up to a minute
MAX_BREAK_S = 60.0  # between the claims of a lane whose receiver fails
MAX_RETRY_AFTER_S = 86_400.0
ANSWER_BYTES = 512  # of the receiver's answer, for the log
GIVE_UP_ROWS = 1000  # in one statement, when an endpoint is gone
SETTLE_ROWS = 128  # in one transaction
SETTLE_TRIES = 20  # an outage of Postgres lasts seconds; longer, and the lease decides
POOL = 3  # connections: the reads of the API never wait for these
BACKOFF_S = 2.0

MAX_REMEMBERED = 10_000

_LANE = re.compile(r"job:.+|[0-9a-f-]{36}")


@dataclass(slots=True)
class _Lane:
    """One endpoint, as this replica sees it. ``due_at`` is of the loop's clock."""

    target: str
    due_at: float
    not_before: float = 0.0
    failures: int = 0
    slow: bool = False
    task: asyncio.Task[None] | None = None


@dataclass(kw_only=True)
class SenderCounts:
    """What this replica has sent: by outcome (delivered, again, gone, given_up, error), and what is under way."""

    outcomes: Counter[str] = field(default_factory=Counter)
    under_way: int = 0
    seconds: float = 0.0


class Sender:
    """The sender of one replica. ``start`` it in the running loop, ``close`` it at the end."""

    def __init__(
        self,
        dsn: str,
        outbound: Outbound,
        bell: Bell,
        clock: Callable[[], datetime],
        *,
        scan_s: float = SCAN_S,
        timeout_s: float = TIMEOUT_S,
        max_break_s: float = MAX_BREAK_S,
    ) -> None:
        self._db = Database.open(dsn, pool_size=POOL, name="tessera-sender")
        self._outbound = outbound
        self._clock = clock
        self._scan_s = scan_s
        self._timeout_s = timeout_s
        self._max_break_s = max_break_s
        self._lanes: dict[str, _Lane] = {}
        self._woken = asyncio.Event()
        self._scan_at = 0.0
        self._fast = asyncio.Semaphore(FAST_LANES)
        self._slow = asyncio.Semaphore(SLOW_LANES)
        self._settler = _Settler(self._db)
        self._claims = asyncio.Semaphore(POOL - 1)  # who waits for a connection waits here, where nothing times out
        self._task: asyncio.Task[None] | None = None
        self.counts = SenderCounts()
        bell.on_every_ring(self._rung)

    def start(self) -> None:
        """Begin to send."""
        self._task = asyncio.create_task(self._run(), name="sender")

    async def close(self) -> None:
        """Stop; what is under way is left to its lease. Safe to repeat."""
        tasks = [lane.task for lane in self._lanes.values() if lane.task is not None]
        if self._task is not None:
            tasks.append(self._task)
            self._task = None
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._settler.close()
        await self._db.close()

    # ------------------------------------------------------------------ which lanes

    def _rung(self, name: str | None) -> None:
        if name is None:
            self._scan_at = 0.0
        elif _LANE.fullmatch(name):
            self._due(name, 0.0)
        else:
            return
        self._woken.set()

    def _due(self, target: str, due_at: float) -> None:
        lane = self._lanes.get(target)
        if lane is None:
            self._lanes[target] = _Lane(target, due_at)
        else:
            lane.due_at = min(lane.due_at, due_at)

    async def _run(self) -> None:
        while True:
            try:
                await self._round()
            except Exception as error:
                outage = isinstance(error, Unavailable) or is_outage(error)
                log.warning("sender_broken", error=type(error).__name__, exc_info=not outage)
                await asyncio.sleep(BACKOFF_S)

    async def _round(self) -> None:
        """Start the lanes that are due, and sleep until the next one is, or the bell rings."""
        loop = asyncio.get_running_loop()
        self._woken.clear()
        if loop.time() >= self._scan_at:
            self._scan_at = loop.time() + self._scan_s
            await self._scan(loop.time())
        now, next_at = loop.time(), self._scan_at
        for lane in list(self._lanes.values()):
            if lane.task is not None:
                continue
            at = max(lane.due_at, lane.not_before)
            if at <= now:
                lane.due_at = float("inf")
                lane.task = asyncio.create_task(self._serve(lane), name=f"webhooks {lane.target}")
            elif at == float("inf"):
                if lane.failures == 0 and not lane.slow:
                    del self._lanes[lane.target]  # nothing is known of it that the next ring would not say
            else:
                next_at = min(next_at, at)
        try:
            async with asyncio.timeout(max(0.0, next_at - loop.time())):
                await self._woken.wait()
        except TimeoutError:
            return

    async def _scan(self, now: float) -> None:
        found = await self._db.rows("webhook_lanes")
        at = self._clock()
        for row in found:
            self._due(row["target"], now + max(0.0, (row["due_at"] - at).total_seconds()))
        open_lanes = {row["target"] for row in found}
        for target, lane in list(self._lanes.items()):
            idle = lane.task is None and lane.due_at == float("inf")
            # That one was slow is worth remembering while memory allows.
            if target not in open_lanes and idle and not (lane.slow and len(self._lanes) < MAX_REMEMBERED):
                del self._lanes[target]

    # ------------------------------------------------------------------ one lane

    async def _serve(self, lane: _Lane) -> None:
        """Bring what is due in one lane, a claim after the other, until nothing is or its receiver fails."""
        loop = asyncio.get_running_loop()
        try:
            while True:
                async with self._slow if lane.slow else self._fast:
                    rows = await self._claim(lane.target)
                    if not rows:
                        return
                    verdicts = await self._bring(lane, rows)
                if Verdict.DELIVERED in verdicts:
                    lane.failures = 0
                elif Verdict.AGAIN in verdicts:
                    lane.failures += 1
                    # A receiver that is down is not asked by each of a thousand waiting deliveries in turn.
                    lane.not_before = loop.time() + min(self._max_break_s, 2.0 ** (lane.failures - 1))
                    lane.due_at = lane.not_before
                    return
        except Exception as error:
            outage = isinstance(error, Unavailable) or is_outage(error)
            log.warning("webhook_lane_broken", lane=lane.target, error=type(error).__name__, exc_info=not outage)
            lane.not_before = loop.time() + BACKOFF_S
            lane.due_at = lane.not_before
        finally:
            lane.task = None
            self._woken.set()

    async def _claim(self, target: str) -> list[Row]:
        async with self._claims, self._db.transaction() as transaction:
            taken = await transaction.rows("claim_webhooks", target=target, max=PER_CLAIM, lease_s=LEASE_S)
            if not taken:
                return []
            return await transaction.rows("claimed_webhooks", ids=[row["id"] for row in taken])

    async def _bring(self, lane: _Lane, rows: list[Row]) -> set[Verdict]:
        gone = _why_gone(rows[0])
        if gone is not None:
            await self._give_up(lane.target, gone)
            return {Verdict.GONE}
        places = asyncio.Semaphore(PER_LANE)

        async def one(row: Row) -> Verdict:
            async with places:
                return await self._post(lane, row)

        return set(await asyncio.gather(*(one(row) for row in rows)))

    async def _give_up(self, target: str, reason: str) -> None:
        """End everything that waits in a lane whose endpoint is gone, in small steps."""
        ended = GIVE_UP_ROWS
        while ended == GIVE_UP_ROWS:
            ended = await self._db.execute("give_up_lane", target=target, reason=reason, limit=GIVE_UP_ROWS)

    async def _post(self, lane: _Lane, row: Row) -> Verdict:
        loop = asyncio.get_running_loop()
        begun = loop.time()
        secrets = await self._secrets(row)
        message_id = show(Prefix.DELIVERY, row["delivery_id"])
        body = json_bytes(payload(row))
        sent_at_s = int(datetime.now(UTC).timestamp())  # by the real clock: receivers compare it with theirs
        headers = {
            "Content-Type": "application/json",
            "webhook-id": message_id,
            "webhook-timestamp": str(sent_at_s),
            "webhook-signature": signature(secrets, message_id, sent_at_s, body),
        }
        answered: Answered | None = None
        error: str | None = None
        self.counts.under_way += 1
        try:
            answered = await self._outbound.post(
                row["target_url"], body, headers, timeout_s=self._timeout_s, head_bytes=ANSWER_BYTES
            )
            lane.slow = answered.elapsed_s > SLOW_S
            if answered.location is not None:
                error = f"it redirects to {answered.location[:200] or 'nowhere'!r}, which is not followed"
            elif judge(answered.status) is not Verdict.DELIVERED:
                error = f"it answered {answered.status}"
        except (AddressRefused, FetchFailed) as failure:
            error = failure.message
            lane.slow = lane.slow or failure.details.get("reason") == FetchFailure.TIMEOUT
        finally:
            self.counts.under_way -= 1
            self.counts.seconds += loop.time() - begun
        return await self._settle(row, answered, error, took_s=loop.time() - begun)

    async def _secrets(self, row: Row) -> list[bytes]:
        """The secrets that sign it, the newest first. The account's is made at its first use."""
        if row["secret"] is None:
            row = {**row, **(await account_secret(self._db, row["user_id"]))}
        found = [bytes(row["secret"])]
        until = row["old_secret_until"]
        if row["old_secret"] is not None and until is not None and until > self._clock():
            found.append(bytes(row["old_secret"]))
        return found

    async def _settle(self, row: Row, answered: Answered | None, error: str | None, *, took_s: float) -> Verdict:
        verdict = judge(answered.status if answered is not None else None)
        now = self._clock()
        settled: dict[str, Any] = {
            "id": str(row["delivery_id"]),
            "lease_token": str(row["lease_token"]),
            "outcome": DeliveryState.DELIVERED,
            "error": error[:500] if error is not None else None,
            "status": answered.status if answered is not None else None,
            "ms": round(took_s * 1000),
            "answer": _text(answered.head) if answered is not None else None,
        }
        if verdict is Verdict.GONE:
            settled["outcome"] = DeliveryState.FAILED
        elif verdict is Verdict.AGAIN:
            again = retry_at(
                tries=row["tries"],
                first_try_at=row["first_try_at"] or now,
                now=now,
                jitter=random.random(),  # noqa: S311 (spreads load, guards nothing)
                retry_after_s=_retry_after_s(answered, now),
            )
            settled["outcome"] = DeliveryState.FAILED if again is None else DeliveryState.PENDING
            settled["retry_at"] = again
            if again is None:
                self.counts.outcomes["given_up"] += 1
        await self._settler.put(_Outcome(settled, row["endpoint_id"], verdict))
        self.counts.outcomes[verdict.value] += 1
        return verdict


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What came of one try: the row of ``settle_deliveries``, of which endpoint if of one."""

    settled: dict[str, Any]
    endpoint_id: UUID | None
    verdict: Verdict


class _Settler:
    """Writes down outcomes, all that wait in one transaction, so that a slow database gets fewer and larger ones.

    What was sent is not sent again because of an outage: an outcome is written again and again while its lease lasts.
    """

    def __init__(self, db: Database) -> None:
        self._db = db
        self._waiting: list[tuple[_Outcome, asyncio.Future[None]]] = []
        self._task: asyncio.Task[None] | None = None

    async def put(self, outcome: _Outcome) -> None:
        """Returns once it is written, with what it means for its endpoint. Raises Unavailable."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((outcome, future))
        if self._task is None:
            self._task = asyncio.create_task(self._write(), name="webhook-outcomes")
        await future

    async def close(self) -> None:
        """Give up what is not written yet: its leases bring it again."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _write(self) -> None:
        try:
            while self._waiting:
                batch, self._waiting = self._waiting[:SETTLE_ROWS], self._waiting[SETTLE_ROWS:]
                try:
                    await self._write_all(batch)
                except Exception as error:  # noqa: BLE001 (each lane that waits is told, and logs it)
                    _end(batch, error)
                else:
                    _end(batch, None)
        finally:
            self._task = None
            _end(self._waiting, Unavailable())
            self._waiting = []

    async def _write_all(self, batch: list[tuple[_Outcome, asyncio.Future[None]]]) -> None:
        for last in [False] * SETTLE_TRIES + [True]:
            try:
                async with self._db.transaction() as transaction:
                    outcomes = [outcome for outcome, _ in batch]
                    rows = await transaction.rows("settle_deliveries", rows=[each.settled for each in outcomes])
                    ended = {str(row["id"]): DeliveryState(row["state"]) for row in rows}
                    await _judge_endpoints(transaction, outcomes, ended)
                return
            except Unavailable:
                if last:
                    raise
                await asyncio.sleep(BACKOFF_S)


async def _judge_endpoints(
    transaction: Transaction, outcomes: Sequence[_Outcome], ended: Mapping[str, DeliveryState]
) -> None:
    """Disable the endpoints that are gone, and those to which too many deliveries in a row were given up.

    ``ended``: the states of the rows that were written; what came too late for its lease says nothing.
    """
    answered: set[UUID] = set()
    given_up: dict[UUID, list[_Outcome]] = {}
    for each in outcomes:
        state = ended.get(each.settled["id"])
        if each.endpoint_id is None or state is None:
            continue
        if each.verdict is Verdict.GONE:
            await transaction.execute("disable_endpoint", id=each.endpoint_id, reason="it answered 410 (gone)")
        elif state is DeliveryState.DELIVERED:
            answered.add(each.endpoint_id)
        elif state is DeliveryState.FAILED:
            given_up.setdefault(each.endpoint_id, []).append(each)
    if answered:
        await transaction.execute("endpoints_answered", ids=sorted(answered))
    for endpoint_id in sorted(given_up.keys() - answered):
        failed = given_up[endpoint_id]
        reason = (
            f"{MAX_FAILED_IN_A_ROW} deliveries in a row were given up, each after a day of tries; the last:"
            f" {failed[-1].settled['error'] or 'no answer'}"
        )
        await transaction.execute(
            "endpoint_failed", id=endpoint_id, count=len(failed), most=MAX_FAILED_IN_A_ROW, reason=reason[:500]
        )


def _end(batch: list[tuple[_Outcome, asyncio.Future[None]]], error: Exception | None) -> None:
    for _, future in batch:
        if future.done():
            continue
        if error is None:
            future.set_result(None)
        else:
            future.set_exception(error)


async def account_secret(db: Database, user_id: object) -> Row:
    """What signs the webhooks that a user's jobs name: made when there is none yet. Safe to repeat."""
    await db.execute("make_webhook_secret", user_id=user_id)
    row = await db.row("webhook_secret", user_id=user_id)
    assert row is not None
    return row


def payload(row: Mapping[str, Any]) -> dict[str, Any]:
    """The body of a webhook: what happened, and the job as it is now (None when it has been deleted meanwhile)."""
    if row["event"] == TEST_EVENT:
        return {
            "type": TEST_EVENT,
            "timestamp": row["delivery_created_at"],
            "data": {
                "endpoint_id": show(Prefix.ENDPOINT, row["endpoint_id"]),
                "message": "This endpoint works. Nothing has happened: it was a test.",
            },
        }
    at = row["event_at"] or row["delivery_created_at"]
    return {
        "type": f"job.{row['event']}",
        "timestamp": at,
        "data": {
            "job_id": show(Prefix.JOB, row["job_id"]),
            "job_seq": row["job_seq"],
            "type": row["event"],
            "at": at,
            "attempt": row["event_attempt"],
            "data": event_data(row["event"], row["event_data"] or {}),
            "job": job_answer(row) if row["id"] is not None else None,
        },
    }


def _why_gone(row: Row) -> str | None:
    """Why nothing in this lane can be sent any more, None when it can."""
    if row["user_deleted_at"] is not None:
        return "the account was deleted"
    if row["endpoint_id"] is None:
        return None
    if row["endpoint_deleted_at"] is not None:
        return "the endpoint was deleted"
    if row["endpoint_disabled_at"] is not None:
        return f"the endpoint is disabled: {row['disabled_reason'] or 'by its owner'}"
    return None


def _text(head: bytes) -> str:
    """The beginning of an answer, as text that Postgres can hold."""
    return head.decode("utf-8", errors="replace").replace("\x00", "\N{SYMBOL FOR NULL}")


def _retry_after_s(answered: Answered | None, now: datetime) -> float | None:
    """Seconds that the receiver wants to be left alone. https://www.rfc-editor.org/rfc/rfc9110#field.retry-after"""
    given = next((v for k, v in answered.headers.items() if k.lower() == "retry-after"), None) if answered else None
    if given is None:
        return None
    if given.strip().isdigit():
        seconds = float(given)
    else:
        try:
            at = parsedate_to_datetime(given)
        except ValueError:
            return None
        seconds = (at.replace(tzinfo=at.tzinfo or UTC) - now).total_seconds()
    return min(MAX_RETRY_AFTER_S, max(0.0, seconds))

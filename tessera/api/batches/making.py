"""Batches of both shapes: begun, found, counted, ended before their time. What differs is only how they are shown."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from datetime import timedelta
from typing import Any
from uuid import UUID

import orjson

from tessera.api.auth import Caller
from tessera.api.batches.lines import Shape, check_file
from tessera.api.jobs.submissions import refuse
from tessera.api.services import Services
from tessera.errors import IdempotencyMismatch, NotFound, TooManyQueued
from tessera.ids import Prefix, new_id, parse
from tessera.store.database import Row

MAX_LIVE = 20  # batches of a user that have not ended: each is a file to be read, whatever it asks for
MAX_WINDOW = timedelta(days=7)  # any plan keeps its jobs for 10 days, and results are gathered at the end
KEPT = timedelta(days=30)  # files that were sent in, as OpenAI keeps its own

_WINDOW = re.compile(r"(\d{1,3})(h|d)")


def read_window(value: object) -> timedelta:
    """``24h`` or ``7d``: how long a batch may take. Raises InvalidInput."""
    match = _WINDOW.fullmatch(value) if isinstance(value, str) else None
    window = timedelta() if match is None else timedelta(**{"hours" if match[2] == "h" else "days": int(match[1])})
    if not timedelta(hours=1) <= window <= MAX_WINDOW:
        raise refuse("completion_window", 'must be a number of hours or days from "1h" to "7d", such as "24h"')
    return window


async def keep_file(services: Services, user_id: UUID, sha256: str, size: int, filename: str) -> Row:
    """Note a file of a batch whose bytes are in the store."""
    row = await services.db.row(
        "insert_batch_file",
        id=new_id(),
        user_id=user_id,
        filename=_plain_name(filename),
        sha256=sha256,
        bytes=size,
        expires_at=services.clock() + KEPT,
    )
    assert row is not None
    return row


def _plain_name(filename: str) -> str:
    """What a sender calls a file, fit to be shown: no path, no control characters."""
    name = re.split(r"[\\/]", filename)[-1]
    return "".join(char for char in name if char.isprintable())[:200] or "batch.jsonl"


async def find_file(services: Services, caller: Caller, file_id: str) -> Row:
    """A user's file. Raises NotFound."""
    row = await services.db.row("get_batch_file", id=parse(Prefix.FILE, file_id), user_id=caller.user_id)
    if row is None:
        raise NotFound(f"There is no file {file_id[:64]!r} of yours: it was deleted, or its time is over.")
    return row


async def begin(
    services: Services,
    caller: Caller,
    file: Row,
    *,
    shape: Shape,
    endpoint: str,
    window: str,
    metadata: Mapping[str, Any],
    idempotency_key: str | None,
    refuse_problems: bool,
) -> tuple[Row, bool]:
    """Begin a batch of a file; its row, and whether an Idempotency-Key has found it instead.

    A file that cannot be a batch makes one that has failed, or with ``refuse_problems`` none at all.
    Raises InvalidInput, IdempotencyMismatch, TooManyQueued, or Unavailable.
    """
    services.watermarks.check()
    length = read_window(window)
    digest = _digest(file["sha256"], shape, endpoint, window, metadata)
    if idempotency_key is not None:
        known = await _of_key(services, caller, idempotency_key, digest)
        if known is not None:
            return known, True
    live = await services.db.row("count_live_batches", user_id=caller.user_id)
    if live is not None and live["live"] >= MAX_LIVE:
        raise TooManyQueued(
            f"{MAX_LIVE} of your batches have not ended yet, and no user may have more. Nothing was submitted or"
            " charged; wait until one of them ends, or cancel one.",
            retry_after_s=60.0,
        )
    checked = await check_file(services.artifacts, file["sha256"], file["bytes"], shape, endpoint)
    if checked.problems and refuse_problems:
        lines = [_worded(problem) for problem in checked.problems]
        raise refuse("file", "; ".join(lines[:5]))
    now = services.clock()
    failed = bool(checked.problems)
    row = await services.db.row(
        "insert_batch",
        id=new_id(),
        user_id=caller.user_id,
        api_key_id=caller.key_id,
        shape=shape.value,
        endpoint=endpoint,
        state="failed" if failed else "expanding",
        input=file["id"],
        completion_window=window,
        expires_at=now + length,
        metadata=metadata,
        total=checked.total,
        errors=checked.problems,
        ended_at=now if failed else None,
        ends_as="failed" if failed else "completed",
        idempotency_key=idempotency_key,
        body_sha256=digest,
    )
    if row is None:  # another request with the same key was faster
        assert idempotency_key is not None
        found = await _of_key(services, caller, idempotency_key, digest)
        assert found is not None
        return found, True
    return await find(services, caller, row["id"]), False


def _worded(problem: Mapping[str, Any]) -> str:
    where = "" if problem["line"] is None else f"line {problem['line']}: "
    return f"{where}{problem['message']}"


def _digest(sha256: str, shape: Shape, endpoint: str, window: str, metadata: Mapping[str, Any]) -> bytes:
    meaning = [sha256, shape.value, endpoint, window, metadata]
    return hashlib.sha256(orjson.dumps(meaning, option=orjson.OPT_SORT_KEYS)).digest()


async def _of_key(services: Services, caller: Caller, key: str, digest: bytes) -> Row | None:
    row = await services.db.row("batch_of_key", user_id=caller.user_id, idempotency_key=key)
    if row is None:
        return None
    if bytes(row["body_sha256"]) != digest:
        raise IdempotencyMismatch
    return await find(services, caller, row["id"])


async def find(services: Services, caller: Caller, batch_id: UUID) -> Row:
    """A user's batch. Raises NotFound, also for somebody else's."""
    row = await services.db.row("get_batch", id=batch_id, user_id=caller.user_id)
    if row is None:
        raise NotFound("There is no such batch of yours. GET /v1/batches lists those that there are.")
    return row


async def counts_of(services: Services, batch: Mapping[str, Any]) -> dict[str, int]:
    """What became of the lines: read now while the batch lives, as it was noted at its end afterwards."""
    found: Mapping[str, Any] = batch["counts"]
    if batch["ended_at"] is None:
        found = await services.db.row("count_batch", batch_id=batch["id"]) or {}
    names = ("expanded", "refused", "queued", "running", "completed", "failed", "cancelled", "charged_mt")
    return {"total": batch["total"], **{name: int(found.get(name) or 0) for name in names}}


async def give_up(services: Services, caller: Caller, batch_id: UUID) -> Row:
    """Cancel a user's batch; its row afterwards. Safe to repeat. Raises NotFound."""
    found = await services.db.row("give_up_batch", id=batch_id, user_id=caller.user_id, ends_as="cancelled", errors=[])
    if found is None or found["state"] is None:
        raise NotFound("There is no such batch of yours. GET /v1/batches lists those that there are.")
    return await find(services, caller, batch_id)

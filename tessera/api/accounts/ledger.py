"""The user's own ledger: every booking of tokens, never changed afterwards."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from tessera.api.auth import Reader
from tessera.api.days import Day
from tessera.api.jobs.answers import page
from tessera.api.jobs.submissions import refuse_parameter
from tessera.api.schemas import base as schemas
from tessera.api.schemas import ledger as ledger_schemas
from tessera.api.state import api_of
from tessera.errors import NotFound
from tessera.ids import Prefix, parse, show
from tessera.plans import tokens

router = APIRouter(tags=["account"])

MAX_ID = 2**63 - 1


@router.get(
    "/v1/ledger",
    response_model=None,
    summary="Read the ledger",
    responses={200: {"model": ledger_schemas.LedgerPage}, **schemas.problems(401, 403, 422, 429, 503)},
)
async def ledger(
    request: Request,
    caller: Reader,
    day: Annotated[Day | None, Query(description="entries of this UTC day", examples=["2030-01-31"])] = None,
    job_id: Annotated[str | None, Query(max_length=64, description="entries of this job")] = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    cursor: Annotated[str | None, Query(max_length=64, description="`next_cursor` of the page before")] = None,
) -> Response:
    """The user's entries, the newest first: what each job held, what it came to, what came back, and what an operator
    gave or charged. They stay when the job's own row is deleted."""
    db = api_of(request).services.db
    before = _before(cursor)
    if job_id is None:
        rows = await db.rows("ledger_of_user", user_id=caller.user_id, before=before, day=day, limit=limit + 1)
    else:
        try:
            job = parse(Prefix.JOB, job_id)
        except NotFound:
            raise refuse_parameter("job_id", "is not the id of a job, like job_01k…") from None
        rows = await db.rows(
            "ledger_of_job", user_id=caller.user_id, job_id=job, before=before, day=day, limit=limit + 1
        )
    shown = rows[:limit]
    return page([entry_answer(row) for row in shown], str(shown[-1]["id"]) if len(rows) > limit else None)


def entry_answer(row: Mapping[str, Any]) -> dict[str, Any]:
    """An entry as its user sees it."""
    shown = {
        "id": row["id"],
        "at": row["created_at"],
        "day": row["day"],
        "kind": row["kind"],
        "entry": row["entry"],
        "amount_tokens": tokens(row["amount_mt"]),
        "reason": row["reason"],
    }
    if row["job_id"] is not None:
        shown["job_id"] = show(Prefix.JOB, row["job_id"])
    return shown


def _before(cursor: str | None) -> int | None:
    if cursor is None:
        return None
    if not (cursor.isascii() and cursor.isdigit()) or int(cursor) > MAX_ID:
        raise refuse_parameter("cursor", "is not one of ours: take 'next_cursor' of the page before")
    return int(cursor)

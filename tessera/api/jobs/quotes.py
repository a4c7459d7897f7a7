"""What a job would cost and whether it would be accepted, without submitting it. Nothing here writes."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response

from tessera.admission import Submission, outcome
from tessera.api.auth import Caller, User
from tessera.api.context import context_of
from tessera.api.jobs.answers import answer
from tessera.api.jobs.submissions import Priced, Wanted, check_scale, moderate, price, read_submission, submission_of
from tessera.api.schemas import base as schemas
from tessera.api.schemas import bodies
from tessera.api.schemas import quotes as quote_schemas
from tessera.api.services import Services
from tessera.api.state import api_of
from tessera.errors import TesseraError, Unauthorized
from tessera.plans import check_limits, tokens
from tessera.store.database import Row

router = APIRouter(tags=["jobs"])


@router.post(
    "/v1/jobs:quote",
    response_model=None,
    summary="Price a job",
    responses={200: {"model": quote_schemas.Quote}, **schemas.problems(400, 401, 403, 413, 422, 429, 503)},
    openapi_extra={"requestBody": bodies.SUBMISSION_BODY},
)
async def quote(request: Request, caller: User) -> Response:
    """The body of a submission; the answer says what it would cost and whether it would be accepted now.

    200 also when it would be refused by the plan, the quota or a limit: then `allowed` is false and `refusal` says why.
    422 for what could never be submitted. Counts as a request, not as a submission; nothing is held.
    """
    services = api_of(request).services
    wanted = read_submission(await request.body(), services.clock())
    priced = await price(services, caller, wanted)
    row = await services.db.row("quote_admission", user_id=caller.user_id, key_id=caller.key_id, cost_mt=priced.cost_mt)
    if row is None:
        raise Unauthorized("The user of this API key no longer exists.")
    submission = submission_of(caller, wanted, priced, idempotency_key=None, request_id=context_of(request).request_id)
    shown: dict[str, Any] = {
        "kind": submission.kind,
        "model": submission.model,
        "cost_tokens": tokens(submission.cost_mt),
        "allowed": True,
        "remaining_tokens_today": tokens(row["remaining_mt"]),
        "resets_at": row["resets_at"],
    }
    refusal = await _refusal(services, caller, wanted, priced, submission, row)
    if refusal is not None:
        shown["allowed"] = False
        shown["refusal"] = {"code": refusal.code, "detail": refusal.message, "retryable": refusal.retryable}
        if refusal.retry_after_s is not None:
            shown["refusal"]["retry_after_s"] = round(refusal.retry_after_s, 3)
    return answer(shown)


async def _refusal(
    services: Services, caller: Caller, wanted: Wanted, priced: Priced, submission: Submission, row: Row
) -> TesseraError | None:
    """What POST /v1/jobs would refuse it with, asked in the same order; None when it would be accepted."""
    try:
        services.watermarks.check()
        check_limits(caller.limits, caller.plan, wanted.data)
        await moderate(services, wanted)
        check_scale(caller, wanted.data, priced)
        outcome(submission, {**row, "job_id": submission.id, "state": None})
    except TesseraError as refusal:
        return refusal
    return None

"""The last step of every submission, whatever shape it came in: admission, its metrics, and what its headers tell."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, time, timedelta

from tessera.admission import AccountMoved, Admitted, Submission
from tessera.api.context import QuotaState, RateState, RequestContext
from tessera.api.state import Api
from tessera.errors import TesseraError


async def admit(api: Api, context: RequestContext, submission: Submission) -> Admitted:
    """Make the submission a durable, paid job. Raises what ``Admission.submit`` raises.

    A user who became part of another one meanwhile submits as that one.
    """
    try:
        try:
            admitted = await api.services.admission.submit(submission)
        except AccountMoved:
            api.authenticator.forget_user(submission.user_id)
            row = await api.services.db.row("merged_into", user_id=submission.user_id)
            if row is None or row["merged_into"] is None:
                raise
            admitted = await api.services.admission.submit(replace(submission, user_id=row["merged_into"]))
    except TesseraError as error:
        api.metrics.admissions.labels(error.code).inc()
        raise
    api.metrics.admissions.labels("replayed" if admitted.replayed else "admitted").inc()
    context.rate = RateState(policy="submissions", limit=admitted.rate_limit, remaining=admitted.rate_remaining)
    if context.openai:
        midnight = datetime.combine(admitted.admitted_at.astimezone(UTC).date() + timedelta(days=1), time(), UTC)
        reset_s = int((midnight - admitted.admitted_at).total_seconds())
        context.quota = QuotaState(daily_mt=admitted.daily_mt, used_mt=admitted.used_mt, reset_s=reset_s)
    return admitted

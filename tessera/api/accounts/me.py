"""Whose key this is, and what was used."""

from __future__ import annotations

from datetime import UTC, timedelta
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request, Response

from tessera.api.auth import Caller, Reader
from tessera.api.days import Day
from tessera.api.jobs.answers import answer
from tessera.api.jobs.submissions import refuse_parameter
from tessera.api.plans import limits_answer
from tessera.api.schemas import base as schemas
from tessera.api.services import Services
from tessera.api.state import api_of
from tessera.errors import Unauthorized
from tessera.ids import Prefix, show
from tessera.plans import tokens

router = APIRouter(tags=["account"])

MAX_DAYS = 366
UsageKind = Literal["image", "video", "text", "transcription", "speech", "music", "account"]


@router.get(
    "/v1/me",
    response_model=None,
    summary="Whose key this is",
    responses={200: {"model": schemas.Me}, **schemas.problems(401, 429, 503)},
)
async def me(request: Request, caller: Reader) -> Response:
    """The user, the plan with its limits, and today's quota."""
    services = api_of(request).services
    quota, now = await _quota(services, caller)
    banner = await services.standing.banner()
    return answer(
        {
            "id": show(Prefix.USER, caller.user_id),
            "name": caller.name,
            "plan": caller.plan,
            "tier": caller.tier.value,
            "scopes": sorted(caller.scopes),
            "limits": limits_answer(caller.limits),
            "quota": quota,
            "jobs": now,
            **({"banner": banner.answer()} if banner is not None else {}),
        }
    )


@router.get(
    "/v1/usage",
    response_model=None,
    summary="What was used",
    responses={200: {"model": schemas.UsageDays}, **schemas.problems(401, 422, 429, 503)},
)
async def usage(
    request: Request,
    caller: Reader,
    days: Annotated[int, Query(ge=1, le=366, description="UTC days, today among them")] = 30,
    from_day: Annotated[Day | None, Query(alias="from", description="instead of `days`: the first UTC day")] = None,
    to_day: Annotated[Day | None, Query(alias="to", description="the last UTC day, today without")] = None,
    kind: Annotated[UsageKind | None, Query(description="only this one")] = None,
) -> Response:
    """Tokens and jobs by day and kind, the newest day first, of the last `days` or of a range of at most 366 days. Kind
    `account` is what was given back for days gone by. `totals` are the sums of what is shown."""
    services = api_of(request).services
    today = services.clock().astimezone(UTC).date()
    last = to_day or today
    first = from_day or last - timedelta(days=days - 1)
    if not timedelta(0) <= last - first < timedelta(days=MAX_DAYS):
        raise refuse_parameter("from", f"must not be after 'to', nor {MAX_DAYS} days or more before it")
    rows = await services.db.rows(
        "usage_of_user", user_id=caller.user_id, first=first, last=last, kind=str(kind) if kind is not None else None
    )
    quota, _ = await _quota(services, caller)
    data = [
        {"day": row["day"], "kind": row["kind"], "used_tokens": tokens(row["used_mt"]), "jobs": row["jobs"]}
        for row in rows
    ]
    totals = {
        "used_tokens": tokens(sum(row["used_mt"] for row in rows)),
        "jobs": sum(row["jobs"] for row in rows),
    }
    return answer({"data": data, "totals": totals, "today": quota})


async def _quota(services: Services, caller: Caller) -> tuple[dict[str, Any], dict[str, int]]:
    row = await services.db.row("quota_of_user", user_id=caller.user_id)
    if row is None:
        raise Unauthorized("The user of this API key no longer exists.")
    quota = {
        "used_tokens": tokens(row["used_mt"]),
        "daily_tokens": tokens(row["daily_mt"]),
        "remaining_tokens": tokens(max(0, row["daily_mt"] - row["used_mt"])),
        "resets_at": row["resets_at"],
    }
    return quota, {"queued": row["queued"], "running": row["running"]}
